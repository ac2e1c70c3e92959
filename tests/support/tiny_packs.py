"""Made-up packs for the training tests: the label shows in brightness, loudness and one word."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.network.config import EMOTIONS
from clcr.training.data.prepare import PACK_FORMAT
from clcr_stream.frontends.mel import DEFAULT_MEL, SPEECH_MEL, MelSpec
from whisper_file import WIDTHS, random_whisper, write_whisper

SPEAKERS = ("s1", "s2", "s3")
SLOTS, ACOUSTIC_TOKENS = 9, 15


WHISPER = {  # settings of a model whose speech encoder is that of `write_speech_packs`
    "acoustic_encoder": "whisper",
    "mel_bands": WIDTHS.bands,
    "speech_width": WIDTHS.width,
    "speech_heads": WIDTHS.heads,
    "speech_inner": WIDTHS.inner,
}


def write_speech_packs(folder: Path) -> None:
    """The packs with the log-mel of a tiny speech encoder, and its weights as whisper/model.bin."""
    write_packs(folder, replace(SPEECH_MEL, mel_bands=WIDTHS.bands))
    write_whisper(folder / "whisper" / "model.bin", random_whisper(0))


def write_packs(folder: Path, spec: MelSpec = DEFAULT_MEL) -> None:
    """packs/faces, packs/clips (video with sound, sound alone), packs/texts and a tokenizer file, below `folder`."""
    for name, data in _files(spec).items():
        path = folder / "packs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@cache
def _files(spec: MelSpec) -> dict[str, bytes]:
    """Every file below packs/, made once: writing them takes a tenth of that."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        _write(folder / "faces", [_sample(index, "face", DEFAULT_MEL) for index in range(36)], DEFAULT_MEL)
        kinds = ["clip", "clip", "sound"]
        _write(folder / "clips", [_sample(index, kinds[index // 6 % 3], spec) for index in range(54)], spec)
        _write(folder / "texts", [_sample(index, "text", DEFAULT_MEL) for index in range(24)], DEFAULT_MEL)
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _sample(index: int, kind: str, spec: MelSpec) -> dict[str, NDArray[np.generic] | str]:
    rng = np.random.default_rng(index)
    label = index % len(EMOTIONS)
    frames = 1 if kind == "face" else SLOTS if kind == "clip" else 0
    grey = np.full((frames, 48, 48), 30 + 40 * label) + rng.integers(0, 10, (frames, 48, 48))
    rgb = np.repeat(grey.repeat(3, 1).repeat(3, 2)[:, :112, :112, None], 3, 3)
    sounds = ACOUSTIC_TOKENS * 4 if kind in ("clip", "sound") else 0
    return {
        "id": f"{kind}{index:03d}",
        "label": EMOTIONS[label],
        "split": "dev" if index // 6 in (1, 5, 6) else "train",
        "speaker": SPEAKERS[index // 18 % 3],
        "kind": {"clip": "video", "sound": "audio"}.get(kind, kind),
        "grey": (grey if kind == "face" else grey[:0]).astype(np.uint8),
        "rgb": (rgb if kind == "clip" else np.zeros((0, 112, 112, 3))).astype(np.uint8),
        "slots": np.ones(frames, np.uint8),
        "mel": (rng.normal(size=(sounds, spec.mel_bands)) - 12 + 2 * label).astype(np.float16),
        "tokens": np.array([2, 10 + label, 3] if kind == "text" else [], np.int32),
    }


def _write(folder: Path, samples: list[dict[str, NDArray[np.generic] | str]], spec: MelSpec) -> None:
    folder.mkdir(parents=True)
    columns = {
        name: np.array([sample[name] for sample in samples]) for name in ("id", "label", "split", "speaker", "kind")
    }
    for name in ("grey", "rgb", "slots", "mel", "tokens"):
        parts = [np.asarray(sample[name]) for sample in samples]
        columns[f"{name}_count"] = np.array([len(part) for part in parts], np.int64)
        joined = np.concatenate(parts)
        np.save(folder / f"{name}.npy", joined if len(joined) else np.zeros((1, *joined.shape[1:]), joined.dtype))
    arrays: dict[str, Any] = columns  # numpy's own stub takes the names for its flags
    np.savez(folder / "items.npz", **arrays)
    (folder / "pack.json").write_text(json.dumps({"format": PACK_FORMAT, "mel": asdict(spec)}), encoding="utf-8")
