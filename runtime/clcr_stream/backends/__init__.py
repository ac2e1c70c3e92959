"""Backends run a bundle's engines: the protocol, and the one place that chooses between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import BackendError
from clcr_stream.manifest import EngineSpec, TensorSpec

BACKENDS = ("auto", "onnxruntime", "null")
Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """One loaded graph with its buffers and its state; one thread at a time."""

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs (without state) for `inputs` (without state); the arrays are the engine's, until the next run."""

    def reset(self) -> None:
        """Forget the state: zeros, as at stream start."""


class Backend(Protocol):
    """Loads engines; `name` is what predictions report."""

    name: str

    def load(self, name: str, onnx: bytes, spec: EngineSpec) -> Engine:
        """An engine for one stream, warmed up; BackendError when the graph does not load or is not what `spec` says."""


def open_backend(name: str) -> Backend:
    """The backend called `name`; `auto` is onnxruntime. BackendError when it is unknown or not installed."""
    match name:
        case "auto" | "onnxruntime":
            from clcr_stream.backends.onnxruntime import OnnxRuntimeBackend

            return OnnxRuntimeBackend()
        case "null":
            from clcr_stream.backends.null import NullBackend

            return NullBackend()
        case _:
            raise BackendError(f"backend {name!r} is unknown; allowed: {', '.join(BACKENDS)}")


def allocate(tensor: TensorSpec, streams: int = 1) -> NDArray[Any]:
    """Zeros in the tensor's shape for `streams` streams."""
    return np.zeros([streams, *(int(size) for size in tensor.shape[1:])], dtype=np.dtype(tensor.dtype))


def fill(buffers: Mapping[str, NDArray[Any]], inputs: Arrays, engine: str) -> None:
    """Copy `inputs` into bound `buffers` of the same names and shapes; BackendError names what does not fit."""
    for name, buffer in buffers.items():
        given = inputs.get(name)
        if given is None or given.shape != buffer.shape:
            shape = None if given is None else given.shape
            raise BackendError(f"{engine}: input {name} has shape {shape}, the engine takes {buffer.shape}")
        np.copyto(buffer, given, casting="same_kind")
