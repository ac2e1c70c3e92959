"""Time as int nanoseconds of the host's monotonic clock, with a virtual twin for replay and tests."""

from __future__ import annotations

import threading
import time
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class Clock(Protocol):
    """What the loop and the sources know of time."""

    def now_ns(self) -> int:
        """Monotonic now, ns."""

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        """Block until `deadline_ns` or until `stop` is set; False when stopped."""


class MonotonicClock:
    """The host's CLOCK_MONOTONIC."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        while not stop.is_set():
            remaining_ns = deadline_ns - time.monotonic_ns()
            if remaining_ns <= 0:
                return True
            stop.wait(remaining_ns / NS_PER_S)
        return False


class VirtualClock:
    """A clock that jumps to whatever it is asked to wait for: replay at the machine's speed, tests without sleeps."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        with self._lock:
            return self._now_ns

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        with self._lock:
            self._now_ns = max(self._now_ns, deadline_ns)
        return not stop.is_set()
