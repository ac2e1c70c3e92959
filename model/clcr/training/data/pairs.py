"""Samples put together by label: the face of one set, the voice of another, the words of a third.

Of a regression from -3 to 3 the nearest whole number is the label.

Few sets show a person with sound and words at once. What a fusion has to learn of them, which modality to believe and
when, it learns from such samples: given the label, one modality says nothing of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clcr.network.config import NEUTRAL
from clcr.training.data.cache import SLOTS_PER_HOP, Clip, Pack
from clcr.training.data.films import filmed, held, is_photograph
from clcr.training.metrics import whole
from clcr_stream.errors import ConfigError

STORED = {"vision": ("grey", "rgb"), "acoustic": ("mel",), "language": ("tokens",)}  # what of a pack is a modality
NOTHING = "nothing"  # the label of what shows nothing: noise, a blurred face, words at random
FILM_SLOTS = 30  # for which a photograph is held beside words alone
MIDDLE = 3  # the index of 0 among the whole numbers from -3 to 3
Drawn = tuple[Pack, int]  # a pack and a row of it


def label_count(pack: Pack) -> int:
    """How many labels the pack's samples may have."""
    return pack.classes or 2 * MIDDLE + 1


def label_indices(pack: Pack) -> NDArray[np.int64]:
    """The index of each sample's label, (n,)."""
    return (pack.targets if pack.classes else whole(pack.targets) + MIDDLE).astype(np.int64)


@dataclass(frozen=True)
class Sides:
    """For each modality its rows by label: (pack, row) of every sample that may stand for it."""

    rows: dict[str, list[list[tuple[Pack, NDArray[np.int64]]]]]  # modality -> label -> packs with their rows

    @classmethod
    def of(cls, packs: Sequence[Pack]) -> Sides:
        """By what the packs hold."""
        found: dict[str, list[list[tuple[Pack, NDArray[np.int64]]]]] = {}
        for modality, names in STORED.items():
            there = [np.any([pack.having(name) for name in names], 0) for pack in packs]
            if any(rows.any() for rows in there):
                found[modality] = [
                    [
                        (pack, chosen)
                        for pack, rows in zip(packs, there, strict=True)
                        if len(chosen := np.flatnonzero(rows & (label_indices(pack) == label)))
                    ]
                    for label in range(label_count(packs[0]))
                ]
        return cls(found)

    def has(self, modality: str, label: int) -> bool:
        """Whether any sample of the modality has that label."""
        return bool(self.rows[modality][label])

    def draw(self, modality: str, label: int, rng: np.random.Generator) -> Drawn:
        """A sample of that label, sets in proportion to the root of their size."""
        choices = self.rows[modality][label]
        shares = np.sqrt([len(rows) for _, rows in choices])
        pack, rows = choices[rng.choice(len(choices), p=shares / shares.sum())]
        return pack, int(rng.choice(rows))


@dataclass(frozen=True)
class Emptied:
    """How often a side says nothing of the label; one side of each sample always has it."""

    neutral: float = 0.0  # share of the sides that are neutral, as a plain sentence said in anger is
    nothing: Sequence[Pack] = ()  # packs of what shows nothing
    nothing_p: float = 0.0  # share of the sides that one of these stands for
    alone_p: float = 0.0  # share of the samples that are one of these, with no other modality


class PairedPack(Pack):
    """`size` samples whose modalities come from different samples of one label, of all labels alike.

    packs: each is a side for what it holds. `clip(i)` is always the same sample, `version(i)` another one of its label.
    No speaker is named: no sample is in the past of another. Raises ConfigError.
    """

    def __init__(self, name: str, packs: Sequence[Pack], size: int, seed: int, emptied: Emptied = Emptied()) -> None:
        self._sides = Sides.of(packs)
        self._nothing = Sides.of(emptied.nothing) if emptied.nothing else Sides({})
        if len(self._sides.rows) < 2:
            raise ConfigError(f"pairs need packs of two modalities; {', '.join(p.name for p in packs)} have one")
        self.name, self.key = name, "+".join(pack.key for pack in packs)
        self.classes, self._seed, self._emptied = packs[0].classes, seed, emptied
        self._modalities, self._spoiled = tuple(self._sides.rows), ""
        labels = range(label_count(packs[0]))
        known = [label for label in labels if any(self._sides.has(m, label) for m in self._modalities)]
        self._labels = np.resize(np.array(known, np.int64), size)
        self._neutral = NEUTRAL if self.classes else MIDDLE
        self.targets = self._labels if self.classes else (self._labels - MIDDLE).astype(packs[0].targets.dtype)
        self.ids = np.array([f"{name}_{index:05d}" for index in range(size)], np.str_)
        self.speakers = np.zeros(size, np.dtype("<U1"))

    def spoiled(self, modality: str) -> PairedPack:
        """The same samples, but that one modality of `clip(i)` shows nothing."""
        other = copy(self)
        other._spoiled = modality
        return other

    def clip(self, index: int) -> Clip:
        rng = np.random.default_rng((self._seed, index))
        drawn = self._drawn(int(self._labels[index]), self._modalities, rng)
        if self._spoiled:
            drawn[self._spoiled] = self._nothing.draw(self._spoiled, 0, rng)
        return self._together(drawn, rng, changed=False)

    def version(self, index: int, rng: np.random.Generator) -> Clip:
        """Another sample of that label, with two modalities or all; some show nothing at all."""
        if rng.random() < self._emptied.alone_p and self._nothing.rows:
            modality = str(rng.choice(list(self._nothing.rows)))
            drawn = {modality: self._nothing.draw(modality, 0, rng)}
        else:
            left_out = rng.choice(["", *self._modalities]) if len(self._modalities) > 2 else ""
            shown = [modality for modality in self._modalities if modality != left_out]
            label = int(self._labels[index])
            drawn = self._drawn(label, shown, rng) or self._drawn(label, self._modalities, rng)
        return self._together(drawn, rng, changed=True)

    @property
    def nothing_for(self) -> tuple[str, ...]:
        """The modalities of which there is something that shows nothing."""
        return tuple(modality for modality in self._modalities if modality in self._nothing.rows)

    def having(self, name: str) -> NDArray[np.bool_]:
        return np.full(len(self), any(name in STORED[modality] for modality in self._modalities))

    def check_mel(self, wanted: object) -> None:
        """The packs were checked one by one."""

    def _drawn(self, label: int, modalities: Sequence[str], rng: np.random.Generator) -> dict[str, Drawn]:
        """Which sample stands for which modality."""
        found: dict[str, Drawn] = {}
        for modality in rng.permutation(list(modalities)).tolist():
            plain, empty = rng.random() < self._emptied.neutral, rng.random() < self._emptied.nothing_p
            if found and empty and modality in self._nothing.rows:  # the first one always has the label
                found[modality] = self._nothing.draw(modality, 0, rng)
            elif found and plain and self._sides.has(modality, self._neutral):
                found[modality] = self._sides.draw(modality, self._neutral, rng)
            elif self._sides.has(modality, label):
                found[modality] = self._sides.draw(modality, label, rng)
        return found

    def _together(self, drawn: dict[str, Drawn], rng: np.random.Generator, changed: bool) -> Clip:
        clips = {m: pack.version(row, rng) if changed else pack.clip(row) for m, (pack, row) in drawn.items()}
        whole = next(iter(clips.values())).only(())
        if "acoustic" in clips:
            heard = clips["acoustic"]
            whole = replace(whole, mel=heard.mel, sound=heard.sound, mel_floor=heard.mel_floor)
        if "vision" in clips:
            seen = clips["vision"]
            if is_photograph(seen):
                slots = whole.hops * SLOTS_PER_HOP or FILM_SLOTS
                seen = filmed(*drawn["vision"], slots, rng) if changed else held([seen], [slots])
            whole = replace(whole, frames=seen.frames, slots=seen.slots)
        if "language" in clips:
            whole = replace(whole, tokens=clips["language"].tokens)
        return whole
