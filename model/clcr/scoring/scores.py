"""The answers about a set of clips as plain JSON values: scores, intervals, per class, per speaker, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clcr.scoring.clips import Answer
from clcr.scoring.times import Stretch, pace
from clcr.training import metrics
from clcr.training.data.manifest import Row
from clcr.training.metrics import Bootstrap, Floats, Ints

SCORES = ("accuracy", "macro_f1", "ece")


@dataclass(frozen=True)
class Answered:
    """The clips of one manifest and subset that were answered, in the manifest's order."""

    rows: Sequence[Row]
    answers: Sequence[Answer]
    labels: tuple[str, ...]

    @property
    def probs(self) -> Floats:
        """[n, C]."""
        return np.array([answer.probs for answer in self.answers], np.float64)

    @property
    def targets(self) -> Ints:
        """[n], class indices."""
        return np.array([self.labels.index(row.label) for row in self.rows], np.int64)

    @property
    def values(self) -> tuple[Floats, Floats]:
        """What was said and what is right, [n] each, of a regression."""
        said = np.array([answer.value for answer in self.answers], np.float64)
        return said, np.array([float(row.label) for row in self.rows], np.float64)

    @property
    def speakers(self) -> tuple[str, ...]:
        """[n]."""
        return tuple(row.speaker for row in self.rows)


def scores(answered: Answered) -> dict[str, Any]:
    """Every score of a set; plain JSON values, None for what is not defined."""
    names, speakers = SCORES if answered.labels else tuple(metrics.REGRESSION.values()), answered.speakers
    by_clip, by_speaker = _judged(answered), None
    if len(set(speakers)) > 1:
        by_speaker = _intervals(_judged(answered, Bootstrap(groups=speakers)), names)
    found = {
        "n": len(answered.rows),
        **{name: by_clip[name]["value"] for name in names},
        "intervals": _intervals(by_clip, names),
        "intervals_by_speaker": by_speaker,
        "bootstrap": {key: by_clip["interval"][key] for key in ("level", "resamples", "seed")},
        "unseen": sum(not answer.seen for answer in answered.answers),
    }
    if not answered.labels:
        return found
    return found | {
        "per_class": _per_class(np.array(by_clip["confusion"]), answered.labels),
        "per_speaker": _per_speaker(answered.probs, answered.targets, speakers),
        "confusion": by_clip["confusion"],
        **pace(stretches(answered)),
    }


def _judged(answered: Answered, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """The scores by the labels, or of a regression by the values."""
    if answered.labels:
        return metrics.classification_scores(answered.probs, answered.targets, bootstrap)
    return metrics.regression_scores(*answered.values, bootstrap)


def _intervals(scored: dict[str, Any], names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [scored[name]["low"], scored[name]["high"]] for name in names}


def _per_class(counts: Ints, labels: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    f1 = metrics.per_class_f1(counts)
    result: dict[str, dict[str, float | int | None]] = {}
    for index, label in enumerate(labels):
        hits, support, answered = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
        result[label] = {
            "n": support,
            "precision": hits / answered if answered else None,
            "recall": hits / support if support else None,
            "f1": None if np.isnan(f1[index]) else float(f1[index]),
        }
    return result


def _per_speaker(probs: Floats, targets: Ints, speakers: Sequence[str]) -> dict[str, dict[str, float | int]]:
    predictions, classes = probs.argmax(1).astype(np.int64), probs.shape[1]
    result = {}
    for speaker in sorted(set(speakers) - {""}):
        chosen = np.array([other == speaker for other in speakers])
        counts = metrics.confusion(targets[chosen], predictions[chosen], classes)
        result[speaker] = {
            "n": int(chosen.sum()),
            "accuracy": float(metrics.accuracy(counts)),
            "macro_f1": float(metrics.macro_f1(counts)),
        }
    return result


def stretches(answered: Answered) -> list[Stretch]:
    """The clips of video or sound, for which a label comes hop by hop."""
    return [
        Stretch(answer.hops, answer.hop_s, int(target))
        for row, target, answer in zip(answered.rows, answered.targets, answered.answers, strict=True)
        if row.kind in ("video", "audio")
    ]
