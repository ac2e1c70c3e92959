"""Writes what bundles score through the runtime into docs/training.md and docs/open.md.

The first has the table of engines/default, the second engines/open beside it. Reads docs/results/bundle/*.json and
docs/results/bundle_open/*.json, which `clcr-eval --bundle` wrote. --check compares.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from docs.model_card import ABOUT, END, ROOT, line, read, update

START = "<!-- tables: tools/docs/bundles.py -->"
Scores = dict[str, Any]


def scores(folder: str) -> dict[tuple[str, str], Scores]:
    """Sets of a bundle's reports by name and input; of a set that was scored twice the report with more clips."""
    found: dict[tuple[str, str], Scores] = {}
    for path in sorted((ROOT / "docs/results" / folder).glob("*.json")):
        for one in read(path)["sets"]:
            key = (one["name"], one["subset"])
            if key not in found or found[key]["n"] < one["n"]:
                found[key] = one
    return found


def macro_f1(score: Scores) -> str:
    low, high = score["intervals"]["macro_f1"]
    return f"{score['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"


def default_table(sets: dict[tuple[str, str], Scores]) -> list[str]:
    """A line for each set and input: scores, and how the answer formed."""
    lines = [
        line("set", "subset", "n", "accuracy", "macro-F1", "ECE", "first right after", "never right", "flips/s"),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, subset), score in sets.items():
        formed: Sequence[str] = ("-", "-", "-")
        if score.get("time_to_first_correct_s") is not None:
            formed = (
                f"{score['time_to_first_correct_s']:.1f} s",
                f"{score['never_correct']:.2f}",
                f"{score['flips_per_s']:.2f}",
            )
        cells = (score["n"], f"{score['accuracy']:.3f}", macro_f1(score), f"{score['ece']:.3f}")
        lines.append(line(name, subset, *cells, *formed))
    return lines


def open_table(default: dict[tuple[str, str], Scores], ours: dict[tuple[str, str], Scores]) -> list[str]:
    """macro-F1 of both bundles on the same clips, and the difference."""
    lines = [line("held-out data", "input", "n", "default", "open", "difference"), "|---|---|--:|---|---|--:|"]
    for (name, subset), score in ours.items():
        other = default[name, subset]
        gap = score["macro_f1"] - other["macro_f1"]
        lines.append(line(ABOUT[name], subset, score["n"], macro_f1(other), macro_f1(score), f"{gap:+.3f}"))
    return lines


def main() -> int:
    default, ours = scores("bundle"), scores("bundle_open")
    tables = {"training.md": default_table(default), "open.md": open_table(default, ours)}
    codes = [
        update(ROOT / "docs" / name, START, "\n".join([START, "", *lines, "", END])) for name, lines in tables.items()
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
