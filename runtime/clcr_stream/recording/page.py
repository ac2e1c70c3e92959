"""A session as one self-contained HTML page: no script, nothing from a network, readable in dark, light and print."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from clcr_stream.recording import charts
from clcr_stream.recording.charts import Axis, Point, shown
from clcr_stream.recording.compare import Comparison
from clcr_stream.recording.seen import MODALITIES, SIGNS, Moment, Seen, clock_text
from clcr_stream.recording.story import Story
from clcr_stream.recording.style import CSS
from clcr_stream.wire import messages

THERE = {"vision": "face", "acoustic": "sound", "language": "words"}
MEANINGS = {
    "no_input": "nothing was seen or heard, so there is no answer",
    "no_face": "pictures came, but no face was found in them",
    "vision_absent": "no pictures in the window",
    "acoustic_absent": "no sound in the window",
    "language_absent": "no words in the window",
    "vision_stale": "the newest picture was older than 1 s",
    "acoustic_stale": "the newest sound was older than 0.5 s",
    "calibrating": "the person's baseline was still being set",
}
MAX_WORDS = 2000
MAX_CHANGES = 100
_AROUND_S = 3.0  # words of a moment: said so long before it at most


def page(story: Story, name: str) -> str:
    """The report of a session; `name` is what it was read from. All text of the session is escaped."""
    seen = story.seen()
    body = [
        _head(story, seen, name),
        *([] if not story.notes else [f'<p class="note">{shown("; ".join(story.notes))}</p>']),
        _answer(story, seen),
        _timeline(story, seen),
        _moments(story, seen),
        _presence(story, seen),
        _latency(story),
        _words(story),
        _foot(story),
    ]
    return document(f"{name}: what was seen", body)


def document(title: str, body: Sequence[str]) -> str:
    """A whole page of these parts, which nothing can make load or run anything."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer"><title>{shown(title)}</title>'
        f"<style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(story: Story, seen: Seen, name: str) -> str:
    session = story.session
    started = session.started_at.replace("T", " ").partition(".")[0]
    facts = [
        f"{_length(seen.end_s - seen.start_s)} watched",
        f"{seen.predictions} predictions",
        f"started {shown(started)} UTC",
        f"bundle {shown(session.bundle_name)}",
    ]
    notice = shown(" ".join(session.intended_use.notice.split()))
    return (
        f'<header><h1>{shown(name)}</h1><p class="facts">{" · ".join(facts)}</p><p class="notice">{notice}</p></header>'
    )


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds).rpartition(".")[0]


def _answer(story: Story, seen: Seen) -> str:
    """What was expressed, in one line and one bar."""
    if not seen.answers:
        return '<section><p class="answer">No answer: nobody was seen or heard.</p></section>'
    if seen.values is not None:
        values = seen.values
        return (
            f'<section><p class="answer">{values.mean:+.2f}<span> on average, from {values.low:+.2f} to '
            f"{values.high:+.2f}</span></p></section>"
        )
    label = seen.label or ""
    order = sorted(enumerate(story.session.labels), key=lambda item: seen.shares.get(item[1], 0.0), reverse=True)
    bars, keys = [], []
    for index, other in order:
        share = seen.shares.get(other, 0.0)
        bars.append(f'<i class="b{index}" style="width:{share * 100:.2f}%"></i>')
        keys.append(
            f'<li class="{"" if share else "none"}"><b class="b{index}"></b>{shown(other)} <em>{share:.0%}</em></li>'
        )
    return (
        f'<section><p class="answer">{shown(label)}<span> overall, mean probability {seen.means[label]:.2f}</span></p>'
        f'<div class="bar">{"".join(bars)}</div><ul class="keys">{"".join(keys)}</ul>'
        '<p class="small">How often each was the most probable one.</p></section>'
    )


def _timeline(story: Story, seen: Seen) -> str:
    session = story.session
    if not seen.answers:
        return ""
    axis = Axis(seen.start_s, seen.end_s)
    picture = _picture(story, axis)
    spoken, high = charts.words(story.words[:MAX_WORDS], session.origin_ns, axis)
    under = f'<g transform="translate(0 {charts.HEIGHT + 28})">{spoken}</g>'
    drawn = charts.svg(
        picture + charts.marks(seen.moments, axis) + under, -26, charts.HEIGHT + 60 + high, "The answers over time"
    )
    window_s = session.window_ns / 1e9
    small = f"Each answer looks back {window_s:g} s. Numbers: the strongest moments below."
    small += " Underneath: the words as they were spoken." if story.words else ""
    return f'<section><h2>Over time</h2>{drawn}<p class="small">{small}</p></section>'


def _picture(story: Story, axis: Axis) -> str:
    """The answers over time."""
    found = charts.points(story.session, story.predictions)
    pause_s = _pause_s(found, story.session)
    if story.session.task == "regression":
        return charts.curve(found, axis, pause_s)
    return charts.stacked(found, axis, story.session.labels, pause_s)


def _pause_s(found: Sequence[Point], session: messages.Session) -> float:
    steps = sorted(after.time_s - before.time_s for before, after in itertools.pairwise(found))
    return 5 * (steps[len(steps) // 2] if steps else session.hop_ns / 1e9)


def _moments(story: Story, seen: Seen) -> str:
    if not seen.moments:
        return ""
    labels = {label: index for index, label in enumerate(story.session.labels)}
    rows = []
    for number, moment in enumerate(seen.moments, 1):
        strength = f"{moment.strength:+.2f}" if moment.label in SIGNS else f"{moment.strength:.2f}"
        key = f'<b class="b{labels[moment.label]}"></b>' if moment.label in labels else ""
        rows.append(
            f"<tr><td>{number}</td><td>{key}{shown(moment.label)} {strength}</td><td>{clock_text(moment.peak_s)}</td>"
            f"<td>{clock_text(moment.start_s)} to {clock_text(moment.end_s)}</td>{_said(story, moment)}</tr>"
        )
    said = "<th>words shortly before</th>" if story.words else ""
    return (
        '<section><h2>Strongest moments</h2><table class="moments"><tr><th></th><th>what</th><th>at</th><th>lasted</th>'
        f"{said}</tr>{''.join(rows)}</table></section>"
    )


def _said(story: Story, moment: Moment) -> str:
    """The cell with the words of a moment; no cell where there are no words at all."""
    if not story.words:
        return ""
    origin_ns = story.session.origin_ns
    until_ns = origin_ns + int(moment.peak_s * 1e9)
    since_ns = until_ns - int(_AROUND_S * 1e9)
    said = " ".join(one.text for one in story.words if since_ns < one.end_ns and one.start_ns < until_ns)
    return f"<td>{f'“{shown(said[:200])}”' if said else ''}</td>"


def _presence(story: Story, seen: Seen) -> str:
    """What was there and what was missing, and why."""
    found = charts.points(story.session, story.predictions)
    axis = Axis(seen.start_s, seen.end_s)
    names = list(THERE.values())
    lanes = charts.svg(charts.lanes(found, axis, names), 0, 48, "When face, sound and words were there")
    weights = {name: _weight(story.predictions, name) for name in MODALITIES}
    rows = []
    for name in MODALITIES:
        quality = seen.quality.get(name)
        rows.append(
            f"<tr><td>{THERE[name]}</td><td>{seen.present.get(name, 0.0):.0%}</td>"
            f"<td>{'' if quality is None else f'{quality:.2f}'}</td>"
            f"<td>{'' if weights[name] is None else f'{weights[name]:.0%}'}</td></tr>"
        )
    missing = [
        f"<tr><td><code>{shown(reason)}</code></td><td>{share:.0%}</td><td>{shown(MEANINGS.get(reason, ''))}</td></tr>"
        for reason, share in seen.degraded.items()
    ]
    why = (
        f"<table><tr><th>missing</th><th>of the time</th><th></th></tr>{''.join(missing)}</table>"
        if missing
        else '<p class="small">Nothing was missing at any time.</p>'
    )
    return (
        f'<section><h2>What was there</h2>{lanes}<div class="two"><table><tr><th></th><th>there</th><th>quality</th>'
        f"<th>weight in the answers</th></tr>{''.join(rows)}</table><div>{why}{_sources(story.session, story.status)}"
        "</div></div></section>"
    )


def _weight(predictions: Sequence[messages.Prediction], name: str) -> float | None:
    weights = [getattr(one.modalities, name).weight for one in predictions if one.label or one.value is not None]
    known = [weight for weight in weights if weight is not None]
    return sum(known) / len(known) if known else None


def _sources(session: messages.Session, status: messages.Status | None) -> str:
    sources = session.sources if status is None else status.sources
    lines = [
        f"<li>{shown(source.kind)} <code>{shown(source.name)}</code>: {shown(source.state)}"
        f"{'' if not source.reason else f', {shown(source.reason)}'}</li>"
        for source in sources
    ]
    return f'<ul class="sources">{"".join(lines)}</ul>' if lines else ""


def _latency(story: Story) -> str:
    """How long predictions took, and which are missing."""
    status = story.status
    latency = None if status is None else status.latency_ms
    if latency is None or latency.p50 is None:
        text = '<p class="small">Not measured: the file was not played at its own pace.</p>'
    else:
        p50, p95, p99 = (_duration(value or 0.0) for value in (latency.p50, latency.p95, latency.p99))
        text = f"<p>Half of them within {p50}, 95 % within {p95}, 99 % within {p99}.</p>"
        values = [one.latency_ms for one in story.predictions if one.latency_ms is not None]
        text += charts.histogram(values) if values else ""
    skipped: Counter[str] = Counter() if status is None else Counter(status.ticks.skipped)
    if status is not None:
        reasons = ", ".join(f"{count} {shown(reason)}" for reason, count in skipped.items() if count)
        due = f"{status.ticks.published} of {status.ticks.due} predictions were made"
        text += f'<p class="small">{due}{f"; skipped: {reasons}" if reasons else ""}.</p>'
    return f"<section><h2>From capture to prediction</h2>{text}</section>"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def _words(story: Story) -> str:
    """All words, each with the answer of the moment when it had been said."""
    if not story.words:
        return ""
    labels = {label: index for index, label in enumerate(story.session.labels)}
    rows = []
    position = 0
    answers = [one for one in story.predictions if one.label is not None or one.value is not None]
    for one in story.words[:MAX_WORDS]:
        while position + 1 < len(answers) and answers[position].window.end_ns < one.end_ns:
            position += 1
        answer = _answer_of(answers[position], labels) if answers else ""
        time_s = (one.start_ns - story.session.origin_ns) / 1e9
        rows.append(f"<tr><td>{clock_text(time_s)}</td><td>{shown(one.text)}</td><td>{answer}</td></tr>")
    more = len(story.words) - MAX_WORDS
    rest = f'<p class="small">and {more} more.</p>' if more > 0 else ""
    return f'<section><h2>Words</h2><table class="words">{"".join(rows)}</table>{rest}</section>'


def _answer_of(prediction: messages.Prediction, labels: dict[str, int]) -> str:
    if prediction.label is not None:
        key = f'<b class="b{labels[prediction.label]}"></b>' if prediction.label in labels else ""
        return f"{key}{shown(prediction.label)} {prediction.confidence or 0.0:.2f}"
    return f"{prediction.value or 0.0:+.2f}"


def _foot(story: Story) -> str:
    session = story.session
    versions = ", ".join(f"{shown(name)} {shown(version)}" for name, version in session.versions.items())
    return (
        "<footer><p>These are estimates of the expression that people would name, not of what a person feels. "
        "How often they are right, and for whom they are not: the model card of the bundle.</p>"
        f"<p>Bundle <code>{shown(session.bundle[:16])}</code> on {shown(session.backend)}, session "
        f"<code>{shown(session.session)}</code>. Contexts of use: {shown(', '.join(session.intended_use.context))}. "
        f"{versions}.</p></footer>"
    )


def comparison_page(before: Story, after: Story, result: Comparison, name: str) -> str:
    """Two runs over the same media, one picture over the other, and the ticks that differ."""
    seen = before.seen(), after.seen()
    axis = Axis(min(one.start_s for one in seen), max(one.end_s for one in seen))
    verdict = "The same" if result.same else "Different"
    facts = (
        f"{result.compared} predictions compared, {result.missing} did not come again; labels changed: "
        f"{result.labels_changed}; largest difference {result.largest:.2g}, mean {result.mean:.2g}"
    )
    body = [f'<header><h1>{shown(name)}</h1><p class="answer">{verdict}</p><p class="facts">{facts}</p></header>']
    for title, story in (("As recorded", before), ("Again", after)):
        session = story.session
        what = f"{shown(session.bundle_name)} <code>{shown(session.bundle[:12])}</code> on {shown(session.backend)}"
        gamma = "" if not story.predictions else f", gamma {story.predictions[0].budget.gamma or 0.0:g}"
        drawn = charts.svg(_picture(story, axis), -6, charts.HEIGHT + 30, title)
        body.append(f'<section><h2>{title}</h2><p class="facts">{what}{gamma}</p>{drawn}{_keys(session)}</section>')
    rows = "".join(
        f"<tr><td>{clock_text(one.time_s)}</td><td>{shown(one.before)}</td><td>{shown(one.after)}</td>"
        f"<td>{one.difference:.3g}</td></tr>"
        for one in result.changes[:MAX_CHANGES]
    )
    if rows:
        more = len(result.changes) - MAX_CHANGES
        rest = f'<p class="small">and {more} more; --json has all.</p>' if more > 0 else ""
        head = "<tr><th>at</th><th>recorded</th><th>again</th><th>difference</th></tr>"
        body.append(f"<section><h2>What differs</h2><table>{head}{rows}</table>{rest}</section>")
    return document(f"{name}: replayed", body)


def _keys(session: messages.Session) -> str:
    keys = "".join(f'<li><b class="b{index}"></b>{shown(label)}</li>' for index, label in enumerate(session.labels))
    return f'<ul class="keys">{keys}</ul>' if keys else ""
