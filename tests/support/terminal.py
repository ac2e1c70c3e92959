"""A program in a real pseudo-terminal, and what stands on its screen (pyte)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyte

PATIENCE_S = 60.0


class Terminal:
    """Runs a command in a pseudo-terminal; a context manager that leaves no process behind."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.output = b""
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.before: list[Any] = termios.tcgetattr(self._ours)
        self._guard = threading.Lock()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def resize(self, columns: int, rows: int) -> None:
        """Another size, of which the program is told."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def lines(self) -> list[str]:
        """What stands on the screen."""
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines())

    def shows(self, wanted: Callable[[str], bool] | str, patience_s: float = PATIENCE_S) -> bool:
        """True once the screen shows the text, or what is wanted holds of it."""
        holds = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + patience_s
        while not holds(self.text()):
            if time.monotonic() > deadline or not self._read(0.2):
                return holds(self.text())
        return True

    def ends(self) -> int:
        """The program's exit code, once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        while self._read(0.1) and select.select([self._ours], [], [], 0)[0]:
            pass
        return self.process.wait(1)

    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._ours)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self, timeout_s: float) -> bool:
        """Take what comes; False when nothing will come any more."""
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self.output += data
        self._stream.feed(data)
        return bool(data)


def _take_terminal() -> None:
    """In the child: its standard input becomes its controlling terminal, so that keys can send signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
