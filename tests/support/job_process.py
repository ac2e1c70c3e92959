"""The product as its user sees it: `python -m clcr_stream` in one process, a plain pyzmq reader in another.

What they say is collected with its time of arrival; nothing here imports the runtime.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
STREAM = "proof"
NS_PER_S = 1_000_000_000
MEDIA_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".wav", ".opus", ".ogg", ".mp3", ".jpg", ".jpeg", ".png", ".raw"}
# What a user of the wire would write; the arrival is stamped where the message is read.
READER = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RCVHWM, 0)
socket.setsockopt(zmq.RECONNECT_IVL, 10)
socket.setsockopt(zmq.SUBSCRIBE, sys.argv[2].encode())
socket.connect(sys.argv[1])
out = sys.stdout.buffer
out.write(b"ready\\n")
out.flush()
while True:
    frame = socket.recv()
    out.write(b"%d %s\\n" % (time.monotonic_ns(), frame))
    out.flush()
"""
# The same entry as `python -m clcr_stream`, and then a look at what it has imported.
TELL_MODULES = """
import sys
from clcr_stream.cli.main import main
code = main(sys.argv[1:])
sys.stderr.write("\\nloaded " + " ".join(sorted({name.partition(".")[0] for name in sys.modules})) + "\\n")
sys.exit(code)
"""

Message = dict[str, Any]


@dataclass(frozen=True)
class Received:
    """One message and the monotonic time at which the reader had it."""

    arrived_ns: int
    topic: str
    message: Message


@dataclass(frozen=True)
class Probe:
    """What the operating system says of the running process."""

    peak_rss_mb: float
    torch_maps: list[str]
    inet_sockets: list[str]
    files_written: list[str]


def free_endpoint() -> str:
    """A loopback endpoint that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def environment(place: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment whose every private folder lies under `place`, so that anything written is found there."""
    private = {
        name: str(place / folder)
        for name, folder in (
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CACHE_HOME", "cache"),
        )
    }
    for folder in (*private.values(), str(place / "cwd")):
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    # With any of these set ONNX Runtime sends nothing of itself: the proof must not rest on them.
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("ORT_")}
    return kept | private | {"PYTHONPATH": str(ROOT / "runtime")} | dict(extra or {})


def finish(place: Path, *arguments: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Run a session to its end: its summary, and the top-level modules that it had imported."""
    done = subprocess.run(
        [sys.executable, "-c", TELL_MODULES, *map(str, arguments), "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(place),
        cwd=place / "cwd",
    )
    if done.returncode:
        raise AssertionError(f"clcr-stream {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary, done.stderr.rsplit("loaded ", 1)[1].split()


def read_lines(path: Path) -> list[Message]:
    """The messages of an --output file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Reader:
    """The pyzmq process, and a thread that takes what it prints; `wait_for` blocks until a message is there."""

    def __init__(self, endpoint: str, topic: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", READER, endpoint, topic], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise AssertionError("the pyzmq reader did not start")
        self._received: list[Received] = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._take, name="reader", daemon=True)
        self._thread.start()

    def received(self, kind: str = "") -> list[Received]:
        """What has come so far, of one kind or all, each `seq` once (the last values are sent again to joiners)."""
        with self._came:
            found = list(self._received)
        unique = {(got.topic, got.message["seq"]): got for got in reversed(found)}
        return [got for got in reversed(unique.values()) if not kind or got.message["type"] == kind]

    def wait_for(
        self, wanted: Callable[[Message], bool], timeout_s: float, kind: str = "prediction", after_ns: int = 0
    ) -> Received | None:
        """The first message of `kind` that arrived after `after_ns` and is `wanted`; None when none comes in time."""
        deadline_ns = time.monotonic_ns() + int(timeout_s * NS_PER_S)
        seen = 0
        with self._came:
            while True:
                for got in self._received[seen:]:
                    if got.arrived_ns > after_ns and got.message["type"] == kind and wanted(got.message):
                        return got
                seen = len(self._received)
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return None
                self._came.wait(left_ns / NS_PER_S)

    def close(self) -> None:
        """End the reader."""
        self._process.kill()
        self._process.wait()
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _take(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            arrived, topic, payload = line.split(b" ", 2)
            got = Received(int(arrived), topic.decode(), json.loads(payload))
            with self._came:
                if any((got.topic, got.message) == (known.topic, known.message) for known in self._received[-8:]):
                    continue  # re-sent to a late joiner that had it already, which every reader must drop by its seq
                self._received.append(got)
                self._came.notify_all()


class Watched:
    """A session with its reader; a context manager that leaves no process behind.

    `bind` None leaves the default, an ipc socket of the user.
    """

    def __init__(
        self,
        place: Path,
        arguments: Sequence[str | Path],
        bind: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        self._environment = environment(place, extra)
        self.endpoint = bind if bind is not None else f"ipc://{place}/run/clcr-stream/{STREAM}.sock"
        given = [*arguments, "--stream", STREAM, *(("--bind", bind) if bind is not None else ())]
        self.command = [sys.executable, "-m", "clcr_stream", *map(str, given)]

    def __enter__(self) -> Watched:
        self.reader = Reader(self.endpoint, f"clcr/{STREAM}/")
        self._errors = (self.place / "stderr.txt").open("w+")
        self.started_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            self.command, stderr=self._errors, env=self._environment, cwd=self.place / "cwd", start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._errors.close()

    @staticmethod
    def now_ns() -> int:
        """The clock of every arrival."""
        return time.monotonic_ns()

    def stderr(self) -> str:
        """What the session has printed for a person."""
        return (self.place / "stderr.txt").read_text()

    def expect(
        self, wanted: Callable[[Message], bool], timeout_s: float, kind: str = "prediction", after_ns: int = 0
    ) -> Received:
        """As Reader.wait_for; AssertionError with the session's own words when nothing comes."""
        got = self.reader.wait_for(wanted, timeout_s, kind, after_ns)
        if got is None:
            last = [found.message for found in self.reader.received()[-1:]]
            state = f"exit {self.process.poll()}, last {last}, stderr {self.stderr()!r}"
            raise AssertionError(f"no such {kind} within {timeout_s} s; {state}")
        return got

    def terminate(self) -> tuple[int, float]:
        """SIGTERM: the exit code and the seconds it took."""
        asked_ns = time.monotonic_ns()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        return code, (time.monotonic_ns() - asked_ns) / NS_PER_S

    def probe(self) -> Probe:
        """A look at the process from outside while it runs."""
        watched = psutil.Process(self.process.pid)
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        return Probe(
            peak_rss_mb=round(int(peak_kb) * 1024 / 1e6, 1),
            torch_maps=sorted({line.split()[-1] for line in maps.splitlines() if "torch" in line}),
            inet_sockets=[f"{found.status} {found.laddr}" for found in watched.net_connections("inet")],
            files_written=[found.path for found in watched.open_files() if found.mode not in ("r", "rt", "rb")],
        )

    def files_left(self) -> list[str]:
        """Every file under the session's private folders, from the outside."""
        return sorted(str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file())


def media_files(names: Sequence[str]) -> list[str]:
    """Those of `names` that look like stored pictures, sound or video."""
    return [name for name in names if Path(name).suffix.lower() in MEDIA_SUFFIXES]
