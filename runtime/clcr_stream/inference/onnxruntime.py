"""ONNX Runtime on the CPU: one thread per engine, buffers bound once, state carried by swapping two buffers."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import TensorSpec
from clcr_stream.clock import NS_PER_MS
from clcr_stream.errors import BackendError
from clcr_stream.inference.program import Call, Graph, Program, allocate

WARM_UP_RUNS = 3
_ONNX_TYPES = {"float32": "tensor(float)", "int32": "tensor(int32)"}
_Buffers = Mapping[str, NDArray[Any]]


class OnnxRuntimeRunner:
    """One InferenceSession per engine over shared buffers of `seats` rows.

    State lies in two buffers: a run reads one and writes the other, so `X_next` becomes `X` without a copy. Which of
    the two is current is known per seat; a seat that was left out of a run while its neighbours went on is copied over
    when it joins them again. A run of seats [first, first + count) binds addresses inside the buffers, once.
    """

    def __init__(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> None:
        if seats < 1:
            raise BackendError(f"{seats} seats asked for, at least 1 is needed")
        self.seats = seats
        self._tensors = {name: allocate(tensor, seats) for name, tensor in program.tensors.items()}
        self.inputs = {name: self._tensors[name] for name in program.inputs}
        self.outputs = {name: self._tensors[name] for name in program.outputs}
        self._engines = [_Engine(call, graphs[call.engine], self._tensors, seats) for call in program.calls]
        self._turn = np.zeros(seats, dtype=np.int8)
        self._bound: dict[tuple[int, int, int], list[Any]] = {}
        for _ in range(WARM_UP_RUNS):
            self.run(0, 1)
        self.clear(0)

    def run(self, first: int, count: int) -> Mapping[str, float]:
        turn = self._align(first, count)
        key = (first, count, turn)
        bindings = self._bound.get(key)
        if bindings is None:
            bindings = self._bound[key] = [engine.bind(*key) for engine in self._engines]
        timing_ms: dict[str, float] = {}
        before_ns = time.perf_counter_ns()
        for engine, binding in zip(self._engines, bindings, strict=True):
            engine.run(binding)
            after_ns = time.perf_counter_ns()
            timing_ms[engine.name] = (after_ns - before_ns) / NS_PER_MS
            before_ns = after_ns
        self._turn[first : first + count] = turn ^ 1
        return timing_ms

    def clear(self, seat: int) -> None:
        for engine in self._engines:
            for buffers in engine.states:
                for buffer in buffers.values():
                    buffer[seat] = 0

    def move(self, source: int, target: int) -> None:
        for array in self.inputs.values():
            array[target] = array[source]
        turn = self._turn[target] = self._turn[source]
        for engine in self._engines:
            for buffer in engine.states[turn].values():
                buffer[target] = buffer[source]

    def read_state(self, seat: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {name: self._state(seat, name)[seat].copy() for name in names}

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]]) -> None:
        for name, row in rows.items():
            self._state(seat, name)[seat] = row

    def _state(self, seat: int, name: str) -> NDArray[Any]:
        """The buffer that the seat's next run reads."""
        engine, _, tensor = name.partition("/")
        (states,) = (one.states for one in self._engines if one.name == engine)
        return states[int(self._turn[seat])][tensor]

    @property
    def bound_runs(self) -> int:
        """Kinds of runs whose addresses were bound so far; each once."""
        return len(self._bound)

    def state_addresses(self) -> list[int]:
        """Where the state lies: the same places from the start to the end."""
        buffers = [buffer for engine in self._engines for states in engine.states for buffer in states.values()]
        return [buffer.ctypes.data for buffer in buffers]

    def close(self) -> None:
        self._bound.clear()
        self._engines.clear()

    def _align(self, first: int, count: int) -> int:
        """The turn of these seats, after copying the state of those that are in the other one."""
        if first < 0 or count < 1 or first + count > self.seats:
            raise BackendError(f"seats {first}..{first + count - 1} asked for, there are 0..{self.seats - 1}")
        turns = self._turn[first : first + count]
        turn = int(turns[0])
        for seat in np.flatnonzero(turns != turn) + first:
            for engine in self._engines:
                for name, buffer in engine.states[turn].items():
                    buffer[seat] = engine.states[turn ^ 1][name][seat]
        return turn


class OnnxRuntimeBackend:
    """The default backend."""

    name = "onnxruntime"

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> OnnxRuntimeRunner:
        return OnnxRuntimeRunner(program, graphs, seats)


class _Engine:
    """One session, and where each of its tensors lies."""

    def __init__(self, call: Call, graph: Graph, tensors: _Buffers, seats: int) -> None:
        self.name = call.engine
        self._session = _open_session(call.engine, graph.onnx)
        _check_signature(call.engine, self._session.get_inputs(), graph.spec.inputs)
        _check_signature(call.engine, self._session.get_outputs(), graph.spec.outputs)
        state = [tensor for tensor in graph.spec.inputs if tensor.name in graph.spec.state]
        self.states = [{tensor.name: allocate(tensor, seats) for tensor in state} for _ in range(2)]
        self._inputs = {name: tensors[shared] for name, shared in call.inputs.items()}
        self._outputs = {name: tensors[shared] for name, shared in call.outputs.items()}

    def bind(self, first: int, count: int, turn: int) -> Any:
        """A binding of seats [first, first + count) that reads state `turn` and writes the other one."""
        binding = self._session.io_binding()
        for name, buffer in (self._inputs | self.states[turn]).items():
            rows = buffer[first : first + count]
            binding.bind_input(name, "cpu", 0, rows.dtype.type, rows.shape, int(rows.ctypes.data))
        after = {f"{name}_next": buffer for name, buffer in self.states[turn ^ 1].items()}
        for name, buffer in (self._outputs | after).items():
            rows = buffer[first : first + count]
            binding.bind_output(name, "cpu", 0, rows.dtype.type, rows.shape, int(rows.ctypes.data))
        return binding

    def run(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ORT raises its own RuntimeException and Fail types
            raise BackendError(f"{self.name}: onnxruntime failed: {_first_line(error)}") from error


def saturates_int8(machine: str, cpuinfo: str) -> bool:
    """Whether ONNX Runtime's usual int8 products (U8S8) saturate on a CPU: x86 without the VNNI instructions.

    `machine` as platform.machine() says, `cpuinfo` the text of /proc/cpuinfo; empty counts as a CPU without VNNI.
    """
    if machine.lower() not in ("x86_64", "amd64", "i686"):
        return False
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


@functools.cache
def int8_would_saturate() -> bool:
    """The same for the CPU of this process."""
    path = Path("/proc/cpuinfo")
    return saturates_int8(
        platform.machine(), path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    )


def _open_session(name: str, onnx: bytes) -> Any:
    # Since 1.29 the Linux wheels write a device id to disk and send events to Microsoft from the import on, unless told
    # before it; disable_telemetry_events() comes too late for that.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        ort: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(f"onnxruntime cannot be imported ({error}); run `pip install onnxruntime`") from error
    options = ort.SessionOptions()
    # Spinning pools of small sessions fight for the cores: 9.8 ms against 1.6 ms for four sessions on two cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if int8_would_saturate():
        # Unsigned by unsigned products do not saturate. Float graphs do not change; docs/export.md has the cost.
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT raises its own Fail, InvalidGraph, InvalidProtobuf, NotImplemented types
        raise BackendError(f"{name}: onnxruntime cannot load the graph: {_first_line(error)}") from error
    return session


def _check_signature(name: str, actual: list[Any], expected: list[TensorSpec]) -> None:
    """The graph's own names, dtypes and fixed dimensions must be the manifest's."""
    tensors = {tensor.name: tensor for tensor in actual}
    if set(tensors) != {tensor.name for tensor in expected}:
        difference = sorted(set(tensors) ^ {tensor.name for tensor in expected})
        raise BackendError(
            f"{name}: graph and manifest differ in tensors {', '.join(difference)}; export again with `clcr-export`"
        )
    for tensor in expected:
        shape, declared = list(tensors[tensor.name].shape), list(tensor.shape)
        if (
            tensors[tensor.name].type != _ONNX_TYPES[tensor.dtype]
            or len(shape) != len(declared)
            or shape[1:] != declared[1:]
        ):
            raise BackendError(
                f"{name}: tensor {tensor.name} is {tensors[tensor.name].type} {shape} in the graph, "
                f"{tensor.dtype} {declared} in the manifest; export again with `clcr-export`"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
