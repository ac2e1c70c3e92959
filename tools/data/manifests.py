"""Write manifests for the data sets under ../shared/data, and the tokenizer pruned to their training texts.

python tools/data/manifests.py --data ../shared/data --out cache/manifests
python tools/data/manifests.py --data ../shared/data --out cache/manifests --prepare   # and decode into cache/packs
python tools/data/manifests.py --data ../shared/data --out cache/open/manifests --words goemotions --prepare --only \\
    javased_av javased_audio emogator goemotions goemotions_spoken                     # the sets of engines/open
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.manifest import LABELS, Row, read_manifest, write_manifest
from clcr.training.data.prepare import MELS, prepare
from clcr.training.data.vocabulary import default_tokenizer_json, prune_vocabulary, store_vocabulary
from clcr_stream.errors import ClcrError, ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.rows import records, row
from data.sentiment import goemotions_sentiment, mosi, mosi_plain, mosi_text
from data.spoken import Recogniser

ACTED = {"angry": "anger", "fearful": "fear", "surprised": "surprise"}
CALM = {"calm": "neutral"}  # of emospeech, which has no neutral: the nearest
MELD = {"joy": "happy", "sadness": "sad"}
GOEMOTIONS = {
    "neutral": "neutral",
    "sadness": "sad",
    "grief": "sad",
    "disappointment": "sad",
    "remorse": "sad",
    "joy": "happy",
    "amusement": "happy",
    "love": "happy",
    "excitement": "happy",
    "surprise": "surprise",
    "fear": "fear",
    "nervousness": "fear",
    "anger": "anger",
    "annoyance": "anger",
}
HEARD = (
    "ravdess",
    "tess",
    "emodb",
    "nemo",
    "ased",
    "emogator",
    "emospeech",
    "javased_av",
    "javased_audio",
    "mosi",
    "mosi_plain",
)
WORDS = ("goemotions", "meld", "mosi")
SPOKEN_SEED = 1
RAVDESS_DEV = ("19", "20")
EMODB_DEV = ("15", "16")
CKPLUS_DEV_EVERY = 10  # subjects
FER_DEV_EVERY = 20  # pixel hashes: 5 %
FERPLUS_CLEAR = 6  # of ten raters
PEOPLE_LABELS = ("neutral", "happy", "surprise", "anger")  # of faces_people: 6 faces of fear and 13 sad ones are dev


def common(name: str, renamed: dict[str, str]) -> str:
    """The common label of a set's own name, or "" when it has none."""
    label = renamed.get(name, name)
    return label if label in LABELS else ""


def cut_tiles(folder: Path, side: int, count: int, colour: bool) -> NDArray[np.uint8]:
    """The first `count` tiles of a folder's contact sheets: (count, side, side) grey, or (count, side, side, 3) RGB."""
    import cv2

    tiles: list[NDArray[np.uint8]] = []
    for path in sorted(folder.glob("sheet_*.jpg")):
        sheet: Any = cv2.imread(str(path), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
        sheet = sheet[..., ::-1] if colour else sheet
        rows, columns, depth = sheet.shape[0] // side, sheet.shape[1] // side, sheet.shape[2:]
        sheet = sheet[: rows * side, : columns * side].reshape(rows, side, columns, side, *depth)
        tiles.append(sheet.swapaxes(1, 2).reshape(-1, side, side, *depth))
    images = np.concatenate([np.zeros((0, side, side, 3) if colour else (0, side, side), np.uint8), *tiles])[:count]
    if len(images) != count:
        raise ConfigError(f"{folder}: {len(images)} tiles for {count} labels; fetch the sheets again")
    return images


@lru_cache(maxsize=1)  # two sets are made of them
def unpack_fer2013(folder: Path, pack: Path) -> tuple[NDArray[np.str_], NDArray[np.uint8]]:
    """The label names and images in the set's order; the images go into `pack` as well."""
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        names = archive["label_names"][archive["labels"]]
    images = cut_tiles(folder, 48, len(names), colour=False)
    pack.parent.mkdir(parents=True, exist_ok=True)
    np.savez(pack, images=images)
    return np.asarray(names, np.str_), images


def fer_split(digest: str) -> str:
    """By the hash of the pixels: exact repeats of a picture stay on one side."""
    return "dev" if int(digest[:12], 16) % FER_DEV_EVERY == 0 else "train"


def fer2013(folder: Path, pack: Path) -> Iterator[Row]:
    """Exact repeats stay on one side of the cut; images that occur with two labels or show nothing are left out."""
    names, images = unpack_fer2013(folder, pack)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    labels_of: dict[str, set[str]] = {}
    for digest, name in zip(hashes, names, strict=True):
        labels_of.setdefault(digest, set()).add(str(name))
    flat = images.reshape(len(images), -1)
    spread = np.concatenate([part.std(axis=1) for part in np.array_split(flat, len(flat) // 1000 + 1)])
    for index, (digest, name) in enumerate(zip(hashes, names, strict=True)):
        label = common(str(name), {})
        blank = spread[index] < 5.0
        if label and len(labels_of[digest]) == 1 and not blank:
            yield row(f"fer{index:05d}", label, "face", fer_split(digest), media=f"{pack.name}#{index}")


def ferplus(faces: Path, pack: Path) -> Iterator[Row]:
    """FER2013's pictures that six or more of FER+'s ten raters call the same, with the raters' name for them."""
    _, images = unpack_fer2013(faces / "fer2013_train", pack)
    with np.load(faces / "ferplus_train.npz", allow_pickle=False) as archive:
        names, votes = [str(name) for name in archive["names"]], archive["votes"]
    for index, (image, counts) in enumerate(zip(images, votes, strict=True)):
        label = common(names[int(counts.argmax())], {})
        if label and counts.max() >= FERPLUS_CLEAR:
            split = fer_split(hashlib.sha256(image.tobytes()).hexdigest())
            yield row(f"fer{index:05d}", label, "face", split, media=f"{pack.name}#{index}")


def faces_people(folder: Path, pack: Path) -> Iterator[Row]:
    """Its own split by person, without the film stills; only labels that more than a few people kept apart show."""
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        values = {name: archive[name] for name in ("labels", "label_names", "person", "source", "split")}
    names = values["label_names"][values["labels"]]
    kept = np.flatnonzero(np.isin(names, PEOPLE_LABELS) & (values["source"] != "film"))
    pack.parent.mkdir(parents=True, exist_ok=True)
    np.savez(pack, images=cut_tiles(folder, 96, len(names), colour=True)[kept])
    for place, index in enumerate(kept):
        more = {"media": f"{pack.name}#{place}", "speaker": str(values["person"][index])}
        yield row(f"face{index:04d}", str(names[index]), "face", str(values["split"][index]), **more)


def ckplus(path: Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as archive:
        names = archive["label_names"][archive["labels"]]
        subjects = [str(subject) for subject in archive["subjects"]]
    dev = sorted(set(subjects))[::CKPLUS_DEV_EVERY]
    for index, (name, subject) in enumerate(zip(names, subjects, strict=True)):
        if label := common(str(name), {}):
            split = "dev" if subject in dev else "train"
            yield row(f"ck{index:03d}", label, "face", split, media=f"{path.name}#{index}", speaker=subject)


def acted_speech(path: Path, speaker_column: str, dev: tuple[str, ...]) -> Iterator[Row]:
    """The sentences are fixed, so their words carry no label: the text stays empty."""
    for record in records(path):
        speaker = record[speaker_column]
        if label := common(record["label"], ACTED):
            split = "dev" if speaker in dev else "train"
            yield row(Path(record["path"]).stem, label, "audio", split, media=record["path"], speaker=speaker)


def voices(folder: Path, renamed: dict[str, str]) -> Iterator[Row]:
    """nemo, ased, emogator, emospeech: their own split by speaker; the ids and file names carry no label.

    The text stays empty: nemo's sentences and emospeech's commands carry no label, ased's letter of the sentence would.
    """
    for record in records(folder / "labels.csv"):
        if label := common(record["label"], renamed):
            media = f"clips/{record['clip']}.opus"
            yield row(record["clip"], label, "audio", record["split"], media=media, speaker=record["speaker"])


def goemotions(folder: Path) -> Iterator[Row]:
    """Rows whose every label maps to one and the same common label."""
    for split in ("train", "dev", "test"):
        for number, record in enumerate(records(folder / f"goemotions_{split}.csv")):
            labels = {GOEMOTIONS.get(name, "") for name in record["labels"].split("|")}
            if len(labels) == 1 and (label := labels.pop()) and record["text"].strip():
                yield row(f"{split}{number:05d}-{record['id']}", label, "text", split, text=record["text"])


def meld(folder: Path) -> Iterator[Row]:
    for split in ("train", "dev", "test"):
        for record in records(folder / f"meld_{split}.csv"):
            identity = f"{split}-{record['dialogue_id']}-{record['utterance_id']}"
            if (label := common(record["emotion"], MELD)) and record["utterance"].strip():
                yield row(identity, label, "text", split, text=record["utterance"], speaker=record["speaker"])


def spoken(rows: Iterable[Row]) -> Iterator[Row]:
    """The texts as a speech recogniser would give them."""
    written = list(rows)
    recogniser = Recogniser(item.text for item in written if item.split == "train")
    rng = np.random.default_rng(SPOKEN_SEED)
    for item in written:
        yield replace(item, text=recogniser.heard(item.text, rng))


def javased(folder: Path, kind: str) -> Iterator[Row]:
    """The takes with video, or those with sound alone; four fixed sentences, so the text stays empty."""
    source, pattern = {"video": ("av", "av/{}.mp4"), "audio": ("audio", "audio/{}.opus")}[kind]
    for record in records(folder / "labels.csv"):
        if record["kind"] == source:
            media = pattern.format(record["clip"])
            yield row(record["clip"], record["emotion"], kind, record["split"], media=media, speaker=record["speaker"])


def manifests(data: Path, out: Path) -> dict[str, tuple[Iterator[Row], Path]]:
    """name -> its rows and the media root they are relative to."""
    audio = data / "audio"
    return {
        "goemotions": (goemotions(data / "text"), data / "text"),
        "meld": (meld(data / "text"), data / "text"),
        "goemotions_spoken": (spoken(goemotions(data / "text")), data / "text"),
        "meld_spoken": (spoken(meld(data / "text")), data / "text"),
        "ckplus": (ckplus(data / "faces" / "ckplus48.npz"), data / "faces"),
        "ravdess": (acted_speech(audio / "ravdess.csv", "actor", RAVDESS_DEV), audio),
        "emodb": (acted_speech(audio / "emodb.csv", "speaker", EMODB_DEV), audio),
        "javased_av": (javased(data / "javased", "video"), data / "javased"),
        "javased_audio": (javased(data / "javased", "audio"), data / "javased"),
        "fer2013": (fer2013(data / "faces" / "fer2013_train", out / "fer2013.npz"), out),
        "ferplus": (ferplus(data / "faces", out / "fer2013.npz"), out),
        "faces_people": (faces_people(data / "faces_people", out / "faces_people.npz"), out),
        "tess": (acted_speech(audio / "tess.csv", "speaker", ()), audio),
        "nemo": (voices(data / "nemo", {}), data / "nemo"),
        "ased": (voices(data / "ased", {}), data / "ased"),
        "emogator": (voices(data / "emogator", {}), data / "emogator"),
        "emospeech": (voices(data / "emospeech", CALM), data / "emospeech"),
        "mosi": (mosi(data / "mosi400"), data / "mosi400"),
        "mosi_plain": (mosi_plain(data / "mosi400"), data / "mosi400"),
        "mosi_text": (mosi_text(data / "text", data / "mosi400"), data / "text"),
        "goemotions_sentiment": (spoken(goemotions_sentiment(data / "text")), data / "text"),
    }


def make_tokenizer(out: Path, folder: Path, keep: int, names: Sequence[str]) -> Path:
    rows = [item for name in names for item in read_manifest(out / f"{name}.csv")]
    texts = (item.text for item in rows if item.split == "train" and item.text)
    tokenizer_json, kept_ids = prune_vocabulary(default_tokenizer_json().read_bytes(), texts, keep)
    return store_vocabulary(folder, tokenizer_json, kept_ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with faces/, audio/, text/, javased/, mosi400/"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the manifests go")
    parser.add_argument("--keep", type=int, default=12000, help="word pieces kept in the tokenizer (12000)")
    parser.add_argument(
        "--words",
        nargs="+",
        choices=WORDS,
        default=WORDS,
        metavar="SET",
        help=f"the sets whose training texts choose the word pieces ({' '.join(WORDS)})",
    )
    parser.add_argument("--prepare", action="store_true", help="also decode everything into OUT/../packs")
    parser.add_argument("--only", nargs="+", metavar="SET", help="with --prepare: these sets alone")
    parser.add_argument(
        "--acoustic-encoder", choices=tuple(MELS), default="whisper", help="that the sound is prepared for (whisper)"
    )
    options = parser.parse_args()
    try:
        sets = manifests(options.data, options.out)
        unknown = sorted(set(options.only or ()) - set(sets))
        if unknown:
            raise ConfigError(f"--only {unknown[0]}: no such set; allowed: {', '.join(sorted(sets))}")
        for name, (rows, _) in sets.items():
            print(f"{options.out / name}.csv: {write_manifest(options.out / f'{name}.csv', rows)} rows")
        tokenizer = make_tokenizer(options.out, options.out.parent / "tokenizer", options.keep, options.words)
        print(tokenizer)
        if options.prepare:
            for name in options.only or sets:
                root = sets[name][1]
                manifest, packs = options.out / f"{name}.csv", options.out.parent / "packs"
                encoder = options.acoustic_encoder if name in HEARD else "stem"  # the same pack where nothing is heard
                print(prepare(manifest, root, packs, tokenizer, encoder=encoder), flush=True)
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
