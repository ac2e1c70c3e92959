"""The contract of backends: what a tick runs (`Program`), what makes and runs it (`Backend`, `Runner`).

A `Program` names the tensors of a tick and the engines that read and write them; two engines that name the same tensor
share its memory, so the output of a level is the input of the next. A `Runner` is a program with its memory and its
state, for up to `seats` streams: a stream's seat is its row in every tensor.

Python 3.9 with numpy is enough here, so that the GPU check runs the very program of the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import BackendError

if TYPE_CHECKING:
    from clcr_stream.bundle.manifest import EngineSpec, TensorSpec

LEVELS = (1, 2, 3)
TICK_ENGINES = ("level1", "level2", "level3", "intercad")
_FEATURES = {"vision_in": "vision_out", "acoustic_in": "acoustic_out"}
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Graph:
    """A verified engine of a bundle: its ONNX bytes, their sha256 and its entry in the manifest."""

    onnx: bytes
    sha256: str
    spec: EngineSpec


@dataclass(frozen=True)
class Call:
    """One engine in a tick: the engine's tensor name -> the program's, for all but its state."""

    engine: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Program:
    """What a tick runs, in order; the host fills `inputs` before it and reads `outputs` after it."""

    calls: tuple[Call, ...]
    tensors: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Runner(Protocol):
    """A program with its memory, allocated once; a thread at a time."""

    @property
    def inputs(self) -> Arrays:
        """(seats, ...) each: the caller fills rows in place before a run."""

    @property
    def outputs(self) -> Arrays:
        """(seats, ...) each: what the last run of a seat said, until its next one."""

    def run(self, first: int, count: int) -> Mapping[str, float]:
        """Advance seats [first, first + count) by one hop; the time of each engine, ms. BackendError when one fails."""

    def clear(self, seat: int) -> None:
        """The state of a seat as at stream start: zeros."""

    def move(self, source: int, target: int) -> None:
        """Copy the inputs and the state of a seat over those of another one."""

    def read_state(self, seat: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Copies of a seat's rows of state tensors, which are named "engine/tensor"."""

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]]) -> None:
        """Set a seat's rows of state tensors in place; the next run reads them."""

    def close(self) -> None:
        """Let go of memory and device. Idempotent."""


class Backend(Protocol):
    """Makes runners; `name` is what predictions report."""

    name: str

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> Runner:
        """The program on its engines, warmed up; BackendError when a graph does not load or is not what it says."""


def single_program(name: str, spec: EngineSpec) -> Program:
    """A program of one engine whose tensors keep their names."""
    state = set(spec.state)
    inputs = [tensor for tensor in spec.inputs if tensor.name not in state]
    outputs = [tensor for tensor in spec.outputs if tensor.name.removesuffix("_next") not in state]
    tensors = {tensor.name: tensor for tensor in (*inputs, *outputs)}
    call = Call(name, {tensor.name: tensor.name for tensor in inputs}, {tensor.name: tensor.name for tensor in outputs})
    return Program((call,), tensors, tuple(call.inputs), tuple(call.outputs))


def tick_program(engines: Mapping[str, EngineSpec]) -> Program:
    """How the tick's engines are joined.

    The features of a level are the input of the next one, the summaries of all three are InterCAD's, what a hop brings
    goes to every level under its own name, and each level has its own description of the words.
    """
    calls: list[Call] = []
    tensors: dict[str, TensorSpec] = {}
    outputs: list[str] = []
    for level in LEVELS:
        spec = engines[f"level{level}"]
        inputs, results = _plain(spec)
        ins = {name: _input_name(name, level) for name in inputs}
        outs = {name: _output_name(name, level) for name in results}
        tensors.update({ins[name]: _named(ins[name], tensor) for name, tensor in inputs.items()})
        tensors.update({outs[name]: _named(outs[name], tensor) for name, tensor in results.items()})
        outputs += [outs[name] for name in results if name.startswith("alpha_") or name == "budget"]
        calls.append(Call(f"level{level}", ins, outs))
    inputs, results = _plain(engines["intercad"])
    tensors.update({**inputs, **results})
    calls.append(Call("intercad", {name: name for name in inputs}, {name: name for name in results}))
    computed = {name for call in calls for name in call.outputs.values()}
    return Program(
        calls=tuple(calls),
        tensors=tensors,
        inputs=tuple(name for name in tensors if name not in computed),
        outputs=(*outputs, "present", *results),
    )


def _input_name(name: str, level: int) -> str:
    if name in _FEATURES:
        return name if level == 1 else f"{_FEATURES[name]}_{level - 1}"
    return f"{name}_{level}" if name.startswith("language_") else name


def _output_name(name: str, level: int) -> str:
    # All levels say the same of which modality is there: InterCAD reads the deepest.
    return name if name == "present" and level == LEVELS[-1] else f"{name}_{level}"


def _plain(spec: EngineSpec) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """An engine's inputs and outputs without its state."""
    state = set(spec.state)
    inputs = {tensor.name: tensor for tensor in spec.inputs if tensor.name not in state}
    return inputs, {tensor.name: tensor for tensor in spec.outputs if tensor.name.removesuffix("_next") not in state}


def _named(name: str, tensor: TensorSpec) -> TensorSpec:
    """A tensor of an engine under its name in the program."""
    return type(tensor)(name=name, dtype=tensor.dtype, shape=tensor.shape)


def allocate(tensor: TensorSpec, seats: int) -> NDArray[Any]:
    """Zeros for `seats` streams; pages that no stream touches cost no memory."""
    from clcr_stream.bundle.manifest import STREAMS  # loads msgspec, which the GPU check does without

    if tensor.shape[0] != STREAMS:
        raise BackendError(f"tensor {tensor.name}: first dimension is {tensor.shape[0]!r}, it must be {STREAMS!r}")
    return np.zeros([seats, *(int(size) for size in tensor.shape[1:])], dtype=np.dtype(tensor.dtype))
