"""Temperatures: fitted for each subset of modalities, and judged on people whom the fit did not see."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clcr.training import metrics
from clcr.training.evaluate import Predictions

MOST_CLIPS = 500  # that one set counts for beside the others


@dataclass(frozen=True)
class Fitted:
    """The temperature of a subset, and for each half of the people the one fitted on the other half alone."""

    value: float
    first_half: float
    second_half: float

    def judged(self, predicted: Predictions) -> Predictions:
        """The predictions of a set that the temperature was fitted on, as if for people whom the fit did not see."""
        values = np.where(in_first_half(predicted), self.first_half, self.second_half)
        return replace(predicted, temperature=values[:, None])


def fit(sets: Mapping[str, Predictions]) -> Fitted:
    """The temperatures with the least cross-entropy over several sets, none of which counts for more than 500 clips."""
    first = {name: in_first_half(predicted) for name, predicted in sets.items()}
    whole = _fit([(predicted, np.ones(len(predicted.ids), np.bool_)) for predicted in sets.values()])
    fitted_on_first = _fit([(predicted, first[name]) for name, predicted in sets.items()])
    fitted_on_second = _fit([(predicted, ~first[name]) for name, predicted in sets.items()])
    # With a single person there is no other half.
    return Fitted(whole or 1.0, fitted_on_second or whole or 1.0, fitted_on_first or whole or 1.0)


def in_first_half(predicted: Predictions) -> NDArray[np.bool_]:
    """Which clips are in the first half, (n,): by speaker, or by clip without one; the same in every set."""
    people = (speaker or clip for speaker, clip in zip(predicted.speakers, predicted.ids, strict=True))
    return np.array([zlib.crc32(person.encode()) % 2 == 0 for person in people], np.bool_)


def _fit(parts: Sequence[tuple[Predictions, NDArray[np.bool_]]]) -> float | None:
    """The temperature of the chosen clips; None where there is none."""
    weights = np.concatenate([np.full(chosen.sum(), min(1.0, MOST_CLIPS / max(len(chosen), 1))) for _, chosen in parts])
    if not len(weights):
        return None
    logits = np.concatenate([predicted.logits[chosen] for predicted, chosen in parts])
    labels = np.concatenate([predicted.targets[chosen].astype(np.int64) for predicted, chosen in parts])
    return metrics.fit_temperature(logits, labels, weights)
