"""Subscribers as processes of their own: small plain-pyzmq readers, a slow one, and what they say of their messages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.command import BenchError
from bench.product import ENGINES

FRESH_NS = 50_000_000  # what is younger was sent after the reader had woken
SETTLE_MS = 60.0  # of the product, as it is without a flag

# What a user of the wire would write; the arrival is stamped where the message is read. It ends with the goodbye.
READER = (
    f"FRESH_NS, SETTLE_MS, ENGINES = {FRESH_NS}, {SETTLE_MS}, {ENGINES}"
    + """
import json, os, signal, sys, time, zmq
endpoint, stream, target, conflate = sys.argv[1:]
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RECONNECT_IVL, 10)
kinds = (b"prediction",) if conflate == "1" else (b"prediction", b"status")
if conflate == "1":
    socket.setsockopt(zmq.CONFLATE, 1)
for kind in kinds:
    socket.setsockopt(zmq.SUBSCRIBE, b"clcr/" + stream.encode() + b"/" + kind + b" ")
socket.connect(endpoint)
print("ready", flush=True)
seen = []
while True:
    if not socket.poll(20000):
        break
    frame = socket.recv()
    seen.append((time.monotonic_ns(), frame))
    if b'"state":"goodbye"' in frame:
        break
    if conflate == "1" and len(seen) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif conflate == "1" and seen[-1][0] - json.loads(frame.split(b" ", 1)[1])["published_ns"] < FRESH_NS:
        break
with open(target, "w") as out:
    for arrived_ns, frame in seen:
        message = json.loads(frame.split(b" ", 1)[1])
        if message["type"] == "prediction":
            waited_ms = SETTLE_MS + sum(ms for name, ms in message["timing_ms"].items() if name in ENGINES)
            ready_ns = message["window"]["end_ns"] + int(waited_ms * 1e6)
            line = (arrived_ns, message["seq"], message["published_ns"], message["captured_ns"], ready_ns)
            out.write("%d %d %d %d %d\\n" % line)
"""
)

SLOW_MS = 300  # that the slow reader needs for a message

# What a user of clcr_stream.client would write; the age is that of the message as it was handed on.
SLOW_READER = (
    f"SLOW_MS = {SLOW_MS}"
    + """
import sys, time
from clcr_stream.client import Subscriber
endpoint, stream, target = sys.argv[1:]
with Subscriber(endpoint, stream, ("prediction", "status")) as subscriber, open(target, "w") as out:
    print("ready", flush=True)
    while (got := subscriber.receive(20000)) is not None:
        if getattr(got.message, "state", None) == "goodbye":
            break
        if not hasattr(got.message, "state"):
            out.write("%f\\n" % got.age_ms)
            time.sleep(SLOW_MS / 1000)
"""
)


@dataclass(frozen=True)
class Arrival:
    """One prediction as a reader had it; all times are of the host's monotonic clock.

    ready_ns: the window's end, and then what the settle time and the engines took.
    """

    arrived_ns: int
    seq: int
    published_ns: int
    captured_ns: int
    ready_ns: int


class Readers:
    """`count` subscribers that read everything, one that stops (SIGSTOP) after a message, and one that is slow.

    A context manager; enter it before the publisher is there, so that nobody joins late.
    """

    def __init__(self, place: Path, endpoint: str, stream: str, count: int) -> None:
        self._place, self._endpoint, self._stream, self._count = place, endpoint, stream, count
        self._reading: list[subprocess.Popen[bytes]] = []
        self._stopped: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Readers:
        self._reading = [self._spawn(READER, f"reader_{index}", "0") for index in range(self._count)]
        self._reading.append(self._spawn(SLOW_READER, "slow"))
        self._stopped = self._spawn(READER, "stopped", "1")
        for process in (*self._reading, self._stopped):
            _expect(process, b"ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._reading, *([self._stopped] if self._stopped else [])):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def has_stopped(self) -> bool:
        """Has the one reader stopped by now? Its queues fill from then on."""
        assert self._stopped is not None
        return os.waitid(os.P_PID, self._stopped.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_stopped(self) -> None:
        """Block until the one reader has stopped."""
        assert self._stopped is not None
        os.waitid(os.P_PID, self._stopped.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self) -> dict[str, float | int]:
        """SIGCONT; the age in ms of the first prediction that the woken reader reads, and how soon it has a new one."""
        assert self._stopped is not None
        self._stopped.send_signal(signal.SIGCONT)
        self._stopped.wait(30)
        arrivals = _arrivals(self._place / "stopped")
        if len(arrivals) < 2 or arrivals[-1].arrived_ns - arrivals[-1].published_ns >= FRESH_NS:
            raise BenchError("the stopped reader read nothing new after it was woken; was the publisher gone?")
        first, last = arrivals[1], arrivals[-1]
        return {
            "first_age_ms": round((first.arrived_ns - first.published_ns) / 1e6, 2),
            "fresh_after_reads": len(arrivals) - 1,
            "fresh_after_ms": round((last.arrived_ns - first.arrived_ns) / 1e6, 2),
        }

    def finish(self, timeout_s: float) -> list[list[Arrival]]:
        """What each reader read, in order, once all have seen the goodbye."""
        for process in self._reading:
            process.wait(timeout_s)
            if process.returncode:
                raise BenchError(f"a reader ended with exit code {process.returncode}")
        return [_arrivals(self._place / f"reader_{index}") for index in range(self._count)]

    def slow_ages_ms(self) -> list[float]:
        """The age of each message that the slow reader was given; call it after `finish`."""
        return [float(line) for line in (self._place / "slow").read_text(encoding="ascii").splitlines()]

    def _spawn(self, program: str, name: str, *more: str) -> subprocess.Popen[bytes]:
        arguments = [self._endpoint, self._stream, str(self._place / name), *more]
        return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)


def _expect(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        raise BenchError(f"a reader said {line!r} where {word!r} was expected; is pyzmq installed?")


def _arrivals(path: Path) -> list[Arrival]:
    lines = path.read_text(encoding="ascii").splitlines()
    return [Arrival(*map(int, line.split())) for line in lines]


def delivery(arrivals: Sequence[Sequence[Arrival]], warm_up: int = 0) -> dict[str, Any]:
    """Delays over all readers (each message once, the first `warm_up` of each reader left out) and what was lost.

    `lost` counts the seqs that a reader did not get between the first and the last that it got.
    """
    publish_ms: list[tuple[int, float]] = []
    capture_ms: list[float] = []
    own_ms: list[float] = []
    lost = received = repeated = 0
    for read in arrivals:
        once = {arrival.seq: arrival for arrival in reversed(read)}
        kept = sorted(once.values(), key=lambda arrival: arrival.seq)
        repeated += len(read) - len(once)
        received += len(once)
        lost += kept[-1].seq - kept[0].seq + 1 - len(kept) if kept else 0
        for arrival in kept[warm_up:]:
            publish_ms.append((arrival.arrived_ns, (arrival.arrived_ns - arrival.published_ns) / 1e6))
            capture_ms.append((arrival.arrived_ns - arrival.captured_ns) / 1e6)
            own_ms.append((arrival.arrived_ns - arrival.ready_ns) / 1e6)
    in_time = [value for _, value in sorted(publish_ms)]
    return {
        "publish_to_receive_ms": in_time,
        "capture_to_receive_ms": capture_ms,
        "own_ms": own_ms,
        "received": received,
        "lost": lost,
        "repeated": repeated,
    }
