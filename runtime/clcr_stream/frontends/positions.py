"""Sinusoidal positions of absolute stream steps, exact after weeks of streaming."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SPEECH_PERIOD = 1500  # steps of 20 ms: the table that Whisper was trained with is 30 s long


def sinusoid(steps: NDArray[np.int64], width: int = 128, base: float = 10000.0) -> NDArray[np.float32]:
    """Positions float32 (n, width) of int64 steps (n,).

    Column 2i is sin(step * base^(-2i / width)), column 2i + 1 the cosine.
    The phase is float64: at step 1e9 (two years at 15 Hz) its error is below 2e-7.
    """
    phase = np.asarray(steps, np.int64).astype(np.float64)[:, None] * _frequencies(width, base)
    positions = np.empty((phase.shape[0], width), np.float32)
    positions[:, 0::2] = np.sin(phase)
    positions[:, 1::2] = np.cos(phase)[:, : width // 2]
    return positions


def speech_positions(steps: NDArray[np.int64], width: int = 384, period: int = SPEECH_PERIOD) -> NDArray[np.float32]:
    """Whisper's positions float32 (n, width) of int64 encoder steps (n,), which repeat after `period` steps (30 s).

    Columns 0 .. width / 2 are sines, the others cosines of the same phases.
    """
    return _speech_table(width, period)[np.asarray(steps, np.int64) % period]


@lru_cache(maxsize=8)
def _speech_table(width: int, period: int) -> NDArray[np.float32]:
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) / max(half - 1, 1) * np.arange(half, dtype=np.float64))
    phase = np.arange(period, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(phase), np.cos(phase)], axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def _frequencies(width: int, base: float) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    return frequencies
