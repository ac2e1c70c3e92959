"""A set of what shows nothing: noises, hums and tunes, pictures without a face to read, words at random.

    python tools/data/nothing.py --manifests cache/manifests --out cache/nothing

writes sounds (WAV) and faces (PNG) under OUT and the manifest OUT/nothing.csv, all with the label "nothing", for
`clcr.training.data.prepare` with `--media-root OUT`. Faces are flat, noise, shapes, or real faces blurred, dark or
covered beyond reading; words are those of the texts, out of order. The faces and words of the dev part come from the
dev parts of those sets. `--no-faces` takes no real faces. Same seed, same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clcr.training.data.decode import SAMPLE_RATE_HZ, load_image
from clcr.training.data.manifest import Row, read_manifest, write_manifest
from clcr.training.data.pairs import NOTHING
from clcr_stream.errors import ClcrError, ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.changed_sound import write_wav

# Pictures and words are many and small, so that none is learned by heart.
COUNTS = {"train": {"audio": 240, "face": 1200, "text": 2400}, "dev": {"audio": 80, "face": 80, "text": 80}}
FACE_PX = 48
SOUND_S = (1.5, 5.0)
FILLERS = ("um", "uh", "okay", "so", "and", "the", "hm", "yeah", "one two three", "you know")
Array = NDArray[Any]


def noise(rng: np.random.Generator, seconds: float) -> Array:
    """Coloured noise, louder and softer: white, pink or brown; wind, fans, traffic."""
    size = int(seconds * SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(size)) / np.maximum(1.0, np.arange(size // 2 + 1)) ** rng.uniform(0, 1)
    swell = 1.0 + rng.uniform(0.0, 0.9) * np.sin(np.linspace(0.0, rng.uniform(0.0, 40.0), size))
    return np.asarray(np.fft.irfft(spectrum, size) * swell, np.float64)


def hum(rng: np.random.Generator, seconds: float) -> Array:
    """Mains or a motor: a tone with its harmonics."""
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hz, falls = rng.choice([50.0, 60.0, rng.uniform(30.0, 400.0)]), rng.uniform(0.5, 2.0)
    waves = [np.sin(2 * np.pi * hz * k * times + rng.uniform(0, 6)) / k**falls for k in range(1, 12)]
    return np.asarray(np.sum(waves, 0)) + 0.02 * rng.standard_normal(len(times))


def tune(rng: np.random.Generator, seconds: float) -> Array:
    """Notes of plucked strings or pipes, one to three at a time."""
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    heard = np.zeros(len(times))
    for start in np.arange(0.0, seconds, rng.uniform(0.15, 0.6)):
        for _ in range(int(rng.integers(1, 4))):
            hz = 220.0 * 2.0 ** (rng.integers(-12, 25) / 12)
            since = np.maximum(times - start, 0.0)
            shape = np.exp(-since * rng.uniform(1.0, 8.0)) * (times >= start)
            heard += shape * (np.sin(2 * np.pi * hz * since) + 0.4 * np.sin(4 * np.pi * hz * since))
    return heard


def knocks(rng: np.random.Generator, seconds: float) -> Array:
    """Typing, steps, a door: short bursts."""
    heard = 1e-3 * rng.standard_normal(int(seconds * SAMPLE_RATE_HZ))
    for start in rng.integers(0, len(heard), int(seconds * rng.uniform(1.0, 12.0))):
        burst = rng.standard_normal(int(rng.uniform(0.005, 0.08) * SAMPLE_RATE_HZ))
        burst = (burst * np.exp(-np.linspace(0.0, 6.0, len(burst))))[: len(heard) - start]
        heard[start : start + len(burst)] += burst
    return heard


SOUNDS: tuple[Callable[[np.random.Generator, float], Array], ...] = (noise, hum, tune, knocks)


def sound(rng: np.random.Generator) -> NDArray[np.float32]:
    """One of them, from hardly audible to loud."""
    heard = SOUNDS[rng.integers(len(SOUNDS))](rng, rng.uniform(*SOUND_S))
    level = 10.0 ** (rng.uniform(-70.0, -12.0) / 20.0)
    return np.asarray(heard * (level / max(1e-9, float(np.sqrt(np.mean(heard**2))))), np.float32)


def no_face(rng: np.random.Generator) -> Array:
    """A wall, a texture, a gradient or shapes: grey levels (48, 48)."""
    rough = rng.standard_normal((FACE_PX, FACE_PX))
    smooth = cv2.GaussianBlur(rough, (0, 0), float(rng.uniform(0.3, 8.0)))
    picture: Any = smooth / max(1e-6, float(smooth.std())) * rng.uniform(1.0, 60.0)
    picture += np.linspace(-1.0, 1.0, FACE_PX)[:, None] * rng.uniform(-60.0, 60.0)
    picture += rng.uniform(20.0, 235.0)
    for _ in range(int(rng.integers(0, 4))):
        centre = tuple(int(value) for value in rng.integers(0, FACE_PX, 2))
        cv2.circle(picture, centre, int(rng.integers(2, 20)), float(rng.uniform(0, 255)), -1)
    return np.asarray(np.clip(picture, 0, 255), np.float64)


def unreadable(face: Array, rng: np.random.Generator) -> Array:
    """A real face that nobody can read: out of focus, in the dark, or behind a hand."""
    picture: Any = face.astype(np.float64)
    kind = rng.integers(3)
    if kind == 0:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(6.0, 12.0)))
    elif kind == 1:
        picture = (picture - picture.mean()) * rng.uniform(0.0, 0.03) + rng.uniform(3.0, 25.0)
        picture += rng.standard_normal(picture.shape) * rng.uniform(2.0, 8.0)
    else:
        top, left = (int(value) for value in rng.integers(0, 9, 2))
        picture[top : top + 40, left : left + 40] = rng.uniform(30.0, 220.0) + 6.0 * rng.standard_normal((40, 40))
    return np.asarray(np.clip(picture, 0, 255), np.float64)


def words(texts: Sequence[str], rng: np.random.Generator) -> str:
    """Words of different texts, out of order; or a filler."""
    if rng.random() < 0.2:
        return str(rng.choice(FILLERS))
    drawn = []
    for _ in range(int(rng.integers(1, 13))):
        text = texts[int(rng.integers(len(texts)))].split() or [""]
        drawn.append(text[int(rng.integers(len(text)))])
    return " ".join(drawn)


def write_nothing(manifests: Path, out: Path, real_faces: bool) -> int:
    """Write all parts; returns how many samples there are. Raises ConfigError for a missing manifest."""
    texts = [row for row in read_manifest(manifests / "goemotions.csv") if row.split in COUNTS]
    faces = [row for row in read_manifest(manifests / "ferplus.csv") if row.split in COUNTS] if real_faces else []
    for folder in ("sounds", "faces"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for place, (split, counts) in enumerate(COUNTS.items()):
        said = [row.text for row in texts if row.split == split]
        seen = [row for row in faces if row.split == split]
        if not said or (real_faces and not seen):
            raise ConfigError(f"{manifests}: goemotions.csv or ferplus.csv has no {split} part; write them again")
        for index in range(max(counts.values())):
            rng = np.random.default_rng((place, index))
            name = f"{split}_{index:04d}"
            if index < counts["audio"]:
                write_wav(out / "sounds" / f"{name}.wav", sound(rng))
                rows.append(_row(name, "audio", split, media=f"sounds/{name}.wav"))
            if index < counts["face"]:
                picture = _picture(manifests, seen, rng)
                cv2.imwrite(str(out / "faces" / f"{name}.png"), picture.astype(np.uint8))
                rows.append(_row(name, "face", split, media=f"faces/{name}.png"))
            if index < counts["text"]:
                rows.append(_row(name, "text", split, text=words(said, rng)))
    write_manifest(out / "nothing.csv", rows)
    return len(rows)


def _picture(manifests: Path, faces: list[Row], rng: np.random.Generator) -> Array:
    """No face, or as often one of `faces` that nobody can read."""
    if rng.random() < 0.5 or not faces:
        return no_face(rng)
    face = load_image(manifests, faces[rng.integers(len(faces))])
    return unreadable(face if face.ndim == 2 else face.mean(2), rng)


def _row(name: str, kind: str, split: str, media: str = "", text: str = "") -> Row:
    return Row(
        id=f"{kind}_{name}",
        media=media,
        kind=kind,
        label=NOTHING,
        split=split,
        speaker="",
        text=text,
        start_s=0.0,
        end_s=0.0,
    )


def main(arguments: Sequence[str]) -> int:
    """Parse, write, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="the folder with goemotions.csv, ferplus.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--no-faces", action="store_true", help="walls, textures and shapes in place of FER+'s faces")
    options = parser.parse_args(arguments)
    try:
        count = write_nothing(options.manifests, options.out, not options.no_faces)
    except ClcrError as error:
        print(f"nothing: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out / 'nothing.csv'}: {count} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
