"""Standard output for results, standard error for a person; either may be closed, full or gone."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from clcr_stream.cli.cells import printable
from clcr_stream.errors import OutputError

CLEAR_LINE = "\r\x1b[K"


def open_closed() -> None:
    """Put /dev/null where one of the three is closed: else the next file to be opened would get its number.

    Python's name for it stays None for standard output, so that a command can say that it has nowhere to write.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)


def keep_stderr() -> None:
    """Give our own lines a descriptor of their own: number 2 goes to /dev/null while a sound library looks around."""
    if sys.stderr.fileno() == 2:
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = os.fdopen(os.dup(2), "w", encoding=encoding, errors=errors, buffering=1)


def redrawable(out: TextIO) -> bool:
    """True for a terminal on which a line can be written again in place."""
    return out.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def say(text: str) -> None:
    """A line for the person at the terminal; a closed one must not end the session."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(_line(text))
        sys.stderr.flush()


def say_at_once(text: str) -> None:
    """`say` for a signal's handler, which may have come in the middle of another line: past the buffer and its lock."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), _line(text).encode("utf-8", "replace"))


def _line(text: str) -> str:
    """One line, whatever names are in it; on a terminal the status line is in the way."""
    return f"{CLEAR_LINE if redrawable(sys.stderr) else ''}{printable(text)}\n"


def check_stdout(why: str) -> None:
    """OutputError when standard output is closed; `why` is what needs it."""
    if sys.stdout is None:
        raise OutputError(f"standard output is closed, but {why} writes to it; give it a file or a pipe")


def put(text: str) -> None:
    """A line of a result on standard output. OutputError when it cannot be written, BrokenPipeError from `| head`."""
    check_stdout("the result")
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        raise OutputError(f"standard output cannot be written ({error.strerror}); is its disk full?") from error


def put_json(value: dict[str, Any]) -> None:
    """A result on standard output as one line of JSON."""
    put(json.dumps(value, allow_nan=False))


def forget_stdout() -> None:
    """Point standard output at nothing: what its buffer still holds would fail again at exit and change its code."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def flush_stdout(code: int) -> int:
    """At the end of the process: `code`, or that of OutputError when the last of the output cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
    except OSError as error:
        forget_stdout()
        say(f"clcr-stream: error: standard output cannot be written ({error.strerror}); is its disk full?")
        return code or OutputError.exit_code
    return code
