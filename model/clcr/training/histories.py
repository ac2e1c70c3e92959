"""Histories of people for a model with baselines: which samples are in the past of which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clcr.network.config import NEUTRAL
from clcr.network.model import Usual
from clcr.scoring.histories import others_of

NEUTRAL_P = 0.35  # of the histories: all neutral
ONE_EMOTION_P = 0.15  # all of one label
LONGEST = 12.0  # a sample in a history counts up to so often, as if its person had gone on like that


def companions(
    speakers: NDArray[np.str_], targets: NDArray[np.int64], share: float, rng: np.random.Generator
) -> Tensor:
    """(B, B): how much of the sample of a column is in the past of the sample of a row; 0 on the diagonal.

    A `share` of the samples get a past, out of the other samples of their speaker in the batch: of any length and
    mixture, all neutral or of one emotion alone. A sample without a speaker, or alone with it, has none.
    """
    matrix = np.zeros((len(speakers), len(speakers)), np.float32)
    for index, speaker in enumerate(speakers):
        others = np.flatnonzero((speakers == speaker) & (np.arange(len(speakers)) != index))
        kind = rng.random()
        if not speaker or not len(others) or rng.random() >= share:
            continue
        if kind < NEUTRAL_P + ONE_EMOTION_P:
            label = NEUTRAL if kind < NEUTRAL_P else targets[rng.choice(others)]
            others = others[targets[others] == label]
        past = rng.permutation(others)[: int(rng.integers(1, len(others) + 1))] if len(others) else others
        matrix[index, past] = np.exp(rng.uniform(0.0, np.log(LONGEST)))
    return torch.from_numpy(matrix)


def past_of_each(
    usual: Usual,
    speakers: Sequence[str],
    most_steps: tuple[float, float],
    seed: int = 0,
    usable: Sequence[bool] | None = None,
) -> Usual:
    """For an evaluation: of each sample, other samples of its speaker in random order until `most_steps` are reached.

    most_steps: of vision and of sound. usable: which samples may be in a past; without, all. A sample whose speaker has
    no other gets no past.
    """
    mean, steps = torch.zeros_like(usual.mean), torch.zeros_like(usual.steps)
    for index, others in enumerate(others_of(speakers, seed, usable)):
        for place, most in enumerate(most_steps):
            counts = usual.steps[others, place]
            reached = int(np.searchsorted(np.cumsum(counts.numpy()), most)) + 1
            past, weights = others[:reached], counts[:reached]
            total = float(weights.sum())
            if total > 0:
                mean[index, place] = (usual.mean[past, place] * weights[:, None, None]).sum(0) / total
                steps[index, place] = min(total, most)
    return Usual(mean, steps)
