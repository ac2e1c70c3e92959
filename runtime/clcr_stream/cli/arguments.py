"""What the command lines share: their parser, their exit codes, and the configuration key of each flag."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from clcr_stream.errors import ConfigError

EXIT_CODES = """exit codes:
  0 ok; also after SIGINT, SIGTERM or a closed terminal (a session and `sub`)   1 anything not below
  2 configuration   3 source   4 bundle   5 backend   6 publish   7 output"""

# flag destination -> key of the configuration
KEYS = {
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
    "append": "publish.append",
    "record": "record.file",
    "record_media": "record.media",
    "record_rotate": "record.rotate",
    "calibrate": "person.calibrate_s",
    "profile": "person.profile",
    "duration": "run.duration_s",
    "settle_ms": "run.settle_ms",
    "quiet": "run.quiet",
}


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
