"""Writes the tables of docs/model_card.md from docs/results/*.json; `--check` only says whether they are up to date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "docs" / "model_card.md"
START, END = "<!-- tables: tools/docs/model_card.py -->", "<!-- end of tables -->"
ABOUT = {
    "javased_av": "Java-SED dev, speakers 03 08: one camera, Javanese",
    "javased_audio": "Java-SED dev, further takes, sound only",
    "ravdess": "RAVDESS actors 19 20",
    "emodb": "EmoDB, last two speakers (German, 4 labels)",
    "fer2013": "FER2013, 5 % of its training part, repeats kept together",
    "ckplus": "CK+ subjects kept apart (no neutral)",
    "goemotions": "GoEmotions dev, single-category rows",
    "meld": "MELD dev (speakers overlap with training)",
}


def interval(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def evaluation_table(packs: dict[str, Any]) -> list[str]:
    """One line per pack and subset: scores with 95 % intervals and the share of tokens that take part, by level."""
    lines = [
        "| held-out data | input | n | accuracy | macro-F1 | ECE | participation, levels 1 2 3 |",
        "|---|---|--:|---|---|---|---|",
    ]
    for name, score in packs.items():
        pack, subset = name.split("/")
        shares = [
            ", ".join(f"{m[0].upper()} {share:.2f}" for m, share in level.items())
            for level in score["exchange"]["participation"]
        ]
        cells = [
            ABOUT[pack],
            subset,
            str(score["n"]),
            *(interval(score[key]) for key in ("accuracy", "macro_f1", "ece")),
        ]
        lines.append("| " + " | ".join([*cells, "; ".join(shares)]) + " |")
    return lines


def speakers_table(report: dict[str, Any]) -> list[str]:
    """Leave-one-speaker-out: pooled scores with both kinds of interval, then macro-F1 by speaker."""
    lines = ["| input | n | accuracy | macro-F1 | macro-F1, resampling speakers | ECE |", "|---|--:|---|---|---|---|"]
    for subset, score in report["pooled"].items():
        by_speaker = interval(report["pooled_by_speaker"][subset]["macro_f1"])
        cells = [subset, str(score["n"]), interval(score["accuracy"]), interval(score["macro_f1"]), by_speaker]
        lines.append("| " + " | ".join([*cells, interval(score["ece"])]) + " |")
    folds = report["folds"]
    lines += ["", "| left-out speaker | " + " | ".join(folds) + " |", "|---" * (len(folds) + 1) + "|"]
    for subset in report["pooled"]:
        values = " | ".join(f"{scores[subset]['macro_f1']:.2f}" for scores in folds.values())
        lines.append(f"| {subset}, macro-F1 | {values} |")
    return lines


def tables() -> str:
    results = ROOT / "docs" / "results"
    evaluation = json.loads((results / "default.json").read_text(encoding="utf-8"))
    speakers = json.loads((results / "loso.json").read_text(encoding="utf-8"))
    title = "Leave one speaker out, Java-SED, all 192 clips:"
    parts = [START, "", *evaluation_table(evaluation["packs"]), "", title, ""]
    return "\n".join([*parts, *speakers_table(speakers), "", END])


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
