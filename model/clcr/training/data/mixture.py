"""Batches: a random mixture of packs for training, a pack in order for evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clcr.network.batch import Batch
from clcr.network.config import NEUTRAL
from clcr.training.data.augment import Augment, at_model_size
from clcr.training.data.cache import MEL_PER_TOKEN, MODALITIES, SLOTS_PER_HOP, TOKENS_PER_HOP, WINDOW_HOPS, Clip, Pack
from clcr.training.data.films import filmed, is_photograph
from clcr.training.data.prepare import FACE_PX
from clcr_stream.errors import ConfigError

_STEPS = 1 << 20  # random start offsets


@dataclass(frozen=True)
class FewSpeakers:
    """A step's samples of a pack come from `speakers` people, so that each has a past in the batch.

    Beside them come `neutral` clips of each of these people, which are in the pasts of the others only: in life most of
    a past is neutral, and a few labelled samples hold none.
    """

    speakers: int
    neutral: int = 0


class Mixture:
    """Draws training batches from several packs; the batch of a step depends on the seed and the step alone.

    balance: 0 draws samples evenly, 1 classes evenly, between: classes with n samples in proportion to n^(1 - balance).
    augment None: samples as stored, cut to a window's last 6 s. speakers: name -> out of how many speakers a step's
    samples of that pack are drawn, and what comes beside them; without, out of all. Safe to call from several threads.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        seed: int,
        balance: float = 0.5,
        augment: Augment | None = Augment(),  # noqa: B008
        speakers: Mapping[str, FewSpeakers] | None = None,
    ) -> None:
        self.packs = {pack.name: pack for pack in packs}
        if not packs or len(self.packs) != len(packs):
            raise ConfigError(
                f"a mixture was given packs {[pack.name for pack in packs]}; names must differ, at least one"
            )
        self._seed = seed
        self._augment = augment
        self._chances = {pack.name: _chances(pack, balance) for pack in packs}
        self._speakers = dict(speakers or {})

    def sample(self, counts: Mapping[str, int], step: int) -> tuple[Batch, Tensor]:
        """(batch, targets (B,)) of `step`, with counts[name] samples from each named pack, in that order.

        The neutral clips beside the samples of a pack come after them (`beside`).
        """
        unknown = sorted(set(counts) - set(self.packs))
        if unknown:
            raise ConfigError(f"no pack {unknown[0]!r} in the mixture; it has {', '.join(self.packs)}")
        rng = np.random.default_rng((self._seed, step))
        clips: list[Clip] = []
        targets: list[NDArray[np.generic]] = []
        for name, chosen in self._rows(counts, step).items():
            pack = self.packs[name]
            clips.extend(self._changed(self._version(pack, int(index), rng), rng) for index in chosen)
            targets.append(pack.targets[chosen])
        batch = collate(clips, rng.integers(0, _STEPS, (2, len(clips))))
        return batch, torch.from_numpy(np.concatenate(targets))

    def speakers(self, counts: Mapping[str, int], step: int) -> NDArray[np.str_]:
        """Who is in each sample of `sample(counts, step)`, as PACK/SPEAKER; "" where nobody is named."""
        names = [
            [f"{name}/{speaker}" if speaker else "" for speaker in self.packs[name].speakers[rows]]
            for name, rows in self._rows(counts, step).items()
        ]
        return np.array([name for part in names for name in part], np.str_)

    def beside(self, counts: Mapping[str, int], step: int) -> NDArray[np.bool_]:
        """Which samples of `sample(counts, step)` are there only for the pasts of the others."""
        marks = [np.arange(len(rows)) >= counts[name] for name, rows in self._rows(counts, step).items()]
        return np.concatenate(marks)

    def _rows(self, counts: Mapping[str, int], step: int) -> dict[str, NDArray[np.int64]]:
        """Which rows of each pack are in the batch of a step; after counts[name] of them those beside."""
        rng = np.random.default_rng((self._seed, step, 3))
        rows = {}
        for name, count in counts.items():
            pack, chances = self.packs[name], self._chances[name]
            if name in self._speakers:
                few = self._speakers[name]
                drawn = spread_over_speakers(pack.speakers, chances, count, few.speakers, rng)
                people = np.unique(pack.speakers[drawn]) if few.neutral else ()  # without, nothing is drawn
                more = neutral_clips(pack, people, few.neutral, rng)
                rows[name] = np.concatenate([drawn, more])
            else:
                rows[name] = rng.choice(len(pack), count, p=chances)
        return rows

    def counts(self, weights: Mapping[str, float], batch_size: int, step: int) -> dict[str, int]:
        """A random split of `batch_size` samples over the packs in proportion to `weights`."""
        rng = np.random.default_rng((self._seed, step, 1))
        shares = np.array(list(weights.values()), np.float64)
        drawn = rng.multinomial(batch_size, shares / shares.sum())
        return {name: int(count) for name, count in zip(weights, drawn, strict=True) if count}

    def batches(self, counts: Mapping[str, int], steps: range, workers: int = 1) -> Iterator[tuple[Batch, Tensor]]:
        """`sample` of each step in order, made ahead by `workers` threads (OpenCV and NumPy release the GIL)."""
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
            ahead: deque[Future[tuple[Batch, Tensor]]] = deque()
            try:
                for step in steps:
                    ahead.append(pool.submit(self.sample, counts, step))
                    if len(ahead) > 2 * workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _version(self, pack: Pack, row: int, rng: np.random.Generator) -> Clip:
        clip, augment = pack.version(row, rng), self._augment
        if augment is None or not (augment.film_p and is_photograph(clip)) or rng.random() >= augment.film_p:
            return clip
        least, most = augment.film_slots
        return filmed(pack, row, int(rng.integers(least, most + 1)), rng)

    def _changed(self, clip: Clip, rng: np.random.Generator) -> Clip:
        return at_model_size(last_window(clip)) if self._augment is None else self._augment(clip, rng)


def spread_over_speakers(
    speakers: NDArray[np.str_], chances: NDArray[np.float64], count: int, of: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` rows out of `of` speakers drawn evenly, by `chances` within a speaker: enough of each for a history."""
    names = np.unique(speakers)
    drawn = rng.choice(names, min(of, len(names)), replace=False)
    rows = []
    for part, speaker in zip(np.array_split(np.arange(count), len(drawn)), drawn, strict=True):
        own = np.flatnonzero(speakers == speaker)
        shares = chances[own] / chances[own].sum()
        rows.append(rng.choice(own, len(part), replace=len(part) > len(own), p=shares))
    return np.concatenate(rows)


def neutral_clips(pack: Pack, speakers: Iterable[str], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` neutral rows of each of these speakers, or as many as there are."""
    rows = [np.zeros(0, np.int64)]
    for speaker in speakers:
        own = np.flatnonzero((pack.speakers == speaker) & (pack.targets == NEUTRAL))
        rows.append(rng.permutation(own)[:count])
    return np.concatenate(rows)


def evaluation_batches(
    pack: Pack, batch_size: int, modalities: Sequence[str] = MODALITIES
) -> Iterator[tuple[Batch, Tensor, NDArray[np.int64]]]:
    """(batch, targets (B,), rows (B,) of the pack) in the pack's order, unchanged but for the last 6 s of longer clips.

    Only `modalities` are shown. A sample with none of them (a video in which no face was found, say) is in no batch:
    compare the number of rows with len(pack).
    """
    unknown = sorted(set(modalities) - set(MODALITIES))
    if unknown or not modalities:
        raise ConfigError(f"modalities {list(modalities)} were given; allowed is a subset of {', '.join(MODALITIES)}")
    rows: list[int] = []
    clips: list[Clip] = []
    for index in range(len(pack)):
        clip = last_window(pack.clip(index)).only(modalities)
        if any(clip.present):
            rows.append(index)
            clips.append(at_model_size(clip))
        if rows and (len(rows) == batch_size or index == len(pack) - 1):
            yield collate(clips), torch.from_numpy(pack.targets[rows]), np.array(rows, np.int64)
            rows, clips = [], []


def last_window(clip: Clip) -> Clip:
    """The newest 6 s, which is what the runtime's window holds when the clip ends."""
    return clip.span(max(0, clip.hops - WINDOW_HOPS), clip.hops)


def collate(clips: Sequence[Clip], offsets: NDArray[np.int64] | None = None) -> Batch:
    """One batch of clips, all encoded or none of them; the frames of the latter are at model size.

    offsets: (2, B) random start steps of the streams and of the words; without, steps count from the source's start.
    Vision and sound keep their alignment: both start at the same hop.
    """
    size = len(clips)
    offsets = np.zeros((2, size), np.int64) if offsets is None else offsets
    hops = offsets[0] // TOKENS_PER_HOP + np.array([clip.start_hop for clip in clips], np.int64)
    slots = max((len(clip.slots) for clip in clips if len(clip.frames)), default=0)
    sounds = max(clip.acoustic_tokens for clip in clips)
    words = max(len(clip.tokens) for clip in clips)
    vision_valid = np.zeros((size, slots), np.float32)
    acoustic_valid = np.zeros((size, sounds), np.float32)
    bands = next((clip.mel.shape[1] for clip in clips if len(clip.mel)), clips[0].mel.shape[1])
    mel = np.zeros((size, sounds * MEL_PER_TOKEN, bands), np.float32)
    token_ids = np.zeros((size, words), np.int64)
    token_valid = np.zeros((size, words), np.float32)
    for index, clip in enumerate(clips):
        if len(clip.frames):
            vision_valid[index, : len(clip.slots)] = clip.slots
        whole = clip.acoustic_tokens
        acoustic_valid[index, :whole] = 1.0
        if whole and not clip.encoded:
            mel[index, : whole * MEL_PER_TOKEN] = clip.mel[: whole * MEL_PER_TOKEN]
        token_ids[index, : len(clip.tokens)] = clip.tokens
        token_valid[index, : len(clip.tokens)] = 1.0
    pictures = [] if clips[0].encoded else [clip.frames for clip in clips]
    frames = np.concatenate([np.zeros((0, FACE_PX, FACE_PX, 3), np.uint8), *pictures])
    arrays = {
        **(_features(clips, sounds) if clips[0].encoded else {}),
        "frames": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),
        "vision_valid": vision_valid,
        "mel": mel,
        "acoustic_valid": acoustic_valid,
        "token_ids": token_ids,
        "token_valid": token_valid,
        "vision_step": hops * SLOTS_PER_HOP,
        "acoustic_step": hops * TOKENS_PER_HOP,
        "language_step": offsets[1],
    }
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _features(clips: Sequence[Clip], sounds: int) -> dict[str, NDArray[np.float32]]:
    """What encoded clips have in place of frames and log-mel."""
    heard = [clip.sound for clip in clips if clip.sound is not None]
    sound = np.zeros((len(clips), sounds, *heard[0].shape[1:]), np.float32)
    for row, features in zip(sound, heard, strict=True):
        row[: len(features)] = features
    faces = np.concatenate([clip.frames for clip in clips]).astype(np.float32)
    return {"face_features": faces, "sound_features": sound}


def _chances(pack: Pack, balance: float) -> NDArray[np.float64]:
    """The chance of each sample; evenly for regression."""
    chances = np.ones(len(pack))
    if pack.classes:
        counts = np.bincount(pack.targets, minlength=pack.classes)
        chances = counts[pack.targets].astype(np.float64) ** -balance
    return np.asarray(chances / chances.sum(), np.float64)
