"""Whether a decoder did as it promises: it answers or raises its documented error, soon and in little memory."""

from __future__ import annotations

import random
import re
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fuzzing.mutations import mutated

HANG_S = 10.0  # on a busy machine; a case of these sizes takes milliseconds
MOST_GROWTH_MB = 300.0  # of the process's peak, by one case
_POOL = 150


class Hang(BaseException):
    """A case has taken HANG_S; no `except Exception` of a decoder takes it for an error of its own."""


@dataclass
class Target:
    """A decoder: `run` gets an input; `allowed` are the errors that it documents."""

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[BaseException], ...]
    seeds: list[bytes]
    pool: list[bytes] = field(default_factory=list)
    signatures: set[str] = field(default_factory=set)
    cases: int = 0
    accepted: int = 0
    slowest_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """What a decoder did that it should not, with the input that made it."""

    target: str
    what: str
    where: str
    data: bytes
    trace: str


class Watch:
    """Raises `Hang` in the main thread when a case there takes longer than HANG_S; a context manager.

    A thread sends the signal: of a timer's, CPython 3.11 loses some, one in 50 to 900 where threads had just begun, and
    a main thread that only computes then never ends.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fuzz-watch", daemon=True)
        self._since_s: float | None = None

    def __enter__(self) -> Watch:
        self._former = signal.signal(signal.SIGUSR1, self._told)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self._ended.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._former)

    def begin(self) -> None:
        """A case begins."""
        self._since_s = time.monotonic()

    def rest(self) -> None:
        """It has ended, and `Hang` comes no more."""
        self._since_s = None

    def _is_over(self) -> bool:
        since_s = self._since_s
        return since_s is not None and time.monotonic() - since_s > HANG_S

    def _look(self) -> None:
        while not self._ended.wait(HANG_S / 4):
            if self._is_over():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _told(self, _: int, __: FrameType | None) -> None:
        if self._is_over():
            self.rest()
            raise Hang


def judge(target: Target, data: bytes, watch: Watch) -> Fault | None:
    """Run one case; None when all is well."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun_s = time.perf_counter()
    target.cases += 1
    try:
        watch.begin()
        try:
            target.run(data)
        finally:
            watch.rest()
        target.accepted += 1
        found = "accepted"
    except target.allowed as error:
        found = f"{type(error).__name__}: {_shape(str(error))}"
    except Hang as error:
        return _fault(target, f"hangs for {HANG_S:g} s", error, data)
    except (Exception, SystemExit) as error:
        return _fault(target, f"{type(error).__name__}: {error}"[:300], error, data)
    target.slowest_s = max(target.slowest_s, time.perf_counter() - begun_s)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    if grown_mb > MOST_GROWTH_MB:
        return Fault(target.name, f"takes {grown_mb:.0f} MB", "memory", data, "")
    if found not in target.signatures and len(target.pool) < _POOL:
        target.signatures.add(found)
        target.pool.append(data)  # it reached something that no input before it did
    return None


def fuzz(
    targets: Sequence[Target], seconds: float, seed: int, each: Callable[[Fault], object] = lambda _: None
) -> list[Fault]:
    """Change inputs and judge them for so long, the targets in turn; each fault once by its place."""
    draw = random.Random(seed)
    found: dict[tuple[str, str], Fault] = {}
    with Watch() as watch:
        for target in targets:
            for data in target.seeds:
                _keep(judge(target, data, watch), found, each)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for target in targets:
                slice_s = time.monotonic() + 0.02  # so that a slow decoder does not take the fast ones' time
                while time.monotonic() < slice_s:
                    pool = [*target.seeds, *target.pool]
                    _keep(judge(target, mutated(draw.choice(pool), draw, pool), watch), found, each)
    return list(found.values())


def keep_cases(faults: Sequence[Fault], folder: Path) -> None:
    """The inputs as files, to be run again with --case."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, fault in enumerate(faults):
        (folder / f"{fault.target}-{number}.bin").write_bytes(fault.data)


def _keep(fault: Fault | None, found: dict[tuple[str, str], Fault], each: Callable[[Fault], object]) -> None:
    if fault is not None and (fault.target, fault.where) not in found:
        found[fault.target, fault.where] = fault
        each(fault)


def _fault(target: Target, what: str, error: BaseException, data: bytes) -> Fault:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    trace = "".join(traceback.format_exception(error)[-6:])
    return Fault(target.name, what, f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}", data, trace)


def _shape(text: str) -> str:
    """An error without what it quotes."""
    return re.sub(r"\d+|'[^']*'|\"[^\"]*\"|`[^`]*`", "_", text)[:120]
