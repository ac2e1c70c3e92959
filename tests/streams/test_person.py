"""A person's baseline in a stream: of one face, streamed as offline, calibrated, taken over and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from clcr.network.baseline import HORIZON_S as MODEL_HORIZON_S
from clcr.network.baseline import Baseline as Layer
from clcr_stream.clock import NS_PER_S
from clcr_stream.inference.baselines import HORIZON_S, Baseline, Baselines
from clcr_stream.inference.levels import Levels
from clcr_stream.inference.onnxruntime import OnnxRuntimeBackend
from clcr_stream.streams.person import Person, PersonPlan
from recordings import HOP_NS, ORIGIN_NS, SAMPLES, WINDOW_HOPS, Frame, Recording, record
from streamed_runtime import TOLERANCE, Runtime, check_every_tick, opened_runtime, stream, worst_difference

LEFT = (0.1, 0.2, 0.3, 0.4)
RIGHT = (0.6, 0.2, 0.3, 0.4)
FRAME_NS = 50_000_000


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with opened_runtime(tmp_path_factory, "person", baseline=True) as opened:
        yield opened


Stay = tuple[float, float, tuple[float, float, float, float]]  # from which hop to which, and where


def visit(hops: int, stays: Sequence[Stay]) -> Recording:
    """A recording in which a face is seen in these hops and places only."""
    recording = record(3, hops)
    crops = [frame.crop for frame in recording.frames if frame.crop is not None]
    frames = []
    for begin, end, box in stays:
        first_ns, until_ns = (ORIGIN_NS + round(hop * HOP_NS) for hop in (begin, end))
        frames += [Frame(t, crops[t // FRAME_NS % len(crops)], box) for t in range(first_ns, until_ns, FRAME_NS)]
    return replace(recording, frames=frames)


def beginning(recording: Recording, hops: int) -> Recording:
    """The first hops of a recording."""
    return replace(
        recording,
        hops=hops,
        frames=[frame for frame in recording.frames if frame.captured_ns < ORIGIN_NS + hops * HOP_NS],
        samples=recording.samples[: hops * SAMPLES],
        present=recording.present[: hops * SAMPLES],
    )


def left_by(runtime: Runtime, recording: Recording, plan: PersonPlan | None = None, seed: int = 0) -> Person:
    """The person of a stream that has ended."""
    person = Person() if plan is None else Person(plan)
    stream(runtime, recording, seed, person=person)
    return person


def without_a_rule(runtime: Runtime, recording: Recording) -> Baselines:
    """What the levels remember at the end of a recording when nobody looks whose face it is."""
    blind = replace(recording, frames=[replace(frame, box=None) for frame in recording.frames])
    return left_by(runtime, blind).final


def part_after(whole: Baseline, before: Baseline) -> Baseline:
    """The mean of the steps that came after `before`."""
    steps = whole.steps - before.steps
    return Baseline((whole.mean * whole.steps[:, None] - before.mean * before.steps[:, None]) / steps[:, None], steps)


def assert_same(one: Baseline, other: Baseline, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(one.steps, other.steps, rtol=0)
    np.testing.assert_allclose(one.mean, other.mean, atol=tolerance, rtol=0)


# Streamed equals offline


def test_every_tick_equals_the_model_on_the_whole_prefix(runtime: Runtime) -> None:
    check_every_tick(runtime, record(1, WINDOW_HOPS + 6), seed=1)


def test_the_runtime_knows_the_engines_horizon(runtime: Runtime) -> None:
    assert HORIZON_S == MODEL_HORIZON_S
    states = runtime.levels.baseline_states
    for modality in ("vision", "acoustic"):
        assert {layer.horizon for layer in runtime.model.baselines_of(modality)} == {states[modality].horizon_steps}


# A change of person


def test_a_face_in_another_place_begins_anew_and_sound_goes_on(runtime: Runtime) -> None:
    both = visit(16, [(0, 8, LEFT), (8, 16, RIGHT)])
    first = beginning(both, 8)
    person = left_by(runtime, both)
    whole, before = without_a_rule(runtime, both), without_a_rule(runtime, first)
    assert person.changes == 1
    assert person.final["vision"].age_steps == 24
    assert_same(person.final["vision"], part_after(whole["vision"], before["vision"]), 1e-5)
    assert_same(person.final["acoustic"], whole["acoustic"])
    assert_same(person.to_keep["vision"], before["vision"])
    assert_same(person.to_keep["acoustic"], before["acoustic"])


def forget_at(layer: Layer, hop: int) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """The layer's forward over a whole recording that begins with an empty state once more at a hop."""
    forward, place = layer.forward, hop * layer.block

    def forgetful(x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        before, _ = forward(x[:, :place], valid[:, :place], states)
        after, states = forward(x[:, place:], valid[:, place:], layer.initial_state(len(x)))
        return torch.cat([before, after], 1), list(states)

    return forgetful


def test_every_tick_equals_a_model_that_forgets_the_face_at_the_hop_of_the_change(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = visit(20, [(0, 8, LEFT), (8, 20, RIGHT)])
    ticks = stream(runtime, recording, seed=3, person=Person())
    assert worst_difference(runtime, ticks, recording) > TOLERANCE
    for layer in runtime.model.baselines_of("vision"):
        monkeypatch.setattr(layer, "forward", forget_at(layer, 8))
    assert worst_difference(runtime, ticks, recording) <= TOLERANCE


def test_a_face_that_comes_back_to_its_place_within_five_seconds_is_the_same(runtime: Runtime) -> None:
    recording = visit(36, [(0, 6, LEFT), (30.3, 36, LEFT)])
    person = left_by(runtime, recording)
    assert person.changes == 0
    assert_same(person.final["vision"], without_a_rule(runtime, recording)["vision"])


def test_a_face_that_comes_back_after_more_than_five_seconds_begins_anew(runtime: Runtime) -> None:
    person = left_by(runtime, visit(36, [(0, 6, LEFT), (32, 36, LEFT)]))
    assert (person.changes, person.final["vision"].age_steps) == (1, 12)


def test_of_a_hop_with_two_persons_nothing_stays(runtime: Runtime) -> None:
    # The second face comes in the middle of hop 7; from hop 8 on it is alone.
    person = left_by(runtime, visit(12, [(0, 6.4, LEFT), (6.6, 12, RIGHT)]))
    assert (person.changes, person.final["vision"].age_steps) == (1, 15)


def test_a_stream_in_pieces_changes_its_person_as_the_whole_does(runtime: Runtime) -> None:
    recording = visit(20, [(0, 5.5, LEFT), (5.9, 12, RIGHT), (12.3, 20, LEFT)])
    whole_person = Person()
    whole = stream(runtime, recording, whole=True, person=whole_person)
    blind = stream(runtime, replace(recording, frames=[replace(f, box=None) for f in recording.frames]))
    for seed in (1, 2):
        person = Person()
        pieces = stream(runtime, recording, seed, person=person)
        assert (person.changes, whole_person.changes) == (2, 2)
        for one, other in zip(whole, pieces, strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
    assert any((one["output"] != other["output"]).any() for one, other in zip(whole, blind, strict=True))


def test_another_stream_of_the_batch_keeps_its_baseline(runtime: Runtime) -> None:
    levels = Levels(runtime.bundle, OnnxRuntimeBackend(), seats=3)
    rng = np.random.default_rng(0)
    seats = [levels.take() for _ in range(3)]

    def hop(first: int, count: int) -> None:
        for seat in range(first, first + count):
            for name, row in levels.inputs(seat).items():
                if not name.startswith("language_"):
                    row[...] = rng.random(row.shape) * (255 if name == "vision_in" else 1)
            levels.inputs(seat)["vision_valid"][:] = levels.inputs(seat)["acoustic_valid"][:] = 1
        levels.run(first, count)

    for first, count in ((0, 3), (1, 2), (0, 1), (2, 1), (0, 3), (1, 1)):
        hop(first, count)
    before = [levels.baselines(seat) for seat in seats]
    assert [one["vision"].age_steps for one in before] == [9, 12, 12]
    levels.clear_baseline(1, "vision")
    for seat in seats:
        after = levels.baselines(seat)
        assert_same(after["acoustic"], before[seat]["acoustic"])
        if seat != 1:
            assert_same(after["vision"], before[seat]["vision"])
    assert not levels.baselines(1)["vision"].mean.any()
    hop(0, 3)
    assert [levels.baselines(seat)["vision"].age_steps for seat in seats] == [12, 3, 15]
    levels.leave(0)  # seat 2 moves there
    assert [levels.baselines(seat)["vision"].age_steps for seat in (0, 1)] == [15, 3]


def test_the_rest_of_the_state_stays_when_a_baseline_begins_anew(runtime: Runtime) -> None:
    recording = visit(14, [(0, 7, LEFT), (7, 14, RIGHT)])
    ticks = stream(runtime, recording, person=Person())
    deaf = stream(runtime, replace(recording, frames=recording.frames[len(recording.frames) // 2 :]), person=Person())
    assert (ticks[-1]["mass"][:, 0] > deaf[-1]["mass"][:, 0]).any()  # the window still holds the first face


def test_a_stream_that_starts_its_window_over_keeps_its_baselines(runtime: Runtime) -> None:
    levels, person = runtime.levels, Person()
    seat = levels.take()
    rows = levels.inputs(seat)
    rows["vision_in"][...], rows["vision_valid"][:], rows["gamma"][0] = 100.0, 1, 1
    for _ in range(3):
        levels.run(seat, 1)
    before = levels.baselines(seat)
    assert before["vision"].age_steps == 9
    person.clear_window(levels, seat)
    assert_same(levels.baselines(seat)["vision"], before["vision"])
    rows["vision_valid"][:] = 0
    levels.run(seat, 1)
    assert levels.outputs(seat, np.ones(3)).present.tolist() == [0, 0, 0]  # the window is empty
    levels.leave(seat)


# Calibration


def test_a_calibration_counts_like_a_whole_horizon(runtime: Runtime) -> None:
    recording, told, calibrated = visit(20, [(0, 20, LEFT)]), list[str](), list[Baselines]()
    seen = left_by(runtime, beginning(recording, 10))
    person = left_by(runtime, recording, PersonPlan(2.0, tell=told.append, calibrated=calibrated.append))
    (adopted,) = calibrated
    for modality in ("vision", "acoustic"):
        states = runtime.levels.baseline_states[modality]
        np.testing.assert_array_equal(adopted[modality].mean, seen.final[modality].mean)
        assert adopted[modality].steps.tolist() == [states.horizon_steps] * 3
        assert person.final[modality].steps.tolist() == [states.horizon_steps] * 3  # the engines hold it there
    assert told[0] == "calibrating: look and speak neutrally for 2 s"
    assert told[1].startswith("calibrated: face from 2.0 s, voice from 1.")


def test_predictions_are_marked_until_the_calibration_is_over(runtime: Runtime) -> None:
    person = Person(PersonPlan(1.0))
    marks = []
    levels, seat = runtime.levels, runtime.levels.take()
    for number in range(1, 8):
        marks.append(person.notes)
        person.after(levels, seat, number * HOP_NS)
    levels.leave(seat)
    assert marks == [("calibrating",)] * 5 + [()] * 2
    assert person.calibration_left_s == 0


def test_who_was_hardly_seen_is_not_calibrated(runtime: Runtime) -> None:
    told = list[str]()
    recording = visit(14, [(7, 8, LEFT)])
    person = left_by(runtime, recording, PersonPlan(2.0, tell=told.append))
    assert person.final["vision"].age_steps == 3
    assert person.final["acoustic"].age_steps == runtime.levels.baseline_states["acoustic"].horizon_steps
    assert "no face (0.2 s of at least 0.7 s), voice from" in told[1]


def test_a_stream_that_ends_before_its_calibration_keeps_nothing(runtime: Runtime) -> None:
    told = list[str]()
    person = left_by(runtime, visit(6, [(0, 6, LEFT)]), PersonPlan(2.0, tell=told.append))
    assert person.to_keep == {}
    assert told[-1] == "the stream ended before its calibration: nothing was set"


# Baselines to begin with


def test_a_stream_goes_on_with_the_baselines_that_it_is_given(runtime: Runtime) -> None:
    recording = visit(20, [(0, 20, LEFT)])
    first = left_by(runtime, recording).final
    again = left_by(runtime, recording, PersonPlan(initial=first))
    for modality in first:
        np.testing.assert_allclose(again.final[modality].steps, 2 * first[modality].steps)
    cold, warm = (stream(runtime, recording, person=Person(PersonPlan(initial=given))) for given in ({}, first))
    assert np.abs(cold[0]["output"] - warm[0]["output"]).max() > 1e-4
    # The first face that is seen is not a change of person.
    assert again.changes == 0


def test_a_calibration_begins_without_what_the_stream_was_given(runtime: Runtime) -> None:
    recording = visit(14, [(0, 14, LEFT)])
    given = {m: Baseline(b.mean + 7, b.steps) for m, b in left_by(runtime, recording).final.items()}
    fresh, over = list[Baselines](), list[Baselines]()
    left_by(runtime, recording, PersonPlan(2.0, calibrated=fresh.append))
    left_by(runtime, recording, PersonPlan(2.0, initial=given, calibrated=over.append))
    for modality in given:
        assert_same(fresh[0][modality], over[0][modality])


def test_one_line_a_minute_tells_of_faces_that_change(runtime: Runtime) -> None:
    told = list[str]()
    stays = [(hop, hop + 2, LEFT if hop % 4 else RIGHT) for hop in range(0, 20, 2)]
    person = left_by(runtime, visit(20, stays), PersonPlan(tell=told.append))
    assert (person.changes, len(told)) == (9, 1)
    assert 20 * HOP_NS < 60 * NS_PER_S
