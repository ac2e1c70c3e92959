"""What is usual for the speaker of each clip: of other clips of theirs, as a stream would have kept it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clcr_stream import Baseline

Baselines = Mapping[str, Baseline]


def others_of(speakers: Sequence[str], seed: int = 0, usable: Sequence[bool] | None = None) -> list[NDArray[np.int64]]:
    """For each clip, the other clips of its speaker in random order, alike for a bundle and its checkpoint.

    usable: which clips may be in a past; without, all.
    """
    rng = np.random.default_rng(seed)
    names, places = np.asarray(speakers), np.arange(len(speakers))
    allowed = np.ones(len(names), np.bool_) if usable is None else np.asarray(usable, np.bool_)
    orders = [
        rng.permutation(np.flatnonzero((names == speaker) & (places != place) & allowed))
        for place, speaker in enumerate(names)
    ]
    return [order if speaker else order[:0] for order, speaker in zip(orders, names, strict=True)]


def pasts(
    left: Sequence[Baselines],
    speakers: Sequence[str],
    most_steps: Mapping[str, float],
    seed: int = 0,
    usable: Sequence[bool] | None = None,
) -> list[dict[str, Baseline]]:
    """For each clip, other clips of its speaker in random order until `most_steps` are reached, by modality.

    left: what a stream of each clip alone left of its person. {} for a clip without a speaker, or alone with it.
    usable: which clips may be in a past; without, all.
    """
    found: list[dict[str, Baseline]] = []
    for others in others_of(speakers, seed, usable):
        past = [left[other] for other in others]
        joined = {m: _joined([one[m] for one in past if m in one], most) for m, most in most_steps.items()}
        found.append({modality: one for modality, one in joined.items() if one is not None})
    return found


def _joined(past: Sequence[Baseline], most_steps: float) -> Baseline | None:
    """The mean of as many of these as are needed, weighted by their steps; None when they hold nothing."""
    counts = np.array([one.age_steps for one in past], np.float64)
    reached = int(np.searchsorted(np.cumsum(counts), most_steps)) + 1
    total = float(counts[:reached].sum())
    if total == 0:
        return None
    used = past[:reached]
    mean = sum(count * one.mean.astype(np.float64) for count, one in zip(counts, used, strict=False)) / total
    steps = np.full_like(used[0].steps, min(total, most_steps))
    return Baseline(np.asarray(mean, np.float32), steps)
