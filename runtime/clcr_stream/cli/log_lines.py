"""Standard error as JSON lines, for --log-format json: what a person would read, one object a line, not too many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TextIO

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import WARNING

MOST_PER_S = 20.0
_ERROR = "clcr-stream: error: "
_LEVELS = {_ERROR: "error", WARNING: "warning"}


class JsonLog:
    """A text stream whose lines become objects: at (UTC), monotonic_ns, level, message, and suppressed if any were.

    At most MOST_PER_S lines a second, with as many at once; an error is never left out. Lines are what a person would
    see: sources by name, with credentials taken out, and no words that were spoken.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, out: TextIO, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._out = out
        self._now_ns = now_ns
        self._left = ""
        self._allowed = MOST_PER_S
        self._counted_ns = now_ns()
        self._suppressed = 0

    def write(self, text: str) -> int:
        """Take text; each line that is whole is written."""
        *lines, self._left = (self._left + text).split("\n")
        for line in lines:
            if line.strip():
                self._line(line)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._out.flush()

    def isatty(self) -> bool:
        """Never: a line is not redrawn."""
        return False

    def fileno(self) -> int:
        """That of the stream below."""
        return self._out.fileno()

    def _line(self, line: str) -> None:
        now_ns = self._now_ns()
        self._allowed = min(MOST_PER_S, self._allowed + MOST_PER_S * (now_ns - self._counted_ns) / NS_PER_S)
        self._counted_ns = now_ns
        begin = next((begin for begin in _LEVELS if line.startswith(begin)), "")
        if self._allowed < 1 and begin != _ERROR:
            self._suppressed += 1
            return
        self._allowed -= 1
        entry: dict[str, object] = {
            "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "monotonic_ns": now_ns,
            "level": _LEVELS.get(begin, "info"),
            "message": line.removeprefix(begin),
        }
        if self._suppressed:
            entry["suppressed"], self._suppressed = self._suppressed, 0
        self._out.write(f"{json.dumps(entry)}\n")
