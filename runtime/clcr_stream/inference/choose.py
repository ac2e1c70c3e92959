"""Which backend runs the engines: the one place that decides."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.bundle.loader import Bundle, default_bundle_folder
from clcr_stream.errors import BackendError
from clcr_stream.inference.building import missing
from clcr_stream.inference.program import Backend
from clcr_stream.inference.tensorrt.options import Options as TensorRTOptions

if TYPE_CHECKING:
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

BACKENDS = ("auto", "onnxruntime", "tensorrt", "null")
NOT_INSTALLED = "tensorrt is not installed"
WITHOUT_PLANS = "TensorRT's plans for this machine are not built; run `clcr-stream build`"


@dataclass(frozen=True)
class EngineOptions:
    """Which engines a process runs, for up to `seats` streams at once; `bundle` None is the one that is shipped."""

    bundle: Path | None = None
    backend: str = "auto"
    seats: int = 1
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)

    @property
    def folder(self) -> Path:
        """The bundle's folder. BundleError when there is no bundle that is shipped."""
        return self.bundle if self.bundle is not None else default_bundle_folder()


@dataclass(frozen=True)
class Choice:
    """The backend of a run; `reason` says why `auto` did not take TensorRT, None when it did or was not asked.

    `unplanned` are the engines for which TensorRT, asked for or to be had, has no plan yet.
    """

    backend: Backend
    reason: str | None = None
    unplanned: tuple[str, ...] = ()


def choose_backend(options: EngineOptions, bundle: Bundle) -> Choice:
    """The backend that these options mean on this machine; nothing is built and no engine is opened.

    `auto` is TensorRT where that starts and has all its plans, else ONNX Runtime, which always can; without a package
    tensorrt it costs one look for it. BackendError when a backend that was asked for by name cannot be used.
    """
    if options.backend not in ("auto", "tensorrt"):
        return Choice(open_backend(options.backend))
    by_name = options.backend == "tensorrt"
    if not by_name and not tensorrt_installed():
        return Choice(open_backend("onnxruntime"), NOT_INSTALLED)
    try:
        tensorrt = _tensorrt(options.tensorrt)
        unplanned = missing(bundle, tensorrt, options.seats)
    except BackendError as error:
        if by_name:
            raise
        return Choice(open_backend("onnxruntime"), str(error))
    if unplanned and not by_name:
        return Choice(open_backend("onnxruntime"), WITHOUT_PLANS, unplanned)
    return Choice(tensorrt, None, unplanned)


def open_backend(name: str) -> Backend:
    """The backend called `name`, with its defaults. BackendError when it is unknown or cannot be used here."""
    match name:
        case "onnxruntime":
            from clcr_stream.inference.onnxruntime import OnnxRuntimeBackend

            return OnnxRuntimeBackend()
        case "tensorrt":
            return _tensorrt(TensorRTOptions())
        case "null":
            from clcr_stream.inference.null import NullBackend

            return NullBackend()
        case _:
            raise BackendError(f"backend {name!r} is unknown; allowed: {', '.join(BACKENDS)}")


def tensorrt_installed() -> bool:
    """Whether there is a package `tensorrt` to be tried, without importing it."""
    try:
        return importlib.util.find_spec("tensorrt") is not None
    except (ImportError, ValueError):  # it was imported already, by something that left no spec
        return sys.modules.get("tensorrt") is not None


def _tensorrt(options: TensorRTOptions) -> TensorRTBackend:
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

    return TensorRTBackend(options)
