"""Writes the tables of docs/sentiment.md from docs/results/sentiment*.json; `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clcr.training.metrics import REGRESSION

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from docs.model_card import END, ROOT, fusion_table, interval, line, read, update

CARD = ROOT / "docs" / "sentiment.md"
START = "<!-- tables: tools/docs/sentiment_card.py -->"
ABOUT = {
    "mosi_whisper": "MOSI clips of 4 people (dev)",
    "mosi_text": "MOSI texts of 9 videos (dev)",
    "goemotions_sentiment": "comments, good, bad or neutral",
}


def table(rows: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """One line for each set and input: every score with its 95 % interval."""
    lines = [line("held-out data", "input", "n", *REGRESSION), "|---|---|--:|" + "---|" * len(REGRESSION)]
    lines += [
        line(title, subset, str(scores["n"]), *(interval(scores[key]) for key in REGRESSION.values()))
        for title, subset, scores in rows
    ]
    return lines


def tables() -> str:
    dev, folds = read("sentiment.json"), read("sentiment_folds.json")["packs"]["mosi_whisper"]
    rows = [(ABOUT[name.split("/")[0]], name.split("/")[1], scores) for name, scores in dev["packs"].items()]
    people = f"{len(folds['speakers'])} people, each left out once"
    every = [(people, subset, scores) for subset, scores in folds["pooled"].items()]
    gains = [("MOSI clips (dev)", dev["fusion"]["mosi_whisper"]), (people, folds["fusion"])]
    title = "Acc-2 of each fusion beside its branches, with the paired difference (95 % interval):"
    return "\n".join([START, "", *table(rows), "", *table(every), "", title, "", *fusion_table(gains), "", END])


def main() -> int:
    return update(CARD, START, tables())


if __name__ == "__main__":
    sys.exit(main())
