"""The command line: `clcr-stream` runs a session; `build`, `devices`, `doctor` and `sub` help around it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clcr_stream import __version__
from clcr_stream.errors import ClcrError, ConfigError, PublishError

if TYPE_CHECKING:
    from clcr_stream.config import Config
    from clcr_stream.streams.host import Host
    from clcr_stream.wire.client import Received

EXIT_CODES = """exit codes:
  0 ok (also after SIGINT or SIGTERM)   1 anything not below
  2 configuration   3 source   4 bundle   5 backend   6 publish"""

RUN_EXAMPLES = """examples:
  clcr-stream                                        the first camera and the default microphone
  clcr-stream --input talk.mp4 --transcript talk.srt --pace max --output talk.jsonl
  clcr-stream --camera rtsp://host/stream --mic none --bind tcp://127.0.0.1:5556
  clcr-stream --camera test:// --mic test:// --duration 10
  clcr-stream build | devices | doctor | sub         see `clcr-stream COMMAND --help`
"""

BUILD_EXAMPLES = """examples:
  clcr-stream build                                  the plans of the shipped bundle, for one stream
  clcr-stream build --bundle engines/mine --streams 8 --builderOptimizationLevel=5
  clcr-stream build --config cameras.yaml            what a run with that file needs
"""

SUB_EXAMPLES = """examples:
  clcr-stream sub                                    predictions of the user's own stream
  clcr-stream sub tcp://127.0.0.1:5556 --topics prediction,status --json
  clcr-stream sub --count 1 --timeout 5 --json       one prediction, for a script
"""

_ENDING = (signal.SIGINT, signal.SIGTERM)

# flag destination -> key of the configuration
_KEYS = {
    "camera": "sources.camera",
    "mic": "sources.mic",
    "input": "sources.input",
    "transcript": "sources.transcript",
    "pace": "sources.pace",
    "bundle": "model.bundle",
    "backend": "model.backend",
    "gamma": "model.gamma",
    "bind": "publish.bind",
    "stream": "publish.stream",
    "format": "publish.format",
    "curve_secret": "publish.curve.secret_file",
    "curve_clients": "publish.curve.clients_folder",
    "output": "publish.output",
    "duration": "run.duration_s",
    "settle_ms": "run.settle_ms",
    "quiet": "run.quiet",
}


class _Parser(argparse.ArgumentParser):
    """Reports a bad flag like every other error: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code. Every ClcrError becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"build": _build, "devices": _devices, "doctor": _doctor, "sub": _subscribe}
    command = commands.get(arguments[0]) if arguments else None
    try:
        return command(arguments[1:]) if command is not None else _run(arguments)
    except ClcrError as error:
        sys.stderr.write(f"clcr-stream: error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except BrokenPipeError:
        # The reader of our stdout has gone, as in `clcr-stream sub | head`; the last flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def run_parser() -> argparse.ArgumentParser:
    """The flags of a plain run; those not given stay None, so that the configuration file decides."""
    parser = _Parser(
        prog="clcr-stream",
        description="Watch a person by camera, microphone and transcript; publish a prediction every hop over ZeroMQ.",
        epilog=f"{RUN_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"clcr-stream {__version__}")
    sources = parser.add_argument_group("sources")
    sources.add_argument(
        "--camera",
        metavar="WHICH",
        help="0 (default), by-id:NAME, v4l2:/dev/video0, a file, rtsp:// or http:// URL, test://, none",
    )
    sources.add_argument("--mic", metavar="WHICH", help="default, name:TEXT, an index, a file, test://, none")
    sources.add_argument(
        "--input", metavar="FILE|URL", help="video and sound from one file or URL, instead of --camera and --mic"
    )
    sources.add_argument(
        "--transcript",
        metavar="WHICH",
        help="FILE.srt, FILE.vtt, FILE.jsonl, - (stdin), zmq://host:port[/topic], none (default)",
    )
    sources.add_argument(
        "--pace", choices=("real", "max"), help="play files at their own pace (default) or as fast as possible"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--bundle", metavar="DIR", help="engine bundle (default: the one that is shipped)")
    model.add_argument("--backend", metavar="NAME", help="auto (default), onnxruntime, tensorrt, null")
    model.add_argument("--gamma", type=float, help="scale of the exchange budget, 0..4 (default: the bundle's)")
    publish = parser.add_argument_group("publishing")
    publish.add_argument(
        "--bind", metavar="ENDPOINT", help="ipc:///PATH or tcp://ADDRESS:PORT (default: an ipc socket of the user)"
    )
    publish.add_argument(
        "--curve-secret", metavar="FILE", help="our server.key_secret: encrypt, as an address off loopback needs"
    )
    publish.add_argument("--curve-clients", metavar="DIR", help="folder of the .key files of those who may read")
    publish.add_argument("--stream", metavar="NAME", help="name in the topics clcr/NAME/... (default: default)")
    publish.add_argument("--format", choices=("json", "msgpack"), help="payload on the wire (default: json)")
    publish.add_argument("--output", metavar="FILE.jsonl|-", help="write the same payloads as JSON lines")
    session = parser.add_argument_group("session")
    session.add_argument("--config", metavar="FILE", help="YAML like configs/default.yaml; a flag beats it")
    session.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so much input")
    session.add_argument("--settle-ms", type=float, metavar="MS", help="wait after a window's end (default: 60)")
    session.add_argument("--quiet", action="store_true", default=None, help="no status line and no summary on stderr")
    session.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    return parser


def _run(arguments: Sequence[str]) -> int:
    parser = run_parser()
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"unknown command {arguments[0]!r}; commands are build, devices, doctor, sub")
    given = parser.parse_args(arguments)
    from clcr_stream.config import load_config, stream_entries

    config = load_config(given.config, {key: getattr(given, name) for name, key in _KEYS.items()})
    if given.json and any(stream.output == "-" for stream in stream_entries(config)):
        raise ConfigError("--json and --output - both write to stdout; give --output FILE")
    from clcr_stream import run
    from clcr_stream.cli import terminal

    stop = threading.Event()
    quiet = config.run.quiet

    def read_again() -> Config:
        return load_config(given.config, {key: getattr(given, name) for name, key in _KEYS.items()})

    @contextlib.contextmanager
    def observe(host: Host) -> Iterator[None]:
        def end() -> None:
            stop.set()
            host.wake()

        with contextlib.ExitStack() as stack:
            stack.enter_context(_on_signals(_ENDING, end, once=True))
            if given.config is not None:
                again = partial(host.ask, partial(run.reload, host, config, read_again))
                stack.enter_context(_on_signals((signal.SIGHUP,), again))
            if not quiet:
                for stream in host.streams():
                    _say(f"publishing clcr/{stream.options.name}/... on {stream.endpoint}")
                _say(f"notice: {' '.join(host.manifest.intended_use.notice.split())}")
                notices = terminal.Notices()
                stack.enter_context(
                    terminal.StatusLine(
                        lambda: terminal.status_line(host.views()),
                        sys.stderr,
                        notices=lambda: notices.new(host.views()),
                    )
                )
            yield

    with _on_signals(_ENDING, stop.set, once=True):
        result = run.run(config, stop, observe, say=_say)
    several = result.get("streams", {config.publish.stream: result})
    for name, stream in several.items():
        if stream["output_failure"] is not None:
            _say(f"--output of stream {name} stopped: {stream['output_failure']}")
    if given.json:
        _print(result)
    elif not quiet:
        for name, stream in several.items():
            _say(f"{name}: {terminal.summary_text(stream)}" if len(several) > 1 else terminal.summary_text(stream))
    return 0


def _devices(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="clcr-stream devices",
        description="List the cameras and microphones of this machine.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    from clcr_stream.cli.doctor import list_cameras, list_microphones

    problem = None
    microphones: list[dict[str, str | int]] = []
    try:
        microphones = list_microphones()
    except ClcrError as error:
        problem = str(error)
    cameras = list_cameras()
    if given.json:
        _print({"cameras": cameras, "microphones": microphones, "microphone_problem": problem})
        return 0
    for camera in cameras:
        print(f"camera      {camera['device']}  {camera['name']}")
    for microphone in microphones:
        print(f"microphone  {microphone['index']}  {microphone['name']}  {microphone['rate_hz']} Hz")
    if not cameras:
        print("camera      none found; use --camera test:// or --input FILE")
    if not microphones:
        print(f"microphone  none found{'; ' + problem if problem else ''}")
    return 0


def _doctor(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="clcr-stream doctor",
        description="Check the installation, the bundle, the backend, devices and the endpoint.",
        epilog=f"exit code 0 when nothing that is required fails, 1 otherwise\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    shared = ("bundle", "backend", "bind", "stream", "curve_secret", "curve_clients")
    for name in shared:
        parser.add_argument(f"--{name.replace('_', '-')}", help="as in a plain run")
    parser.add_argument("--config", metavar="FILE", help="as in a plain run")
    given = parser.parse_args(arguments)
    from clcr_stream.cli.doctor import as_plain, examine, healthy
    from clcr_stream.config import load_config

    config = load_config(given.config, {_KEYS[name]: getattr(given, name) for name in shared})
    checks = examine(config)
    if given.json:
        _print(as_plain(checks))
    else:
        for check in checks:
            print(check.line())
    return 0 if healthy(checks) else 1


def _build(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="clcr-stream build",
        description="Build the TensorRT plans of a bundle on this machine, or take them from the user's cache.",
        epilog=f"{BUILD_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", metavar="DIR", help="engine bundle (default: the one that is shipped)")
    parser.add_argument("--streams", type=int, metavar="N", help="most streams at once (default: what a run would use)")
    parser.add_argument("--device", type=int, metavar="N", help="which GPU (default: 0)")
    parser.add_argument("--config", metavar="FILE", help="as in a plain run")
    parser.add_argument("--rebuild", action="store_true", help="take no plan from the cache")
    parser.add_argument("--json", action="store_true", help="print each step and each plan as one line of JSON")
    options = parser.add_argument_group("builder options, as trtexec names them")
    from clcr_stream.config import MAX_STREAMS, BuilderConfig, load_config, seats_of

    for name in BuilderConfig.__struct_fields__:
        options.add_argument(f"--{name}", metavar="VALUE")
    given = parser.parse_args(arguments)
    flags = {f"tensorrt.builder.{name}": getattr(given, name) for name in BuilderConfig.__struct_fields__}
    config = load_config(given.config, flags | {"model.bundle": given.bundle, "tensorrt.device": given.device})
    streams = seats_of(config) if given.streams is None else given.streams
    if not 1 <= streams <= MAX_STREAMS:
        raise ConfigError(f"--streams {streams}: allowed are 1..{MAX_STREAMS}")
    from clcr_stream.cli.build import Report, build

    build(config, streams, given.rebuild, Report(sys.stdout, sys.stderr, given.json))
    return 0


def _subscribe(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="clcr-stream sub",
        description="Print a stream's messages as they arrive, the newest of each topic.",
        epilog=f"{SUB_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "endpoint", nargs="?", help="ipc:///PATH or tcp://ADDRESS:PORT (default: the user's own stream)"
    )
    parser.add_argument("--stream", default="default", help="name of the stream (default: default)")
    parser.add_argument(
        "--topics", default="prediction", help="of session,prediction,transcript,status (default: prediction)"
    )
    parser.add_argument("--count", type=int, help="end after so many messages")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="exit 6 when nothing comes for so long")
    parser.add_argument("--json", action="store_true", help="print each payload as one line of JSON")
    parser.add_argument("--curve-secret", metavar="FILE", help="our .key_secret, for an endpoint with CURVE")
    parser.add_argument("--curve-server", metavar="FILE", help="the publisher's server.key")
    given = parser.parse_args(arguments)
    if (given.curve_secret is None) != (given.curve_server is None):
        raise ConfigError("--curve-secret FILE and --curve-server FILE go together; docs/wire.md makes both")
    from clcr_stream.wire.client import CurveClient, Subscriber
    from clcr_stream.wire.messages import KINDS, encode

    topics = [kind for kind in KINDS if kind in given.topics.split(",")]
    if len(topics) != len(given.topics.split(",")):
        raise ConfigError(f"--topics {given.topics}: allowed are {', '.join(KINDS)}, separated by commas")
    stop = threading.Event()
    left = given.count
    curve = None if given.curve_secret is None else CurveClient(Path(given.curve_secret), Path(given.curve_server))
    with (
        _on_signals(_ENDING, stop.set, once=True),
        Subscriber(given.endpoint, given.stream, topics, curve=curve) as subscriber,
    ):
        while not stop.is_set() and left != 0:
            got = subscriber.receive(timeout_ms=200)
            if got is not None:
                left = None if left is None else left - 1
                print(encode(got.message).decode() if given.json else _message_line(got), flush=True)
            elif given.timeout is not None and subscriber.silence_ms > 1000 * given.timeout:
                where = " and ".join(subscriber.endpoints)
                raise PublishError(f"nothing on {where} for {given.timeout:g} s; is `clcr-stream` running there?")
    return 0


def _message_line(got: Received) -> str:
    """A message for a person."""
    from clcr_stream.wire.messages import Prediction, Session, Transcript

    message = got.message
    age = "" if got.age_ms is None else f"  {got.age_ms:.0f} ms old"
    missed = f"  {got.missed} missed" if got.missed else ""
    match message:
        case Prediction():
            known = message.label is not None and message.confidence is not None
            text = f"{message.label} {message.confidence:.2f}" if known else f"{message.value}"
            text += f"  {','.join(message.degraded)}" if message.degraded else ""
        case Transcript():
            text = repr(message.text)
        case Session():
            text = f"session {message.session}, bundle {message.bundle_name}, {message.backend}"
        case _:
            text = f"{message.state}, published {message.ticks.published} of {message.ticks.due} ticks"
    return f"{message.seq:>8}  {text}{age}{missed}"


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False), flush=True)


def _say(text: str) -> None:
    """A line for the person at the terminal; a closed one must not end the session."""
    with contextlib.suppress(OSError, ValueError):
        # On a terminal the status line is in the way.
        sys.stderr.write(f"\r\x1b[K{text}\n" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _on_signals(numbers: Sequence[signal.Signals], act: Callable[[], object], once: bool = False) -> Iterator[None]:
    """Call `act`, which must take no lock, when a signal comes; with `once` the second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: object) -> None:
        if once:
            signal.signal(number, signal.SIG_DFL)
        act()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
