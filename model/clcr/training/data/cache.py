"""Opens a prepared pack; its arrays stay on disk and are mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.manifest import LABELS
from clcr.training.data.prepare import MELS, PACK_FORMAT
from clcr_stream.errors import ConfigError
from clcr_stream.frontends.mel import DEFAULT_MEL, MelSpec

MODALITIES = ("vision", "acoustic", "language")
SLOTS_PER_HOP, TOKENS_PER_HOP, MEL_PER_TOKEN, WINDOW_HOPS = 3, 5, 4, 30


@dataclass(frozen=True)
class Clip:
    """One sample as it is stored; an absent modality has length 0. Slot 0 and token 0 start at the same time."""

    frames: NDArray[Any]  # uint8 (valid slots, h, w) grey or (valid slots, h, w, 3) RGB; of an encoded clip features
    slots: NDArray[np.bool_]  # (video slots,) True where a face was found; frames hold these, in order
    mel: NDArray[np.float32]  # (4 * acoustic tokens, bands)
    tokens: NDArray[np.int64]  # (language tokens,)
    mel_floor: float = DEFAULT_MEL.log_floor  # of the energy in a band: what silence is
    start_hop: int = 0  # hops of 0.2 s between the source's start and slot 0
    sound: NDArray[np.float16] | None = None  # (acoustic tokens, 3, width): of an encoded clip, in place of mel

    @property
    def encoded(self) -> bool:
        """Whether frozen encoders have been at work: frames are features (valid slots, width), mel is empty."""
        return self.sound is not None

    @property
    def acoustic_tokens(self) -> int:
        """Whole tokens of 40 ms."""
        return len(self.mel) // MEL_PER_TOKEN if self.sound is None else len(self.sound)

    @property
    def hops(self) -> int:
        """Hops of 0.2 s that cover the video and the sound."""
        return max(-(-len(self.slots) // SLOTS_PER_HOP), -(-self.acoustic_tokens // TOKENS_PER_HOP))

    @property
    def present(self) -> tuple[bool, bool, bool]:
        """Which modalities have anything to say, in modality order."""
        return bool(len(self.frames)), self.acoustic_tokens > 0, len(self.tokens) > 0

    def span(self, start_hop: int, end_hop: int) -> Clip:
        """Video and sound of hops [start_hop, end_hop); the words stay."""
        first, last = start_hop * SLOTS_PER_HOP, end_hop * SLOTS_PER_HOP
        before, inside = int(self.slots[:first].sum()), int(self.slots[first:last].sum())
        mel_per_hop = TOKENS_PER_HOP * MEL_PER_TOKEN
        return replace(
            self,
            frames=self.frames[before : before + inside],
            slots=self.slots[first:last],
            mel=self.mel[start_hop * mel_per_hop : end_hop * mel_per_hop],
            sound=None if self.sound is None else self.sound[start_hop * TOKENS_PER_HOP : end_hop * TOKENS_PER_HOP],
            start_hop=self.start_hop + start_hop,
        )

    def only(self, modalities: Sequence[str]) -> Clip:
        """The clip without the other modalities."""
        kept = self
        if "vision" not in modalities:
            kept = replace(kept, frames=kept.frames[:0], slots=kept.slots[:0])
        if "acoustic" not in modalities:
            kept = replace(kept, mel=kept.mel[:0], sound=None if kept.sound is None else kept.sound[:0])
        if "language" not in modalities:
            kept = replace(kept, tokens=kept.tokens[:0])
        return kept


class Pack:
    """The labelled samples of one split of a prepared pack.

    labels: the class names in the model's order, or None for regression (the label is a number). Samples whose label is
    empty or not among `labels` are left out. Raises ConfigError when the pack is missing, of another version, or
    nothing is left.
    """

    def __init__(self, folder: Path, split: str, labels: Sequence[str] | None = LABELS) -> None:
        description = folder / "pack.json"
        if not description.is_file():
            raise ConfigError(
                f"{folder}: no prepared pack; run `python -m clcr.training.data.prepare MANIFEST.csv --media-root DIR`"
            )
        described = json.loads(description.read_text(encoding="utf-8"))
        version = described["format"]
        if version != PACK_FORMAT:
            raise ConfigError(
                f"{folder}: pack format {version}, this code reads {PACK_FORMAT}; delete it and prepare again"
            )
        self.name = folder.name
        self.key = str(described.get("key", ""))  # changes with the manifest, the tokenizer and the front-ends
        self.mel = MelSpec(**described.get("mel", {}))
        with np.load(folder / "items.npz", allow_pickle=False) as archive:
            items = {name: archive[name] for name in archive.files}
        numbers = _targets(items["label"], labels)
        rows = np.flatnonzero((items["split"] == split) & ~np.isnan(numbers))
        if not len(rows):
            raise ConfigError(
                f"{folder}: no labelled sample in split {split!r}; look at its manifest's split and label"
            )
        self.ids: NDArray[np.str_] = items["id"][rows]
        self.speakers: NDArray[np.str_] = items["speaker"][rows]
        self.targets: NDArray[Any] = numbers[rows].astype(np.float32 if labels is None else np.int64)  # (len,)
        self.classes = 0 if labels is None else len(labels)
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _STORED}
        self._bounds = {name: bounds_of(items[f"{name}_count"])[rows] for name in _STORED}

    def __len__(self) -> int:
        return len(self.ids)

    def clip(self, index: int) -> Clip:
        """Sample `index`; its arrays are views of the mapped file where no conversion is needed."""
        grey = self._stored("grey", index)
        return Clip(
            frames=grey if len(grey) else self._stored("rgb", index),
            slots=self._stored("slots", index).astype(np.bool_),
            mel=self._stored("mel", index).astype(np.float32),
            mel_floor=self.mel.log_floor,
            tokens=self._stored("tokens", index).astype(np.int64),
        )

    def having(self, name: str) -> NDArray[np.bool_]:
        """Which samples (len,) have something of that kind: grey, rgb, slots, mel or tokens."""
        bounds = self._bounds[name]
        return np.asarray(bounds[:, 1] > bounds[:, 0])

    def holds(self, name: str) -> bool:
        """Whether any sample has something of that kind."""
        return bool(self.having(name).any())

    def version(self, index: int, rng: np.random.Generator) -> Clip:
        """Sample `index`, in one of its versions where several are stored."""
        return self.clip(index)

    def check_mel(self, wanted: MelSpec) -> None:
        """Raise ConfigError when the pack holds sound and it was not prepared for the model's acoustic encoder."""
        if self.mel != wanted and self.holds("mel"):
            kinds = {spec: name for name, spec in MELS.items()}
            raise ConfigError(
                f"{self.name}: its sound is prepared for acoustic_encoder {kinds.get(self.mel, self.mel)}, the model "
                f"has {kinds.get(wanted, wanted)}; prepare it again with --acoustic-encoder"
            )

    def _stored(self, name: str, index: int) -> NDArray[Any]:
        start, end = self._bounds[name][index]
        block: NDArray[Any] = self._arrays[name][start:end]
        return block


class PackView(Pack):
    """The samples of a pack, of which `clip` gives something else."""

    def __init__(self, pack: Pack) -> None:
        self.name, self.key = pack.name, pack.key
        self.ids, self.speakers, self.targets, self.classes = pack.ids, pack.speakers, pack.targets, pack.classes
        self._pack = pack

    def having(self, name: str) -> NDArray[np.bool_]:
        return self._pack.having(name)

    def check_mel(self, wanted: MelSpec) -> None:
        self._pack.check_mel(wanted)


_STORED = ("grey", "rgb", "slots", "mel", "tokens")


def bounds_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2): where each sample's elements start and end in the joined array."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.stack([ends - counts, ends], axis=1)


def _targets(names: NDArray[np.str_], labels: Sequence[str] | None) -> NDArray[np.float64]:
    """Class index or number of each label; NaN where it has none."""
    if labels is not None:
        index = {name: float(place) for place, name in enumerate(labels)}
        return np.array([index.get(str(name), np.nan) for name in names])
    return np.array([_number(str(name)) for name in names])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
