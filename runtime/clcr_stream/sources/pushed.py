"""A source without a device: the embedding program brings frames, samples and words itself."""

from __future__ import annotations

import operator
import threading
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import FOREVER_NS, NS_PER_MS, NS_PER_S
from clcr_stream.errors import ClcrError, SourceError
from clcr_stream.frontends.quality import sharpness
from clcr_stream.sources.base import Modality, Sinks, SourceIdentity, SourceReport
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.health import Health
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.window.conditions import FINE, Condition
from clcr_stream.window.ring import Look
from clcr_stream.window.transcript import Segment

FUTURE_NS = 100 * NS_PER_MS  # how far ahead of the clock a capture time may lie: clocks of devices are not exact
PAST_NS = 60 * NS_PER_S  # a capture time this long before the stream's beginning is another clock's
JITTER_NS = 20 * NS_PER_MS  # a block of sound this close to the end of the last one continues it
RATE_CHECK_NS = 2 * NS_PER_S  # sound of this length shows whether it has the bundle's sample rate
RATE_TOLERANCE = 0.1
MAX_TEXT_BYTES = 64 * 1024
STALE_S = 1.5  # a live stream without a push for so long is stale
CLOCK = "give time.monotonic_ns() of the capture"
POLL_S = 0.05


class PushedSource:
    """Frames, samples and words that a program pushes; every call checks its arguments and copies what it keeps.

    Live (`lossless` False) the times are those of the host's monotonic clock, and ticks follow the clock. A recording
    is pushed in order of time, counted from the stream's origin: ticks wait for the data, and a push waits for room.
    Modalities may be pushed from different threads. SourceError for what cannot be taken.
    """

    def __init__(self, identity: SourceIdentity, sinks: Sinks) -> None:
        self.name, self.modalities, self.lossless = identity.name, identity.modalities, identity.lossless
        self._kind = identity.kind
        self._sinks = sinks
        # A live stream must not wait for the face finder at its first frame; a recording of faces never needs one.
        live = not identity.lossless
        self._feeder = FrameFeeder(sinks) if live and "vision" in identity.modalities else None
        self._frames_lock, self._audio_lock = threading.Lock(), threading.Lock()
        self._sound = _SoundPlacer(sinks)
        self._sound_feeder = SoundFeeder(sinks)
        self._changed = threading.Condition()
        media: list[Modality] = [modality for modality in identity.modalities if modality != "language"]
        self._reached_ns = dict.fromkeys(media or identity.modalities, sinks.origin_ns)
        self._last_ns: dict[Modality, int] = {}
        self._consumed_ns = sinks.origin_ns
        self._awaited_ns: int | None = None
        stale_ns = {"push": int(STALE_S * NS_PER_S)} if live else {}
        self._health = Health(sinks.clock.now_ns(), stale_ns)
        self._finished = False
        self._error: ClcrError | None = None
        self._counts = {"frames": 0, "samples": 0, "segments": 0}

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def watermark_ns(self) -> int:
        with self._changed:
            return self._watermark_ns()

    def start(self) -> None:
        """Nothing to open: the program pushes."""

    def close(self) -> None:
        self.end()

    def end(self, error: ClcrError | None = None) -> None:
        """Nothing more will be pushed; `error` is what later pushes are told. Idempotent."""
        with self._changed:
            self._finished = True
            self._health.over("ended", self._sinks.clock.now_ns(), "")
            self._error = self._error or error
            self._changed.notify_all()
        self._sinks.notify()

    def end_of_recording(self, round_up: bool) -> None:
        """Nothing more will be pushed; with `round_up` the hop that is not full comes too, its rest a gap."""
        if round_up and not self._finished:
            rings, grid = self._sinks.rings, self._sinks.grid
            words_ns = None if set(self.modalities) - {"language"} else rings.transcript.newest_ns
            end_ns = max(rings.data_end_ns, words_ns or 0)
            hop_end_ns = grid.tick(grid.closed_by(end_ns - 1) + 1).end_ns
            rings.acoustic.reach(grid.sample_of(hop_end_ns))
        self.end()

    def filled(self, end_ns: int) -> bool:
        if not self.lossless:
            return True
        with self._changed:
            reached = self._watermark_ns() >= end_ns
            self._awaited_ns = None if reached else end_ns
            return reached

    def consumed(self, end_ns: int) -> None:
        with self._changed:
            self._consumed_ns = max(self._consumed_ns, end_ns)
            self._changed.notify_all()

    def report(self) -> SourceReport:
        with self._changed:
            now = self._health.at(self._sinks.clock.now_ns())
            reason = "nothing was pushed yet" if now.state == "starting" else now.reason
            counts = dict(self._counts)
        return SourceReport(self.name, self._kind, now.state, reason, counts, now.since_ns, now.entered)

    def push_frame(self, captured_ns: SupportsIndex, rgb: NDArray[np.uint8]) -> None:
        """One picture, (height, width, 3) uint8 RGB; searched for a face in this call, in the caller's thread.

        `rgb` may be reused as soon as the call returns: of a frame that is used, the face is copied.
        """
        if not _is_array(rgb, np.uint8, 3) or rgb.shape[2] != 3:
            allowed = "a uint8 array (height, width, 3), RGB"
            raise SourceError(f"{self.name}: push_frame: rgb is {_shown(rgb)}, allowed is {allowed}")
        with self._frames_lock:
            time_ns = self._checked_ns("vision", captured_ns, "captured_ns")
            self._await_room("vision", time_ns, time_ns)
            if self._feeder is None:
                self._feeder = FrameFeeder(self._sinks)
            self._feeder.offer(time_ns, lambda: np.ascontiguousarray(rgb))
            self._health.note = self._feeder.hint
            self._pushed("vision", time_ns, "frames", 1, self._feeder.condition)

    def wants_frame(self, captured_ns: SupportsIndex) -> bool:
        """Whether a frame of this time would be used; a refused one counts as seen and dropped."""
        return self._sinks.rings.vision.wants(self._whole(captured_ns, "captured_ns"))

    def push_face(self, captured_ns: SupportsIndex, rgb: NDArray[np.uint8], quality: float) -> None:
        """A face that was cut out already, (size, size, 3) uint8 RGB at the model's size; copied. No face is searched.

        quality: 0..1, as predictions report it.
        """
        ring = self._sinks.rings.vision
        if not _is_array(rgb, np.uint8, 3) or rgb.shape != (ring.size_px, ring.size_px, 3):
            allowed = f"a uint8 array ({ring.size_px}, {ring.size_px}, 3), RGB"
            raise SourceError(f"{self.name}: push_face: rgb is {_shown(rgb)}, allowed is {allowed}; resize")
        if not 0.0 <= quality <= 1.0:
            raise SourceError(f"{self.name}: push_face: quality is {quality!r}, allowed is 0..1")
        with self._frames_lock:
            time_ns = self._checked_ns("vision", captured_ns, "captured_ns")
            self._await_room("vision", time_ns, time_ns)
            if ring.wants(time_ns):
                ring.put(time_ns, rgb, quality, 1, look=Look(sharpness=sharpness(rgb)))
            self._pushed("vision", time_ns, "frames", 1)

    def push_gap(self, modality: Modality, end_ns: SupportsIndex) -> None:
        """Nothing of `modality` was captured before `end_ns`: a recording's ticks do not wait for it until then."""
        time_ns = self._checked_ns(modality, end_ns, "end_ns")
        self._await_room(modality, time_ns, time_ns)
        self._pushed(modality, time_ns, "", 0)

    def push_audio(self, captured_ns: SupportsIndex, samples: NDArray[np.float32], rate_hz: int | None = None) -> None:
        """Mono sound, (n,) float32 in -1..1, at the bundle's rate; `captured_ns` is when its first sample was captured.

        The samples are copied. Blocks whose times are within 20 ms of each other's end are taken as one sound.
        """
        allowed_hz = self._sinks.grid.sample_rate_hz
        if rate_hz is not None and rate_hz != allowed_hz:
            raise SourceError(f"{self.name}: push_audio: rate_hz is {rate_hz}, the bundle's is {allowed_hz}; resample")
        if not _is_array(samples, np.float32, 1):
            allowed = "a float32 array (n,) in -1..1, mono"
            raise SourceError(f"{self.name}: push_audio: samples are {_shown(samples)}, allowed is {allowed}")
        with self._audio_lock:
            length_ns = len(samples) * NS_PER_S // allowed_hz
            time_ns = self._checked_ns("acoustic", captured_ns, "captured_ns", length_ns)
            self._sound.check(self.name, time_ns, len(samples))
            self._await_room("acoustic", time_ns, time_ns + length_ns)
            first = self._sound.place(time_ns, len(samples))
            self._sound_feeder.put(first, samples)
            end_ns = self._sinks.grid.sample_ns(first + len(samples))
            self._pushed("acoustic", end_ns, "samples", len(samples), self._sound_feeder.condition)

    def push_text(
        self,
        text: str,
        start_ns: SupportsIndex,
        end_ns: SupportsIndex,
        id: str | None = None,
        revision: int = 0,
        final: bool = True,
    ) -> None:
        """Words spoken in [start_ns, end_ns); the same `id` with a higher `revision` replaces an earlier text.

        Live they count from now on; in a recording from `end_ns` on, so push them before data of later times.
        """
        if not isinstance(text, str) or len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            raise SourceError(f"{self.name}: push_text: text must be a str of at most {MAX_TEXT_BYTES} bytes")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SourceError(f"{self.name}: push_text: text holds half of a surrogate pair, which is no character")
        start, end = self._whole(start_ns, "start_ns"), self._whole(end_ns, "end_ns")
        if end < start:
            raise SourceError(f"{self.name}: push_text: end_ns {end} lies before start_ns {start}")
        self._check_time("language", end, "end_ns")
        with self._changed:
            number = self._counts["segments"] = self._counts["segments"] + 1
        segment = Segment(f"pushed-{number}" if id is None else str(id), start, end, text, bool(final), int(revision))
        arrived_ns = end if self.lossless else self._sinks.clock.now_ns()
        self._sinks.rings.transcript.put(segment, arrived_ns)
        self._pushed("language", end, "", 0)

    def _checked_ns(self, modality: Modality, value: SupportsIndex, what: str, length_ns: int = 0) -> int:
        """The capture time as a whole number that follows the last one of its modality. SourceError says why not."""
        time_ns = self._whole(value, what)
        self._check_time(modality, time_ns, what, length_ns)
        last_ns = self._last_ns.get(modality)
        if last_ns is not None and time_ns < last_ns:
            behind_ms = (last_ns - time_ns) / NS_PER_MS
            raise SourceError(f"{self.name}: {what} {time_ns} is {behind_ms:.3f} ms before the last one of {modality}")
        self._last_ns[modality] = time_ns
        return time_ns

    def _whole(self, value: SupportsIndex, what: str) -> int:
        try:
            return operator.index(value)
        except TypeError:
            raise SourceError(f"{self.name}: {what} is {value!r}, allowed is a whole number of ns") from None

    def _check_time(self, modality: Modality, time_ns: int, what: str, length_ns: int = 0) -> None:
        if self._finished:
            raise self._error or SourceError(f"{self.name}: closed, nothing more can be pushed")
        if modality not in self.modalities:
            raise SourceError(
                f"{self.name}: {modality} was pushed, this stream takes {', '.join(self.modalities)}; give modalities="
            )
        origin_ns = self._sinks.origin_ns
        if self.lossless:
            if time_ns < origin_ns:
                raise SourceError(f"{self.name}: {what} {time_ns} lies before the recording's start, {origin_ns}")
            return
        ahead_ns = time_ns + length_ns - self._sinks.clock.now_ns()
        if ahead_ns > FUTURE_NS:
            raise SourceError(f"{self.name}: {what} {time_ns} lies {ahead_ns / NS_PER_S:.3f} s in the future; {CLOCK}")
        if time_ns < origin_ns - PAST_NS:
            early_s = (origin_ns - time_ns) / NS_PER_S
            raise SourceError(f"{self.name}: {what} {time_ns} lies {early_s:.0f} s before the stream's start; {CLOCK}")

    def _await_room(self, modality: Modality, start_ns: int, end_ns: int) -> None:
        """Wait until a recording's data of [start_ns, end_ns] fits in the rings."""
        if not self.lossless:
            return
        lead_ns = self._sinks.lead_ns
        with self._changed:
            if self._reach(modality, start_ns):
                self._sinks.notify()
            while end_ns > self._consumed_ns + lead_ns:
                if self._finished:
                    raise self._error or SourceError(f"{self.name}: closed, nothing more can be pushed")
                behind = min(self._reached_ns, key=lambda other: self._reached_ns[other])
                # Nothing can be consumed that the other modality has not reached: waiting would never end.
                if end_ns - self._reached_ns[behind] > lead_ns - self._sinks.grid.hop_ns and behind != modality:
                    raise SourceError(
                        f"{self.name}: {modality} is {(end_ns - self._reached_ns[behind]) / NS_PER_S:.1f} s ahead of "
                        f"{behind}; push a recording in order of time, or leave {behind} out of modalities="
                    )
                self._changed.wait(POLL_S)

    def _pushed(self, modality: Modality, reached_ns: int, what: str, count: int, condition: Condition = FINE) -> None:
        with self._changed:
            if what:
                self._counts[what] += count
            if what or modality == "language":
                now_ns = self._sinks.clock.now_ns()
                self._health.came(now_ns, modality, condition)
                self._health.came(now_ns, "push")
            arrived = self._reach(modality, reached_ns)
        if arrived:
            self._sinks.notify()

    def _reach(self, modality: Modality, time_ns: int) -> bool:
        """Everything of this modality before `time_ns` was pushed; True when a tick was waiting for it."""
        if modality in self._reached_ns:
            self._reached_ns[modality] = max(self._reached_ns[modality], time_ns)
        if self._awaited_ns is None or self._watermark_ns() < self._awaited_ns:
            return False
        self._awaited_ns = None
        return True

    def _watermark_ns(self) -> int:
        return FOREVER_NS if self._finished else min(self._reached_ns.values())


class _SoundPlacer:
    """Where a block of sound begins on the grid, from the time that it was captured."""

    def __init__(self, sinks: Sinks) -> None:
        self._grid = sinks.grid
        self._next: int | None = None  # the sample after the last block
        self._since_ns: int | None = None  # of the rate check
        self._counted = 0

    def check(self, name: str, time_ns: int, count: int) -> None:
        """SourceError when more sound came than fits in the time that passed: it has another sample rate."""
        if self._since_ns is None:
            self._since_ns = time_ns
        passed_ns = time_ns - self._since_ns
        if passed_ns >= RATE_CHECK_NS:
            rate_hz = self._counted * NS_PER_S / passed_ns
            allowed_hz = self._grid.sample_rate_hz
            if rate_hz > allowed_hz * (1 + RATE_TOLERANCE):
                raise SourceError(
                    f"{name}: push_audio: {rate_hz:.0f} samples came per second, the bundle's rate is {allowed_hz} Hz; "
                    "resample"
                )
            self._since_ns, self._counted = time_ns, 0
        self._counted += count

    def place(self, time_ns: int, count: int) -> int:
        """Index of the block's first sample: right after the last block, unless the times say that it is elsewhere."""
        first = self._grid.sample_of(time_ns)
        if self._next is not None and abs(first - self._next) * NS_PER_S <= JITTER_NS * self._grid.sample_rate_hz:
            first = self._next
        self._next = first + count
        return first


def _is_array(value: object, dtype: type[np.generic], dimensions: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == dimensions and value.size > 0


def _shown(value: object) -> str:
    """A value by its kind, for an error."""
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
