"""From any device's samples to mono float32 at the model's rate, on the session's timeline."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.window.grid import TimeGrid


class Resampler:
    """Streaming conversion of PyAV audio frames to mono float32 at `rate_hz`; follows changes of the input format.

    The first sample out is the first sample in; the filter's delay is held back until more input or `flush`.
    """

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._format: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def push(self, frame: Any) -> NDArray[np.float32]:
        """Samples (n,) that are ready after this `av.AudioFrame`."""
        import av

        source_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        tail = np.zeros(0, np.float32)
        if source_format != self._format:
            tail = self.flush()
            self._format = source_format
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self.rate_hz)
        frame.pts = None  # the resampler would fill jumps of the time stamps; gaps are the caller's business
        return np.concatenate([tail, *map(_samples, self._resampler.resample(frame))])

    def flush(self) -> NDArray[np.float32]:
        """The samples still held back; the next frame starts afresh."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        frames = self._resampler.resample(None)
        self._resampler = self._format = None
        return np.concatenate([np.zeros(0, np.float32), *map(_samples, frames)])


def decode_sound(file: str | IO[bytes], rate_hz: int) -> NDArray[np.float32]:
    """All sound of a file (n,), mono at `rate_hz`; PyAV's errors for one that holds none."""
    import av

    resampler = Resampler(rate_hz)
    with av.open(file, "r") as container:
        parts = [resampler.push(frame) for frame in container.decode(audio=0)]
    return np.concatenate([*parts, resampler.flush()])


def _samples(frame: Any) -> NDArray[np.float32]:
    return np.asarray(frame.to_ndarray(), np.float32).reshape(-1)


class SampleClock:
    """Places a live device's blocks on the timeline by counting samples from an anchor, and follows its skew.

    A block's last sample cannot be later than its arrival, and the least delayed block of each `window_s` is taken to
    be on time. What that shows of the device's skew is corrected by stretching blocks by at most one sample in 160,
    which is not heard. Only lost samples move the anchor: they leave a gap. Delays of single blocks move nothing.
    """

    ahead_s = 0.05  # further in the future than this, the anchor was late: move back, the ring drops the overlap
    gap_s = 0.1  # every block of a window later than this: samples were lost without notice
    overflow_gap_s = 0.02  # the same once the device has said that it lost some
    window_s = 2.0
    dead_band_s = 0.0005

    def __init__(self, grid: TimeGrid) -> None:
        self._sample_of, self._rate_hz = grid.sample_of, grid.sample_rate_hz
        self.gaps = 0
        self.moved_back = 0
        self._next: int | None = None
        self._pending = 0  # samples still to add (positive) or take out
        self._least_error: int | None = None  # of the blocks of this window
        self._window_left = 0
        self._windows = 0
        self._counted = 0  # device samples and corrections once the anchor has settled
        self._corrected = 0

    @property
    def skew_ppm(self) -> float:
        """How much faster (positive) the device's clock runs than the host's; 0 until known."""
        return -1e6 * self._corrected / self._counted if self._counted else 0.0

    def restart(self) -> None:
        """Anchor anew at the next block: the device was reopened."""
        self._next = None

    def place(
        self, samples: NDArray[np.float32], arrived_ns: int, overflowed: bool = False
    ) -> tuple[int, NDArray[np.float32]]:
        """Index of the block's first sample on the timeline, and the block (n,), stretched if need be."""
        count = len(samples)
        last = self._sample_of(arrived_ns)
        if self._next is None:
            self._anchor(last - count)
        assert self._next is not None  # set by _anchor
        error = last - (self._next + count)
        if error < -self.ahead_s * self._rate_hz:
            self.moved_back += 1
            self._anchor(last - count)
        elif overflowed and error > self.overflow_gap_s * self._rate_hz:
            self.gaps += 1
            self._anchor(last - count)
        else:
            self._observe(error, count)
        samples = self._stretch(samples)
        first = self._next
        self._next += len(samples)
        return first, samples

    def _anchor(self, first: int) -> None:
        self._next = first
        self._pending = 0
        self._windows = 0
        self._new_window()

    def _new_window(self) -> None:
        self._least_error = None
        self._window_left = int(self.window_s * self._rate_hz)

    def _observe(self, error: int, count: int) -> None:
        least = error - self._pending
        if self._least_error is not None:
            least = min(least, self._least_error)
        self._least_error = least
        self._window_left -= count
        if self._windows > 1:  # the first windows only find the anchor
            self._counted += count
        if self._window_left > 0:
            return
        assert self._next is not None  # observed blocks are anchored
        if least > self.gap_s * self._rate_hz:
            self.gaps += 1
            self._anchor(self._next + least)
            return
        if abs(least) > self.dead_band_s * self._rate_hz:
            self._pending += least
        if self._windows > 1:
            self._corrected += least if abs(least) > self.dead_band_s * self._rate_hz else 0
        self._windows += 1
        self._new_window()

    def _stretch(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        limit = len(samples) // 160
        change = max(-limit, min(limit, self._pending))
        if change == 0:
            return samples
        self._pending -= change
        at = np.linspace(0.0, len(samples) - 1.0, len(samples) + change)
        return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
