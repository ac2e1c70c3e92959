"""A plain `clcr-stream`: one session, or several, with what a person at a terminal sees and can do meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TextIO, cast

from clcr_stream import __version__, run
from clcr_stream.cli import signals, terminal
from clcr_stream.cli.arguments import EXIT_CODES, KEYS, Parser, add_framing, add_model
from clcr_stream.cli.commands import COMMANDS
from clcr_stream.cli.log_lines import JsonLog
from clcr_stream.cli.standard_streams import check_stdout, put_json, say
from clcr_stream.config import load_config, stream_entries
from clcr_stream.config_tree import Config
from clcr_stream.errors import WARNING, ConfigError, OutputError
from clcr_stream.streams.host import Host
from clcr_stream.streams.reports import Summary

EXAMPLES = """examples:
  clcr-stream                                        the first camera and the default microphone
  clcr-stream --input talk.mp4 --transcript talk.srt --pace max --output talk.jsonl
  clcr-stream --camera rtsp://host/stream --mic none --bind tcp://127.0.0.1:5556
  clcr-stream --camera test:// --mic test:// --duration 10
  clcr-stream top | view                             watch running sessions in the terminal, in a browser
  clcr-stream --record talk.mcap                     keep predictions and words, for `replay`, `report` and Foxglove
  clcr-stream ps | stop                              your running sessions; end one
  clcr-stream build | completion | devices | doctor | export | keys | models | predict | replay | report | sub
                                                     see `clcr-stream COMMAND --help`
"""

# How long a thread may keep Python from the others; the loop waits for it after each engine. With Python's own 5 ms
# a tick of test:// took 10.2 ms, p99 26, with this 8.7 and 15 (docs/LOG.md).
SWITCH_INTERVAL_S = 0.0005


class Ending:
    """Ends a run, from a signal handler or any thread: it takes no lock that the loop's thread could hold."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.host: Host | None = None  # once there is one to wake

    def __call__(self) -> None:
        self.stop.set()
        if self.host is not None:
            self.host.wake()


def run_parser() -> argparse.ArgumentParser:
    """The flags of a plain run; those not given stay None, so that the configuration file decides."""
    flags = Parser(
        prog="clcr-stream",
        description="Watch a person by camera, microphone and transcript; publish a prediction every hop over ZeroMQ.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("--version", action="version", version=f"clcr-stream {__version__}")
    sources = flags.add_argument_group("sources")
    sources.add_argument(
        "--camera",
        metavar="WHICH",
        help="0 (default), by-id:NAME, v4l2:/dev/video0, a file, rtsp:// or http:// URL, test://, none",
    )
    sources.add_argument("--mic", metavar="WHICH", help="default, name:TEXT, an index, a file, test://, none")
    sources.add_argument(
        "--input", metavar="FILE|URL|-", help="video and sound of one file, URL or pipe, instead of --camera and --mic"
    )
    sources.add_argument(
        "--transcript",
        metavar="WHICH",
        help="auto (default): speech recognition where it is installed; asr:whisper[=MODEL], asr:sherpa=DIR, FILE.srt, "
        "FILE.vtt, FILE.jsonl, - (stdin), zmq://host:port[/topic], none",
    )
    sources.add_argument(
        "--pace", choices=("real", "max"), help="play files at their own pace (default) or as fast as possible"
    )
    add_framing(sources)
    sources.add_argument("--loop", action="store_true", default=None, help="play a recording again and again")
    model = flags.add_argument_group("model")
    add_model(model)
    _add_publish(flags)
    _add_record(flags)
    _add_person(flags)
    _add_session(flags)
    return flags


def _add_publish(flags: argparse.ArgumentParser) -> None:
    publish = flags.add_argument_group("publishing")
    publish.add_argument(
        "--bind", metavar="ENDPOINT", help="ipc:///PATH or tcp://ADDRESS:PORT (default: an ipc socket of the user)"
    )
    publish.add_argument(
        "--curve-secret",
        metavar="NAME|FILE",
        help="our key, of `clcr-stream keys new NAME`: encrypt, as an address off loopback needs",
    )
    publish.add_argument(
        "--curve-clients",
        metavar="DIR",
        help="folder of the .key files of those who may read (default: those of `clcr-stream keys allow`)",
    )
    publish.add_argument("--stream", metavar="NAME", help="name in the topics clcr/NAME/... (default: default)")
    publish.add_argument("--format", choices=("json", "msgpack"), help="payload on the wire (default: json)")
    publish.add_argument(
        "--output",
        metavar="FILE.jsonl|-",
        help="write the same payloads as JSON lines to a new file or standard output",
    )
    publish.add_argument(
        "--append", action="store_true", default=None, help="let --output add to a file that holds something already"
    )
    publish.add_argument(
        "--events",
        action="store_true",
        default=None,
        help="also send an event when the expression has changed, smoothed: clcr/NAME/event and --output",
    )
    publish.add_argument(
        "--preview",
        action="store_true",
        default=None,
        help="let `clcr-stream view` show the face crop; without it no pixel leaves the process",
    )


def _add_session(flags: argparse.ArgumentParser) -> None:
    session = flags.add_argument_group("session")
    session.add_argument("--config", metavar="FILE", help="YAML like configs/default.yaml; a flag beats it")
    session.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so much input")
    session.add_argument("--settle-ms", type=float, metavar="MS", help="wait after a window's end (default: 60)")
    _add_required(session)
    session.add_argument("--quiet", action="store_true", default=None, help="no status line and no summary on stderr")
    session.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    session.add_argument(
        "--metrics", metavar="[ADDRESS:]PORT", help="serve /metrics for Prometheus, /livez and /readyz, on 127.0.0.1"
    )
    session.add_argument(
        "--log-format", choices=("text", "json"), help="of standard error; json: objects (default: text)"
    )


def _add_required(session: Any) -> None:
    session.add_argument(
        "--require",
        metavar="vision,acoustic",
        help="end with exit code 8 when one of these is not live for --require-s",
    )
    session.add_argument("--require-s", type=float, metavar="SECONDS", help="(default: 10)")
    session.add_argument("--require-action", choices=("end", "alert"), help="alert: go on, and say so in `degraded`")


def _add_record(flags: argparse.ArgumentParser) -> None:
    record = flags.add_argument_group("recording", "of what happens, for replay, reports and Foxglove; docs/guide.md")
    record.add_argument("--record", metavar="FILE.mcap", help="predictions, words, status and session, in a new file")
    record.add_argument(
        "--record-media",
        action="store_true",
        default=None,
        help="with --record: also the faces and the sound that the model gets, of whoever is there",
    )
    record.add_argument(
        "--record-rotate", metavar="LIMIT", help="begin a new part at a size or time: 1GiB, 10min (default: 1GiB,6h)"
    )


def _add_person(flags: argparse.ArgumentParser) -> None:
    person = flags.add_argument_group("person", "for a bundle that keeps baselines of a person; docs/guide.md")
    person.add_argument(
        "--calibrate",
        type=float,
        metavar="SECONDS",
        help="look and speak neutrally for so long: it becomes the baseline",
    )
    person.add_argument(
        "--profile", metavar="FILE", help="keep the baselines in this file, numbers only, and begin with them next time"
    )


def command(arguments: Sequence[str]) -> int:
    """Run until the input ends or a signal comes; OutputError's exit code when an --output is not complete."""
    parser = run_parser()
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"unknown command {arguments[0]!r}; commands are {', '.join(COMMANDS)}")
    flags = parser.parse_args(arguments)
    read = partial(_read_config, flags)
    config = read()
    if config.run.log_format == "json":
        sys.stderr = cast(TextIO, JsonLog(sys.stderr))
    _check_stdout(flags, config)
    ending = Ending()
    observe = partial(_observed, ending, config, read if flags.config is not None else None)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with signals.handled(signals.ENDING, ending, once=True), _hangup_while_loading(ending, flags.config is not None):
        result = run.run(config, ending.stop, observe, say=say)
    return 0 if result is None else _report(result, flags, config)


def _hangup_while_loading(ending: Ending, reloadable: bool) -> contextlib.AbstractContextManager[None]:
    """Until the host runs, a SIGHUP ends the run; a service, which has just read its configuration, need not reload."""
    if signals.hangup_ignored():
        return contextlib.nullcontext()
    service = reloadable and not signals.has_terminal()
    return signals.handled((signal.SIGHUP,), (lambda: None) if service else ending)


def _read_config(flags: argparse.Namespace) -> Config:
    return load_config(flags.config, {key: getattr(flags, name) for name, key in KEYS.items()})


def _check_stdout(flags: argparse.Namespace, config: Config) -> None:
    """Before anything is opened: whether what goes to standard output has it to itself and can get there."""
    lines = any(stream.output == "-" for stream in stream_entries(config))
    if flags.json and lines:
        raise ConfigError("--json and --output - both write to stdout; give --output FILE")
    if flags.json or lines:
        check_stdout("--json" if flags.json else "--output -")


@contextlib.contextmanager
def _observed(ending: Ending, config: Config, read: Any, host: Host) -> Iterator[None]:
    """While the host runs: signals reach it, and a person sees how it does."""
    ending.host = host
    reload = None if read is None else partial(host.ask, partial(run.reload, host, config, read))
    try:
        with signals.hangup_handled(ending, reload), _shown(host, config.run.quiet):
            yield
    finally:
        ending.host = None


def _say_media(host: Host) -> None:
    """Faces and sound are never recorded in silence, not even with --quiet."""
    for stream in host.streams():
        record = stream.options.record
        if record is not None and record.media:
            say(
                f"{WARNING}RECORDING faces, sound and words of whoever is there to {record.shown}; tell them. "
                "Without --record-media only predictions and words are kept."
            )


@contextlib.contextmanager
def _shown(host: Host, quiet: bool) -> Iterator[None]:
    _say_media(host)
    if quiet:
        yield
        return
    for stream in host.streams():
        say(f"publishing clcr/{stream.options.name}/... on {stream.endpoint}")
    say(f"notice: {' '.join(host.manifest.intended_use.notice.split())}")
    notices = terminal.Notices()
    with terminal.StatusLine(
        lambda columns: terminal.status_line(host.views(), columns),
        sys.stderr,
        notices=lambda: notices.new(host.views()),
    ):
        yield


def _report(result: Summary, flags: argparse.Namespace, config: Config) -> int:
    """Print the summary; the exit code."""
    if flags.json:
        put_json(result.as_json(listed=bool(config.streams)))
    elif not config.run.quiet:
        for stream in result.streams:
            text = terminal.summary_text(stream)
            for line in (f"{stream.name}: {text}" if len(result.streams) > 1 else text).splitlines():
                say(line)
    # A reader of a pipe that has gone, as `| head` does, wanted no more.
    failed = [one for one in result.streams if one.output_failure not in (None, os.strerror(errno.EPIPE))]
    failed += [one for one in result.streams if one.record is not None and one.record.failure is not None]
    return OutputError.exit_code if failed else 0
