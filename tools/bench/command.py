"""The command line that every benchmark has: flags, table, JSON, picture, exit code."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from bench.machine import ROOT, machine, revision, versions
from clcr_stream.errors import ClcrError

RESULTS = ROOT / "docs/benchmarks"
INCONCLUSIVE = 3
EXIT_CODES = """exit codes:
  0 measured   1 could not be measured, or refused because peers disagree   2 wrong use
  3 inconclusive: the medians of the last three windows of the run differ by more than 10 %"""

_NUMBERS = re.compile(r"\[([-+\d.eE,\s]+)\]")

Figures = dict[str, Any]


class BenchError(ClcrError):
    """A benchmark that cannot give its figures."""

    exit_code = 1


class UsageError(BenchError):
    """The command was not given what it needs."""

    exit_code = 2


@dataclass(frozen=True)
class Tool:
    """One benchmark: what it measures, and how that is shown.

    `measure` returns the figures; every measure in them that `statistics.measure` made is judged by its `stable`.
    `draw` gets a matplotlib Figure.
    """

    name: str
    description: str
    examples: str
    seconds: float
    quick_seconds: float
    add_flags: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Figures]
    table: Callable[[Figures], list[list[str]]]
    draw: Callable[[Figures, Any], None]
    result: Callable[[argparse.Namespace], str] | None = None  # file name without suffix; None: the tool's name


class _Parser(argparse.ArgumentParser):
    """Wrong use is one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def parser(tool: Tool) -> argparse.ArgumentParser:
    """The flags that all benchmarks share, then the tool's own."""
    made = _Parser(
        prog=f"tools/bench_{tool.name}.py",
        description=tool.description,
        epilog=f"examples:\n{tool.examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--seconds", type=float, metavar="N", help=f"how long to measure (default: {tool.seconds:g})")
    made.add_argument("--bundle", type=Path, metavar="DIR", help="engine bundle (default: the one that is shipped)")
    made.add_argument(
        "--json", type=Path, metavar="FILE", help=f"the figures (default: docs/benchmarks/{tool.name}.json)"
    )
    made.add_argument("--png", type=Path, metavar="FILE", help="the picture (default: beside the JSON)")
    made.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes, for tests; writes only where --json says"
    )
    tool.add_flags(made)
    return made


def main(tool: Tool, arguments: Sequence[str] | None = None) -> int:
    """Measure, write, show; the exit code."""
    given_arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        given = _checked(tool, parser(tool).parse_args(given_arguments))
        command = " ".join([f"tools/bench_{tool.name}.py", *given_arguments])
        document = measured(tool, given, command)
    except ClcrError as error:
        sys.stderr.write(f"bench_{tool.name}: error: {' '.join(str(error).split())}\n")
        return UsageError.exit_code if isinstance(error, UsageError) else BenchError.exit_code
    print("\n".join(aligned(tool.table(document))))
    _write(tool, given, document)
    if not document["conclusive"]:
        print(f"inconclusive: the last three windows differ by more than 10 % in {', '.join(document['unstable'])}")
        return INCONCLUSIVE
    return 0


def measured(tool: Tool, given: argparse.Namespace, command: str) -> Figures:
    """The tool's figures with everything that they depend on."""
    about = {"machine": machine(), "versions": versions(), "git": revision()}
    started_at, start_ns = datetime.datetime.now(datetime.timezone.utc), time.monotonic_ns()
    figures = tool.measure(given)
    unstable = sorted(unstable_measures(figures))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    return {
        "benchmark": tool.name,
        "command": command,
        "started_at": started_at.isoformat(timespec="seconds"),
        "took_s": round((time.monotonic_ns() - start_ns) / 1e9, 1),
        **about,
        "settings": settings,
        "conclusive": not unstable,
        "unstable": unstable,
        **figures,
    }


def unstable_measures(figures: Any, path: str = "") -> Iterable[str]:
    """Dotted paths of the measures whose windows do not agree."""
    if isinstance(figures, dict):
        if figures.get("stable") is False:
            yield path or "."
        for name, value in figures.items():
            yield from unstable_measures(value, f"{path}.{name}" if path else name)
    elif isinstance(figures, list):
        for index, value in enumerate(figures):
            if isinstance(value, dict):
                yield from unstable_measures(value, f"{path}[{index}]")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right, of the width of their widest cell.

    A row of one cell is a line of text and sets no width; an empty one ends a table.
    """
    cells = [row for row in rows if len(row) > 1]
    columns = max((len(row) for row in cells), default=0)
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(columns)]
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(row[0])
            continue
        padded = [cell.rjust(widths[i]) if i else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(padded).rstrip())
    return lines


def number(value: Any, digits: int = 2) -> str:
    """A figure in a table; a dash for one that there is not."""
    return "-" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def as_text(document: Figures) -> str:
    """JSON to read and to compare: one key a line, a list of numbers on one line."""
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)


def _checked(tool: Tool, given: argparse.Namespace) -> argparse.Namespace:
    if given.seconds is not None and not 0.4 <= given.seconds <= 86400:
        raise UsageError(f"--seconds {given.seconds:g}: allowed is 0.4..86400")
    given.seconds = given.seconds or (tool.quick_seconds if given.quick else tool.seconds)
    if given.bundle is None:
        from clcr_stream.bundle.loader import default_bundle_folder

        given.bundle = default_bundle_folder()
    if not (given.bundle / "manifest.json").is_file():
        raise UsageError(f"--bundle {given.bundle}: no manifest.json there; give a folder written by `clcr-export`")
    if given.png is not None and find_spec("matplotlib") is None:
        raise UsageError("--png needs matplotlib; run `pip install 'clcr-stream[bench]'`")
    if given.json is None and not given.quick:
        given.json = RESULTS / f"{tool.result(given) if tool.result is not None else tool.name}.json"
    if given.png is None and given.json is not None and find_spec("matplotlib") is not None:
        given.png = given.json.with_suffix(".png")
    for path in (given.json, given.png):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist")
    return given


def _write(tool: Tool, given: argparse.Namespace, document: Figures) -> None:
    if given.json is not None:
        given.json.write_text(as_text(document), encoding="utf-8")
        print(f"wrote {given.json}")
    if given.png is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        tool.draw(document, figure)
        figure.savefig(given.png, dpi=110, metadata={"Software": None})
        print(f"wrote {given.png}")
    elif given.json is not None:
        print("no picture: matplotlib is not installed; run `pip install 'clcr-stream[bench]'`")
