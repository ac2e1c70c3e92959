"""The loop: whose hop is due, which of them go through the levels together, and who comes first.

Streams share one grid of ticks, so those that are live are due together and go through each level in one call. The
engines are the only thing that streams share: a source that is slow, stuck or gone holds up nobody but its own stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from clcr_stream.clock import FOREVER_NS, Clock, Wake
from clcr_stream.errors import BackendError, ClcrError, as_clcr_error, one_line
from clcr_stream.inference.levels import Levels
from clcr_stream.streams.session import NextHop, Session

COST_WEIGHT = 0.2  # of the newest measurement in the running mean of what a batch costs

OnEnd = Callable[[Session, ClcrError | None], None]


@dataclass(frozen=True)
class Due:
    """A stream whose hop is due, after `done` of its hops."""

    seat: int
    deadline_ns: int
    done: int = 0


class BatchCost:
    """What a call of so many streams takes, learned from those that were made."""

    def __init__(self) -> None:
        self._ns: dict[int, float] = {}

    def learn(self, count: int, cost_ns: float) -> None:
        """A call of `count` streams took so long."""
        known = self._ns.get(count, cost_ns)
        self._ns[count] = known + COST_WEIGHT * (cost_ns - known)

    def of(self, count: int) -> float:
        """Expected ns; from the nearest known count in proportion, 0 before the first."""
        if not self._ns:
            return 0.0
        nearest = min(self._ns, key=lambda known: abs(known - count))
        return self._ns[nearest] * count / nearest


def next_batch(due: Iterable[Due], limit: int, now_ns: int, cost: BatchCost) -> range:
    """The seats of the next call: at most `limit` side by side, with the most urgent stream that can be in time.

    Overdue streams come after those, so that one that has fallen behind does not make others late; unpaced recordings
    come last, the one with the fewest hops first. A call that would miss a deadline is halved until it meets it, if a
    part does.
    """

    def urgency(entry: Due) -> tuple[bool, bool, int, int]:
        # Unpaced recordings come after overdue streams, which would otherwise wait for the end of a whole recording.
        return entry.deadline_ns == FOREVER_NS, entry.deadline_ns <= now_ns, entry.deadline_ns, entry.done

    runs: list[list[Due]] = []
    for entry in sorted(due, key=lambda entry: entry.seat):
        if runs and runs[-1][-1].seat + 1 == entry.seat and len(runs[-1]) < limit:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    chosen = min(runs, key=lambda run: min(map(urgency, run)))
    urgent = min(chosen, key=urgency)
    slack_ns = urgent.deadline_ns - now_ns
    part = chosen
    while len(part) > 1 and cost.of(len(part)) > slack_ns:
        middle = len(part) // 2
        part = part[:middle] if urgent in part[:middle] else part[middle:]
    if cost.of(len(part)) <= slack_ns:
        chosen = part
    return range(chosen[0].seat, chosen[-1].seat + 1)


class Loop:
    """Drives sessions in one thread; streams come and go from any other.

    `on_end` is called in the loop's thread when a session has left, with the error that ended it.
    """

    def __init__(self, levels: Levels, clock: Clock, wake: Wake, on_end: OnEnd, max_batch: int = 8) -> None:
        self._levels = levels
        self._clock = clock
        self._wake = wake
        self._on_end = on_end
        self._max_batch = max_batch
        self._cost = BatchCost()
        self._seated: list[Session] = []  # by seat
        self._lock = threading.Lock()
        self._coming: list[Session] = []
        self._going: list[Session] = []
        self._holds = 0
        self._fault: ClcrError | None = None

    def add(self, session: Session) -> None:
        """Let a stream in before the next tick."""
        with self._lock:
            self._coming.append(session)
        self._wake.set()

    def remove(self, session: Session) -> None:
        """Let a stream out before the next tick; nothing when it has left already."""
        with self._lock:
            self._going.append(session)
        self._wake.set()

    def fail(self, error: ClcrError) -> None:
        """Have `run` raise this before the next tick: what serves the loop cannot go on."""
        self._fault = error
        self._wake.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile the loop goes on without a single stream, because others are about to come."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
            self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Tick until every stream has ended or `stop` is set (and the wake with it).

        Raises BackendError, and what `fail` was given.
        """
        try:
            self._run(stop)
        finally:
            for seat, session in enumerate(self._seated):
                _attempt(session, partial(session.leave, self._levels, seat), {})

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._fault is not None:
                raise self._fault
            held = self._let_in_and_out()
            if not self._seated:
                if not held:
                    return
                self._clock.pause(None, self._wake)
                continue
            asleep_until_ns: int | None = None
            due: list[Due] = []
            ended: dict[Session, ClcrError | None] = {}
            now_ns = self._clock.now_ns()
            for seat, session in enumerate(self._seated):
                try:
                    next_due = session.next_due()
                except Exception as error:  # a source's: it ends its own stream
                    ended[session] = as_clcr_error(error, "a tick failed")
                    continue
                if next_due is NextHop.NONE:
                    ended[session] = session.failure()
                elif next_due is NextHop.NOW or (isinstance(next_due, int) and next_due <= now_ns):
                    due.append(Due(seat, session.deadline_ns(), session.done))
                elif isinstance(next_due, int):
                    asleep_until_ns = next_due if asleep_until_ns is None else min(asleep_until_ns, next_due)
            if ended:
                for session, reason in ended.items():
                    self._leave(session, reason)
            elif due:
                self._step(next_batch(due, self._max_batch, now_ns, self._cost))
            else:
                self._clock.pause(asleep_until_ns, self._wake)

    def _step(self, seats: range) -> None:
        """One hop of each of these streams."""
        started_ns = self._clock.now_ns()
        sessions = self._seated[seats.start : seats.stop]
        failed: dict[Session, ClcrError] = {}
        for seat, session in zip(seats, sessions, strict=True):
            _attempt(session, partial(session.fill, self._levels, seat), failed)
        try:
            engines_ms = self._levels.run(seats.start, len(seats))
        except ClcrError:
            raise
        except Exception as error:
            raise BackendError(f"the engines failed: {one_line(repr(error))}") from error
        for seat, session in zip(seats, sessions, strict=True):
            if session not in failed:
                _attempt(session, partial(session.finish, self._levels, seat, engines_ms, len(seats)), failed)
        self._cost.learn(len(seats), self._clock.now_ns() - started_ns)
        for session, reason in failed.items():
            self._leave(session, reason)

    def _let_in_and_out(self) -> bool:
        """Seat who came and let out who goes; True when the loop was held when it looked."""
        with self._lock:
            held = self._holds > 0
            coming, self._coming = self._coming, []
            going, self._going = self._going, []
        for session in coming:
            try:
                self._levels.take()
            except BackendError as error:  # no seat is left
                self._on_end(session, error)
            else:
                self._seated.append(session)
        for session in going:
            if session in self._seated:
                self._leave(session, None)
        return held

    def _leave(self, session: Session, error: ClcrError | None) -> None:
        seat = self._seated.index(session)
        failed: dict[Session, ClcrError] = {}
        _attempt(session, partial(session.leave, self._levels, seat), failed)
        moved = self._levels.leave(seat)
        self._seated[seat] = self._seated[moved]
        self._seated.pop()
        self._on_end(session, error or failed.get(session))


def _attempt(session: Session, act: Callable[[], None], failed: dict[Session, ClcrError]) -> None:
    """Do a stream's own part of a tick; what fails there ends that stream and no other."""
    try:
        act()
    except Exception as error:
        failed[session] = as_clcr_error(error, "a tick failed")
