"""The whole terminal as a screen: drawn line by line where something has changed, and keys as they are pressed.

rich says which colours the terminal has, and that it wants none (NO_COLOR).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from clcr_stream.cli.cells import Line

MIN_COLUMNS, MIN_ROWS = 20, 4
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"  # the alternate screen, without a cursor
_LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
_KEYS = {
    b"\x1b[A": "left",
    b"\x1b[B": "right",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "left",
    b"\x1bOB": "right",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[Z": "left",
    b"\t": "right",
}


class Screen:
    """Standard output and the keyboard as a screen; a context manager that leaves the terminal as it was.

    Ctrl-Z gives the terminal back until the process goes on. To be entered in the main thread.
    """

    def __init__(self) -> None:
        self._paint = painter()
        self._before: list[Line] = []
        self._anew = True  # set by handlers of signals, which may come in the middle of a drawing
        self._settings: list[object] | None = None
        self._handlers: dict[int, object] = {}
        self.blocks = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows now."""
        found = shutil.get_terminal_size()
        return max(MIN_COLUMNS, found.columns), max(MIN_ROWS, found.lines)

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines from the top; only those that differ from the last call's are written."""
        if self._anew or len(lines) != len(self._before):
            self._anew, self._before = False, []
            self._write("\x1b[2J")
        parts = []
        for row, line in enumerate(lines):
            if row >= len(self._before) or self._before[row] != line:
                text = "".join(self._paint(text, style) for text, style in line)
                parts.append(f"\x1b[{row + 1};1H{text}\x1b[K")
        self._before = [list(line) for line in lines]
        if parts:
            self._write("".join(parts))

    def forget(self) -> None:
        """Draw everything anew next time, as after the terminal's size has changed."""
        self._anew = True

    def keys(self, timeout_s: float) -> list[str]:
        """The keys that come within `timeout_s`: a character, or left and right for arrows and Tab."""
        if self._settings is None:
            select.select([], [], [], timeout_s)
            return []
        try:
            ready = select.select([sys.stdin.fileno()], [], [], timeout_s)[0]
            data = os.read(sys.stdin.fileno(), 256) if ready else b""
        except (InterruptedError, BlockingIOError):
            return []
        if ready and not data:  # the terminal has gone
            self._settings = None
        return keys_in(data)

    def __enter__(self) -> Screen:
        if sys.stdin is not None and sys.stdin.isatty():
            self._settings = termios.tcgetattr(sys.stdin.fileno())
        self._take()
        for number, handler in ((signal.SIGTSTP, self._stopped), (signal.SIGCONT, self._continued)):
            self._handlers[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        with contextlib.suppress(OSError, ValueError, termios.error):
            self._give_back()

    def _take(self) -> None:
        if self._settings is not None:
            tty.setcbreak(sys.stdin.fileno())
        self._anew = True
        self._write(_ENTER)

    def _give_back(self) -> None:
        if self._settings is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._settings)  # type: ignore[arg-type]
        self._write(_LEAVE)

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTSTP, self._stopped)
        self._take()

    def _write(self, text: str) -> None:
        """Past Python's buffer, which a signal's handler may not enter while it is being written."""
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]


def keys_in(data: bytes) -> list[str]:
    """The keys in what a terminal sent; unknown sequences are left out."""
    found = []
    while data:
        known = next((name for name in _KEYS if data.startswith(name)), None)
        if known is not None:
            found.append(_KEYS[known])
            data = data[len(known) :]
        elif data[:1] == b"\x1b":  # another key's sequence, up to the letter that ends it
            end = next((at for at, byte in enumerate(data[2:], 2) if 0x40 <= byte <= 0x7E), len(data) - 1)
            data = data[end + 1 :]
        else:
            found.append(chr(data[0]))
            data = data[1:]
    return found


def painter() -> Callable[[str, str], str]:
    """A function from text and a style in rich's words to what the terminal is sent."""
    from rich.color import ColorSystem
    from rich.console import Console
    from rich.style import Style

    console = Console()
    systems = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
    system = systems.get(console.color_system or "")
    styles: dict[str, Style] = {}

    def paint(text: str, name: str) -> str:
        if not name:
            return text
        style = styles.get(name)
        if style is None:
            style = Style.parse(name)
            styles[name] = style = style.without_color if console.no_color else style
        return style.render(text, color_system=system)

    return paint


@contextlib.contextmanager
def size_changes(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` when the terminal's size changes."""
    before = signal.signal(signal.SIGWINCH, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
