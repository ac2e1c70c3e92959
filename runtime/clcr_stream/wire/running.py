"""The user's running sessions: which streams, of which process, since when; how one is ended; who is at an endpoint."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import PublishError
from clcr_stream.wire.client import configure
from clcr_stream.wire.endpoint import lock_of, running_streams
from clcr_stream.wire.keys import CurveClient, reader_keys
from clcr_stream.wire.names import STREAM_NAME


@dataclass(frozen=True)
class Running:
    """A stream that a process of this user publishes on an ipc socket; `since_ns` is when that process began."""

    stream: str
    pid: int
    endpoint: str
    since_ns: int  # on the monotonic clock


def running_sessions() -> list[Running]:
    """The streams that run now, by name; of a process that has just ended there is none."""
    found = []
    for stream, path in running_streams().items():
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(lock_of(path).read_bytes()[:32])
            if _has_open(pid, lock_of(path)):
                found.append(Running(stream, pid, f"ipc://{path}", _began_ns(pid)))
    return found


def not_running(stream: str, sessions: Sequence[Running]) -> str:
    """That no session has this name, and which there are."""
    names = ", ".join(one.stream for one in sessions) or "none"
    return f"no session {stream!r} of yours runs; running: {names} (`clcr-stream ps`)"


def stream_at(endpoint: str, curve: CurveClient | None = None, timeout_ms: int = 500) -> str | None:
    """The name of a stream that is published on an endpoint; None when none is heard in time.

    A publisher sends its last messages again to whoever comes, so the time is that of a connection.
    """
    with zmq.Context() as context, context.socket(zmq.SUB) as source:
        configure(source, queued=True, keys=None if curve is None else reader_keys(curve))
        source.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))
        source.subscribe(b"clcr/")
        source.connect(endpoint)
        if not source.poll(timeout_ms):
            return None
        name = source.recv().split(b"/")[1].decode(errors="replace")
    return name if STREAM_NAME.fullmatch(name) else None


def end_session(stream: str, timeout_s: float) -> tuple[Running, list[str]]:
    """Ask the process of a stream to end, wait until it has; the stream, and the others that ended with it.

    Raises PublishError when no such stream runs, or when its process goes on after `timeout_s`.
    """
    sessions = running_sessions()
    wanted = next((one for one in sessions if one.stream == stream), None)
    if wanted is None:
        raise PublishError(not_running(stream, sessions))
    try:
        process = os.pidfd_open(wanted.pid)
    except ProcessLookupError:
        raise PublishError(f"session {stream!r} has just ended by itself") from None
    try:
        path = Path(wanted.endpoint.removeprefix("ipc://"))
        if not _has_open(wanted.pid, lock_of(path)):  # else another process may have its number by now
            raise PublishError(f"session {stream!r} has just ended by itself")
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], timeout_s)[0]:
            raise PublishError(
                f"session {stream!r} (process {wanted.pid}) still runs {timeout_s:g} s after SIGTERM; the same command "
                "again ends it at once"
            )
    finally:
        os.close(process)
    return wanted, [one.stream for one in sessions if one.pid == wanted.pid and one.stream != stream]


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process holds that very file open: a process that has died may have left its number to another."""
    wanted = path.stat()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samestat(link.stat(), wanted):
                return True
    return False


def _began_ns(pid: int) -> int:
    """The process's start, from /proc: in clock ticks since boot, as CLOCK_BOOTTIME counts; suspends taken off."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return ticks * NS_PER_S // os.sysconf("SC_CLK_TCK") - asleep_ns
