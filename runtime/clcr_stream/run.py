"""Puts a run together in a safe order (verified bundle, engines, inputs, endpoint), runs it and sums it up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from clcr_stream.backends import Backend, open_backend
from clcr_stream.bundle import Bundle, default_bundle_folder, load_bundle
from clcr_stream.config import Config, stream_configs
from clcr_stream.errors import ConfigError
from clcr_stream.host import Host, Say
from clcr_stream.level import Levels, open_encoder
from clcr_stream.manifest import TOKENIZER_NAME
from clcr_stream.status import peak_rss_mb
from clcr_stream.stream import Model
from clcr_stream.text import Tokenizer

Observer: TypeAlias = Callable[[Host], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Loaded:
    """Everything that takes long to load and knows nothing of time."""

    model: Model
    levels: Levels


def load(config: Config) -> Loaded:
    """Verify the bundle and load its engines; the bundle's bytes are let go of. BundleError, BackendError."""
    bundle = load_bundle(config.model.bundle if config.model.bundle is not None else default_bundle_folder())
    return load_engines(bundle, open_backend(config.model.backend), config.run.max_streams)


def load_engines(bundle: Bundle, backend: Backend, seats: int) -> Loaded:
    """The engines of a verified bundle, for at most so many streams."""
    encoder = open_encoder(bundle, backend)
    tokenizer = Tokenizer(bundle.files[TOKENIZER_NAME])
    model = Model(bundle.manifest, bundle.id, backend.name, tokenizer, encoder)
    return Loaded(model, Levels(bundle, backend, seats))


def run(config: Config, stop: threading.Event, observe: Observer, say: Say = lambda _: None) -> dict[str, Any]:
    """Run the configured streams until their input ends or `stop` is set; the summary. `observe` is entered meanwhile.

    Raises the ClcrError of whatever cannot be opened (bundle and engines first, then inputs, then the endpoint) and of
    what ended a single stream or every one of several.
    """
    started_ns = time.monotonic_ns()
    loaded = load(config)
    with Host(loaded.model, loaded.levels, config.run.max_batch, started_ns, say) as host:
        host.begin(stream_configs(config))
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
        if (new.model, new.run, new.publish) != (config.model, config.run, config.publish):
            raise ConfigError("model, run and publish cannot change while running, only streams; restart for the rest")
    except ConfigError as error:
        raise ConfigError(f"not reloaded, all goes on as it was: {error}") from error
    host.replace(stream_configs(new))
