"""Backends run a bundle's engines: what a tick runs, the protocol of what runs it, and the one place that chooses.

A `Program` names the tensors of a tick and the engines that read and write them; two engines that name the same tensor
share its memory, so the output of a level is the input of the next. A `Runner` is a program with its memory and its
state, for up to `seats` streams: a stream's seat is its row in every tensor.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import STREAMS, TensorSpec
from clcr_stream.errors import BackendError
from clcr_stream.inference.program import Graph, Program

if TYPE_CHECKING:
    from clcr_stream.inference.tensorrt.backend import Options

BACKENDS = ("auto", "onnxruntime", "tensorrt", "null")
NOT_INSTALLED = "tensorrt is not installed"
Arrays = Mapping[str, NDArray[Any]]


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

    def close(self) -> None:
        """Let go of memory and device. Idempotent."""


class Backend(Protocol):
    """Makes runners; `name` is what predictions report."""

    name: str

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> Runner:
        """The program on its engines, warmed up; BackendError when a graph does not load or is not what it says."""


@dataclass(frozen=True)
class Choice:
    """A backend; `reason` says why `auto` did not take TensorRT, None when it did or was not asked."""

    backend: Backend
    reason: str | None = None


def open_backend(name: str) -> Backend:
    """The backend called `name`, with its defaults. BackendError when it is unknown or cannot be used here."""
    return choose_backend(name).backend


def choose_backend(name: str, options: Callable[[], Options] | None = None) -> Choice:
    """The backend called `name`; `auto` is tensorrt where it can start, else onnxruntime, which always can.

    `options` gives TensorRT's, if it comes to that. Without a package tensorrt `auto` costs one look for it.
    """
    match name:
        case "auto":
            try:
                if tensorrt_installed():
                    return Choice(_tensorrt(options))
            except BackendError as error:
                return Choice(_onnxruntime(), str(error))
            return Choice(_onnxruntime(), NOT_INSTALLED)
        case "onnxruntime":
            return Choice(_onnxruntime())
        case "tensorrt":
            return Choice(_tensorrt(options))
        case "null":
            from clcr_stream.inference.null import NullBackend

            return Choice(NullBackend())
        case _:
            raise BackendError(f"backend {name!r} is unknown; allowed: {', '.join(BACKENDS)}")


def tensorrt_installed() -> bool:
    """Whether there is a package `tensorrt` to be tried, without importing it."""
    try:
        return importlib.util.find_spec("tensorrt") is not None
    except (ImportError, ValueError):  # it was imported already, by something that left no spec
        return sys.modules.get("tensorrt") is not None


def _onnxruntime() -> Backend:
    from clcr_stream.inference.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend()


def _tensorrt(options: Callable[[], Options] | None) -> Backend:
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

    return TensorRTBackend(None if options is None else options())


def allocate(tensor: TensorSpec, seats: int) -> NDArray[Any]:
    """Zeros for `seats` streams; pages that no stream touches cost no memory."""
    if tensor.shape[0] != STREAMS:
        raise BackendError(f"tensor {tensor.name}: first dimension is {tensor.shape[0]!r}, it must be {STREAMS!r}")
    return np.zeros([seats, *(int(size) for size in tensor.shape[1:])], dtype=np.dtype(tensor.dtype))
