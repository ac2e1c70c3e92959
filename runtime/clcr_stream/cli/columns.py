"""Messages as rows of chosen fields: CSV for a spreadsheet, an aligned table for a person."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import msgspec

from clcr_stream.cli.cells import harmless, printable
from clcr_stream.cli.where import Plain, check_field, field_of
from clcr_stream.wire.messages import Kind

# Unless --fields says otherwise; a table becomes a column for each of its names, and of theirs.
DEFAULTS: Mapping[Kind, Sequence[str]] = {
    "session": ("session", "stream", "started_at", "bundle_name", "backend", "task", "labels"),
    "prediction": (
        *("seq", "published_ns", "label", "confidence", "value", "probs"),
        *("degraded", "latency_ms", "age_ms", "missed"),
    ),
    "transcript": ("seq", "id", "revision", "final", "start_ns", "end_ns", "text"),
    "status": (
        *("seq", "state", "uptime_s", "ticks.due", "ticks.published", "latency_ms"),
        *("subscribers", "refused_peers", "rss_mb"),
    ),
    "event": ("seq", "at_ns", "label", "previous", "previous_s", "reason", "confidence", "tick"),
    "tokens": ("seq", "published_ns", "age_ms", "missed"),
}
_REPEAT_HEAD = 20
_WIDEST = 40


def fields_of(text: str | None, kind: Kind) -> tuple[str, ...]:
    """The fields that were asked for, else those of the kind. ConfigError for one that no such message has."""
    if text is None:
        return tuple(DEFAULTS[kind])
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        check_field(name, (kind,))
    return names


class Columns:
    """Lines of rows; the first message decides which columns a table field becomes."""

    def __init__(self, fields: Sequence[str], as_csv: bool) -> None:
        self._fields = fields
        self._as_csv = as_csv
        self._names: list[str] = []
        self._widths: list[int] = []
        self._rows = 0

    def lines(self, message: Mapping[str, Plain]) -> list[str]:
        """A message's line, with the head before the first, and in a table again and again."""
        if not self._names:
            self._names = [name for field in self._fields for name in _expanded(field, message)]
        values = [field_of(name, message) for name in self._names]
        cells = [_text(value) for value in values]
        if self._as_csv:
            rows = [self._names] if self._rows == 0 else []
            safe = [
                cell if isinstance(value, (int, float)) else harmless(cell)
                for value, cell in zip(values, cells, strict=True)
            ]
            made = [_csv(row) for row in (*rows, safe)]
        else:
            cells = [printable(cell)[:_WIDEST] for cell in cells]
            if self._rows == 0:
                self._widths = [max(len(name), len(cell)) for name, cell in zip(self._names, cells, strict=True)]
            head = [self._aligned(self._names)] if self._rows % _REPEAT_HEAD == 0 else []
            made = [*head, self._aligned(cells)]
        self._rows += 1
        return made

    def _aligned(self, cells: Sequence[str]) -> str:
        """Columns grow with what they hold, so that most lines stand below each other."""
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, self._widths, strict=True)).rstrip()


def _expanded(field: str, message: Mapping[str, Plain]) -> list[str]:
    value = field_of(field, message)
    if not isinstance(value, Mapping) or not value:
        return [field]
    return [column for name in value for column in _expanded(f"{field}.{name}", message)]


def _text(value: Plain) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list() | tuple() if not any(isinstance(one, Mapping) for one in value):
            return " ".join(_text(one) for one in value)
        case list() | tuple() | Mapping():
            return msgspec.json.encode(value).decode()
        case _:
            return str(value)


def _csv(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
