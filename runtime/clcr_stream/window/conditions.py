"""What is wrong with a picture or a sound that does arrive: frozen, dark, covered; silent, clipping, noisy.

Pure logic over observations and the times of what was captured: a recording is judged alike however fast it is read.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.frontends.quality import DIGITAL_SILENCE, PictureNumbers
from clcr_stream.window.meters import ClipMeter, SoundMeter

Trouble = Literal["frozen", "dark", "covered", "silent", "clipping", "noisy"]
Condition = Literal["", "frozen", "dark", "covered", "silent", "clipping", "noisy"]
FINE: Condition = ""

# Pictures. A live sensor's noise never gives the same bytes twice; 2 s is promised, a tick and its settling are 0.3 s.
FROZEN_NS = 1400 * NS_PER_MS
DARK_LUMA = 0.06  # mean of 15 of 255; dim light, in which faces are still found well, is above it
# A cap, a hand or a pitch-black room: cells differ by a twentieth of the light, or by 1 of 255, which is noise.
UNIFORM_SHARE, UNIFORM_LEAST = 0.05, 0.004
# A finger on the lens: light, and nothing in focus. The detail of pictures in 100 clips of people is at least 0.12 of
# their light, that of a smooth glow with a sensor's noise 0.013.
SOFT_SHARE, SOFT_LEAST = 0.03, 0.003
PICTURE_NS = NS_PER_S  # so long without a break: a hand that passes and a camera's first frames are no fault

# Sound. A muted or unplugged microphone gives digital zeros. 0.5 s is promised, a tick and its settling are 0.3 s.
SILENT_NS = 200 * NS_PER_MS
# Coded and recorded sound has digital pauses between words; so do headsets with a noise gate, which are found out:
# a silence that ends by itself within this time doubles the patience with the next one, up to it.
SILENT_CODED_NS = 3 * NS_PER_S
CLIPPING_SHARE, CLIPPING_OVER_SHARE = 0.01, 0.002  # of a second's samples: heard as distortion; and as gone
NOISY_SNR_DB, NOISY_OVER_SNR_DB = 5.0, 8.0  # speech 5 dB above the noise is hardly understood
NOISY_LEAST_DBFS = -40.0  # a quiet room in which nobody speaks has no signal either, and nothing is wrong with it
NOISY_SPAN_S = 3.0  # longer than a speaker goes on without a pause


class PictureWatch:
    """The condition of one camera's pictures, observed in order of time; `live` also looks for a frozen one."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self.reset()

    def reset(self) -> None:
        """The next picture has nothing to do with the last one."""
        self._picture: bytes | None = None
        self._changed_ns = 0
        self._suspect: Condition = FINE
        self._since_ns = 0
        self.condition: Condition = FINE

    def see(self, captured_ns: int, picture: bytes, numbers: PictureNumbers) -> Condition:
        """A picture came: a sample of its bytes, and its numbers."""
        if picture != self._picture:
            self._picture, self._changed_ns = picture, captured_ns
        if self._live and captured_ns - self._changed_ns >= FROZEN_NS:
            self._suspect, self.condition = FINE, "frozen"
            return self.condition
        suspect = judge_picture(numbers)
        if suspect != self._suspect:
            self._suspect, self._since_ns = suspect, captured_ns
        if suspect == FINE or captured_ns - self._since_ns >= PICTURE_NS:
            self.condition = suspect
        elif self.condition == "frozen":
            self.condition = FINE
        return self.condition


def judge_picture(numbers: PictureNumbers) -> Condition:
    """What a single picture looks like. In the dark light still falls unevenly; behind a cover nothing is left."""
    if numbers.contrast < max(UNIFORM_LEAST, UNIFORM_SHARE * numbers.luma):
        return "covered"
    if numbers.luma < DARK_LUMA:
        return "dark"
    return "covered" if numbers.detail < SOFT_LEAST + SOFT_SHARE * numbers.luma else FINE


class SoundWatch:
    """The condition of one sound, heard in order of time; `patience_ns` is how long it may be digitally silent."""

    def __init__(self, rate_hz: int, patience_ns: int = SILENT_NS) -> None:
        self._rate_hz, self.patience_ns = rate_hz, patience_ns
        self.reset()

    def reset(self) -> None:
        """The next sound has nothing to do with the last one; what was learnt of pauses stays."""
        self._silent = 0  # samples since the last one that was none
        self._heard = False
        self._meter = SoundMeter(self._rate_hz, NOISY_SPAN_S)
        self._clips = ClipMeter(self._rate_hz)
        self.condition: Condition = FINE

    def hear(self, samples: NDArray[np.float32]) -> Condition:
        """Sound (n,) float32 that follows what was heard before."""
        loud = np.flatnonzero(np.abs(samples) > DIGITAL_SILENCE)
        if len(loud):
            self._learn(self._silent + int(loud[0]))
            self._silent, self._heard = len(samples) - 1 - int(loud[-1]), True
        else:
            self._silent += len(samples)
        self._clips.add(samples)
        if self._silent == 0 or self._silent_ns(self._silent) < self.patience_ns:
            self._meter.add(samples)
            self.condition = self._audible()
        else:
            self.condition = "silent"
        return self.condition

    def _learn(self, silent: int) -> None:
        """A silence is over: one that was called a fault and ended soon was a pause."""
        silent_ns = self._silent_ns(silent)
        if self._heard and self.patience_ns <= silent_ns < SILENT_CODED_NS:
            self.patience_ns = min(SILENT_CODED_NS, 2 * self.patience_ns)

    def _silent_ns(self, samples: int) -> int:
        return samples * NS_PER_S // self._rate_hz

    def _audible(self) -> Condition:
        clipping = CLIPPING_OVER_SHARE if self.condition == "clipping" else CLIPPING_SHARE
        if self._clips.share > clipping:
            return "clipping"
        numbers = self._meter.numbers()
        if not self._meter.full or numbers.snr_db is None or numbers.noise_dbfs is None:
            return FINE
        least_db = NOISY_OVER_SNR_DB if self.condition == "noisy" else NOISY_SNR_DB
        return "noisy" if numbers.snr_db < least_db and numbers.noise_dbfs > NOISY_LEAST_DBFS else FINE


class Conditions:
    """What was wrong when: written by a source's thread, read by the loop for the time of a tick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: deque[tuple[int, Condition]] = deque(maxlen=256)  # 10 s of a change every hop and more

    def put(self, time_ns: int, condition: Condition) -> None:
        """From `time_ns` on it is so; cheap when nothing has changed."""
        if (self._changes[-1][1] if self._changes else FINE) == condition:
            return
        with self._lock:
            self._changes.append((time_ns, condition))

    def at(self, time_ns: int) -> Condition:
        """What was wrong at `time_ns`."""
        with self._lock:
            for changed_ns, condition in reversed(self._changes):
                if changed_ns <= time_ns:
                    return condition
        return FINE
