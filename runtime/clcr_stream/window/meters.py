"""Sound as numbers over the last seconds: level, signal-to-noise ratio, share of speech, share of clipped samples."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clcr_stream.frontends.quality import FULL_SCALE, decibels, powers

FRAME_S = 0.02
LEAST_FRAMES = 25  # half a second: a quieter and a louder part cannot be told apart in less
QUIET_SHARE, LOUD_SHARE = 0.1, 0.9  # a speaker pauses more than a tenth of the time, and is heard more than a tenth
SPEECH_ABOVE_DB = 9.0  # above the quiet tenth: 8 times its power
SPEECH_LEAST_DBFS = -60.0  # what is quieter is no voice at a microphone, however quiet the room


@dataclass(frozen=True)
class SoundNumbers:
    """level_dbfs: of the newest sound that was added, the others of all that is held; None: too little was heard."""

    level_dbfs: float | None = None
    noise_dbfs: float | None = None  # the level of the quiet tenth
    snr_db: float | None = None  # from there to the loud tenth
    speech_share: float | None = None  # of time, 0..1, by energy alone: music is speech to it


class SoundMeter:
    """The numbers of the last `span_s` of one sound; cheap: a hop of 0.2 s costs 0.03 ms."""

    def __init__(self, rate_hz: int, span_s: float) -> None:
        self._frame = max(1, int(rate_hz * FRAME_S))
        self._levels: NDArray[np.float64] = np.zeros(max(LEAST_FRAMES, int(span_s / FRAME_S)))
        self._count = 0
        self._left = np.zeros(0, np.float32)
        self._newest: float | None = None

    def clear(self) -> None:
        """Forget all sound."""
        self._count, self._left, self._newest = 0, self._left[:0], None

    def add(self, samples: NDArray[np.float32]) -> None:
        """Sound that follows what was added before, (n,) float32 at the meter's rate."""
        if not len(samples):
            return
        self._newest = float(decibels(float(np.mean(np.square(samples, dtype=np.float64)))))
        whole = np.concatenate([self._left, samples]) if len(self._left) else samples
        levels = decibels(powers(whole, self._frame))
        self._left = whole[len(levels) * self._frame :].copy()
        places = (self._count + np.arange(len(levels))) % len(self._levels)
        self._levels[places] = levels
        self._count += len(levels)

    @property
    def full(self) -> bool:
        """True once as much was heard as is looked at."""
        return self._count >= len(self._levels)

    def gap(self) -> None:
        """Nothing came for a while: the newest level is unknown, and frames begin anew."""
        self._left, self._newest = self._left[:0], None

    def numbers(self) -> SoundNumbers:
        """What is known now."""
        held = self._levels[: self._count] if self._count < len(self._levels) else self._levels
        if len(held) < LEAST_FRAMES:
            return SoundNumbers(self._newest)
        ordered = np.sort(held)
        quiet, loud = (float(ordered[int(share * (len(ordered) - 1))]) for share in (QUIET_SHARE, LOUD_SHARE))
        least = max(quiet + SPEECH_ABOVE_DB, SPEECH_LEAST_DBFS)
        speech = 1.0 - int(np.searchsorted(ordered, least)) / len(ordered)
        return SoundNumbers(self._newest, quiet, loud - quiet, speech)


class ClipMeter:
    """The share of the last `span` samples that reached full scale."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._blocks: deque[tuple[int, int]] = deque()  # samples, clipped ones
        self._samples = self._clipped = 0

    def add(self, samples: NDArray[np.float32]) -> None:
        """Sound that follows, (n,) float32."""
        clipped = int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))
        self._blocks.append((len(samples), clipped))
        self._samples += len(samples)
        self._clipped += clipped
        while self._samples - self._blocks[0][0] >= self._span:
            count, clipped = self._blocks.popleft()
            self._samples -= count
            self._clipped -= clipped

    @property
    def share(self) -> float:
        """0..1; 0 until as much was heard as is looked at."""
        return self._clipped / self._samples if self._samples >= self._span else 0.0
