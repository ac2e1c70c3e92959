"""What a stream says of itself: session and status messages, reports of its sources, and the summary at its end."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import platform
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from clcr_stream import __version__
from clcr_stream.bundle.manifest import Manifest
from clcr_stream.recording.seen import Seen
from clcr_stream.sources.base import Source
from clcr_stream.streams.account import REASONS, Account
from clcr_stream.streams.prediction import Identity
from clcr_stream.window.ring import RingCounts, Rings
from clcr_stream.wire import messages

PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "av", "pyzmq", "msgspec", "tokenizers")
GPU_PACKAGES = ("tensorrt", "pycuda", "cuda-bindings")


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
    note: str = ""  # what comes first
    record: messages.Recording | None = None
    refused: int = 0  # readers that were turned away


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


@dataclass(frozen=True)
class StreamSummary:
    """What one stream did; percentiles are of the last KEPT_SAMPLES predictions.

    `first_prediction_s` counts from the start of the process; `output_failure` is why --output is not complete.
    """

    name: str
    ticks: messages.Ticks
    capture_to_publish_ms: messages.Latency
    tick_ms: messages.Latency
    overhead_ms: messages.Latency  # a tick without its engines
    sources: tuple[messages.Source, ...]
    peak_rss_mb: float  # of the process
    first_prediction_s: float | None = None
    output_failure: str | None = None
    record: messages.Recording | None = None
    seen: Seen = field(default_factory=Seen)

    @property
    def skipped(self) -> dict[str, int]:
        """Skipped ticks of every reason."""
        return {reason: self.ticks.skipped.get(reason, 0) for reason in REASONS}

    def as_json(self) -> dict[str, object]:
        """Plain values, as `--json` prints them."""
        return {
            "ticks": self.ticks.due,
            "published": self.ticks.published,
            "skipped": self.skipped,
            "capture_to_publish_ms": _as_json(self.capture_to_publish_ms),
            "tick_ms": _as_json(self.tick_ms),
            "overhead_ms": _as_json(self.overhead_ms),
            "peak_rss_mb": self.peak_rss_mb,
            "sources": [
                {
                    "name": source.name,
                    "kind": source.kind,
                    "state": source.state,
                    "reason": source.reason,
                    "code": source.code,
                    "counts": source.counts,
                }
                for source in self.sources
            ],
            "first_prediction_s": self.first_prediction_s,
            "output_failure": self.output_failure,
            "seen": self.seen.as_json(),
            "record": None if self.record is None else msgspec.to_builtins(self.record),
        }


@dataclass(frozen=True)
class Summary:
    """What a run did: of one stream or of several, always a tuple."""

    streams: tuple[StreamSummary, ...]
    peak_rss_mb: float

    def as_json(self, listed: bool) -> dict[str, object]:
        """Plain values, as `--json` prints them: by name if the configuration has a list of streams."""
        if not listed:
            (stream,) = self.streams
            return stream.as_json()
        return {"streams": {stream.name: stream.as_json() for stream in self.streams}, "peak_rss_mb": self.peak_rss_mb}


def summarise(name: str, account: Account, sources: Sequence[messages.Source]) -> StreamSummary:
    """What a stream did until now."""
    capture_to_publish, tick, overhead, _ = account.latencies()
    return StreamSummary(name, account.ticks(), capture_to_publish, tick, overhead, tuple(sources), peak_rss_mb())


def _as_json(latency: messages.Latency) -> dict[str, float | None]:
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


def source_messages(sources: Sequence[Source], rings: Rings) -> tuple[messages.Source, ...]:
    """The sources' reports, each with the account of the rings that it fills."""
    entries = []
    for source in sources:
        report = source.report()
        counts = dict(report.counts)
        if "vision" in source.modalities:
            counts |= _ring_counts("frames", rings.vision.counts())
        if "acoustic" in source.modalities:
            counts |= _ring_counts("samples", rings.acoustic.counts())
        entries.append(
            messages.Source(
                name=report.name,
                kind=report.kind,
                state=report.state,
                reason=report.reason or None,
                counts=counts,
                since_ns=report.since_ns,
                entered=dict(report.entered),
                timing=None if report.timing is None else messages.Timing(**asdict(report.timing)),
                code=report.code or None,
            )
        )
    return tuple(entries)


def session_message(
    manifest: Manifest, identity: Identity, sources: Sequence[Source], rings: Rings
) -> messages.Session:
    """The message that says what this session's predictions mean."""
    use, grid = manifest.intended_use, rings.grid
    return messages.Session(
        stream=identity.stream,
        session=identity.session,
        seq=0,
        boot_id=identity.boot_id,
        published_ns=grid.origin_ns,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        origin_ns=grid.origin_ns,
        hop_ns=manifest.hop_ns,
        window_ns=grid.window_ns,
        task=manifest.task,
        labels=tuple(manifest.labels),
        bundle=identity.bundle,
        bundle_name=manifest.name,
        backend=identity.backend,
        versions=dict(versions()),
        sources=source_messages(sources, rings),
        begins_s=max((source.report().begins_s for source in sources), default=0.0),
        intended_use=messages.IntendedUse(
            infers_emotion=use.infers_emotion, context=tuple(use.context), notice=use.notice
        ),
    )


@functools.cache  # 14 ms for files that do not change: much for a program that opens a stream per clip
def versions() -> dict[str, str]:
    """What the session runs on; a package that is not installed is left out."""
    entries = {"clcr-stream": __version__, "python": platform.python_version()}
    for package in (*PACKAGES, *GPU_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            entries[package] = importlib.metadata.version(package)
    return entries


def _ring_counts(unit: str, counts: RingCounts) -> dict[str, int]:
    dropped = {f"{unit}_dropped_{reason}": number for reason, number in counts.dropped.items()}
    return {f"{unit}_in": counts.received, f"{unit}_used": counts.used, f"{unit}_held": counts.held, **dropped}
