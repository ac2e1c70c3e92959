"""What a person at a terminal sees of a session: the status line, notices about sources, and the summary."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from clcr_stream.cli.cells import printable
from clcr_stream.cli.standard_streams import CLEAR_LINE, redrawable
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import WARNING
from clcr_stream.recording.seen import SIGNS, Moment, Seen, clock_text
from clcr_stream.streams.reports import StreamSummary, View
from clcr_stream.wire import messages

UNTROUBLED = ("starting", "live", "ended")
ADVICE = "give --"  # in the reason of a live source: something that a person can do
NOTICE_PERIOD_S = 0.5
NOTICES_AT_ONCE = 6.0  # three times gone and back
NOTICE_EVERY_S = 60.0


def summary_text(summary: StreamSummary) -> str:
    """The summary for a person."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary.skipped.items())
    lines = [f"ticks {summary.ticks.due} = published {summary.ticks.published} + skipped ({reasons})"]
    for title, measure in (
        ("capture -> publish", summary.capture_to_publish_ms),
        ("tick", summary.tick_ms),
        ("overhead without engines", summary.overhead_ms),
    ):
        if measure.p50 is not None:
            lines.append(f"{title}: p50 {measure.p50:.1f} ms, p95 {measure.p95:.1f} ms, p99 {measure.p99:.1f} ms")
    lines += seen_lines(summary.seen)
    told = ((source, source.reason or "") for source in summary.sources)
    lines += [f"{source.kind} {source.name}: {reason}" for source, reason in told if ADVICE in reason]
    record = summary.record
    if record is not None:
        parts = f" in {record.part} files" if record.part > 1 else ""
        stopped = f"; stopped: {record.failure}" if record.failure is not None else ""
        lost = f"; {record.dropped} were lost, the disk was too slow" if record.dropped else ""
        lines.append(f"recorded {record.messages} messages, {record.bytes / 1e6:.1f} MB{parts}{lost}{stopped}")
    return "\n".join(lines)


def seen_lines(seen: Seen) -> list[str]:
    """What was seen, for a person: shares of the labels or range of the values, strongest moments, what was there."""
    if not seen.predictions:
        return []
    length = f"saw {seen.length}"
    note = [seen.note] if seen.note else []
    if not seen.answers:
        return [f"{length}: nobody was seen or heard", *note]
    lines = []
    if seen.values is not None:
        values = seen.values
        lines.append(f"{length}: mean {values.mean:+.2f}, from {values.low:+.2f} to {values.high:+.2f}")
    else:
        shares = sorted(seen.shares.items(), key=lambda item: item[1], reverse=True)
        lines.append(f"{length}: " + ", ".join(f"{label} {share:.0%}" for label, share in shares if share >= 0.005))
    if seen.moments:
        lines.append("strongest: " + "; ".join(moment_text(moment) for moment in seen.moments))
    there = {"vision": "face", "acoustic": "sound", "language": "words"}
    lines.append("there: " + ", ".join(f"{there[name]} {share:.0%}" for name, share in seen.present.items()))
    return lines + note


def moment_text(moment: Moment) -> str:
    """A moment in a few words."""
    strength = f"{moment.label} {moment.strength:.2f}" if moment.strength > 0 and moment.label not in SIGNS else ""
    return f"{strength or f'{moment.strength:+.2f}'} at {clock_text(moment.peak_s)}"


def status_line(views: Sequence[View], columns: int | None = None) -> str:
    """One line: of each stream the state of its sources, its newest label, tick time and skipped ticks.

    In few `columns` it leaves out first the tick time, then what is degraded, then the sources; counts come last.
    """
    for details in range(len(_DETAILS), -1, -1):
        lines = [_line_of(view, _DETAILS[:details]) for view in views]
        if len(views) > 1:
            lines = [f"{view.name}: {line}" for view, line in zip(views, lines, strict=True)]
        line = " || ".join(lines)
        if columns is None or len(line) <= columns:
            return line
    ticks = [view.account.ticks() for view in views]
    counts = (
        f"published {sum(one.published for one in ticks)} skipped {sum(sum(one.skipped.values()) for one in ticks)}"
    )
    return counts if len(views) == 1 else f"{len(views)} streams | {counts}"


_DETAILS = ("sources", "degraded", "cost")  # the last is left out first


def _line_of(view: View, details: Sequence[str]) -> str:
    ticks = view.account.ticks()
    _, tick, _, last = view.account.latencies()
    answer = "no prediction yet"
    if last.label is not None and last.confidence is not None:
        answer = f"{last.label} {last.confidence:.2f}"
    elif ticks.published:
        answer = "no answer" if last.value is None else f"{last.value:+.2f}"
    measured = tick.p50 is not None and tick.p95 is not None
    parts = (
        recording_text(view.record),
        view.note,
        " ".join(f"{source.kind}:{source.state}" for source in view.sources) if "sources" in details else "",
        answer,
        f"tick {tick.p50:.0f}/{tick.p95:.0f} ms p50/p95" if measured and "cost" in details else "",
        f"published {ticks.published} skipped {sum(ticks.skipped.values())}",
        ",".join(last.degraded) if "degraded" in details else "",
    )
    return " | ".join(part for part in parts if part)


def recording_text(record: messages.Recording | None) -> str:
    """That a recording is being made, of what, and whether all of it gets there; "" without one."""
    if record is None:
        return ""
    if record.failure is not None:
        return "recording stopped"
    what = "REC faces and sound" if record.media else "REC"
    lost = f" ({record.dropped} lost)" if record.dropped else ""
    return f"{what} {record.bytes / 1e6:.1f} MB{lost}"


def refused_text(count: int) -> str:
    """Connections that were turned away, and why they may have been."""
    return f"connections refused: {count} (no key, one that is not allowed, or too many readers)"


@dataclass
class _Shown:
    """What was shown of one source, and how many lines about it may still come."""

    counted_ns: int
    state: str | None = None  # the one last shown; None: that it is live, or not yet anything
    newest: str | None = None
    advice: str = ""  # the one last given
    changes: int = 0  # since the last line
    lines: float = NOTICES_AT_ONCE

    def may_show(self, now_ns: int) -> bool:
        """Take one of the lines, of which one more is allowed every NOTICE_EVERY_S."""
        earned = (now_ns - self.counted_ns) / NS_PER_S / NOTICE_EVERY_S
        self.lines, self.counted_ns = min(NOTICES_AT_ONCE, self.lines + earned), now_ns
        if self.lines < 1:
            return False
        self.lines -= 1
        return True


class Notices:
    """Lines about sources, each shown once: why a source is not there, and that it came back; and refused readers.

    A source that comes and goes gets NOTICES_AT_ONCE lines and then one every NOTICE_EVERY_S, which says how it is now
    and how many changes were left out. Refused connections are counted in a line every NOTICE_EVERY_S at most.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._shown: dict[tuple[str, str, str], _Shown] = {}
        self._refused: dict[str, tuple[int, int]] = {}  # by stream: how many were told, and not before when again

    def new(self, views: Sequence[View]) -> list[str]:
        """One line per source whose state calls for one since the last call, and per stream that refused readers."""
        lines = []
        for view in views:
            whose = f"{view.name}: " if len(views) > 1 else ""
            for source in view.sources:
                shown = self._shown.setdefault((view.name, source.kind, source.name), _Shown(self._now_ns()))
                text = self._text(source, shown)
                if text is not None:
                    warning = "" if source.state == "live" else WARNING
                    lines.append(f"{warning}{whose}{source.kind} {source.name}: {text}")
            if self._tells_refused(view):
                lines.append(f"{WARNING}{whose}{refused_text(view.refused)}; `clcr-stream keys list` says who may read")
        return lines

    def _tells_refused(self, view: View) -> bool:
        told, next_ns = self._refused.get(view.name, (0, 0))
        now_ns = self._now_ns()
        if view.refused in (0, told) or now_ns < next_ns:
            return False
        self._refused[view.name] = view.refused, now_ns + round(NOTICE_EVERY_S * NS_PER_S)
        return True

    def _text(self, source: messages.Source, shown: _Shown) -> str | None:
        troubled = source.state not in UNTROUBLED and source.reason is not None
        if not troubled and source.state != "live":
            return None
        if source.state == "live" and source.reason is not None and ADVICE in source.reason:
            if shown.advice == source.reason:
                return None
            shown.advice = source.reason
            return source.reason
        # Not the reason: it may count seconds. A source that is opened again and again is lost, whatever it is at.
        state = None if not troubled else "lost" if source.state == "reconnecting" else source.state
        if state != shown.newest:
            shown.newest = state
            shown.changes += 1
        if shown.newest == shown.state or not shown.may_show(self._now_ns()):
            return None
        left_out, shown.state, shown.changes = shown.changes - 1, shown.newest, 0
        text = f"{source.state}: {source.reason}" if troubled else "back"
        return f"{text} ({left_out} changes before that were not shown)" if left_out else text


class StatusLine:
    """Shows one line about the session: rewritten in place on a terminal, a plain line now and then elsewhere.

    `show` gets the columns that there are, None where a line may be long; `notices` is asked for lines that stay, twice
    a second and at the end.
    """

    def __init__(
        self,
        show: Callable[[int | None], str],
        out: TextIO,
        period_s: float | None = None,
        notices: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._show = show
        self._notices = notices
        self._out = out
        self._in_place = redrawable(out)
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
            self._write(CLEAR_LINE)

    def _run(self) -> None:
        turns = max(1, round(self._period_s / NOTICE_PERIOD_S))
        turn = 0
        while not self._stop.wait(min(self._period_s, NOTICE_PERIOD_S)):
            self._tell()
            turn = (turn + 1) % turns
            if turn == 0:
                self._show_now()

    def _show_now(self) -> None:
        if self._in_place:
            columns = shutil.get_terminal_size().columns - 1
            self._write(f"{CLEAR_LINE}{printable(self._show(columns))[:columns]}")
        else:
            self._write(f"{printable(self._show(None))}\n")

    def _tell(self) -> None:
        for line in map(printable, self._notices()):
            self._write(f"{CLEAR_LINE}{line}\n" if self._in_place else f"{line}\n")

    def _write(self, text: str) -> None:
        # A closed terminal must not end the session.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()
