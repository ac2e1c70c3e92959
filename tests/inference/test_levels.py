"""The levels: what one passes to the next, what a tick reports, and state that belongs to one stream."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.errors import BackendError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.engines import WORDS_NICENESS, load_engines
from clcr_stream.inference.levels import LevelOutputs, Levels
from clcr_stream.inference.null import NullRunner
from clcr_stream.inference.program import Graph, Program, tick_program
from clcr_stream.streams.prediction import why_invalid
from driving import empty_bundle
from tiny_bundle import tiny_manifest, write_bundle

MANIFEST = tiny_manifest()
LIMITS = np.array([MANIFEST.vision.tokens, MANIFEST.acoustic.tokens, MANIFEST.language.tokens], np.float64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    write_bundle(folder)
    return load_bundle(folder)


def hop(levels: Levels, seat: int, loudness: float = 1.0, coverage: float = 0.5) -> LevelOutputs:
    """One hop of sound through the levels."""
    levels.inputs(seat)["acoustic_valid"][:] = loudness
    levels.run(seat, 1)
    return levels.outputs(seat, LIMITS * (coverage, coverage, 0.0))


class MarkingRunner(NullRunner):
    """A null runner whose tensors of each engine hold the engine's number: 1, 2, 3 and 4."""

    def run(self, first: int, count: int) -> Mapping[str, float]:
        for name, array in self.outputs.items():
            mark = float(name[-1]) if name[-2:] in ("_1", "_2", "_3") else 3.0
            if name not in ("probs", "omega", "beta"):
                array[first : first + count] = mark
        return super().run(first, count)


class MarkingBackend:
    name = "marking"

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> MarkingRunner:
        return MarkingRunner(program, seats)


def test_each_level_gets_the_features_of_the_one_before_and_its_own_language() -> None:
    program = tick_program(MANIFEST.engines)
    calls = {call.engine: call for call in program.calls}
    assert list(calls) == ["level1", "level2", "level3", "intercad"]
    made: set[str] = set()
    for engine, call in calls.items():
        # What an engine reads is given from outside or was written by an engine before it.
        assert set(call.inputs.values()) <= made | set(program.inputs), engine
        made |= set(call.outputs.values())
    for level in (2, 3):
        inputs, before = calls[f"level{level}"].inputs, calls[f"level{level - 1}"].outputs
        for modality in ("vision", "acoustic"):
            assert inputs[f"{modality}_in"] == before[f"{modality}_out"]
    for level in (1, 2, 3):
        call = calls[f"level{level}"]
        words = {name: shared for name, shared in call.inputs.items() if name.startswith("language_")}
        assert words and all(shared == f"{name}_{level}" for name, shared in words.items())
        assert call.inputs["gamma"] == "gamma" and "gamma" in program.inputs
        for kind in ("shared", "private"):
            assert calls["intercad"].inputs[f"{kind}_{level}"] == call.outputs[kind]
    assert calls["intercad"].inputs["present"] == calls["level3"].outputs["present"]


def test_no_tensor_has_two_writers_and_state_is_nobody_else_s() -> None:
    program = tick_program(MANIFEST.engines)
    written = [shared for call in program.calls for shared in call.outputs.values()]
    assert len(written) == len(set(written))
    for call in program.calls:
        for state in MANIFEST.engines[call.engine].state:
            assert state not in call.inputs and f"{state}_next" not in call.outputs


def test_a_tick_reports_shares_of_the_valid_tokens() -> None:
    levels = Levels(empty_bundle(MANIFEST), MarkingBackend())
    outputs = hop(levels, levels.take(), coverage=0.5)
    # Every alpha is its level's number: twice as many tokens as are valid, each of that mass.
    np.testing.assert_allclose(outputs.active[:, :2], 2.0)
    np.testing.assert_allclose(outputs.mass[:, 0], [2.0, 4.0, 6.0])
    np.testing.assert_allclose(outputs.budget, [[1.0] * 3, [2.0] * 3, [3.0] * 3])


def test_the_time_of_each_engine_is_told(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"))
    timing_ms = levels.run(levels.take(), 1)
    assert list(timing_ms) == ["level1", "level2", "level3", "intercad"]
    assert min(timing_ms.values()) > 0


def test_state_is_carried_from_tick_to_tick_and_forgotten_by_clear(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"))
    seat = levels.take()
    run = [hop(levels, seat).output for _ in range(3)]
    assert not np.array_equal(run[0], run[1])
    levels.clear(seat)
    again = [hop(levels, seat).output for _ in range(3)]
    np.testing.assert_array_equal(run, again)


def test_two_streams_do_not_share_state(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"), seats=2)
    first, second = levels.take(), levels.take()
    start = hop(levels, first).output
    hop(levels, first)
    np.testing.assert_array_equal(hop(levels, second).output, start)


def test_a_seat_begins_at_zero_whoever_had_it_before(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"), seats=2)
    seat = levels.take()
    start = hop(levels, seat).output
    hop(levels, seat)
    levels.leave(seat)
    seat = levels.take()
    assert not any(row.any() for row in levels.inputs(seat).values())
    np.testing.assert_array_equal(hop(levels, seat).output, start)


def test_a_stream_that_moves_takes_its_inputs_and_its_state_along(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"), seats=3)
    alone = Levels(bundle, open_backend("onnxruntime"))
    loudness = [0.2, 0.4, 0.6, 0.8, 1.0]
    only = alone.take()
    wanted = [hop(alone, only, one).output for one in loudness]
    first, second, third = levels.take(), levels.take(), levels.take()
    got: list[NDArray[np.float64]] = []
    seat = third
    for number, one in enumerate(loudness):
        levels.inputs(seat)["language_marks_2"][:] = 0.5
        got.append(hop(levels, seat, one).output)
        if number == 1:
            hop(levels, first)
            assert levels.leave(first) == third
            seat = first
        if number == 3:
            assert levels.leave(second) == second  # it was the last: nobody had to move
        assert (levels.inputs(seat)["language_marks_2"] == 0.5).all()
    np.testing.assert_array_equal(got, wanted)
    assert levels.taken == 1


def test_more_streams_than_seats_are_refused_with_what_to_change(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"), seats=2)
    levels.take(), levels.take()
    with pytest.raises(BackendError, match=r"all 2 seats are taken; raise run\.max_streams"):
        levels.take()


def test_reported_arrays_are_not_overwritten_by_the_next_tick(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"))
    seat = levels.take()
    outputs = hop(levels, seat)
    before = outputs.output.copy(), outputs.mass.copy()
    hop(levels, seat, 0.1)
    np.testing.assert_array_equal(outputs.output, before[0])
    np.testing.assert_array_equal(outputs.mass, before[1])


def test_a_regression_bundle_reports_its_value(tmp_path: Path) -> None:
    write_bundle(tmp_path / "r", task="regression")
    levels = Levels(load_bundle(tmp_path / "r"), open_backend("onnxruntime"))
    outputs = hop(levels, levels.take())
    assert outputs.output.shape == (1,)
    assert why_invalid(outputs, classification=False) is None


def test_the_thread_that_encodes_words_gives_way_to_the_ticks(bundle: Bundle) -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with contextlib.closing(load_engines(bundle, open_backend("onnxruntime"), 1)) as engines:
        assert engines.worker is not None
        of_words = engines.worker.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert of_words == min(19, own + WORDS_NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
