"""Backends: the graph must be what the manifest says, state is carried without copies, and null keeps the shapes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from numpy.typing import NDArray

import clcr_stream
import tiny_bundle
from clcr_stream.bundle.manifest import EngineSpec
from clcr_stream.errors import BackendError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.onnxruntime import OnnxRuntimeRunner
from clcr_stream.inference.program import Graph, Runner, allocate, single_program
from tiny_bundle import STATE, graph_bytes, tiny_manifest

MANIFEST = tiny_manifest()
Said = dict[str, NDArray[Any]]  # rows of one stream by tensor


def open_engine(name: str, backend: str = "onnxruntime", seats: int = 1, graph: bytes | None = None) -> Runner:
    """One engine of the tiny bundle as a program of its own."""
    return open_with(MANIFEST.engines[name], graph_bytes(MANIFEST, name) if graph is None else graph, backend, seats)


def open_with(spec: EngineSpec, graph: bytes, backend: str = "onnxruntime", seats: int = 1) -> Runner:
    name = spec.file.removesuffix(".onnx")
    return open_backend(backend).open(single_program(name, spec), {name: Graph(graph, "0" * 64, spec)}, seats)


def random_inputs(engine: str, seed: int) -> Said:
    """A stream's hop: a row for each input that is not state."""
    random = np.random.default_rng(seed)
    spec = MANIFEST.engines[engine]
    return {
        tensor.name: random.random(allocate(tensor, 1).shape[1:]).astype(tensor.dtype)
        for tensor in spec.inputs
        if tensor.name not in spec.state
    }


def feed(runner: Runner, inputs: Said, seat: int = 0) -> None:
    for name, row in inputs.items():
        runner.inputs[name][seat] = row


def copies(runner: Runner, seat: int = 0) -> Said:
    return {name: array[seat].copy() for name, array in runner.outputs.items()}


def advance(runner: Runner, inputs: Said) -> Said:
    feed(runner, inputs)
    runner.run(0, 1)
    return copies(runner)


def test_carried_state_equals_a_plain_session_that_is_fed_its_own_state() -> None:
    graph, engine = graph_bytes(MANIFEST, "level1"), open_engine("level1", "onnxruntime")
    plain: Any = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    state = np.zeros((1, 1), np.float32)
    for tick in range(7):
        inputs = random_inputs("level1", tick)
        got = advance(engine, inputs)
        names = [*got, f"{STATE}_next"]
        given = {name: row[None] for name, row in inputs.items()}
        wanted = dict(zip(names, plain.run(names, given | {STATE: state}), strict=True))
        state = wanted.pop(f"{STATE}_next")
        assert state[0, 0] == tick + 1
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_clearing_is_a_fresh_start_whichever_buffer_is_in_turn(steps: int) -> None:
    engine, inputs = open_engine("level1"), random_inputs("level1", 1)
    first = advance(engine, inputs)
    for _ in range(steps):
        advance(engine, inputs)
    assert not np.array_equal(advance(engine, inputs)["shared"], first["shared"])
    engine.clear(0)
    np.testing.assert_array_equal(advance(engine, inputs)["shared"], first["shared"])


def test_the_times_of_the_engines_add_up_to_no_more_than_the_call_took() -> None:
    engine = open_engine("level1", "onnxruntime")
    feed(engine, random_inputs("level1", 1))
    before_ns = time.perf_counter_ns()
    times = engine.run(0, 1)
    took_ms = (time.perf_counter_ns() - before_ns) / 1e6
    assert list(times) == ["level1"]
    assert 0 < sum(times.values()) <= took_ms


def test_warming_up_leaves_no_trace_in_the_state() -> None:
    engine, inputs = open_engine("level1"), random_inputs("level1", 1)
    np.testing.assert_allclose(advance(engine, inputs)["budget"][-1], inputs["acoustic_valid"].mean(), rtol=1e-6)


def test_an_engine_leaves_the_thread_s_small_numbers_alone() -> None:
    """Flush-to-zero, once set by a session, would stay with the thread that made it or ran it (docs/LOG.md)."""
    kept: list[float] = []

    def use_an_engine() -> None:
        advance(open_engine("level1"), random_inputs("level1", 1))
        kept.append(float(np.full(1, 1e-38, np.float32)[0] * np.float32(1e-2)))

    thread = threading.Thread(target=use_an_engine)  # a leak must not outlive this test
    thread.start()
    thread.join()
    assert kept[0] > 0


def test_runs_write_the_same_memory_and_bind_a_batch_only_once() -> None:
    engine = open_engine("level1", "onnxruntime", seats=4)
    assert isinstance(engine, OnnxRuntimeRunner)
    places = {name: array.ctypes.data for name, array in (*engine.inputs.items(), *engine.outputs.items())}
    batches = [(0, 4), (0, 2), (2, 2), (3, 1)]

    def two_rounds() -> None:
        for first, count in [*batches, *batches]:  # both turns of the state
            engine.run(first, count)

    two_rounds()
    two_rounds()
    bound, states = engine.bound_runs, engine.state_addresses()
    tracemalloc.start()
    try:
        two_rounds()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            two_rounds()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert (engine.bound_runs, engine.state_addresses()) == (bound, states)
    assert places == {name: array.ctypes.data for name, array in (*engine.inputs.items(), *engine.outputs.items())}
    assert grown < 20000, grown  # bytes; one array of this program's smallest output in each of 400 runs would be more


@pytest.mark.parametrize("seats", [(-1, 1), (0, 0), (3, 2), (4, 1)])
def test_seats_that_do_not_exist_are_refused(seats: tuple[int, int]) -> None:
    with pytest.raises(BackendError, match=r"there are 0\.\.3"):
        open_engine("level1", "onnxruntime", seats=4).run(*seats)


def test_a_runner_needs_a_seat() -> None:
    with pytest.raises(BackendError, match="0 seats asked for"):
        open_engine("level1", "onnxruntime", seats=0)


@pytest.mark.parametrize("name", list(MANIFEST.engines))
@pytest.mark.parametrize("seats", [1, 3])
def test_null_gives_every_output_in_its_shape_and_shares_that_sum_to_one(name: str, seats: int) -> None:
    spec = MANIFEST.engines[name]
    runner = open_engine(name, "null", seats, graph=b"")
    runner.run(0, seats)
    state_next = {f"{state}_next" for state in spec.state}
    assert {key: array.shape for key, array in runner.outputs.items()} == {
        tensor.name: allocate(tensor, seats).shape for tensor in spec.outputs if tensor.name not in state_next
    }
    for share in {"probs", "omega", "beta"} & set(runner.outputs):
        np.testing.assert_allclose(runner.outputs[share].sum(axis=1), 1.0, rtol=1e-6)


def test_bytes_that_are_no_graph_are_one_line() -> None:
    with pytest.raises(BackendError, match="level1: onnxruntime cannot load the graph") as caught:
        open_with(MANIFEST.engines["level1"], b"not an onnx file")
    assert "\n" not in str(caught.value)


def test_a_graph_with_other_tensors_than_the_manifest_is_refused() -> None:
    with pytest.raises(BackendError, match="graph and manifest differ in tensors"):
        open_with(MANIFEST.engines["intercad"], graph_bytes(MANIFEST, "level2"))


def test_a_graph_with_other_shapes_than_the_manifest_is_refused() -> None:
    with pytest.raises(BackendError, match="tensor vision_in is"):
        open_with(MANIFEST.engines["level1"], graph_bytes(MANIFEST, "level2"))


def test_a_graph_with_another_dtype_than_the_manifest_is_refused() -> None:
    spec = MANIFEST.engines["level2"]
    inputs = [msgspec.structs.replace(tensor, dtype="int32") for tensor in spec.inputs]
    with pytest.raises(BackendError, match="in the manifest"):
        open_with(msgspec.structs.replace(spec, inputs=inputs), graph_bytes(MANIFEST, "level2"))


def test_a_graph_that_wants_external_data_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load_model_from_string(graph_bytes(MANIFEST, "level2"))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("ramp"))
    (tmp_path / "weights").write_bytes(tensor.raw_data)
    set_external_data(tensor, location=str(tmp_path / "weights"), offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    with pytest.raises(BackendError, match="level2: onnxruntime cannot load"):
        open_with(MANIFEST.engines["level2"], model.SerializeToString())


def test_an_unknown_backend_is_told_what_is_allowed() -> None:
    with pytest.raises(BackendError, match="allowed: auto, onnxruntime, tensorrt, null"):
        open_backend("tensorflow")


def test_onnx_runtime_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    """Since 1.29 its Linux wheels keep a device id and a queue of events for Microsoft under the user's folders."""
    code = (
        "from clcr_stream.inference.choose import open_backend\n"
        "from clcr_stream.inference.program import Graph, single_program\n"
        "from tiny_bundle import graph_bytes, tiny_manifest\n"
        "manifest = tiny_manifest()\n"
        "graph = Graph(graph_bytes(manifest, 'intercad'), '', manifest.engines['intercad'])\n"
        "open_backend('onnxruntime').open(single_program('intercad', graph.spec), {'intercad': graph}, 1)\n"
    )
    # It also keeps silent where one of these is set, which a user's machine has not.
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("ORT_")}
    private = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
    folders = (Path(tiny_bundle.__file__).parent, Path(clcr_stream.__file__).parents[1])
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run([sys.executable, "-c", code], env=kept | private | {"PYTHONPATH": path}, timeout=60)
    assert done.returncode == 0
    assert list(tmp_path.rglob("*")) == []


class Together(RuleBasedStateMachine):
    """Seats of one runner in any subsets and order, moved, cleared, left and taken, against one runner per stream."""

    SEATS = 5

    def __init__(self) -> None:
        super().__init__()
        self.together = open_engine("level1", "onnxruntime", self.SEATS)
        self.alone: list[Runner] = []  # by seat
        self.hops = 0

    @precondition(lambda self: len(self.alone) < self.SEATS)
    @rule()
    def take(self) -> None:
        seat = len(self.alone)
        for array in self.together.inputs.values():
            array[seat] = 0
        self.together.clear(seat)
        self.alone.append(open_engine("level1", "onnxruntime"))

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        seat = data.draw(st.integers(0, len(self.alone) - 1))
        last = len(self.alone) - 1
        if seat != last:
            self.together.move(last, seat)
            self.alone[seat] = self.alone[last]
        self.alone.pop()

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        seat = data.draw(st.integers(0, len(self.alone) - 1))
        self.together.clear(seat)
        self.alone[seat].clear(0)

    @precondition(lambda self: self.alone)
    @rule(data=st.data(), keep=st.booleans())
    def run(self, data: st.DataObject, keep: bool) -> None:
        first = data.draw(st.integers(0, len(self.alone) - 1))
        count = data.draw(st.integers(1, len(self.alone) - first))
        for seat in range(first, first + count):
            if not keep:  # else what was filled last, and moved along, must still be there
                inputs = random_inputs("level1", self.hops * self.SEATS + seat)
                feed(self.together, inputs, seat)
                feed(self.alone[seat], inputs)
            self.alone[seat].run(0, 1)
        self.hops += 1
        self.together.run(first, count)
        for seat in range(first, first + count):
            wanted = copies(self.alone[seat])
            for name, row in copies(self.together, seat).items():
                np.testing.assert_allclose(row, wanted[name], rtol=1e-6, atol=1e-6)


TestTogether = Together.TestCase
TestTogether.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("name", ["level1", "level2", "level3", "intercad"])
def test_a_seat_alone_says_what_the_same_seat_says_in_a_batch(name: str) -> None:
    alone, together = (open_engine(name, "onnxruntime", seats=4) for _ in range(2))
    for hop in range(5):
        for runner in (alone, together):
            for seat in range(4):
                feed(runner, random_inputs(name, 10 * hop + seat), seat)
        together.run(0, 4)
        for seat in (2, 0, 3, 1):
            alone.run(seat, 1)
        for seat in range(4):
            for tensor, row in copies(alone, seat).items():
                np.testing.assert_allclose(copies(together, seat)[tensor], row, rtol=1e-6, atol=1e-6)
        said = [next(iter(copies(together, seat).values())) for seat in range(4)]
        assert not any(np.array_equal(said[0], other) for other in said[1:])
