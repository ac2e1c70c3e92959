"""Sets of single faces with soft labels: what the face network is trained on before it sees any video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr.network.config import EMOTIONS
from clcr_stream.errors import ConfigError

KEYS = ("images", "shares", "votes", "split", "people")


@dataclass(frozen=True)
class FaceSet:
    """Grey faces (n, side, side) uint8, and of each the share of its raters per emotion (n, 6), which add up to 1.

    votes: how many raters chose one of the six emotions (n,); sets without raters have 1.
    people: whose faces they are (n,), as SET/NAME; "" where the set does not say.
    """

    name: str
    images: NDArray[np.uint8]
    shares: NDArray[np.float32]
    votes: NDArray[np.float32]
    people: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The emotion with the largest share (n,)."""
        return np.asarray(self.shares.argmax(1), np.int64)


def load_face_set(path: Path, split: str, leave_out: Sequence[str] = ()) -> FaceSet:
    """One split of a face set; raises ConfigError when the file is missing or not a face set, or nothing is left.

    leave_out: people (SET/NAME) who are kept apart: of a set that has any of them, "dev" are they and "train" all
    others.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no face set; run `python tools/data/face_sets.py --data DIR --out {path.parent}`")
    with np.load(path, allow_pickle=False) as archive:
        missing = [key for key in KEYS if key not in archive.files]
        if missing:
            raise ConfigError(f"{path}: no face set, it lacks {missing[0]!r}; allowed: {', '.join(KEYS)}")
        people = np.array([f"{path.stem}/{name}" if name else "" for name in archive["people"]])
        apart = np.isin(people, leave_out)
        rows = np.where(apart, "dev", "train") == split if apart.any() else archive["split"] == split
        images, shares, votes = (archive[key][rows] for key in ("images", "shares", "votes"))
    if not len(images):
        raise ConfigError(f"{path}: no face in split {split!r}; allowed: train, dev")
    if shares.shape != (len(images), len(EMOTIONS)) or images.ndim != 3:
        raise ConfigError(f"{path}: images {images.shape} and shares {shares.shape} do not fit; write the set again")
    return FaceSet(path.stem, images, shares.astype(np.float32), votes.astype(np.float32), people[rows])


def save_face_set(
    path: Path,
    images: NDArray[np.uint8],
    shares: NDArray[np.float32],
    votes: NDArray[np.float32],
    split: NDArray[np.str_],
    people: NDArray[np.str_] | None = None,
) -> None:
    """Write a face set (see FaceSet); people by their names alone, None when nobody is known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.full(len(images), "") if people is None else people
    np.savez(path, images=images, shares=shares, votes=votes, split=split, people=names)
