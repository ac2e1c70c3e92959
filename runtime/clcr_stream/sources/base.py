"""What every source promises the loop, and the thread, state and accounting they share."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock
from clcr_stream.errors import ClcrError
from clcr_stream.window.ring import AudioRing, VisionRing
from clcr_stream.window.transcript import Transcript

FOREVER_NS = 2**63 - 1
CLOSE_TIMEOUT_S = 2.0
NOT_STARTED, STARTING = "not started", "starting"  # reasons of a source that is only being opened
POLL_S = 0.05  # how soon a waiter notices a stop event that nobody announces
LEAD_MARGIN_NS = 500 * NS_PER_MS  # a lossless source leaves this much of the ring to what the loop has just read

Modality = Literal["vision", "acoustic", "language"]
State = Literal["waiting", "live", "stale", "ended", "failed"]
Pace = Literal["real", "max"]


class FaceCropLike(Protocol):
    """What a source needs of a found face."""

    @property
    def rgb(self) -> NDArray[np.uint8]: ...
    @property
    def quality(self) -> float: ...
    @property
    def faces(self) -> int: ...


class FaceCropper(Protocol):
    """What a source needs of a face finder; called in order of time, in the source's thread."""

    def crop(self, rgb: NDArray[np.uint8], /) -> FaceCropLike | None: ...


def nobody() -> None:
    """Nobody waits for news."""


@dataclass(frozen=True)
class Sinks:
    """Where sources put what they capture, and the session's clock; `finder` None = a FaceFinder when one is needed.

    A source calls `notify` when what a tick was waiting for has arrived, or at its end; in its own thread.
    """

    clock: Clock
    vision: VisionRing
    audio: AudioRing
    transcript: Transcript
    finder: FaceCropper | None = None
    notify: Callable[[], object] = nobody

    @property
    def origin_ns(self) -> int:
        """The session's zero."""
        return self.vision.origin_ns

    @property
    def lead_ns(self) -> int:
        """How far a lossless source may run ahead of what the loop has consumed."""
        return max(NS_PER_S // 2, min(self.vision.capacity_ns, self.audio.capacity_ns) - LEAD_MARGIN_NS)


@dataclass(frozen=True)
class SourceSpec:
    """The sources asked for, as given on the command line; `input` excludes `camera` and `microphone`."""

    camera: str = "none"
    microphone: str = "none"
    input: str | None = None
    transcript: str = "none"
    pace: Pace = "real"


@dataclass(frozen=True)
class SourceReport:
    """How a source is doing: never holds credentials or words that were said."""

    name: str
    kind: str
    state: State
    reason: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Identity:
    """What a source is called and what it fills."""

    name: str
    kind: str
    modalities: tuple[Modality, ...]
    lossless: bool = False


class Source(Protocol):
    """One input. `start` and `close` are called by one thread; the rest may be called from any."""

    @property
    def name(self) -> str: ...
    @property
    def modalities(self) -> tuple[Modality, ...]: ...
    @property
    def lossless(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def watermark_ns(self) -> int: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def filled(self, end_ns: int) -> bool: ...
    def consumed(self, end_ns: int) -> None: ...
    def report(self) -> SourceReport: ...


class ThreadedSource(ABC):
    """A source with one daemon thread that runs `run` once; an error there ends the source, never the process.

    A lossless source has pushed everything before `watermark_ns` and waits with `_await_room` instead of overrunning
    its ring. A live one is always `filled`: its ring holds whatever came in time.
    """

    def __init__(self, identity: Identity, sinks: Sinks) -> None:
        self.identity, self.sinks = identity, sinks
        self.stop = threading.Event()
        self.counts: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._watermark_ns = sinks.origin_ns
        self._consumed_ns = sinks.origin_ns
        self._awaited_ns = FOREVER_NS  # what a tick was refused for: its arrival is worth waking somebody
        self._state: State = "waiting"
        self._reason = NOT_STARTED
        self._stated: tuple[str, str] | None = None

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

    @abstractmethod
    def run(self) -> None:
        """Push until the input ends or `stop` is set; in the source's own thread."""

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError(f"{self.name}: started twice")
        self._set_state("waiting", STARTING)
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
            return SourceReport(
                self.identity.name, self.identity.kind, self._state, self._reason, dict(sorted(self.counts.items()))
            )

    def count(self, what: str, number: int = 1) -> None:
        """Add to a counter of the report."""
        with self._changed:
            self.counts[what] = self.counts.get(what, 0) + number

    def _guarded_run(self) -> None:
        try:
            self.run()
        except ClcrError as error:
            self._end("failed", redact(str(error)))
        except Exception as error:  # the thread's edge: a device or decoder bug must not end the session
            self._end("failed", redact(f"{type(error).__name__}: {error}"))
        else:
            self._end("ended", "closed" if self.stop.is_set() else "end of input")

    def _end(self, state: State, reason: str) -> None:
        with self._changed:
            if self._state not in ("ended", "failed"):
                self._state, self._reason = state, one_line(reason)
            self._watermark_ns = FOREVER_NS
            self._changed.notify_all()
        self.sinks.notify()

    def _set_state(self, state: State, reason: str = "") -> None:
        if (state, reason) == self._stated:  # said with every block
            return
        with self._changed:
            self._stated = state, reason
            self._state, self._reason = state, redact(one_line(reason))

    def _advance(self, watermark_ns: int) -> None:
        with self._changed:
            if watermark_ns > self._watermark_ns:
                self._watermark_ns = watermark_ns
                self._changed.notify_all()
            arrived = watermark_ns >= self._awaited_ns
            if arrived:
                self._awaited_ns = FOREVER_NS
        if arrived:
            self.sinks.notify()

    def _await_room(self, end_ns: int) -> bool:
        """Block until data up to `end_ns` fits in the rings; False when the source is stopping."""
        lead_ns = self.sinks.lead_ns
        with self._changed:
            while end_ns > self._consumed_ns + lead_ns:
                if self.stop.is_set():
                    return False
                self._changed.wait(POLL_S)
        return not self.stop.is_set()


class FrameFeeder:
    """Offers frames to the vision ring, searching for a face only in those it wants."""

    def __init__(self, sinks: Sinks) -> None:
        self._ring = sinks.vision
        self._finder = sinks.finder if sinks.finder is not None else make_finder(sinks.vision.size_px)

    def offer(self, captured_ns: int, rgb: Callable[[], NDArray[np.uint8] | None]) -> bool:
        """Search `rgb()`, (height, width, 3), for a face if the frame's slot is free.

        False when it is not, or when `rgb` answers None: the frame turned out unusable and leaves its slot free.
        """
        if not self._ring.wants(captured_ns):
            return False
        frame = rgb()
        if frame is None:
            return False
        found = self._finder.crop(frame)
        if found is None:
            self._ring.put(captured_ns, None, 0.0, 0)
        else:
            self._ring.put(captured_ns, found.rgb, found.quality, found.faces)
        return True

    def reset(self) -> None:
        """Forget the tracked face: the next frame has nothing to do with the last one."""
        reset: Any = getattr(self._finder, "reset", None)
        if reset is not None:
            reset()


def make_finder(size_px: int) -> FaceCropper:
    """The product's face finder; imported here because it loads OpenCV."""
    from clcr_stream.frontends.faces import FaceFinder

    return FaceFinder(size_px=size_px)


_CREDENTIALS = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s]*@")  # greedy: a password may hold an @
_SECRET = re.compile(r"(?i)([?&;](?:[a-z0-9_-]*(?:pass|pwd|token|secret|key|auth|sig)[a-z0-9_-]*|user|login)=)[^&;\s]+")


def redact(text: str) -> str:
    """`text` with the credentials in its URLs replaced, for names, messages and logs."""
    return _SECRET.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


def one_line(text: str) -> str:
    """`text` without line breaks or control characters, at most 300 characters."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))[:300]


def backoff_s(attempt: int, jitter: float, first_s: float = 0.25, limit_s: float = 2.0) -> float:
    """Pause before try `attempt` (0, 1, ...): doubles up to `limit_s`, times 0.75..1.25 by `jitter` in 0..1."""
    return float(min(limit_s, first_s * 2.0 ** min(attempt, 16)) * (0.75 + 0.5 * jitter))
