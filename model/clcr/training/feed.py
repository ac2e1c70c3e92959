"""From a recipe to batches: which packs, which speakers, how many of each, which modalities are shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clcr.network.batch import Batch
from clcr.network.config import MODALITIES
from clcr.network.losses import UNLABELLED
from clcr.training.data.augment import Augment
from clcr.training.data.cache import Clip, Pack
from clcr.training.data.mixture import FewSpeakers, Mixture
from clcr.training.data.pairs import NOTHING, Emptied, PairedPack, label_count
from clcr.training.histories import companions
from clcr.training.recipe import PAIRS, SUBSETS, DevPack, Pairs, Recipe, TrainPack, subset_modalities
from clcr_stream.errors import ConfigError
from clcr_stream.frontends.mel import MelSpec

PAIRS_OF_A_LABEL = 64  # drawn anew whenever they are used
AHEAD = 3  # batches made ahead of their use
PackOpener = Callable[[Path, str, tuple[str, ...] | None], Pack]  # folder, split, labels


@dataclass(frozen=True)
class Group:
    """The samples of one step that go through the model together, and their share in the step's loss."""

    batch: Batch
    labels: Tensor  # (B,)
    share: float
    history: Tensor | None = None  # (B, B): which samples are in the past of which


class Selected(Pack):
    """Some samples of packs, in the given order, under one name; no pack is read again."""

    def __init__(self, name: str, parts: Sequence[tuple[Pack, NDArray[np.int64]]]) -> None:
        self.name = name
        self.key = "+".join(pack.key for pack, _ in parts)
        self.ids = np.concatenate([pack.ids[rows] for pack, rows in parts])
        self.speakers = np.concatenate([pack.speakers[rows] for pack, rows in parts])
        self.targets = np.concatenate([pack.targets[rows] for pack, rows in parts])
        self.classes = parts[0][0].classes
        self._sources = [(pack, int(row)) for pack, rows in parts for row in rows]

    def clip(self, index: int) -> Clip:
        pack, row = self._sources[index]
        return pack.clip(row)

    def version(self, index: int, rng: np.random.Generator) -> Clip:
        pack, row = self._sources[index]
        return pack.version(row, rng)

    def having(self, name: str) -> NDArray[np.bool_]:
        packs = {id(pack): pack for pack, _ in self._sources}
        known = {key: pack.having(name) for key, pack in packs.items()}
        return np.array([known[id(pack)][row] for pack, row in self._sources], np.bool_)

    def check_mel(self, wanted: MelSpec) -> None:
        for pack in {id(pack): pack for pack, _ in self._sources}.values():
            pack.check_mel(wanted)


class Feed:
    """The training batches of a recipe; those of step k depend on the recipe's seed and k alone.

    Packs of one `group` share a batch; every other pack has its own, so that single images are not padded to the length
    of a sound. labels: the model's, None for regression. leave_out: speakers never drawn, as SPEAKER (of any pack) or
    PACK/SPEAKER. mel: what the model hears, to be compared with the packs. open_pack: how a pack is opened, where not
    as it was prepared. Raises ConfigError.
    """

    def __init__(
        self,
        recipe: Recipe,
        labels: tuple[str, ...] | None,
        leave_out: tuple[str, ...] = (),
        mel: MelSpec | None = None,
        open_pack: PackOpener = Pack,
    ) -> None:
        self._recipe = recipe
        self._counts: dict[str, dict[str, int]] = {}
        packs: dict[str, list[Pack]] = {}
        speakers: dict[str, FewSpeakers] = {}
        found: set[str] = set()
        for use in recipe.train:
            pack = train_pack(use, labels, open_pack)
            if mel is not None:
                pack.check_mel(mel)
            folder = Path(use.pack).name
            names = np.array([f"{folder}/{speaker}" for speaker in pack.speakers])
            found.update(names.tolist())
            rows = np.flatnonzero(~np.isin(pack.speakers, leave_out) & ~np.isin(names, leave_out))
            pack = Selected(pack.name, [(pack, rows)])
            group = use.group or pack.name
            packs.setdefault(group, []).append(pack)
            self._counts.setdefault(group, {})[pack.name] = use.per_step
            if use.neutral and labels is None:
                raise ConfigError(f"{use.pack}: neutral {use.neutral} is for labels of emotions; leave it out")
            if use.speakers is not None:
                speakers[pack.name] = FewSpeakers(use.speakers, use.neutral)
        for speaker in leave_out:
            if not any(speaker in (name, name.partition("/")[2]) for name in found):
                raise ConfigError(f"--leave-out {speaker}: no such speaker; the packs have {', '.join(sorted(found))}")
        if recipe.pairs is not None:
            members = [pack for group in packs.values() for pack in group]
            packs[PAIRS] = [paired(recipe.pairs, members, recipe.seed, open_pack)]
            self._counts[PAIRS] = {PAIRS: recipe.pairs.per_step}
        augment = Augment(**{"modality_dropout": recipe.modality_dropout, **recipe.augment})
        whole = replace(augment, modality_dropout=0.0, film_p=0.0)  # of a pair, another side may have the label
        self.mixtures = {
            group: Mixture(
                members, recipe.seed * 1000 + index, recipe.balance, whole if group == PAIRS else augment, speakers
            )
            for index, (group, members) in enumerate(packs.items())
        }

    def at(self, step: int) -> list[Group]:
        """The groups of a step."""
        rng = np.random.default_rng((self._recipe.seed, step, 2))
        total = sum(count for counts in self._counts.values() for count in counts.values())
        groups = []
        for name, mixture in self.mixtures.items():
            batch, labels = mixture.sample(self._counts[name], step)
            hidden = rng.random(len(batch)) < self._recipe.empty_share
            history = None
            if self._recipe.history > 0:
                names = mixture.speakers(self._counts[name], step)
                history = companions(names, labels.numpy(), self._recipe.history, rng)
                labels = labels.masked_fill(torch.from_numpy(mixture.beside(self._counts[name], step)), UNLABELLED)
            share = sum(self._counts[name].values()) / total
            groups.append(Group(hide(batch, torch.from_numpy(hidden)), labels, share, history))
        return groups

    @contextmanager
    def prefetching(self, start: int, end: int) -> Generator[Generator[list[Group], None, None], None, None]:
        """An iterator over the groups of steps [start, end), made ahead in one thread that ends with the block."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            ahead: deque[Future[list[Group]]] = deque()
            try:
                yield self._ordered(pool, ahead, range(start, end))
            finally:
                for future in ahead:
                    future.cancel()

    def _ordered(
        self, pool: ThreadPoolExecutor, ahead: deque[Future[list[Group]]], steps: range
    ) -> Generator[list[Group], None, None]:
        for step in steps:
            ahead.append(pool.submit(self.at, step))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def paired(pairs: Pairs, packs: Sequence[Pack], seed: int, open_pack: PackOpener = Pack) -> Pack:
    """The pack of samples that a recipe puts together by label. Raises ConfigError."""
    nothing = [open_pack(Path(folder), "train", (NOTHING,)) for folder in pairs.nothing]
    size = label_count(packs[0]) * PAIRS_OF_A_LABEL
    return PairedPack(PAIRS, packs, size, seed, Emptied(pairs.neutral, nothing, pairs.nothing_p, pairs.nothing_alone_p))


def hide(batch: Batch, rows: Tensor) -> Batch:
    """The batch with every modality of `rows` (bool, B) absent: what the model sees when nothing is there."""
    if not bool(rows.any()):
        return batch
    shown = (~rows).float()[:, None]
    owner = torch.arange(len(batch)).repeat_interleave(batch.vision_valid.sum(1).long())
    values = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    for name in ("frames", "face_features"):
        values[name] = values[name][~rows[owner]] if values[name] is not None and len(values[name]) else values[name]
    for name in ("vision_valid", "acoustic_valid", "token_valid"):
        values[name] = values[name] * shown
    return Batch(**values)


def train_pack(use: TrainPack, labels: tuple[str, ...] | None, open_pack: PackOpener = Pack) -> Pack:
    """A training pack over its splits; restricted ones carry the restriction in their name."""
    parts = [open_pack(Path(use.pack), split, labels) for split in use.splits]
    pack: Pack = Selected(parts[0].name, [(part, np.arange(len(part))) for part in parts])
    if use.having is None:
        return pack
    chosen = restrict(pack, use.having)
    chosen.name = f"{pack.name}+{use.having}"
    return chosen


def dev_pack(use: DevPack, labels: tuple[str, ...] | None, open_pack: PackOpener = Pack) -> Pack:
    """A development pack, restricted as the recipe says and thinned evenly to at most `limit` samples."""
    pack = open_pack(Path(use.pack), use.split, labels)
    if use.having is not None:
        pack = restrict(pack, use.having)
    return pack if use.limit is None else thinned(pack, use.limit)


def thinned(pack: Pack, limit: int) -> Pack:
    """At most so many of a pack's samples, evenly."""
    if len(pack) <= limit:
        return pack
    rows = np.linspace(0, len(pack) - 1, limit).round().astype(np.int64)
    return Selected(pack.name, [(pack, rows)])


def speakers_pack(folder: Path, splits: Sequence[str], speakers: Sequence[str], labels: tuple[str, ...] | None) -> Pack:
    """All samples of the given speakers over several splits of one pack. Raises ConfigError when there is none."""
    parts = [Pack(folder, split, labels) for split in splits]
    rows = [np.flatnonzero(np.isin(part.speakers, list(speakers))) for part in parts]
    if not sum(len(part) for part in rows):
        known = sorted({str(speaker) for part in parts for speaker in part.speakers})
        raise ConfigError(f"{folder}: nothing by {', '.join(speakers)}; its speakers: {', '.join(known)}")
    return Selected(folder.name, list(zip(parts, rows, strict=True)))


def stored_modalities(pack: Pack) -> NDArray[np.bool_]:
    """Which modalities each clip was recorded with, [n, 3]; a video without a found face still counts as vision."""
    clips = (pack.clip(index) for index in range(len(pack)))
    return np.array([(len(clip.slots) > 0, clip.acoustic_tokens > 0, len(clip.tokens) > 0) for clip in clips], bool)


def restrict(pack: Pack, having: str) -> Pack:
    """The clips recorded with every modality of `having`, such as "VA". Raises ConfigError when there is none."""
    wanted = [MODALITIES.index(name) for name in subset_modalities(having)]
    rows = np.flatnonzero(stored_modalities(pack)[:, wanted].all(1))
    if not len(rows):
        raise ConfigError(f"{pack.name}: no clip was recorded with {having}; leave the restriction out")
    return Selected(pack.name, [(pack, rows)])


def possible_subsets(pack: Pack) -> tuple[str, ...]:
    """The subsets of modalities for which the pack has clips that were recorded with all of them."""
    stored = stored_modalities(pack)
    columns = {subset: [MODALITIES.index(name) for name in subset_modalities(subset)] for subset in SUBSETS}
    return tuple(subset for subset in SUBSETS if stored[:, columns[subset]].all(1).any())
