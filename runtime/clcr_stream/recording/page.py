"""A session as one self-contained HTML page: no script, nothing from a network, readable in dark, light and print."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.recording import charts, facts
from clcr_stream.recording.charts import Axis, shown
from clcr_stream.recording.compare import Comparison
from clcr_stream.recording.seen import MODALITIES, SIGNS, Moment, Seen, clock_text, zero_ns
from clcr_stream.recording.story import Story
from clcr_stream.recording.style import CSS
from clcr_stream.wire import messages

MAX_CHANGES = 100


def page(story: Story, name: str) -> str:
    """The report of a session; `name` is what it was read from. All text of the session is escaped."""
    seen = story.seen()
    notes = facts.notes(story, seen)
    body = [
        _head(story, seen, name),
        *([f'<p class="note">{shown(notes)}</p>'] if notes else []),
        _answer(story, seen),
        _timeline(story, seen),
        _moments(story, seen),
        _presence(story, seen),
        _numbers(seen),
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
    notice = shown(" ".join(story.session.intended_use.notice.split()))
    return (
        f'<header><h1>{shown(name)}</h1><p class="facts">{shown(facts.about(story, seen))}</p>'
        f'<p class="notice">{notice}</p></header>'
    )


def _answer(story: Story, seen: Seen) -> str:
    """What was expressed, in one line and one bar."""
    if not seen.answers:
        return '<section><p class="answer">No answer: nobody was seen or heard.</p></section>'
    large, rest = facts.answer(seen)
    line = f'<p class="answer">{shown(large)}<span> {shown(rest)}</span></p>'
    if seen.values is not None:
        return f"<section>{line}</section>"
    order = sorted(enumerate(story.session.labels), key=lambda item: seen.shares.get(item[1], 0.0), reverse=True)
    bars, keys = [], []
    for index, other in order:
        share = seen.shares.get(other, 0.0)
        bars.append(f'<i class="b{index}" style="width:{share * 100:.2f}%"></i>')
        keys.append(
            f'<li class="{"" if share else "none"}"><b class="b{index}"></b>{shown(other)} <em>{share:.0%}</em></li>'
        )
    return (
        f'<section>{line}<div class="bar">{"".join(bars)}</div><ul class="keys">{"".join(keys)}</ul>'
        '<p class="small">How often each was the most probable one.</p></section>'
    )


def _timeline(story: Story, seen: Seen) -> str:
    session = story.session
    if not seen.answers:
        return ""
    axis = Axis(seen.start_s, seen.end_s)
    picture = facts.picture(story, axis)
    spoken, high = charts.words(story.words[: facts.MAX_WORDS], zero_ns(session), axis)
    under = f'<g transform="translate(0 {charts.HEIGHT + 28})">{spoken}</g>'
    drawn = charts.svg(
        picture + charts.marks(seen.moments, axis) + under, -26, charts.HEIGHT + 60 + high, "The answers over time"
    )
    return f'<section><h2>Over time</h2>{drawn}<p class="small">{facts.legend(story)}</p></section>'


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
    said = facts.said_before(story, moment)
    return f"<td>{f'“{shown(said[:200])}”' if said else ''}</td>"


def _presence(story: Story, seen: Seen) -> str:
    """What was there and what was missing, and why."""
    found = charts.points(story.session, story.predictions)
    axis = Axis(seen.start_s, seen.end_s)
    names = list(facts.THERE.values())
    lanes = charts.svg(charts.lanes(found, axis, names), 0, 48, "When face, sound and words were there")
    weights = {name: facts.weight(story.predictions, name) for name in MODALITIES}
    rows = []
    for name in MODALITIES:
        rows.append(
            f"<tr><td>{facts.THERE[name]}</td><td>{seen.present.get(name, 0.0):.0%}</td>"
            f"<td>{'' if weights[name] is None else f'{weights[name]:.0%}'}</td></tr>"
        )
    missing = [
        f"<tr><td><code>{shown(reason)}</code></td><td>{share:.0%}</td>"
        f"<td>{shown(facts.MEANINGS.get(reason, ''))}</td></tr>"
        for reason, share in seen.degraded.items()
    ]
    why = (
        f"<table><tr><th>missing</th><th>of the time</th><th></th></tr>{''.join(missing)}</table>"
        if missing
        else '<p class="small">Nothing was missing at any time.</p>'
    )
    return (
        f'<section><h2>What was there</h2>{lanes}<div class="two"><table><tr><th></th><th>there</th>'
        f"<th>weight in the answers</th></tr>{''.join(rows)}</table><div>{why}{_sources(story.session, story.status)}"
        "</div></div></section>"
    )


def _numbers(seen: Seen) -> str:
    """How good pictures and sound were."""
    rows = "".join(
        f"<tr><td>{shown(name)}</td><td>{mean}</td><td>{span}</td></tr>" for name, mean, span in facts.numbers(seen)
    )
    head = "<tr><th></th><th>on average</th><th>range</th></tr>"
    return f"<section><h2>How good it was</h2><table>{head}{rows}</table></section>" if rows else ""


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
    measured = facts.latency(story)
    if measured is None:
        text = f'<p class="small">{facts.NOT_MEASURED}</p>'
    else:
        values = [one.latency_ms for one in story.predictions if one.latency_ms is not None]
        text = f"<p>{measured}</p>{charts.histogram(values) if values else ''}"
    account = facts.account(story)
    text += f'<p class="small">{shown(account)}</p>' if account else ""
    return f"<section><h2>From capture to prediction</h2>{text}</section>"


def _words(story: Story) -> str:
    """All words, each with the answer of the moment when it had been said."""
    if not story.words:
        return ""
    labels = {label: index for index, label in enumerate(story.session.labels)}
    rows = []
    position = 0
    answers = [one for one in story.predictions if one.label is not None or one.value is not None]
    for one in story.words[: facts.MAX_WORDS]:
        while position + 1 < len(answers) and answers[position].window.end_ns < one.end_ns:
            position += 1
        answer = _answer_of(answers[position], labels) if answers else ""
        time_s = (one.start_ns - zero_ns(story.session)) / 1e9
        rows.append(f"<tr><td>{clock_text(time_s)}</td><td>{shown(one.text)}</td><td>{answer}</td></tr>")
    more = len(story.words) - facts.MAX_WORDS
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
        f"<footer><p>{facts.CAVEAT}</p>"
        f"<p>Bundle <code>{shown(session.bundle[:16])}</code> on {shown(session.backend)}, session "
        f"<code>{shown(session.session)}</code>. Contexts of use: {shown(', '.join(session.intended_use.context))}. "
        f"{versions}.</p></footer>"
    )


def comparison_page(before: Story, after: Story, result: Comparison, name: str) -> str:
    """Two runs over the same media, one picture over the other, and the ticks that differ."""
    seen = before.seen(), after.seen()
    axis = Axis(min(one.start_s for one in seen), max(one.end_s for one in seen))
    verdict = "The same" if result.same else "Different" if result.incomparable is None else "Not comparable"
    numbers = f"{result.compared} predictions compared, {result.missing} did not come again; {shown(result.told)}"
    body = [f'<header><h1>{shown(name)}</h1><p class="answer">{verdict}</p><p class="facts">{numbers}</p></header>']
    for title, story in (("As recorded", before), ("Again", after)):
        session = story.session
        what = f"{shown(session.bundle_name)} <code>{shown(session.bundle[:12])}</code> on {shown(session.backend)}"
        gamma = "" if not story.predictions else f", gamma {story.predictions[0].budget.gamma or 0.0:g}"
        drawn = charts.svg(facts.picture(story, axis), -6, charts.HEIGHT + 30, title)
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
