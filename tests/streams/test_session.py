"""The session: which ticks are due, which are published, and that every one of them is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr_stream.clock import FOREVER_NS, Clock, Wake
from clcr_stream.errors import SourceError
from clcr_stream.inference.levels import Levels
from clcr_stream.inference.null import NullRunner
from clcr_stream.inference.program import Graph, Program
from clcr_stream.sources.base import Modality, SourceReport
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.streams.person import Person
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.session import LAST_WORDS_NS, NextHop, Pipeline, Schedule, Session, valid_tokens
from clcr_stream.window.cutter import Chunk, Cutter, Rows
from clcr_stream.window.grid import Tick, TimeGrid
from clcr_stream.window.ring import AudioRing, Rings, VisionRing
from clcr_stream.window.transcript import Segment, Transcript
from clcr_stream.wire import messages
from driving import drive, empty_bundle, no_words
from tiny_bundle import tiny_manifest

MANIFEST = tiny_manifest()
HOP_NS = MANIFEST.hop_ns
ORIGIN_NS = 10_000_000_000
SETTLE_NS = 60_000_000
IDENTITY = Identity("default", "0" * 16, "boot", "f" * 64, "fake")
SLOTS = MANIFEST.vision.slots_per_hop


class ManualClock:
    """A clock that moves when it is waited for, and when somebody takes time."""

    def __init__(self) -> None:
        self.now = ORIGIN_NS

    def now_ns(self) -> int:
        return self.now

    def take(self, duration_ns: int) -> None:
        self.now += duration_ns

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        self.now = max(self.now, deadline_ns)
        return not stop.is_set()

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        assert deadline_ns is not None, "everybody waits for data that nobody will bring"
        self.now = max(self.now, deadline_ns)


class FakeLanguage:
    """A window without words."""

    def update(self, segments: list[Segment]) -> LanguageTokens:
        return LanguageTokens(no_words(MANIFEST), 0, 0.0, None, 0)


@dataclass
class FakeBackend:
    """Remembers which hops it saw since its last reset; each run takes the time that `cost` says."""

    clock: ManualClock
    cost: Callable[[int], int] = lambda number: 0
    spoil: Callable[[int], NDArray[np.float64] | None] = lambda number: None
    name: str = "fake"
    number: int = 0  # of the hop that was cut last
    seen: list[int] = field(default_factory=list)
    resets: int = 0

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> FakeRunner:
        return FakeRunner(self, program, seats)


class FakeRunner(NullRunner):
    """The null runner with a memory, a clock and answers that can be spoiled."""

    def __init__(self, backend: FakeBackend, program: Program, seats: int) -> None:
        super().__init__(program, seats)
        self._backend = backend

    def run(self, first: int, count: int) -> Mapping[str, float]:
        number = self._backend.number
        self._backend.seen.append(number)
        self._backend.clock.take(self._backend.cost(number))
        output = self._backend.spoil(number)
        even = np.full(len(MANIFEST.labels), 1.0 / len(MANIFEST.labels))
        self.outputs["probs"][first] = even if output is None else output
        return {"level1": 0.0}

    def clear(self, seat: int) -> None:
        self._backend.seen.clear()
        self._backend.resets += 1


class WatchedCutter(Cutter):
    """Tells the backend which hop it is about to see."""

    def __init__(self, grid: TimeGrid, backend: FakeBackend) -> None:
        super().__init__(MANIFEST, grid)
        self._backend = backend

    def cut(self, rings: Rings, tick: Tick, rows: Rows) -> Chunk:
        self._backend.number = tick.number
        return super().cut(rings, tick, rows)


@dataclass
class FakeSource:
    """A source whose data is pushed by the test; `end_ns` is the end of a recording, None for a live one."""

    rings: Rings
    end_ns: int | None = None
    lossless: bool = False
    modalities: tuple[Modality, ...] = ("vision", "acoustic")
    name: str = "fake"
    kind: str = "fake"
    error: str | None = None
    consumed_ns: list[int] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.end_ns is not None

    @property
    def watermark_ns(self) -> int:
        return FOREVER_NS if self.end_ns is not None else ORIGIN_NS

    def start(self) -> None: ...
    def close(self) -> None: ...

    def filled(self, end_ns: int) -> bool:
        return not self.lossless or self.watermark_ns >= end_ns

    def consumed(self, end_ns: int) -> None:
        self.consumed_ns.append(end_ns)

    def report(self) -> SourceReport:
        if self.error is not None:
            return SourceReport(self.name, self.kind, "failed", self.error, {})
        return SourceReport(self.name, self.kind, "live", "", {})


@dataclass
class Bench:
    """A session with everything around it replaced by what a test can see into."""

    clock: ManualClock
    levels: FakeBackend
    rings: Rings
    source: FakeSource
    sent: list[messages.Message]
    session: Session
    stop: threading.Event
    pipeline: Pipeline

    def run(self) -> list[messages.Prediction]:
        clock: Clock = self.clock
        levels = Levels(empty_bundle(MANIFEST), self.levels)
        self.levels.resets = -1  # taking the seat is one
        drive(levels, clock, [self.session], self.stop)
        return [message for message in self.sent if isinstance(message, messages.Prediction)]

    @property
    def ticks(self) -> messages.Ticks:
        return self.session.account.ticks()


def bench(
    schedule: Schedule,
    seconds: float | None = None,
    cost: Callable[[int], int] = lambda number: 0,
    spoil: Callable[[int], NDArray[np.float64] | None] = lambda number: None,
) -> Bench:
    """Live without `seconds`, else a recording of that length that is pushed already."""
    clock = ManualClock()
    grid = TimeGrid.of(MANIFEST, ORIGIN_NS)
    rings = Rings(grid, VisionRing(grid, 32, slots=400), AudioRing(grid, 30.0), Transcript())
    levels = FakeBackend(clock, cost, spoil)
    source = FakeSource(rings)
    if seconds is not None:
        source.lossless = True
        source.end_ns = ORIGIN_NS + int(seconds * 1e9)
        rings.acoustic.put(0, np.full(int(seconds * 16000), 0.1, np.float32))
    language: Any = FakeLanguage()
    pipeline = Pipeline(MANIFEST, grid, rings, WatchedCutter(grid, levels), language)
    sent: list[messages.Message] = []
    session = Session(pipeline, [source], replace(schedule, clock=clock), IDENTITY, sent.append)
    return Bench(clock, levels, rings, source, sent, session, threading.Event(), pipeline)


def live(last_tick: int) -> Schedule:
    return Schedule(ManualClock(), SETTLE_NS, paced=True, last_tick=last_tick)


def test_a_live_session_publishes_every_tick_after_its_window_settled() -> None:
    at = bench(live(10))
    predictions = at.run()
    assert [prediction.seq for prediction in predictions] == list(range(1, 11))
    for prediction in predictions:
        assert prediction.published_ns == prediction.window.end_ns + SETTLE_NS
    assert at.ticks == messages.Ticks(due=10, published=10, skipped={})


def test_a_late_session_takes_every_hop_through_the_levels_but_publishes_only_the_newest() -> None:
    at = bench(live(20), cost=lambda number: 5 * HOP_NS if number == 4 else 0)
    predictions = at.run()
    assert at.levels.seen == list(range(1, 21))
    assert [prediction.seq for prediction in predictions] == [1, 2, 3, 4, *range(9, 21)]
    assert at.ticks == messages.Ticks(due=20, published=16, skipped={"late": 4})
    assert at.levels.resets == 0


def test_gaps_in_seq_are_the_number_of_skipped_ticks() -> None:
    at = bench(live(50), cost=lambda number: HOP_NS * (number % 4))
    numbers = [prediction.seq for prediction in at.run()]
    gaps = sum(after - before - 1 for before, after in zip([0, *numbers], numbers, strict=False))
    assert gaps == sum(at.ticks.skipped.values()) - (50 - numbers[-1])


def test_falling_a_window_behind_drops_the_past_and_starts_over() -> None:
    at = bench(live(60), cost=lambda number: 40 * HOP_NS if number == 3 else 0)
    numbers = [prediction.seq for prediction in at.run()]
    assert numbers == [1, 2, 3, *range(43, 61)]
    assert at.ticks.skipped == {"overrun": 39}
    assert at.levels.resets == 1
    assert at.levels.seen == list(range(43, 61))


def test_a_machine_that_is_always_too_slow_still_publishes() -> None:
    at = bench(live(400), cost=lambda number: HOP_NS * 3 // 2)
    predictions = at.run()
    assert len(predictions) >= 5
    assert at.ticks.due == 400
    ages = [(prediction.published_ns - prediction.window.end_ns) / HOP_NS for prediction in predictions]
    assert max(ages) <= 2.5 * MANIFEST.window_hops


def test_a_recording_with_a_live_source_beside_it_is_never_jumped_over() -> None:
    at = bench(live(60), seconds=12.0, cost=lambda number: 40 * HOP_NS if number == 3 else 0)
    beside = FakeSource(at.rings, modalities=("language",), name="live words")
    at.session = Session(at.pipeline, [at.source, beside], replace(live(60), clock=at.clock), IDENTITY, at.sent.append)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, *range(43, 61)]
    assert at.levels.seen == list(range(1, 61))
    assert at.ticks.skipped == {"late": 39}


@pytest.mark.parametrize(("lossless", "waits"), [(None, True), (True, True), (False, False)])
def test_ticks_wait_until_words_are_encoded_unless_they_come_live(lossless: bool | None, waits: bool) -> None:
    at = bench(live(1), seconds=1.0)
    beside = [] if lossless is None else [FakeSource(at.rings, lossless=lossless, modalities=("language",))]
    Session(at.pipeline, [at.source, *beside], live(1), IDENTITY, at.sent.append)
    assert at.pipeline.language.waits is waits


@pytest.mark.parametrize("lossless", [True, False])
def test_words_that_come_with_sound_from_one_live_source_cost_no_tick_either(lossless: bool) -> None:
    at = bench(live(1), seconds=1.0)
    source = FakeSource(at.rings, lossless=lossless, modalities=("vision", "acoustic", "language"))
    Session(at.pipeline, [source], live(1), IDENTITY, at.sent.append)
    assert at.pipeline.language.waits is lossless


def test_a_recording_at_full_speed_never_skips_however_slow_the_machine() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=8.0, cost=lambda number: 3 * HOP_NS)
    assert [prediction.seq for prediction in at.run()] == list(range(1, 41))
    assert at.ticks.skipped == {}


def test_a_recording_ends_with_its_last_full_hop() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=1.19)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, 4, 5]
    assert at.source.consumed_ns == [ORIGIN_NS + number * HOP_NS for number in range(1, 6)]


def test_a_recording_shorter_than_a_hop_publishes_nothing() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=0.1)
    assert at.run() == []
    assert at.ticks.due == 0


def test_video_alone_ends_with_the_slot_that_fills_its_last_hop() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=0.0)
    for slot in range(10):
        at.rings.vision.put(ORIGIN_NS + slot * 1_000_000_000 // 15, np.zeros((32, 32, 3), np.uint8), 1.0, 1)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3]


def test_real_pace_and_full_speed_give_the_same_predictions_apart_from_the_clock() -> None:
    real = bench(Schedule(ManualClock(), SETTLE_NS, paced=True), seconds=4.0).run()
    fast = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=4.0).run()
    assert [timeless(prediction) for prediction in real] == [timeless(prediction) for prediction in fast]


def timeless(prediction: messages.Prediction) -> messages.Prediction:
    return msgspec.structs.replace(prediction, published_ns=0, latency_ms=None, timing_ms={})


BAD = {
    "nan": np.array([np.nan, 0.2, 0.2, 0.2, 0.2, 0.2]),
    "infinite": np.array([np.inf, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "sum": np.full(6, 0.2),
    "negative": np.array([1.5, -0.5, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_invalid_answer_is_never_published_and_resets_the_levels(kind: str) -> None:
    at = bench(live(6), spoil=lambda number: BAD[kind] if number == 3 else None)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 4, 5, 6]
    assert at.ticks.skipped == {"invalid": 1}
    assert at.levels.resets == 1


def test_without_any_input_predictions_still_leave_and_say_so() -> None:
    predictions = bench(live(3)).run()
    assert {prediction.degraded for prediction in predictions} == {("no_input",)}
    assert predictions[0].captured_ns == predictions[0].window.end_ns


def test_what_is_missing_stale_or_without_a_face_is_named() -> None:
    at = bench(live(16))
    at.rings.vision.put(ORIGIN_NS, np.zeros((32, 32, 3), np.uint8), 1.0, 1)
    for slot in range(30, 48):
        at.rings.vision.put(ORIGIN_NS + slot * 1_000_000_000 // 15, None, 0.0, 0)
    at.rings.acoustic.put(0, np.zeros(16000, np.float32))
    by_seq = {prediction.seq: prediction.degraded for prediction in at.run()}
    assert by_seq[1] == ("language_absent",)
    assert by_seq[8] == ("vision_stale", "acoustic_stale", "language_absent")
    assert by_seq[12] == ("no_face", "acoustic_stale", "language_absent")


def test_a_segment_is_told_once_per_revision() -> None:
    at = bench(live(10))
    at.rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS, "hello"))
    at.rings.transcript.put(
        Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS, "hello you", revision=1), ORIGIN_NS + 4 * HOP_NS
    )
    at.run()
    first, second = (message for message in at.sent if isinstance(message, messages.Transcript))
    assert first == messages.Transcript(
        stream=IDENTITY.stream,
        session=IDENTITY.session,
        seq=0,  # the publisher numbers it
        boot_id=IDENTITY.boot_id,
        published_ns=first.published_ns,
        id="a",
        start_ns=ORIGIN_NS,
        end_ns=ORIGIN_NS + HOP_NS,
        text="hello",
        final=first.final,
        revision=0,
    )
    assert first.published_ns >= ORIGIN_NS + HOP_NS
    assert (second.text, second.revision, second.seq) == ("hello you", 1, 0)


@pytest.mark.parametrize("final", [True, False])
def test_a_segment_s_message_says_whether_it_is_final(final: bool) -> None:
    at = bench(live(2))
    at.rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS, "hello", final=final))
    at.run()
    (message,) = (message for message in at.sent if isinstance(message, messages.Transcript))
    assert message.final is final


def test_stopping_ends_the_session_without_another_tick() -> None:
    at = bench(live(100))

    def send(message: messages.Message) -> None:
        at.sent.append(message)
        if len(at.sent) == 5:
            at.stop.set()

    at.session = Session(at.pipeline, [at.source], replace(live(100), clock=at.clock), IDENTITY, send)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, 4, 5]
    assert at.ticks.due == 5


def test_latency_is_counted_from_the_newest_datum() -> None:
    at = bench(live(2))
    at.rings.acoustic.put(0, np.zeros(1600, np.float32))
    prediction = at.run()[0]
    assert prediction.captured_ns == ORIGIN_NS + HOP_NS // 2
    assert prediction.latency_ms == pytest.approx(160.0)


@settings(max_examples=50, deadline=None)
@given(
    costs=st.lists(st.integers(0, 45 * HOP_NS), min_size=1, max_size=20),
    spoiled=st.sets(st.integers(1, 40)),
    paced=st.booleans(),
    recording=st.booleans(),
)
def test_every_tick_due_is_published_or_skipped_for_one_reason(
    costs: list[int], spoiled: set[int], paced: bool, recording: bool
) -> None:
    at = bench(
        replace(live(40), paced=paced or not recording),
        seconds=8.0 if recording else None,
        cost=lambda number: costs[number % len(costs)],
        spoil=lambda number: BAD["nan"] if number in spoiled else None,
    )
    predictions = at.run()
    ticks = at.ticks
    assert ticks.due == ticks.published + sum(ticks.skipped.values()) == 40
    assert ticks.published == len(predictions)
    numbers = [prediction.seq for prediction in predictions]
    assert numbers == sorted(set(numbers))
    assert not set(numbers) & spoiled


class NobodyWaits(ManualClock):
    """A clock on which no time passes by itself, and which refuses to be waited for."""

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        raise AssertionError("the session waits")

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        raise AssertionError("the session waits")


def test_a_session_says_when_it_is_due_and_never_waits_itself() -> None:
    at = bench(live(3))
    clock = NobodyWaits()
    at.session = Session(at.pipeline, [at.source], replace(live(2), clock=clock), IDENTITY, at.sent.append)
    levels = Levels(empty_bundle(MANIFEST), at.levels)
    seat = levels.take()
    for number in (1, 2):
        assert at.session.next_due() == ORIGIN_NS + number * HOP_NS + SETTLE_NS
        assert at.session.deadline_ns() == ORIGIN_NS + (number + 1) * HOP_NS + SETTLE_NS
        at.session.fill(levels, seat)
        at.session.finish(levels, seat, levels.run(seat, 1))
    assert at.session.next_due() is NextHop.NONE
    assert len(at.sent) == 2


def test_a_recording_that_has_not_come_yet_awaits_data_whatever_the_clock_says() -> None:
    at = bench(live(5), seconds=0.4)
    at.source.end_ns = None
    assert at.session.next_due() is NextHop.NO_DATA
    at.clock.take(100 * HOP_NS)
    assert at.session.next_due() is NextHop.NO_DATA
    at.source.end_ns = ORIGIN_NS + 2 * HOP_NS
    # A recording has nothing to settle.
    assert at.session.next_due() == ORIGIN_NS + HOP_NS


def test_a_late_hop_is_due_at_once_and_one_that_nothing_presses_has_no_deadline() -> None:
    at = bench(live(20))
    at.clock.take(5 * HOP_NS + SETTLE_NS)
    levels = Levels(empty_bundle(MANIFEST), at.levels)
    seat = levels.take()
    at.session.fill(levels, seat)
    at.session.finish(levels, seat, {})
    for _ in range(4):  # up to the tick that is published
        assert at.session.next_due() is NextHop.NOW
        at.session.fill(levels, seat)
        at.session.finish(levels, seat, {})
    assert at.session.next_due() == ORIGIN_NS + 6 * HOP_NS + SETTLE_NS
    fast = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=2.0)
    assert fast.session.next_due() is NextHop.NOW
    assert fast.session.deadline_ns() == FOREVER_NS


class GrowingLanguage:
    """Says something new every other hop."""

    def __init__(self) -> None:
        self.hops = 0

    def update(self, segments: list[Segment]) -> LanguageTokens:
        self.hops += 1
        revision = self.hops // 2
        rows = no_words(MANIFEST)
        for arrays in rows.values():
            for array in arrays.values():
                array[:] = revision
        return LanguageTokens(rows, revision, 0.0, None, 0)


def test_the_seat_s_words_are_those_of_the_newest_revision() -> None:
    at = bench(live(8))
    language: Any = GrowingLanguage()
    session = Session(replace(at.pipeline, language=language), [at.source], live(8), IDENTITY, at.sent.append)
    levels = Levels(empty_bundle(MANIFEST), at.levels)
    seat = levels.take()
    words = [row for name, row in levels.inputs(seat).items() if name.startswith("language_")]
    assert len(words) >= 3
    for _ in range(8):
        session.fill(levels, seat)
        assert all((row == language.hops // 2).all() for row in words)
        session.finish(levels, seat, levels.run(seat, 1))


def test_a_backend_that_times_its_tick_as_one_is_accounted_for_like_one_that_times_each_engine() -> None:
    for engines_ms in ({"tick": 5000.0}, {"level1": 1000.0, "level2": 3000.0, "intercad": 1000.0}):
        at = bench(live(1))
        levels = Levels(empty_bundle(MANIFEST), at.levels)
        seat = levels.take()
        at.clock.take(2 * HOP_NS)
        at.session.fill(levels, seat)
        levels.run(seat, 1)
        at.session.finish(levels, seat, engines_ms)
        (prediction,) = (message for message in at.sent if isinstance(message, messages.Prediction))
        assert prediction.timing_ms.items() >= engines_ms.items()
        assert set(prediction.timing_ms) - set(engines_ms) == {"cut", "language", "batch", "total"}
        _, tick, overhead, _ = at.session.account.latencies()
        assert tick.p50 is not None and overhead.p50 is not None
        assert overhead.p50 == pytest.approx(tick.p50 - 5000.0, abs=tick.p50)


def test_a_session_whose_only_input_failed_ends_with_its_error() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=1.0)
    at.source.error = "RuntimeError: out of paper"
    (ended,) = drive(Levels(empty_bundle(MANIFEST), at.levels), at.clock, [at.session], at.stop)
    assert isinstance(ended.error, SourceError)
    assert str(ended.error) == "fake fake: RuntimeError: out of paper"
    assert at.ticks.published == 5


def test_a_session_whose_input_ended_well_ends_without_an_error() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=1.0)
    (ended,) = drive(Levels(empty_bundle(MANIFEST), at.levels), at.clock, [at.session], at.stop)
    assert ended.error is None


@pytest.mark.parametrize(("states", "fails"), [(("failed", "failed"), True), (("failed", "ended"), False)])
def test_a_session_fails_only_when_all_that_bring_picture_or_sound_failed(states: tuple[str, str], fails: bool) -> None:
    at = bench(live(1))
    sources = [FakeSource(at.rings, name=state, error=state if state == "failed" else None) for state in states]
    words = FakeSource(at.rings, modalities=("language",), name="words")
    session = Session(at.pipeline, [*sources, words], live(1), IDENTITY, at.sent.append)
    assert (session.failure() is not None) == fails


# What the loop cannot see


def hop_by_hop(at: Bench, hops: int, count: int | None = None) -> list[messages.Prediction]:
    """Hops driven by hand, at whatever time the clock has; the predictions of them."""
    levels = Levels(empty_bundle(MANIFEST), at.levels)
    seat = levels.take()
    for _ in range(hops):
        at.session.fill(levels, seat)
        more = () if count is None else (count,)
        at.session.finish(levels, seat, levels.run(seat, 1), *more)
    return [message for message in at.sent if isinstance(message, messages.Prediction)]


def test_a_schedule_follows_the_clock_unless_told_otherwise() -> None:
    assert Schedule(ManualClock(), SETTLE_NS).paced


def test_the_tick_to_publish_is_chosen_once_however_long_the_hops_before_it_take() -> None:
    at = bench(live(12), cost=lambda number: 5 * HOP_NS if number == 4 else 3 * HOP_NS // 10)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, 4, 9, 10, 11, 12]


def test_a_tick_whose_window_has_not_settled_is_not_the_newest() -> None:
    at = bench(live(12), cost=lambda number: 58 * HOP_NS // 10 if number == 4 else 0)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, 4, 9, 10, 11, 12]


@pytest.mark.parametrize(("behind", "skipped"), [(29, {"late": 29}), (30, {"overrun": 30})])
def test_a_session_starts_over_when_it_is_a_whole_window_behind(behind: int, skipped: dict[str, int]) -> None:
    assert MANIFEST.window_hops == 30
    at = bench(live(50), cost=lambda number: (behind + 1) * HOP_NS if number == 3 else 0)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, *range(4 + behind, 51)]
    assert at.ticks.skipped == skipped


def test_a_late_session_publishes_a_recording_s_last_hop() -> None:
    schedule = Schedule(ManualClock(), SETTLE_NS, paced=True)
    at = bench(schedule, seconds=1.19, cost=lambda number: 40 * HOP_NS if number == 2 else 0)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 5]
    assert at.ticks.skipped == {"late": 2}


def test_an_unpaced_session_of_live_sources_lets_them_settle() -> None:
    for prediction in bench(replace(live(2), paced=False)).run():
        assert prediction.published_ns == prediction.window.end_ns + SETTLE_NS


def beside(at: Bench, *sources: FakeSource) -> Session:
    return Session(at.pipeline, list(sources), Schedule(at.clock, SETTLE_NS, paced=False), IDENTITY, at.sent.append)


def test_live_words_neither_hold_up_a_recording_nor_lengthen_it() -> None:
    at = bench(live(1), seconds=1.0)
    words = FakeSource(at.rings, modalities=("language",), name="words")
    at.session = Session(at.pipeline, [at.source, words], live(9), IDENTITY, at.sent.append)
    assert at.session.next_due() == ORIGIN_NS + HOP_NS, "a recording has nothing to settle"
    at.rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + 8 * HOP_NS, "hello"))
    at.session = beside(at, at.source, words)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_recogniser_may_finish_what_a_paced_recording_said_but_not_take_for_ever(hangs: bool) -> None:
    at = bench(live(1), seconds=1.0)
    recogniser = FakeSource(at.rings, modalities=("language",), kind="recogniser")
    at.rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS, "goodbye"), ORIGIN_NS + 9 * HOP_NS)
    at.clock.pause = partial(pause_long, at.clock, None if hangs else recogniser)  # type: ignore[method-assign]
    sources = (at.source, recogniser)
    at.session = Session(at.pipeline, sources, Schedule(at.clock, SETTLE_NS), IDENTITY, at.sent.append)
    assert len(at.run()) == 5
    assert [message.text for message in at.sent if isinstance(message, messages.Transcript)] == ["goodbye"]
    assert at.clock.now == ORIGIN_NS + (5 * HOP_NS + LAST_WORDS_NS if hangs else 10 * HOP_NS)


def pause_long(clock: ManualClock, recogniser: FakeSource | None, until_ns: int, wake: Wake) -> None:
    clock.now = min(until_ns, ORIGIN_NS + (10 * HOP_NS if recogniser else 10 * LAST_WORDS_NS))
    if recogniser is not None and clock.now < until_ns:
        recogniser.end_ns = ORIGIN_NS


def test_words_alone_settle_while_they_are_live_and_end_with_the_last_of_them() -> None:
    at = bench(live(1))
    words = FakeSource(at.rings, modalities=("language",), name="words")
    at.rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + 3 * HOP_NS, "hello"))
    at.session = Session(at.pipeline, [words], live(9), IDENTITY, at.sent.append)
    assert at.session.next_due() == ORIGIN_NS + HOP_NS + SETTLE_NS
    words.end_ns, words.lossless = FOREVER_NS, True
    at.session = beside(at, words)
    assert [prediction.seq for prediction in at.run()] == [1, 2, 3]
    words.error = "no words"
    failure = at.session.failure()
    assert failure is not None and "no words" in str(failure)


def test_the_times_of_a_hop_are_milliseconds_of_that_hop() -> None:
    at = bench(live(2))
    began_ns = time.perf_counter_ns()
    (prediction,) = hop_by_hop(at, 1)
    took_ms = (time.perf_counter_ns() - began_ns) / 1e6
    times_ms = prediction.timing_ms
    cut, language, total = (times_ms[name] or 0.0 for name in ("cut", "language", "total"))
    assert 0 < cut and 0 < language and cut + language <= total <= took_ms
    assert times_ms["batch"] == 1.0
    assert hop_by_hop(bench(live(2)), 1, count=3)[0].timing_ms["batch"] == 3.0
    latency, tick, _, _ = at.session.account.latencies()
    assert tick.p50 is not None and total <= tick.p50 <= took_ms
    assert latency.p50 == prediction.latency_ms


def test_the_account_knows_no_latency_of_what_nothing_paces() -> None:
    at = bench(Schedule(ManualClock(), SETTLE_NS, paced=False), seconds=1.0)
    at.run()
    assert at.session.account.latencies()[0].p50 is None


def test_the_first_prediction_s_time_is_kept() -> None:
    at = bench(live(3))
    began_ns = time.monotonic_ns()
    found = [at.session.first_published_ns]
    for hops in (1, 2):
        hop_by_hop(at, hops)
        found.append(at.session.first_published_ns)
    assert found[0] is None and found[1] is not None
    assert began_ns <= found[1] <= time.monotonic_ns()
    assert found[2] == found[1]


def test_a_person_hears_how_long_the_stream_is() -> None:
    class Counting(Person):
        def after(self, levels: Levels, seat: int, stream_ns: int) -> None:
            heard.append(stream_ns)

    heard: list[int] = []
    at = bench(live(3))
    at.session = Session(
        at.pipeline, [at.source], replace(live(3), clock=at.clock), IDENTITY, at.sent.append, Counting()
    )
    at.run()
    assert heard == [HOP_NS, 2 * HOP_NS, 3 * HOP_NS]


def test_valid_tokens_are_shares_of_each_modality_s_places() -> None:
    chunk: Any = SimpleNamespace(vision=SimpleNamespace(coverage=0.5), acoustic=SimpleNamespace(coverage=0.2))
    words = LanguageTokens(no_words(MANIFEST), 0, 0.25, None, 0)
    places = (MANIFEST.vision.tokens, MANIFEST.acoustic.tokens, MANIFEST.language.tokens)
    assert valid_tokens(chunk, words, MANIFEST).tolist() == pytest.approx(
        [share * count for share, count in zip((0.5, 0.2, 0.25), places, strict=True)]
    )
