"""Writes the tables of docs/benchmarks.md and docs/speech.md from docs/benchmarks/*.json; `--check` only compares.

    python tools/docs/benchmarks.py            after a benchmark has written its JSON there
    python tools/docs/benchmarks.py --check    exit code 1 when the document is not up to date

A section lies between `<!-- begin NAME -->` and `<!-- end NAME -->`, NAME.json holds its figures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

import bench_beside
import bench_bus
import bench_latency
import bench_peers
import bench_speech
import bench_streams
from bench.command import Tool
from bench.machine import ROOT

DOCUMENT = ROOT / "docs/benchmarks.md"
SPEECH = ROOT / "docs/speech.md"
TOOLS: dict[str, Tool] = {
    "peers": bench_peers.TOOL,
    "peers_resnet18": bench_peers.TOOL,
    "sweep": bench_peers.TOOL,
    "latency": bench_latency.TOOL,
    "streams": bench_streams.TOOL,
    "beside": bench_beside.TOOL,
    "bus": bench_bus.TOOL,
}
SECTION = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def section(name: str, results: Path) -> str:
    """The text of one section: where the figures come from, tables, picture; or that there are none."""
    path = results / f"{name}.json"
    if not path.is_file():
        return f"Not measured yet: there is no `{path.name}`.\n"
    document = json.loads(path.read_text(encoding="utf-8"))
    if name == "speech":
        return "\n".join(markdown(bench_speech.table(document))) + "\n"
    lines = [source_line(document, path.name), "", *markdown(TOOLS[name].table(document))]
    if path.with_suffix(".png").is_file():
        lines += ["", f"![{name}](benchmarks/{name}.png)"]
    return "\n".join(lines) + "\n"


def source_line(document: dict[str, Any], name: str) -> str:
    """What was run where, and whether the run was steady."""
    machine, git = document["machine"], document["git"]
    commit = f"{(git['commit'] or 'no checkout')[:12]}{' with local changes' if git['modified'] else ''}"
    verdict = "conclusive" if document["conclusive"] else f"**inconclusive** in {', '.join(document['unstable'])}"
    return (
        f"`{document['command']}` at {commit}, {document['started_at'][:10]}, {machine['cores']} cores of "
        f"{machine['cpu']}, load {machine['load_1_min_at_start']} at the start: {verdict}. [{name}](benchmarks/{name})"
    )


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A tool's table as Markdown: the first row of each block heads it, rows of one cell are text."""
    lines: list[str] = []
    heading = True
    for row in rows:
        if len(row) == 1:
            lines += [""] if heading is False else []
            lines += [f"* {row[0]}"] if row[0] else []
            heading = True
            continue
        if heading:
            lines += [""] if lines and lines[-1] else []
        lines.append("| " + " | ".join(row) + " |")
        if heading:
            lines.append("|---" + "|--:" * (len(row) - 1) + "|")
        heading = False
    return lines


def updated(text: str, results: Path) -> str:
    """The document with every section written anew."""
    return SECTION.sub(lambda found: f"{found[1]}{section(found[2], results)}{found[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="tools/docs/benchmarks.py"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something would change")
    given = parser.parse_args(arguments)
    stale = False
    for path in (DOCUMENT, SPEECH):
        text = path.read_text(encoding="utf-8")
        fresh = updated(text, ROOT / "docs/benchmarks")
        if fresh != text and given.check:
            print(f"update_benchmarks: {path.relative_to(ROOT)} is not what its JSON says", file=sys.stderr)
            stale = True
        elif fresh != text:
            path.write_text(fresh, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
