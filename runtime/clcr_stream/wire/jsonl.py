"""Messages as JSON lines in a file or on standard output."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from clcr_stream.errors import ConfigError
from clcr_stream.wire import messages


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
