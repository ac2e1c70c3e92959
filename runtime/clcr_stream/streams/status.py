"""The account of a session: ticks due, published and skipped, latencies, and how they are shown."""

from __future__ import annotations

import contextlib
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.base import NOT_STARTED, STARTING
from clcr_stream.wire import messages

LATE, OVERRUN, INVALID = "late", "overrun", "invalid"
REASONS = (LATE, OVERRUN, INVALID)
TROUBLED = ("waiting", "stale", "failed")
NOTICE_PERIOD_S = 0.5
KEPT_SAMPLES = 4096  # 13 minutes at 5 Hz: enough for a p99, and bounded for a run of weeks


class Samples:
    """The last KEPT_SAMPLES values of one measure, ms."""

    def __init__(self) -> None:
        self._values: NDArray[np.float64] = np.zeros(KEPT_SAMPLES)
        self.count = 0

    def add(self, value: float) -> None:
        self._values[self.count % KEPT_SAMPLES] = value
        self.count += 1

    def percentiles(self) -> messages.Latency:
        """p50, p95 and p99 of the kept values; nulls before the first."""
        if not self.count:
            return messages.Latency()
        kept = self._values[: min(self.count, KEPT_SAMPLES)]
        p50, p95, p99 = (float(value) for value in np.percentile(kept, (50, 95, 99)))
        return messages.Latency(p50=round(p50, 3), p95=round(p95, 3), p99=round(p99, 3))


@dataclass(frozen=True)
class Last:
    """The newest prediction, as far as a status line shows it."""

    label: str | None = None
    confidence: float | None = None
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """Whose status it is, when, and what runs the engines."""

    stream: str
    session: str
    boot_id: str
    published_ns: int
    backend: str = ""
    backend_reason: str | None = None


@dataclass(frozen=True)
class View:
    """What a status line is made of, for one stream."""

    name: str
    account: Account
    sources: Sequence[messages.Source]


class Account:
    """Counts every tick once: due = published + skipped. Written by the loop, read by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published = 0
        self._skipped: Counter[str] = Counter()
        self.latency = Samples()
        self.tick = Samples()
        self.overhead = Samples()
        self.last = Last()

    def published(self, latency_ms: float | None, tick_ms: float, overhead_ms: float, last: Last) -> None:
        """One tick was published: capture to publish, wake-up to published, and the latter without its engines."""
        with self._lock:
            self._published += 1
            if latency_ms is not None:
                self.latency.add(latency_ms)
            self.tick.add(tick_ms)
            self.overhead.add(overhead_ms)
            self.last = last

    def skipped(self, reason: str, ticks: int = 1) -> None:
        """`ticks` ticks were due and will not be published."""
        with self._lock:
            self._skipped[reason] += ticks

    def ticks(self) -> messages.Ticks:
        """A consistent copy of the counts."""
        with self._lock:
            skipped = dict(self._skipped)
            return messages.Ticks(
                due=self._published + sum(skipped.values()), published=self._published, skipped=skipped
            )

    def latencies(self) -> tuple[messages.Latency, messages.Latency, messages.Latency, Last]:
        """Capture to publish, tick, overhead, and the newest prediction."""
        with self._lock:
            return self.latency.percentiles(), self.tick.percentiles(), self.overhead.percentiles(), self.last


def rss_mb() -> float | None:
    """Resident memory of this process now, MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * resource.getpagesize() / 1e6, 1)


def peak_rss_mb() -> float:
    """The most resident memory this process had, MB (ru_maxrss would count the parent that forked it)."""
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
        lines = [line for line in status if line.startswith("VmHWM:")]
    return round(int(lines[0].split()[1]) * 1024 / 1e6, 1) if lines else 0.0


def summary(account: Account, sources: Sequence[messages.Source]) -> dict[str, object]:
    """What the command prints at its end, as plain values; percentiles are of the last KEPT_SAMPLES predictions."""
    ticks = account.ticks()
    latency, tick, overhead, _ = account.latencies()
    return {
        "ticks": ticks.due,
        "published": ticks.published,
        "skipped": {reason: ticks.skipped.get(reason, 0) for reason in REASONS},
        "capture_to_publish_ms": _as_dict(latency),
        "tick_ms": _as_dict(tick),
        "overhead_ms": _as_dict(overhead),
        "peak_rss_mb": peak_rss_mb(),
        "sources": [
            {
                "name": source.name,
                "kind": source.kind,
                "state": source.state,
                "reason": source.reason,
                "counts": source.counts,
            }
            for source in sources
        ],
    }


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


def _as_dict(latency: messages.Latency) -> dict[str, float | None]:
    return {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99}


def make_status(
    account: Account, sources: Sequence[messages.Source], header: Header, uptime_s: float
) -> messages.Status:
    """The heartbeat: degraded when a source is not live or the newest prediction says so; the publisher numbers it."""
    ticks = account.ticks()
    latency, _, _, last = account.latencies()
    degraded = last.degraded + tuple(
        f"{source.kind}_{source.state}" for source in sources if source.state not in ("live", "ended")
    )
    state: Literal["starting", "running", "degraded"] = (
        "starting" if not ticks.due else "degraded" if degraded else "running"
    )
    return messages.Status(
        stream=header.stream,
        session=header.session,
        seq=0,
        boot_id=header.boot_id,
        published_ns=header.published_ns,
        state=state,
        uptime_s=round(uptime_s, 3),
        sources=tuple(sources),
        ticks=ticks,
        latency_ms=latency,
        rss_mb=rss_mb(),
        degraded=degraded,
        backend=header.backend,
        backend_reason=header.backend_reason,
    )


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
