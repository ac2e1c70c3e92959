"""One configured stream: its inputs, rings, session and publisher, opened in a safe order and closed together."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clcr_stream import __version__
from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock, MonotonicClock, VirtualClock, read_boot_id
from clcr_stream.config import StreamConfig
from clcr_stream.errors import ConfigError
from clcr_stream.inference.choose import Runner
from clcr_stream.sources.base import Sinks, Source, SourceSpec
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.frames import make_finder
from clcr_stream.streams.language import LanguageStream, TextEncoder
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.session import Pipeline, Schedule, Session
from clcr_stream.streams.status import Header, make_status, summary
from clcr_stream.window.cutter import Cutter
from clcr_stream.window.grid import Grid
from clcr_stream.window.ring import AudioRing, RingCounts, Rings, VisionRing
from clcr_stream.window.transcript import Transcript
from clcr_stream.wire import messages
from clcr_stream.wire.endpoint import CurveServer
from clcr_stream.wire.publisher import Publisher, PublishOptions

PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "av", "pyzmq", "msgspec", "tokenizers")
GPU_PACKAGES = ("tensorrt", "pycuda", "cuda-bindings")
EXTRA_S = 2.0  # the rings hold a window and this much more, so that a tick may be a little late


@dataclass(frozen=True)
class Model:
    """What all streams of a process share of a bundle, apart from the levels.

    `backend_reason` may be asked by any thread and changes while plans are being built.
    """

    manifest: Manifest
    bundle_id: str
    backend: str
    tokenizer: TextEncoder
    encoder: Runner
    backend_reason: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Shared:
    """What a stream gets from its process: the model, when the process started, and whom to wake."""

    model: Model
    started_ns: int
    notify: Callable[[], object]


class JsonLines:
    """The same payloads as JSON lines in a file or on stdout; a disk that fills up stops the file, not the session."""

    def __init__(self, target: str) -> None:
        self._lock = threading.Lock()
        self.failure: str | None = None
        try:
            self._file = sys.stdout.buffer if target == "-" else Path(target).open("wb")
        except OSError as error:
            raise ConfigError(
                f"--output {target}: cannot be written ({error.strerror}); give a file in a folder that exists, or -"
            ) from error
        self._owned = target != "-"

    def write(self, message: messages.Message) -> None:
        """Append one line; after the first failure, nothing."""
        line = messages.encode(message, "json") + b"\n"
        with self._lock:
            if self.failure is None:
                try:
                    self._file.write(line)
                    self._file.flush()
                except OSError as error:
                    self.failure = str(error.strerror)
                    if not self._owned:
                        _forget_stdout()

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._owned:
            with contextlib.suppress(OSError):
                self._file.close()


def _forget_stdout() -> None:
    """Point stdout at nothing: what its buffer still holds would fail again at exit and turn exit code 0 into 120."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


class Outbox:
    """Sends each message to the publisher and, as it was sent, to the JSON lines."""

    def __init__(self, lines: JsonLines | None) -> None:
        self.publisher: Publisher | None = None
        self._closing = False
        self._lines = lines
        self._beats = 0

    def send(self, message: messages.Message) -> None:
        """Publish a session, prediction or transcript."""
        if self.publisher is not None:
            message = self.publisher.publish(message)
        if self._lines is not None:
            self._lines.write(message)

    def close(self) -> None:
        """The next heartbeat is the goodbye."""
        self._closing = True

    def note(self, status: messages.Status) -> messages.Status:
        """A heartbeat on its way to the publisher, which numbers it as here; called by the publisher's thread alone."""
        self._beats += 1
        if self._lines is not None:
            state = "goodbye" if self._closing else status.state
            self._lines.write(msgspec.structs.replace(status, seq=self._beats, state=state))
        return status


class Stream:
    """A configured stream: `begin` opens and starts it, `close` ends it. A context manager.

    What takes long and knows nothing of time is loaded at once, so that several streams can begin together.
    """

    def __init__(self, config: StreamConfig, shared: Shared) -> None:
        self.config = config
        self._shared = shared
        self._stack = contextlib.ExitStack()
        self._spec = source_spec(config)
        watches = self._spec.input is not None or self._spec.camera != "none"
        self._finder = make_finder(shared.model.manifest.vision.size_px) if watches else None
        self._lines = None if config.output is None else JsonLines(config.output)
        if self._lines is not None:
            self._stack.callback(self._lines.close)

    def begin(self, origin_ns: int) -> None:
        """Open inputs, then the endpoint, announce the session and start the sources; tick 1 begins at `origin_ns`.

        A recording without a pace has its own time and its own zero. Raises the ClcrError of what cannot be opened.
        """
        config, model = self.config, self._shared.model
        unpaced = config.sources.pace == "max"
        clock: Clock = VirtualClock(time.monotonic_ns()) if unpaced else MonotonicClock()
        grid = Grid(clock.now_ns() if unpaced else origin_ns, model.manifest)
        self._rings = rings = make_rings(model.manifest, grid.origin_ns)
        sinks = Sinks(clock, rings.vision, rings.acoustic, rings.transcript, self._finder, self._shared.notify)
        self._sources = open_sources(self._spec, sinks)
        for source in self._sources:
            self._stack.callback(source.close)
        check_sources(config, self._sources)
        outbox = Outbox(self._lines)
        identity = Identity(config.name, messages.new_session_id(), read_boot_id(), model.bundle_id, model.backend)
        language = LanguageStream(model.tokenizer, model.encoder, model.manifest)
        pipeline = Pipeline(model.manifest, grid, rings, Cutter(model.manifest, grid), language)
        self.session = Session(pipeline, self._sources, schedule(config, model.manifest, clock), identity, outbox.send)

        def heartbeat() -> messages.Status:
            header = Header(
                identity.stream,
                identity.session,
                identity.boot_id,
                clock.now_ns(),
                model.backend,
                model.backend_reason(),
            )
            uptime_s = (time.monotonic_ns() - self._shared.started_ns) / NS_PER_S
            return outbox.note(make_status(self.session.account, self.sources(), header, uptime_s))

        outbox.publisher = Publisher(publish_options(config), heartbeat)
        self._stack.callback(outbox.publisher.close)
        self._stack.callback(outbox.close)
        self.endpoint = outbox.publisher.endpoint
        outbox.send(session_message(model, identity, grid, self.sources()))
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


def source_spec(config: StreamConfig) -> SourceSpec:
    """What the sources are opened with; a plain run takes the first camera and the default microphone."""
    sources = config.sources
    if sources.input is not None:
        return SourceSpec(input=sources.input, transcript=sources.transcript, pace=sources.pace)
    return SourceSpec(
        camera=sources.camera if sources.camera is not None else "0",
        microphone=sources.mic if sources.mic is not None else "default",
        transcript=sources.transcript,
        pace=sources.pace,
    )


def publish_options(config: StreamConfig) -> PublishOptions:
    """Where and how to publish, as configured."""
    curve, certificates = None, config.curve
    if certificates.secret_file is not None and certificates.clients_folder is not None:
        curve = CurveServer(Path(certificates.secret_file), Path(certificates.clients_folder))
    return PublishOptions(stream=config.name, endpoint=config.bind, format=config.format, curve=curve)


def check_sources(config: StreamConfig, sources: Sequence[Source]) -> None:
    """ConfigError when there is nothing to watch, or when a live source is asked to run ahead of the clock."""
    if not sources:
        raise ConfigError("no source: give --camera, --mic, --input or --transcript something other than none")
    live = [source.name for source in sources if not source.lossless]
    if config.sources.pace == "max" and live:
        raise ConfigError(f"--pace max needs recordings, {live[0]} is live; use --pace real")


def make_rings(manifest: Manifest, origin_ns: int) -> Rings:
    """Rings that hold the window and EXTRA_S, so that a late tick still finds its data."""
    vision, acoustic = manifest.vision, manifest.acoustic
    window_s = manifest.hop_ns * manifest.window_hops / NS_PER_S
    return Rings(
        VisionRing(origin_ns, vision.rate_hz, vision.size_px, slots=vision.tokens + int(EXTRA_S * vision.rate_hz)),
        AudioRing(origin_ns, acoustic.sample_rate_hz, window_s + EXTRA_S),
        Transcript(),
    )


def schedule(config: StreamConfig, manifest: Manifest, clock: Clock) -> Schedule:
    """When ticks are due, from the configuration and what it leaves to the bundle."""
    duration_s = config.duration_s
    return Schedule(
        clock=clock,
        settle_ns=int(config.settle_ms * NS_PER_MS),
        paced=config.sources.pace == "real",
        last_tick=None if duration_s is None else max(1, int(duration_s * NS_PER_S) // manifest.hop_ns),
        gamma=manifest.gamma if config.gamma is None else config.gamma,
    )


def source_messages(sources: Sequence[Source], rings: Rings) -> tuple[messages.Source, ...]:
    """The sources' reports, each with the account of the rings that it fills."""
    found = []
    for source in sources:
        report = source.report()
        counts = dict(report.counts)
        if "vision" in source.modalities:
            counts |= _ring_counts("frames", rings.vision.counts())
        if "acoustic" in source.modalities:
            counts |= _ring_counts("samples", rings.acoustic.counts())
        found.append(
            messages.Source(
                name=report.name, kind=report.kind, state=report.state, reason=report.reason or None, counts=counts
            )
        )
    return tuple(found)


def session_message(
    model: Model, identity: Identity, grid: Grid, sources: tuple[messages.Source, ...]
) -> messages.Session:
    """The message that says what this session's predictions mean."""
    manifest = model.manifest
    use = manifest.intended_use
    return messages.Session(
        stream=identity.stream,
        session=identity.session,
        seq=0,
        boot_id=identity.boot_id,
        published_ns=grid.origin_ns,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        origin_ns=grid.origin_ns,
        hop_ns=manifest.hop_ns,
        window_ns=grid.window_ns,
        task=manifest.task,
        labels=tuple(manifest.labels),
        bundle=identity.bundle,
        bundle_name=manifest.name,
        backend=identity.backend,
        versions=versions(),
        sources=sources,
        intended_use=messages.IntendedUse(
            infers_emotion=use.infers_emotion, context=tuple(use.context), notice=use.notice
        ),
    )


def versions() -> dict[str, str]:
    """What the session runs on; a package that is not installed is left out."""
    found = {"clcr-stream": __version__, "python": platform.python_version()}
    for package in (*PACKAGES, *GPU_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _ring_counts(unit: str, counts: RingCounts) -> dict[str, int]:
    dropped = {f"{unit}_dropped_{reason}": number for reason, number in counts.dropped.items()}
    return {f"{unit}_in": counts.received, f"{unit}_used": counts.used, f"{unit}_held": counts.held, **dropped}
