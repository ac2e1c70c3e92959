"""How good a picture, a face or a stretch of sound is, as numbers: pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENT_DBFS = -120.0  # the level of nothing at all: half of float32's digits, below every converter's noise
FULL_SCALE = 0.999  # a sample at or beyond it is taken as clipped: 16-bit converters end at 32767 / 32768
DIGITAL_SILENCE = 1.5 / 32768  # a sample of at most one step of 16 bits; a live microphone's noise is above it
_SAMPLED_PX = 96  # the short side of the picture that is looked at: 0.1 ms a frame, and structure is still there
_CELLS = (32, 24)  # sensor noise averages out in cells of 3 x 4 sampled pixels and more


@dataclass(frozen=True)
class PictureNumbers:
    """A picture as a whole. luma: mean, 0..1; contrast: standard deviation of its cells, 0..1.

    detail: mean second difference of its cells, 0..1: next to nothing where all is out of focus.
    """

    luma: float
    contrast: float
    detail: float


def picture_numbers(rgb: NDArray[np.uint8]) -> PictureNumbers:
    """The numbers of a picture (height, width, 3) RGB; 0.1 ms at 1280 x 720."""
    import cv2

    step = max(1, min(rgb.shape[:2]) // _SAMPLED_PX)
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[::step, ::step]), cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    second = cv2.Laplacian(cells, cv2.CV_32F)[1:-1, 1:-1]
    return PictureNumbers(float(cells.mean()), float(cells.std()), float(np.abs(second).mean()))


def sharpness(face_rgb: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of a face at model size, grey 0..255: low where it is blurred. 0.05 ms."""
    import cv2

    grey = cv2.cvtColor(face_rgb, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def powers(samples: NDArray[np.float32], frame_samples: int) -> NDArray[np.float64]:
    """The mean square of each whole frame of `samples` (n,); what is left over at the end is not looked at."""
    count = len(samples) // frame_samples
    frames = samples[: count * frame_samples].reshape(count, frame_samples)
    return np.asarray(np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / frame_samples)


def decibels(power: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Mean squares as dB of full scale, at least SILENT_DBFS; a full square wave is 0."""
    return np.asarray(10.0 * np.log10(np.maximum(power, 10.0 ** (SILENT_DBFS / 10.0))))
