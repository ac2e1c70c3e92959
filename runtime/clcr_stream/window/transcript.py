"""What was said and when: a bounded store of revisable segments.

Visibility is causal: a window that ends at T sees only what had arrived by T, and of each segment the newest revision
that had.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from clcr_stream.clock import NS_PER_S

KEEP_NS = 60 * NS_PER_S
MAX_REVISIONS = 4096  # over all segments; a recogniser that revises ten times a second fits for minutes


@dataclass(frozen=True)
class Segment:
    """Words spoken in [start_ns, end_ns) of the session's monotonic timeline; empty text takes the segment back."""

    id: str
    start_ns: int
    end_ns: int
    text: str
    final: bool = True
    revision: int = 0


@dataclass(frozen=True)
class Arrival:
    """One revision of a segment and when it became known."""

    segment: Segment
    arrived_ns: int


class Transcript:
    """Segments of the last minute, newest revisions first to count; safe for many writers and one reader.

    `version` changes whenever `between` may answer with other content. Counters: `received`, `replaced` (a newer
    revision of a known segment), `dropped` by reason: `stale_revision`, `late` (older than the store keeps),
    `overflow`, and `expired` for segments that grew too old.
    """

    def __init__(self, keep_ns: int = KEEP_NS, max_revisions: int = MAX_REVISIONS) -> None:
        self.keep_ns = keep_ns
        self.version = 0
        self.received = 0
        self.replaced = 0
        self.expired = 0
        self.dropped = {"stale_revision": 0, "late": 0, "overflow": 0}
        self._max_revisions = max_revisions
        self._lock = threading.Lock()
        self._revisions: dict[str, list[Arrival]] = {}  # each list in order of revision, oldest first
        self._size = 0
        self._newest_end_ns: int | None = None  # of the windows asked for
        self._newest: list[Segment] = []

    @property
    def newest_ns(self) -> int | None:
        """End of the newest segment held, None when there is none."""
        with self._lock:
            return max((revisions[-1].segment.end_ns for revisions in self._revisions.values()), default=None)

    def put(self, segment: Segment, arrived_ns: int | None = None) -> bool:
        """Take one revision, visible to windows that end at `arrived_ns` (default: the segment's end) or later.

        False when it was dropped: not newer than the revision held, or older than the store keeps.
        """
        arrival = Arrival(segment, segment.end_ns if arrived_ns is None else arrived_ns)
        with self._lock:
            self.received += 1
            if self._newest_end_ns is not None and segment.end_ns < self._newest_end_ns - self.keep_ns:
                self.dropped["late"] += 1
                return False
            revisions = self._revisions.setdefault(segment.id, [])
            if revisions and segment.revision <= revisions[-1].segment.revision:
                self.dropped["stale_revision"] += 1
                return False
            self.replaced += bool(revisions)
            revisions.append(arrival)
            self._size += 1
            self.version += 1
            if self._size > self._max_revisions:
                self._drop_oldest()
            return True

    def between(self, start_ns: int, end_ns: int) -> list[Segment]:
        """Segments that overlap [start_ns, end_ns) and had arrived by `end_ns`, in time order."""
        with self._lock:
            self._expire(end_ns)
            segments = [
                segment
                for revisions in self._revisions.values()
                if (segment := _newest_by(revisions, end_ns)) is not None
                and segment.text
                and segment.start_ns < end_ns
                and segment.end_ns > start_ns
            ]
            segments.sort(key=lambda segment: (segment.start_ns, segment.end_ns, segment.id))
            if segments != self._newest:
                self._newest = segments
                self.version += 1
            return list(segments)

    def _expire(self, end_ns: int) -> None:
        if self._newest_end_ns is not None and end_ns <= self._newest_end_ns:
            return
        self._newest_end_ns = end_ns
        horizon_ns = end_ns - self.keep_ns
        for key in [key for key, revisions in self._revisions.items() if revisions[-1].segment.end_ns < horizon_ns]:
            self._size -= len(self._revisions.pop(key))
            self.expired += 1
            self.version += 1

    def _drop_oldest(self) -> None:
        """Forget a superseded revision if there is one, otherwise the segment that ended first."""
        longest = max(self._revisions.values(), key=len)
        if len(longest) > 1:
            del longest[0]
            self._size -= 1
        else:
            key = min(self._revisions, key=lambda key: self._revisions[key][-1].segment.end_ns)
            self._size -= len(self._revisions.pop(key))
        self.dropped["overflow"] += 1


def _newest_by(revisions: list[Arrival], time_ns: int) -> Segment | None:
    for arrival in reversed(revisions):
        if arrival.arrived_ns <= time_ns:
            return arrival.segment
    return None
