"""Puts a run together in a safe order (verified bundle, engines, inputs, endpoint), runs it and sums it up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from clcr_stream.bundle.loader import Bundle, default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import TOKENIZER_NAME
from clcr_stream.config import Config, seats_of, stream_configs
from clcr_stream.errors import BackendError, ConfigError
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.inference.building import Building, build_command, missing, tensorrt_options
from clcr_stream.inference.choose import Backend, choose_backend, open_backend
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.streams.host import Host, Say
from clcr_stream.streams.status import peak_rss_mb
from clcr_stream.streams.stream import Model

if TYPE_CHECKING:
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

Observer: TypeAlias = Callable[[Host], contextlib.AbstractContextManager[object]]
WITHOUT_PLANS = "TensorRT's plans for this machine are not built; run `clcr-stream build`"


@dataclass(frozen=True)
class Pick:
    """The backend of a run; `reason` says why `auto` took ONNX Runtime.

    `unplanned` are the engines for which TensorRT, asked for or to be had, has no plan yet.
    """

    backend: Backend
    reason: str | None = None
    unplanned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """Everything that takes long to load and knows nothing of time; closed after the streams that use it.

    `building` is for the caller to enter: it makes the plans that the next start will find.
    """

    model: Model
    levels: Levels
    building: Building | None = None

    def close(self) -> None:
        """Let go of the engines and their device."""
        self.levels.close()
        self.model.encoder.close()


def pick(config: Config, bundle: Bundle) -> Pick:
    """The backend that the configuration means on this machine; nothing is built and no engine is opened.

    `auto` is TensorRT where that starts and has all its plans, else ONNX Runtime. BackendError when a backend that was
    asked for by name cannot be used.
    """
    name = config.model.backend
    choice = choose_backend(name, partial(tensorrt_options, config.tensorrt))
    if choice.backend.name != "tensorrt":
        return Pick(choice.backend, choice.reason)
    tensorrt: TensorRTBackend = choice.backend  # type: ignore[assignment]  # by its name
    try:
        unplanned = missing(bundle, tensorrt, seats_of(config))
    except BackendError as error:
        if name == "tensorrt":
            raise
        return Pick(open_backend("onnxruntime"), str(error))
    if unplanned and name == "auto":
        return Pick(open_backend("onnxruntime"), WITHOUT_PLANS, unplanned)
    return Pick(choice.backend, None, unplanned)


def load(config: Config, stop: threading.Event | None = None, say: Say = lambda _: None) -> Loaded:
    """Verify the bundle and load its engines; the bundle's bytes are let go of. BundleError, BackendError.

    Plans that `--backend tensorrt` misses are built first, which takes minutes and ends when `stop` is set. With `auto`
    whatever keeps TensorRT from starting is a reason to take ONNX Runtime, never an error.
    """
    bundle = load_bundle(config.model.bundle if config.model.bundle is not None else default_bundle_folder())
    picked, seats = pick(config, bundle), seats_of(config)
    building = Building(build_command(config), say) if picked.unplanned else None
    if picked.backend.name != "tensorrt":
        return load_engines(bundle, picked.backend, seats, picked.reason, building)
    if building is not None:
        say(f"TensorRT's plans of {', '.join(picked.unplanned)} are being built first, which takes minutes")
        with building:
            building.wait(stop or threading.Event())
    try:
        return load_engines(bundle, picked.backend, seats)
    except BackendError as error:
        if config.model.backend != "auto":
            raise
        say(f"ONNX Runtime runs the engines, because {error}")
        return load_engines(bundle, open_backend("onnxruntime"), seats, str(error))


def load_engines(
    bundle: Bundle, backend: Backend, seats: int, reason: str | None = None, building: Building | None = None
) -> Loaded:
    """The engines of a verified bundle for at most `seats` streams, with why this backend has them."""
    encoder = open_encoder(bundle, backend)
    try:
        levels = Levels(bundle, backend, seats)
    except BaseException:
        encoder.close()
        raise
    tokenizer = Tokenizer(bundle.files[TOKENIZER_NAME])
    why = building.reason if building is not None else lambda: reason
    return Loaded(Model(bundle.manifest, bundle.id, backend.name, tokenizer, encoder, why), levels, building)


def run(config: Config, stop: threading.Event, observe: Observer, say: Say = lambda _: None) -> dict[str, Any]:
    """Run the configured streams until their input ends or `stop` is set; the summary. `observe` is entered meanwhile.

    Raises the ClcrError of whatever cannot be opened (bundle and engines first, then inputs, then the endpoint) and of
    what ended a single stream or every one of several.
    """
    started_ns = time.monotonic_ns()
    tell: Say = (lambda _: None) if config.run.quiet else say
    loaded = load(config, stop, tell)
    with contextlib.ExitStack() as stack:
        stack.callback(loaded.close)
        host = stack.enter_context(Host(loaded.model, loaded.levels, config.run.max_batch, started_ns, say))
        host.begin(stream_configs(config))
        if loaded.building is not None:
            tell("TensorRT's plans are being built, which takes minutes; ONNX Runtime runs the engines meanwhile")
            stack.enter_context(loaded.building)
        with observe(host):
            host.run(stop)
    if host.failure is not None:
        raise host.failure
    return summary(config, host.summaries())


def summary(config: Config, streams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of a single stream its own summary, of several one under each name and the process's."""
    if not config.streams:
        return streams[config.publish.stream]
    return {"streams": streams, "peak_rss_mb": peak_rss_mb()}


def reload(host: Host, config: Config, read: Callable[[], Config]) -> None:
    """Read the configuration again and run the streams it lists; ConfigError, and then all stays as it is."""
    try:
        new = read()
        if not (config.streams and new.streams):
            raise ConfigError("only a list of streams can change while running; restart for anything else")
        if msgspec.structs.replace(new, streams=config.streams) != config:
            raise ConfigError("model, run and publish cannot change while running, only streams; restart for the rest")
    except ConfigError as error:
        raise ConfigError(f"not reloaded, all goes on as it was: {error}") from error
    host.replace(stream_configs(new))
