"""The rooms of the code: what may import what, held by tools/checks/imports.py and told by ARCHITECTURE.md."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from checks import imports

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, to break rules in."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in imports.FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_no_room_imports_what_it_may_not_and_no_modules_import_each_other_in_a_circle() -> None:
    assert imports.findings(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        ("runtime/clcr_stream/window/ring.py", "from clcr_stream.sources import base", "window may import"),
        ("runtime/clcr_stream/sources/base.py", "import clcr_stream.inference.levels", "sources may import"),
        ("runtime/clcr_stream/inference/levels.py", "from clcr_stream.sources.base import Source", "inference may"),
        ("runtime/clcr_stream/streams/loop.py", "def f():\n    from clcr_stream.config import Config", "streams may"),
        ("runtime/clcr_stream/wire/client.py", "if __name__ == 'x':\n    from clcr_stream import run", "wire may"),
        ("runtime/clcr_stream/run.py", "from clcr_stream.cli import main", "run may import"),
        ("runtime/clcr_stream/errors.py", "from clcr_stream.wire import messages", "errors may import"),
        ("runtime/clcr_stream/streams/host.py", "def f():\n    from torch import nn", "must not import torch"),
        ("runtime/clcr_stream/cli/main.py", "import importlib\nimportlib.import_module('onnx.helper')", "import onnx"),
        ("model/clcr/network/model.py", "from clcr_stream.window.ring import VisionRing", "clcr.network may import"),
        ("model/clcr/network/model.py", "from clcr.training import checkpoint", "clcr.network may import"),
        ("model/clcr/training/train.py", "import clcr_export", "clcr may import"),
        ("model/clcr/training/train.py", "from clcr_stream import Engines", "clcr may import"),
        ("model/clcr/scoring/clips.py", "from clcr_stream.streams import host", "clcr.scoring may import"),
        ("export/clcr_export/proof.py", "from clcr_stream.streams import host", "clcr_export may import"),
    ],
)
def test_a_broken_rule_is_found_where_it_is_broken(checkout: Path, module: str, line: str, reason: str) -> None:
    path = checkout / module
    whole = path.read_text(encoding="utf-8")
    path.write_text(f"{whole}\n\n{line}\n", encoding="utf-8")
    try:
        (finding,) = [text for text in imports.findings(checkout) if not text.startswith("a circle")]
        assert finding.startswith(f"{module}:") and reason in finding
        assert imports.main([str(checkout)]) == 1
    finally:
        path.write_text(whole, encoding="utf-8")
    assert imports.main([str(checkout)]) == 0


def test_a_circle_is_found_in_the_smallest_and_in_a_longer_one() -> None:
    assert imports.circles({"a": {"b"}, "b": {"a"}}) == [["a", "b", "a"]]
    assert imports.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert imports.circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_room_that_the_table_does_not_know_is_found(checkout: Path) -> None:
    (checkout / "runtime/clcr_stream/attic").mkdir()
    (checkout / "runtime/clcr_stream/attic/box.py").write_text("", encoding="utf-8")
    assert imports.findings(checkout) == ["runtime/clcr_stream/attic: no room of this name; add it to RUNTIME"]
    shutil.rmtree(checkout / "runtime/clcr_stream/attic")


def test_the_architecture_tells_the_rooms_that_the_check_enforces() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## 2. Rooms")[1].split("\n## ")[0]
    told = {}
    for rooms, may in re.findall(r"^\| ((?:`\w+` ?)+)\|[^|]*\| ([^|]+) \|$", section, re.MULTILINE):
        for room in re.findall(r"`(\w+)`", rooms):
            told[room] = may.strip()
    listed = {room for room in imports.RUNTIME if not room.startswith("__")}
    assert told.keys() == listed
    for room, may in told.items():
        allowed = imports.RUNTIME[room]
        if may in ("-", "nothing"):
            assert allowed == (), room
        elif not may.startswith("all"):
            assert set(may.split(", ")) == set(allowed), room
