"""The engines of a process: a verified bundle, opened once on one backend for all of its streams."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.bundle.manifest import TOKENIZER_NAME, Manifest
from clcr_stream.errors import BackendError
from clcr_stream.frontends.text import TextEncoder, Tokenizer
from clcr_stream.inference.building import Building, build_command
from clcr_stream.inference.choose import EngineOptions, choose_backend, open_backend
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.inference.program import Backend, Runner

Say = Callable[[str], None]
WORDS_NICENESS = 5  # of the thread that encodes words: a tick goes first where both want the last free core


@dataclass(frozen=True)
class LoadedEngines:
    """Everything that takes long to load and knows nothing of time; closed after the streams that use it.

    `building` is for the caller to enter: it makes the plans that the next start will find.
    """

    manifest: Manifest
    bundle_id: str
    tokenizer: TextEncoder
    encoder: Runner  # of text
    levels: Levels
    reason: str | None = None  # why `auto` did not take TensorRT
    building: Building | None = None
    worker: Executor | None = None  # the one thread that runs the encoder, where it may run beside the levels

    @property
    def backend(self) -> str:
        """The name of what runs the engines."""
        return self.levels.backend

    def backend_reason(self) -> str | None:
        """Why it is not TensorRT, where that was left to the runtime, and how far its plans are. Any thread."""
        return self.reason if self.building is None else self.building.reason()

    def close(self) -> None:
        """Let go of the engines and their device."""
        if self.worker is not None:
            self.worker.shutdown()
        self.levels.close()
        self.encoder.close()


def open_engines(
    options: EngineOptions, stop: threading.Event | None = None, say: Say = lambda _: None
) -> LoadedEngines:
    """Verify the bundle and load its engines; the bundle's bytes are let go of. BundleError, BackendError.

    Plans that backend `tensorrt` misses are built first, which takes minutes and ends when `stop` is set. With `auto`
    whatever keeps TensorRT from starting is a reason to take ONNX Runtime, never an error.
    """
    bundle = load_bundle(options.folder)
    choice = choose_backend(options, bundle)
    building = (
        Building(build_command(options.folder, options.seats, options.tensorrt), say) if choice.unplanned else None
    )
    if choice.backend.name != "tensorrt":
        return load_engines(bundle, choice.backend, options.seats, choice.reason, building)
    if building is not None:
        say(f"TensorRT's plans of {', '.join(choice.unplanned)} are being built first, which takes minutes")
        with building:
            building.wait(stop or threading.Event())
    try:
        return load_engines(bundle, choice.backend, options.seats)
    except BackendError as error:
        if options.backend != "auto":
            raise
        say(f"ONNX Runtime runs the engines, because {error}")
        return load_engines(bundle, open_backend("onnxruntime"), options.seats, str(error))


def load_engines(
    bundle: Bundle, backend: Backend, seats: int, reason: str | None = None, building: Building | None = None
) -> LoadedEngines:
    """The engines of a verified bundle for at most `seats` streams, with why this backend has them."""
    encoder = open_encoder(bundle, backend)
    try:
        levels = Levels(bundle, backend, seats)
    except BaseException:
        encoder.close()
        raise
    tokenizer = Tokenizer(bundle.files[TOKENIZER_NAME])
    # A CUDA context belongs to the thread of the loop.
    worker = None if backend.name == "tensorrt" else ThreadPoolExecutor(1, "clcr-words", _stand_back)
    return LoadedEngines(bundle.manifest, bundle.id, tokenizer, encoder, levels, reason, building, worker)


def _stand_back() -> None:
    """Lower the priority of the calling thread: on Linux each has its own."""
    with contextlib.suppress(OSError):
        os.nice(WORDS_NICENESS)
