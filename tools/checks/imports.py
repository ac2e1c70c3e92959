"""Fail when a module imports what its room may not, or when modules import each other in a circle.

    python tools/checks/imports.py [CHECKOUT]

ROOMS is the table of ARCHITECTURE.md: a room imports what its line names and nothing else of this project, at any depth
of the code, in functions and for types too. The ground (`errors`, `clock`) may be imported by all.
Exit code 0: nothing to say; 1: one line per finding on stderr.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

FOLDERS = ("runtime", "model", "export")
_LEVELS = ("frontends", "bundle", "wire", "window", "sources", "recording", "inference", "streams")

# Room of clcr_stream -> the rooms that it may import, besides itself and the ground.
RUNTIME: dict[str, tuple[str, ...]] = {
    "errors": (),
    "clock": (),
    "frontends": (),
    "bundle": ("frontends",),
    "wire": (),
    "dashboard": ("wire",),
    "client": ("wire",),
    "window": ("frontends", "bundle"),
    "metrics": ("wire",),
    "processes": (),
    "sources": ("window", "frontends", "processes"),
    "recording": ("wire", "window", "sources"),
    "inference": ("bundle", "frontends", "processes"),
    "streams": ("frontends", "bundle", "wire", "window", "sources", "recording", "inference"),
    "config_file": (),
    "config_tree": (),
    "config": (*_LEVELS, "config_file", "config_tree"),
    "run": (*_LEVELS, "metrics", "config", "config_tree"),
    "embedding": (*_LEVELS, "config", "config_tree", "run"),
    "__init__": (*_LEVELS, "config", "run", "embedding"),
    "cli": (*_LEVELS, "dashboard", "config", "config_tree", "run", "embedding"),
    "__main__": ("cli",),
}
GROUND = ("errors", "clock", "__init__")

# Part of the other two packages -> what it may import of the project; the first that fits counts.
PACKAGES: dict[str, tuple[str, ...]] = {
    "clcr.network": ("clcr.network", "clcr_stream.frontends", "clcr_stream.errors", "clcr_stream.clock"),
    # Scores a bundle through the product: the library's names, and the decoder of its files.
    "clcr.scoring": (
        "clcr",
        *(
            f"clcr_stream.{name}"
            for name in ("Baseline", "Engines", "PushedStream", "Prediction", "ConfigError", "SourceError")
        ),
        *("clcr_stream.sources.media", "clcr_stream.sources.base", "clcr_stream.errors", "clcr_stream.clock"),
    ),
    "clcr": ("clcr", "clcr_stream.frontends", "clcr_stream.errors", "clcr_stream.clock"),
    "clcr_export": ("clcr", "clcr_export", "clcr_stream.bundle", "clcr_stream.frontends", "clcr_stream.errors"),
}
# The product runs where these are not installed.
ABSENT = frozenset({"torch", "transformers", "safetensors", "onnx", "clcr", "clcr_export"})


@functools.cache
def imported(source: str) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of every import, wherever it stands, and of `import_module("literal")`.

    `from a import b` gives `a.b`: b may be a module.
    """
    return tuple(_imported(source))


def _imported(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def room_of(name: str) -> str:
    """The room of a dotted name of clcr_stream; the package itself and what it defines is `__init__`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RUNTIME else "__init__"


def breach(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    package, top = module.split(".")[0], target.split(".")[0]
    if package != "clcr_stream":
        part = next(name for name in PACKAGES if _within(module, (name,)))
        if top in ("clcr", "clcr_export", "clcr_stream") and not _within(target, PACKAGES[part]):
            return f"{part} may import {', '.join(PACKAGES[part])}, not {target}"
        return None
    if top in ABSENT:
        return f"clcr_stream must not import {top}: it runs where {top} is not installed"
    if top != "clcr_stream":
        return None
    room, wanted = room_of(module), room_of(target)
    if wanted == room or wanted in GROUND or wanted in RUNTIME[room]:
        return None
    return f"{room} may import {', '.join((*RUNTIME[room], 'errors', 'clock'))}, not {wanted}"


def _within(name: str, allowed: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def findings(root: Path) -> list[str]:
    """One line per breach and per circle in the packages under `root`."""
    lines: list[str] = []
    modules = dict(_modules(root))
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        where = path.relative_to(root).as_posix()
        graph[name] = set()
        for line, target in imported(path.read_text(encoding="utf-8")):
            reason = breach(name, target)
            if reason is not None:
                lines.append(f"{where}:{line}: {reason}")
            found = target if target in modules else target.rpartition(".")[0]
            if found in modules and found != name and not modules[found].name == "__init__.py":
                graph[name].add(found)
    unknown = sorted({name.split(".")[1] for name in modules if name.startswith("clcr_stream.")} - set(RUNTIME))
    lines += [f"runtime/clcr_stream/{room}: no room of this name; add it to RUNTIME" for room in unknown]
    return lines + [f"a circle of imports: {' -> '.join(circle)}" for circle in circles(graph)]


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module."""
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*/**/*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One circle for each group of modules that import each other, beginning and ending with the same one."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, [*path, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def main(arguments: list[str]) -> int:
    """Check the checkout given, else this one; returns the exit code."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[2]
    lines = findings(root)
    for line in lines:
        print(f"imports: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
