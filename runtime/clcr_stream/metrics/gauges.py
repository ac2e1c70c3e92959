"""What a process's streams do, as Prometheus' metrics: times, ages, skips, sources; nothing about a person.

No label, probability, word or name of a source is among them: a scraper keeps what it gets for months.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.wire.messages import Message, Prediction, Source, Status, Transcript

# Stages take 1 to 50 ms on a CPU and under 1 on a GPU; a hop is 200 ms, and a latency holds the 60 ms of --settle-ms.
_STAGE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LATENCY_S = (0.02, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_LAG_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STATES = (
    *("starting", "absent", "live", "stale", "frozen", "dark", "covered", "silent", "clipping", "noisy"),
    *("lost", "reconnecting", "ended", "failed"),
)
_MODALITIES = ("vision", "acoustic", "language")
_QUALITY = ("luma", "sharpness", "level_dbfs", "noise_dbfs", "snr_db")  # of a room and its devices, not of a person
_KEPT_NS = NS_PER_S // 4  # a text is made at most so often, however many ask
READY_NS = 2 * NS_PER_S
TICKING_NS = 10 * NS_PER_S
PATIENCE_NS = 60 * NS_PER_S  # until the first tick: devices open, TensorRT begins


@dataclass
class _Seen:
    """The newest of a stream, and when."""

    began_ns: int
    status: Status | None = None
    quality: dict[tuple[str, str], float] = field(default_factory=dict)  # by modality and number
    predicted_ns: int | None = None
    due: int = 0
    ticked_ns: int | None = None
    missing: tuple[str, ...] = ()
    subscribers: int = field(default=0)


class Gauges(Collector):
    """A sink of every stream's messages, and their metrics as text; any thread. `write` never waits for a scraper."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._guard = threading.Lock()
        self._streams: dict[str, _Seen] = {}
        self._text: tuple[int, bytes] | None = None
        self._registry = registry = CollectorRegistry()
        self._published = Total("clcr_predictions", "Predictions published", ["stream"], registry=registry)
        self._latency = Histogram(
            "clcr_latency_seconds", "Newest capture to publishing", ["stream"], registry=registry, buckets=_LATENCY_S
        )
        self._stage = Histogram(
            "clcr_stage_seconds", "Stages of a tick", ["stream", "stage"], registry=registry, buckets=_STAGE_S
        )
        self._age = Histogram(
            "clcr_modality_age_seconds",
            "Age of a modality's newest data at its prediction",
            ["stream", "modality"],
            registry=registry,
            buckets=_LATENCY_S,
        )
        self._lag = Histogram(
            "clcr_word_lag_seconds",
            "End of a segment's speech to its use",
            ["stream"],
            registry=registry,
            buckets=_LAG_S,
        )
        self._degraded = Total(
            "clcr_degraded", "Predictions by what was not as it should be", ["stream", "reason"], registry=registry
        )
        registry.register(self)

    def write(self, message: Message) -> None:
        """Take a message as it was sent."""
        stream, now_ns = message.stream, self._now_ns()
        with self._guard:
            seen = self._streams.setdefault(stream, _Seen(now_ns))
            match message:
                case Prediction():
                    seen.predicted_ns = now_ns
                    seen.quality = _quality(message)
                    self._predicted(message)
                case Status() if message.state == "goodbye":
                    del self._streams[stream]
                case Status():
                    if message.ticks.due != seen.due:
                        seen.due, seen.ticked_ns = message.ticks.due, now_ns
                    seen.status = message
                    seen.missing = tuple(text for text in message.degraded if text.endswith("_required"))
                case Transcript():
                    self._lag.labels(stream).observe(max(0, message.published_ns - message.end_ns) / NS_PER_S)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        now_ns = self._now_ns()
        kept = self._text
        if kept is None or now_ns - kept[0] >= _KEPT_NS:
            kept = self._text = now_ns, generate_latest(self._registry)
        return kept[1]

    def alive(self) -> Mapping[str, str]:
        """What is wrong with each stream's loop; empty when all tick."""
        now_ns, wrong = self._now_ns(), {}
        with self._guard:
            for name, seen in self._streams.items():
                since_ns = now_ns - (seen.began_ns + PATIENCE_NS if seen.ticked_ns is None else seen.ticked_ns)
                if since_ns > TICKING_NS:
                    wrong[name] = f"no tick for {since_ns / NS_PER_S:.0f} s"
        return wrong

    def unready(self) -> Mapping[str, str]:
        """Why a stream's predictions cannot be relied on now; empty when those of all can."""
        now_ns, why = self._now_ns(), {}
        with self._guard:
            if not self._streams:
                return {"": "no stream runs"}
            for name, seen in self._streams.items():
                if seen.predicted_ns is None:
                    why[name] = "no prediction yet"
                elif now_ns - seen.predicted_ns > READY_NS:
                    why[name] = f"no prediction for {(now_ns - seen.predicted_ns) / NS_PER_S:.0f} s"
                elif seen.missing:
                    why[name] = ", ".join(seen.missing)
        return why

    def collect(self) -> Iterator[Metric]:
        """What a status says, as it is now; called by the registry."""
        now_ns = self._now_ns()
        with self._guard:
            seen = {name: one for name, one in self._streams.items() if one.status is not None}
        skipped = CounterMetricFamily("clcr_ticks_skipped", "Ticks not published", labels=["stream", "reason"])
        state = GaugeMetricFamily("clcr_source_state", "1: the state", labels=["stream", "kind", "state"])
        code = GaugeMetricFamily("clcr_source_code", "1: why it brings nothing", labels=["stream", "kind", "code"])
        quality = GaugeMetricFamily(
            "clcr_quality", "What was captured last, in numbers", labels=["stream", "modality", "number"]
        )
        events = CounterMetricFamily(
            "clcr_source_events",
            "What a source counts: frames, drops by cause",
            labels=["stream", "kind", "event"],
        )
        plain = {
            "clcr_prediction_age_seconds": "Time since the newest prediction",
            "clcr_subscribers": "Readers that are connected",
            "clcr_refused_peers": "Handshakes that were refused since the start",
            "clcr_uptime_seconds": "Time since the start",
            "clcr_resident_bytes": "Memory of the process",
            "clcr_recording": "1 while a recording is being made",
        }
        gauges = {name: GaugeMetricFamily(name, text, labels=["stream"]) for name, text in plain.items()}
        for name, one in seen.items():
            status = one.status
            assert status is not None
            for (modality, number), measured in one.quality.items():
                quality.add_metric([name, modality, number], measured)
            for reason, count in status.ticks.skipped.items():
                skipped.add_metric([name, reason], count)
            for kind, source in _by_kind(status.sources):
                for text in _STATES:
                    state.add_metric([name, kind, text], float(source.state == text))
                if source.code is not None:
                    code.add_metric([name, kind, source.code], 1.0)
                for event, count in source.counts.items():
                    events.add_metric([name, kind, event], count)
            values = (
                None if one.predicted_ns is None else (now_ns - one.predicted_ns) / NS_PER_S,
                status.subscribers,
                status.refused_peers,
                status.uptime_s,
                None if status.rss_mb is None else status.rss_mb * 1e6,
                float(status.recording),
            )
            for gauge, value in zip(gauges.values(), values, strict=True):
                if value is not None:
                    gauge.add_metric([name], float(value))
        yield from (skipped, state, code, events, quality, *gauges.values())

    def _predicted(self, message: Prediction) -> None:
        stream = message.stream
        self._published.labels(stream).inc()
        if message.latency_ms is not None:
            self._latency.labels(stream).observe(_seconds(message.latency_ms))
        for stage, value in message.timing_ms.items():
            if stage != "batch" and value is not None:
                self._stage.labels(stream, stage).observe(_seconds(value))
        for name in _MODALITIES:
            age_ms = getattr(message.modalities, name).age_ms
            if age_ms is not None:
                self._age.labels(stream, name).observe(_seconds(age_ms))
        for reason in message.degraded:
            self._degraded.labels(stream, reason).inc()


def _by_kind(sources: Sequence[Source]) -> Iterator[tuple[str, Source]]:
    """Each source by its kind; a second one of a kind is `file_2`, since names may tell too much."""
    counts: Counter[str] = Counter()
    for source in sources:
        counts[source.kind] += 1
        yield source.kind if counts[source.kind] == 1 else f"{source.kind}_{counts[source.kind]}", source


def _quality(message: Prediction) -> dict[tuple[str, str], float]:
    numbers = {name: getattr(message.modalities, name).numbers for name in _MODALITIES}
    return {
        (name, number): value
        for name, measured in numbers.items()
        for number, value in measured.items()
        if number in _QUALITY and value is not None
    }


def _seconds(value_ms: float) -> float:
    return value_ms * NS_PER_MS / NS_PER_S
