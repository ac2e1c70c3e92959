"""Scores of predictions and their bootstrap intervals: plain NumPy, no model.

Every score is written for resampling weights, so that 2,000 bootstrap resamples are a few matrix products and the point
estimate is the same formula with every weight 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
RESAMPLES = 2000
CHANCE_DRAWS = 500
SURE = (0.4, 0.5, 0.6, 0.7, 0.8)  # least probabilities of a label that is believed
LEVEL = 0.95
REGRESSION = {"Acc-2": "acc2", "Acc-7": "acc7", "MAE": "mae", "Corr": "corr"}  # scores by their names in the field

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A score and the two ends of its percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: `resamples` draws with replacement, of clips, or of whole `groups` (one id per clip)."""

    resamples: int = RESAMPLES
    seed: int = 0
    groups: tuple[str, ...] | None = None


def confusion(labels: Ints, predictions: Ints, classes: int) -> Ints:
    """Counts [classes, classes]: row = true label, column = prediction."""
    flat = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def accuracy(counts: NDArray[Any]) -> Floats:
    """Share on the diagonal of confusions [..., C, C]; nan where a confusion is empty."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def brief(outputs: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """Of scores (n, C) accuracy and macro-F1, of values (n, 1) mean absolute error and correlation; no intervals."""
    if outputs.shape[1] == 1:
        values, wanted = outputs[:, 0], targets.astype(np.float64)
        error, corr = np.abs(values - wanted).mean(), correlation(values, wanted, np.ones(len(wanted)))
        return {"n": len(wanted), "mae": float(error), "corr": float(corr)}
    counts = confusion(targets.astype(np.int64), outputs.argmax(1), outputs.shape[1])
    return {"n": len(targets), "accuracy": float(accuracy(counts)), "macro_f1": float(macro_f1(counts))}


def per_class_f1(counts: NDArray[Any]) -> Floats:
    """F1 of each class from confusions [..., C, C]; 0 for a class never hit, nan for a class without a true example."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    support = counts.sum(-1)
    scores = _ratio(2 * hits, support + counts.sum(-2))
    return np.where(support > 0, scores, np.nan)


def macro_f1(counts: NDArray[Any]) -> Floats:
    """Mean F1 over the classes that have true examples (a set may hold four of the six labels)."""
    scores = per_class_f1(counts)
    known = ~np.isnan(scores)
    return _ratio(np.where(known, scores, 0.0).sum(-1), known.sum(-1))


def expected_calibration_error(probs: Floats, labels: Ints, weights: Floats | None = None) -> Floats:
    """ECE of probs [n, C], 15 equal-width bins of the top probability; `weights` [..., n] gives one score per row."""
    weights = np.ones(len(labels)) if weights is None else weights
    confidence = probs.max(1)
    gap = (probs.argmax(1) == labels).astype(np.float64) - confidence
    by_bin = np.zeros((len(labels), ECE_BINS))
    by_bin[np.arange(len(labels)), _bins(confidence)] = gap
    return _ratio(np.abs(weights @ by_bin).sum(-1), weights.sum(-1))


def sure(probs: Floats, labels: Ints) -> list[dict[str, float | None]]:
    """What is left of probs [n, C] where only answers of a least probability count: coverage and their accuracy."""
    confidence, right = probs.max(1), probs.argmax(1) == labels
    kept = [confidence >= least for least in SURE]
    return [
        {"least": least, "coverage": float(k.mean()), "accuracy": float(right[k].mean()) if k.any() else None}
        for least, k in zip(SURE, kept, strict=True)
    ]


def ece_by_chance(probs: Floats, seed: int = 0) -> float:
    """The mean ECE of clips whose labels are drawn from probs [n, C] themselves: what few clips alone make of it."""
    confidence = probs.max(1)
    right = np.random.default_rng(seed).random((CHANCE_DRAWS, len(probs))) < confidence
    gaps = (right - confidence) @ np.eye(ECE_BINS)[_bins(confidence)]
    return float((np.abs(gaps).sum(1) / len(probs)).mean())


def reliability(probs: Floats, labels: Ints) -> tuple[list[float], list[float]]:
    """Mean confidence and accuracy of the occupied ECE bins."""
    confidence, right = probs.max(1), probs.argmax(1) == labels
    bins = _bins(confidence)
    used = np.unique(bins)
    return (
        [float(confidence[bins == index].mean()) for index in used],
        [float(right[bins == index].mean()) for index in used],
    )


def _bins(confidence: Floats) -> Ints:
    """The ECE bin (low, high] of each confidence; one of exactly 0 belongs to the first."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def resampling_weights(n: int, bootstrap: Bootstrap) -> Floats:
    """How often each of n clips occurs in each resample, [resamples, n]; clips of one group always occur together."""
    rng = np.random.default_rng(bootstrap.seed)
    if bootstrap.groups is None:
        members = np.arange(n)
    else:
        if len(bootstrap.groups) != n:
            raise ValueError(f"{len(bootstrap.groups)} groups for {n} clips: one group id per clip is needed")
        members = np.unique(np.asarray(bootstrap.groups), return_inverse=True)[1]
    units = int(members.max()) + 1
    drawn = rng.multinomial(units, np.full(units, 1.0 / units), size=bootstrap.resamples).astype(np.float64)
    return drawn[:, members]


def classification_scores(probs: Floats, labels: Ints, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Accuracy, macro-F1 and ECE with 95 % intervals, per-class F1 and the confusion of probs [n, C], labels [n].

    Plain JSON values; an undefined number is None.
    """
    bootstrap = bootstrap or Bootstrap()
    classes = probs.shape[1]
    predictions = probs.argmax(1).astype(np.int64)
    counts = confusion(labels, predictions, classes)
    weights = resampling_weights(len(labels), bootstrap)
    cell = np.zeros((len(labels), classes * classes))
    cell[np.arange(len(labels)), labels * classes + predictions] = 1.0
    resampled = (weights @ cell).reshape(-1, classes, classes)
    return {
        "n": len(labels),
        "accuracy": asdict(_interval(accuracy(counts), accuracy(resampled))),
        "macro_f1": asdict(_interval(macro_f1(counts), macro_f1(resampled))),
        "ece": asdict(
            _interval(expected_calibration_error(probs, labels), expected_calibration_error(probs, labels, weights))
        ),
        "ece_by_chance": ece_by_chance(probs, bootstrap.seed),
        "sure": sure(probs, labels),
        "per_class_f1": [None if np.isnan(f1) else float(f1) for f1 in per_class_f1(counts)],
        "confusion": counts.tolist(),
        "interval": _describe(bootstrap),
    }


def regression_scores(values: Floats, targets: Floats, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """MAE, Acc-2, Acc-7 and Corr with 95 % intervals, of values and targets [n] on CMU-MOSI's scale from -3 to 3.

    Acc-2: the sign agrees, over targets that are not 0. Acc-7: the nearest whole number agrees. Corr: Pearson's.
    """
    bootstrap = bootstrap or Bootstrap()
    weights = np.concatenate([np.ones((1, len(targets))), resampling_weights(len(targets), bootstrap)])
    signed = (targets != 0).astype(np.float64)
    scored = {
        "mae": _ratio(weights @ np.abs(values - targets), weights.sum(1)),
        "acc2": _ratio(weights @ (signed * ((values > 0) == (targets > 0))), weights @ signed),
        "acc7": _ratio(weights @ (whole(values) == whole(targets)).astype(np.float64), weights.sum(1)),
        "corr": correlation(values, targets, weights),
    }
    found = {name: asdict(interval_of(scores)) for name, scores in scored.items()}
    return {"n": len(targets), **found, "interval": _describe(bootstrap)}


def correlation(values: Floats, targets: Floats, weights: Floats) -> Floats:
    """Pearson's correlation of values and targets [n] for each row of weights [..., n]; 0 where one is constant."""
    shares = weights / weights.sum(-1, keepdims=True)
    x = values - (shares @ values)[..., None]
    y = targets - (shares @ targets)[..., None]
    spread = np.sqrt((shares * x**2).sum(-1) * (shares * y**2).sum(-1))
    return np.where(spread > 1e-12, (shares * x * y).sum(-1) / np.maximum(spread, 1e-12), 0.0)


def whole(values: Floats) -> Floats:
    """The nearest whole number of CMU-MOSI's scale from -3 to 3, halves away from zero."""
    rounded: Floats = np.sign(values) * np.floor(np.abs(values).clip(max=3.0) + 0.5)
    return rounded


def fit_temperature(logits: Floats, labels: Ints, weights: Floats | None = None) -> float:
    """The temperature in [0.05, 20] that minimises the cross-entropy of logits [n, C] / temperature; weights [n].

    The loss is convex in 1/temperature, so a golden-section search on that finds the only minimum.
    """
    low, high = 1 / 20.0, 1 / 0.05
    golden = (np.sqrt(5) - 1) / 2
    while high - low > 1e-6 * high:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _cross_entropy(logits * left, labels, weights) < _cross_entropy(logits * right, labels, weights):
            high = right
        else:
            low = left
    return float(2 / (low + high))


def softmax(logits: Floats, temperature: float | Floats = 1.0) -> Floats:
    """Probabilities of logits [n, C] / temperature, one for all or [n, 1]."""
    scaled = logits / temperature
    grown = np.exp(scaled - scaled.max(1, keepdims=True))
    result: Floats = grown / grown.sum(1, keepdims=True)
    return result


def _cross_entropy(logits: Floats, labels: Ints, weights: Floats | None) -> float:
    peak = logits.max(1)
    log_sum = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
    return float(np.average(log_sum - logits[np.arange(len(labels)), labels], weights=weights))


def _ratio(part: Any, whole: Any) -> Floats:
    whole = np.asarray(whole, dtype=np.float64)
    result: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def cell(interval: Mapping[str, float]) -> str:
    """A score and its interval for a table."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def interval_of(scores: Floats) -> Interval:
    """Of a score of all samples, followed by that of each resample."""
    return _interval(scores[0], scores[1:])


def _interval(value: Any, resampled: Floats) -> Interval:
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def _describe(bootstrap: Bootstrap) -> dict[str, Any]:
    unit = "clip" if bootstrap.groups is None else "group"
    return {"level": LEVEL, "resamples": bootstrap.resamples, "seed": bootstrap.seed, "unit": unit}
