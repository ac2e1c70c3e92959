"""Tables as CSV: in a new file, or on standard output."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from clcr_stream.cli.cells import harmless
from clcr_stream.cli.files import check_new_file, new_file
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


def csv_text(names: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """A table as CSV; what is not known is an empty cell, and no text is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        writer.writerow(["" if cell is None else harmless(cell) if isinstance(cell, str) else cell for cell in line])
    return text.getvalue()
