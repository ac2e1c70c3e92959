"""What was answered when: scores by the seconds since an emotion began, the first right and the stable label, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from clcr.training import metrics
from clcr.training.metrics import Bootstrap

MOMENTS_S = (0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SCORES = ("accuracy", "macro_f1")
HELD_HOPS = (1, 2, 3, 5)


@dataclass(frozen=True)
class Stretch:
    """The labels that were published while one emotion was shown: a clip, or a part of clips joined into one stream."""

    hops: tuple[int, ...]  # index of the label at each hop of the stream until the emotion's end, -1 without one
    hop_s: float
    target: int
    start_s: float = 0.0  # of the emotion, in the stream
    group: str = ""  # resampled together, when every stretch has one

    @property
    def own(self) -> tuple[int, ...]:
        """The labels of the hops that end after the emotion's begin."""
        return self.hops[self._first :]

    @property
    def _first(self) -> int:
        return int(self.start_s / self.hop_s + 1e-6)

    def label_at(self, after_s: float) -> int | None:
        """The newest label so long after the emotion's begin, -1 without one; None when it has ended before."""
        hops = (self.start_s + after_s) / self.hop_s
        if hops > len(self.hops) + 1e-6:
            return None
        ended = int(hops + 1e-6)
        return self.hops[ended - 1] if ended else -1

    def first_correct_s(self) -> float | None:
        """Seconds from the emotion's begin to the end of the first hop whose label is right."""
        return self._end_s(self.own.index(self.target)) if self.target in self.own else None

    def stable_s(self) -> float | None:
        """Seconds from the emotion's begin to the end of the first hop whose label stays to the end."""
        own = self.own
        if not own or own[-1] < 0:
            return None
        kept = len(own)
        while kept and own[kept - 1] == own[-1]:
            kept -= 1
        return self._end_s(kept)

    def flips(self) -> int:
        """Changes from one label to another between neighbouring hops."""
        return sum(a != b for a, b in self._labelled())

    def labelled_span_s(self) -> float:
        """The time over which a flip was possible: between neighbouring hops that both have a label."""
        return len(self._labelled()) * self.hop_s

    def _labelled(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairwise(self.own) if a >= 0 and b >= 0]

    def _end_s(self, place: int) -> float:
        return round((self._first + place + 1) * self.hop_s - self.start_s, 6)


def pace(stretches: Sequence[Stretch]) -> dict[str, Any]:
    """How fast and how steadily the label came; every value None without stretches.

    Medians over the stretches that got there. A stretch whose last label is wrong has no stable right label.
    """
    if not stretches:
        names = ("time_to_first_correct_s", "never_correct", "time_to_stable_s", "time_to_stable_correct_s")
        return dict.fromkeys((*names, "flips_per_s"))
    firsts = [one.first_correct_s() for one in stretches]
    stable = [one.stable_s() for one in stretches]
    right = [at_s for at_s, one in zip(stable, stretches, strict=True) if one.own and one.own[-1] == one.target]
    spans_s = sum(one.labelled_span_s() for one in stretches)
    return {
        "time_to_first_correct_s": _median(firsts),
        "never_correct": sum(first is None for first in firsts) / len(stretches),
        "time_to_stable_s": _median(stable),
        "time_to_stable_correct_s": _median(right),
        "flips_per_s": sum(one.flips() for one in stretches) / spans_s if spans_s else None,
    }


def held(hops: Sequence[int], count: int) -> tuple[int, ...]:
    """The labels that a reader shows who waits until a label has come `count` times in a row."""
    shown, run, last, found = -1, 0, -1, []
    for label in hops:
        run = run + 1 if label == last else 1
        last = label
        shown = label if run >= count else shown
        found.append(shown)
    return tuple(found)


def by_held(stretches: Sequence[Stretch]) -> list[dict[str, Any]]:
    """What waiting for each of HELD_HOPS equal labels makes of flips, times and the last label."""
    found = []
    for count in HELD_HOPS:
        waited = [replace(one, hops=held(one.hops, count)) for one in stretches]
        right = [bool(one.own) and one.own[-1] == one.target for one in waited]
        found.append({"hops": count, **pace(waited), "right_at_end": float(np.mean(right)) if right else None})
    return found


def by_time(stretches: Sequence[Stretch], classes: int) -> dict[str, list[dict[str, Any]]]:
    """Scores at each of MOMENTS_S, of all stretches that last so long, and of the same ones throughout; `by_held`.

    A hop without a label is a wrong answer. The same ones are those that last as long as half of all do.
    """
    half_s = max((moment for moment in MOMENTS_S if 2 * _lasting(stretches, moment) >= len(stretches)), default=0.0)
    same = [one for one in stretches if one.label_at(half_s) is not None]
    return {
        "by_time": [at_moment(stretches, moment, classes) for moment in MOMENTS_S if _lasting(stretches, moment)],
        "by_time_same": [at_moment(same, moment, classes) for moment in MOMENTS_S if moment <= half_s],
        "by_held": by_held(stretches),
    }


def at_moment(stretches: Sequence[Stretch], after_s: float, classes: int) -> dict[str, Any]:
    """Scores so long after the begin, of the stretches that last so long, with 95 % intervals."""
    known = [(one, label) for one in stretches if (label := one.label_at(after_s)) is not None]
    targets = np.array([one.target for one, _ in known], np.int64)
    # A class of its own for hops without a label: never a target, so it has no F1 and counts as a miss.
    answers = np.eye(classes + 1)[[classes if label < 0 else label for _, label in known]]
    groups = tuple(one.group for one, _ in known)
    scored = metrics.classification_scores(answers, targets, Bootstrap(groups=groups if all(groups) else None))
    return {
        "after_s": after_s,
        "n": len(known),
        **{name: scored[name]["value"] for name in SCORES},
        "intervals": {name: [scored[name]["low"], scored[name]["high"]] for name in SCORES},
    }


def _lasting(stretches: Sequence[Stretch], after_s: float) -> int:
    return sum(one.label_at(after_s) is not None for one in stretches)


def _median(values: Sequence[float | None]) -> float | None:
    reached = [value for value in values if value is not None]
    return float(np.median(reached)) if reached else None
