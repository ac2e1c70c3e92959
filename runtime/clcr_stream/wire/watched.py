"""What a watcher of a stream remembers: its newest messages, its words and the moments of the last minutes.

No sockets here: `take` gets what a Subscriber has read. One thread uses a Watched.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterator, Sequence

from msgspec import Struct

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.wire.client import Received
from clcr_stream.wire.messages import Modality, Number, Prediction, Session, Status, Tokens, Transcript, Triple
from clcr_stream.wire.preview import Face

SILENT_NS = 2500 * NS_PER_MS  # two heartbeats and a little: then the publisher is gone or cut off
KEPT_SEGMENTS = 256
_DIGITS = 4


class Moment(Struct, frozen=True, array_like=True):
    """One prediction in a few numbers, as history keeps it: an array in JSON, its columns in this order.

    `scores` are the probabilities in the order of the session's labels, or the one value of a regression. Triples are
    by level (omega) or by modality (the others).
    """

    seq: int
    end_ns: int
    label: str | None
    confidence: Number
    scores: tuple[Number, ...]
    latency_ms: Number
    omega: Triple
    beta: Triple
    eta: Triple
    quality: Triple
    coverage: Triple
    active: Triple  # share of the tokens that take part, mean of the levels
    degraded: tuple[str, ...]


def moment_of(message: Prediction, labels: Sequence[str]) -> Moment:
    """A prediction as history keeps it; numbers with four digits."""
    probs = message.probs
    raw = [message.value] if probs is None else [probs.get(name) for name in labels or probs]
    parts = (message.modalities.vision, message.modalities.acoustic, message.modalities.language)
    levels = [[row[index] for row in message.budget.active] for index in range(3)]
    return Moment(
        seq=message.seq,
        end_ns=message.window.end_ns,
        label=message.label,
        confidence=_short(message.confidence),
        scores=tuple(_short(score) for score in raw),
        latency_ms=None if message.latency_ms is None else round(message.latency_ms, 1),
        omega=_triple(message.levels.weights),
        beta=_triple([part.weight for part in parts]),
        eta=_triple([part.gate for part in parts]),
        quality=_triple([part.quality for part in parts]),
        coverage=_triple([part.coverage for part in parts]),
        active=_triple([_mean(shares) for shares in levels]),
        degraded=message.degraded,
    )


class Watched:
    """One stream as its watcher knows it; moments older than `kept_s` before the newest are forgotten."""

    def __init__(self, name: str, where: str, kept_s: float = 60.0) -> None:
        self.name = name
        self.where = where
        self.session: Session | None = None
        self.status: Status | None = None
        self.prediction: Prediction | None = None
        self.tokens: Tokens | None = None  # while a Watcher asks for them
        self.face: Face | None = None  # likewise, where the session has a preview
        self.moments: deque[Moment] = deque()
        self.missed = 0  # of this session, skipped by the publisher or not read here
        self.refusal = ""  # why its publisher lets us read nothing, and what to do
        self._kept_ns = int(kept_s * NS_PER_S)
        self._identity: str | None = None
        self._past: deque[str] = deque(maxlen=16)
        self._heard_ns: int | None = None
        self._words: dict[str, Transcript] = {}

    def take(self, received: Received, now_ns: int) -> None:
        """One message, in the order in which they come."""
        message = received.message
        if message.session in self._past:
            return  # the last words of a run, on another topic's connection than its successor's first
        self._heard_ns = now_ns
        if message.session != self._identity:
            self._begin(message.session)
        match message:
            case Session():
                self.session = message
            case Status():
                self.status = message
            case Transcript():
                self._words[message.id] = message
                while len(self._words) > KEPT_SEGMENTS:
                    del self._words[next(iter(self._words))]
            case Tokens():
                self.tokens = message
            case Prediction():
                self.missed += received.missed
                self._add(message)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a moment's scores; () for a regression."""
        if self.session is not None:
            return self.session.labels
        return () if self.prediction is None else tuple(self.prediction.probs or ())

    @property
    def words(self) -> list[Transcript]:
        """The session's last segments in order of time."""
        return sorted(self._words.values(), key=lambda segment: (segment.start_ns, segment.end_ns))

    def last(self, span_s: float) -> Iterator[Moment]:
        """The moments of the last `span_s`, oldest first."""
        if self.moments:
            first_ns = self.moments[-1].end_ns - int(span_s * NS_PER_S)
            yield from (moment for moment in self.moments if moment.end_ns > first_ns)

    def latency_ms(self, span_s: float = 60.0) -> tuple[float, float] | None:
        """p50 and p99 of the predictions of the last `span_s` that were read; None without one."""
        values = sorted(one.latency_ms for one in self.last(span_s) if one.latency_ms is not None)
        if not values:
            return None
        top = len(values) - 1
        return values[round(0.5 * top)], values[round(0.99 * top)]

    def waiting(self, now_ns: int) -> str:
        """What this stream's watcher waits for, in one line; "" while messages come."""
        if self.refusal:
            return self.refusal
        if self._heard_ns is None:
            return f"waiting for a session of this name: {self.where}"
        if self.status is not None and self.status.state == "goodbye" and self.status.session == self._identity:
            return "the session has ended; waiting for the next one"
        silent_ns = now_ns - self._heard_ns
        if silent_ns > SILENT_NS:
            return f"nothing heard for {silent_ns // NS_PER_S} s; waiting for the session to come back"
        return ""

    def recording(self, now_ns: int) -> str:
        """What the session records, as a badge; "" when it records nothing or is gone."""
        return "" if self.status is None or self.waiting(now_ns) else recording_badge(self.status)

    def wall_time(self, time_ns: int) -> str | None:
        """A monotonic time of the session's host as ISO 8601 in UTC; None before the session message."""
        if self.session is None:
            return None
        try:
            start = datetime.datetime.fromisoformat(self.session.started_at.replace("Z", "+00:00"))
            moment = start + datetime.timedelta(microseconds=(time_ns - self.session.origin_ns) / 1000)
        except (ValueError, OverflowError):
            return None
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _begin(self, identity: str) -> None:
        """Another run of the publisher: what was said belongs to the one before, the moments go on if they can."""
        if self._identity is not None:
            self._past.append(self._identity)
        self._identity = identity
        self.session = self.status = self.prediction = self.tokens = self.face = None
        self.missed = 0
        self._words.clear()

    def _add(self, message: Prediction) -> None:
        moment = moment_of(message, self.labels)
        newest = self.moments[-1] if self.moments else None
        # Another boot, a recording without a pace or other labels: its time or its scores do not continue the last.
        if newest is not None and (moment.end_ns <= newest.end_ns or len(moment.scores) != len(newest.scores)):
            self.moments.clear()
        self.moments.append(moment)
        while self.moments[0].end_ns <= moment.end_ns - self._kept_ns:
            self.moments.popleft()
        self.prediction = message


def recording_badge(status: Status) -> str:
    """What a session records, in two or four words; "" when it records nothing or has ended."""
    if not status.recording or status.state == "goodbye":
        return ""
    return "REC faces and sound" if status.record is not None and status.record.media else "REC messages"


def parts_of(message: Prediction) -> tuple[tuple[str, Modality], ...]:
    """The modalities by the names that a person sees."""
    found = message.modalities
    return ("vision", found.vision), ("sound", found.acoustic), ("words", found.language)


def _short(value: Number) -> Number:
    return None if value is None else round(value, _DIGITS)


def _triple(values: Sequence[Number]) -> Triple:
    first, second, third = (_short(value) for value in values)
    return first, second, third


def _mean(values: Sequence[Number]) -> Number:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
