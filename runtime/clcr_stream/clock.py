"""Time as int nanoseconds of the host's monotonic clock, with a virtual twin for replay and tests."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
FOREVER_NS = 2**63 - 1  # later than every time
IDLE_S = 0.25  # a wait without a deadline ends after so long at the latest


class Wake:
    """Ends another thread's wait, from any thread and from a signal handler: it takes no lock. A context manager."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def set(self) -> None:
        """End the wait that is going on, or the next one."""
        # BlockingIOError: the pipe is full of wake-ups already; OSError: closed.
        with contextlib.suppress(OSError):
            os.write(self._writer, b"\0")

    def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`, or as soon as `set` was called since the last wait."""
        # poll counts whole ms: the rest of a wait shorter than one is slept, which ends to about 0.1 ms
        whole_ms = int(timeout_s * 1000)
        if not self._poll.poll(whole_ms):
            rest_s = timeout_s - whole_ms / 1000
            if whole_ms == 0 and rest_s > 0:
                time.sleep(rest_s)
            return
        self.clear()

    def fileno(self) -> int:
        """The descriptor that is readable once `set` was called, for a poller; after it, `clear`."""
        return self._reader

    def clear(self) -> None:
        """Forget what was set."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    def close(self) -> None:
        """Let go of the pipe; a late `set` does nothing then. Idempotent."""
        ends, self._reader, self._writer = (
            (self._reader, self._writer),
            -1,
            -1,
        )  # the numbers may soon be another file's
        for end in ends:
            if end >= 0:
                os.close(end)

    def __enter__(self) -> Wake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Clock(Protocol):
    """What the loop and the sources know of time."""

    def now_ns(self) -> int:
        """Monotonic now, ns."""

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        """Block until `deadline_ns` or until `stop` is set; False when stopped."""

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        """Block until `deadline_ns` (None: no time is known) or until woken, whichever comes first; may end early."""


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

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        timeout_s = IDLE_S if deadline_ns is None else (deadline_ns - time.monotonic_ns()) / NS_PER_S
        wake.wait(min(IDLE_S, max(0.0, timeout_s)))


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

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        if deadline_ns is None:
            wake.wait(IDLE_S)
        else:
            with self._lock:
                self._now_ns = max(self._now_ns, deadline_ns)


def read_boot_id() -> str:
    """The kernel's id of this boot, which says whether two monotonic times can be compared; "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
