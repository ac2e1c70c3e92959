"""The backend that computes nothing: right names and shapes, zeros, and even shares where a share must sum to one."""

from __future__ import annotations

from clcr_stream.backends import Arrays, allocate, fill
from clcr_stream.manifest import EngineSpec

# Distributions have to be valid, else no prediction would ever leave the loop.
_SHARES = ("probs", "omega", "beta")


class NullEngine:
    """Checks its inputs and returns constants; for tests and for measuring the runtime without its engines."""

    def __init__(self, name: str, spec: EngineSpec) -> None:
        self._name = name
        state_out = {f"{state}_next" for state in spec.state}
        self._inputs = {tensor.name: allocate(tensor) for tensor in spec.inputs if tensor.name not in spec.state}
        self._outputs = {tensor.name: allocate(tensor) for tensor in spec.outputs if tensor.name not in state_out}
        for share in _SHARES:
            if share in self._outputs:
                self._outputs[share][:] = 1.0 / self._outputs[share].shape[-1]

    def run(self, inputs: Arrays) -> Arrays:
        fill(self._inputs, inputs, self._name)
        return self._outputs

    def reset(self) -> None:
        """There is no state to forget."""


class NullBackend:
    """Loads any graph without reading it."""

    name = "null"

    def load(self, name: str, onnx: bytes, spec: EngineSpec) -> NullEngine:
        return NullEngine(name, spec)
