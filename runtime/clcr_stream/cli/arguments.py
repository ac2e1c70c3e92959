"""What the command lines share: their parser, their exit codes, and the configuration key of each flag."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from clcr_stream.errors import ConfigError

if TYPE_CHECKING:
    from clcr_stream.wire.keys import CurveClient

EXIT_CODES = """exit codes:
  0 ok; also after SIGINT, SIGTERM or a closed terminal (a session and `sub`)   1 anything not below
  2 configuration   3 source   4 bundle   5 backend   6 publish   7 output   8 a required input is not live"""

# flag destination -> key of the configuration
KEYS = {
    "camera": "sources.camera",
    "mic": "sources.mic",
    "input": "sources.input",
    "transcript": "sources.transcript",
    "pace": "sources.pace",
    "rotate": "sources.rotate",
    "flip": "sources.flip",
    "region": "sources.region",
    "start": "sources.start_s",
    "end": "sources.end_s",
    "loop": "sources.loop",
    "face_model": "sources.face_model",
    "bundle": "model.bundle",
    "backend": "model.backend",
    "gamma": "model.gamma",
    "bind": "publish.bind",
    "stream": "publish.stream",
    "format": "publish.format",
    "curve_secret": "publish.curve.secret_file",
    "curve_clients": "publish.curve.clients_folder",
    "output": "publish.output",
    "append": "publish.append",
    "preview": "publish.preview",
    "events": "publish.events",
    "record": "record.file",
    "record_media": "record.media",
    "record_rotate": "record.rotate",
    "calibrate": "person.calibrate_s",
    "profile": "person.profile",
    "duration": "run.duration_s",
    "settle_ms": "run.settle_ms",
    "quiet": "run.quiet",
    "metrics": "run.metrics",
    "log_format": "run.log_format",
    "require": "run.require",
    "require_s": "run.require_s",
    "require_action": "run.require_action",
}

# Of the commands that watch clips from beginning to end.
CLIP_FLAGS = ("transcript", "bundle", "backend", "gamma", "rotate", "flip", "region", "start", "end", "face_model")


class Parser(argparse.ArgumentParser):
    """Reports a bad flag like every other error: one line, exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """ConfigError with where to read more."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def check_seconds(flag: str, value: float | None) -> None:
    """ConfigError for a time that is not a number above 0."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{flag} {value:g}: must be a number of seconds above 0")


def add_model(flags: Any) -> None:
    """What is asked, and what runs it."""
    flags.add_argument("--bundle", metavar="DIR", help="engine bundle (default: the one that is shipped)")
    flags.add_argument("--backend", metavar="NAME", help="auto (default), onnxruntime, tensorrt, null")
    flags.add_argument("--gamma", type=float, help="scale of the exchange budget, 0..4 (default: the bundle's)")


def add_framing(flags: Any) -> None:
    """What is seen of a picture, and which part of a recording."""
    flags.add_argument("--rotate", type=int, choices=(0, 90, 180, 270), help="turn pictures so many degrees clockwise")
    flags.add_argument("--flip", choices=("h", "v", "hv"), help="h: left and right change sides, v: above and below")
    flags.add_argument(
        "--region", metavar="X,Y,W,H", help="look for a face there only; shares 0..1 of the turned picture"
    )
    flags.add_argument("--start", type=float, metavar="SECONDS", help="begin there in a recording")
    flags.add_argument("--end", type=float, metavar="SECONDS", help="and end there, both from its beginning")
    flags.add_argument(
        "--face-model",
        metavar="FILE.onnx",
        help="find faces with YuNet, whose file this is (default: OpenCV's cascade)",
    )


def add_clips(flags: argparse.ArgumentParser, title: str) -> None:
    """How clips are watched from beginning to end: CLIP_FLAGS."""
    group = flags.add_argument_group(title)
    group.add_argument("--transcript", metavar="WHICH", help="auto (default), none, or the words of one clip: talk.srt")
    add_framing(group)
    add_model(group)


def clip_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """CLIP_FLAGS by the keys of the configuration."""
    return {KEYS[name]: getattr(flags, name) for name in CLIP_FLAGS}


def add_curve(flags: argparse.ArgumentParser) -> None:
    """The keys of a reader."""
    flags.add_argument("--curve-secret", metavar="NAME|FILE", help="our key, for an endpoint with CURVE")
    flags.add_argument("--curve-server", metavar="NAME|FILE|KEY", help="the publisher's public key")


def add_reading(flags: argparse.ArgumentParser, more: str = "") -> None:
    """Which streams a command reads, and its keys."""
    flags.add_argument(
        "endpoints",
        nargs="*",
        metavar="ENDPOINT",
        help="a stream's NAME, ipc:///PATH, tcp://ADDRESS:PORT or NAME=ENDPOINT (default: your running sessions, as "
        f"they come){more}",
    )
    add_curve(flags)


def curve_of(flags: argparse.Namespace) -> CurveClient | None:
    """The reader's keys, None when there are none. ConfigError when one is missing."""
    from clcr_stream.wire.keys import CurveClient

    if (flags.curve_secret is None) != (flags.curve_server is None):
        raise ConfigError("--curve-secret and --curve-server go together; make our key with `clcr-stream keys new me`")
    return None if flags.curve_secret is None else CurveClient(flags.curve_secret, flags.curve_server)
