"""Opens sources for a moment, to say how they are doing; nothing of what they capture is kept."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from clcr_stream.clock import NS_PER_S, Clock, MonotonicClock
from clcr_stream.sources.base import Sinks, SourceReport, SourceSpec
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.frames import make_finder
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings

TRIAL_NS = 3 * NS_PER_S  # a camera takes 1 to 2 s to open, and a cover is told after 1 s
LOOK_NS = NS_PER_S // 10
MEDIA = ("vision", "acoustic")


@dataclass(frozen=True)
class Tried:
    """How a source is doing at the end of its trial, and for how long it has been."""

    report: SourceReport
    for_ns: int


def try_sources(spec: SourceSpec, grid: TimeGrid, size_px: int, clock: Clock | None = None) -> list[Tried]:
    """How the sources of picture and sound are doing after 3 s; SourceError for one that can never work.

    Less if none of them can do otherwise: each has ended, or is not there.
    """
    clock = clock or MonotonicClock()
    finder = None if spec.face_model is None else make_finder(size_px, spec.face_model)
    sources = open_sources(spec, Sinks(clock, make_rings(grid, size_px), finder, framing=spec.framing))
    media = [source for source in sources if set(source.modalities) & set(MEDIA)]
    never = threading.Event()
    try:
        for source in media:
            source.start()
        end_ns = clock.now_ns() + TRIAL_NS
        while clock.now_ns() < end_ns:
            clock.wait_until(clock.now_ns() + LOOK_NS, never)
            for source in media:
                source.consumed(clock.now_ns())
            if all(source.report().state in ("absent", "ended", "failed") for source in media):
                break
        now_ns = clock.now_ns()
        reports = [source.report() for source in media]
        return [Tried(one, max(0, now_ns - (now_ns if one.since_ns is None else one.since_ns))) for one in reports]
    finally:
        for source in sources:
            source.close()
