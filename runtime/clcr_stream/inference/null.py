"""The backend that computes nothing: right names and shapes, zeros, and even shares where a share must sum to one."""

from __future__ import annotations

from collections.abc import Mapping

from clcr_stream.inference.program import Graph, Program, allocate

# Distributions have to be valid, else no prediction would ever leave the loop.
_SHARES = ("probs", "omega", "beta")


class NullRunner:
    """Takes inputs and returns constants; for tests and for measuring the runtime without its engines."""

    def __init__(self, program: Program, seats: int) -> None:
        self.seats = seats
        self.inputs = {name: allocate(program.tensors[name], seats) for name in program.inputs}
        self.outputs = {name: allocate(program.tensors[name], seats) for name in program.outputs}
        for share in _SHARES:
            if share in self.outputs:
                self.outputs[share][:] = 1.0 / self.outputs[share].shape[-1]
        self._timing_ms = {call.engine: 0.0 for call in program.calls}

    def run(self, first: int, count: int) -> Mapping[str, float]:
        return self._timing_ms

    def clear(self, seat: int) -> None:
        """There is no state to forget."""

    def move(self, source: int, target: int) -> None:
        for array in self.inputs.values():
            array[target] = array[source]

    def close(self) -> None:
        """There is nothing to let go of."""


class NullBackend:
    """Opens any program without reading its graphs."""

    name = "null"

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> NullRunner:
        return NullRunner(program, seats)
