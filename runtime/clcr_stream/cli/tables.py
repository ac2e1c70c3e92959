"""Tables as CSV: in a new file, or on standard output."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from clcr_stream.cli.cells import harmless
from clcr_stream.cli.files import check_new_file, growing_file, new_file
from clcr_stream.cli.standard_streams import put, say
from clcr_stream.recording.table import Cell

FLAG = "--csv"


def check_csv(target: str | None) -> None:
    """ConfigError when `--csv TARGET` names no file that could be made; before the work whose result goes there."""
    if target not in (None, "-"):
        check_new_file(target, FLAG)


def write_csv(target: str, names: Sequence[str], lines: Iterable[Sequence[Cell]]) -> None:
    """A table in a new file, with a line about it for a person; `-` is standard output."""
    rows = list(lines)
    text = csv_text(names, rows)
    if target == "-":
        put(text.removesuffix("\n"))
        return
    with new_file(target, FLAG) as file:
        file.write(text)
    say(f"{len(rows)} rows in {target}")


@contextlib.contextmanager
def growing_csv(target: str, names: Sequence[str]) -> Iterator[Callable[[Sequence[Cell]], None]]:
    """What writes the rows of a table as they come: in a growing file, or on standard output for `-`."""
    rows = 0

    def lines(cells: Sequence[Cell]) -> str:
        """A row, the first one below the names."""
        nonlocal rows
        rows += 1
        return csv_text(names, [cells]) if rows == 1 else _lines([cells])

    if target == "-":
        yield lambda cells: put(lines(cells).removesuffix("\n"))
        return
    with growing_file(target, FLAG) as write:
        yield lambda cells: write(lines(cells))
    say(f"{rows} rows in {target}")


def csv_text(names: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """A table as CSV; what is not known is an empty cell, and no text is a formula to a spreadsheet."""
    return _lines([names]) + _lines(lines)


def _lines(rows: Iterable[Sequence[Cell]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if cell is None else harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()
