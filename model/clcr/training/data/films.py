"""Photographs as films: a face before a camera is seen for seconds, and photographs are what there is to learn from.

Without these, a model that is right of 89 % of single faces is right of 45 % of the same faces held for 6 s: its
temporal stages have never seen a second frame (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clcr.training.data.cache import Clip, Pack, PackView

MOVES = (2, 12)  # video slots between two movements of the head


def is_photograph(clip: Clip) -> bool:
    """Whether a clip is one picture with a face, and no film."""
    return len(clip.slots) == 1 and len(clip.frames) == 1


def held(versions: Sequence[Clip], counts: Sequence[int]) -> Clip:
    """A photograph held still: its `versions` one after the other, for so many video slots each."""
    frames = np.concatenate([clip.frames.repeat(count, 0) for clip, count in zip(versions, counts, strict=True)])
    return replace(versions[0], frames=frames, slots=np.ones(len(frames), np.bool_))


def filmed(pack: Pack, row: int, slots: int, rng: np.random.Generator) -> Clip:
    """A photograph of a pack held for so many slots; where it is stored in several versions, the head moves."""
    counts: list[int] = []
    while sum(counts) < slots:
        counts.append(min(int(rng.integers(MOVES[0], MOVES[1] + 1)), slots - sum(counts)))
    return held([pack.version(row, rng) for _ in counts], counts)


class HeldPack(PackView):
    """A pack whose photographs are shown for `slots` video slots; everything else stays."""

    def __init__(self, pack: Pack, slots: int) -> None:
        super().__init__(pack)
        self._slots = slots

    def clip(self, index: int) -> Clip:
        clip = self._pack.clip(index)
        return held([clip], [self._slots]) if is_photograph(clip) else clip
