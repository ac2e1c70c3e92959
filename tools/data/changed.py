"""Copies of a set as it is seen and heard elsewhere than in a studio: whom do light, distance, cover or noise fail?

    python tools/data/changed.py --manifest cache/manifests/ravdess.csv --media-root ../shared/data/audio \\
        --out cache/changed

writes the changed clips to OUT/NAME/CHANGE/ and a manifest a change, OUT/NAME_CHANGE.csv, which `clcr-eval` and
`clcr.training.data.prepare` take with `--media-root OUT`. Changes of sound give sound alone; changes of pictures keep a
film's sound as it is. Same seed, same clips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clcr.training.data.decode import decode_audio, load_image
from clcr.training.data.manifest import SPLITS, Row, evenly, read_manifest, write_manifest
from clcr_stream.errors import ClcrError, ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data import changed_pictures, changed_sound

CHANGES = (*changed_sound.CHANGES, *changed_pictures.CHANGES)
HEARD, SEEN = ("audio", "video"), ("video", "image", "face")


def fitting(rows: Sequence[Row], change: str) -> list[Row]:
    """The rows that a change can be made of."""
    kinds = HEARD if change in changed_sound.CHANGES else SEEN
    return [row for row in rows if row.kind in kinds]


def write_sounds(rows: Sequence[Row], media_root: Path, out: Path, folder: Path, changes: Sequence[str]) -> None:
    """Write the changed sounds of these rows and a manifest of each change."""
    sounds = [decode_audio(media_root / row.media, row.start_s, row.end_s) for row in rows]
    for change in changes:
        written = []
        for index, row in enumerate(_progress(rows, change)):
            rng = np.random.default_rng((list(changed_sound.CHANGES).index(change), index))
            path = _made(folder / change) / f"{index:05d}.wav"
            changed_sound.write_wav(path, changed_sound.CHANGES[change](sounds[index], rng, sounds))
            written.append(_copy(row, path.relative_to(out), "audio"))
        _finish(out / f"{folder.name}_{change}.csv", written)


def write_pictures(rows: Sequence[Row], media_root: Path, out: Path, folder: Path, change: str) -> None:
    """Write the changed films, photographs and faces of these rows and their manifest."""
    act = changed_pictures.CHANGES[change]
    written = []
    for index, row in enumerate(_progress(rows, change)):
        rng = np.random.default_rng((list(changed_pictures.CHANGES).index(change), index))
        path = _made(folder / change) / f"{index:05d}.{'mkv' if row.kind == 'video' else 'png'}"
        if row.kind == "video":
            changed_pictures.write_film(path, row, media_root, act, rng)
        else:
            changed_pictures.write_picture(path, load_image(media_root, row), row, act, rng)
        written.append(_copy(row, path.relative_to(out), row.kind))
    _finish(out / f"{folder.name}_{change}.csv", written)


def _progress(rows: Sequence[Row], change: str) -> Iterable[Row]:
    return tqdm(rows, desc=change, unit="clip", leave=False, disable=None)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copy(row: Row, media: Path, kind: str) -> Row:
    return replace(row, media=media.as_posix(), kind=kind, start_s=0.0, end_s=0.0)


def _finish(manifest: Path, written: Sequence[Row]) -> None:
    write_manifest(manifest, written)
    print(f"{manifest}: {len(written)} clips")


def main(arguments: Sequence[str]) -> int:
    """Parse, write, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="of clips with sound or pictures")
    parser.add_argument("--media-root", type=Path, required=True, help="the folder of the manifest's media")
    parser.add_argument("--split", choices=SPLITS, default="dev", help="which part (default: dev)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N clips, evenly (default: all)")
    parser.add_argument(
        "--changes", metavar="NAME,...", help=f"out of {', '.join(CHANGES)} (default: all that the set can be given)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        wanted = options.changes.split(",") if options.changes else list(CHANGES)
        unknown = [change for change in wanted if change not in CHANGES]
        if unknown:
            raise ConfigError(f"--changes {unknown[0]!r} is not known; allowed is {', '.join(CHANGES)}")
        if options.limit < 0:
            raise ConfigError(f"--limit is {options.limit}; allowed is 1 or more; leave it out for all")
        rows = [row for row in read_manifest(options.manifest) if row.split == options.split]
        possible = [change for change in wanted if fitting(rows, change)]
        left_out = [change for change in wanted if change not in possible]
        if not possible or (options.changes and left_out):
            raise ConfigError(
                f"{options.manifest}: nothing to change in split {options.split} by {left_out[0]}; give another --split"
            )
        rows = evenly(rows, options.limit or None)
        folder = options.out / options.manifest.stem
        sounds = [change for change in possible if change in changed_sound.CHANGES]
        if sounds:
            write_sounds(fitting(rows, sounds[0]), options.media_root, options.out, folder, sounds)
        for change in possible:
            if change not in sounds:
                write_pictures(fitting(rows, change), options.media_root, options.out, folder, change)
    except ClcrError as error:
        print(f"changed: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
