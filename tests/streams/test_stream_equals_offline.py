"""The runtime, fed in pieces and hop by hop, computes what the trained model computes on the whole recording at once.

What runs is the product: rings, cutter, language stream, levels and ONNX Runtime on an exported bundle, and in the last
tests the session loop. What it is compared with is in streaming_reference.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr.network.config import MODALITIES
from clcr_stream.clock import FOREVER_NS, VirtualClock
from clcr_stream.frontends.positions import sinusoid
from clcr_stream.sources.base import Modality, SourceReport
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.session import Schedule, Session
from clcr_stream.window.transcript import Segment
from clcr_stream.wire import messages
from driving import drive
from recordings import (
    HOP_NS,
    ORIGIN_NS,
    TEXT_TOKENS,
    WINDOW_HOPS,
    Feeder,
    Frame,
    Recording,
    Words,
    record,
)
from streamed_runtime import (
    TOLERANCE,
    Runtime,
    Said,
    check_a_lost_state,
    check_all_at_once,
    check_devices,
    check_every_tick,
    difference,
    opened_runtime,
    stream,
    worst_difference,
)

CONTEXT_HOPS = 15  # the temporal network sees 28 steps back: 10 hops of picture, 6 of sound


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with opened_runtime(tmp_path_factory, "stream") as found:
        yield found


@pytest.mark.parametrize("seed", [1, 2])
def test_every_tick_equals_the_model_on_the_whole_prefix(runtime: Runtime, seed: int) -> None:
    check_every_tick(runtime, record(seed, WINDOW_HOPS + 18), seed)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), hops=st.integers(1, 20), gamma=st.sampled_from([0.0, 0.3, 1.0, 2.5]))
def test_any_recording_in_any_pieces_equals_the_model(runtime: Runtime, seed: int, hops: int, gamma: float) -> None:
    recording = replace(record(seed, hops), gamma=gamma)
    assert worst_difference(runtime, stream(runtime, recording, seed), recording) <= TOLERANCE


@pytest.mark.parametrize("present", [c for n in range(4) for c in combinations(MODALITIES, n)], ids="+".join)
def test_any_set_of_devices_equals_the_model(runtime: Runtime, present: tuple[str, ...]) -> None:
    check_devices(runtime, present)


def test_a_face_that_leaves_for_longer_than_the_window_is_forgotten_and_comes_back(runtime: Runtime) -> None:
    recording = record(4, WINDOW_HOPS + 25)
    gone_ns, back_ns = ORIGIN_NS + 6 * HOP_NS, ORIGIN_NS + (WINDOW_HOPS + 14) * HOP_NS
    steady = [Frame(ORIGIN_NS + k * 40_000_000, recording.frames[k % 50].crop) for k in range(recording.hops * 5)]
    kept = [frame for frame in steady if not gone_ns <= frame.captured_ns < back_ns]
    recording = replace(recording, frames=kept)
    ticks = stream(runtime, recording)
    seen = [bool(said["present"][0]) for said in ticks]
    assert (seen[5], seen[WINDOW_HOPS + 8], seen[-1]) == (True, False, True)
    assert worst_difference(runtime, ticks, recording) <= TOLERANCE


def test_a_transcript_longer_than_the_window_holds_equals_the_model(runtime: Runtime) -> None:
    text = "hello there good morning i am so glad to see you"
    spoken = [Segment(str(k), ORIGIN_NS + k * 3 * HOP_NS, ORIGIN_NS + (k + 1) * 3 * HOP_NS, text) for k in range(13)]
    recording = replace(record(5, 40), words=[Words(segment, segment.end_ns) for segment in spoken])
    tokens = sum(len(said.ids) for said in runtime.offline(recording).place_words(40))
    assert tokens > 1.5 * TEXT_TOKENS
    assert worst_difference(runtime, stream(runtime, recording), recording) <= TOLERANCE


def test_all_data_at_once_gives_the_identical_numbers(runtime: Runtime) -> None:
    check_all_at_once(runtime, record(6, WINDOW_HOPS + 16), seeds=(1, 2))


def one_slot_late(recording: Recording) -> Recording:
    later = [replace(frame, captured_ns=frame.captured_ns + 66_666_667) for frame in recording.frames]
    return replace(recording, frames=later)


def one_ms_late(recording: Recording) -> Recording:
    return replace(recording, samples=np.roll(recording.samples, 16), present=np.roll(recording.present, 16))


def one_hop_early(recording: Recording) -> Recording:
    return replace(recording, words=[replace(w, arrived_ns=w.arrived_ns - HOP_NS) for w in recording.words])


def one_word_other(recording: Recording) -> Recording:
    changed = [replace(w, segment=replace(w.segment, text=w.segment.text.replace("a", "b"))) for w in recording.words]
    return replace(recording, words=changed)


def a_little_less_exchange(recording: Recording) -> Recording:
    return replace(recording, gamma=0.99)


@pytest.mark.parametrize(
    "tampered", [one_slot_late, one_ms_late, one_hop_early, one_word_other, a_little_less_exchange]
)
def test_the_comparison_notices_input_that_differs(runtime: Runtime, tampered: Any) -> None:
    recording = record(7, 16)
    assert worst_difference(runtime, stream(runtime, tampered(recording)), recording) > TOLERANCE


@pytest.mark.parametrize("module", ["window.cutter", "streams.language"])
def test_the_comparison_notices_positions_that_are_one_step_off(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def shifted(steps: NDArray[np.int64], width: int, base: float) -> NDArray[np.float32]:
        return sinusoid(steps + 1, width, base)

    monkeypatch.setattr(f"clcr_stream.{module}.sinusoid", shifted)
    recording = record(7, 16)
    assert worst_difference(runtime, stream(runtime, recording), recording) > TOLERANCE


def test_a_lost_state_is_noticed_and_has_healed_when_the_window_has_passed(runtime: Runtime) -> None:
    check_a_lost_state(runtime, CONTEXT_HOPS)


def test_after_a_year_of_streaming_the_numbers_still_equal_the_model(runtime: Runtime) -> None:
    recording = record(9, 34, first_hop=157_680_000)
    assert worst_difference(runtime, stream(runtime, recording), recording) <= TOLERANCE


class RecordedSource:
    """A lossless source that fills the rings when the loop asks for them; no thread of its own."""

    name = "recording"
    modalities: tuple[Modality, ...] = ("vision", "acoustic", "language")
    lossless = True

    def __init__(self, feeder: Feeder, recording: Recording) -> None:
        self._feeder = feeder
        self._end_ns = ORIGIN_NS + recording.hops * HOP_NS
        self.watermark_ns = ORIGIN_NS
        self.consumed_ns = ORIGIN_NS

    @property
    def finished(self) -> bool:
        return self.watermark_ns == FOREVER_NS

    def start(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def filled(self, end_ns: int) -> bool:
        self._feeder.fill(end_ns)
        self.watermark_ns = FOREVER_NS if end_ns >= self._end_ns else max(end_ns, self.watermark_ns)
        return True

    def consumed(self, end_ns: int) -> None:
        self.consumed_ns = end_ns

    def report(self) -> SourceReport:
        return SourceReport(self.name, "test", "live", "", {})


def spoken_probs(message: messages.Prediction) -> Said:
    """A prediction's numbers under the names of the reference."""
    assert message.probs is not None
    parts = (message.modalities.vision, message.modalities.acoustic, message.modalities.language)
    return {
        "output": np.array(list(message.probs.values())),
        "omega": np.array(message.levels.weights),
        "beta": np.array([part.weight for part in parts]),
        "eta": np.array([part.gate for part in parts]),
        "present": np.array([float(part.present) for part in parts]),
        "mass": np.array(message.budget.mass),
    }


def run_session(runtime: Runtime, recording: Recording, paced: bool, send: Any) -> Session:
    """The whole loop over a recording, under a clock that jumps to whatever the loop waits for."""
    feeder = Feeder(recording, seed=11)
    source = RecordedSource(feeder, recording)
    clock = VirtualClock(ORIGIN_NS)
    schedule = Schedule(clock, settle_ns=0, paced=paced, last_tick=recording.hops, gamma=recording.gamma)
    identity = Identity("test", "0" * 32, "boot", runtime.bundle.id, "onnxruntime")
    session = Session(runtime.pipeline(feeder), [source], schedule, identity, send)
    (ended,) = drive(runtime.levels, clock, [session])
    assert ended.error is None
    assert source.consumed_ns == ORIGIN_NS + recording.hops * HOP_NS
    return session


def test_what_a_session_publishes_equals_the_model_at_either_pace(runtime: Runtime) -> None:
    recording = record(10, WINDOW_HOPS + 6)
    sent: dict[bool, list[Said]] = {}
    for paced in (True, False):
        found: list[messages.Message] = []
        ticks = run_session(runtime, recording, paced, found.append).account.ticks()
        predictions = [message for message in found if isinstance(message, messages.Prediction)]
        assert [message.seq for message in predictions] == list(range(1, recording.hops + 1))
        assert (ticks.due, ticks.published, ticks.skipped) == (recording.hops, recording.hops, {})
        sent[paced] = [spoken_probs(message) for message in predictions]
    assert worst_difference(runtime, sent[True], recording) <= TOLERANCE
    for one, other in zip(sent[True], sent[False], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_hundreds_of_hops_do_not_drift(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    """CLCR_DRIFT_HOPS=100000 makes it as many (7 GB, minutes; docs/LOG.md); what was found is printed."""
    recording = record(12, int(os.environ.get("CLCR_DRIFT_HOPS", "300")))
    every = max(100, recording.hops // 200)
    offline, worst = runtime.offline(recording), []

    def send(message: messages.Message) -> None:
        if not isinstance(message, messages.Prediction):
            return
        if message.seq % every:
            offline.place_words(message.seq)  # the order of arrival decides the steps of later words
            return
        begin = message.seq - WINDOW_HOPS - CONTEXT_HOPS
        wanted = offline.at(message.seq, offline.encode(message.seq, begin), begin)
        worst.append(difference(spoken_probs(message) | runtime.levels_said(), wanted)[0])

    session = run_session(runtime, recording, True, send)
    assert session.account.ticks().published == recording.hops
    assert len(worst) == recording.hops // every
    assert max(worst) <= TOLERANCE
    middle = len(worst) // 2
    assert max(worst[middle:]) <= 5 * max(*worst[:middle], 1e-6), f"the difference grows: {worst}"
    with capsys.disabled():
        print(f" {recording.hops} hops, {len(worst)} windows compared, largest difference {max(worst):.1e}", end="")
