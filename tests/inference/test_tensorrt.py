"""The TensorRT backend on a fake driver: what it computes, in which order, and what it does when something fails."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import fake_cuda
from clcr_stream.bundle.manifest import EngineSpec, TensorSpec
from clcr_stream.errors import BackendError
from clcr_stream.inference.program import Graph
from clcr_stream.inference.tensorrt.backend import TensorRTBackend, TensorRTRunner, why_unavailable
from clcr_stream.inference.tensorrt.options import BuildOptions, Options
from clcr_stream.inference.tensorrt.plan_cache import PlanCache
from clcr_stream.inference.tensorrt.planner import shares
from tiny_bundle import graph_bytes, tiny_manifest

MANIFEST = tiny_manifest()
GRAPHS = {
    name: Graph(data, hashlib.sha256(data).hexdigest(), MANIFEST.engines[name])
    for name, data in ((name, graph_bytes(MANIFEST, name)) for name in MANIFEST.engines)
}
programs = import_module("gpu.program")
PROGRAM = programs.tick_program(MANIFEST.engines)
RELEASES = ("8.5", "8.6", "10.13", "11.4")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> fake_cuda.Machine:
    made = fake_cuda.Machine()
    fake_cuda.install(made, monkeypatch)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache/plans", tmp_path / "data/plan.key")


def opened(cache: PlanCache, seats: int, **options: Any) -> TensorRTRunner:
    return TensorRTBackend(Options(**options), cache).open(PROGRAM, GRAPHS, seats)


class Reference:
    """The same program in plain ONNX Runtime sessions, one stream at a time, state carried by hand."""

    def __init__(self) -> None:
        self.sessions: dict[str, Any] = {
            call.engine: onnxruntime.InferenceSession(GRAPHS[call.engine].onnx, providers=["CPUExecutionProvider"])
            for call in PROGRAM.calls
        }
        self.state: dict[tuple[int, str, str], NDArray[Any]] = {}

    def run(self, seat: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = {name: array[None] for name, array in inputs.items()}
        for call in PROGRAM.calls:
            spec, session = GRAPHS[call.engine].spec, self.sessions[call.engine]
            feeds = {name: values[tensor] for name, tensor in call.inputs.items()}
            for tensor in (tensor for tensor in spec.inputs if tensor.name in spec.state):
                zeros = np.zeros([1, *map(int, tensor.shape[1:])], tensor.dtype)
                feeds[tensor.name] = self.state.get((seat, call.engine, tensor.name), zeros)
            names = [tensor.name for tensor in spec.outputs]
            found = dict(zip(names, session.run(names, feeds), strict=True))
            self.state.update({(seat, call.engine, name): found[f"{name}_next"] for name in spec.state})
            values |= {tensor: found[name] for name, tensor in call.outputs.items()}
        return {name: values[name][0] for name in PROGRAM.outputs}


def random_inputs(generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    shapes = {name: PROGRAM.tensors[name] for name in PROGRAM.inputs}
    return {n: generator.random([int(s) for s in t.shape[1:]]).astype(t.dtype) for n, t in shapes.items()}


def advance(runner: TensorRTRunner, reference: Reference, seats: range, generator: np.random.Generator) -> float:
    """Run `seats` with new inputs on both sides; the largest difference over every output of those seats."""
    given = {seat: random_inputs(generator) for seat in seats}
    for seat, inputs in given.items():
        for name, array in inputs.items():
            runner.inputs[name][seat] = array
    runner.run(seats.start, len(seats))
    worst = 0.0
    for seat, inputs in given.items():
        for name, array in reference.run(seat, inputs).items():
            worst = max(worst, float(np.abs(runner.outputs[name][seat] - array).max()))
    return worst


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("graphs", [True, False], ids=["graph", "enqueue"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "copied"])
def test_every_tick_is_what_plain_sessions_compute(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache, release: str, graphs: bool, mapped: bool
) -> None:
    machine = fake_cuda.Machine(release=release)
    fake_cuda.install(machine, monkeypatch)
    runner, reference = opened(cache, 3, cuda_graph=graphs, mapped_memory=mapped), Reference()
    assert runner.captured == graphs
    generator = np.random.default_rng(1)
    for seats in (range(3), range(3), range(1), range(1, 3), range(3), range(2, 3), range(2), range(3)):
        assert advance(runner, reference, seats, generator) < 1e-5
    runner.close()
    assert machine.blocks == {}
    assert machine.seen.get("graphs", 0) == machine.seen.get("executables", 0) == 0
    assert machine.stack() == []


def test_the_language_engine_runs_alone_with_one_seat(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    spec = GRAPHS["language"].spec
    runner = TensorRTBackend(cache=cache).open(programs.single_program("language", spec), GRAPHS, 1)
    generator = np.random.default_rng(2)
    inputs = {t.name: (generator.random([1, *map(int, t.shape[1:])]) * 9).astype(t.dtype) for t in spec.inputs}
    for name, array in inputs.items():
        runner.inputs[name][...] = array
    runner.run(0, 1)
    session: Any = onnxruntime.InferenceSession(GRAPHS["language"].onnx, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in spec.outputs]
    for name, array in zip(names, session.run(names, inputs), strict=True):
        np.testing.assert_allclose(runner.outputs[name], array, atol=1e-6)


def test_a_cleared_seat_starts_anew_and_its_neighbours_go_on(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner, reference, generator = opened(cache, 3), Reference(), np.random.default_rng(3)
    for _ in range(3):
        advance(runner, reference, range(3), generator)
    runner.clear(1)
    reference.state = {key: value for key, value in reference.state.items() if key[0] != 1}
    for seats in (range(3), range(1, 2), range(3)):
        assert advance(runner, reference, seats, generator) < 1e-5


def test_a_moved_seat_takes_its_inputs_and_its_state_along(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner, reference, generator = opened(cache, 3), Reference(), np.random.default_rng(4)
    for seats in (range(3), range(2, 3)):
        advance(runner, reference, seats, generator)
    runner.move(2, 0)
    for name in PROGRAM.inputs:
        np.testing.assert_array_equal(runner.inputs[name][0], runner.inputs[name][2])
    for (seat, engine, name), value in list(reference.state.items()):
        if seat == 2:
            reference.state[0, engine, name] = value
    assert advance(runner, reference, range(3), generator) < 1e-5


def test_rows_of_the_state_are_read_and_written_in_place(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner, reference, generator = opened(cache, 3), Reference(), np.random.default_rng(5)
    for seats in (range(3), range(1, 2), range(3)):  # either buffer, and a partial run
        advance(runner, reference, seats, generator)
        names = [f"level1/{name}" for name in GRAPHS["level1"].spec.state]
        kept = {name: (1, "level1", name.removeprefix("level1/")) for name in names}
        for name, row in runner.read_state(1, names).items():
            np.testing.assert_allclose(row, reference.state[kept[name]][0], atol=1e-5)
        rows = {name: row + 3.0 for name, row in runner.read_state(1, names[:1]).items()}
        runner.write_state(1, rows)
        reference.state[kept[names[0]]] = reference.state[kept[names[0]]] + 3.0
        assert advance(runner, reference, range(3), generator) < 1e-5


def test_state_swaps_between_two_addresses_and_no_copy_moves_it(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2, cuda_graph=False)
    machine.runs.clear()
    machine.log.clear()
    for _ in range(3):
        runner.run(0, 2)
    assert "on device" not in machine.log
    first, second, third = machine.runs[:: len(PROGRAM.calls)]
    for state in GRAPHS["level1"].spec.state:
        assert first[state] != first[f"{state}_next"]
        assert second[state] == first[f"{state}_next"] and second[f"{state}_next"] == first[state]
        assert third[state] == first[state]


def test_an_output_of_a_level_is_the_input_of_the_next_in_place(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2, cuda_graph=False)
    machine.runs.clear()
    runner.run(0, 2)
    places = machine.runs
    assert places[0]["vision_out"] == places[1]["vision_in"]
    assert places[1]["acoustic_out"] == places[2]["acoustic_in"]
    assert places[2]["shared"] == places[3]["shared_3"]


def test_a_tick_is_one_copy_in_the_engines_in_order_and_one_copy_out(
    machine: fake_cuda.Machine, cache: PlanCache
) -> None:
    runner = opened(cache, 2, cuda_graph=False)
    machine.log.clear()
    machine.runs.clear()
    times = runner.run(0, 2)
    work = [what for what in machine.log if what != "event"]
    assert work == ["host to device", *["engine"] * 4, "device to host", "wait"]
    assert list(times) == [call.engine for call in PROGRAM.calls]
    assert all(value > 0 for value in times.values())


def test_a_captured_tick_is_one_launch(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2)
    machine.log.clear()
    for _ in range(4):
        before_ns = time.perf_counter_ns()
        times = runner.run(0, 2)
        assert list(times) == ["tick"]
        assert 0 < times["tick"] <= (time.perf_counter_ns() - before_ns) / 1e6
    assert machine.log == ["graph", "event", "wait"] * 4


def test_two_runners_of_a_backend_have_streams_of_their_own(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    backend = TensorRTBackend(cache=cache)
    tick = backend.open(PROGRAM, GRAPHS, 1)
    words = backend.open(programs.single_program("language", GRAPHS["language"].spec), GRAPHS, 1)
    assert tick.stream_handle != words.stream_handle
    tick.close()
    words.run(0, 1)


def test_the_captured_work_is_the_whole_tick(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    opened(cache, 2)
    captured = [what.removeprefix("captured ") for what in machine.log if what.startswith("captured ")]
    assert captured == ["host to device", *["engine"] * 4, "device to host"] * 2


def test_every_captured_graph_has_contexts_of_its_own(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2)
    assert machine.contexts == 2 * len(PROGRAM.calls)
    runner.run(1, 1)
    assert machine.contexts == 3 * len(PROGRAM.calls)
    runner.run(1, 1)
    assert machine.contexts == 3 * len(PROGRAM.calls)


@pytest.mark.parametrize("release", ["8.5", "10.13"])
def test_kinds_of_partial_runs_are_bounded_and_their_graphs_freed(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache, release: str
) -> None:
    machine = fake_cuda.Machine(release=release)
    fake_cuda.install(machine, monkeypatch)
    runner, reference, generator = opened(cache, 8), Reference(), np.random.default_rng(5)
    for seats in [range(first, first + 1) for first in range(8)] * 2:
        assert advance(runner, reference, seats, generator) < 1e-5
    assert machine.seen["executables"] == 2 + 4
    assert machine.seen["graphs"] == 0


@pytest.mark.parametrize(
    "step", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "execute in capture"]
)
def test_a_failed_capture_is_ended_warned_of_and_done_without(
    machine: fake_cuda.Machine, cache: PlanCache, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    machine.fail[step] = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    runner, reference = opened(cache, 2), Reference()
    assert not runner.captured
    assert all(stream.captured is None for stream in machine.streams.values())
    assert [record.message for record in caplog.records if "no CUDA graph" in record.message]
    generator = np.random.default_rng(6)
    for seats in (range(2), range(1), range(2)):
        assert advance(runner, reference, seats, generator) < 1e-5
    assert machine.seen.get("graphs", 0) == 0
    assert len(caplog.records) == 1


def test_without_cuda_bindings_ticks_are_enqueued_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache, caplog: pytest.LogCaptureFixture
) -> None:
    fake_cuda.install(fake_cuda.Machine(), monkeypatch, graphs=False)
    runner = opened(cache, 1)
    assert not runner.captured
    assert "pip install cuda-bindings" in caplog.text
    assert advance(runner, Reference(), range(1), np.random.default_rng(7)) < 1e-5


@pytest.mark.parametrize(("blocking", "flag"), [(True, 1), (False, 0)])
def test_waiting_sleeps_or_spins_as_asked(
    machine: fake_cuda.Machine, cache: PlanCache, blocking: bool, flag: int
) -> None:
    opened(cache, 1, blocking_wait=blocking)
    assert machine.seen["event_flags"] == flag
    assert machine.seen["stream_flags"] == 1, "the stream is ordered by the legacy stream of other users"


def test_before_its_first_run_a_seat_says_nothing(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2)
    assert [name for name, array in runner.outputs.items() if array.any()] == []
    runner.run(0, 1)
    assert [name for name, array in runner.outputs.items() if array[1].any()] == []
    assert runner.outputs["probs"][0].any()


def test_a_closed_runner_says_so_and_closing_twice_is_nothing(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 1)
    runner.close()
    runner.close()
    assert machine.blocks == {}
    for use in (lambda: runner.run(0, 1), lambda: runner.clear(0), lambda: runner.move(0, 0)):
        with pytest.raises(BackendError, match="the runner is closed"):
            use()


def test_a_runner_may_be_closed_on_another_thread_than_it_ran_on(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    kept: list[TensorRTRunner] = []
    thread = threading.Thread(target=lambda: kept.append(opened(cache, 1)))
    thread.start()
    thread.join()
    kept[0].close()
    assert machine.blocks == {}


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 0), (0, 3), (2, 1)])
def test_seats_that_do_not_exist_are_named(
    machine: fake_cuda.Machine, cache: PlanCache, first: int, count: int
) -> None:
    with pytest.raises(BackendError, match=r"there are 0\.\.1"):
        opened(cache, 2).run(first, count)


def test_clear_and_move_refuse_seats_that_do_not_exist(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    runner = opened(cache, 2)
    with pytest.raises(BackendError, match="does not exist"):
        runner.clear(2)
    with pytest.raises(BackendError, match="does not exist"):
        runner.move(0, -1)


@pytest.mark.parametrize(
    ("name", "failure", "message"),
    [
        ("build", "no tactic", "TensorRT cannot build the engine: no tactic"),
        ("deserialize", "x", "TensorRT cannot load its own plan"),
        ("context", "x", "no memory for another execution context"),
        ("shape", "x", "refused the shape"),
        ("execute", "x", "refused the run"),
        ("mem_alloc", MemoryError("out of memory"), "start failed: out of memory"),
        ("memcpy", RuntimeError("an illegal memory access\nmore"), "first run failed: an illegal memory access;"),
        ("synchronize", RuntimeError("launch failure"), "first run failed: launch failure"),
    ],
)
def test_every_failure_at_the_start_is_one_line_and_leaves_nothing_behind(
    machine: fake_cuda.Machine, cache: PlanCache, name: str, failure: Any, message: str
) -> None:
    machine.fail[name] = failure
    with pytest.raises(BackendError, match=message) as caught:
        opened(cache, 2)
    assert "\n" not in str(caught.value)
    assert machine.stack() == []
    assert machine.blocks == {}


def test_a_failure_in_a_run_is_one_line_and_the_state_is_as_before(
    machine: fake_cuda.Machine, cache: PlanCache
) -> None:
    runner, reference, generator = opened(cache, 2, cuda_graph=False), Reference(), np.random.default_rng(8)
    advance(runner, reference, range(2), generator)
    machine.fail["execute"] = "x"
    with pytest.raises(BackendError, match="level1: TensorRT refused the run"):
        runner.run(0, 2)
    del machine.fail["execute"]
    assert advance(runner, reference, range(2), generator) < 1e-5


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"fail": {"import tensorrt": "x"}}, "tensorrt cannot be imported"),
        ({"fail": {"init": OSError("no CUDA driver")}}, r"CUDA cannot be used \(no CUDA driver\)"),
        ({"devices": 0}, "GPU 0 is not there; this machine has 0"),
        ({"fail": {"Device": RuntimeError("")}}, r"CUDA cannot be used \(RuntimeError\)"),
    ],
)
def test_why_it_cannot_run_here_is_one_line_and_the_backend_raises_the_same(
    monkeypatch: pytest.MonkeyPatch, knob: dict[str, Any], message: str
) -> None:
    fake_cuda.install(fake_cuda.Machine(**knob), monkeypatch)
    reason = why_unavailable()
    assert reason is not None
    with pytest.raises(BackendError, match=message) as caught:
        TensorRTBackend()
    assert str(caught.value) == reason


def test_where_everything_is_there_nothing_speaks_against_it(machine: fake_cuda.Machine) -> None:
    assert why_unavailable() is None
    assert machine.builds == 0 and machine.stack() == []


def test_this_machine_without_a_gpu_says_why() -> None:
    reason = why_unavailable()
    if reason is None:
        pytest.skip("this machine has TensorRT and a GPU")
    assert reason.startswith("tensorrt") and "\n" not in reason


def changed(program: Any, index: int, **fields: Any) -> Any:
    calls = list(program.calls)
    calls[index] = dataclasses.replace(calls[index], **fields)
    return dataclasses.replace(program, calls=tuple(calls))


def wrong_programs() -> Iterator[tuple[Any, str]]:
    calls = PROGRAM.calls
    first = dict(calls[0].inputs)
    yield changed(PROGRAM, 0, inputs={k: v for k, v in first.items() if k != "gamma"}), r"\['gamma'\] are not wired"
    yield changed(PROGRAM, 0, inputs=first | {"gamma": "nowhere"}), "nowhere, which the program does not have"
    yield (
        changed(PROGRAM, 0, inputs=first | {"gamma": "vision_valid"}),
        r"gamma is float32 \['streams', 1\] in the engine",
    )
    yield changed(PROGRAM, 0, inputs=first | {"acoustic_valid": "acoustic_valid"}, outputs={"x": "gamma"}), "no outputs"
    yield dataclasses.replace(PROGRAM, calls=calls[1:]), "is read before any engine made it"
    yield dataclasses.replace(PROGRAM, calls=(calls[0], calls[0])), "may run an engine once"
    yield changed(PROGRAM, 1, outputs=calls[0].outputs), "is made twice"
    yield dataclasses.replace(PROGRAM, outputs=("gamma",)), "output gamma is made by no engine"


@pytest.mark.parametrize(("program", "message"), list(wrong_programs()))
def test_a_program_that_does_not_fit_its_engines_is_named(
    machine: fake_cuda.Machine, cache: PlanCache, program: Any, message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        TensorRTBackend(cache=cache).open(program, GRAPHS, 1)
    assert machine.blocks == {}


def test_a_plan_with_other_tensors_than_the_manifest_is_refused(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    wrong = {**GRAPHS, "level1": dataclasses.replace(GRAPHS["level1"], onnx=GRAPHS["level2"].onnx)}
    with pytest.raises(BackendError, match="in the plan"):
        TensorRTBackend(cache=cache).open(PROGRAM, wrong, 1)


def test_bytes_that_are_no_graph_are_one_line(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    wrong = {**GRAPHS, "level1": dataclasses.replace(GRAPHS["level1"], onnx=b"no graph")}
    with pytest.raises(BackendError, match="level1: TensorRT cannot read the graph: the bytes are no model"):
        TensorRTBackend(cache=cache).open(PROGRAM, wrong, 1)


def test_a_plan_is_built_once_and_its_record_says_precision_and_key(
    machine: fake_cuda.Machine, cache: PlanCache
) -> None:
    backend = TensorRTBackend(cache=cache)
    first = backend.plan("level1", GRAPHS["level1"], 4)
    again = TensorRTBackend(cache=cache).plan("level1", GRAPHS["level1"], 4)
    assert machine.builds == 1
    assert (first.reason, again.reason) == ("no plan was built yet", None)
    assert again.data == first.data
    assert again.about["precision"] == {"fp16": 0.25, "fp32": 0.75}
    assert machine.seen["network"].onnx == GRAPHS["level1"].onnx


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("driver", {"driver": 13010}),
        ("gpu", {"gpu": "Another GPU"}),
        ("tensorrt", {"release": "11.4"}),
    ],
)
def test_another_machine_is_named_and_the_plan_built_again(
    monkeypatch: pytest.MonkeyPatch, machine: fake_cuda.Machine, cache: PlanCache, field: str, change: dict[str, Any]
) -> None:
    TensorRTBackend(cache=cache).plan("level1", GRAPHS["level1"], 1)
    other = fake_cuda.Machine(**change)
    fake_cuda.install(other, monkeypatch)
    said: list[str] = []
    entry = TensorRTBackend(cache=cache, say=said.append).plan("level1", GRAPHS["level1"], 1)
    assert other.builds == 1
    assert entry.reason is not None and entry.reason.startswith(f"{field} was ")
    assert said == [f"level1: {entry.reason}; building"]


def test_the_timing_cache_grows_from_engine_to_engine_and_belongs_to_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: fake_cuda.Machine, cache: PlanCache
) -> None:
    backend = TensorRTBackend(cache=cache)
    backend.plan("level1", GRAPHS["level1"], 1)
    assert machine.seen["timing in"] == b""
    backend.plan("level2", GRAPHS["level2"], 1)
    assert machine.seen["timing in"] == b"t"
    other = fake_cuda.Machine(driver=1)
    fake_cuda.install(other, monkeypatch)
    TensorRTBackend(cache=cache).plan("level3", GRAPHS["level3"], 1)
    assert other.seen["timing in"] == b""


def test_a_timing_cache_that_tensorrt_refuses_is_replaced_by_an_empty_one(
    machine: fake_cuda.Machine, cache: PlanCache
) -> None:
    backend = TensorRTBackend(cache=cache)
    backend.plan("level1", GRAPHS["level1"], 1)
    machine.fail["timing"] = "x"
    backend.plan("level2", GRAPHS["level2"], 1)
    assert machine.seen["timing in"] == b""


@pytest.mark.parametrize(("release", "profiles"), [("8.5", 6), ("8.6", 1), ("10.13", 1), ("11.4", 1)])
def test_a_plan_has_a_profile_for_every_context_where_contexts_cannot_share_one(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache, release: str, profiles: int
) -> None:
    machine = fake_cuda.Machine(release=release)
    fake_cuda.install(machine, monkeypatch)
    TensorRTBackend(cache=cache).plan("level1", GRAPHS["level1"], 8)
    assert len(machine.seen["config"].profiles) == profiles
    assert machine.seen["config"].shared == (release != "8.5")


def test_the_profile_spans_one_to_all_seats(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    TensorRTBackend(cache=cache).plan("intercad", GRAPHS["intercad"], 16)
    shapes = machine.seen["config"].profiles[0].shapes
    assert shapes["present"] == ((1, 3), (16, 3), (16, 3))


def test_progress_is_the_outermost_phase_and_8_6_has_none(monkeypatch: pytest.MonkeyPatch, cache: PlanCache) -> None:
    for release, expected in (("8.6", []), ("10.13", [("level1", "Building", 1, 2), ("level1", "Building", 2, 2)])):
        fake_cuda.install(fake_cuda.Machine(release=release), monkeypatch)
        told: list[tuple[str, str, int, int]] = []
        TensorRTBackend(cache=cache, progress=lambda *step, told=told: told.append(step)).plan(
            "level1", GRAPHS["level1"], 1
        )
        assert told == expected


def test_options_reach_the_builder_under_trtexec_s_names(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    given = {
        "builderOptimizationLevel": "5",
        "avgTiming": "8",
        "maxAuxStreams": "0",
        "memPoolSize": "workspace:64",
        "tacticSources": "-CUBLAS,-CUDNN,-NEVER_HEARD_OF",
        "useDLACore": "0",
    }
    entry = TensorRTBackend(Options(build=BuildOptions.parse(given)), cache).plan("level1", GRAPHS["level1"], 1)
    config = machine.seen["config"]
    module: Any = sys.modules["tensorrt"]
    assert (config.builder_optimization_level, config.avg_timing_iterations, config.max_aux_streams) == (5, 8, 0)
    assert config.pools == {module.MemoryPoolType.WORKSPACE: 64 << 20}
    assert config.tactics == 0b1010
    assert config.DLA_core == 0 and module.BuilderFlag.GPU_FALLBACK in config.set
    assert all(name for name in entry.about["dla_fallback"])
    assert module.BuilderFlag.TF32 not in config.set


def test_tf32_is_off_unless_asked_for(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    TensorRTBackend(Options(build=BuildOptions.parse({"noTF32": "false"})), cache).plan("level1", GRAPHS["level1"], 1)
    module: Any = sys.modules["tensorrt"]
    assert module.BuilderFlag.TF32 in machine.seen["config"].set


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("fp16", "1", "'fp16' is unknown; allowed: builderOptimizationLevel"),
        ("avgTiming", "many", "'many' is not a whole number"),
        ("memPoolSize", "dla:3", "'dla:3' is not workspace:MIB"),
        ("noTF32", "maybe", "'maybe' is not true or false"),
    ],
)
def test_a_builder_option_that_does_not_exist_is_told_what_is_allowed(name: str, text: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        BuildOptions.parse({name: text})


def test_an_option_that_a_release_lacks_is_named(monkeypatch: pytest.MonkeyPatch, cache: PlanCache) -> None:
    fake_cuda.install(fake_cuda.Machine(release="8.5"), monkeypatch)
    options = Options(build=BuildOptions(builder_optimization_level=3))
    with pytest.raises(BackendError, match=r"TensorRT 8\.5 does not have it"):
        TensorRTBackend(options, cache).plan("level1", GRAPHS["level1"], 1)


def mixed_graph() -> Graph:
    """y = relu(float(half(x) * half(x))): a half body between float32 borders."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "h"], ["m"]),
        helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["streams", 4]) for name in ("x", "y"))
    model = helper.make_model(
        helper.make_graph(nodes, "mixed", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    tensors = [TensorSpec(name=name, dtype="float32", shape=["streams", 4]) for name in ("x", "y")]
    spec = EngineSpec(file="mixed.onnx", inputs=tensors[:1], outputs=tensors[1:])
    return Graph(model.SerializeToString(), "f" * 64, spec)


@pytest.mark.parametrize("release", ["8.5", "8.6"])
def test_before_strong_typing_every_layer_keeps_the_file_s_precision(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache, release: str
) -> None:
    machine = fake_cuda.Machine(release=release)
    fake_cuda.install(machine, monkeypatch)
    TensorRTBackend(cache=cache).plan("mixed", mixed_graph(), 1)
    module: Any = sys.modules["tensorrt"]
    assert machine.seen["config"].set == {module.BuilderFlag.FP16, module.BuilderFlag.OBEY_PRECISION_CONSTRAINTS}
    kept = {layer.name: (layer.precision, layer.output_types) for layer in machine.seen["network"].layers}
    half, full = module.DataType.HALF, module.DataType.FLOAT
    assert kept == {"Cast": (None, {}), "Mul": (half, {0: half}), "Relu": (full, {0: full})}


def test_before_strong_typing_an_int8_file_allows_int8_and_nothing_half(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache
) -> None:
    """y = float(int8(x)), and weights that only a DequantizeLinear reads: no layer of that one gives out int8."""
    machine = fake_cuda.Machine(release="8.6")
    fake_cuda.install(machine, monkeypatch)
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(np.ones((1, 4), np.int8), "weights"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"]),
        helper.make_node("Mul", ["x", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["streams", 4]) for name in ("x", "y"))
    model = helper.make_model(
        helper.make_graph(nodes, "int8", [x], [y], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    graph = dataclasses.replace(mixed_graph(), onnx=model.SerializeToString())
    TensorRTBackend(cache=cache).plan("int8", graph, 1)
    module: Any = sys.modules["tensorrt"]
    assert machine.seen["config"].set == {module.BuilderFlag.INT8, module.BuilderFlag.OBEY_PRECISION_CONSTRAINTS}


def test_before_strong_typing_a_float32_file_sets_no_precision_flag(
    monkeypatch: pytest.MonkeyPatch, cache: PlanCache
) -> None:
    machine = fake_cuda.Machine(release="8.6")
    fake_cuda.install(machine, monkeypatch)
    TensorRTBackend(cache=cache).plan("level1", GRAPHS["level1"], 1)
    assert machine.seen["config"].set == set()


def test_with_strong_typing_the_file_alone_decides(machine: fake_cuda.Machine, cache: PlanCache) -> None:
    TensorRTBackend(cache=cache).plan("mixed", mixed_graph(), 1)
    assert machine.seen["config"].set == set()
    assert [layer.precision for layer in machine.seen["network"].layers] == [None] * 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"Layers": [{"Outputs": [{"Format/Datatype": "Row major linear FP32"}]}]}', {"fp32": 1.0}),
        ('{"Layers": [{"Outputs": [{"Format": "Row major linear", "Datatype": "Half"}]}]}', {"fp16": 1.0}),
        ('{"Layers": ["only a name", {"Outputs": []}]}', {"unknown": 1.0}),
        (
            '{"Layers": [{"Outputs": [{"Format/Datatype": "Four wide channel vectorized row major Int8 format"}]}]}',
            {"int8": 1.0},
        ),
        ('{"Layers": []}', {}),
    ],
)
def test_the_inspector_s_words_become_shares(text: str, found: dict[str, float]) -> None:
    assert shares(text) == found
