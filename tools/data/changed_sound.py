"""Sound as it is in rooms, over telephones and beside other people. `data/changed.py` writes such copies of a set.

The changes act on samples, not on the log-mel: the augmentation of training (clcr.training.data.augment) is judged by
them and made otherwise.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.decode import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
QUIET_DBFS, FAINT_DBFS = -55.0, -65.0
OTHERS = 3  # people who speak in the background


def room(
    samples: Samples, rng: np.random.Generator, others: Sequence[Samples], decay_s: float, direct_db: float
) -> Samples:
    """In a room: sound falls by 60 dB in `decay_s`; direct sound is `direct_db` above the echo."""
    times = np.arange(round(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(len(times)) * 10.0 ** (-3.0 * times / decay_s)
    tail[: round(0.002 * SAMPLE_RATE_HZ)] = 0.0
    tail *= 10.0 ** (-direct_db / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(samples) + len(tail)
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: len(samples)]
    return _samples(heard)


def telephone(samples: Samples, rng: np.random.Generator, others: Sequence[Samples]) -> Samples:
    """300 to 3,400 Hz in 8 bits by the mu-law."""
    spectrum, hz = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1.0 / SAMPLE_RATE_HZ)
    band = np.fft.irfft(spectrum * ((hz > 300.0) & (hz < 3400.0)), len(samples))
    loud = band / max(1e-6, np.abs(band).max())
    coded = np.round(127.0 * np.sign(loud) * np.log1p(255.0 * np.abs(loud)) / np.log(256.0)) / 127.0
    plain = np.sign(coded) * (256.0 ** np.abs(coded) - 1.0) / 255.0
    return _samples(plain * np.abs(band).max())


def call(samples: Samples, rng: np.random.Generator, others: Sequence[Samples]) -> Samples:
    """Through Opus at 8 kbit/s, as a bad call."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as out:
        stream: Any = out.add_stream("libopus", rate=SAMPLE_RATE_HZ)
        stream.layout, stream.bit_rate = "mono", 8000
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=stream.rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    file.seek(0)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(file, "r") as back:
        parts = [part for whole in back.decode(audio=0) for part in resampler.resample(whole)]
    heard = np.concatenate([part.to_ndarray().reshape(-1) for part in [*parts, *resampler.resample(None)]])
    return _samples(np.pad(heard, (0, max(0, len(samples) - len(heard))))[: len(samples)])


def noise(samples: Samples, rng: np.random.Generator, others: Sequence[Samples], snr_db: float) -> Samples:
    """Pink noise, as of a fan or a street."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    spectrum /= np.sqrt(np.maximum(1.0, np.arange(len(spectrum))))
    return _mixed(samples, np.fft.irfft(spectrum, len(samples)).astype(np.float32), snr_db)


def people(samples: Samples, rng: np.random.Generator, others: Sequence[Samples], snr_db: float) -> Samples:
    """Three other clips of the set at once, as of people behind."""
    beside = np.zeros(len(samples), np.float32)
    for index in rng.integers(len(others), size=OTHERS):
        beside += np.resize(others[index], len(samples)) / max(1e-4, _level(others[index]))
    return _mixed(samples, beside, snr_db)


def quiet(samples: Samples, rng: np.random.Generator, others: Sequence[Samples], level_dbfs: float) -> Samples:
    """From a microphone that is set too low: speech at this level, in the 16 bits of a sound card."""
    scaled = samples * (10.0 ** (level_dbfs / 20.0) / max(1e-6, _speech_level(samples)))
    return _samples(np.round(scaled * 32767.0) / 32767.0)


def loud(samples: Samples, rng: np.random.Generator, others: Sequence[Samples]) -> Samples:
    """From a microphone that is set too high: 10 dB above what the sound card takes at its loudest."""
    return _samples(np.clip(samples * (10.0**0.5 / max(1e-6, float(np.abs(samples).max()))), -1.0, 1.0))


Change = Callable[[Samples, np.random.Generator, Sequence[Samples]], Samples]
CHANGES: dict[str, Change] = {
    "room": partial(room, decay_s=0.5, direct_db=3.0),
    "hall": partial(room, decay_s=1.2, direct_db=-3.0),
    "telephone": telephone,
    "call": call,
    "noise": partial(noise, snr_db=10.0),
    "people": partial(people, snr_db=10.0),
    "quiet": partial(quiet, level_dbfs=QUIET_DBFS),
    "faint": partial(quiet, level_dbfs=FAINT_DBFS),
    "loud": loud,
}


def _samples(values: NDArray[Any]) -> Samples:
    return np.asarray(values, np.float32)


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2, dtype=np.float64))) if len(samples) else 0.0


def _speech_level(samples: Samples) -> float:
    """Of the tenths of a second, the level that a tenth of them reaches."""
    block = SAMPLE_RATE_HZ // 10
    return float(np.quantile([_level(part) for part in np.array_split(samples, max(1, len(samples) // block))], 0.9))


def _mixed(samples: Samples, beside: Samples, snr_db: float) -> Samples:
    """Both, with `beside` by `snr_db` below the speech."""
    wanted = _speech_level(samples) * 10.0 ** (-snr_db / 20.0)
    return _samples(samples + beside * (wanted / max(1e-9, _level(beside))))


def write_wav(path: Path, samples: Samples) -> None:
    """16 bits, mono, at the sample rate of sets."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
