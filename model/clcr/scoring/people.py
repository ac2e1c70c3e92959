"""Who the people of a set are: a CSV file of groups, and the scores of each group."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clcr.scoring.scores import SCORES, Answered
from clcr.training import metrics
from clcr_stream import ConfigError

SPEAKER, SET = "speaker", "set"
Groups = Mapping[str, Mapping[str, str]]  # {"sex": {"anna": "f"}}


def read_people(path: Path, name: str) -> Groups:
    """What a file says of the speakers of the set `name`: every column but `speaker` and `set` is a kind of group.

    A line's `set` is the set's name or the beginning of it before a "_", as of changed copies; empty or without that
    column it is for every set. Raises ConfigError for a file without a group.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = [column for column in reader.fieldnames or () if column not in (SPEAKER, SET)]
            if SPEAKER not in (reader.fieldnames or ()) or not columns:
                raise ConfigError(
                    f"{path}: a file of people has the column speaker and one or more groups, such as sex"
                )
            lines = [line for line in reader if _of(line.get(SET) or "", name)]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a CSV file such as speaker,sex") from error
    return {column: {line[SPEAKER]: line[column] for line in lines if line[column]} for column in columns}


def group_scores(answered: Answered, groups: Groups) -> dict[str, dict[str, Any]]:
    """Accuracy, macro-F1 and ECE with 95 % intervals of clips, by kind of group and group; the unknown left out."""
    probs, targets = answered.probs, answered.targets
    scored: dict[str, dict[str, Any]] = {}
    for kind, group_of in groups.items():
        names = [group_of.get(speaker, "") for speaker in answered.speakers]
        for name in sorted(set(names) - {""}):
            chosen = np.array([other == name for other in names])
            found = metrics.classification_scores(probs[chosen], targets[chosen])
            scored.setdefault(kind, {})[name] = {
                "n": int(chosen.sum()),
                "speakers": len({speaker for speaker in answered.speakers if group_of.get(speaker) == name}),
                **{score: found[score]["value"] for score in SCORES},
                "intervals": {score: [found[score]["low"], found[score]["high"]] for score in SCORES},
            }
    return scored


def _of(given: str, name: str) -> bool:
    return not given or name == given or name.startswith(f"{given}_")
