"""The loop: who goes through the levels together, and that no stream changes what another one publishes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.clock import FOREVER_NS, Wake
from clcr_stream.errors import BackendError, ClcrError, PublishError
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.inference.null import NullRunner
from clcr_stream.inference.program import Graph, Program, Runner
from clcr_stream.sources.base import Modality, SourceReport
from clcr_stream.streams.loop import BatchCost, Due, Loop, next_batch
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.session import Schedule, Session, open_pipeline
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import AudioRing, Rings, VisionRing
from clcr_stream.window.transcript import Segment, Transcript
from clcr_stream.wire import messages
from driving import Ended, drive, empty_bundle
from jumping_clock import ORIGIN_NS, JumpingClock
from tiny_bundle import WORDS, tiny_manifest, write_bundle

MANIFEST = tiny_manifest()
HOP_NS = MANIFEST.hop_ns
SETTLE_NS = 60_000_000
HOPS = 24  # of data that every stream has


# --- who comes first


dues = st.dictionaries(st.integers(0, 20), st.one_of(st.integers(-50, 200), st.just(FOREVER_NS)), min_size=1).map(
    lambda drawn: [Due(seat, deadline_ns) for seat, deadline_ns in drawn.items()]
)
costs = st.dictionaries(st.integers(1, 8), st.floats(0, 150), max_size=4)
NOW_NS = 0


def learned(known: Mapping[int, float]) -> BatchCost:
    cost = BatchCost()
    for count, cost_ns in known.items():
        cost.learn(count, cost_ns)
    return cost


@given(due=dues, limit=st.integers(1, 8), known=costs)
def test_a_batch_is_of_streams_that_are_due_side_by_side_and_within_the_limit(
    due: list[Due], limit: int, known: dict[int, float]
) -> None:
    batch = next_batch(due, limit, NOW_NS, learned(known))
    assert 1 <= len(batch) <= limit
    assert batch.step == 1
    assert set(batch) <= {one.seat for one in due}
    assert next_batch(reversed(due), limit, NOW_NS, learned(known)) == batch  # the order of asking does not matter


@given(due=dues, limit=st.integers(1, 8), known=costs)
def test_the_most_urgent_stream_is_in_the_batch_then_the_tardy_then_what_nothing_presses(
    due: list[Due], limit: int, known: dict[int, float]
) -> None:
    batch = next_batch(due, limit, NOW_NS, learned(known))
    pressed = [one for one in due if one.deadline_ns != FOREVER_NS]
    in_time = [one for one in pressed if one.deadline_ns > NOW_NS]
    for group in (in_time, pressed, due):
        if group:
            first_ns = min(one.deadline_ns for one in group)
            assert any(one.seat in batch for one in group if one.deadline_ns == first_ns)
            return


@given(due=dues, limit=st.integers(1, 8), known=costs)
def test_a_batch_is_smaller_than_it_could_be_only_when_that_meets_a_deadline(
    due: list[Due], limit: int, known: dict[int, float]
) -> None:
    cost = learned(known)
    whole = next_batch(due, limit, NOW_NS, BatchCost())  # costs nothing: nothing to save
    batch = next_batch(due, limit, NOW_NS, cost)
    by_seat = {one.seat: one.deadline_ns for one in due}
    assert set(batch) <= set(whole)
    if batch == whole:
        return
    in_time = [by_seat[seat] for seat in batch if by_seat[seat] > NOW_NS]
    assert in_time, "halved for a stream that is late anyway"
    assert cost.of(len(batch)) <= min(in_time) - NOW_NS < cost.of(len(whole))


@given(due=dues, limit=st.integers(1, 8), known=costs, now_ns=st.integers(1, 10**15))
def test_the_choice_depends_on_the_time_that_is_left_and_not_on_the_clock(
    due: list[Due], limit: int, known: dict[int, float], now_ns: int
) -> None:
    later = [
        one if one.deadline_ns == FOREVER_NS else replace(one, deadline_ns=one.deadline_ns + now_ns) for one in due
    ]
    assert next_batch(later, limit, now_ns, learned(known)) == next_batch(due, limit, 0, learned(known))


def test_a_call_that_would_be_late_is_halved_towards_the_urgent_stream() -> None:
    due = [Due(seat, 100 if seat == 5 else 1000) for seat in range(8)]
    assert next_batch(due, 8, NOW_NS, learned({8: 80.0})) == range(8)
    assert next_batch(due, 8, NOW_NS, learned({8: 100.0})) == range(8)  # just in time
    assert next_batch(due, 8, NOW_NS, learned({8: 160.0})) == range(4, 8)
    assert next_batch(due, 8, NOW_NS, learned({8: 200.0})) == range(4, 8)  # just in time
    assert next_batch(due, 8, NOW_NS, learned({8: 320.0})) == range(4, 6)
    # No size helps: then the whole batch, so that as many as possible are done.
    assert next_batch(due, 8, NOW_NS, learned({1: 200.0, 8: 1600.0})) == range(8)


def test_a_gap_between_seats_ends_a_batch() -> None:
    due = [Due(0, 50), Due(1, 50), Due(3, 20), Due(4, 50)]
    assert next_batch(due, 8, NOW_NS, BatchCost()) == range(3, 5)


def test_of_recordings_that_nothing_presses_the_one_with_the_fewest_hops_is_next() -> None:
    done = [0] * 5
    for _ in range(40):
        due = [Due(seat, FOREVER_NS, hops) for seat, hops in enumerate(done)]
        for seat in next_batch(due, 2, NOW_NS, BatchCost()):
            done[seat] += 1
        assert max(done) - min(done) <= 1


def test_a_recording_of_which_nothing_was_done_comes_first() -> None:
    assert next_batch([Due(0, FOREVER_NS, 1), Due(2, FOREVER_NS)], 1, NOW_NS, BatchCost()) == range(2, 3)


def test_a_recording_without_a_pace_does_not_keep_a_tardy_stream_waiting() -> None:
    due = [Due(0, FOREVER_NS), Due(2, NOW_NS - 5)]
    assert next_batch(due, 1, NOW_NS, BatchCost()) == range(2, 3)


def test_cost_is_of_the_nearest_known_size_in_proportion_and_follows_slowly() -> None:
    cost = BatchCost()
    assert cost.of(4) == 0.0
    cost.learn(4, 100.0)
    assert (cost.of(4), cost.of(8), cost.of(1)) == (100.0, 200.0, 25.0)
    cost.learn(4, 200.0)
    assert cost.of(4) == pytest.approx(120.0)
    cost.learn(1, 60.0)
    assert (cost.of(1), cost.of(2), cost.of(8)) == pytest.approx((60.0, 120.0, 240.0))


# --- streams beside each other


@dataclass
class ScriptedSource:
    """Everything is in the rings already; a recording shows it from `opens_ns` on."""

    clock: JumpingClock
    opens_ns: int | None = None  # None: live
    modalities: tuple[Modality, ...] = ("vision", "acoustic", "language")
    name: str = "scripted"

    @property
    def lossless(self) -> bool:
        return self.opens_ns is not None

    @property
    def finished(self) -> bool:
        return False

    @property
    def watermark_ns(self) -> int:
        return FOREVER_NS if self.filled(0) else 0

    def start(self) -> None: ...
    def close(self) -> None: ...

    def filled(self, end_ns: int) -> bool:
        return self.opens_ns is None or self.clock.now >= self.opens_ns

    def consumed(self, end_ns: int) -> None: ...

    def report(self) -> SourceReport:
        return SourceReport(self.name, "scripted", "live", "", {})


@dataclass(frozen=True)
class Plan:
    """What a stream is and what becomes of it; hops count from the first stream's origin."""

    name: str
    seed: int
    begins: int = 0
    ticks: int = HOPS
    fails_at: int | None = None
    removed_at: int | None = None
    opens_at: int | None = None


@dataclass
class Place:
    """The bundle and the clock that all streams of a run share."""

    bundle: Bundle
    encoder: Runner
    tokenizer: Tokenizer
    clock: JumpingClock = field(default_factory=JumpingClock)

    def session(self, plan: Plan, send: Callable[[messages.Message], object]) -> Session:
        manifest = self.bundle.manifest
        grid = TimeGrid.of(manifest, ORIGIN_NS + plan.begins * HOP_NS)
        rings = scripted_rings(plan.seed, grid)
        opens_ns = None if plan.opens_at is None else ORIGIN_NS + plan.opens_at * HOP_NS
        return Session(
            replace(open_pipeline(manifest, grid.origin_ns, self.tokenizer, self.encoder), rings=rings),
            [ScriptedSource(self.clock, opens_ns)],
            Schedule(self.clock, SETTLE_NS, last_tick=plan.ticks),
            Identity(plan.name, "0" * 16, "boot", "f" * 64, "onnxruntime"),
            send,
        )


def scripted_rings(seed: int, grid: TimeGrid) -> Rings:
    """HOPS of a random person: pictures with gaps, sound with a hole, words now and then."""
    rng = np.random.default_rng(seed)
    size, origin_ns = MANIFEST.vision.size_px, grid.origin_ns
    rings = Rings(grid, VisionRing(grid, size, slots=400), AudioRing(grid, 30.0), Transcript())
    for slot in range(3 * HOPS):
        if rng.random() < 0.8:
            crop = np.full((size, size, 3), rng.integers(256), np.uint8)
            rings.vision.put(origin_ns + slot * 1_000_000_000 // 15, crop, rng.random(), 1)
    hole = int(rng.integers(0, HOPS)) * 3200
    sound = rng.normal(0, 0.1, HOPS * 3200).astype(np.float32)
    rings.acoustic.put(0, sound[:hole])
    rings.acoustic.put(hole + 2000, sound[hole + 2000 :])
    for number, hop in enumerate(range(1, HOPS, 5)):
        start_ns = origin_ns + hop * HOP_NS
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
        rings.transcript.put(Segment(str(number), start_ns, start_ns + 2 * HOP_NS, text), start_ns + 2 * HOP_NS)
    return rings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("loop") / "bundle"
    write_bundle(folder)
    bundle = load_bundle(folder)
    return Place(bundle, open_encoder(bundle, open_backend("onnxruntime")), Tokenizer(bundle.files["tokenizer.json"]))


@dataclass
class Run:
    """What a run of several streams gave."""

    sent: dict[str, list[messages.Message]]
    ended: list[Ended]

    def predictions(self, name: str) -> list[messages.Prediction]:
        return [message for message in self.sent[name] if isinstance(message, messages.Prediction)]


def run_together(place: Place, plans: list[Plan], max_batch: int = 8) -> Run:
    """All plans in one loop; who begins later is added while the others run, in the loop's own thread."""
    here = replace(place, clock=JumpingClock())
    levels = Levels(place.bundle, open_backend("onnxruntime"), seats=8)
    run = Run({plan.name: [] for plan in plans}, [])
    waiting = sorted((plan for plan in plans if plan.begins), key=lambda plan: plan.begins)
    sessions: dict[str, Session] = {}

    def add(plan: Plan) -> None:
        def send(message: messages.Message) -> None:
            act_on(plan, message)
            run.sent[plan.name].append(message)

        sessions[plan.name] = here.session(plan, send)
        loop.add(sessions[plan.name])

    def act_on(plan: Plan, message: messages.Message) -> None:
        if not isinstance(message, messages.Prediction):
            return
        hop = plan.begins + message.seq
        while waiting and waiting[0].begins <= hop:
            add(waiting.pop(0))
        for other in plans:
            if other.removed_at is not None and hop >= other.removed_at and other.name in sessions:
                loop.remove(sessions[other.name])
        if plan.fails_at is not None and message.seq >= plan.fails_at:
            raise PublishError(f"{plan.name} cannot publish")

    with Wake() as wake:
        loop = Loop(levels, here.clock, wake, lambda *left: run.ended.append(Ended(*left)), max_batch)
        for plan in plans:
            if not plan.begins:
                add(plan)
        loop.run(threading.Event())
    assert levels.taken == 0
    return run


def same(got: messages.Message, wanted: messages.Message) -> None:
    """Equal apart from what the machine's speed decides; numbers to what the order of a sum may change."""
    if not isinstance(got, messages.Prediction):
        assert got == wanted
        return
    assert isinstance(wanted, messages.Prediction)
    assert got.probs is not None and wanted.probs is not None
    assert got.probs == pytest.approx(wanted.probs, abs=1e-6)
    ours: dict[str, Any] = dict.fromkeys(("probs", "confidence", "label", "modalities", "budget", "levels"))
    plain = [msgspec.structs.replace(one, timing_ms={}, **ours) for one in (got, wanted)]
    assert plain[0] == plain[1]
    for name in ("vision", "acoustic", "language"):
        one, other = getattr(got.modalities, name), getattr(wanted.modalities, name)
        assert (one.present, one.quality, one.age_ms, one.coverage) == (
            other.present,
            other.quality,
            other.age_ms,
            other.coverage,
        )


def alone(place: Place, plan: Plan) -> list[messages.Message]:
    """What a stream publishes by itself, from its own beginning."""
    here = replace(place, clock=JumpingClock())
    sent: list[messages.Message] = []
    levels = Levels(place.bundle, open_backend("onnxruntime"))
    quiet = replace(plan, fails_at=None, removed_at=None)
    drive(levels, here.clock, [here.session(quiet, sent.append)])
    return sent


TROUBLES = st.sampled_from(["none", "ends", "fails", "removed", "slow", "joins"])


def troubled(index: int, trouble: str, at: int) -> Plan:
    plan = Plan(f"s{index}", seed=100 + index)
    match trouble:
        case "ends":
            return replace(plan, ticks=at)
        case "fails":
            return replace(plan, fails_at=at)
        case "removed":
            return replace(plan, removed_at=at)
        case "slow":
            return replace(plan, opens_at=at)
        case "joins":
            return replace(plan, begins=at)
        case _:
            return plan


@settings(max_examples=9, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    others=st.lists(st.tuples(TROUBLES, st.integers(1, HOPS - 2)), min_size=1, max_size=5),
    seat=st.integers(0, 5),
    max_batch=st.integers(1, 5),
)
def test_whatever_becomes_of_the_others_a_stream_publishes_what_it_publishes_alone(
    place: Place, others: list[tuple[str, int]], seat: int, max_batch: int
) -> None:
    plans = [troubled(index, *trouble) for index, trouble in enumerate(others)]
    plans.insert(min(seat, len(plans)), Plan("watched", seed=7))
    run = run_together(place, plans, max_batch)
    for plan in plans:
        if plan.opens_at is not None:
            continue  # when a late recording is let in depends on who else makes time pass
        wanted = alone(place, plan)
        got = run.sent[plan.name]
        for message, expected in zip(got, wanted, strict=False):
            same(message, expected)
        if plan.fails_at is None and plan.removed_at is None:
            assert len(got) == len(wanted)
        else:
            assert len(got) < len(wanted)
    assert [message.seq for message in run.predictions("watched")] == list(range(1, HOPS + 1))
    errors = {ended.session.identity.stream: ended.error for ended in run.ended}
    assert errors.keys() == {plan.name for plan in plans}
    assert {name for name, error in errors.items() if error is not None} == {
        plan.name for plan in plans if plan.fails_at is not None
    }


def test_the_watched_stream_would_differ_with_another_s_data(place: Place) -> None:
    """The comparison above can fail."""
    wanted = alone(place, Plan("watched", seed=7))
    with pytest.raises(AssertionError):
        for message, other in zip(alone(place, Plan("watched", seed=8)), wanted, strict=False):
            same(message, other)


def test_live_streams_are_due_together_and_go_through_the_levels_in_one_call(place: Place) -> None:
    plans = [Plan(name, seed) for seed, name in enumerate("abcde")]
    for max_batch, sizes in ((8, {5}), (3, {3, 2}), (1, {1})):
        run = run_together(place, plans, max_batch)
        predictions = [prediction for plan in plans for prediction in run.predictions(plan.name)]
        assert {prediction.timing_ms["batch"] for prediction in predictions} == sizes
        assert len(predictions) == 5 * HOPS


def test_a_stream_that_joins_shares_the_phase_of_the_grid_and_the_calls(place: Place) -> None:
    run = run_together(place, [Plan("first", 1), Plan("second", 2, begins=7, ticks=9), Plan("third", 3, begins=11)])
    for plan_name in ("first", "second", "third"):
        for prediction in run.predictions(plan_name):
            assert (prediction.published_ns - SETTLE_NS - ORIGIN_NS) % HOP_NS == 0
    batches = {
        (prediction.published_ns - SETTLE_NS - ORIGIN_NS) // HOP_NS: prediction.timing_ms["batch"]
        for prediction in run.predictions("first")
    }
    assert [batches[hop] for hop in (6, 7, 8, 11, 12, 16, 17, HOPS)] == [1, 1, 2, 2, 3, 3, 2, 2]


def test_a_stream_is_published_before_its_deadline_while_a_slow_recording_catches_up(place: Place) -> None:
    run = run_together(place, [Plan("slow", 1, opens_at=15), Plan("live", 2)], max_batch=1)
    for prediction in run.predictions("live"):
        assert prediction.published_ns == prediction.window.end_ns + SETTLE_NS
    late = run.ended
    assert {ended.error for ended in late} == {None}
    slow = next(ended.session for ended in late if ended.session.identity.stream == "slow")
    assert slow.account.ticks().skipped["late"] == 14
    assert slow.account.ticks().due == HOPS


class FailingRunner(NullRunner):
    """Fails at its third run."""

    runs = 0

    def run(self, first: int, count: int) -> Mapping[str, float]:
        self.runs += 1
        if self.runs == 3:
            raise BackendError("level2: no memory")
        return super().run(first, count)


class FailingBackend:
    name = "failing"

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> FailingRunner:
        return FailingRunner(program, seats)


def test_an_engine_that_fails_ends_the_loop_with_its_error(place: Place) -> None:
    here = replace(place, clock=JumpingClock())
    sent: list[messages.Message] = []
    with pytest.raises(BackendError, match="level2: no memory"):
        drive(Levels(empty_bundle(MANIFEST), FailingBackend()), here.clock, [here.session(Plan("a", 1), sent.append)])
    assert len([message for message in sent if isinstance(message, messages.Prediction)]) == 2


class SlowBackend:
    """Takes 60 ms of the clock for each stream of a call."""

    name = "slow"

    def __init__(self, clock: JumpingClock) -> None:
        self._clock = clock

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> NullRunner:
        clock = self._clock

        class SlowRunner(NullRunner):
            def run(self, first: int, count: int) -> Mapping[str, float]:
                clock.now += count * 60_000_000
                return super().run(first, count)

        return SlowRunner(program, seats)


def test_what_a_call_of_all_streams_took_makes_the_next_ones_smaller(place: Place) -> None:
    here = replace(place, clock=JumpingClock())
    sent: list[messages.Message] = []
    sessions = [here.session(Plan(name, 1, ticks=4), sent.append) for name in "abcde"]
    drive(Levels(empty_bundle(MANIFEST), SlowBackend(here.clock), seats=8), here.clock, sessions)
    sizes = [message.timing_ms["batch"] for message in sent if isinstance(message, messages.Prediction)]
    assert sizes[:5] == [5] * 5
    assert 1 in sizes


def test_a_stream_for_which_there_is_no_seat_leaves_with_an_error_and_the_others_go_on(place: Place) -> None:
    here = replace(place, clock=JumpingClock())
    levels = Levels(place.bundle, open_backend("onnxruntime"), seats=2)
    sent: list[messages.Message] = []
    plans = [Plan(name, 1) for name in "abc"]
    ended = drive(levels, here.clock, [here.session(plan, sent.append) for plan in plans])
    assert [(one.session.identity.stream, type(one.error)) for one in ended] == [
        ("c", BackendError),
        ("a", type(None)),
        ("b", type(None)),
    ]
    assert {message.stream for message in sent} == {"a", "b"}


def test_removing_a_stream_that_has_left_already_is_nothing(place: Place) -> None:
    here = replace(place, clock=JumpingClock())
    ended: list[ClcrError | None] = []
    levels = Levels(place.bundle, open_backend("onnxruntime"))
    with Wake() as wake:
        loop = Loop(levels, here.clock, wake, lambda _, error: ended.append(error))
        session = here.session(Plan("a", 1, ticks=2), lambda message: None)
        loop.add(session)
        loop.run(threading.Event())
        loop.remove(session)
        loop.run(threading.Event())
    assert ended == [None]


def test_a_loop_that_is_held_goes_on_without_a_stream_until_it_is_let_go(place: Place) -> None:
    here = replace(place, clock=JumpingClock())
    levels = Levels(place.bundle, open_backend("onnxruntime"))
    left = threading.Event()
    seen: list[messages.Message] = []
    with Wake() as wake:
        loop = Loop(levels, here.clock, wake, lambda *_: left.set())
        first = here.session(Plan("first", 1, ticks=2), lambda message: None)
        loop.add(first)
        thread = threading.Thread(target=loop.run, args=(threading.Event(),))
        with loop.held():
            thread.start()
            assert left.wait(30)
            thread.join(0.05)
            assert thread.is_alive()
            loop.add(here.session(Plan("second", 2, ticks=3), seen.append))
        thread.join(30)
        assert not thread.is_alive()
    assert [message.seq for message in seen if isinstance(message, messages.Prediction)][-1] == 3
