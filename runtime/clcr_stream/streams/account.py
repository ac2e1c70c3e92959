"""The account of a session: ticks due, published and skipped, latencies, and the newest prediction."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clcr_stream.wire import messages

LATE, OVERRUN, INVALID = "late", "overrun", "invalid"
REASONS = (LATE, OVERRUN, INVALID)
KEPT_SAMPLES = 4096  # 13 minutes at 5 Hz: enough for a p99, and bounded for a run of weeks


class Samples:
    """The last KEPT_SAMPLES values of one measure, ms."""

    def __init__(self) -> None:
        self._values: NDArray[np.float64] = np.zeros(KEPT_SAMPLES)
        self.count = 0

    def add(self, value: float) -> None:
        self._values[self.count % KEPT_SAMPLES] = value
        self.count += 1

    def percentiles(self) -> messages.Latency:
        """p50, p95 and p99 of the kept values; nulls before the first."""
        if not self.count:
            return messages.Latency()
        ordered = np.sort(self._values[: min(self.count, KEPT_SAMPLES)])
        # As np.percentile, which takes twice as long and imports numpy.ma: 30 ms of CPU at a session's first status.
        places = np.array((50, 95, 99)) * ((len(ordered) - 1) / 100)
        p50, p95, p99 = (float(value) for value in np.interp(places, np.arange(len(ordered)), ordered))
        return messages.Latency(p50=round(p50, 3), p95=round(p95, 3), p99=round(p99, 3))


@dataclass(frozen=True)
class Last:
    """The newest prediction, as far as a status line shows it."""

    label: str | None = None
    confidence: float | None = None
    degraded: tuple[str, ...] = ()
    value: float | None = None


class Account:
    """Counts every tick once: due = published + skipped. Written by the loop, read by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published = 0
        self._skipped: Counter[str] = Counter()
        self.latency = Samples()
        self.tick = Samples()
        self.overhead = Samples()
        self.last = Last()

    def published(self, latency_ms: float | None, tick_ms: float, overhead_ms: float, last: Last) -> None:
        """One tick was published: capture to publish, wake-up to published, and the latter without its engines."""
        with self._lock:
            self._published += 1
            if latency_ms is not None:
                self.latency.add(latency_ms)
            self.tick.add(tick_ms)
            self.overhead.add(overhead_ms)
            self.last = last

    def skipped(self, reason: str, ticks: int = 1) -> None:
        """`ticks` ticks were due and will not be published."""
        with self._lock:
            self._skipped[reason] += ticks

    def ticks(self) -> messages.Ticks:
        """A consistent copy of the counts."""
        with self._lock:
            skipped = dict(self._skipped)
            return messages.Ticks(
                due=self._published + sum(skipped.values()), published=self._published, skipped=skipped
            )

    def latencies(self) -> tuple[messages.Latency, messages.Latency, messages.Latency, Last]:
        """Capture to publish, tick, overhead, and the newest prediction."""
        with self._lock:
            return self.latency.percentiles(), self.tick.percentiles(), self.overhead.percentiles(), self.last
