"""Write the sets of single faces that the face network is trained on: FER+, faces of people, CK+, FER2013's own labels,
faces of Java-SED's films.

python tools/data/face_sets.py --data ../shared/data --out cache/faces
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clcr.network.config import EMOTIONS
from clcr.training.data.decode import decode_frames
from clcr.training.data.face_sets import save_face_set
from clcr_stream.errors import ClcrError
from clcr_stream.frontends.faces import FaceFinder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.manifests import CKPLUS_DEV_EVERY, cut_tiles, fer_split
from data.rows import records

LEAST_VOTES = 5  # of a face's ten raters for the six emotions together
FLAT = 5.0  # grey levels: pictures with less deviation show nothing
FER_PX, PEOPLE_PX = 48, 96
FILM_PX, FILM_EVERY = 112, 3  # slots of 1/15 s
LEFT_OUT_SOURCES = ("film",)  # stills: blurred, in profile, labelled noisily

Parts = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.str_], NDArray[np.str_] | None]


def hash_split(images: NDArray[np.uint8]) -> NDArray[np.str_]:
    """train or dev of each picture, as the manifests have it."""
    return np.array([fer_split(hashlib.sha256(image.tobytes()).hexdigest()) for image in images])


def one_hot(names: NDArray[np.str_]) -> NDArray[np.float32]:
    """(n, 6); a row of zeros for a name that is not one of the six."""
    return np.asarray(names[:, None] == np.array(EMOTIONS)[None], np.float32)


def ferplus(data: Path) -> Parts:
    """FER2013's faces with FER+'s votes over the six emotions, where at least LEAST_VOTES fall on them."""
    with np.load(data / "faces" / "ferplus_train.npz", allow_pickle=False) as archive:
        names, counts = [str(name) for name in archive["names"]], archive["votes"]
    votes = counts[:, [names.index(name) for name in EMOTIONS]].astype(np.float32)
    images = cut_tiles(data / "faces" / "fer2013_train", FER_PX, len(votes), colour=False)
    kept = (votes.sum(1) >= LEAST_VOTES) & (images.std((1, 2)) >= FLAT)
    images, votes = images[kept], votes[kept]
    return images, votes / votes.sum(1, keepdims=True), votes.sum(1), hash_split(images), None


def fer2013(data: Path) -> Parts:
    """FER2013 with its own labels; pictures that occur with two labels, or show nothing, are left out."""
    with np.load(data / "faces" / "fer2013_train" / "labels.npz", allow_pickle=False) as archive:
        names = archive["label_names"][archive["labels"]]
    images = cut_tiles(data / "faces" / "fer2013_train", FER_PX, len(names), colour=False)
    shares = one_hot(names)
    labels_of: dict[str, set[str]] = {}
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    for digest, name in zip(digests, names, strict=True):
        labels_of.setdefault(digest, set()).add(str(name))
    clear = np.array([len(labels_of[digest]) == 1 for digest in digests])
    kept = (shares.sum(1) > 0) & (images.std((1, 2)) >= FLAT) & clear
    return _labelled(images[kept], shares[kept], hash_split(images[kept]))


def people(data: Path) -> Parts:
    """Faces of people, split by person as the set says; grey, because half of them are."""
    folder = data / "faces_people"
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        names = archive["label_names"][archive["labels"]]
        source, split = archive["source"], archive["split"]
    shares = one_hot(names)
    kept = (shares.sum(1) > 0) & ~np.isin(source, LEFT_OUT_SOURCES)
    images = cut_tiles(folder, PEOPLE_PX, len(names), colour=False)[kept]
    return _labelled(images, shares[kept], split[kept])


def ckplus(data: Path) -> Parts:
    """CK+, every tenth subject apart."""
    with np.load(data / "faces" / "ckplus48.npz", allow_pickle=False) as archive:
        images, subjects = archive["images"], archive["subjects"]
        names = archive["label_names"][archive["labels"]]
    shares = one_hot(names)
    apart = sorted(set(subjects.tolist()))[::CKPLUS_DEV_EVERY]
    kept = shares.sum(1) > 0
    split = np.where(np.isin(subjects, apart), "dev", "train")
    return _labelled(images[kept], shares[kept], split[kept])


def _labelled(
    images: NDArray[np.uint8],
    shares: NDArray[np.float32],
    split: NDArray[np.str_],
    people: NDArray[np.str_] | None = None,
) -> Parts:
    return images, shares, np.ones(len(images), np.float32), split, people


def javased(data: Path) -> Parts:
    """Faces of Java-SED's films, six pictures a second as the runtime crops them; all of a film has its label."""
    folder = data / "javased"
    images, names, splits, speakers = [], [], [], []
    for record in records(folder / "labels.csv"):
        if record["kind"] != "av":
            continue
        finder = FaceFinder(FILM_PX)
        for slot, frame in decode_frames(folder / "av" / f"{record['clip']}.mp4", 0.0, 0.0):
            crop = finder.crop(frame)
            if crop is not None and slot % FILM_EVERY == 0:
                images.append(cv2.cvtColor(crop.rgb, cv2.COLOR_RGB2GRAY))
                names.append(record["emotion"])
                splits.append(record["split"])
                speakers.append(record["speaker"])
    return _labelled(np.stack(images), one_hot(np.array(names)), np.array(splits), np.array(speakers))


SETS: dict[str, Callable[[Path], Parts]] = {
    "ferplus": ferplus,
    "fer2013": fer2013,
    "people": people,
    "ckplus": ckplus,
    "javased": javased,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sets; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with faces/ and faces_people/")
    parser.add_argument("--out", type=Path, required=True, help="where the sets go")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sorted(SETS))
    options = parser.parse_args(arguments)
    try:
        for name in options.sets:
            images, shares, votes, split, people = SETS[name](options.data)
            save_face_set(options.out / f"{name}.npz", images, shares, votes, split, people)
            counts = {part: np.bincount(shares[split == part].argmax(1), minlength=6) for part in ("train", "dev")}
            for part, count in counts.items():
                print(f"{name} {part}: {', '.join(f'{label} {n}' for label, n in zip(EMOTIONS, count, strict=True))}")
    except (ClcrError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ClcrError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
