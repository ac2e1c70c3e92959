"""The pictures of a report as inline SVG: answers over time, what was there, latencies. Colours are CSS variables."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clcr_stream.recording.seen import Moment, clock_text, zero_ns
from clcr_stream.wire import messages

WIDTH, LEFT, RIGHT = 1000, 46, 10
HEIGHT = 240
BARS_HIGH = 100
MAX_POINTS = 600  # answers drawn over the width; of more, means
_LANE = 16
_LINES, _LEAST_LETTERS = 9, 7  # of words under the picture
_LETTER = 6.1  # width of a letter of the words, about
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)


@dataclass(frozen=True)
class Point:
    """The mean of the answers around one moment: `probs` by the session's labels, or `value`; None without any."""

    time_s: float
    probs: tuple[float, ...] | None
    value: float | None
    present: tuple[float, float, float]  # vision, acoustic, language: shares of the predictions


@dataclass(frozen=True)
class Axis:
    """Seconds across the picture."""

    start_s: float
    end_s: float

    def x(self, time_s: float) -> float:
        """The place of a time."""
        span_s = max(0.2, self.end_s - self.start_s)
        return round(LEFT + (time_s - self.start_s) / span_s * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> list[float]:
        """Times that are worth a label, at most 12."""
        span_s = max(0.2, self.end_s - self.start_s)
        step = next((step for step in _STEPS_S if span_s / step <= 12), 86400.0)
        first = int(-(-self.start_s // step))
        return [number * step for number in range(first, int(self.end_s // step) + 1)]


def shown(value: object) -> str:
    """Any text as HTML shows it: escaped, without control characters and marks that turn the direction around."""
    return html.escape("".join(char if char.isprintable() else " " for char in str(value)))


def points(session: messages.Session, predictions: Sequence[messages.Prediction]) -> list[Point]:
    """The predictions as at most MAX_POINTS points; a pause between them stays one."""
    per_point = -(-len(predictions) // MAX_POINTS) or 1
    found = []
    for start in range(0, len(predictions), per_point):
        group = predictions[start : start + per_point]
        answers = [one for one in group if one.label is not None or one.value is not None]
        shares = [tuple((one.probs or {}).get(label) or 0.0 for label in session.labels) for one in answers]
        values = [one.value for one in answers if one.value is not None]
        middle = group[len(group) // 2]
        parts = [(one.modalities.vision, one.modalities.acoustic, one.modalities.language) for one in group]
        vision, acoustic, language = (sum(part[at].present for part in parts) / len(group) for at in range(3))
        means = tuple(_mean([one[at] for one in shares]) for at in range(len(session.labels))) if shares else None
        found.append(
            Point(
                time_s=(middle.window.end_ns - zero_ns(session)) / 1e9,
                probs=means,
                value=_mean(values) if values else None,
                present=(vision, acoustic, language),
            )
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def stacked(found: Sequence[Point], axis: Axis, labels: Sequence[str], pause_s: float) -> str:
    """Probabilities on top of each other, a band for each label."""
    parts = [_frame(axis, [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")], lambda share: HEIGHT * (1 - share))]
    for run in _runs(found, pause_s, lambda point: point.probs is not None):
        lower = [0.0] * len(run)
        for index, label in enumerate(labels):
            upper = [low + (point.probs or ())[index] for low, point in zip(lower, run, strict=True)]
            there = [f"{x},{_y(share)}" for x, share in zip(_xs(run, axis), _held(upper), strict=True)]
            back = [f"{x},{_y(share)}" for x, share in zip(_xs(run, axis), _held(lower), strict=True)]
            title = f"<title>{shown(label)}</title>"
            parts.append(f'<polygon class="l{index}" points="{" ".join(there + back[::-1])}">{title}</polygon>')
            lower = upper
    return "".join(parts)


def curve(found: Sequence[Point], axis: Axis, pause_s: float) -> str:
    """The values of a regression as a line around zero."""
    values = [point.value for point in found if point.value is not None]
    reach = max(1.0, float(-(-max((abs(value) for value in values), default=1.0) // 1)))

    def place(value: float) -> float:
        return HEIGHT * (1 - (value + reach) / (2 * reach))

    parts = [_frame(axis, [(at, f"{at:+g}" if at else "0") for at in (-reach, 0.0, reach)], place)]
    for run in _runs(found, pause_s, lambda point: point.value is not None):
        xs = [axis.x(point.time_s) for point in run]
        ys = [round(place(point.value or 0.0), 1) for point in run]
        line = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
        zero = round(place(0.0), 1)
        parts.append(f'<polygon class="area" points="{xs[0]},{zero} {line} {xs[-1]},{zero}"/>')
        parts.append(f'<polyline class="curve" points="{line}"/>')
    return "".join(parts)


def marks(moments: Sequence[Moment], axis: Axis) -> str:
    """The strongest moments as numbers above the picture."""
    parts = []
    for number, moment in enumerate(moments, 1):
        x = axis.x(moment.peak_s)
        parts.append(
            f'<line class="mark" x1="{x}" x2="{x}" y1="-4" y2="{HEIGHT}"/>'
            f'<circle class="dot" cx="{x}" cy="-13" r="9"/><text class="number" x="{x}" y="-9.5">{number}</text>'
        )
    return "".join(parts)


def words(found: Sequence[messages.Transcript], zero: int, axis: Axis) -> tuple[str, int]:
    """The words under the picture, wrapped below their times from `zero` ns, and the height that they take.

    Where there is no room for a text, its bar stays, with the text as its title.
    """
    if not found:
        return "", 0
    places = [max(LEFT, axis.x((one.start_ns - zero) / 1e9)) for one in found]  # a part may begin within words
    parts, lines_of_all = [], 0
    for one, x, following in zip(found, places, [*places[1:], WIDTH - RIGHT], strict=True):
        end = min(axis.x((one.end_ns - zero) / 1e9), WIDTH - RIGHT)  # words may outlast the answers
        wide = max(end - x, 1.0)
        letters = int((following - x - 4) / _LETTER)
        text = " ".join(one.text.split())
        lines = textwrap.wrap(text, letters, max_lines=_LINES, placeholder="…") if letters >= _LEAST_LETTERS else []
        lines_of_all = max(lines_of_all, len(lines))
        parts.append(
            f'<g transform="translate({x} 0)"><title>{shown(text)}</title>'
            f'<rect class="said" width="{max(1.0, wide - 1):.1f}" height="4"/>'
            + "".join(
                f'<text class="word" y="{18 + 14 * number}">{shown(line)}</text>' for number, line in enumerate(lines)
            )
            + "</g>"
        )
    return "".join(parts), 10 + 14 * lines_of_all


def lanes(found: Sequence[Point], axis: Axis, names: Sequence[str]) -> str:
    """When each modality was there: a bar while it was, nothing while it was not."""
    half_s = (found[1].time_s - found[0].time_s) / 2 if len(found) > 1 else 0.1
    parts = []
    for index, name in enumerate(names):
        y = index * _LANE
        wide = WIDTH - LEFT - RIGHT
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 9}" text-anchor="end">{shown(name)}</text>')
        parts.append(f'<rect class="absent" x="{LEFT}" y="{y}" width="{wide}" height="10"/>')
        for run in _runs(found, half_s * 3, lambda point, at=index: point.present[at] >= 0.5):  # type: ignore[misc]
            x, end = axis.x(max(axis.start_s, run[0].time_s - half_s * 2)), axis.x(run[-1].time_s)
            parts.append(f'<rect class="there" x="{x}" y="{y}" width="{max(1.0, end - x):.1f}" height="10"/>')
    return "".join(parts)


def histogram(values: Sequence[float]) -> str:
    """How often a latency took how long, as a picture of its own."""
    return svg(bars(values), 0, BARS_HIGH, "How often a prediction took how long, from capture to publishing")


def bars(values: Sequence[float]) -> str:
    """The inside of a histogram, up to the 99.5th percentile of the values."""
    ordered = sorted(values)
    top = max(1.0, ordered[min(len(ordered) - 1, int(len(ordered) * 0.995))])
    counts = [0] * 40
    for value in ordered:
        counts[min(39, int(max(0.0, value) / top * 40))] += 1
    wide = (WIDTH - LEFT - RIGHT) / 40
    parts = []
    for index, count in enumerate(counts):
        high = round(80 * count / max(counts), 1)
        x = round(LEFT + index * wide, 1)
        parts.append(f'<rect class="there" x="{x}" y="{80 - high}" width="{wide - 1:.1f}" height="{high}"/>')
    labels = "".join(
        f'<text class="tick" x="{LEFT + part * (WIDTH - LEFT - RIGHT):.0f}" y="96" text-anchor="{anchor}">'
        f"{top * part:.0f} ms</text>"
        for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    return "".join(parts) + labels


def svg(inside: str, top: float, height: float, title: str) -> str:
    """A picture as wide as the page; `top` is its first line, 0 or above it."""
    return (
        f'<div class="chart"><svg viewBox="0 {top} {WIDTH} {height}" role="img" aria-label="{shown(title)}">'
        f"{inside}</svg></div>"
    )


def _frame(axis: Axis, levels: Sequence[tuple[float, str]], place: Callable[[float], float]) -> str:
    """Grid lines with their labels."""
    parts = []
    for level, label in levels:
        y = round(place(level), 1)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for time_s in axis.ticks():
        x = axis.x(time_s)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>')
        text = clock_text(time_s).removesuffix(".0")
        anchor = "end" if x > WIDTH - RIGHT - 16 else "middle"
        parts.append(f'<text class="tick" x="{x}" y="{HEIGHT + 16}" text-anchor="{anchor}">{text}</text>')
    return "".join(parts)


def _runs(found: Sequence[Point], pause_s: float, there: Callable[[Point], bool]) -> list[list[Point]]:
    """Stretches of points that are there, apart where one is missing or time passed without any."""
    runs: list[list[Point]] = []
    before: Point | None = None
    for point in found:
        if there(point):
            if before is None or point.time_s - before.time_s > pause_s:
                runs.append([])
            runs[-1].append(point)
            before = point
        else:
            before = None
    return runs


def _xs(run: Sequence[Point], axis: Axis) -> list[float]:
    """The places of a run, with a beginning that gives a single point some width."""
    xs = [axis.x(point.time_s) for point in run]
    return [max(float(LEFT), round(xs[0] - 3, 1)), *xs]


def _held(shares: Sequence[float]) -> list[float]:
    return [shares[0], *shares]


def _y(share: float) -> float:
    return round(HEIGHT * (1 - min(1.0, share)), 1)
