"""Writes the tables of docs/sentiment.md from docs/results/sentiment*.json; `--check` compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from docs.model_card import ROOT, fusion_table, interval, line

CARD = ROOT / "docs" / "sentiment.md"
START, END = "<!-- tables: tools/docs/sentiment_card.py -->", "<!-- end of tables -->"
ABOUT = {
    "mosi_whisper": "MOSI clips of 4 people (dev)",
    "mosi_text": "MOSI texts of 9 videos (dev)",
    "goemotions_sentiment": "comments, good, bad or neutral",
}
SCORES = {"acc2": "Acc-2", "acc7": "Acc-7", "mae": "MAE", "corr": "Corr"}


def table(rows: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """One line for each set and input: every score with its 95 % interval."""
    lines = [line("held-out data", "input", "n", *SCORES.values()), "|---|---|--:|" + "---|" * len(SCORES)]
    lines += [
        line(title, subset, str(scores["n"]), *(interval(scores[key]) for key in SCORES))
        for title, subset, scores in rows
    ]
    return lines


def tables() -> str:
    results = ROOT / "docs" / "results"
    dev, folds = (json.loads((results / f"sentiment{name}.json").read_text("utf-8")) for name in ("", "_folds"))
    rows = [(ABOUT[name.split("/")[0]], name.split("/")[1], scores) for name, scores in dev["packs"].items()]
    people = f"{len(folds['folds'])} people, each left out once"
    every = [(people, subset, scores) for subset, scores in folds["pooled"].items()]
    parts = [START, "", *table(rows), "", *table(every), ""]
    gains = [("MOSI clips (dev)", dev["fusion"]["mosi_whisper"]), (people, folds["fusion"])]
    parts += ["Acc-2 of each fusion beside its branches, with the paired difference (95 % interval):", ""]
    parts += [row.replace(" | product of the branches |", " |") for row in fusion_table(gains)]
    parts[-len(gains[0][1]) - len(gains[1][1]) - 1] = "|---|---|--:|---|---|---|"
    return "\n".join([*parts, "", END])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = CARD.read_text(encoding="utf-8")
    before, rest = text.split(START, 1)
    updated = before + tables() + rest.split(END, 1)[1]
    if check:
        return 0 if updated == text else 1
    CARD.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
