"""One configured stream: its inputs, rings, session and publisher, opened in a safe order and closed together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock, MonotonicClock, VirtualClock, read_boot_id
from clcr_stream.errors import ConfigError
from clcr_stream.inference.engines import LoadedEngines
from clcr_stream.sources.base import Sinks, Source, SourceSpec
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.frames import make_finder
from clcr_stream.streams.language import LanguageStream
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.reports import Header, make_status, session_message, source_messages, summary
from clcr_stream.streams.session import Pipeline, Schedule, Session
from clcr_stream.window.cutter import Cutter
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from clcr_stream.wire import messages
from clcr_stream.wire.jsonl import JsonLines
from clcr_stream.wire.outbox import Outbox
from clcr_stream.wire.publisher import Publisher, PublishOptions


@dataclass(frozen=True)
class StreamOptions:
    """All that one stream needs to know; None leaves `gamma` to the bundle and lets the input decide the duration."""

    name: str
    sources: SourceSpec
    publish: PublishOptions
    gamma: float | None = None
    duration_s: float | None = None
    settle_ms: float = 60.0
    output: str | None = None


@dataclass(frozen=True)
class Shared:
    """What a stream gets from its process: the engines, when the process started, and whom to wake."""

    engines: LoadedEngines
    started_ns: int
    notify: Callable[[], object]


class Stream:
    """A configured stream: `begin` opens and starts it, `close` ends it. A context manager.

    What takes long and knows nothing of time is loaded at once, so that several streams can begin together.
    """

    def __init__(self, options: StreamOptions, shared: Shared) -> None:
        self.options = options
        self._shared = shared
        self._stack = contextlib.ExitStack()
        watches = options.sources.input is not None or options.sources.camera != "none"
        self._finder = make_finder(shared.engines.manifest.vision.size_px) if watches else None
        self._lines = None if options.output is None else JsonLines(options.output)
        if self._lines is not None:
            self._stack.callback(self._lines.close)

    def begin(self, origin_ns: int) -> None:
        """Open inputs, then the endpoint, announce the session and start the sources; tick 1 begins at `origin_ns`.

        A recording without a pace has its own time and its own zero. Raises the ClcrError of what cannot be opened.
        """
        options, engines = self.options, self._shared.engines
        unpaced = options.sources.pace == "max"
        clock: Clock = VirtualClock(time.monotonic_ns()) if unpaced else MonotonicClock()
        grid = TimeGrid.of(engines.manifest, clock.now_ns() if unpaced else origin_ns)
        self._rings = rings = make_rings(grid, engines.manifest.vision.size_px)
        sinks = Sinks(clock, rings, self._finder, self._shared.notify)
        self._sources = open_sources(options.sources, sinks)
        for source in self._sources:
            self._stack.callback(source.close)
        check_sources(options, self._sources)
        outbox = Outbox(self._lines)
        identity = Identity(options.name, messages.new_session_id(), read_boot_id(), engines.bundle_id, engines.backend)
        language = LanguageStream(engines.tokenizer, engines.encoder, engines.manifest)
        pipeline = Pipeline(engines.manifest, grid, rings, Cutter(engines.manifest, grid), language)
        self.session = Session(
            pipeline, self._sources, schedule(options, engines.manifest, clock), identity, outbox.send
        )

        def heartbeat() -> messages.Status:
            header = Header(
                identity.stream,
                identity.session,
                identity.boot_id,
                clock.now_ns(),
                engines.backend,
                engines.backend_reason(),
            )
            uptime_s = (time.monotonic_ns() - self._shared.started_ns) / NS_PER_S
            return outbox.note(make_status(self.session.account, self.sources(), header, uptime_s))

        outbox.publisher = Publisher(options.publish, heartbeat)
        self._stack.callback(outbox.publisher.close)
        self._stack.callback(outbox.close)
        self.endpoint = outbox.publisher.endpoint
        outbox.send(session_message(engines.manifest, identity, grid, self.sources()))
        for source in self._sources:
            source.start()

    def sources(self) -> tuple[messages.Source, ...]:
        """The sources' reports, each with the account of the rings that it fills."""
        return source_messages(self._sources, self._rings)

    def summary(self) -> dict[str, Any]:
        """What the stream did, as plain values."""
        result = summary(self.session.account, self.sources())
        first_ns, started_ns = self.session.first_published_ns, self._shared.started_ns
        result["first_prediction_s"] = None if first_ns is None else round((first_ns - started_ns) / NS_PER_S, 3)
        result["output_failure"] = None if self._lines is None else self._lines.failure
        return result

    def close(self) -> None:
        """Say goodbye, then let go of endpoint and sources. Idempotent."""
        self._stack.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_sources(options: StreamOptions, sources: Sequence[Source]) -> None:
    """ConfigError when there is nothing to watch, or when a live source is asked to run ahead of the clock."""
    if not sources:
        raise ConfigError("no source: give --camera, --mic, --input or --transcript something other than none")
    live = [source.name for source in sources if not source.lossless]
    if options.sources.pace == "max" and live:
        raise ConfigError(f"--pace max needs recordings, {live[0]} is live; use --pace real")


def schedule(options: StreamOptions, manifest: Manifest, clock: Clock) -> Schedule:
    """When ticks are due, from the configuration and what it leaves to the bundle."""
    duration_s = options.duration_s
    return Schedule(
        clock=clock,
        settle_ns=int(options.settle_ms * NS_PER_MS),
        paced=options.sources.pace == "real",
        last_tick=None if duration_s is None else max(1, int(duration_s * NS_PER_S) // manifest.hop_ns),
        gamma=manifest.gamma if options.gamma is None else options.gamma,
    )
