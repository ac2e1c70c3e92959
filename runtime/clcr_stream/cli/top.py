"""`clcr-stream top`: streams on the whole terminal as they run, or as plain lines where it cannot be drawn on."""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.cli import signals
from clcr_stream.cli.arguments import EXIT_CODES, Parser, add_reading, curve_of
from clcr_stream.cli.files import check_added_to
from clcr_stream.cli.standard_streams import check_stdout, redrawable
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from clcr_stream.cli.cells import Line, Signs
    from clcr_stream.wire.client import Received
    from clcr_stream.wire.watched import Watched
    from clcr_stream.wire.watcher import Watcher

EXAMPLES = """examples:
  clcr-stream top                                    your running sessions
  clcr-stream top left right --marks moments.jsonl   two of them; m writes the moment into a file
  clcr-stream top tcp://127.0.0.1:5556
  clcr-stream --input talk.mp4 --output - | clcr-stream top -

keys:
  q quit   p pause   m mark this moment in the file of --marks   Tab, arrows choose a stream
"""
TURN_S = 0.2  # how often messages are looked for; a key ends the wait
DRAW_S = 0.4
PANEL_COLUMNS = 66  # side by side from twice as many columns on
SAID_S = 6.0


def parser() -> Parser:
    """The flags of `top`."""
    flags = Parser(
        prog="clcr-stream top",
        description="Show what running sessions see, hear and answer, on the whole terminal.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    add_reading(flags, "; - for the JSON lines of --output - on standard input")
    flags.add_argument("--marks", metavar="FILE", help="where the key m writes moments, as JSON lines (added to)")
    flags.add_argument("--plain", action="store_true", help="a plain line per second, for screen readers and logs")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Show until q, a signal or the end of standard input."""
    flags = parser().parse_args(arguments)
    check_stdout("top")
    if flags.marks is not None:
        check_added_to(flags.marks, "--marks")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without block characters
    if flags.endpoints == ["-"]:
        return _standard_input(flags.plain)
    from clcr_stream.wire.watcher import Watcher, place_of

    drawn = redrawable(sys.stdout) and not flags.plain
    if drawn and importlib.util.find_spec("rich") is None:
        raise ConfigError('top needs the package rich: pip install "clcr-stream[view]"; or give --plain')
    places = [place_of(text) for text in flags.endpoints]
    stop = threading.Event()
    with (
        signals.handled((*signals.ENDING, signal.SIGHUP), stop.set, once=True),
        Watcher(places, curve_of(flags)) as watcher,
    ):
        if drawn:
            Top(watcher, None if flags.marks is None else Path(flags.marks), stop).run()
        else:
            _print_plain(watcher, stop)
    return 0


def _standard_input(plain: bool) -> int:
    """Show standard input until it ends; Ctrl-C goes to the whole pipeline, and the session's last lines are shown."""
    from clcr_stream.cli.plain import shown

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for text in shown(sys.stdin.buffer, sys.stdout.isatty() and not plain):
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def _print_plain(watcher: Watcher, stop: threading.Event) -> None:
    """A line per second and stream, and what is waited for when that changes."""
    from clcr_stream.cli.plain import View

    views: dict[str, View] = {}
    waits: dict[str, str] = {}
    shown: list[str] = []

    def show(watched: Watched, received: Received) -> None:
        several = len(watcher.streams) > 1
        view = views.setdefault(watched.name, View(False, watched.name if several else ""))
        shown.append(view.show(received.message))

    while not stop.is_set():
        watcher.turn(time.monotonic_ns(), show)
        now_ns = time.monotonic_ns()
        found = {name: watched.waiting(now_ns) for name, watched in watcher.streams.items()} or {"": watcher.nothing()}
        for name, text in found.items():
            kind = text.rpartition("waiting")[2]  # without the seconds, which count
            if waits.get(name, "") != kind:
                waits[name] = kind
                shown.insert(0, f"{name}: {text or 'connected'}\n" if name else f"{text}\n")
        text = "".join(shown)
        shown.clear()
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
        stop.wait(TURN_S)


@dataclass
class Top:
    """The screen of `top`: what is chosen, paused and said; `run` draws until `stop` or the key q."""

    watcher: Watcher
    marks: Path | None
    stop: threading.Event
    chosen: int = 0
    paused: list[Line] = field(default_factory=list)
    said: str = ""
    said_until_ns: int = 0

    def run(self) -> None:
        """Draw, read keys and messages; OutputError when the terminal has gone."""
        from clcr_stream.cli.cells import Signs
        from clcr_stream.cli.screen import Screen, size_changes

        try:
            with Screen() as screen, size_changes(screen.forget):
                signs = Signs(screen.blocks)
                draw_ns = 0
                while not self.stop.is_set():
                    now_ns = time.monotonic_ns()
                    self.watcher.turn(now_ns)
                    if now_ns >= draw_ns:
                        draw_ns = now_ns + int(DRAW_S * NS_PER_S)
                        screen.draw(self.lines(screen.size, signs, now_ns))
                    keys = screen.keys(TURN_S)
                    for key in keys:
                        self.press(key, screen.size, signs, time.monotonic_ns())
                    if keys:
                        draw_ns = 0
        except OSError as error:
            raise OutputError(f"the terminal cannot be written ({error.strerror})") from error

    def press(self, key: str, size: tuple[int, int], signs: Signs, now_ns: int) -> None:
        """What a key does."""
        count = len(self.watcher.streams)
        match key:
            case "q" | "Q":
                self.stop.set()
            case "p" | "P" | " ":
                self.paused = [] if self.paused else self._body(size, signs, now_ns)
            case "m" | "M":
                self._say(self._mark(), now_ns)
            case "left" | "right" if count and not self.paused:
                self.chosen = (self.chosen + (1 if key == "right" else -1)) % count
            case _:
                pass

    def lines(self, size: tuple[int, int], signs: Signs, now_ns: int) -> list[Line]:
        """The whole screen: names of the streams, panels, keys."""
        from clcr_stream.cli.cells import fitted

        columns, rows = size
        body = self._body(size, signs, now_ns) if not self.paused else [fitted(line, columns) for line in self.paused]
        body = (body + [fitted([], columns)] * rows)[: rows - 2]
        return [fitted(self._head(), columns), *body, fitted(self._foot(now_ns), columns)]

    def _body(self, size: tuple[int, int], signs: Signs, now_ns: int) -> list[Line]:
        from clcr_stream.cli.cells import fitted
        from clcr_stream.cli.top_view import panel

        columns, rows = size
        streams = list(self.watcher.streams.values())
        if not streams:
            return [fitted([], columns), fitted([(f"  {self.watcher.nothing()}", "yellow")], columns)]
        beside = max(1, min(len(streams), columns // PANEL_COLUMNS))
        first = max(0, min(self.chosen, len(streams) - beside))
        width = (columns - 2 * (beside - 1)) // beside
        panels = [panel(one, width, rows - 2, signs, now_ns) for one in streams[first : first + beside]]
        gap: Line = [("  ", "")]
        rows_of_pieces = ([piece for line in row for piece in (*line, *gap)] for row in zip(*panels, strict=True))
        return [fitted(pieces, columns) for pieces in rows_of_pieces]

    def _head(self) -> Line:
        line: Line = [("clcr-stream top ", "bold")]
        for index, name in enumerate(self.watcher.streams):
            chosen = index == self.chosen
            line.append((f" [{name}] " if chosen else f"  {name}  ", "reverse" if chosen else ""))
        if self.paused:
            line.append(("  PAUSED, p goes on", "bold yellow"))
        return line

    def _foot(self, now_ns: int) -> Line:
        if now_ns < self.said_until_ns:
            return [(self.said, "bold")]
        more = "  Tab next stream" if len(self.watcher.streams) > 1 else ""
        return [(f"q quit  p {'go on' if self.paused else 'pause'}  m mark{more}", "dim")]

    def _say(self, text: str, now_ns: int) -> None:
        self.said, self.said_until_ns = text, now_ns + int(SAID_S * NS_PER_S)

    def _mark(self) -> str:
        """Write the chosen stream's newest prediction down; what to tell."""
        streams = list(self.watcher.streams.values())
        watched = streams[min(self.chosen, len(streams) - 1)] if streams else None
        if watched is None or watched.prediction is None:
            return "nothing to mark: no prediction yet"
        if self.marks is None:
            return f"seq {watched.prediction.seq} not written: start top with --marks FILE"
        try:
            write_mark(self.marks, watched)
        except OSError as error:
            return f"not written: {self.marks}: {error.strerror}"
        return f"marked seq {watched.prediction.seq} of {watched.name} in {self.marks}"


def write_mark(path: Path, watched: Watched) -> None:
    """Add the stream's newest prediction to a file of JSON lines, made for its owner alone. OSError."""
    prediction = watched.prediction
    assert prediction is not None
    end_ns = prediction.window.end_ns
    mark = {
        "stream": watched.name,
        "session": prediction.session,
        "seq": prediction.seq,
        "time": watched.wall_time(end_ns),  # of the window's end, when it was captured
        "marked_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        "end_ns": end_ns,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "value": prediction.value,
        "degraded": list(prediction.degraded),
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(json.dumps(mark, allow_nan=False) + "\n")
