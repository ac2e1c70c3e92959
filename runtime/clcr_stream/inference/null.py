"""The backend that computes nothing: right names and shapes, zeros, and even shares where a share must sum to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from clcr_stream.inference.program import Graph, Program, allocate

# Distributions have to be valid, else no prediction would ever leave the loop.
_SHARES = ("probs", "omega", "beta")


class NullRunner:
    """Takes inputs and returns constants; for tests and for measuring the runtime without its engines."""

    def __init__(self, program: Program, seats: int, graphs: Mapping[str, Graph] | None = None) -> None:
        self.seats = seats
        self.inputs = {name: allocate(program.tensors[name], seats) for name in program.inputs}
        self.outputs = {name: allocate(program.tensors[name], seats) for name in program.outputs}
        for share in _SHARES:
            if share in self.outputs:
                self.outputs[share][:] = 1.0 / self.outputs[share].shape[-1]
        # No run changes the state, but what is written there stays.
        self._states = {
            f"{call.engine}/{tensor.name}": allocate(tensor, seats)
            for call in program.calls
            for tensor in (graphs[call.engine].spec.inputs if graphs is not None else ())
            if graphs is not None and tensor.name in graphs[call.engine].spec.state
        }
        self._timing_ms = {call.engine: 0.0 for call in program.calls}

    def run(self, first: int, count: int) -> Mapping[str, float]:
        return self._timing_ms

    def clear(self, seat: int) -> None:
        for array in self._states.values():
            array[seat] = 0

    def move(self, source: int, target: int) -> None:
        for array in (*self.inputs.values(), *self._states.values()):
            array[target] = array[source]

    def read_state(self, seat: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {name: self._states[name][seat].copy() for name in names}

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]]) -> None:
        for name, row in rows.items():
            self._states[name][seat] = row

    def close(self) -> None:
        """There is nothing to let go of."""


class NullBackend:
    """Opens any program without reading its graphs."""

    name = "null"

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> NullRunner:
        return NullRunner(program, seats, graphs)
