"""A clock under which sessions of the tiny bundle run as fast as the machine goes."""

from __future__ import annotations

import threading

from clcr_stream.clock import Wake
from tiny_bundle import tiny_manifest

HOP_NS = tiny_manifest().hop_ns
ORIGIN_NS = 10_000_000_000


class JumpingClock:
    """Jumps to the next time that anybody waits for; when all wait for data, a hop further."""

    def __init__(self) -> None:
        self.now = ORIGIN_NS

    def now_ns(self) -> int:
        return self.now

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        self.now = max(self.now, deadline_ns)
        return not stop.is_set()

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        self.now = self.now + HOP_NS if deadline_ns is None else max(self.now, deadline_ns)
