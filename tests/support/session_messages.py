"""Messages of a made-up session: predictions with given answers, words, a status. No engine runs."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.wire import messages

HOP_NS = NS_PER_S // 5
ORIGIN_NS = 7_000 * NS_PER_S
LABELS = ("neutral", "sad", "happy")
BOOT = "5e9c1f5c-0000-4000-8000-000000000000"
BUNDLE = "ab" * 32


def session(
    name: str = "0123456789abcdef", labels: Sequence[str] = LABELS, started_at: str = "2026-11-22T10:00:00.000+00:00"
) -> messages.Session:
    """A session of classification, or of regression without `labels`."""
    return messages.Session(
        stream="default",
        session=name,
        seq=1,
        boot_id=BOOT,
        published_ns=ORIGIN_NS,
        started_at=started_at,
        origin_ns=ORIGIN_NS,
        hop_ns=HOP_NS,
        window_ns=30 * HOP_NS,
        task="classification" if labels else "regression",
        labels=tuple(labels),
        bundle=BUNDLE,
        bundle_name="made up",
        backend="onnxruntime",
        versions={"clcr-stream": "0.1.0"},
        sources=(messages.Source(name="talk.mp4", kind="file", state="live"),),
        intended_use=messages.IntendedUse(infers_emotion=True, context=("research",), notice="Tell people."),
    )


def prediction(
    tick: int,
    answer: str | float | None,
    confidence: float = 0.8,
    name: str = "0123456789abcdef",
    missing: Sequence[str] = (),
) -> messages.Prediction:
    """The answer of a tick: a label with its confidence, a value, or none; `missing` modalities are absent."""
    rest = (1 - confidence) / (len(LABELS) - 1)
    probs: dict[str, float | None] | None = None
    if isinstance(answer, str):
        probs = {label: confidence if label == answer else rest for label in LABELS}
    elif answer is None:
        probs = dict.fromkeys(LABELS, 1 / 3)
    modality = {
        which: messages.Modality(
            present=which not in missing, quality=0.5, age_ms=10.0, coverage=1.0, weight=1 / 3, gate=1.0
        )
        for which in ("vision", "acoustic", "language")
    }
    end_ns = ORIGIN_NS + tick * HOP_NS
    third = (1 / 3, 1 / 3, 1 / 3)
    return messages.Prediction(
        stream="default",
        session=name,
        seq=tick,
        boot_id=BOOT,
        published_ns=end_ns + 70 * NS_PER_MS,
        window=messages.Window(start_ns=end_ns - 30 * HOP_NS, end_ns=end_ns, filled=min(1.0, tick / 30)),
        captured_ns=end_ns,
        latency_ms=70.0 + tick % 5,
        probs=probs,
        label=answer if isinstance(answer, str) else None,
        confidence=confidence if isinstance(answer, str) else None,
        value=answer if isinstance(answer, float) else None,
        levels=messages.Levels(weights=third, ran=(True, True, True), age_ms=(0.0, 0.0, 0.0)),
        modalities=messages.Modalities(**modality),
        budget=messages.Budget(gamma=1.0, active=(third, third, third), mass=(third, third, third)),
        timing_ms={"total": 12.0, "batch": 1.0},
        degraded=("no_input",) if answer is None else tuple(f"{which}_absent" for which in missing),
        bundle=BUNDLE,
        backend="onnxruntime",
    )


def words(
    text: str, start_s: float, end_s: float, id: str = "1", revision: int = 0, name: str = "0123456789abcdef"
) -> messages.Transcript:
    """A segment, seconds from the session's start."""
    return messages.Transcript(
        stream="default",
        session=name,
        seq=1 + revision,
        boot_id=BOOT,
        published_ns=ORIGIN_NS + round(end_s * NS_PER_S),
        id=id,
        start_ns=ORIGIN_NS + round(start_s * NS_PER_S),
        end_ns=ORIGIN_NS + round(end_s * NS_PER_S),
        text=text,
        final=True,
        revision=revision,
    )


def status(name: str = "0123456789abcdef", source: str = "talk.mp4") -> messages.Status:
    """The goodbye."""
    return messages.Status(
        stream="default",
        session=name,
        seq=9,
        boot_id=BOOT,
        published_ns=ORIGIN_NS,
        state="goodbye",
        uptime_s=3.0,
        sources=(messages.Source(name=source, kind="file", state="ended", reason="end of input"),),
        ticks=messages.Ticks(due=12, published=10, skipped={"late": 2}),
        latency_ms=messages.Latency(p50=70.0, p95=80.0, p99=90.0),
    )
