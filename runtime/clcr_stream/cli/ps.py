"""`clcr-stream ps`: the user's running sessions, and how their inputs are doing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from clcr_stream.cli.arguments import EXIT_CODES, Parser, check_seconds
from clcr_stream.cli.cells import printable
from clcr_stream.cli.standard_streams import put, put_json, say
from clcr_stream.clock import NS_PER_S
from clcr_stream.wire.client import Subscriber
from clcr_stream.wire.endpoint import default_folders
from clcr_stream.wire.messages import Status
from clcr_stream.wire.running import Running, running_sessions

EXAMPLES = """examples:
  clcr-stream ps                                     name, process, since when, state, sources, endpoint
  clcr-stream ps --json
  clcr-stream stop left                              end one of them
"""
_TURN_MS = 20


def parser() -> Parser:
    """The flags of `ps`."""
    flags = Parser(
        prog="clcr-stream ps",
        description="List your running sessions. Those with an own --bind are not found: their endpoint is elsewhere.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("--json", action="store_true", help="print one JSON object a session")
    flags.add_argument(
        "--timeout",
        type=float,
        default=1.5,
        metavar="SECONDS",
        help="wait so long for answers (default: 1.5)",
    )
    return flags


def command(arguments: Sequence[str]) -> int:
    """Print a line for each; none is no error."""
    flags = parser().parse_args(arguments)
    check_seconds("--timeout", flags.timeout)
    sessions = running_sessions()
    statuses = newest_statuses(sessions, flags.timeout)
    now_ns = time.monotonic_ns()
    if flags.json:
        for one in sessions:
            put_json(_object(one, statuses.get(one.stream), now_ns))
    elif not sessions:
        folders = " or ".join(str(folder) for folder in default_folders())
        say(f"no session of yours runs in {folders}; start one: clcr-stream")
    else:
        _table([_line(one, statuses.get(one.stream), now_ns) for one in sessions])
    return 0


def newest_statuses(sessions: Sequence[Running], timeout_s: float) -> Mapping[str, Status]:
    """What each says of itself; none of one that does not answer in time, as with keys that we have not."""
    found: dict[str, Status] = {}
    readers: dict[str, Subscriber] = {}
    end_ns = time.monotonic_ns() + int(timeout_s * NS_PER_S)
    try:
        for one in sessions:
            readers[one.stream] = Subscriber(one.endpoint, one.stream, ("status",))
        while len(found) < len(readers) and time.monotonic_ns() < end_ns:
            for stream, reader in readers.items():
                received = None if stream in found else reader.receive(_TURN_MS)
                if received is not None and isinstance(received.message, Status):
                    found[stream] = received.message
    finally:
        for reader in readers.values():
            reader.close()
    return found


def _object(one: Running, status: Status | None, now_ns: int) -> dict[str, Any]:
    return {
        "stream": one.stream,
        "pid": one.pid,
        "running_s": round((now_ns - one.since_ns) / NS_PER_S, 1),
        "state": None if status is None else status.state,
        "sources": {} if status is None else {source.kind: source.state for source in status.sources},
        "recording": status is not None and status.recording,
        "endpoint": one.endpoint,
    }


def _line(one: Running, status: Status | None, now_ns: int) -> tuple[str, ...]:
    running = duration((now_ns - one.since_ns) / NS_PER_S)
    if status is None:
        return one.stream, str(one.pid), running, "no answer", "-", one.endpoint
    state = f"{status.state}{', recording' if status.recording else ''}"
    told = " ".join(f"{source.kind}:{source.state}" for source in status.sources)
    return one.stream, str(one.pid), running, state, printable(told) or "-", one.endpoint


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    lines = [("NAME", "PID", "FOR", "STATE", "SOURCES", "ENDPOINT"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        put("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def duration(seconds: float) -> str:
    """A time for a person: 12 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"
