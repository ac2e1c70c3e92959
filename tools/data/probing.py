"""What frozen features know of emotion: a logistic regression that never saw the speaker whom it predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clcr.training import metrics
from clcr.training.data.manifest import LABELS

if TYPE_CHECKING:  # torch takes 2 s to import, which --help of a probe need not wait for
    from torch import Tensor

Floats = NDArray[np.float64]
PENALTY = 3.0


def score(
    features: Floats, targets: NDArray[np.int64], speakers: Sequence[str], count: int, penalty: float = PENALTY
) -> dict[str, Any]:
    """Scores of a regression over `count` groups of speakers, each predicted without it; intervals by speaker."""
    answers = predicted(features, targets, folds(speakers, count), penalty)
    bootstrap = metrics.Bootstrap(groups=tuple(speakers))
    scored = metrics.classification_scores(np.eye(len(LABELS))[answers], targets, bootstrap)
    return {name: scored[name] for name in ("n", "accuracy", "macro_f1", "per_class_f1")}


def predicted(
    features: Floats, targets: NDArray[np.int64], groups: NDArray[np.int64], penalty: float = PENALTY
) -> NDArray[np.int64]:
    """The label of every clip by a regression that was fitted without the clips of its group."""
    import torch

    answers = np.zeros(len(targets), np.int64)
    for group in np.unique(groups):
        train, test = groups != group, groups == group
        mean, deviation = features[train].mean(0), features[train].std(0) + 1e-6
        x = _rotated(torch.from_numpy((features - mean) / deviation))
        weights = fit(x[train], torch.from_numpy(targets[train]), penalty)
        answers[test] = (x[test] @ weights[:-1] + weights[-1]).argmax(1).numpy()
    return answers


def _rotated(x: Tensor) -> Tensor:
    """The same clips in as many coordinates as there are clips: the penalty does not see the difference."""
    import torch

    values, vectors = torch.linalg.eigh(x @ x.T)
    rotated: Tensor = vectors * values.clamp(min=0).sqrt()
    return rotated


def fit(x: Tensor, targets: Tensor, penalty: float = PENALTY) -> Tensor:
    """Logistic regression with an L2 penalty, by L-BFGS: (features + 1, classes)."""
    import torch

    weights = torch.zeros(x.shape[1] + 1, len(LABELS), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        scores = x @ weights[:-1] + weights[-1]
        value = (
            torch.nn.functional.cross_entropy(scores, targets, reduction="sum") + penalty * weights[:-1].square().sum()
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def folds(speakers: Sequence[str], count: int) -> NDArray[np.int64]:
    """Speakers dealt into `count` groups; one group each where there are fewer."""
    names = sorted(set(speakers))
    return np.array([names.index(speaker) % count for speaker in speakers], np.int64)


def store(results: dict[str, Any], path: Path) -> None:
    """Write the results as JSON, with the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
