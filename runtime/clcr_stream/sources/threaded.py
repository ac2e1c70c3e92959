"""A source with a thread of its own: state, counters, watermark and the thread's edge, and pauses between tries."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from clcr_stream.clock import FOREVER_NS
from clcr_stream.errors import ClcrError, SourceCode, one_line, redact
from clcr_stream.sources.base import Modality, Sinks, SourceIdentity, SourceReport, Timing
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.health import STALE_PICTURE_NS, STALE_SOUND_NS, Health, State
from clcr_stream.window.conditions import FINE, Condition

CLOSE_TIMEOUT_S = 2.0
POLL_S = 0.05  # how soon a waiter notices a stop event that nobody announces
LIVE_STALE_NS: Mapping[str, int] = {"vision": STALE_PICTURE_NS, "acoustic": STALE_SOUND_NS}


class ThreadedSource(ABC):
    """A source with one daemon thread that runs `run` once; an error there ends the source, never the process.

    For `run` and what it calls: `stop` is set when the source is closed; `opening`, `came`, `gone` or `set_state` say
    how it is doing, `count` and `set_counts` what it did. A lossless source pushes everything before it says `advance`,
    and asks `await_room` first instead of overrunning its ring. A live one is always `filled`: its ring holds whatever
    came in time.
    """

    def __init__(
        self,
        identity: SourceIdentity,
        sinks: Sinks,
        counts: Mapping[str, int],
        stale_ns: Mapping[str, int] | None = None,
    ) -> None:
        """`stale_ns`: when what it brings is stale; unless given, as of a live device, and of a lossless one never."""
        self.identity, self.sinks = identity, sinks
        self.stop = threading.Event()
        self._counts = dict(counts)
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._watermark_ns = sinks.origin_ns
        self._consumed_ns = sinks.origin_ns
        self._awaited_ns: int | None = None  # what a tick was refused for: its arrival is worth waking somebody
        if stale_ns is None:
            stale_ns = {} if identity.lossless else LIVE_STALE_NS
        self._health = Health(sinks.clock.now_ns(), stale_ns)
        self._stated: tuple[str, str] | None = None
        self._timing: Timing | None = None
        self._tell_round: Callable[[int], object] | None = None

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self.identity.modalities

    @property
    def lossless(self) -> bool:
        return self.identity.lossless

    @property
    def watermark_ns(self) -> int:
        """Everything before this time has been pushed; FOREVER_NS once the source has ended."""
        with self._changed:
            return self._watermark_ns

    @property
    def finished(self) -> bool:
        """True when nothing more will ever be pushed."""
        return self.watermark_ns == FOREVER_NS

    @property
    def started(self) -> bool:
        """True from `start` on."""
        return self._thread is not None

    @property
    def running(self) -> bool:
        """True while the source's thread lives."""
        return self._thread is not None and self._thread.is_alive()

    @abstractmethod
    def run(self) -> str | None:
        """Push until the input ends or `stop` is set, in the source's own thread; a note on how it ended, if any."""

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError(f"{self.name}: started twice")
        self._thread = threading.Thread(target=self._guarded_run, name=f"source {self.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and join within CLOSE_TIMEOUT_S; a thread stuck in a driver is left to its own time-out. Idempotent."""
        self.stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)
        else:
            self._end("ended", "closed")

    def filled(self, end_ns: int) -> bool:
        """True when nothing more will come for the time before `end_ns`; of a live source, what came in time counts."""
        if not self.lossless:
            return True
        with self._changed:
            if self._watermark_ns < end_ns:
                self._awaited_ns = end_ns
            return self._watermark_ns >= end_ns

    def consumed(self, end_ns: int) -> None:
        """The loop has read everything before `end_ns`: room for a lossless source to go on."""
        with self._changed:
            self._consumed_ns = max(self._consumed_ns, end_ns)
            self._changed.notify_all()

    def report(self) -> SourceReport:
        with self._changed:
            counts = dict(sorted(self._counts.items()))
            now = self._health.at(self.sinks.clock.now_ns())
        return SourceReport(
            self.identity.name,
            self.identity.kind,
            now.state,
            now.reason,
            counts,
            now.since_ns,
            now.entered,
            self._timing,
            now.code,
            self.identity.span.begins_s,
        )

    def count(self, what: str, number: int = 1) -> None:
        """Add to a counter of the report."""
        with self._changed:
            self._counts[what] = self._counts.get(what, 0) + number

    def set_counts(self, **counts: int) -> None:
        """Set counters of the report that are kept elsewhere, all at one moment."""
        with self._changed:
            self._counts.update(counts)

    def set_timing(self, timing: Timing) -> None:
        """Say how it is known when data were captured."""
        self._timing = timing  # one reference: no lock

    def set_state(self, state: State, reason: str = "") -> None:
        """Say how the source is doing; cheap when nothing has changed, so it may be called with every block."""
        if (state, reason) == self._stated:
            return
        with self._changed:
            self._stated = state, reason
            self._health.put(state, self.sinks.clock.now_ns(), redact(one_line(reason)))

    def opening(self) -> None:
        """A try to open the device begins."""
        with self._changed:
            self._health.opening(self.sinks.clock.now_ns())

    def gone(self, reason: str, code: SourceCode) -> None:
        """A try has failed, or what was open has ended; `reason` says what is done about it, `code` why it is so."""
        with self._changed:
            self._stated = None
            now_ns = self.sinks.clock.now_ns()
            self._health.gone(now_ns, redact(one_line(reason)), code)
        for modality, ring in (("vision", self.sinks.rings.vision), ("acoustic", self.sinks.rings.acoustic)):
            if modality in self.modalities:
                ring.conditions.put(now_ns, FINE)

    def came(self, modality: Modality, condition: Condition = FINE) -> None:
        """A picture or sound came, with what is wrong with it."""
        with self._changed:
            self._health.came(self.sinks.clock.now_ns(), modality, condition)

    def awaits(self, awaited: bool = True) -> None:
        """For a lossless source: more data are due and are waited for from now on, or no longer."""
        with self._changed:
            self._health.awaits(self.sinks.clock.now_ns(), "data", awaited)

    def note(self, text: str) -> None:
        """What is worth saying of it while it is live."""
        if text != self._health.note:
            with self._changed:
                self._health.note = redact(one_line(text))

    def advance(self, watermark_ns: int) -> None:
        """Everything before `watermark_ns` has been pushed."""
        with self._changed:
            if watermark_ns > self._watermark_ns:
                self._watermark_ns = watermark_ns
                self._changed.notify_all()
            arrived = self._awaited_ns is not None and watermark_ns >= self._awaited_ns
            if arrived:
                self._awaited_ns = None
        if arrived:
            self.sinks.notify()

    def await_room(self, end_ns: int) -> bool:
        """Block until data up to `end_ns` fits in the rings; False when the source is stopping."""
        lead_ns = self.sinks.lead_ns
        with self._changed:
            while end_ns > self._consumed_ns + lead_ns:
                if self.stop.is_set():
                    return False
                self._changed.wait(POLL_S)
        return not self.stop.is_set()

    def await_beyond(self, time_ns: int) -> int:
        """For what keeps in step with this source: the watermark, waited for a moment while it is `time_ns` or less."""
        with self._changed:
            if self._watermark_ns <= time_ns:
                self._changed.wait(POLL_S)
            return self._watermark_ns

    def on_round(self, tell: Callable[[int], object]) -> None:
        """Before `start`: have `tell` called with when each further round of a loop begins, in the source's thread."""
        self._tell_round = tell

    def begin_round(self, begun_ns: int) -> None:
        """A further round of a loop begins; said before anything of it is pushed."""
        if self._tell_round is not None:
            self._tell_round(begun_ns)

    def _guarded_run(self) -> None:
        try:
            note = self.run()
        except ClcrError as error:
            self._end("failed", redact(str(error)), code_of(error))
        except BaseException as error:  # the thread's edge: nothing that happens here may pass for a live source
            self._end("failed", redact(f"{type(error).__name__}: {error}"), code_of(error))
        else:
            over = note or ("closed" if self.stop.is_set() else "end of input")
            held = self._health.note  # what was worth saying while it was live is so at its end
            self._end("ended", over if held in over else f"{over}; {held}")

    def _end(self, state: State, reason: str, code: SourceCode = "") -> None:
        with self._changed:
            self._health.over(state, self.sinks.clock.now_ns(), one_line(reason), code)
            self._watermark_ns = FOREVER_NS
            self._changed.notify_all()
        self.sinks.notify()


def backoff_s(attempt: int, jitter: float, first_s: float = 0.25, limit_s: float = 5.0) -> float:
    """Pause before try `attempt` (0, 1, ...): doubles up to `limit_s`, less up to 40 % by `jitter` in 0..1.

    Never under `first_s`. Sources that lost the same server at the same time do not come back in step.
    """
    return max(first_s, float(min(limit_s, first_s * 2.0 ** min(attempt, 16)) * (1.0 - 0.4 * jitter)))
