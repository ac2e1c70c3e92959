"""Plans of TensorRT for a bundle: which ones a run needs, building them, and a process that does it beside a session.

Building takes minutes, holds native code that can crash, and cannot be interrupted from within, so a session leaves it
to a process of its own (`clcr-stream build --json`) and reads how far it is, line by line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from clcr_stream import processes
from clcr_stream.bundle.loader import Bundle
from clcr_stream.errors import BackendError
from clcr_stream.inference.levels import graph_of
from clcr_stream.inference.program import TICK_ENGINES, Graph
from clcr_stream.inference.tensorrt.options import Options

NICENESS = 10  # building gives way to the session that goes on meanwhile
POLL_S = 0.1
LEAVE_S = 1.0  # a killed builder is gone in less, unless the driver holds it
ERROR = "clcr-stream: error: "  # how the command line begins its one line
AT_NEXT_START = "TensorRT's plans are built; it is used from the next start on"

Say: TypeAlias = Callable[[str], None]


class Step(msgspec.Struct, frozen=True, tag_field="type", tag="step"):
    """How far TensorRT is with an engine, in the steps of one phase; from TensorRT 10 on."""

    engine: str
    phase: str
    done: int
    of: int

    def line(self) -> str:
        """For a person."""
        return f"{self.engine}: {self.phase}, step {self.done} of {self.of}"


class Plan(msgspec.Struct, frozen=True, tag_field="type", tag="plan"):
    """An engine's plan is there; `precision` are shares of its layers by type, as TensorRT's inspector tells it.

    `reason` says why it was built now, null when it came from the cache; `seconds` is what building it took, whenever
    that was.
    """

    engine: str
    seats: int
    reason: str | None
    seconds: float
    bytes: int
    precision: dict[str, float]
    dla_fallback: list[str]

    def line(self) -> str:
        """For a person."""
        origin = "from cache" if self.reason is None else f"built in {self.seconds:.1f} s"
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in self.precision.items())
        fell_back = f"; {len(self.dla_fallback)} layers not on the DLA" if self.dla_fallback else ""
        return f"{self.engine}: {origin}, {self.bytes / 1e6:.1f} MB, layers {shares}{fell_back}"


Line: TypeAlias = Step | Plan
_lines = msgspec.json.Decoder(Line)


class Entry(Protocol):
    """A plan and what is known of it."""

    @property
    def data(self) -> bytes: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    @property
    def reason(self) -> str | None: ...


class Builder(Protocol):
    """A backend that needs plans: TensorRTBackend."""

    def plan(self, engine: str, graph: Graph, seats: int) -> Entry: ...

    def planned(self, engine: str, graph: Graph, seats: int) -> bool: ...

    def forget(self, engine: str, graph: Graph, seats: int) -> None: ...


def needed(bundle: Bundle, seats: int) -> Iterator[tuple[str, Graph, int]]:
    """The plans of a run with so many seats: the language engine works for one stream at a time."""
    for engine in ("language", *TICK_ENGINES):
        yield engine, graph_of(bundle, engine), 1 if engine == "language" else seats


def missing(bundle: Bundle, builder: Builder, seats: int) -> tuple[str, ...]:
    """The engines whose plan is not in the cache. BackendError when the cache cannot be used."""
    return tuple(engine for engine, graph, count in needed(bundle, seats) if not builder.planned(engine, graph, count))


def build_plans(bundle: Bundle, builder: Builder, seats: int, rebuild: bool = False) -> Iterator[Plan]:
    """Each plan once it is there; `rebuild` takes none from the cache. BackendError when one cannot be built."""
    for engine, graph, count in needed(bundle, seats):
        if rebuild:
            builder.forget(engine, graph, count)
        entry = builder.plan(engine, graph, count)
        about = entry.about
        yield Plan(
            engine=engine,
            seats=count,
            reason=entry.reason,
            seconds=float(about["seconds"]),
            bytes=len(entry.data),
            precision=dict(about["precision"]),
            dla_fallback=list(about["dla_fallback"]),
        )


def build_command(bundle: Path, seats: int, options: Options) -> list[str]:
    """The command that builds what a run of a bundle with so many streams needs."""
    command = [*processes.command("clcr_stream.cli.main", "main"), "build", "--json"]
    command += ["--bundle", str(bundle.absolute()), "--streams", str(seats), "--device", str(options.device)]
    return command + [f"--{name}={text}" for name, text in options.build.flags().items()]


class Building:
    """The process that builds; a context manager that ends it. `reason` may be asked by any thread."""

    def __init__(self, command: Sequence[str], say: Say) -> None:
        self._command = command
        self._say = say
        self._state = "TensorRT's plans are being built"
        self._failure: str | None = None
        self._ending = False
        self._done = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name="clcr-plans", daemon=True)

    def reason(self) -> str:
        """How far it is, or how it ended, in one line."""
        return self._state

    def __enter__(self) -> Building:
        # A session of its own, so that Ctrl-C is ours to handle.
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._end(f"{self._command[0]} cannot be started ({error.strerror})")
            return self
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        self._ending = True
        # What is half built is lost, and nothing else: a plan enters the cache by one rename.
        for end in (process.terminate, process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                end()
                process.wait(LEAVE_S)
                break
        self._reader.join(LEAVE_S)

    def wait(self, stop: threading.Event) -> None:
        """Until all plans are there. BackendError says why they are not, or that `stop` was set."""
        while not self._done.wait(POLL_S):
            if stop.is_set():
                raise BackendError(
                    "stopped while TensorRT's plans were being built; `clcr-stream build` builds the rest"
                )
        if self._failure is not None:
            raise BackendError(self._failure)

    def _read(self) -> None:
        """The reader's thread: what the process says, then how it ended."""
        assert self._process is not None and self._process.stdout is not None
        last = ""
        with self._process.stdout as lines:
            for raw in lines:
                try:
                    self._note(_lines.decode(raw))
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    last = raw.decode(errors="replace").strip() or last
        code = self._process.wait()
        if code == 0:
            self._end(None)
        elif last.startswith(ERROR):
            self._end(last.removeprefix(ERROR))
        else:
            self._end(
                f"the process that builds ended with code {code}; run `clcr-stream build` ({last or 'no output'})"
            )

    def _end(self, failure: str | None) -> None:
        self._failure = failure
        self._state = AT_NEXT_START if failure is None else f"TensorRT's plans were not built: {failure}"
        if not self._ending:
            self._say(self._state)
        self._done.set()

    def _note(self, line: Line) -> None:
        if isinstance(line, Step):
            self._state = f"TensorRT's plans are being built: {line.line()}"
        else:
            self._state = f"TensorRT's plans are being built: {line.engine} done"
            self._say(line.line())
