"""The page of a session as one picture: SVG with its own layout, and PNG through resvg, without a browser."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from clcr_stream.errors import ConfigError
from clcr_stream.recording import charts, facts
from clcr_stream.recording.charts import WIDTH, Axis, shown
from clcr_stream.recording.seen import MODALITIES, SIGNS, Seen, clock_text, zero_ns
from clcr_stream.recording.story import Story
from clcr_stream.recording.style import LIGHT, picture_css

INSTALL = 'pip install "clcr-stream[png]"'
MARGIN = 40
SCALE = 2  # pixels of the PNG for one of the layout: 2,160 across
_LETTER = {"title": 15.0, "answer": 17.0, "head": 11.0, "row": 7.6, "small": 6.8}  # width of one, about, by class
_ROW, _SMALL = 24, 18  # height of a line


class Sheet:
    """Parts of a picture below each other."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.y = float(MARGIN)

    def add(self, svg: str, x: float = 0.0) -> None:
        """Something drawn from the current line on."""
        self._parts.append(f'<g transform="translate({MARGIN + x:g} {self.y:g})">{svg}</g>')

    def text(self, kind: str, text: str, x: float = 0.0, more: str = "") -> None:
        """One line whose letters stand on the current line; `more` are classes."""
        self.add(f'<text class="{kind} {more}">{shown(text)}</text>', x)

    def wrapped(self, kind: str, text: str, high: float, x: float = 0.0, more: str = "") -> None:
        """As many lines as it takes, from the current line on."""
        for line in textwrap.wrap(" ".join(text.split()), int((WIDTH - x) / _LETTER[kind])):
            self.y += high
            self.text(kind, line, x, more)

    def head(self, text: str) -> None:
        """The title of a part."""
        self.y += 52
        self.text("head", text, more="ink")
        self.y += 12

    def row(self, cells: Sequence[tuple[float, str, str]], line: bool = True) -> None:
        """A row of a table: cells with their places and classes, and a line below."""
        self.y += _ROW
        for x, text, more in cells:
            self.text("row", text, x, more)
        if line:
            self.add(f'<line class="line" x1="0" x2="{WIDTH}" y1="7.5" y2="7.5"/>')

    def svg(self) -> str:
        """The whole picture."""
        wide, high = WIDTH + 2 * MARGIN, int(self.y) + MARGIN
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">'
            f"<style>{picture_css()}</style>"
            f'<rect width="{wide}" height="{high}" fill="{LIGHT["page"]}"/>{"".join(self._parts)}</svg>'
        )


def poster(story: Story, name: str) -> str:
    """The report of a session as SVG; `name` is what it was read from. All its words stand under the answers alone."""
    seen = story.seen()
    sheet = Sheet()
    _head(sheet, story, seen, name)
    _answer(sheet, story, seen)
    if seen.answers:
        _timeline(sheet, story, seen)
    if seen.moments:
        _moments(sheet, story, seen)
    _presence(sheet, story, seen)
    _numbers(sheet, seen)
    _latency(sheet, story)
    sheet.y += 20
    sheet.add(f'<line class="line" x2="{WIDTH}"/>')
    sheet.wrapped("small", facts.CAVEAT, _SMALL)
    session = story.session
    sheet.wrapped("small", f"Bundle {session.bundle[:16]} on {session.backend}, session {session.session}.", _SMALL)
    return sheet.svg()


def _head(sheet: Sheet, story: Story, seen: Seen, name: str) -> None:
    sheet.y -= 10
    sheet.wrapped("title", name, 30, more="ink")
    sheet.y += 4
    sheet.wrapped("row", facts.about(story, seen), 20)
    for text in (story.session.intended_use.notice, facts.notes(story, seen)):
        lines = textwrap.wrap(" ".join(text.split()), int((WIDTH - 26) / _LETTER["small"]))
        if not lines:
            continue
        sheet.y += 14
        sheet.add(f'<rect class="warn-page" width="{WIDTH}" height="{len(lines) * _SMALL + 14}" rx="7"/>')
        sheet.y += 3
        for line in lines:
            sheet.y += _SMALL
            sheet.text("small", line, 13, "warn")
        sheet.y += 11


def _answer(sheet: Sheet, story: Story, seen: Seen) -> None:
    sheet.y += 50
    if not seen.answers:
        sheet.text("answer", "No answer: nobody was seen or heard.", more="ink")
        return
    large, rest = facts.answer(seen)
    sheet.add(f'<text class="answer ink">{shown(large)}<tspan class="rest" dx="9">{shown(rest)}</tspan></text>')
    if seen.values is None:
        _shares(sheet, story, seen)


def _shares(sheet: Sheet, story: Story, seen: Seen) -> None:
    """How often each label was the most probable one: a bar and its key."""
    order = sorted(enumerate(story.session.labels), key=lambda item: seen.shares.get(item[1], 0.0), reverse=True)
    sheet.y += 16
    x = 0.0
    for index, label in order:
        wide = seen.shares.get(label, 0.0) * WIDTH
        sheet.add(f'<rect class="l{index}" x="{x:.1f}" width="{wide:.1f}" height="22"/>')
        x += wide
    x = 0.0
    sheet.y += 46
    for index, label in order:
        text = f"{label} {seen.shares.get(label, 0.0):.0%}"
        wide = 38 + len(text) * _LETTER["row"]
        if x + wide > WIDTH:
            x, sheet.y = 0.0, sheet.y + _ROW
        sheet.add(f'<rect class="l{index}" y="-10" width="11" height="11" rx="3"/>', x)
        sheet.text("row", text, x + 17, "ink" if seen.shares.get(label) else "")
        x += wide
    sheet.y += 8
    sheet.wrapped("small", "How often each was the most probable one.", _SMALL)


def _timeline(sheet: Sheet, story: Story, seen: Seen) -> None:
    sheet.head("Over time")
    axis = Axis(seen.start_s, seen.end_s)
    spoken, high = charts.words(story.words[: facts.MAX_WORDS], zero_ns(story.session), axis)
    sheet.y += 26
    sheet.add(facts.picture(story, axis) + charts.marks(seen.moments, axis))
    sheet.y += charts.HEIGHT + 28
    sheet.add(spoken)
    sheet.y += high
    sheet.wrapped("small", facts.legend(story), _SMALL)


def _moments(sheet: Sheet, story: Story, seen: Seen) -> None:
    sheet.head("Strongest moments")
    labels = {label: index for index, label in enumerate(story.session.labels)}
    places = (0, 30, 230, 300, 460)
    titles = ("", "what", "at", "lasted", "words shortly before" if story.words else "")
    sheet.row([(x, text, "") for x, text in zip(places, titles, strict=True)])
    room = int((WIDTH - places[-1]) / _LETTER["row"])
    for number, moment in enumerate(seen.moments, 1):
        strength = f"{moment.strength:+.2f}" if moment.label in SIGNS else f"{moment.strength:.2f}"
        said = facts.said_before(story, moment)
        cells = (
            str(number),
            f"{moment.label} {strength}",
            clock_text(moment.peak_s),
            f"{clock_text(moment.start_s)} to {clock_text(moment.end_s)}",
            f"“{textwrap.shorten(said, room, placeholder='…')}”" if said else "",
        )
        at = (places[0], places[1] + 17, *places[2:])
        sheet.row([(x, text, "ink") for x, text in zip(at, cells, strict=True)])
        if moment.label in labels:
            sheet.add(f'<rect class="l{labels[moment.label]}" y="-10" width="11" height="11" rx="3"/>', places[1])


def _presence(sheet: Sheet, story: Story, seen: Seen) -> None:
    """What was there and what was missing, and why."""
    sheet.head("What was there")
    found = charts.points(story.session, story.predictions)
    sheet.add(charts.lanes(found, Axis(seen.start_s, seen.end_s), list(facts.THERE.values())))
    sheet.y += 56
    places = (0, 120, 220)
    titles = ("", "there", "weight in the answers")
    sheet.row([(x, text, "") for x, text in zip(places, titles, strict=True)])
    for name in MODALITIES:
        weight = facts.weight(story.predictions, name)
        cells = (
            facts.THERE[name],
            f"{seen.present.get(name, 0.0):.0%}",
            "" if weight is None else f"{weight:.0%}",
        )
        sheet.row([(x, text, "ink") for x, text in zip(places, cells, strict=True)])
    if seen.degraded:
        sheet.y += 14
        sheet.row([(0, "missing", ""), (220, "of the time", "")])
        for reason, share in seen.degraded.items():
            meaning = facts.MEANINGS.get(reason, "")
            sheet.row([(0, reason, "ink"), (220, f"{share:.0%}", "ink"), (320, meaning, "ink")])
    else:
        sheet.y += 6
        sheet.wrapped("small", "Nothing was missing at any time.", _SMALL)
    sheet.y += 8
    for source in story.session.sources if story.status is None else story.status.sources:
        reason = f", {source.reason}" if source.reason else ""
        sheet.wrapped("small", f"{source.kind} {source.name}: {source.state}{reason}", _SMALL)


def _numbers(sheet: Sheet, seen: Seen) -> None:
    """How good pictures and sound were."""
    rows = facts.numbers(seen)
    if not rows:
        return
    sheet.head("How good it was")
    for row in (("", "on average", "range"), *rows):
        sheet.row([(x, text, "ink" if row[0] else "") for x, text in zip((0, 320, 440), row, strict=True)])


def _latency(sheet: Sheet, story: Story) -> None:
    sheet.head("From capture to prediction")
    measured = facts.latency(story)
    if measured is None:
        sheet.wrapped("small", facts.NOT_MEASURED, _SMALL)
    else:
        sheet.wrapped("row", measured, 20, more="ink")
        values = [one.latency_ms for one in story.predictions if one.latency_ms is not None]
        if values:
            sheet.y += 14
            sheet.add(charts.bars(values))
            sheet.y += charts.BARS_HIGH
    sheet.wrapped("small", facts.account(story), _SMALL)


def check_png(what: str) -> None:
    """ConfigError when no PNG can be drawn here, for want of a package or of a font."""
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what}: the package resvg-py is not installed; run {INSTALL}") from None
    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">'
    letter = f'{empty}<style>{picture_css()}</style><text y="30">M</text></svg>'
    if to_png(letter, 1) == to_png(f"{empty}</svg>", 1):
        raise ConfigError(f"{what}: no font is installed; run apt-get install fonts-dejavu-core")


def to_png(svg: str, scale: int = SCALE) -> bytes:
    """A picture without any reference to a file or a network."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=scale))
