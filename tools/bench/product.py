"""The product from outside: `python -m clcr_stream` as a child process, its messages, its memory, its CPU time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import clcr_stream
from bench.command import BenchError

NS_PER_S = 1_000_000_000
SAMPLE_PERIOD_S = 0.2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ENGINES = ("level1", "level2", "level3", "intercad", "language", "tick")  # tick: all but language as one CUDA graph

Message = dict[str, Any]


class Overdue(BenchError):
    """The product did not end in time."""


@dataclass(frozen=True)
class Usage:
    """What the kernel says of a process at one moment."""

    at_ns: int
    cpu_s: float
    main_thread_cpu_s: float
    rss_mb: float
    peak_rss_mb: float


@dataclass(frozen=True)
class Ended:
    """A child that ran to its end."""

    spawned_ns: int
    exit_code: int
    summary: dict[str, Any]
    usage: list[Usage]

    def steady(self, from_ns: int) -> list[Usage]:
        """What was seen from a moment on."""
        return [seen for seen in self.usage if seen.at_ns >= from_ns]


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    """At the end the process is killed, and its pipes are closed."""
    try:
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@dataclass
class Product:
    """A running `clcr-stream`; a context manager that leaves no process behind.

    `place` is an empty folder for its socket; `arguments` are the command's, and `--bind` to that socket is added
    unless they name a configuration. Output and summary are read when it has ended.
    """

    place: Path
    arguments: Sequence[str | Path]
    _usage: list[Usage] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where it publishes."""
        return f"ipc://{self.place}/bench.sock"

    def __enter__(self) -> Product:
        given = [str(argument) for argument in self.arguments]
        if "--config" not in given:
            given += ["--bind", self.endpoint]
        self.command = [sys.executable, "-m", "clcr_stream", *given, "--quiet", "--json"]
        self._out, self._errors = (self.place / "stdout").open("w+"), (self.place / "stderr").open("w+")
        self.spawned_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            self.command, stdout=self._out, stderr=self._errors, stdin=subprocess.DEVNULL, env=environment()
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._out.close()
        self._errors.close()

    def look(self) -> Usage | None:
        """What the kernel says of it now; None once it is gone."""
        return usage(self.process.pid)

    def watch(self, seconds: float) -> bool:
        """Sample its usage for so long; False when it has ended before."""
        pause = threading.Event()
        deadline_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while self.process.poll() is None:
            if time.monotonic_ns() > deadline_ns:
                return True
            seen = self.look()
            if seen is not None:
                self._usage.append(seen)
            pause.wait(SAMPLE_PERIOD_S)
        return False

    def wait(self, timeout_s: float) -> Ended:
        """Sample its usage until it ends; Overdue when that takes too long, BenchError when it fails."""
        if self.watch(timeout_s):
            raise Overdue(f"clcr-stream did not end within {timeout_s:.0f} s: {' '.join(self.command)}")
        code = self.process.returncode
        if code:
            words = (self.place / "stderr").read_text(encoding="utf-8").strip().splitlines()
            raise BenchError(f"clcr-stream: exit code {code}: {words[-1] if words else 'no message'}")
        summary = json.loads((self.place / "stdout").read_text(encoding="utf-8").strip().splitlines()[-1])
        return Ended(self.spawned_ns, code, summary, list(self._usage))


def environment() -> dict[str, str]:
    """The caller's, with the runtime that this process imports in front."""
    inherited = os.environ.get("PYTHONPATH", "")
    path = f"{Path(clcr_stream.__file__).parents[1]}{os.pathsep + inherited if inherited else ''}"
    return {**os.environ, "PYTHONPATH": path, "ORT_DISABLE_TELEMETRY": "1"}


def usage(pid: int) -> Usage | None:
    """CPU time of all threads and of the first one (the session's loop), resident memory; None when it is gone."""
    try:
        cpu_s = _cpu_s(Path(f"/proc/{pid}/stat"))
        main_s = _cpu_s(Path(f"/proc/{pid}/task/{pid}/stat"))
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (OSError, IndexError):
        return None
    kb = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM"))}
    if len(kb) < 2:
        return None
    return Usage(time.monotonic_ns(), cpu_s, main_s, int(kb["VmRSS"]) * 1024 / 1e6, int(kb["VmHWM"]) * 1024 / 1e6)


def _cpu_s(path: Path) -> float:
    # The second field is a name in brackets that may hold spaces.
    fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def read_messages(path: Path, kind: str) -> list[Message]:
    """The messages of one kind in an --output file, in order."""
    messages = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [message for message in messages if message["type"] == kind]


def engines_ms(prediction: Message) -> float:
    """What the engines took of a prediction's tick."""
    return sum(float(value) for name, value in prediction["timing_ms"].items() if name in ENGINES)
