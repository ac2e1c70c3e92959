"""`clcr-stream export`: a session's predictions as a table."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import BinaryIO

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.files import check_new_file, new_file
from clcr_stream.cli.sessions import read_session
from clcr_stream.cli.standard_streams import say
from clcr_stream.cli.tables import check_csv, write_csv
from clcr_stream.errors import ConfigError
from clcr_stream.recording.table import Cell, columns, rows

EXAMPLES = """examples:
  clcr-stream export talk.mcap --csv talk.csv
  clcr-stream export talk.jsonl --csv - | head
  clcr-stream export talk.mcap --parquet talk.parquet
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
    flags.add_argument("--parquet", metavar="FILE", help="a new file; needs pyarrow")
    flags.add_argument("--session", metavar="ID", help="of a file with several sessions (default: the last)")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Write the table."""
    flags = parser().parse_args(arguments)
    if flags.csv is None and flags.parquet is None:
        raise ConfigError("export: give --csv FILE, --csv - or --parquet FILE")
    if flags.parquet is not None:
        check_pyarrow()
        check_new_file(flags.parquet, "--parquet")
    check_csv(flags.csv)
    record = f"record first: clcr-stream {shlex.join(['--input', flags.file])} --pace max --record FILE.mcap"
    story = read_session(flags.file, flags.session, record)
    for note in story.notes:
        say(f"note: {note}")
    if flags.parquet is not None:
        with new_file(flags.parquet, "--parquet") as file:
            write_parquet(columns(story), rows(story), file.buffer)
        say(f"{len(story.predictions)} rows in {flags.parquet}")
    if flags.csv is not None:
        write_csv(flags.csv, columns(story), rows(story))
    return 0


def check_pyarrow() -> None:
    """ConfigError when Parquet cannot be written."""
    if find_spec("pyarrow") is None:
        raise ConfigError(
            'export --parquet needs the package pyarrow: pip install "clcr-stream[parquet]"; or give --csv'
        )


def write_parquet(names: Sequence[str], lines: Iterable[Sequence[Cell]], file: BinaryIO) -> None:
    """A table as Parquet; what is not known is null."""
    from pyarrow import parquet, table

    values = list(zip(*lines, strict=True)) or [()] * len(names)
    parquet.write_table(table(dict(zip(names, map(list, values), strict=True))), file)
