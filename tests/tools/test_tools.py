"""The scripts in tools/ that serve the repository itself: its checks, and the view of the demo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tools_to_run() -> list[str]:
    """Every script in tools/ that is run by its path; checks/imports.py has no options and only reports."""
    paths = sorted((ROOT / "tools").rglob("*.py"))
    scripts = [path.relative_to(ROOT).as_posix() for path in paths if "__main__" in path.read_text(encoding="utf-8")]
    return [name for name in scripts if name != "tools/checks/imports.py"]


@pytest.mark.parametrize("name", tools_to_run())
def test_a_tool_run_by_its_path_from_anywhere_explains_itself(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / name), "--help"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert len(done.stdout.splitlines()) > 3
    assert list(tmp_path.iterdir()) == []


def test_the_readme_of_the_tools_lists_each_that_is_run() -> None:
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", (ROOT / "tools/README.md").read_text(encoding="utf-8")))
    run = {name.removeprefix("tools/") for name in tools_to_run()} | {"checks/imports.py"}
    assert {name for name in listed if not name.endswith("__init__.py")} == run


def test_the_size_check_finds_a_long_file_and_a_long_function_and_a_stale_exception(tmp_path: Path) -> None:
    tool = import_module("checks.sizes")
    (tmp_path / "code").mkdir()
    body = "\n".join(f"    x{i} = {i}" for i in range(61))
    (tmp_path / "code/long.py").write_text(f"def f():\n{body}\n" + "\n" * 400, encoding="utf-8")
    (tmp_path / "code/short.py").write_text("x = 1\n", encoding="utf-8")
    assert [line.split(" ")[0] for line in tool.findings(tmp_path, ["code"], {})] == [
        "code/long.py:",
        "code/long.py:f:",
    ]
    (tmp_path / "tests").mkdir()
    for name, lines in (("a", 700), ("b", 701)):
        (tmp_path / f"tests/test_{name}.py").write_text("\n" * lines, encoding="utf-8")
    assert [line.split(" ")[0] for line in tool.findings(tmp_path, ["tests"], {})] == ["tests/test_b.py:"]
    allowed = {"code/long.py": "reason", "code/long.py:f": "reason"}
    assert tool.findings(tmp_path, ["code"], allowed) == []
    stale = tool.findings(tmp_path, ["code"], {**allowed, "code/short.py": "reason"})
    assert len(stale) == 1 and stale[0].startswith("code/short.py: is within the limits")


# With ~ for the underscore: the check reads programs in strings too, this one among them.
PRIVATE_NAMES = '''
import os
from other import ~hidden
from collections import namedtuple

class Mine:
    def __init__(self, other):
        self.~own = other.~theirs
        super().~inherited()

def f(mine, monkeypatch):
    mine.~own
    mine.__class__
    mine.~replace(a=1)
    os.~exit(0)
    getattr(mine, "~by_name")
    monkeypatch.setattr("other.~inside.public", 1)
    monkeypatch.setattr(mine, "~own", 1)
    print("~text")
    run("""
import other
other.~in_a_program()
""")
'''


def test_the_check_of_private_names_finds_imports_attributes_and_strings_and_spares_a_file_s_own(
    tmp_path: Path,
) -> None:
    tool = import_module("checks.private_names")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text(PRIVATE_NAMES.replace("~", "_"), encoding="utf-8")
    (tmp_path / "tests/test_b.py").write_text("import a\n\na.public\n_x = 1\n_x\n", encoding="utf-8")
    matches = [line.split(", ")[0] for line in tool.findings(tmp_path, ["tests"])]
    assert matches == [
        "tests/test_a.py:3: reads _hidden",
        "tests/test_a.py:8: reads _theirs",
        "tests/test_a.py:16: reads _by_name",
        "tests/test_a.py:17: reads _inside",
        "tests/test_a.py:22: reads _in_a_program",
    ]


def message_lines() -> list[bytes]:
    """A session of 3 s: a session message, 15 predictions, one segment, the last status."""
    head = {"schema": 1, "stream": "s", "session": "0" * 16, "boot_id": "", "published_ns": 0}
    nobody = {"present": False, "quality": None, "age_ms": None, "coverage": None, "weight": None, "gate": None}
    face = {**nobody, "present": True, "coverage": 0.5}
    table = [[None] * 3] * 3
    session = {
        "type": "session", "seq": 1, "started_at": "", "origin_ns": 0, "hop_ns": 1, "window_ns": 1,
        "labels": ["a", "b"], "task": "classification", "bundle": "f" * 64, "bundle_name": "tiny", "backend": "null",
        "versions": {}, "sources": [], "intended_use": {"infers_emotion": True, "context": [], "notice": "Be careful."},
    }  # fmt: skip
    predictions = [
        {
            "type": "prediction", "seq": tick, "window": {"start_ns": 0, "end_ns": tick * 200_000_000},
            "captured_ns": 0, "latency_ms": 61.0, "probs": {"a": 0.25, "b": 0.75}, "label": "b", "confidence": 0.75,
            "levels": {"weights": [None] * 3, "ran": [True] * 3, "age_ms": [None] * 3}, "timing_ms": {}, "degraded": [],
            "modalities": {"vision": face, "acoustic": nobody, "language": nobody}, "bundle": "f" * 64,
            "budget": {"gamma": 1.0, "active": table, "mass": table}, "backend": "null",
        }
        for tick in range(1, 16)
    ]  # fmt: skip
    words = {"type": "transcript", "seq": 1, "id": "1", "start_ns": 0, "end_ns": 1, "text": "hello", "final": True}
    status = {
        "type": "status", "seq": 1, "state": "running", "uptime_s": 3.0, "sources": [],
        "ticks": {"due": 17, "published": 15, "skipped": {"late": 2, "invalid": 0}},
        "latency_ms": {"p50": 61.0, "p95": 62.0, "p99": 63.0},
    }  # fmt: skip
    return [json.dumps({**head, **m}).encode() for m in (session, *predictions[:8], words, *predictions[8:], status)]


def test_the_view_shows_one_plain_line_per_second_the_words_and_the_account() -> None:
    text = "".join(import_module("show").shown(message_lines(), in_place=False))
    assert "\x1b" not in text
    assert re.findall(r"^ +(\d\.\d) s   b         0\.75 ", text, re.MULTILINE) == ["0.2", "1.2", "2.2"]
    assert text.startswith("model tiny (ffffffffffff) on null\nBe careful.\n")
    assert '"hello"' in text
    assert text.endswith("15 predictions, 2 skipped (late 2)\ncapture to publish: p50 61 ms, p95 62 ms, p99 63 ms\n")


def test_the_view_redraws_its_block_in_place_and_leaves_the_words_above_it() -> None:
    drawn = list(import_module("show").shown(message_lines(), in_place=True))
    blocks = [text for text in drawn if " a  0.25" in text]
    assert len(blocks) == 15
    height = blocks[0].count("\n")
    assert not blocks[0].startswith("\x1b[")
    assert all(text.startswith(f"\x1b[{height}A") for text in blocks[1:8])
    (words,) = (text for text in drawn if "hello" in text)
    assert words.startswith(f"\x1b[{height}A\x1b[J")
    assert not blocks[8].startswith("\x1b["), "the block after the words starts a new one below them"


@pytest.mark.parametrize(("share", "cells"), [(0.0, 0), (1.0, 8), (0.5, 4), (None, 0), (7.0, 8)])
def test_a_bar_s_length_is_its_share(share: float | None, cells: int) -> None:
    assert import_module("show").bar(share, 8) == "█" * cells
