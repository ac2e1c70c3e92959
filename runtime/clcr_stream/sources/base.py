"""The contract of a source: what the loop relies on, what a source is given and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock
from clcr_stream.window.ring import AudioRing, VisionRing
from clcr_stream.window.transcript import Transcript

NOT_STARTED, STARTING = "not started", "starting"  # reasons of a source that is only being opened
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
