"""A publisher and its readers as processes of their own, for tests of what happens when they die, stop or lag.

    python tests/support/bus_process.py publish ENDPOINT SESSION PERIOD_MS [SECRET_FILE ALLOWED_FOLDER]
    python tests/support/bus_process.py read ENDPOINT every|newest

The publisher sends predictions until it is ended; the reader prints a line for each message that the client gives.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from clcr_stream.client import Subscriber
from clcr_stream.wire.keys import CurveServer
from clcr_stream.wire.messages import Status
from clcr_stream.wire.publisher import Publisher, PublishOptions
from wire_messages import prediction, status

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
START_S = 60.0


@dataclass(frozen=True)
class Line:
    """One message as a reader in another process was given it."""

    arrived_ns: int
    published_ns: int
    session: str
    seq: int
    missed: int
    new_session: bool


def undetected(lines: list[Line]) -> list[tuple[Line, Line]]:
    """Pairs of messages that do not follow each other and do not say so, or that go back."""
    wrong = []
    for former, later in itertools.pairwise(lines):
        if later.session == former.session:
            told = later.seq > former.seq and later.missed == later.seq - former.seq - 1 and not later.new_session
        else:
            told = later.new_session and later.published_ns > former.published_ns
        if not told:
            wrong.append((former, later))
    return wrong


class Process:
    """This program in one of its roles; a context manager that leaves no process behind."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
        path = os.pathsep.join((str(RUNTIME), str(Path(__file__).parent)))
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._came = threading.Condition()
        self._lines: list[str] = []
        self.bound_ns = 0  # when its first line was here
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._thread.join(START_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        self.process.kill()
        self.process.wait()

    def first_line(self) -> str:
        """Its first line: the bound endpoint of a publisher, `ready` of a reader."""
        with self._came:
            assert self._came.wait_for(lambda: self._lines or self.process.poll() is not None, START_S)
            assert self._lines, f"ended with {self.process.poll()}"
            return self._lines[0]

    def end(self) -> Paced:
        """SIGTERM to a publisher, and what it says of itself."""
        self.process.terminate()
        self.process.wait(START_S)
        self._thread.join(START_S)
        hand_over, late, dropped = self._lines[-1].split()
        return Paced(float(hand_over), float(late), int(dropped))

    def lines(self) -> list[Line]:
        """What a reader has been given so far."""
        with self._came:
            return [_parsed(line) for line in self._lines[1:]]

    def wait_lines(self, number: int, timeout_s: float = START_S) -> list[Line]:
        """As soon as a reader has been given so many messages."""
        with self._came:
            assert self._came.wait_for(lambda: len(self._lines) > number, timeout_s), f"{len(self._lines) - 1} came"
        return self.lines()

    def wait_for(self, session: str, timeout_s: float = START_S) -> Line:
        """The first message of a session."""
        with self._came:
            found = self._came.wait_for(
                lambda: next((line for line in self._lines[1:] if f" {session} " in line), None), timeout_s
            )
        assert found, f"nothing of {session}"
        return _parsed(found)

    def rss_mb(self) -> float:
        """Its memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def peak_mb(self, anew: bool = False) -> float:
        """The most memory that it has had since the last time `anew` was asked for."""
        folder = Path(f"/proc/{self.process.pid}")
        if anew:
            (folder / "clear_refs").write_text("5")
        lines = (folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6

    def descriptors(self) -> int:
        """How many files it has open."""
        return int(psutil.Process(self.process.pid).num_fds())

    def _take(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.bound_ns = self.bound_ns or time.monotonic_ns()
                self._lines.append(line.rstrip("\n"))
                self._came.notify_all()
        with self._came:
            self._came.notify_all()


@dataclass(frozen=True)
class Paced:
    """How a publisher did: p99 of handing a message over and of how late it came to it, and what it dropped."""

    hand_over_ms: float
    late_ms: float
    dropped: int


def _parsed(line: str) -> Line:
    arrived, published, session, seq, missed, new = line.split()
    return Line(int(arrived), int(published), session, int(seq), int(missed), new == "1")


def publish(endpoint: str, session: str, period_ms: float, curve: CurveServer | None = None) -> None:
    """Predictions until SIGTERM; the endpoint is printed once it is bound, and last what `Paced` says."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())

    def beat() -> Status:
        return status(run=session, published_ns=time.monotonic_ns())

    with Publisher(PublishOptions(endpoint=endpoint, curve=curve), beat) as publisher:
        print(publisher.endpoint, flush=True)
        message = prediction(1, run=session)
        next_s = time.monotonic()
        handed_ms: list[float] = []
        late_ms: list[float] = []
        while not ended.is_set():
            begun_s = time.monotonic()
            late_ms.append((begun_s - next_s) * 1000)
            publisher.publish(msgspec.structs.replace(message, seq=0, published_ns=time.monotonic_ns()))
            handed_ms.append((time.monotonic() - begun_s) * 1000)
            next_s = max(next_s + period_ms / 1000, time.monotonic() - 1)
            ended.wait(max(0.0, next_s - time.monotonic()))
        print(_p99(handed_ms), _p99(late_ms), publisher.dropped, flush=True)


def _p99(values: list[float]) -> float:
    return round(sorted(values)[len(values) * 99 // 100], 3)


def read(endpoint: str, every: bool) -> None:
    """Print what the client gives, until killed."""
    with Subscriber(endpoint, every=every) as subscriber:
        print("ready", flush=True)
        for got in subscriber:
            one = got.message
            numbers = (time.monotonic_ns(), one.published_ns, one.session, one.seq, got.missed, int(got.new_session))
            print(*numbers, flush=True)


if __name__ == "__main__":
    role, at, *rest = sys.argv[1:]
    if role == "publish":
        keys = CurveServer(Path(rest[2]), Path(rest[3])) if rest[2:] else None
        publish(at, rest[0], float(rest[1]), keys)
    else:
        read(at, rest[0] == "every")
