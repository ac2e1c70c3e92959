"""Changes of expression: a few events out of five predictions a second, smoothed, with hysteresis and a least duration.

A pure state machine over predictions as they were sent; its only clock is their windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clcr_stream.clock import NS_PER_S
from clcr_stream.wire.messages import Event, Number, Prediction

Reason = Literal["clear", "unclear", "absent", "person"]


@dataclass(frozen=True)
class Rules:
    """When an expression begins and ends; docs/wire.md says what the numbers rest on."""

    smoothing_s: float = 0.3  # time constant of the exponential mean of the probabilities
    enter: float = 0.5  # a smoothed probability above which a label may begin: more than all others together
    leave: float = 0.4  # and below which it ends; the gap is the hysteresis
    hold_ns: int = 6 * NS_PER_S // 10  # for so long, three hops, must it be above or below
    absent_ns: int = 2 * NS_PER_S  # so long nobody was seen or heard


class Changes:
    """Tells of each prediction whether the expression has changed with it; one thread."""

    def __init__(self, rules: Rules = Rules()) -> None:
        self._rules = rules
        self._label: str | None = None
        self._began_ns: int | None = None  # of `_label`
        self._smooth: dict[str, float] = {}
        self._last_ns: int | None = None  # of the newest prediction that had an answer
        self._pending: tuple[str | None, int] | None = None  # what may follow, and since when
        self._track: int | None = None

    def take(self, prediction: Prediction) -> Event | None:
        """The event that a prediction completes, if any; with seq 0, to be numbered by who sends it."""
        end_ns = prediction.window.end_ns
        if "calibrating" in prediction.degraded:
            return None
        if prediction.label is None or prediction.probs is None:
            if self._last_ns is None or end_ns - self._last_ns < self._rules.absent_ns:
                return None
            since_ns, self._last_ns = self._last_ns, None
            self._forget()
            return self._change(prediction, None, since_ns, "absent") if self._label is not None else None
        track = None if prediction.face is None else prediction.face.track
        another = track is not None and self._track is not None and track != self._track
        self._track = track if track is not None else self._track
        if another:
            self._forget()
        self._learn(prediction.probs, end_ns)
        if another and self._label is not None:
            return self._change(prediction, None, end_ns, "person")
        return self._settled(prediction, end_ns)

    def _forget(self) -> None:
        self._smooth.clear()
        self._pending = None

    def _learn(self, probs: dict[str, Number], end_ns: int) -> None:
        step_s = 0.0 if self._last_ns is None else (end_ns - self._last_ns) / NS_PER_S
        share = 1 - math.exp(-step_s / self._rules.smoothing_s) if self._smooth else 1.0
        for label, value in probs.items():
            before = self._smooth.get(label, 0.0)
            self._smooth[label] = before + share * ((value or 0.0) - before)
        self._last_ns = end_ns

    def _settled(self, prediction: Prediction, end_ns: int) -> Event | None:
        """What the smoothed probabilities ask for, once they have asked for it long enough."""
        wanted = self._wanted()
        if wanted == self._label:
            self._pending = None
            return None
        if self._pending is None or self._pending[0] != wanted:
            self._pending = wanted, end_ns
        since_ns = self._pending[1]
        if end_ns - since_ns < self._rules.hold_ns:
            return None
        self._pending = None
        return self._change(prediction, wanted, since_ns, "unclear" if wanted is None else "clear")

    def _wanted(self) -> str | None:
        best = max(self._smooth, key=lambda label: self._smooth[label])
        if self._smooth[best] >= self._rules.enter:
            return best
        kept = self._label is not None and self._smooth.get(self._label, 0.0) >= self._rules.leave
        return self._label if kept else None

    def _change(self, prediction: Prediction, label: str | None, at_ns: int, reason: Reason) -> Event:
        previous, began_ns = self._label, self._began_ns
        self._label, self._began_ns = label, at_ns
        return Event(
            stream=prediction.stream,
            session=prediction.session,
            seq=0,
            boot_id=prediction.boot_id,
            published_ns=prediction.published_ns,
            recording=prediction.recording,
            label=label,
            previous=previous,
            reason=reason,
            at_ns=at_ns,
            previous_s=None if began_ns is None else round((at_ns - began_ns) / NS_PER_S, 3),
            confidence=None if label is None else round(self._smooth[label], 6),
            tick=prediction.seq,
        )
