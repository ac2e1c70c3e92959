"""One clip on the model's grid: the very same arrays for everybody who is compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command import BenchError
from bench.machine import ROOT
from clcr_stream.frontends.loudness import raised_log_mel
from clcr_stream.frontends.mel import DEFAULT_MEL, MelSpec

REAL_CLIP = ROOT.parent / "shared/data/mosi400/clips/v04_014.mp4"
RENDERED_S = 8.0
WORDS = "what a lovely day i am so glad you came"
SAMPLE_RATE_HZ, MEL_HOP_SAMPLES = 16000, 160


@dataclass(frozen=True)
class Clip:
    """Hop h is index h of every array; played again from its start when it is over."""

    name: str
    frames: NDArray[np.uint8]  # (hops, slots, 3, size, size), RGB
    vision_valid: NDArray[np.float32]  # (hops, slots)
    mel: NDArray[np.float32]  # (hops, 4 * tokens, bands)
    acoustic_valid: NDArray[np.float32]  # (hops, tokens)

    @property
    def hops(self) -> int:
        return len(self.frames)


def load_clip(cache: Path, slots: int = 3, size_px: int = 112, mel_spec: MelSpec = DEFAULT_MEL) -> Clip:
    """The real clip of the shared data, else the rendered person, on the default grid (15 Hz, hops of 200 ms)."""
    path = REAL_CLIP if REAL_CLIP.is_file() else rendered(cache)
    faces, valid = _faces(path, size_px)
    mel, heard = _sound(path, mel_spec)
    hops = min(len(valid) // slots, len(heard) // 5)
    if hops < 2:
        raise BenchError(f"{path}: holds {hops} hops of picture and sound; give a clip of at least 2 s")
    return Clip(
        path.name,
        faces[: hops * slots].reshape(hops, slots, 3, size_px, size_px),
        valid[: hops * slots].reshape(hops, slots),
        mel[: hops * 20].reshape(hops, 20, -1),
        heard[: hops * 5].reshape(hops, 5),
    )


def random_clip(hops: int, slots: int, tokens: int, size_px: int, bands: int) -> Clip:
    """Seeded noise on any grid, everything valid: what the graphs cost does not depend on the values."""
    rng = np.random.default_rng(0)
    return Clip(
        "seeded noise",
        rng.integers(0, 256, (hops, slots, 3, size_px, size_px), dtype=np.uint8),
        np.ones((hops, slots), np.float32),
        rng.normal(-6.0, 3.0, (hops, 4 * tokens, bands)).astype(np.float32),
        np.ones((hops, tokens), np.float32),
    )


def rendered(cache: Path, seconds: float = RENDERED_S) -> Path:
    """The drawn person of test:// as a file, made once."""
    from clcr_stream.sources.synthetic.source import write_clip

    path = cache / f"person_{seconds:g}s.mp4"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"fresh_{path.name}"
        write_clip(fresh, seconds)
        fresh.with_suffix(".srt").replace(path.with_suffix(".srt"))
        fresh.replace(path)
    return path


def _faces(path: Path, size_px: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Face crops (n, 3, size, size) of the slots 0..n-1, and which of them show one."""
    from clcr.training.data.decode import decode_frames
    from clcr_stream.frontends.faces import FaceFinder

    finder = FaceFinder(size_px=size_px)
    found = {slot: finder.crop(frame) for slot, frame in decode_frames(path, 0.0, 0.0)}
    count = max(found, default=-1) + 1
    faces = np.zeros((count, 3, size_px, size_px), np.uint8)
    valid = np.zeros(count, np.float32)
    for slot, crop in found.items():
        if crop is not None:
            faces[slot], valid[slot] = crop.rgb.transpose(2, 0, 1), 1.0
    return faces, valid


def _sound(path: Path, spec: MelSpec) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Log-mel frames of the whole clip and the validity of its tokens of four frames."""
    from clcr.training.data.decode import decode_audio

    frames = raised_log_mel(decode_audio(path, 0.0, 0.0), spec)
    tokens = len(frames) // 4
    return frames[: 4 * tokens], np.ones(tokens, np.float32)
