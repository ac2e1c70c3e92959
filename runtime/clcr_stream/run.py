"""Puts a run together in a safe order (verified bundle, engines, inputs, endpoint), runs it and sums it up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.config import engine_options, stream_options
from clcr_stream.config_tree import Config
from clcr_stream.errors import WARNING, ClcrError, ConfigError
from clcr_stream.inference.engines import Say, open_engines
from clcr_stream.metrics.options import MetricsOptions, parse_metrics
from clcr_stream.recording.options import check_record
from clcr_stream.recording.source import KINDS, open_media
from clcr_stream.sources.choose import check_spec, files_of
from clcr_stream.streams.host import Host
from clcr_stream.streams.profile import check_profile
from clcr_stream.streams.reports import Summary, peak_rss_mb
from clcr_stream.streams.stream import Hooks, StreamOptions
from clcr_stream.wire.jsonl import check_output
from clcr_stream.wire.outbox import Sink
from clcr_stream.wire.publisher import check_options

Observer: TypeAlias = Callable[[Host], contextlib.AbstractContextManager[object]]


def run(config: Config, stop: threading.Event, observe: Observer, say: Say = lambda _: None) -> Summary | None:
    """Run the configured streams until their input ends or `stop` is set; the summary. `observe` is entered meanwhile.

    None when `stop` was set while engines were being loaded or inputs being opened: then nothing stays open.
    Raises the ClcrError of whatever cannot be opened (bundle and engines first, then inputs, then the endpoint) and of
    what ended a single stream or every one of several.
    """
    started_ns = time.monotonic_ns()
    streams = stream_options(config)
    check(streams)
    metrics = None if config.run.metrics is None else parse_metrics(config.run.metrics)
    tell: Say = (lambda _: None) if config.run.quiet else say
    engines = open_engines(engine_options(config), stop, tell)
    with contextlib.ExitStack() as stack:
        stack.callback(engines.close)
        if stop.is_set():
            return None
        sinks = () if metrics is None else (_serve_metrics(metrics, stack, say),)
        host = stack.enter_context(Host(engines, config.run.max_batch, started_ns, say, tell, sinks))
        try:
            host.begin(streams, Hooks(stopping=stop.is_set))
        except ClcrError:
            if stop.is_set():  # what was being opened was given up
                return None
            raise
        if engines.building is not None:
            tell("TensorRT's plans are being built, which takes minutes; ONNX Runtime runs the engines meanwhile")
            stack.enter_context(engines.building)
        for note in (note for options in streams for note in not_taken_over(options, engines.manifest)):
            tell(f"note: {note}")
        with observe(host):
            host.run(stop)
    if host.failure is not None:
        raise host.failure
    return Summary(tuple(host.summaries().values()), peak_rss_mb())


def _serve_metrics(options: MetricsOptions, stack: contextlib.ExitStack, say: Say) -> Sink:
    """Serve metrics until the stack is closed; the sink that they are made of. PublishError."""
    from clcr_stream.metrics.gauges import Gauges
    from clcr_stream.metrics.server import MetricsServer

    gauges = Gauges()
    server = stack.enter_context(MetricsServer(options, gauges))
    who = "metrics for programs of this machine"
    say(f"{who if options.loopback else f'{WARNING}metrics for EVERYBODY who reaches this address'}: {server.url}")
    return gauges


def check(streams: Sequence[StreamOptions]) -> None:
    """Raise what can be known before anything slow is loaded: of files that are read, endpoints, outputs, profiles."""
    for options in streams:
        check_spec(options.sources, KINDS)
        if options.publish is not None:
            check_options(options.publish)
        if options.output is not None:
            check_output(options.output)
        if options.profile is not None:
            check_profile(options.profile)
        if options.record is not None:
            check_record(options.record)


def not_taken_over(options: StreamOptions, manifest: Manifest) -> list[str]:
    """What recordings that are played were recorded with and this run does without, a line each."""
    gamma = manifest.gamma if options.gamma is None else options.gamma
    notes = []
    for flag, location in files_of(options.sources, KINDS):
        recording = open_media(location, flag)
        recorded = recording.number("gamma")
        settings = [] if recorded in (None, gamma) else [f"gamma {recorded:g} (here {gamma:g})"]
        if recording.about.get("baselines") and options.profile is None:
            settings.append("the baselines of a person (here none)")
        if recording.number("calibrate_s") not in (None, options.calibrate_s):
            settings.append(f"--calibrate {recording.number('calibrate_s'):g} (here not)")
        if settings:
            notes.append(f"{location}: recorded with {', '.join(settings)}; `clcr-stream replay` takes over all of it")
    return notes


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
    host.replace(stream_options(new))
