"""The scripts in tools/ that serve the repository itself: its checks."""

from __future__ import annotations

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
    scripts = [
        path.relative_to(ROOT).as_posix() for path in paths if '== "__main__"' in path.read_text(encoding="utf-8")
    ]
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
