"""What `clcr-stream top` shows of a stream: its lines for a given width and height, from what its watcher knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clcr_stream.cli.cells import Line, Signs, binned, fitted, printable, wrapped
from clcr_stream.clock import NS_PER_S
from clcr_stream.recording.numbers import line_of
from clcr_stream.wire.messages import Number, Prediction, Source
from clcr_stream.wire.watched import Moment, Watched, parts_of

SPAN_S = 60.0
VALUE_LIMIT = 3.0  # sentiment goes from -3 to 3
# Okabe and Ito's colours, which people with any colour vision tell apart; names and numbers say the same.
COLOURS = ("color(247)", "color(75)", "color(214)", "color(36)", "color(175)", "color(166)", "color(227)", "color(32)")
_MIN_NAME, _MAX_NAME = 4, 14
_STATES = {"live": "green", "starting": "dim", "ended": "dim", "failed": "bold red"}
_TROUBLED = "yellow"  # any other state of a source
_LOSSES = ("late", "overflow", "malformed", "not_finite", "lost")  # ends of the names of a source's counts
_WIDE = 62  # columns from which on tables have all of their parts


@dataclass(frozen=True)
class Section:
    """Some lines of a panel; of two that do not both fit the one with the lower `rank` stays."""

    rank: int
    lines: Sequence[Line]


def panel(watched: Watched, columns: int, rows: int, signs: Signs, now_ns: int) -> list[Line]:
    """The stream in exactly `rows` lines of `columns` cells."""
    sections = [Section(0, [title(watched, now_ns)]), Section(1, [state_line(watched, now_ns)])]
    prediction = watched.prediction
    if prediction is not None:
        moments = list(watched.last(SPAN_S))
        blank = Section(90, [[]])
        if prediction.probs is not None:
            sections += [blank, Section(2, scores(watched, moments, columns, signs))]
        else:
            sections += [blank, Section(2, value(prediction, moments, columns, signs))]
        sections += [blank, *words(watched, columns), blank]
        sections += [Section(4, modalities(prediction, columns, signs))]
        sections += [Section(8, levels(prediction, columns, signs))]
        sections += [Section(10, numbers(prediction))]
        sections += [blank, *sources(watched)]
        sections += [Section(6, [latency(watched, moments, columns, signs)]), Section(3, [ticks(watched)])]
        sections += refused(watched)
    chosen = _fitting(sections, rows)
    lines = [line for section in chosen for line in section.lines][:rows]
    lines += [[] for _ in range(rows - len(lines))]
    return [fitted(line, columns) for line in lines]


def _fitting(sections: list[Section], rows: int) -> list[Section]:
    """Those that fit, the lowest rank first, in their order; a smaller one may have the room that is left."""
    left = rows
    chosen: list[int] = []
    for index, section in sorted(enumerate(sections), key=lambda entry: entry[1].rank):
        if len(section.lines) <= left or not chosen:
            chosen.append(index)
            left -= len(section.lines)
    return [sections[index] for index in sorted(chosen)]


def title(watched: Watched, now_ns: int) -> Line:
    """Name, what is recorded, state, bundle and how long it has run."""
    line: Line = [(watched.name, "bold")]
    recorded = watched.recording(now_ns)
    if recorded:
        line += [("  ", ""), (recorded, "bold red")]
    status, session = watched.status, watched.session
    if status is not None:
        minutes, seconds = divmod(int(status.uptime_s), 60)
        hours, minutes = divmod(minutes, 60)
        line.append((f"  {status.state} {hours}:{minutes:02}:{seconds:02}", ""))
    if session is not None:
        line.append((f"  {session.bundle_name} {session.bundle[:8]} on {session.backend}", "dim"))
    return line


def state_line(watched: Watched, now_ns: int) -> Line:
    """What is waited for, what is degraded, or that all is well."""
    waiting = watched.waiting(now_ns)
    if waiting:
        return [(f"! {waiting}", "yellow")]
    prediction = watched.prediction
    if prediction is None:
        return [("! connected; waiting for the first prediction", "yellow")]
    if prediction.degraded:
        return [(f"! degraded: {', '.join(prediction.degraded)}", "yellow")]
    return [("  all inputs are there", "dim")]


def _seconds(moments: Sequence[Moment], pick: Callable[[Moment], Number], cells: int) -> list[float | None]:
    """The last minute in `cells` parts."""
    if not moments:
        return [None] * cells
    last_ns, span_ns = moments[-1].end_ns, SPAN_S * NS_PER_S
    return binned(((1.0 - (last_ns - one.end_ns) / span_ns, pick(one)) for one in moments), cells)


def scores(watched: Watched, moments: Sequence[Moment], columns: int, signs: Signs) -> list[Line]:
    """A line for each label: probability, bar and the last minute."""
    prediction = watched.prediction
    assert prediction is not None
    probs = prediction.probs or {}
    names = [printable(name) for name in probs]
    width = min(_MAX_NAME, max([_MIN_NAME, *map(len, names)]))
    room = columns - width - 9
    spark = max(8, min(60, room // 2))
    bars = max(4, min(60, room - spark))
    lines: list[Line] = []
    for index, (name, share) in enumerate(probs.items()):
        top = name == prediction.label
        colour = COLOURS[index % len(COLOURS)]
        past = _seconds(moments, lambda one, at=index: one.scores[at] if at < len(one.scores) else None, spark)  # type: ignore[misc]
        number = " null" if share is None else f"{share:5.2f}"
        lines.append(
            [
                ("> " if top else "  ", "bold"),
                (f"{names[index][:width]:<{width}}", "bold" if top else ""),
                (f"{number} ", "bold" if top else ""),
                (signs.filled(share, bars), colour),
                (" ", ""),
                (signs.sparkline(past), colour),
            ]
        )
    if prediction.label is None:
        lines.append([("  no answer: the numbers are the model's prior, they say nothing of anybody", "yellow")])
    return lines


def value(prediction: Prediction, moments: Sequence[Moment], columns: int, signs: Signs) -> list[Line]:
    """The value of a regression on its scale, and the last minute."""
    most = max((abs(one.scores[0]) for one in moments if one.scores and one.scores[0] is not None), default=0.0)
    limit = max(VALUE_LIMIT, math.ceil(10 * most) / 10)
    text = "no answer" if prediction.value is None else f"{prediction.value:+.2f}"
    cells = max(9, min(81, columns - 14))
    spark = min(60, max(8, columns - 14))
    past = _seconds(moments, lambda one: one.scores[0] if one.scores else None, spark)
    return [
        [("> ", "bold"), (f"{text:<10}", "bold"), (signs.signed(prediction.value, limit, cells), COLOURS[1])],
        [(f"  {'scale':<10}{f'-{limit:g}':<{cells // 2}}0{f'+{limit:g}':>{cells // 2}}", "dim")],
        [(f"  {'minute':<10}", "dim"), (signs.sparkline(past, -limit, limit), COLOURS[1])],
    ]


def words(watched: Watched, columns: int) -> list[Section]:
    """The newest words, the last line of them the most important; what may still change is dim."""
    segments = watched.words[-12:]
    said = " ".join(segment.text for segment in segments if segment.final)
    shown = wrapped(f'{said}"' if said else "", columns - 5, 3)
    begins = '"' if said.startswith(shown[0][:8] if shown else "") else "…"
    lines: list[Line] = [[(f"  {' ' if index else begins}{text}", "")] for index, text in enumerate(shown)]
    pending = next((segment.text for segment in reversed(segments) if not segment.final), "")
    if pending:
        lines.append([(f"  … {printable(pending)}", "dim")])
    if not lines:
        lines = [[("  no words yet", "dim")]]
    return [Section(9 - index if index == len(lines) - 1 else 20 - index, [line]) for index, line in enumerate(lines)]


def modalities(prediction: Prediction, columns: int, signs: Signs) -> list[Line]:
    """Weight beta, gate eta, coverage and age of each modality."""
    wide = columns >= _WIDE
    bars = max(4, min(24, (columns - 42) // 2)) if wide else max(3, (columns - 25) // 2)
    head = f"{'':9}{'beta':<{bars + 6}}{'eta':<{bars + 6}}"
    lines: list[Line] = [[(head + (f"{'there':>7}{'age':>9}" if wide else ""), "dim")]]
    for name, part in parts_of(prediction):
        style = "" if part.present else "dim"
        text: Line = [
            (f"  {name:<7}", style),
            (f"{_number(part.weight)} {signs.filled(part.weight, bars)} ", style),
            (f"{_number(part.gate)} {signs.filled(part.gate, bars)} ", style),
        ]
        if wide:
            age = "-" if part.age_ms is None else f"{part.age_ms:.0f} ms"
            there = "no" if not part.present else f"{100 * (part.coverage or 0.0):.0f} %"
            text.append((f"{there:>7}{age:>9}", style))
        lines.append(text)
    return lines


def numbers(prediction: Prediction) -> list[Line]:
    """What was measured on pictures and sound, a line each."""
    found = (("vision", line_of(prediction, "vision")), ("sound", line_of(prediction, "acoustic")))
    return [[(f"  {name:<7}", "dim"), (text, "")] for name, text in found if text]


def levels(prediction: Prediction, columns: int, signs: Signs) -> list[Line]:
    """Weight omega of each level, and how many of a modality's tokens took part there."""
    bars = max(4, min(24, columns - 34))
    gamma = prediction.budget.gamma
    budget = "budget" if gamma is None else f"budget, gamma {gamma:g}"
    lines: list[Line] = [
        [(f"  {'level':<7}{'omega':<{bars + 6}}{budget if columns >= _WIDE else 'vis snd wrd %'}", "dim")]
    ]
    for index, weight in enumerate(prediction.levels.weights):
        shares = prediction.budget.active[index]
        text = f"  {index + 1:<7}{_number(weight)} {signs.filled(weight, bars)} "
        if columns >= _WIDE:
            parts = (
                f"{name} {_percent(share)}" for name, share in zip(("vision", "sound", "words"), shares, strict=True)
            )
            text += "  ".join(parts)
        else:
            text += " ".join(f"{_percent(share)[:-2]:>3}" for share in shares)
        lines.append([(text, "")])
    return lines


def sources(watched: Watched) -> list[Section]:
    """A line for each source; one that is not live says why."""
    if watched.status is None:
        return []
    return [Section(5, [_source(source)]) for source in watched.status.sources]


def _source(source: Source) -> Line:
    reason = f": {source.reason}" if source.reason and source.state != "live" else ""
    lost = {name: count for name, count in source.counts.items() if count and name.endswith(_LOSSES)}
    counts = ", ".join(f"{name} {count}" for name, count in lost.items())
    return [
        (f"  {source.kind} {source.name} ", ""),
        (source.state, _STATES.get(source.state, _TROUBLED)),
        (f"{reason}{f'  {counts}' if counts else ''}", "dim" if not reason else ""),
    ]


def latency(watched: Watched, moments: Sequence[Moment], columns: int, signs: Signs) -> Line:
    """Capture to publish of the last minute."""
    found = watched.latency_ms(SPAN_S)
    if found is None:
        return [("  latency: none measured yet", "dim")]
    text = f"  latency p50 {found[0]:.0f} ms  p99 {found[1]:.0f} ms "
    cells = max(0, min(60, columns - len(text) - 1))
    past = _seconds(moments, lambda one: one.latency_ms, cells) if cells >= 8 else []
    return [(text, ""), (signs.sparkline(past, 0.0, max(found[1] * 1.25, 1.0)), "dim")]


def ticks(watched: Watched) -> Line:
    """The account, and what was not read here."""
    if watched.status is None:
        return [("  no status yet", "dim")]
    account = watched.status.ticks
    skipped = {name: count for name, count in account.skipped.items() if count}
    reasons = ", ".join(f"{name} {count}" for name, count in skipped.items())
    text = f"  {account.published} of {account.due} ticks published"
    text += f", skipped: {reasons}" if reasons else ", none skipped"
    return [(text, "yellow" if reasons else "")]


def refused(watched: Watched) -> list[Section]:
    """How many connections were turned away, if any."""
    count = 0 if watched.status is None else watched.status.refused_peers
    return [Section(5, [[(f"  connections refused: {count}", "yellow")]])] if count else []


def _number(value: Number) -> str:
    return "   -" if value is None else f"{value:4.2f}"


def _percent(value: Number) -> str:
    return "  - %" if value is None else f"{100 * value:3.0f} %"
