"""For the whole suite: one thread per process for PyTorch, no telemetry, and how the tests are spread over processes.

Two threads for the small products of these tests fight with whatever else the machine does: test_clcr.py,
test_streaming_model.py and test_bases.py took 300 s beside one busy core, and take 23 s with one thread each.

scripts/test runs the suite on every core with pytest-xdist. The unit that goes to a process is a file, because its
fixtures are built once per process. GROUPS joins files that must not run side by side, and parts of a file (PARTS) that
share no costly fixture go to processes of their own. LONGEST_FIRST starts first, so that no process is left alone with
the longest file at the end. The marker xdist_group is not used: pytest 9.2 ignores what pytest-xdist 3.8 makes of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

# Before anything imports torch, and without importing it here: most tests do not need it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import onnxruntime themselves

# Units by the start of the test's id, longest first; measured on two cores.
LONGEST_FIRST: Sequence[str] = ()
# Start of a test's id -> name of the group it shares a process with.
GROUPS: Mapping[str, str] = {
    "tests/sources/test_microphone.py": "sound",
    "tests/sources/test_virtual_microphone.py": "sound",
}
# A file whose tests go apart: by what this pattern matches in the test's id.
PARTS: Mapping[str, str] = {}


def unit_of(nodeid: str) -> str:
    """The name of what goes to one process as a whole: a group, a part of a file, or a file."""
    for start, group in GROUPS.items():
        if nodeid.startswith(start):
            return group
    path = nodeid.split("::", 1)[0]
    if path in PARTS:
        match = re.search(PARTS[path], nodeid)
        return f"{path} {match[0] if match else ''}"
    return path


def rank_of(nodeid: str) -> int:
    """The place of a test's unit in the order in which units start."""
    ranks = [rank for rank, start in enumerate(LONGEST_FIRST) if nodeid.startswith(start)]
    return min(ranks, default=len(LONGEST_FIRST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist: the longest units first, the rest as collected."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Any:
    """With `--dist loadscope`: units as above instead of modules and classes."""
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    # The method to override by xdist's own documentation of the class.
    units = type("Units", (LoadScopeScheduling,), {"_split_scope": staticmethod(unit_of)})
    return units(config, log)
