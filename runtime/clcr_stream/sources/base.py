"""The contract of a source: what the loop relies on, what a source is given and what it reports.

A new kind of input is a class that keeps `Source`; with a thread of its own it is easiest a `ThreadedSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock
from clcr_stream.errors import SourceCode
from clcr_stream.sources.framing import UPRIGHT, Framing
from clcr_stream.sources.health import State
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import Rings

LEAD_MARGIN_NS = 500 * NS_PER_MS  # a lossless source leaves this much of the ring to what the loop has just read
SETTLE_NS = 60 * NS_PER_MS

Modality = Literal["vision", "acoustic", "language"]
BOTH: tuple[Modality, ...] = ("vision", "acoustic")  # what a file or stream of video with sound brings
Pace = Literal["real", "max"]
RECOGNISER = "recogniser"  # the kind of a source that makes words of the session's own sound
AUTO = "auto"  # as a transcript: speech recognition, if it is installed and there is sound without words
Flag = Literal["input", "camera", "mic"]  # where a source's text was given: what an error begins with


class FaceCropLike(Protocol):
    """What a source needs of a found face."""

    @property
    def rgb(self) -> NDArray[np.uint8]: ...
    @property
    def quality(self) -> float: ...
    @property
    def faces(self) -> int: ...
    @property
    def box(self) -> tuple[int, int, int, int]: ...
    @property
    def landmarks(self) -> NDArray[np.float32] | None: ...


class FaceCropper(Protocol):
    """What a source needs of a face finder; called in order of time, in the source's thread."""

    def crop(self, rgb: NDArray[np.uint8], /) -> FaceCropLike | None: ...
    def reset(self) -> None: ...


def nobody() -> None:
    """Nobody waits for news."""


def never() -> bool:
    """Nobody wants the session to end."""
    return False


@dataclass(frozen=True)
class Sinks:
    """Where a source puts what it captures, and the session's clock; `finder` None = a FaceFinder when one is needed.

    Ticks wait `patience_ns` for late data: what is said to be captured longer ago comes too late for them.
    A source that must wait while it is being opened gives up once `stopping` is true.
    A source calls `notify` when what a tick was waiting for has arrived, or at its end; in its own thread.
    """

    clock: Clock
    rings: Rings
    finder: FaceCropper | None = None
    notify: Callable[[], object] = nobody
    framing: Framing = UPRIGHT
    patience_ns: int = SETTLE_NS
    stopping: Callable[[], bool] = never

    @property
    def grid(self) -> TimeGrid:
        """The session's time grid: its zero, and the rates that captured data must have."""
        return self.rings.grid

    @property
    def origin_ns(self) -> int:
        """The session's zero."""
        return self.rings.grid.origin_ns

    @property
    def lead_ns(self) -> int:
        """How far a lossless source may run ahead of what the loop has consumed."""
        capacity_ns = min(self.rings.vision.capacity_ns, self.rings.acoustic.capacity_ns)
        return max(NS_PER_S // 2, capacity_ns - LEAD_MARGIN_NS)


@dataclass(frozen=True)
class Span:
    """The part of a recording that is played, in seconds from its start, and whether again and again."""

    start_s: float = 0.0
    end_s: float | None = None
    loop: bool = False

    @property
    def begins_s(self) -> float:
        """What the session's zero is in the recording; 0 in a loop, whose times are the session's own."""
        return 0.0 if self.loop else self.start_s


@dataclass(frozen=True)
class SourceSpec:
    """The sources asked for, as given on the command line; `input` excludes `camera` and `microphone`."""

    camera: str = "none"
    microphone: str = "none"
    input: str | None = None
    transcript: str = "none"
    pace: Pace = "real"
    framing: Framing = UPRIGHT
    span: Span = Span()
    face_model: Path | None = None  # YuNet's file, in place of OpenCV's cascade


@dataclass(frozen=True)
class Timing:
    """How a live source knows when its data were captured: by the device's own stamps, or only when they arrived.

    `delay_ms` lies between capture and arrival now, as far as the stamps show (of a stream its part that varies), of
    which `subtracted_ms` is taken off the arrival. `offset_ms` is the host's clock minus the device's, `skew_ppm` how
    much faster the device's clock runs, `jumps` how often it stepped. None: not known, or not known yet.
    """

    by: Literal["device", "arrival"] = "arrival"
    delay_ms: float | None = None
    subtracted_ms: float = 0.0
    offset_ms: float | None = None
    skew_ppm: float | None = None
    jumps: int = 0


@dataclass(frozen=True)
class SourceReport:
    """How a source is doing: never holds credentials or words that were said.

    The states are those of `sources.health`. `reason` says why in one line, "" when there is nothing to say; `code`
    says it in a word for programs. `since_ns` is when the state began, by the session's clock, and `entered` how often
    each state has begun. `begins_s` is that of a recording's span.
    """

    name: str
    kind: str
    state: State
    reason: str
    counts: Mapping[str, int]
    since_ns: int | None = None
    entered: Mapping[str, int] = field(default_factory=dict)
    timing: Timing | None = None  # of a live device
    code: SourceCode = ""
    begins_s: float = 0.0


@dataclass(frozen=True)
class SourceIdentity:
    """What a source is called in messages, what kind of input it is, and what it fills."""

    name: str
    kind: str
    modalities: tuple[Modality, ...]
    lossless: bool = False
    span: Span = Span()  # of a recording


class Source(Protocol):
    """One input of a session, and what the loop relies on.

    A session opens its sources, starts them once, reads the rings until all that bring picture or sound are finished
    (or all of them, when none does) and closes them. `start` and `close` are called by one thread; all the rest may be
    called from any thread at any time, and must return at once.
    """

    @property
    def name(self) -> str:
        """What reports and messages call it: as the user wrote it, without credentials."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The rings that it fills; known and fixed before `start`."""
        ...

    @property
    def lossless(self) -> bool:
        """True for a recording: a tick waits for its data. False for a live source: what came in time counts."""
        ...

    @property
    def finished(self) -> bool:
        """True when nothing more will ever be pushed; then `watermark_ns` is FOREVER_NS. Never turns False again."""
        ...

    @property
    def watermark_ns(self) -> int:
        """Everything before this time has been pushed, FOREVER_NS at the end; never goes back. Asked if lossless."""
        ...

    def start(self) -> None:
        """Begin to push; returns at once, and what cannot be opened yet is waited for in the source's own thread."""
        ...

    def close(self) -> None:
        """Stop pushing and let go of the device, within about 2 s. Idempotent, and allowed without `start`."""
        ...

    def filled(self, end_ns: int) -> bool:
        """True when nothing more will come for the time before `end_ns`; of a live source always.

        After a False the source calls `notify` of its sinks once this has become true.
        """
        ...

    def consumed(self, end_ns: int) -> None:
        """The loop has read everything before `end_ns`: a lossless source may push up to `lead_ns` beyond it."""
        ...

    def report(self) -> SourceReport:
        """How it is doing now."""
        ...
