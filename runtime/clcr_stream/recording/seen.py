"""What a stream of predictions saw: shares of the labels over time, the strongest moments, what was there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clcr_stream.clock import NS_PER_S
from clcr_stream.recording.numbers import MEASURES
from clcr_stream.wire import messages

MODALITIES = ("vision", "acoustic", "language")
PLAIN = "neutral"  # a label that is no moment of its own while there are others
MOMENTS = 5
LEAST_S = 0.55  # what lasts for three hops is a moment
GAP_HOPS = 3  # a longer pause between two answers ends a moment
SIGNS = ("positive", "negative")  # the labels of a regression's moments
VALUE = "value"
_TURN = re.compile(r"--rotate \d+")  # in the reason of a source that finds faces in turned pictures
_CUT = re.compile(r"the file says [^;]*")  # of one that ended before its time
_KEPT = 4  # strongest moments of each label


@dataclass(frozen=True)
class Moment:
    """A stretch of answers with one label (of a regression: with one sign), seconds as of `Seen.start_s`.

    `strength` is the largest confidence in it, of a regression the value farthest from zero, and `peak_s` when it was.
    """

    label: str
    strength: float
    peak_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Values:
    """A mean and a range; of a regression's answers the mean as of `Seen.means`."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Seen:
    """What the predictions say together; shares are of the answers, which are the predictions with any input.

    `shares`: how often each label was the most probable one. `means`: its mean probability over the windows that were
    full, of which there are `full`; of a clip shorter than a window over all answers. `answer` is what is said of the
    whole: `means`, of a clip shorter than a window its last answer. `present`: how often each modality was there.
    `numbers`: what was measured on pictures and sound, by Measure.column. `degraded`: how often each reason was given.
    Times are those of the recording that was played, of which a part begins at `begins_s`, or from the session's start.
    `turn` is the flag that a source advises for pictures that lie on their side, `cut` what it says of a recording that
    ended before its time; "" for none.
    """

    predictions: int = 0
    answers: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    begins_s: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    full: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    answer: Mapping[str, float] = field(default_factory=dict)  # of a regression under VALUE
    values: Values | None = None
    moments: tuple[Moment, ...] = ()
    present: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, Values] = field(default_factory=dict)
    degraded: Mapping[str, float] = field(default_factory=dict)
    turn: str = ""
    cut: str = ""

    @property
    def note(self) -> str:
        """What is to be known beside the answers: a recording cut short, no face or false ones; "" for nothing."""
        faceless = "no_face" in self.degraded and not self.present.get("vision")
        face = "no face was found in any picture" if faceless else ""
        turned = f"faces are found when the pictures are turned: give {self.turn}" if self.turn else ""
        return "; ".join(filter(None, (self.cut, face, turned)))

    @property
    def length(self) -> str:
        """How much was watched, and of a part from where."""
        return f"{self.end_s - self.start_s:.1f} s" + self.since

    @property
    def since(self) -> str:
        """From where on a recording was watched; "" unless it is a part."""
        return f" from {clock_text(self.start_s)}" if self.begins_s else ""

    @property
    def label(self) -> str | None:
        """The label that `answer` gives most; None of a regression, or when nothing was answered."""
        return None if self.value is not None else max(self.answer, key=lambda name: self.answer[name], default=None)

    @property
    def confidence(self) -> float | None:
        """The probability of `label`."""
        return None if self.label is None else self.answer[self.label]

    @property
    def value(self) -> float | None:
        """The answer of a regression."""
        return self.answer.get(VALUE) if self.values is not None else None

    def as_json(self) -> dict[str, object]:
        """Plain values, as `--json` prints them."""
        return {
            "predictions": self.predictions,
            "answers": self.answers,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "begins_s": self.begins_s,
            "label": self.label,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "value": None if self.value is None else round(self.value, 4),
            "probs": {} if self.label is None else _rounded(self.answer),
            "full_windows": self.full,
            "shares": _rounded(self.shares),
            "mean_probs": _rounded(self.means),
            "values": None if self.values is None else _rounded(vars(self.values)),
            "moments": [{**vars(one), "strength": round(one.strength, 4)} for one in self.moments],
            "present": _rounded(self.present),
            "numbers": {name: _rounded(vars(values)) for name, values in self.numbers.items()},
            "degraded": _rounded(self.degraded),
            "note": self.note or None,
        }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


class Watch:
    """A sink that sums up predictions as they come; what it keeps does not grow with them. One thread writes,
    for a Status another one may."""

    def __init__(self) -> None:
        self._session: messages.Session | None = None
        self._first: messages.Prediction | None = None
        self._last: messages.Prediction | None = None
        self._predictions = self._answers = 0
        self._tops: Counter[str] = Counter()
        self._full = 0  # answers of windows that were full
        self._sums: dict[str, float] = {}  # of those; before the first, of all answers
        self._newest: dict[str, float] = {}  # answer before the first full window
        self._range = (float("inf"), float("-inf"))
        self._present: Counter[str] = Counter()
        self._numbers: dict[str, tuple[int, float, float, float]] = {}  # count, sum, least and most of each measure
        self._degraded: Counter[str] = Counter()
        self._turn = self._cut = ""
        self._run: Moment | None = None
        self._best: dict[str, list[Moment]] = {}

    def write(self, message: messages.Message) -> None:
        """Take a message of the stream; transcripts and events do not count."""
        if isinstance(message, messages.Session):
            self._session = message
        elif isinstance(message, messages.Prediction):
            self._add(message)
        elif isinstance(message, messages.Status):
            self._turn, self._cut = _said(_TURN, message.sources), _said(_CUT, message.sources)

    def seen(self) -> Seen:
        """What was seen until now."""
        session, first, last = self._session, self._first, self._last
        if session is None or first is None or last is None:
            return Seen()
        answers, everything = max(1, self._answers), self._predictions
        means = {name: total / (self._full or answers) for name, total in self._sums.items()}
        numbers = bool(self._answers) and session.task == "regression"
        return Seen(
            predictions=everything,
            answers=self._answers,
            start_s=round(self._time_s(first) - session.hop_ns / NS_PER_S, 3),
            end_s=self._time_s(last),
            begins_s=session.begins_s,
            shares={label: self._tops[label] / answers for label in session.labels if self._answers},
            full=self._full,
            means={} if numbers else means,
            answer=means if self._full else self._newest,
            values=Values(means[VALUE], *self._range) if numbers else None,
            moments=self._moments(session),
            present={name: self._present[name] / everything for name in MODALITIES},
            numbers={
                name: Values(total / count, least, most) for name, (count, total, least, most) in self._numbers.items()
            },
            degraded={name: count / everything for name, count in self._degraded.most_common()},
            turn=self._turn,
            cut=self._cut,
        )

    def _time_s(self, prediction: messages.Prediction) -> float:
        zero = 0 if self._session is None else zero_ns(self._session)
        return round((prediction.window.end_ns - zero) / NS_PER_S, 3)

    def _add(self, prediction: messages.Prediction) -> None:
        self._first, self._last = self._first or prediction, prediction
        self._predictions += 1
        self._degraded.update(prediction.degraded)
        for name in MODALITIES:
            self._present[name] += getattr(prediction.modalities, name).present
        self._measure(prediction)
        if prediction.label is not None and prediction.confidence is not None:
            self._answers += 1
            self._tops[prediction.label] += 1
            self._mean({label: share or 0.0 for label, share in (prediction.probs or {}).items()}, prediction.window)
            self._extend(prediction.label, prediction.confidence, self._time_s(prediction))
        elif prediction.value is not None:
            self._answers += 1
            self._range = min(self._range[0], prediction.value), max(self._range[1], prediction.value)
            self._mean({VALUE: prediction.value}, prediction.window)
            self._extend(SIGNS[prediction.value < 0], prediction.value, self._time_s(prediction))

    def _measure(self, prediction: messages.Prediction) -> None:
        for measure in MEASURES:
            value = measure.of(prediction)
            if value is not None:
                count, total, least, most = self._numbers.get(measure.column, (0, 0.0, value, value))
                self._numbers[measure.column] = count + 1, total + value, min(least, value), max(most, value)

    def _mean(self, answer: dict[str, float], window: messages.Window) -> None:
        """Count an answer for the means: those of full windows, before the first of them all."""
        full = window.filled is not None and window.filled >= 1.0
        if self._full and not full:
            return
        before = self._sums if self._full or not full else {}
        self._sums = {name: before.get(name, 0.0) + value for name, value in answer.items()}
        self._full += full
        if not full:
            self._newest = answer

    def _extend(self, label: str, strength: float, time_s: float) -> None:
        """Lengthen the moment that goes on, or end it and begin another."""
        run = self._run
        hop_s = 0.2 if self._session is None else self._session.hop_ns / NS_PER_S
        if run is None or run.label != label or time_s - run.end_s > GAP_HOPS * hop_s:
            self._keep(run)
            self._run = Moment(label, strength, time_s, round(time_s - hop_s, 3), time_s)
        elif abs(strength) > abs(run.strength):
            self._run = replace(run, strength=strength, peak_s=time_s, end_s=time_s)
        else:
            self._run = replace(run, end_s=time_s)

    def _keep(self, run: Moment | None) -> None:
        if run is not None:
            self._best[run.label] = _strongest([*self._best.get(run.label, ()), run])[:_KEPT]

    def _moments(self, session: messages.Session) -> tuple[Moment, ...]:
        best = {label: list(runs) for label, runs in self._best.items()}
        if self._run is not None:
            best.setdefault(self._run.label, []).append(self._run)
        if set(best) - {PLAIN}:
            best.pop(PLAIN, None)
        runs = _strongest([run for runs in best.values() for run in runs])
        lasting = [run for run in runs if run.end_s - run.start_s >= LEAST_S]
        return tuple((lasting or runs[:1])[:MOMENTS])


def _said(what: re.Pattern[str], sources: Sequence[messages.Source]) -> str:
    found = (what.search(source.reason or "") for source in sources)
    return next((match[0] for match in found if match), "")


def _strongest(runs: list[Moment]) -> list[Moment]:
    return sorted(runs, key=lambda run: abs(run.strength), reverse=True)


def zero_ns(session: messages.Session) -> int:
    """What the times of a report count from: the beginning of the recording, though a part of it was played."""
    return session.origin_ns - round(session.begins_s * NS_PER_S)


def clock_text(seconds: float) -> str:
    """1:02.4 of 62.4 s."""
    tenths = round(seconds * 10)
    hours, rest = divmod(max(0, tenths), 36000)
    minutes, rest = divmod(rest, 600)
    text = f"{rest // 10:02}.{rest % 10}"
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"
