"""Decode every sample of a manifest once into a memory-mappable pack: `python -m clcr.training.data.prepare --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.decode import decode_audio, decode_frames, load_image
from clcr.training.data.manifest import Row, read_manifest
from clcr_stream.errors import ClcrError, SourceError
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.frontends.loudness import raised_log_mel
from clcr_stream.frontends.mel import DEFAULT_MEL, SPEECH_MEL, MelSpec
from clcr_stream.frontends.text import Tokenizer

PACK_FORMAT = 2
FACE_PX = 112
GREY_PX = 48
TOKEN_LIMIT = 64
FRAMES_PER_TOKEN = 4
ROWS_PER_PART = 128
MELS = {"stem": DEFAULT_MEL, "whisper": SPEECH_MEL}  # by acoustic encoder
_STRINGS = ("id", "label", "split", "speaker", "kind")
# name of an array file -> shape of one element (of mel: as many bands as the acoustic encoder hears), dtype
_ARRAYS: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "grey": ((GREY_PX, GREY_PX), np.uint8),
    "rgb": ((FACE_PX, FACE_PX, 3), np.uint8),
    "slots": ((), np.uint8),
    "mel": ((-1,), np.float16),
    "tokens": ((), np.int32),
}


@dataclass
class Sample:
    """One decoded sample, in the arrays of a pack; an absent modality has no elements."""

    mel: NDArray[np.float16]
    grey: NDArray[np.uint8] = field(default_factory=lambda: _empty("grey"))
    rgb: NDArray[np.uint8] = field(default_factory=lambda: _empty("rgb"))
    slots: NDArray[np.uint8] = field(default_factory=lambda: _empty("slots"))  # 1 where the slot has a face
    tokens: NDArray[np.int32] = field(default_factory=lambda: _empty("tokens"))


def prepare(
    manifest: Path, media_root: Path, cache_dir: Path, tokenizer: Path, progress: bool = True, encoder: str = "stem"
) -> Path:
    """Prepare the pack `cache_dir/<manifest's name>` and return its folder; sound as the acoustic `encoder` hears it.

    The pack of another encoder than the stem has the encoder's name after the manifest's: `<name>_whisper`.

    Finished parts are kept, so an interrupted run goes on where it stopped; a pack made from the same manifest and
    tokenizer is returned as it is. A sample that does not decode is left out and listed in pack.json.
    """
    rows = read_manifest(manifest)
    spec, words = MELS[encoder], Tokenizer(tokenizer)
    kind = b"" if spec == DEFAULT_MEL else repr(spec).encode()
    key = hashlib.sha256(manifest.read_bytes() + tokenizer.read_bytes() + b"%d" % PACK_FORMAT + kind).hexdigest()
    folder = cache_dir / (manifest.stem if spec == DEFAULT_MEL else f"{manifest.stem}_{encoder}")
    description = folder / "pack.json"
    if description.is_file() and json.loads(description.read_text(encoding="utf-8"))["key"] == key:
        return folder
    parts = folder / f"parts-{key[:16]}"
    parts.mkdir(parents=True, exist_ok=True)
    decoder = Decoder(media_root, FaceFinder(FACE_PX), words, spec)
    _make_parts(rows, parts, decoder, progress)
    _join(parts, folder, key, spec)
    return folder


@dataclass(frozen=True)
class Decoder:
    """What turns the rows of a manifest into samples."""

    media_root: Path
    finder: FaceFinder
    tokenizer: Tokenizer
    mel: MelSpec


def encode(row: Row, decoder: Decoder) -> Sample:
    """Decode one row. Raises SourceError when its media is missing, unreadable or holds nothing."""
    words = np.asarray(decoder.tokenizer.encode(row.text, TOKEN_LIMIT), np.int32)
    sample = Sample(mel=_empty("mel", decoder.mel), tokens=words)
    path = decoder.media_root / row.media.partition("#")[0]
    if row.media and not path.is_file():
        raise SourceError(f"{row.media}: no such file under {decoder.media_root}")
    if row.kind == "video":
        _add_frames(sample, row, path, decoder.finder)
    if row.kind in ("video", "audio"):
        sample.mel = _mel_tokens(decode_audio(path, row.start_s, row.end_s), decoder.mel)
    if row.kind in ("image", "face"):
        _add_image(sample, row, decoder.media_root, decoder.finder)
    if not (sample.slots.any() or len(sample.mel) or len(sample.tokens)):
        raise SourceError(f"{row.id}: no face, no sound and no words found")
    return sample


def _add_frames(sample: Sample, row: Row, path: Path, finder: FaceFinder) -> None:
    finder.reset()
    crops: dict[int, NDArray[np.uint8]] = {}
    slot = -1
    for slot, frame in decode_frames(path, row.start_s, row.end_s):
        crop = finder.crop(frame)
        if crop is not None:
            crops[slot] = crop.rgb
    sample.slots = np.zeros(slot + 1, np.uint8)
    sample.slots[list(crops)] = 1
    if crops:
        sample.rgb = np.stack(list(crops.values()))


def _add_image(sample: Sample, row: Row, media_root: Path, finder: FaceFinder) -> None:
    import cv2

    image = load_image(media_root, row)
    if row.kind == "face" and image.shape == (GREY_PX, GREY_PX):
        sample.grey = image[None]
    else:
        colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        if row.kind == "image":
            finder.reset()
            crop = finder.crop(colour)
            if crop is None:
                sample.slots = np.zeros(1, np.uint8)
                return
            colour = crop.rgb
        method = cv2.INTER_AREA if colour.shape[0] > FACE_PX else cv2.INTER_LINEAR
        sample.rgb = np.asarray(cv2.resize(colour, (FACE_PX, FACE_PX), interpolation=method), np.uint8)[None]
    sample.slots = np.ones(1, np.uint8)


def _mel_tokens(samples: NDArray[np.float32], spec: MelSpec) -> NDArray[np.float16]:
    """Log-mel of the whole acoustic tokens (4 frames each) that the sound fills; no sound before its start."""
    frames = raised_log_mel(samples, spec)
    return frames[: len(frames) // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN].astype(np.float16)


def _make_parts(rows: list[Row], parts: Path, decoder: Decoder, progress: bool) -> None:
    from tqdm import tqdm

    with tqdm(total=len(rows), unit="item", disable=not progress, desc=parts.parent.name) as bar:
        for start in range(0, len(rows), ROWS_PER_PART):
            block = rows[start : start + ROWS_PER_PART]
            path = parts / f"{start // ROWS_PER_PART:06d}.npz"
            if not path.is_file():
                _save(path, _make_part(block, decoder))
            bar.update(len(block))


def _make_part(rows: list[Row], decoder: Decoder) -> dict[str, NDArray[Any]]:
    import av

    done: list[tuple[Row, Sample]] = []
    skipped: list[str] = []
    for row in rows:
        try:
            done.append((row, encode(row, decoder)))
        except (SourceError, av.error.FFmpegError) as error:
            skipped.append(f"{row.id}: {error}")
    part: dict[str, NDArray[Any]] = {
        name: np.concatenate([_empty(name, decoder.mel), *(getattr(sample, name) for _, sample in done)])
        for name in _ARRAYS
    }
    for name in _ARRAYS:
        part[f"{name}_count"] = np.array([len(getattr(sample, name)) for _, sample in done], np.int64)
    for name in _STRINGS:
        part[name] = np.array([getattr(row, name) for row, _ in done], np.str_)
    part["skipped"] = np.array(skipped, np.str_)
    return part


def _join(parts: Path, folder: Path, key: str, spec: MelSpec) -> None:
    """Concatenate the parts into one array file each, then remove them; pack.json is written last."""
    paths = sorted(parts.glob("*.npz"))
    columns: dict[str, NDArray[Any]] = {}
    for name in (*_STRINGS, "skipped", *(f"{name}_count" for name in _ARRAYS)):
        columns[name] = np.concatenate([_read(path, name) for path in paths] or [np.zeros(0, np.str_)])
    skipped = [str(reason) for reason in columns.pop("skipped")]
    for name in _ARRAYS:
        like = _empty(name, spec)
        total = int(columns[f"{name}_count"].sum())
        # An empty file cannot be mapped; one unused element does no harm, the counts never reach it.
        joined = np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=like.dtype, shape=(max(1, total), *like.shape[1:])
        )
        place = 0
        for path in paths:
            block = _read(path, name)
            joined[place : place + len(block)] = block
            place += len(block)
        joined.flush()
    _save(folder / "items.npz", columns)
    description = {
        "format": PACK_FORMAT,
        "key": key,
        "mel": asdict(spec),
        "items": len(columns["id"]),
        "skipped": skipped,
        "slots": int(columns["slots_count"].sum()),
        "slots_with_face": int(np.load(folder / "slots.npy").sum()),
    }
    (folder / "pack.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    for path in paths:
        path.unlink()
    parts.rmdir()


def _read(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[name]
    return array


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **cast(Any, arrays))
    part.replace(path)


def _empty(name: str, spec: MelSpec = DEFAULT_MEL) -> NDArray[Any]:
    shape, dtype = _ARRAYS[name]
    return np.zeros((0, *(spec.mel_bands if size < 0 else size for size in shape)), dtype)


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 0, or the ClcrError's."""
    parser = argparse.ArgumentParser(
        prog="python -m clcr.training.data.prepare",
        description="Decode manifests into packs.",
        epilog="example: python -m clcr.training.data.prepare cache/manifests/tess.csv "
        "--media-root ../shared/data/audio",
    )
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST.csv")
    parser.add_argument(
        "--media-root", type=Path, required=True, help="folder that the manifest's media paths start at"
    )
    parser.add_argument("--cache", type=Path, default=Path("cache/packs"), help="where the packs go (cache/packs)")
    parser.add_argument("--tokenizer", type=Path, default=Path("cache/tokenizer/tokenizer.json"))
    parser.add_argument(
        "--acoustic-encoder", choices=sorted(MELS), default="stem", help="whose log-mel is stored (stem)"
    )
    options = parser.parse_args(arguments)
    encoder = options.acoustic_encoder
    try:
        for manifest in options.manifests:
            folder = prepare(manifest, options.media_root, options.cache, options.tokenizer, encoder=encoder)
            report = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
            line = f"{folder}: {report['items']} items, {len(report['skipped'])} skipped"
            if report["slots"]:
                line += f", a face in {report['slots_with_face'] / report['slots']:.1%} of the frames"
            sys.stdout.write(line + "\n")
    except ClcrError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
