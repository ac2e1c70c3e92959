"""Does CLCR's fusion say more than its best part? Against the best branch, the mean of the branches, their product.

The branches are the model itself shown one modality; the same samples go into all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training import metrics
from clcr.training.metrics import Bootstrap, Floats

LEAST_P = 1e-6  # no branch rules a label out


def against_parts(
    probabilities: Mapping[str, Floats], targets: NDArray[np.int64], bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Macro-F1 of each subset of several modalities beside what its branches say without a fusion.

    probabilities: (n, C) by subset, such as "V", "A", "VA"; subsets without all of their branches are left out.
    Returns by subset {"fusion", "best_branch", "average", "product": macro-F1, "branch": the best one's letter,
    "gain": {baseline: {value, low, high}}}: the paired difference of fusion and baseline with its 95 % interval over
    resampled samples.
    """
    weights = _weights(len(targets), bootstrap)
    found: dict[str, Any] = {}
    for subset in _fusions(probabilities):
        branches = [probabilities[letter] for letter in subset]
        others = {"average": np.mean(branches, 0), "product": product_of_experts(branches)}
        found[subset] = {"n": len(targets)} | _beside(
            _scores(probabilities[subset], targets, weights),
            {letter: _scores(probabilities[letter], targets, weights) for letter in subset},
            {name: _scores(said, targets, weights) for name, said in others.items()},
        )
    return found


def values_against_parts(
    values: Mapping[str, Floats], targets: Floats, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """The same for the values (n,) of a regression, by Acc-2 and without a product."""
    signed = targets != 0
    weights = _weights(len(targets), bootstrap) * signed

    def acc2(said: Floats) -> Floats:
        scores: Floats = (weights @ ((said > 0) == (targets > 0))) / weights.sum(1)
        return scores

    found: dict[str, Any] = {}
    for subset in _fusions(values):
        average = np.mean([values[letter] for letter in subset], 0)
        alone = {letter: acc2(values[letter]) for letter in subset}
        found[subset] = {"n": int(signed.sum())} | _beside(acc2(values[subset]), alone, {"average": acc2(average)})
    return found


def _fusions(subsets: Iterable[str]) -> tuple[str, ...]:
    """The subsets of several modalities of which every branch was scored too."""
    known = set(subsets)
    return tuple(subset for subset in subsets if len(subset) > 1 and set(subset) <= known)


def _weights(n: int, bootstrap: Bootstrap | None) -> Floats:
    """How often each sample counts: once each, then as in each resample."""
    return np.concatenate([np.ones((1, n)), metrics.resampling_weights(n, bootstrap or Bootstrap())])


def _beside(fused: Floats, alone: Mapping[str, Floats], others: Mapping[str, Floats]) -> dict[str, Any]:
    """A fusion beside its best branch and other baselines; scores of all samples, then of each resample."""
    best = max(alone, key=lambda letter: float(alone[letter][0]))
    baselines = {"best_branch": alone[best], **others}
    return {
        "fusion": float(fused[0]),
        **{name: float(scores[0]) for name, scores in baselines.items()},
        "branch": best,
        "gain": {name: asdict(metrics.interval_of(fused - scores)) for name, scores in baselines.items()},
    }


def fusion_table(fusion: dict[str, dict[str, Any]]) -> str:
    """Every fusion beside its baselines, and what a corrupted modality costs, as lines; "" where there is none."""
    lines = []
    for name, gains in fusion.items():
        for subset, scores in gains.items():
            if "gain" not in scores:
                beta, eta = scores["beta"], scores["eta"]
                lines.append(
                    f"{name:<12}{subset:<16}corrupted {scores['corrupted']:.3f}  absent {scores['absent']:.3f}  "
                    f"beta {beta[0]:.2f} -> {beta[1]:.2f}  eta {eta[0]:.2f} -> {eta[1]:.2f}"
                )
                continue
            beside = "  ".join(f"{b} {scores[b]:.3f} ({_gain(scores['gain'][b])})" for b in scores["gain"])
            lines.append(f"{name + ' ' + subset:<28} fusion {scores['fusion']:.3f}  {beside}")
    return "".join(line + "\n" for line in lines)


def _gain(interval: dict[str, float]) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def product_of_experts(branches: list[Floats]) -> Floats:
    """The normalised product of the branches' probabilities (n, C)."""
    return metrics.softmax(np.sum([np.log(np.maximum(p, LEAST_P)) for p in branches], 0))


def _scores(probabilities: Floats, targets: NDArray[np.int64], weights: Floats) -> Floats:
    """Macro-F1 of all samples, then of each resample."""
    classes = probabilities.shape[1]
    cell = np.zeros((len(targets), classes * classes))
    cell[np.arange(len(targets)), targets * classes + probabilities.argmax(1)] = 1.0
    return metrics.macro_f1((weights @ cell).reshape(-1, classes, classes))
