"""What frozen encoders make of a pack, computed once: a step then trains what comes after them, and nothing else.

Of every clip the encoders see `versions` changed copies and the clip itself (version 0). Faces and sound are stored in
half precision, beside the pack, under the hash of all that they depend on: a pack of voices outlives the face network.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from clcr.network.model import CLCR
from clcr.training.checkpoint import replacing_folder
from clcr.training.data.augment import Augment, at_model_size
from clcr.training.data.cache import Clip, Pack, PackView, bounds_of
from clcr.training.data.mixture import collate, last_window
from clcr.training.recipe import Recipe
from clcr_stream.errors import ConfigError

ENCODERS_OF = {"faces": ("vision.",), "sounds": ("acoustic.", "stages.acoustic.")}
ENCODERS = tuple(prefix for prefixes in ENCODERS_OF.values() for prefix in prefixes)
CONSTANTS = (".mean", ".deviation")  # by which tokens are standardised after they were stored
# Changes of a clip that is encoded.
OF_EVERY_STEP = ("film_p", "film_slots", "crop_hops", "audio_crop_p", "token_dropout", "modality_dropout")
BATCH = 24  # clips encoded together
LAST_START_HOP = 1500  # of a changed copy: speech positions from the first five minutes of a stream


class StoredPacks:
    """Opens packs as the frozen encoders of a model see them; encodes what is not stored yet."""

    def __init__(self, model: CLCR, recipe: Recipe, versions: int) -> None:
        lacking = [part for part in ENCODERS if not part.startswith(recipe.freeze)]
        if lacking or not recipe.freeze_statistics:
            raise ConfigError(
                f"recipe: stored_versions {recipe.stored_versions} needs frozen encoders; add {', '.join(ENCODERS)} to "
                "freeze, and freeze_statistics: true"
            )
        self._model, self._versions, self._seed = model, versions, recipe.seed
        self._augment = Augment(**{"modality_dropout": recipe.modality_dropout, **recipe.augment})
        changes = {name: value for name, value in asdict(self._augment).items() if name not in OF_EVERY_STEP and value}
        self._changes = json.dumps([changes, recipe.seed], sort_keys=True)
        self._digests = {part: _digest_of(model, prefixes) for part, prefixes in ENCODERS_OF.items()}

    def __call__(self, folder: Path, split: str, labels: tuple[str, ...] | None) -> Pack:
        """As `Pack(folder, split, labels)`. Raises ConfigError."""
        pack = Pack(folder, split, labels)
        pack.check_mel(self._model.config.mel)
        holds = {"faces": pack.holds("grey") or pack.holds("rgb"), "sounds": pack.holds("mel")}
        encoders = [self._digests[part] for part, held in holds.items() if held]
        named = " ".join([self._changes, *encoders, pack.key, *pack.ids])
        key = hashlib.sha256(named.encode()).hexdigest()[:16]
        place = folder.with_name(f"{folder.name}.stored") / f"{split}_{key}"
        for version in range(self._versions + 1):
            if not (place / str(version)).is_dir():
                self._encode(pack, version, place / str(version))
        return StoredPack(pack, [place / str(version) for version in range(self._versions + 1)])

    @torch.no_grad()
    def _encode(self, pack: Pack, version: int, folder: Path) -> None:
        """Write one version of all clips of a pack."""
        training = self._model.training
        self._model.eval()
        order = np.argsort([pack.clip(index).hops for index in range(len(pack))], kind="stable")
        faces: list[NDArray[np.float16]] = [np.zeros((0, 0), np.float16)] * len(pack)
        sounds = [np.zeros((0, 0, 0), np.float16)] * len(pack)
        for start in tqdm(
            range(0, len(order), BATCH), desc=f"{pack.name} version {version}", unit="batch", leave=False
        ):
            rows = order[start : start + BATCH]
            clips = [self._shown(pack.clip(int(row)), version, int(row)) for row in rows]
            for row, (face, sound) in zip(rows, encoded(self._model, clips), strict=True):
                faces[row], sounds[row] = face, sound
        self._model.train(training)
        with replacing_folder(folder) as fresh:
            np.save(fresh / "faces.npy", np.concatenate(faces))
            np.save(fresh / "sounds.npy", np.concatenate(sounds))
            np.savez(fresh / "counts.npz", faces=[len(part) for part in faces], sounds=[len(part) for part in sounds])

    def _shown(self, clip: Clip, version: int, row: int) -> Clip:
        if version == 0:
            return at_model_size(clip)
        rng = np.random.default_rng((self._seed, version, row))
        return replace(self._augment.changed(clip, rng), start_hop=int(rng.integers(LAST_START_HOP)))


def _digest_of(model: CLCR, prefixes: tuple[str, ...]) -> str:
    """Of the weights with these names, but for the constants."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(prefixes) and not name.endswith(CONSTANTS):
            digest.update(name.encode() + (value.numpy() + 0).tobytes())  # an average turns -0.0 into 0.0
    return digest.hexdigest()


class StoredPack(PackView):
    """A pack with features in place of pictures and sound."""

    def __init__(self, pack: Pack, versions: list[Path]) -> None:
        super().__init__(pack)
        self._versions = [(_Column(folder, "faces"), _Column(folder, "sounds")) for folder in versions]

    def clip(self, index: int) -> Clip:
        return self._encoded(index, 0)

    def version(self, index: int, rng: np.random.Generator) -> Clip:
        changed = len(self._versions) - 1
        return self._encoded(index, int(rng.integers(1, changed + 1)) if changed else 0)

    def _encoded(self, index: int, version: int) -> Clip:
        faces, sounds = self._versions[version]
        clip = self._pack.clip(index)
        return replace(clip, frames=faces.at(index), sound=sounds.at(index), mel=clip.mel[:0])


class EncodedPack(PackView):
    """A pack whose clips, their last 6 s, are encoded when they are first asked for: many evaluations, one encoding."""

    def __init__(self, pack: Pack, model: CLCR) -> None:
        super().__init__(pack)
        pack.check_mel(model.config.mel)
        self._model = model
        self._encoded: dict[int, Clip] = {}

    @torch.no_grad()
    def clip(self, index: int) -> Clip:
        if index not in self._encoded:
            clip = at_model_size(last_window(self._pack.clip(index)))
            [(faces, sound)] = encoded(self._model, [clip])
            self._encoded[index] = replace(clip, frames=faces, sound=sound, mel=clip.mel[:0])
        return self._encoded[index]


class _Column:
    """Arrays of different lengths, one after the other in a mapped file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._values = np.load(folder / f"{name}.npy", mmap_mode="r")
        with np.load(folder / "counts.npz") as counts:
            self._bounds = bounds_of(counts[name])

    def at(self, index: int) -> NDArray[np.float16]:
        start, end = self._bounds[index]
        return np.asarray(self._values[start:end])


def encoded(model: CLCR, clips: list[Clip]) -> list[tuple[NDArray[np.float16], NDArray[np.float16]]]:
    """Of each clip the features of its faces (valid slots, width) and of its sound (tokens, 3, acoustic width)."""
    batch = collate(clips)
    width = model.config.width
    faces = torch.cat(
        [torch.zeros(0, width), *(model.vision(part.float()) for part in batch.frames.split(256) if len(part))]
    )
    tokens = model.temporal_features("acoustic", batch.mel, batch.acoustic_valid, batch.acoustic_step)
    levels = [stage.plain(z) for stage, z in zip(model.stages_of("acoustic"), tokens, strict=True)]
    sound = torch.stack(levels, 2)
    counts = [len(clip.frames) for clip in clips]
    return [
        (face.half().numpy(), row[: clip.acoustic_tokens].half().numpy())
        for face, row, clip in zip(faces.split(counts), sound, clips, strict=True)
    ]
