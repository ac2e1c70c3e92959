"""What a person at a terminal sees of a session: the status line, notices about sources, and the summary."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from clcr_stream.sources.base import NOT_STARTED, STARTING
from clcr_stream.streams.reports import View

TROUBLED = ("waiting", "stale", "failed")
NOTICE_PERIOD_S = 0.5


def summary_text(values: dict[str, object]) -> str:
    """The summary for a person."""
    skipped = values["skipped"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in skipped.items()) if isinstance(skipped, dict) else ""
    lines = [f"ticks {values['ticks']} = published {values['published']} + skipped ({reasons})"]
    for name, title in (
        ("capture_to_publish_ms", "capture -> publish"),
        ("tick_ms", "tick"),
        ("overhead_ms", "overhead without engines"),
    ):
        measure = values[name]
        if isinstance(measure, dict) and measure["p50"] is not None:
            lines.append(
                f"{title}: p50 {measure['p50']:.1f} ms, p95 {measure['p95']:.1f} ms, p99 {measure['p99']:.1f} ms"
            )
    return "\n".join(lines)


def status_line(views: Sequence[View]) -> str:
    """One line: of each stream the state of its sources, its newest label, tick time and skipped ticks."""
    lines = []
    for view in views:
        ticks = view.account.ticks()
        _, tick, _, last = view.account.latencies()
        states = " ".join(f"{source.kind}:{source.state}" for source in view.sources)
        answer = (
            f"{last.label} {last.confidence:.2f}"
            if last.label is not None and last.confidence is not None
            else "no prediction yet"
        )
        cost = "" if tick.p50 is None or tick.p95 is None else f" | tick {tick.p50:.0f}/{tick.p95:.0f} ms p50/p95"
        trouble = f" | {','.join(last.degraded)}" if last.degraded else ""
        skipped = sum(ticks.skipped.values())
        lines.append(f"{states} | {answer}{cost} | published {ticks.published} skipped {skipped}{trouble}")
    if len(lines) == 1:
        return lines[0]
    return " || ".join(f"{view.name}: {line}" for view, line in zip(views, lines, strict=True))


class Notices:
    """What a person has to be told of the sources, once: why one is not there, and that it came back."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str], str] = {}

    def new(self, views: Sequence[View]) -> list[str]:
        """One line per source whose state calls for one since the last call."""
        lines = []
        for view in views:
            whose = f"{view.name}: " if len(views) > 1 else ""
            for source in view.sources:
                key = (view.name, source.kind, source.name)
                told = self._told.get(key)
                if source.state in TROUBLED and source.reason not in (None, NOT_STARTED, STARTING):
                    # The state alone is compared: a reason may count seconds.
                    if told != source.state:
                        self._told[key] = source.state
                        lines.append(f"{whose}{source.kind} {source.name}: {source.state}: {source.reason}")
                elif source.state == "live" and told is not None:
                    del self._told[key]
                    lines.append(f"{whose}{source.kind} {source.name}: back")
        return lines


class StatusLine:
    """Shows one line about the session: rewritten in place on a terminal, a plain line now and then elsewhere.

    `notices` is asked for lines that stay, twice a second and at the end.
    """

    def __init__(
        self,
        show: Callable[[], str],
        out: TextIO,
        period_s: float | None = None,
        notices: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._show = show
        self._notices = notices
        self._out = out
        self._in_place = out.isatty()
        self._period_s = period_s if period_s is not None else 0.5 if self._in_place else 10.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clcr-status-line", daemon=True)

    def __enter__(self) -> StatusLine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(1.0)
        self._tell()
        if self._in_place:
            self._write("\r\x1b[K")

    def _run(self) -> None:
        turns = max(1, round(self._period_s / NOTICE_PERIOD_S))
        turn = 0
        while not self._stop.wait(min(self._period_s, NOTICE_PERIOD_S)):
            self._tell()
            turn = (turn + 1) % turns
            if turn == 0:
                columns = shutil.get_terminal_size().columns
                self._write(f"\r\x1b[K{self._show()[: columns - 1]}" if self._in_place else f"{self._show()}\n")

    def _tell(self) -> None:
        for line in self._notices():
            self._write(f"\r\x1b[K{line}\n" if self._in_place else f"{line}\n")

    def _write(self, text: str) -> None:
        # A closed terminal must not end the session.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()
