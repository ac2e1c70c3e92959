"""A recording that stalls at its own pace: duration and requirements go by the clock, and a slow one loses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import RequiredError
from clcr_stream.inference.levels import Levels
from clcr_stream.inference.null import NullBackend
from clcr_stream.sources.base import BOTH, Modality, SourceReport
from clcr_stream.sources.health import State
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.required import NOTHING, Required
from clcr_stream.streams.session import NextHop, Pipeline, Schedule, Session
from clcr_stream.window.cutter import Cutter
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from clcr_stream.window.transcript import Segment
from driving import drive, empty_bundle, no_words
from jumping_clock import ORIGIN_NS, JumpingClock
from tiny_bundle import tiny_manifest

MANIFEST = tiny_manifest()
HOP_NS = MANIFEST.hop_ns
STALL_NS = ORIGIN_NS + 2 * NS_PER_S


@dataclass
class Stalling:
    """A recording of which nothing comes from STALL_NS on."""

    state: State = "stale"
    name: str = "talk"
    modalities: tuple[Modality, ...] = BOTH
    lossless: bool = True
    finished: bool = False
    watermark_ns: int = STALL_NS

    def start(self) -> None: ...
    def close(self) -> None: ...
    def consumed(self, end_ns: int) -> None: ...

    def filled(self, end_ns: int) -> bool:
        return end_ns <= STALL_NS

    def report(self) -> SourceReport:
        return SourceReport(self.name, "file", self.state, "no new data for 2.0 s", {})


class Wordless:
    """A window without words."""

    def update(self, segments: list[Segment]) -> LanguageTokens:
        return LanguageTokens(no_words(MANIFEST), 0, 0.0, None, 0)


def stalled(
    source: Stalling, required: Required = NOTHING, last_tick: int | None = None
) -> tuple[Session, JumpingClock]:
    grid, clock, language = TimeGrid.of(MANIFEST, ORIGIN_NS), JumpingClock(), Wordless()
    rings = make_rings(grid, 32)
    rings.acoustic.put(0, np.full(2 * 16_000, 0.1, np.float32))
    words: Any = language
    pipeline = Pipeline(MANIFEST, grid, rings, Cutter(MANIFEST, grid), words)
    schedule = Schedule(clock, 0, last_tick=last_tick, required=required)
    identity = Identity("default", "0" * 16, "boot", "f" * 64, "null")
    return Session(pipeline, [source], schedule, identity, lambda _: None), clock


def run(session: Session, clock: JumpingClock) -> BaseException | None:
    """To its end; what ended it."""
    (ended,) = drive(Levels(empty_bundle(MANIFEST), NullBackend()), clock, [session])
    return ended.error


def test_a_recording_that_stalls_ends_after_the_duration_by_the_clock() -> None:
    session, clock = stalled(Stalling(), last_tick=25)
    assert run(session, clock) is None
    assert session.done == 10
    assert 0 <= clock.now - (ORIGIN_NS + 25 * HOP_NS) <= HOP_NS


def test_what_is_required_of_a_recording_that_stalls_is_missing_by_the_clock() -> None:
    session, clock = stalled(Stalling(), Required(("acoustic",), 3.0))
    error = run(session, clock)
    assert isinstance(error, RequiredError)
    assert "acoustic: file talk is stale (no new data for 2.0 s)" in str(error)
    assert 0 <= clock.now - STALL_NS - 3 * NS_PER_S <= HOP_NS


def test_with_an_alert_a_recording_that_stalls_is_waited_for() -> None:
    session, clock = stalled(Stalling(), Required(("acoustic",), 3.0, ends=False), last_tick=50)
    assert run(session, clock) is None
    assert clock.now >= ORIGIN_NS + 50 * HOP_NS


def test_a_recording_that_is_only_slow_is_waited_for_beyond_the_duration() -> None:
    source = Stalling(state="live")
    session, clock = stalled(source, last_tick=25)
    session.done = 10
    clock.now += 60 * NS_PER_S
    assert session.next_due() is NextHop.NO_DATA
    source.state = "stale"
    assert session.next_due() is NextHop.NONE
