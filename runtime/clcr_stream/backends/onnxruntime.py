"""ONNX Runtime on the CPU: one thread per engine, buffers bound once, state carried by swapping two buffers."""

from __future__ import annotations

import importlib
import os
from typing import Any

from numpy.typing import NDArray

from clcr_stream.backends import Arrays, allocate, fill
from clcr_stream.errors import BackendError
from clcr_stream.manifest import EngineSpec, TensorSpec

WARM_UP_RUNS = 3
_ONNX_TYPES = {"float32": "tensor(float)", "int32": "tensor(int32)"}


class OnnxRuntimeEngine:
    """One InferenceSession for one stream.

    Two IO bindings share every buffer but the state: run k reads state buffer k % 2 and writes the other one, so
    `X_next` becomes `X` without a copy.
    """

    def __init__(self, name: str, onnx: bytes, spec: EngineSpec) -> None:
        self._name = name
        self._session = _open_session(name, onnx)
        _check_signature(name, self._session.get_inputs(), spec.inputs)
        _check_signature(name, self._session.get_outputs(), spec.outputs)
        state = set(spec.state)
        self._inputs = {tensor.name: allocate(tensor) for tensor in spec.inputs if tensor.name not in state}
        self._states = [
            {tensor.name: allocate(tensor) for tensor in spec.inputs if tensor.name in state} for _ in range(2)
        ]
        state_next = {f"{name}_next" for name in state}
        self._outputs = {tensor.name: allocate(tensor) for tensor in spec.outputs if tensor.name not in state_next}
        self._bindings = [self._bind(0), self._bind(1)]
        self._turn = 0
        for _ in range(WARM_UP_RUNS):
            self._run_bound()
        self.reset()

    def run(self, inputs: Arrays) -> Arrays:
        fill(self._inputs, inputs, self._name)
        self._run_bound()
        return self._outputs

    def reset(self) -> None:
        for buffers in self._states:
            for buffer in buffers.values():
                buffer.fill(0)

    def _run_bound(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._turn])
        except Exception as error:  # ORT raises its own RuntimeException and Fail types
            raise BackendError(f"{self._name}: onnxruntime failed: {_first_line(error)}") from error
        self._turn ^= 1

    def _bind(self, turn: int) -> Any:
        """A binding that reads state `turn` and writes the other one."""
        binding = self._session.io_binding()
        for name, buffer in (self._inputs | self._states[turn]).items():
            binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, _address(buffer))
        after = {f"{name}_next": buffer for name, buffer in self._states[turn ^ 1].items()}
        for name, buffer in (self._outputs | after).items():
            binding.bind_output(name, "cpu", 0, buffer.dtype.type, buffer.shape, _address(buffer))
        return binding


class OnnxRuntimeBackend:
    """The default backend."""

    name = "onnxruntime"

    def load(self, name: str, onnx: bytes, spec: EngineSpec) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(name, onnx, spec)


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
    try:
        session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT raises its own Fail, InvalidGraph, InvalidProtobuf, NotImplemented types
        raise BackendError(f"{name}: onnxruntime cannot load the graph: {_first_line(error)}") from error
    return session


def _check_signature(name: str, found: list[Any], wanted: list[TensorSpec]) -> None:
    """The graph's own names, dtypes and fixed dimensions must be the manifest's."""
    tensors = {tensor.name: tensor for tensor in found}
    if set(tensors) != {tensor.name for tensor in wanted}:
        difference = sorted(set(tensors) ^ {tensor.name for tensor in wanted})
        raise BackendError(
            f"{name}: graph and manifest differ in tensors {', '.join(difference)}; export again with `clcr-export`"
        )
    for tensor in wanted:
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


def _address(buffer: NDArray[Any]) -> int:
    return int(buffer.ctypes.data)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
