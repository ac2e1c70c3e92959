"""For the whole suite: one thread per process for PyTorch, no telemetry, slow tests, pytest-xdist (support/spread.py).

Two threads for the small products of these tests fight with whatever else the machine does: test_clcr.py,
test_streaming_model.py and test_bases.py took 300 s beside one busy core, and take 23 s with one thread each.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spread

# Before anything imports torch, and without importing it here: most tests do not need it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import onnxruntime themselves
# Below nohup, or in the background of a script, the programs under test would inherit that these are ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _endpoints_apart() -> Iterator[None]:
    """Programs under test bind their default endpoint here: a session that the user has running is in nobody's way."""
    with tempfile.TemporaryDirectory(prefix="clcr-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield


@pytest.fixture
def own_endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One test's default endpoints in a folder of their own: no other test's sessions are found there."""
    with tempfile.TemporaryDirectory(prefix="clcr-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """A process of pytest-xdist imports the files of all tests from a place of its own on, round to where it began.

    In a fresh clone pytest rewrites the asserts of every file, which takes 8 s, and stores the result. Processes that
    all begin with the first file would all do it; so each does its part and finds the others' stored.

    What is imported stays, so the garbage collector, which would walk it again and again, waits until all is collected.
    """
    gc.disable()
    config = session.config
    if hasattr(config, "workerinput") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        files = sorted(Path(__file__).parent.rglob("test_*.py"))
        workers = int(config.workerinput["workercount"])
        start = int(config.workerinput["workerid"].removeprefix("gw")) * len(files) // workers
        for path in (*files[start:], *files[:start]):
            sys.path.insert(0, str(path.parent))
            with contextlib.suppress(Exception, pytest.skip.Exception):  # told when it is collected
                importlib.import_module(path.stem)
            sys.path.remove(str(path.parent))
    yield
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow tests; in a process of pytest-xdist the longest units come first, the rest as collected."""
    for item in items:
        if spread.is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: spread.rank_of(item.nodeid))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: the garbage collector need not walk it again in every test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Any:
    """With `--dist loadscope`: the units of support/spread.py instead of modules and classes.

    The marker xdist_group and `--dist loadgroup` would do, but pytest 9.2 ignores what pytest-xdist 3.8 makes of them.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    # The method to override by xdist's own documentation of the class.
    units = type("Units", (LoadScopeScheduling,), {"_split_scope": staticmethod(spread.unit_of)})
    return units(config, log)
