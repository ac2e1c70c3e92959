"""`clcr-stream export`: a session's predictions as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.files import new_file
from clcr_stream.cli.standard_streams import put, say
from clcr_stream.errors import ConfigError
from clcr_stream.recording.story import read_story
from clcr_stream.recording.table import Cell, columns, rows

EXAMPLES = """examples:
  clcr-stream export talk.mcap --csv talk.csv
  clcr-stream export talk.jsonl --csv - | head
"""


def parser() -> Parser:
    """The flags of `export`."""
    flags = Parser(
        prog="clcr-stream export",
        description="Write a session's predictions as a table, a row each, with the words spoken meanwhile.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("file", metavar="FILE", help="a recording (.mcap) or the JSON lines of --output")
    flags.add_argument("--csv", metavar="FILE|-", help="a new file, or - for standard output")
    flags.add_argument("--session", metavar="ID", help="of a file with several sessions (default: the last)")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Write the table."""
    flags = parser().parse_args(arguments)
    if flags.csv is None:
        raise ConfigError("export: give --csv FILE or --csv -")
    source = Path(flags.file).expanduser()
    story = read_story(source, flags.session)
    for note in story.notes:
        say(f"note: {note}")
    if flags.csv == "-":
        put(csv_text(columns(story), rows(story)).removesuffix("\n"))
        return 0
    with new_file(flags.csv, "--csv") as file:
        file.write(csv_text(columns(story), rows(story)))
    say(f"{len(story.predictions)} rows in {flags.csv}")
    return 0


def csv_text(names: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """A table as CSV; what is not known is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        writer.writerow(["" if cell is None else cell for cell in line])
    return text.getvalue()
