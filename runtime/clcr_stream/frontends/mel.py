"""Log-mel features, the one front-end of sound in training and live use; pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError


@dataclass(frozen=True)
class MelSpec:
    """The constants of the mel front-end; a bundle's manifest carries the same names."""

    sample_rate_hz: int = 16000
    fft_samples: int = 512
    window_samples: int = 400
    hop_samples: int = 160
    mel_bands: int = 64
    low_hz: float = 50.0
    high_hz: float = 7600.0
    log_floor: float = 1e-6
    mel_scale: Literal["htk", "slaney"] = "htk"

    @property
    def context_samples(self) -> int:
        """Samples before a chunk's first hop that its first frame needs (240)."""
        return self.window_samples - self.hop_samples


DEFAULT_MEL = MelSpec()
# What the pretrained speech encoder hears: Whisper's bands, with a constant floor (docs/LOG.md).
SPEECH_MEL = MelSpec(fft_samples=400, mel_bands=80, low_hz=0.0, high_hz=8000.0, log_floor=1e-6, mel_scale="slaney")


def log_mel(samples: NDArray[np.float32], spec: MelSpec = DEFAULT_MEL) -> NDArray[np.float32]:
    """Causal log-mel frames, float32 (n, mel_bands), of n * hop_samples new samples.

    samples: float32 in [-1, 1], `context_samples` of left context first (zeros at the start of a stream), then the new
    ones. Frame j is the Hann window over the new samples [hop*j - context, hop*j + hop), so no frame looks ahead and
    the result does not depend on how a stream is cut into chunks. Natural logarithm of the band energy, floored.
    """
    new_samples = samples.shape[0] - spec.context_samples
    if samples.ndim != 1 or new_samples < 0 or new_samples % spec.hop_samples:
        raise ConfigError(
            f"log_mel was given samples of shape {samples.shape}; allowed is (n * {spec.hop_samples} + "
            f"{spec.context_samples},): put {spec.context_samples} samples of left context in front"
        )
    if new_samples == 0:
        return np.zeros((0, spec.mel_bands), np.float32)
    window, filters = _tables(spec)
    samples = np.ascontiguousarray(samples, np.float32)
    frames: NDArray[np.float32] = np.ndarray(  # overlapping views; stride_tricks takes 50 us for the same
        (new_samples // spec.hop_samples, spec.window_samples), np.float32, samples, strides=(4 * spec.hop_samples, 4)
    )
    # float64 throughout: the order of a matrix product's sums depends on the chunk's size, and in float64 that
    # difference vanishes in the rounding to float32.
    spectrum = np.fft.rfft(frames * window, spec.fft_samples, axis=1)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    energy = power @ filters
    features: NDArray[np.float32] = np.log(np.maximum(energy, spec.log_floor)).astype(np.float32)
    return features


def mel_filterbank(spec: MelSpec = DEFAULT_MEL) -> NDArray[np.float64]:
    """Triangular filters, float64 (fft_samples // 2 + 1, mel_bands).

    htk: HTK's mel scale, a peak of 1. slaney: linear below 1 kHz, logarithmic above, an area of 1 Hz (librosa's).
    """
    to_mel, to_hz = (_htk_mel, _htk_hz) if spec.mel_scale == "htk" else (_slaney_mel, _slaney_hz)
    edges_hz = to_hz(np.linspace(to_mel(spec.low_hz), to_mel(spec.high_hz), spec.mel_bands + 2))
    bins_hz = np.arange(spec.fft_samples // 2 + 1) * (spec.sample_rate_hz / spec.fft_samples)
    rising = (bins_hz[:, None] - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz[:, None]) / (edges_hz[2:] - edges_hz[1:-1])
    filters: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0.0, None)
    return filters if spec.mel_scale == "htk" else filters * (2.0 / (edges_hz[2:] - edges_hz[:-2]))


def _htk_mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


def _htk_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0), np.float64)


_KNEE_HZ, _KNEE_MEL, _LOG_STEP = 1000.0, 15.0, float(np.log(6.4) / 27.0)  # of Slaney's Auditory Toolbox


def _slaney_mel(hz: float) -> float:
    return hz * _KNEE_MEL / _KNEE_HZ if hz < _KNEE_HZ else _KNEE_MEL + float(np.log(hz / _KNEE_HZ)) / _LOG_STEP


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)


@lru_cache(maxsize=8)
def _tables(spec: MelSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # The periodic Hann window, the one meant for spectral analysis.
    phase = 2.0 * np.pi * np.arange(spec.window_samples) / spec.window_samples
    return 0.5 - 0.5 * np.cos(phase), mel_filterbank(spec)
