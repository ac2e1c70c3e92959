"""For the whole suite: one thread per process for PyTorch, no telemetry, which tests share a worker of pytest-xdist.

Two threads for the small products of these tests fight with whatever else the machine does: test_clcr.py,
test_streaming_model.py and test_bases.py took 300 s beside one busy core, and take 23 s with one thread each.

scripts/test runs the suite on every core (`-n ... --dist loadgroup`). A file stays on one worker, because its fixtures
are built once per process; `pytest.mark.xdist_group(name)` overrides that for a test or a file: tests with the same
name never run side by side. The files of LONGEST_FIRST start first, so that none of them is alone at the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

# Before anything imports torch, and without importing it here: most tests do not need it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import onnxruntime themselves

LONGEST_FIRST: Sequence[str] = ()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test without a group that of its file; on a worker, put the longest groups first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
