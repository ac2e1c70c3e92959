"""Fail when a package imports what it must not, at any depth of the code.

    python tools/checks/imports.py

The product never imports torch, in no branch and no function: it runs where torch is not installed. The direction
between the three packages is one way: clcr_export -> {clcr, clcr_stream}, clcr -> clcr_stream.
Exit code 0: nothing to say; 1: one line per finding on stderr.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

FORBIDDEN: dict[str, frozenset[str]] = {
    "runtime/clcr_stream": frozenset({"torch", "transformers", "safetensors", "onnx", "clcr", "clcr_export"}),
    "model/clcr": frozenset({"clcr_export"}),
}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import statement, wherever it stands, and of `import_module("literal")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value.split(".")[0]


def findings(root: Path, forbidden: Mapping[str, frozenset[str]]) -> list[str]:
    """One line per forbidden import under `root`."""
    lines = []
    for folder, names in forbidden.items():
        for path in sorted((root / folder).rglob("*.py")):
            for line, name in imported(path.read_text(encoding="utf-8")):
                if name in names:
                    lines.append(f"{path.relative_to(root).as_posix()}:{line}: {folder} must not import {name}")
    return lines


def main() -> int:
    """Check the repository; returns the exit code."""
    lines = findings(Path(__file__).resolve().parents[2], FORBIDDEN)
    for line in lines:
        print(f"imports: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
