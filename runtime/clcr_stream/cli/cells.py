"""Bars, sparklines and lines of a given width for a terminal, in block characters or in ASCII."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Line = list[tuple[str, str]]  # pieces of text, each with a style in rich's words ("" for none)

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_ASCII_HEIGHTS = "_.-=+*%#"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Signs:
    """Which characters may be drawn: block characters, or ASCII where the terminal has no others."""

    blocks: bool = True

    def bar(self, share: float | None, cells: int) -> str:
        """A bar of at most `cells`; empty for a share that is not known."""
        return bar(share, cells) if self.blocks else "#" * round(_clamped(share) * cells)

    def filled(self, share: float | None, cells: int) -> str:
        """The bar with spaces up to `cells`."""
        return f"{self.bar(share, cells):<{cells}}"

    def signed(self, value: float | None, limit: float, cells: int) -> str:
        """A bar from the middle to the left or right, for -limit to limit."""
        half = max(1, (cells - 1) // 2)
        length = 0 if value is None else round(min(1.0, abs(value) / limit) * half)
        mark, axis = ("█", "│") if self.blocks else ("#", "|")
        left = mark * length if value is not None and value < 0 else ""
        right = mark * length if value is not None and value > 0 else ""
        return f"{left:>{half}}{axis}{right:<{half}}"

    def sparkline(self, values: Sequence[float | None], low: float = 0.0, high: float = 1.0) -> str:
        """One character for each value, a space where there is none."""
        heights = _HEIGHTS if self.blocks else _ASCII_HEIGHTS
        span = high - low
        marks = []
        for value in values:
            share = None if value is None else max(0.0, min(1.0, (value - low) / span))
            marks.append(" " if share is None else heights[min(len(heights) - 1, int(share * len(heights)))])
        return "".join(marks)


def bar(share: float | None, cells: int) -> str:
    """A bar of eighths of a cell; empty for a share that is not known."""
    eighths = round(_clamped(share) * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _clamped(share: float | None) -> float:
    return max(0.0, min(1.0, share or 0.0))


def binned(points: Iterable[tuple[float, float | None]], bins: int) -> list[float | None]:
    """The mean of the values in each of `bins` parts of time; points are (share of the time 0..1, value)."""
    sums, counts = [0.0] * bins, [0] * bins
    for share, value in points:
        if value is not None and 0 <= share <= 1:
            index = min(bins - 1, int(share * bins))
            sums[index] += value
            counts[index] += 1
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def printable(text: str) -> str:
    """Text of others for a terminal: what could move the cursor or change colours becomes a dot."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else " " if sign in "\n\t" else "·" for sign in text)


def harmless(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def fitted(line: Line, columns: int) -> Line:
    """The line in exactly `columns` cells: cut, or with spaces at its end; wide characters count two."""
    from rich.cells import cell_len, set_cell_size

    parts: Line = []
    left = columns
    for text, style in line:
        shown = printable(text)
        width = cell_len(shown)
        if width > left:
            shown, width = set_cell_size(shown, left), left
        if shown:
            parts.append((shown, style))
        left -= width
    if left > 0:
        parts.append((" " * left, ""))
    return parts


def wrapped(text: str, columns: int, lines: int) -> list[str]:
    """The last `lines` lines of a text that is wrapped at `columns`."""
    import textwrap

    found = textwrap.wrap(printable(text), max(1, columns), break_long_words=True)
    return found[-lines:] if lines > 0 else []
