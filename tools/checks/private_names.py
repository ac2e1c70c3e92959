"""Fail when tests or tools read a private name (`_x`) of another module.

    python tools/checks/private_names.py [FOLDER ...]

A private name may change without notice: whoever reads it from outside tests an implementation. Counted are
`from m import _x`, `value._x` and the same name as a string (`getattr(value, "_x")`, `monkeypatch.setattr(m, "_x", 1)`,
`monkeypatch.setattr("m._x", 1)`), also in a program that stands in a string of several lines. Not counted: `value` is
self or cls, or the file itself defines `_x`.
Exit code 0: nothing to say; 1: one line per place on stderr.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("tests", "tools")
# Documented names of the standard library that begin with an underscore.
PUBLIC = frozenset({"_exit", "_asdict", "_replace", "_fields", "_make", "_field_defaults"})
BY_NAME = ("getattr", "setattr", "delattr", "hasattr", "attrgetter")


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != "" and name not in PUBLIC


def defined(tree: ast.Module) -> frozenset[str]:
    """Every private name that a file gives a meaning itself: functions, classes, variables, fields of `self`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            names.add(node.attr)
    return frozenset(name for name in names if is_private(name))


def is_own(value: ast.expr) -> bool:
    """Whether an expression is `self`, `cls` or `super()`."""
    if isinstance(value, ast.Call):
        value = value.func
        return isinstance(value, ast.Name) and value.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def programs(tree: ast.Module) -> Iterator[tuple[int, ast.Module]]:
    """The tree itself, and every string of several lines that is a Python program; each with the line before it."""
    yield 0, tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with contextlib.suppress(SyntaxError):
                yield node.lineno - 1, ast.parse(textwrap.dedent(node.value))


def places(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every private name of another module that a source reads or replaces."""
    tree = ast.parse(source)
    own = defined(tree)
    for before, program in programs(tree):
        yield from ((before + line, name) for line, name in _places(program, own | defined(program)))


def _places(tree: ast.Module, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Attribute) and not is_own(node.value):
            names = [node.attr] if is_private(node.attr) and node.attr not in own else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in BY_NAME:
            strings = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            paths = [text for text in strings if re.fullmatch(r"[\w.]+", text)]
            names = [name for text in paths for name in text.split(".") if is_private(name) and name not in own]
        yield from ((node.lineno, name) for name in names if isinstance(node, ast.stmt | ast.expr))


def findings(root: Path, folders: Sequence[str]) -> list[str]:
    """One line per place under the folders of `root`, in the order of files and lines."""
    lines = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        for line, name in sorted(set(places(path.read_text(encoding="utf-8")))):
            lines.append(f"{path.relative_to(root).as_posix()}:{line}: reads {name}, private to another module")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folders given, else all of tests and tools; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    folders = parser.parse_args(arguments).folders
    lines = findings(Path(__file__).resolve().parents[2], folders or FOLDERS)
    for line in lines:
        print(f"private names: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
