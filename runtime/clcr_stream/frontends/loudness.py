"""How loud a voice is, slowly, and the gain that raises one from a microphone that is set too low."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clcr_stream.frontends.mel import DEFAULT_MEL, MelSpec, log_mel

HOP_S = 0.2
TARGET_DBFS = -30.0  # loudest hop of a voice below which it is raised; most training voices are above
MOST_GAIN_DB = 40.0
PEAK_FALLS_DB_S = 0.5  # soft words after loud ones stay soft, and a cough is forgotten within a minute
FLOOR_RISES_DB_S = 2.0
STEADY_DB = 6.0  # loudest over softest hop: at most this much is noise, which is left as it is
VOICE_DB = 12.0  # at least this much is a voice; between the two the gain grows
SILENT_DBFS = -100.0  # digital zeros, of a codec or of a device that is starting


class Loudness:
    """Loudest and softest hop of the last minute, as root mean squares in dB of full scale; gains follow from them.

    A hop's gain depends on that hop and those before it, never on later ones. Training and live use share it
    (docs/model.md, section 1.1).
    """

    def __init__(self, hop_s: float = HOP_S) -> None:
        self._falls_db = PEAK_FALLS_DB_S * hop_s
        self._rises_db = FLOOR_RISES_DB_S * hop_s
        self._loudest: float | None = None
        self._softest = 0.0

    def gain(self, heard: NDArray[np.float32]) -> np.float32:
        """The factor (>= 1) for a hop; `heard`: its captured samples, float32 in [-1, 1], none where nothing was."""
        level = _dbfs(heard)
        if level > SILENT_DBFS:
            if self._loudest is None:
                self._loudest = self._softest = level
            self._loudest = max(level, self._loudest - self._falls_db)
            self._softest = min(level, self._softest + self._rises_db)
        if self._loudest is None:
            return np.float32(1.0)
        wanted_db = min(MOST_GAIN_DB, max(0.0, TARGET_DBFS - self._loudest))
        voice = (self._loudest - self._softest - STEADY_DB) / (VOICE_DB - STEADY_DB)
        return np.float32(10.0 ** (wanted_db * min(1.0, max(0.0, voice)) / 20.0))


def _dbfs(samples: NDArray[np.float32]) -> float:
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10.0 * math.log10(max(power, 1e-12))


def raised_log_mel(samples: NDArray[np.float32], spec: MelSpec = DEFAULT_MEL) -> NDArray[np.float32]:
    """Log-mel of a whole recording as a live stream gives it, float32 (n, mel_bands): hop by hop, each with its gain.

    samples: float32 in [-1, 1] from the recording's begin, without context in front; n = len(samples) // hop_samples.
    """
    loudness, hop, left = Loudness(), round(HOP_S * spec.sample_rate_hz), spec.context_samples
    padded = np.concatenate([np.zeros(left, np.float32), samples])
    frames = [np.zeros((0, spec.mel_bands), np.float32)]
    for start in range(0, len(samples), hop):
        gain = loudness.gain(samples[start : start + hop])
        whole = min(hop, len(samples) - start) // spec.hop_samples * spec.hop_samples
        frames.append(log_mel(padded[start : start + left + whole] * gain, spec))
    return np.concatenate(frames)
