"""What a report says of a session, as plain text and numbers: for the page and for the picture of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from clcr_stream.recording import charts
from clcr_stream.recording.charts import Axis, Point
from clcr_stream.recording.numbers import MEASURES
from clcr_stream.recording.seen import Moment, Seen, clock_text, zero_ns
from clcr_stream.recording.story import Story
from clcr_stream.wire import messages

THERE = {"vision": "face", "acoustic": "sound", "language": "words"}
MEANINGS = {
    "no_input": "nothing was seen or heard, so there is no answer",
    "no_face": "pictures came, but no face was found in them",
    "vision_absent": "no pictures in the window",
    "acoustic_absent": "no sound in the window",
    "language_absent": "no words in the window",
    "vision_stale": "the newest picture was older than 0.6 s",
    "acoustic_stale": "the newest sound was older than 0.5 s",
    "vision_frozen": "the camera repeated one picture",
    "vision_dark": "the pictures had hardly any light",
    "vision_covered": "nothing could be made out in the pictures: a cover, a hand, a smooth spot of light",
    "acoustic_silent": "the sound was digital silence: a muted or unplugged microphone",
    "acoustic_clipping": "the sound was too loud for its recording: distorted",
    "acoustic_noisy": "loud noise, and speech hardly above it",
    "vision_required": "pictures were required, and were missing for too long",
    "acoustic_required": "sound was required, and was missing for too long",
    "calibrating": "the person's baseline was still being set",
}
MAX_WORDS = 2000
_AROUND_S = 3.0  # words of a moment: said so long before it at most
NOT_MEASURED = "Not measured: the file was not played at its own pace."
CAVEAT = (
    "These are estimates of the expression that people would name, not of what a person feels. "
    "How often they are right, and for whom they are not: the model card of the bundle."
)


def about(story: Story, seen: Seen) -> str:
    """How long, how many, when and by what."""
    started = story.session.started_at.replace("T", " ").partition(".")[0]
    seconds = seen.end_s - seen.start_s
    length = f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds).rpartition(".")[0]
    facts = (f"{length} watched{seen.since}", f"{seen.predictions} predictions", f"started {started} UTC")
    return " · ".join((*facts, f"bundle {story.session.bundle_name}"))


def notes(story: Story, seen: Seen) -> str:
    """What a reader must know before anything else; "" for nothing."""
    return "; ".join(filter(None, (*story.notes, seen.note)))


def answer(seen: Seen) -> tuple[str, str]:
    """What was expressed, in a word or number, and what that is of. There must be an answer."""
    if seen.values is not None:
        what = "on average" if seen.full else "by its last answer"
        return f"{seen.value:+.2f}", f"{what}, from {seen.values.low:+.2f} to {seen.values.high:+.2f}"
    what = "overall, mean probability" if seen.full else "by its last answer, no window being full: probability"
    return seen.label or "", f"{what} {seen.confidence or 0.0:.2f}"


def legend(story: Story) -> str:
    """What is seen in the picture of the answers."""
    text = f"Each answer looks back {story.session.window_ns / 1e9:g} s. Numbers: the strongest moments below."
    return text + (" Underneath: the words as they were spoken." if story.words else "")


def picture(story: Story, axis: Axis) -> str:
    """The answers over time, as SVG."""
    found = charts.points(story.session, story.predictions)
    pause_s = _pause_s(found, story.session)
    if story.session.task == "regression":
        return charts.curve(found, axis, pause_s)
    return charts.stacked(found, axis, story.session.labels, pause_s)


def _pause_s(found: Sequence[Point], session: messages.Session) -> float:
    steps = sorted(after.time_s - before.time_s for before, after in itertools.pairwise(found))
    return 5 * (steps[len(steps) // 2] if steps else session.hop_ns / 1e9)


def said_before(story: Story, moment: Moment) -> str:
    """The words of a moment, "" without any."""
    until_ns = zero_ns(story.session) + int(moment.peak_s * 1e9)
    since_ns = until_ns - int(_AROUND_S * 1e9)
    return " ".join(one.text for one in story.words if since_ns < one.end_ns and one.start_ns < until_ns)


def weight(predictions: Sequence[messages.Prediction], name: str) -> float | None:
    """The mean weight of a modality in the answers; None when it is not known."""
    weights = [getattr(one.modalities, name).weight for one in predictions if one.label or one.value is not None]
    known = [weight for weight in weights if weight is not None]
    return sum(known) / len(known) if known else None


def numbers(seen: Seen) -> list[tuple[str, str, str]]:
    """What was measured on pictures and sound: its name, its mean and its range."""
    rows = []
    for measure in MEASURES:
        values = seen.numbers.get(measure.column)
        if values is not None:
            low, high = measure.text(values.low), measure.text(values.high)
            rows.append((measure.name, measure.text(values.mean), f"{low} to {high}"))
    return rows


def latency(story: Story) -> str | None:
    """How long predictions took; None when that was not measured."""
    latency = None if story.status is None else story.status.latency_ms
    if latency is None or latency.p50 is None:
        return None
    p50, p95, p99 = (_duration(value or 0.0) for value in (latency.p50, latency.p95, latency.p99))
    return f"Half of them within {p50}, 95 % within {p95}, 99 % within {p99}."


def account(story: Story) -> str:
    """How many predictions were made, and why others were not; "" when that is not known."""
    if story.status is None:
        return ""
    ticks = story.status.ticks
    reasons = ", ".join(f"{count} {reason}" for reason, count in ticks.skipped.items() if count)
    skipped = f"; skipped: {reasons}" if reasons else ""
    return f"{ticks.published} of {ticks.due} predictions were made{skipped}."


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
