"""`clcr-stream stop NAME`: end a running session in order."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.cli.arguments import EXIT_CODES, Parser, check_seconds
from clcr_stream.cli.standard_streams import say
from clcr_stream.wire.running import end_session

EXAMPLES = """examples:
  clcr-stream stop                                   the session named default
  clcr-stream stop left --timeout 30
"""


def parser() -> Parser:
    """The flags of `stop`."""
    flags = Parser(
        prog="clcr-stream stop",
        description="End a running session of yours as Ctrl-C would, and wait until it has ended.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("name", nargs="?", default="default", metavar="NAME", help="as in `clcr-stream ps`")
    flags.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="wait so long for its end (default: 10)"
    )
    return flags


def command(arguments: Sequence[str]) -> int:
    """End it and say what happened. PublishError when there is none, or it goes on."""
    flags = parser().parse_args(arguments)
    check_seconds("--timeout", flags.timeout)
    session, others = end_session(flags.name, flags.timeout)
    with_it = f"; {', '.join(others)} of the same process ended with it" if others else ""
    say(f"ended {session.stream} (process {session.pid}){with_it}")
    return 0
