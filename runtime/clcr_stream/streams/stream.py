"""One stream that runs: its inputs, rings, session and outbox, opened in a safe order and closed together."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec

from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock, MonotonicClock, VirtualClock, read_boot_id
from clcr_stream.errors import WARNING, ClcrError, ConfigError
from clcr_stream.inference.baselines import Baselines, check_baselines
from clcr_stream.inference.engines import LoadedEngines
from clcr_stream.recording.options import RecordOptions
from clcr_stream.recording.recorder import Recorder, RecorderHooks
from clcr_stream.recording.seen import Watch
from clcr_stream.recording.source import KINDS
from clcr_stream.sources.base import FaceCropper, Sinks, Source, SourceSpec, never
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.frames import make_finder
from clcr_stream.streams.events import Changes
from clcr_stream.streams.faces_shown import show_faces
from clcr_stream.streams.person import Person, PersonPlan
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.profile import NO_BASELINES, Profile, encode_baselines
from clcr_stream.streams.reports import (
    Header,
    StreamSummary,
    View,
    make_status,
    session_message,
    source_messages,
    summarise,
)
from clcr_stream.streams.required import NOTHING, Required
from clcr_stream.streams.session import Schedule, Session, Views, always, open_pipeline
from clcr_stream.window.cutter import Rows
from clcr_stream.wire import messages
from clcr_stream.wire.jsonl import JsonLines, Output
from clcr_stream.wire.names import new_session_id
from clcr_stream.wire.outbox import Outbox, Sink
from clcr_stream.wire.preview import Preview
from clcr_stream.wire.publisher import PublishOptions


@dataclass(frozen=True)
class StreamOptions:
    """All that one stream needs to know; None leaves `gamma` to the bundle and lets the input decide the duration.

    Without `publish` no socket is opened. `origin_ns` is the zero of a recording read without a pace; None: now.
    `calibrate_s` sets the person's baselines after so many seconds, `profile` is a file that keeps them.
    `preview` lets the user see the face crops. With `events` changes of expression are sent too.
    """

    name: str
    sources: SourceSpec
    publish: PublishOptions | None = None
    gamma: float | None = None
    duration_s: float | None = None
    settle_ms: float = 60.0
    output: Output | None = None
    origin_ns: int | None = None
    calibrate_s: float | None = None
    profile: Path | None = None
    preview: bool = False
    events: bool = False
    required: Required = NOTHING
    record: RecordOptions | None = None


@dataclass(frozen=True)
class Hooks:
    """What an embedding program adds to a stream.

    `open_sources` replaces the sources that the options name. `sinks` get every message as it was sent. A recording's
    next hop waits while `has_room` is False. `ended` is called once, when all is closed, with what ended the stream.
    `baselines` are the person's to begin with, in place of a profile's. `stopping` says that what is being opened is
    no longer wanted.
    """

    open_sources: Callable[[Sinks], Sequence[Source]] | None = None
    sinks: tuple[Sink, ...] = ()
    has_room: Callable[[], bool] = always
    ended: Callable[[ClcrError | None], object] = lambda _: None
    baselines: Baselines = field(default_factory=dict)
    stopping: Callable[[], bool] = never


@dataclass(frozen=True)
class Shared:
    """What a stream gets from its process: the engines, when the process started, and whom to wake."""

    engines: LoadedEngines
    started_ns: int
    notify: Callable[[], object]
    say: Callable[[str], object] = lambda _: None  # for a person
    later: Callable[[Callable[[], None]], object] = lambda job: job()  # has something slow done on another thread
    tell: Callable[[str], None] = lambda _: None  # for a person who did not ask for quiet
    sinks: tuple[Sink, ...] = ()  # of every stream's messages


class Stream:
    """A stream that runs, from its construction until `close`; a context manager.

    Opens inputs, then the endpoint, then the output, announces the session and starts the sources; tick 1 begins at
    `origin_ns`. Raises the ClcrError of what cannot be opened, and then leaves nothing open.
    """

    def __init__(
        self,
        options: StreamOptions,
        shared: Shared,
        origin_ns: int,
        finder: FaceCropper | None = None,
        hooks: Hooks = Hooks(),
    ) -> None:
        self.options = options
        self.error: ClcrError | None = None  # what ended it
        self._shared = shared
        self._hooks = hooks
        self._closing = threading.Lock()
        self._lines: JsonLines | None = None
        self._recorder: Recorder | None = None
        self._watch = Watch()
        self._initial: Baselines = {}  # of the person, at the stream's start
        self._profile: Profile | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._open(origin_ns, finder)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, origin_ns: int, finder: FaceCropper | None) -> None:
        options, engines, hooks = self.options, self._shared.engines, self._hooks
        if options.events and engines.manifest.task != "classification":
            raise ConfigError("--events needs a bundle that names expressions; this one gives a value")
        unpaced = options.sources.pace == "max"
        if unpaced:  # a recording without a pace has its own time and its own zero
            origin_ns = time.monotonic_ns() if options.origin_ns is None else options.origin_ns
        self._clock: Clock = VirtualClock(origin_ns) if unpaced else MonotonicClock()
        self._person = self._open_person()
        self._pipeline = open_pipeline(engines.manifest, origin_ns, engines.tokenizer, engines.encoder, engines.worker)
        # Closed in reverse: goodbye and endpoint, sources, and the output last, which gets the goodbye too.
        output = self._stack.enter_context(contextlib.ExitStack())
        settle_ns = int(options.settle_ms * NS_PER_MS)
        sinks = Sinks(
            self._clock,
            self._pipeline.rings,
            finder,
            self._shared.notify,
            options.sources.framing,
            settle_ns,
            hooks.stopping,
        )
        open_all = hooks.open_sources or partial(open_sources, options.sources, kinds=KINDS)
        self._sources = tuple(open_all(sinks))
        for source in self._sources:
            self._stack.callback(source.close)
        check_sources(options, self._sources)
        self._identity = Identity(options.name, new_session_id(), read_boot_id(), engines.bundle_id, engines.backend)
        self._stack.callback(self._keep_profile)
        outbox = self._outbox = Outbox(options.name, options.publish, self._status, self._is_recording)
        self._stack.callback(outbox.close)
        self.endpoint = outbox.endpoint
        if options.record is not None:
            self._open_recorder(options.record, outbox, output)
        self.session = Session(
            self._pipeline,
            self._sources,
            self._schedule(),
            self._identity,
            self._sender(outbox),
            self._person,
            Views(partial(outbox.wanted, "tokens"), self._open_preview()),
            outbox.beat,
        )
        if options.output is not None:
            # After all that can fail: a run that does not begin leaves no file behind.
            self._lines = JsonLines(options.output, self._warn)
            output.callback(self._lines.close)
            outbox.add(self._lines)
        for sink in (self._watch, *self._shared.sinks, *hooks.sinks):
            outbox.add(sink)
        outbox.send(session_message(engines.manifest, self._identity, self._sources, self._pipeline.rings))
        for source in self._sources:
            source.start()

    def _sender(self, outbox: Outbox) -> Callable[[messages.Message], messages.Message]:
        """What sends the session's messages, and after a prediction the event that it completes."""
        if not self.options.events:
            return outbox.send
        changes = Changes()

        def send(message: messages.Message) -> messages.Message:
            sent = outbox.send(message)
            event = changes.take(sent) if isinstance(sent, messages.Prediction) else None
            if event is not None:
                outbox.send(event)
            return sent

        return send

    def _warn(self, text: str) -> None:
        self._shared.say(WARNING + text)

    def _open_preview(self) -> Callable[[Rows, int], object] | None:
        """What shows the faces of each hop, if that was asked for: nothing else gives pixels away."""
        if not self.options.preview:
            return None
        preview = self._stack.enter_context(Preview(self.options.name))
        self._shared.say(
            f"stream {self.options.name}: PREVIEW: face crops can be seen at {preview.endpoint}, by you alone"
        )
        return partial(show_faces, preview)

    def _open_recorder(self, record: RecordOptions, outbox: Outbox, output: contextlib.ExitStack) -> None:
        """From now on every message is recorded, and with media every hop; `output` closes the file. ConfigError."""
        options, manifest = self.options, self._shared.engines.manifest
        gamma = manifest.gamma if options.gamma is None else options.gamma
        about = {
            "gamma": repr(gamma),
            "calibrate_s": "" if options.calibrate_s is None else repr(options.calibrate_s),
        }
        if record.media and self._initial:
            about["baselines"] = encode_baselines(self._initial, self._shared.engines.bundle_id).decode()
        self._recorder = recorder = Recorder(record, RecorderHooks(self._warn, self._shared.notify, about))
        output.callback(recorder.close)
        outbox.add(recorder)
        if record.media:
            rate_hz = manifest.acoustic.sample_rate_hz
            self._pipeline = replace(
                self._pipeline, tap=lambda chunk, words: recorder.hop(chunk, rate_hz, words.segments)
            )

    def recording(self) -> messages.Recording | None:
        """How the recording is doing, None when none is made. Any thread."""
        return None if self._recorder is None else self._recorder.state()

    def _is_recording(self) -> bool:
        return self._recorder is not None and self._recorder.active

    def _has_room(self) -> bool:
        return self._hooks.has_room() and (self._recorder is None or self._recorder.has_room())

    def _open_person(self) -> Person:
        """The stream's person, with what a profile or the program says of them. ConfigError."""
        options, engines = self.options, self._shared.engines
        states = engines.levels.baseline_states
        initial = self._hooks.baselines
        if (options.calibrate_s is not None or options.profile is not None) and not states:
            raise ConfigError(NO_BASELINES)
        where = f"stream {options.name}: baselines"
        if options.profile is not None:
            self._profile = Profile(options.profile, engines.bundle_id)
            initial, where = {**self._profile.read(), **initial}, self._profile.where
        check_baselines(initial, states, where)
        self._initial = initial
        return Person(PersonPlan(options.calibrate_s or 0.0, initial, self._tell, self._calibrated))

    def _tell(self, text: str) -> None:
        """A line for a person; the loop's thread does not wait until it is written."""
        self._shared.later(partial(self._shared.tell, f"stream {self.options.name}: {text}"))

    def _calibrated(self, baselines: Baselines) -> None:
        if self._profile is not None:
            self._shared.later(partial(self._profile.keep, baselines))

    def _keep_profile(self) -> None:
        """Write the profile for the last time; the stream has left its seat."""
        if self._profile is not None:
            self._profile.close(self._person.to_keep)

    def sources(self) -> tuple[messages.Source, ...]:
        """The sources' reports, each with the account of the rings that it fills."""
        return source_messages(self._sources, self._pipeline.rings)

    def view(self) -> View:
        """What a status line shows of it. Any thread."""
        left_s = self._person.calibration_left_s
        note = f"calibrating, {math.ceil(left_s)} s left" if left_s else ""
        record = self.recording()
        return View(self.options.name, self.session.account, self.sources(), note, record, self._outbox.refused)

    def summary(self) -> StreamSummary:
        """What the stream did until now."""
        first_ns, started_ns = self.session.first_published_ns, self._shared.started_ns
        return replace(
            summarise(self.options.name, self.session.account, self.sources()),
            first_prediction_s=None if first_ns is None else round((first_ns - started_ns) / NS_PER_S, 3),
            output_failure=None if self._lines is None else self._lines.failure,
            record=self.recording(),
            seen=self._watch.seen(),
        )

    def close(self) -> None:
        """Say goodbye, then let go of endpoint and sources. Idempotent, from any thread; raises PublishError."""
        with self._closing:
            try:
                self._stack.close()
            except ClcrError as error:
                self.error = self.error or error
                raise
            finally:
                self._hooks.ended(self.error)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _schedule(self) -> Schedule:
        """When ticks are due, from the options and what they leave to the bundle."""
        options, manifest = self.options, self._shared.engines.manifest
        duration_s = options.duration_s
        return Schedule(
            clock=self._clock,
            settle_ns=int(options.settle_ms * NS_PER_MS),
            paced=options.sources.pace == "real",
            last_tick=None if duration_s is None else max(1, int(duration_s * NS_PER_S) // manifest.hop_ns),
            gamma=manifest.gamma if options.gamma is None else options.gamma,
            has_room=self._has_room,
            required=options.required,
        )

    def _status(self) -> messages.Status:
        """The heartbeat; on the thread that sends it."""
        engines, identity = self._shared.engines, self._identity
        header = Header(
            identity.stream,
            identity.session,
            identity.boot_id,
            self._clock.now_ns(),
            engines.backend,
            engines.backend_reason(),
        )
        uptime_s = (time.monotonic_ns() - self._shared.started_ns) / NS_PER_S
        status = make_status(self.session.account, self.sources(), header, uptime_s)
        if self._recorder is None:
            return status
        return msgspec.structs.replace(status, recording=self._recorder.active, record=self._recorder.state())


def load_finder(options: StreamOptions, size_px: int) -> FaceCropper | None:
    """What searches faces, for a stream that will see any: loaded before the streams begin, because it takes long."""
    watches = options.sources.input is not None or options.sources.camera != "none"
    return make_finder(size_px, options.sources.face_model) if watches else None


def check_sources(options: StreamOptions, sources: Sequence[Source]) -> None:
    """ConfigError when there is nothing to watch, or when a live source is asked to run ahead of the clock."""
    if not sources:
        raise ConfigError("no source: give --camera, --mic, --input or --transcript something other than none")
    live = [source.name for source in sources if not source.lossless]
    if options.sources.pace == "max" and live:
        raise ConfigError(f"--pace max needs recordings, {live[0]} is live; use --pace real")
