"""Two runs over the same media, prediction by prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clcr_stream.wire import messages

TOLERANCE = 1e-3  # other processors and versions of ONNX Runtime round otherwise; 0 on the same machine


@dataclass(frozen=True)
class Change:
    """A tick whose label differs, or whose value or a probability does by more than the tolerance."""

    tick: int
    time_s: float
    before: str
    after: str
    difference: float


@dataclass(frozen=True)
class Comparison:
    """What was compared by tick; `missing` are in the first run only, `added` in the second only.

    `incomparable` says why no answer of the one run can be compared with one of the other; then none was.
    """

    compared: int
    missing: int
    added: int
    labels_changed: int
    largest: float
    mean: float
    changes: tuple[Change, ...]
    incomparable: str | None = None

    @property
    def same(self) -> bool:
        """Every prediction of the first run came again and says the same, within the tolerance."""
        return self.compared > 0 and not self.missing and not self.changes

    @property
    def told(self) -> str:
        """How much the answers differ, in one line."""
        if self.incomparable is not None:
            return f"not comparable: {self.incomparable}"
        return f"labels changed: {self.labels_changed}; largest difference {self.largest:.2g}, mean {self.mean:.2g}"

    def as_json(self) -> dict[str, object]:
        """Plain values, as `--json` prints them."""
        unknown = () if self.incomparable is None else ("labels_changed", "largest", "mean")
        changes = [vars(change) for change in self.changes]
        return {**vars(self), "changes": changes, "same": self.same, **dict.fromkeys(unknown)}


def compare(
    before: Sequence[messages.Prediction],
    after: Sequence[messages.Prediction],
    hop_ns: int,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare two runs by tick; a live run skipped some, so `added` ones are no difference."""
    first = {prediction.seq: prediction for prediction in before}
    second = {prediction.seq: prediction for prediction in after}
    shared = sorted(first.keys() & second.keys())
    incomparable = _incomparable(before, after)
    differences, changes, labels_changed = [], [], 0
    for tick in shared if incomparable is None else ():
        one, other = first[tick], second[tick]
        difference = _difference(one, other)
        differences.append(difference)
        labels_changed += one.label != other.label
        if one.label != other.label or difference > tolerance:
            changes.append(Change(tick, round(tick * hop_ns / 1e9, 3), answer(one), answer(other), difference))
    return Comparison(
        compared=len(differences),
        missing=len(first) - len(shared),
        added=len(second) - len(shared),
        labels_changed=labels_changed,
        largest=max(differences, default=0.0),
        mean=sum(differences) / len(differences) if differences else 0.0,
        changes=tuple(changes),
        incomparable=incomparable,
    )


def answer(prediction: messages.Prediction) -> str:
    """The answer in a few letters."""
    if prediction.label is not None and prediction.confidence is not None:
        return f"{prediction.label} {prediction.confidence:.3f}"
    return "no answer" if prediction.value is None else f"{prediction.value:+.3f}"


def _incomparable(before: Sequence[messages.Prediction], after: Sequence[messages.Prediction]) -> str | None:
    """That the one run answers with labels and the other with a value."""
    if not before or not after or (before[0].probs is None) == (after[0].probs is None):
        return None
    return " against ".join(
        "a value" if run[0].probs is None else f"labels ({', '.join(run[0].probs)})" for run in (before, after)
    )


def _difference(one: messages.Prediction, other: messages.Prediction) -> float:
    """The largest difference of a probability, or that of the values; of what only one has, 1."""
    if one.probs is not None and other.probs is not None:
        if one.probs.keys() != other.probs.keys():
            return 1.0
        return max((abs((one.probs[name] or 0.0) - (other.probs[name] or 0.0)) for name in one.probs), default=0.0)
    if one.value is not None and other.value is not None:
        return abs(one.value - other.value)
    return 0.0 if (one.value is None) == (other.value is None) and one.probs == other.probs else 1.0
