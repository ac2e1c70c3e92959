"""Puts a session together in a safe order (verified bundle, engines, inputs, endpoint), runs it and sums it up."""

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
from typing import Any, TypeAlias

import msgspec

from clcr_stream import __version__, messages
from clcr_stream.backends import Backend, open_backend
from clcr_stream.bundle import Bundle, default_bundle_folder, load_bundle
from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock, MonotonicClock, VirtualClock
from clcr_stream.config import Config
from clcr_stream.endpoint import CurveServer
from clcr_stream.errors import ConfigError
from clcr_stream.language import LanguageStream
from clcr_stream.level import Levels
from clcr_stream.loop import Pipeline, Schedule, Session
from clcr_stream.manifest import TOKENIZER_NAME, Manifest
from clcr_stream.prediction import Identity
from clcr_stream.publisher import Publisher, PublishOptions
from clcr_stream.ring import AudioRing, RingCounts, VisionRing
from clcr_stream.sources import open_sources
from clcr_stream.sources.base import Sinks, Source, SourceSpec, make_finder
from clcr_stream.status import Account, Header, make_status, summary
from clcr_stream.text import Tokenizer
from clcr_stream.transcript import Transcript
from clcr_stream.window import Cutter, Grid, Rings

EXTRA_S = 2.0  # the rings hold a window and this much more, so that a tick may be a little late


@dataclass(frozen=True)
class Loaded:
    """Everything that takes long to load and knows nothing of time."""

    manifest: Manifest
    bundle_id: str
    levels: Levels
    language: LanguageStream


@dataclass(frozen=True)
class Running:
    """What an observer may read while a session runs."""

    account: Account
    sources: Callable[[], tuple[messages.Source, ...]]
    endpoint: str
    manifest: Manifest


Observer: TypeAlias = Callable[[Running], contextlib.AbstractContextManager[object]]


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


def load(config: Config) -> Loaded:
    """Verify the bundle and load its engines; the bundle's bytes are let go of. BundleError, BackendError."""
    bundle = load_bundle(config.model.bundle if config.model.bundle is not None else default_bundle_folder())
    backend = open_backend(config.model.backend)
    return load_engines(bundle, backend)


def load_engines(bundle: Bundle, backend: Backend) -> Loaded:
    """The engines of a verified bundle."""
    manifest = bundle.manifest
    encoder = backend.load("language", bundle.engine_bytes("language"), manifest.engines["language"])
    language = LanguageStream(Tokenizer(bundle.files[TOKENIZER_NAME]), encoder, manifest)
    return Loaded(manifest, bundle.id, Levels(bundle, backend), language)


def run(config: Config, stop: threading.Event, observe: Observer) -> dict[str, Any]:
    """Run one session until its input ends or `stop` is set; its summary. `observe` is entered while it runs.

    Raises the ClcrError of whatever cannot be opened: bundle and engines first, then inputs, then the endpoint.
    """
    started_ns = time.monotonic_ns()
    loaded = load(config)
    spec = source_spec(config)
    finder = make_finder(loaded.manifest.vision.size_px) if spec.input is not None or spec.camera != "none" else None
    clock: Clock = VirtualClock(time.monotonic_ns()) if config.sources.pace == "max" else MonotonicClock()
    grid = Grid(clock.now_ns(), loaded.manifest)
    rings = make_rings(loaded.manifest, grid.origin_ns)
    with contextlib.ExitStack() as stack:
        lines = _open_lines(config, stack)
        sources = open_sources(spec, Sinks(clock, rings.vision, rings.acoustic, rings.transcript, finder))
        for source in sources:
            stack.callback(source.close)
        check_sources(config, sources)
        outbox = Outbox(lines)
        identity = Identity(
            config.publish.stream,
            messages.new_session_id(),
            messages.read_boot_id(),
            loaded.bundle_id,
            loaded.levels.backend,
        )
        pipeline = Pipeline(loaded.manifest, grid, rings, Cutter(loaded.manifest, grid), loaded.language, loaded.levels)
        session = Session(pipeline, sources, schedule(config, loaded.manifest), identity, outbox.send)

        def heartbeat() -> messages.Status:
            now_ns = clock.now_ns()
            header = Header(identity.stream, identity.session, identity.boot_id, now_ns)
            uptime_s = (time.monotonic_ns() - started_ns) / NS_PER_S
            return outbox.note(make_status(session.account, source_messages(sources, rings), header, uptime_s))

        outbox.publisher = Publisher(publish_options(config), heartbeat)
        stack.callback(outbox.publisher.close)
        stack.callback(outbox.close)
        outbox.send(session_message(loaded, identity, grid, source_messages(sources, rings)))
        for source in sources:
            source.start()
        running = Running(
            session.account, lambda: source_messages(sources, rings), outbox.publisher.endpoint, loaded.manifest
        )
        with observe(running):
            session.run(clock, stop)
        result = summary(session.account, running.sources())
    first_ns = session.first_published_ns
    result["first_prediction_s"] = None if first_ns is None else round((first_ns - started_ns) / NS_PER_S, 3)
    result["output_failure"] = None if lines is None else lines.failure
    return result


def source_spec(config: Config) -> SourceSpec:
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


def publish_options(config: Config) -> PublishOptions:
    """Where and how to publish, as configured."""
    wanted, curve = config.publish, None
    if wanted.curve.secret_file is not None and wanted.curve.clients_folder is not None:
        curve = CurveServer(Path(wanted.curve.secret_file), Path(wanted.curve.clients_folder))
    return PublishOptions(stream=wanted.stream, endpoint=wanted.bind, format=wanted.format, curve=curve)


def check_sources(config: Config, sources: Sequence[Source]) -> None:
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


def schedule(config: Config, manifest: Manifest) -> Schedule:
    """When ticks are due, from the configuration and what it leaves to the bundle."""
    duration_s = config.run.duration_s
    return Schedule(
        settle_ns=int(config.run.settle_ms * NS_PER_MS),
        paced=config.sources.pace == "real",
        last_tick=None if duration_s is None else max(1, int(duration_s * NS_PER_S) // manifest.hop_ns),
        gamma=manifest.gamma if config.model.gamma is None else config.model.gamma,
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
    loaded: Loaded, identity: Identity, grid: Grid, sources: tuple[messages.Source, ...]
) -> messages.Session:
    """The message that says what this session's predictions mean."""
    manifest = loaded.manifest
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
    for package in ("numpy", "onnxruntime", "opencv-python-headless", "av", "pyzmq", "msgspec", "tokenizers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _open_lines(config: Config, stack: contextlib.ExitStack) -> JsonLines | None:
    if config.publish.output is None:
        return None
    lines = JsonLines(config.publish.output)
    stack.callback(lines.close)
    return lines


def _ring_counts(unit: str, counts: RingCounts) -> dict[str, int]:
    dropped = {f"{unit}_dropped_{reason}": number for reason, number in counts.dropped.items()}
    return {f"{unit}_in": counts.received, f"{unit}_used": counts.used, f"{unit}_held": counts.held, **dropped}
