"""Fail when a Python file or function has outgrown what can be read in one sitting.

    python tools/checks/sizes.py [FOLDER ...]

The limits are a smell, not a law: what is over them on purpose is listed in EXCEPTIONS with its reason, and an entry
that is no longer needed fails too. Exit code 0: nothing to say; 1: one line per finding on stderr.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE_LINES = 400
TEST_FILE_LINES = 700  # one test file per module, read a test at a time; a split would build its costly fixtures twice
FUNCTION_LINES = 60
FOLDERS = ("model", "export", "runtime", "tools", "tests", "examples")

# "path" or "path:function" -> why it may be longer.
EXCEPTIONS: dict[str, str] = {}


@dataclass(frozen=True)
class Size:
    """The length of one file (`name` is its path) or function (`path:function`), in lines."""

    name: str
    lines: int
    limit: int


def sizes_of(path: Path, name: str) -> Iterator[Size]:
    """The size of a file, then of each function in it; a docstring does not count towards its function."""
    source = path.read_text(encoding="utf-8")
    yield Size(name, len(source.splitlines()), TEST_FILE_LINES if name.startswith("tests/") else FILE_LINES)
    for node in _functions(ast.parse(source, str(path))):
        yield Size(f"{name}:{node.name}", _body_lines(node), FUNCTION_LINES)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function below a node; expressions, which are most of a file and hold none, are passed over."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _functions(node)


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def findings(root: Path, folders: Sequence[str], exceptions: dict[str, str]) -> list[str]:
    """One line per file or function over its limit without a reason, and per reason that nothing needs any more."""
    unused = dict(exceptions)
    lines = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        for size in sizes_of(path, path.relative_to(root).as_posix()):
            if size.lines <= size.limit:
                continue
            if unused.pop(size.name, None) is None and size.name not in exceptions:
                lines.append(
                    f"{size.name}: {size.lines} lines, limit {size.limit}; split it or give a reason in EXCEPTIONS"
                )
    return lines + [f"{name}: is within the limits; remove it from EXCEPTIONS" for name in unused]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folders given, else all of the repository's; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    folders = parser.parse_args(arguments).folders
    root = Path(__file__).resolve().parents[2]
    lines = findings(root, folders or FOLDERS, {} if folders else EXCEPTIONS)
    for line in lines:
        print(f"sizes: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
