"""Where sources put what they captured and the loop reads it: grid-indexed, allocated once, drop-oldest, counted.

One writer and one reader per ring, in different threads; every call takes the ring's lock for a copy at most.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.conditions import Conditions
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.persons import Box, Persons
from clcr_stream.window.transcript import Transcript

NEVER_NS = -1  # captured_ns of an empty slot
NOBODY = -1  # the person of a slot without a face
EXTRA_S = 2.0  # what rings hold beyond a window


@dataclass(frozen=True)
class Look:
    """How a picture looks: its mean luma 0..1, and the sharpness of its face; NaN where it was not measured."""

    luma: float = math.nan
    sharpness: float = math.nan


@dataclass(frozen=True)
class VisionItems:
    """A run of video slots, oldest first; slots that hold no face are zero and `valid` 0."""

    frames: NDArray[Any]  # (n, 3, size_px, size_px), RGB, 0..255
    valid: NDArray[np.float32]  # (n,), 0 or 1
    captured_ns: NDArray[np.int64]  # (n,), NEVER_NS where no frame was seen
    quality: NDArray[np.float32]  # (n,), 0..1
    faces: NDArray[np.int32]  # (n,), faces seen in the frame
    person: NDArray[np.int32]  # (n,), whose face it is, counted from 0; NOBODY where `valid` is 0
    look: NDArray[np.float32]  # (n, 2), as a Look; NaN where no frame was seen
    box: NDArray[np.float32]  # (n, 4), where the face was, in shares of its frame; NaN where that is not known
    landmarks: NDArray[np.float32]  # (n, 5, 2), x and y in shares of the frame, in FaceFinder's order; NaN likewise


@dataclass(frozen=True)
class AudioItems:
    """A run of audio samples; samples that never arrived are zero and not `present`."""

    samples: NDArray[np.float32]  # (n,), -1..1
    present: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True)
class RingCounts:
    """Accounting of one ring: `received = used + sum(dropped) + held` at every moment."""

    received: int
    used: int
    dropped: Mapping[str, int]
    held: int


UNSEEN = Look()


class VisionRing:
    """Face crops on the video grid: slot k holds the first frame whose time is nearest to the slot's centre.

    A frame is offered once: either `wants` refuses it (and counts it), or `put` takes it. Reasons for dropping:
    `same_slot` (another frame came first), `no_face`, `late` (its slot was read or left the ring), `overflow`
    (a newer frame needed the room before the slot was read).
    """

    def __init__(self, grid: TimeGrid, size_px: int, slots: int) -> None:
        if size_px < 1 or slots < 1:
            raise ValueError(f"VisionRing({size_px=}, {slots=}): each must be at least 1")
        self.size_px, self.slots = size_px, slots
        self._grid = grid
        self.frames_in = 0
        self.used = 0
        self.dropped = {"same_slot": 0, "no_face": 0, "late": 0, "overflow": 0}
        self._lock = threading.Lock()
        # Channels first, as the levels take them: turned around here, in the source's thread, and not in the tick.
        self._frames = np.zeros((slots, 3, size_px, size_px), np.uint8)
        self._index = np.full(slots, -1, np.int64)  # which slot lies in each place, -1 none
        self._face = np.zeros(slots, np.bool_)
        self._unread = np.zeros(slots, np.bool_)
        self._captured_ns = np.full(slots, NEVER_NS, np.int64)
        self._quality = np.zeros(slots, np.float32)
        self._faces = np.zeros(slots, np.int32)
        self._person = np.full(slots, NOBODY, np.int32)
        self._look = np.full((slots, 2), np.nan, np.float32)
        self._box = np.full((slots, 4), np.nan, np.float32)
        self._landmarks = np.full((slots, 5, 2), np.nan, np.float32)
        self._persons = Persons()
        self.conditions = Conditions()
        self._newest_slot = -1
        self._newest_ns: int | None = None
        self._read_until = 0

    @property
    def capacity_ns(self) -> int:
        """Span of time that fits without anything being dropped."""
        return self.slots * NS_PER_S // self._grid.frame_rate_hz

    @property
    def newest_ns(self) -> int | None:
        """Capture time of the newest frame seen, with or without a face; None before the first."""
        with self._lock:
            return self._newest_ns

    def wants(self, captured_ns: int) -> bool:
        """True when a frame of this time would be kept: ask before a face search. A refused frame is counted here."""
        slot = self._grid.slot_of(captured_ns)
        with self._lock:
            reason = self._refusal(slot)
            if reason is None:
                return True
            self._seen(captured_ns)
            self.dropped[reason] += 1
            return False

    def put(
        self,
        captured_ns: int,
        crop: NDArray[np.uint8] | None,
        quality: float,
        faces: int,
        box: Box | None = None,
        look: Look = UNSEEN,
        landmarks: NDArray[np.float32] | None = None,
    ) -> None:
        """Take one frame: `crop` (size_px, size_px, 3) RGB, or None when the frame was seen but shows no face.

        `box` is where the face was, in shares of the frame, and `landmarks` (5, 2) too. Raises ValueError for another
        shape or dtype.
        """
        expected = (self.size_px, self.size_px, 3)
        if crop is not None and (crop.shape != expected or crop.dtype != np.uint8):
            raise ValueError(f"crop is {crop.dtype}{crop.shape}, this ring holds uint8{expected}")
        slot = self._grid.slot_of(captured_ns)
        with self._lock:
            self._seen(captured_ns)
            reason = self._refusal(slot)
            if reason is not None:
                self.dropped[reason] += 1
                return
            place = slot % self.slots
            if self._unread[place]:
                self.dropped["overflow"] += 1
            self._index[place] = slot
            self._captured_ns[place] = captured_ns
            self._quality[place] = quality
            self._faces[place] = faces
            self._look[place] = look.luma, look.sharpness
            self._box[place] = np.nan if box is None else box
            self._landmarks[place] = np.nan if landmarks is None else landmarks
            self._face[place] = self._unread[place] = crop is not None
            if crop is None:
                self.dropped["no_face"] += 1
            else:
                self._frames[place] = crop.transpose(2, 0, 1)
                self._person[place] = self._persons.seen(captured_ns, box)
            self._newest_slot = max(self._newest_slot, slot)

    def read(self, first_slot: int, count: int, into: NDArray[Any] | None = None) -> VisionItems:
        """Copy of slots [first_slot, first_slot + count); frames for slots before its end are late from now on.

        The frames are written to `into`, (count, 3, size_px, size_px) of any type that holds 0..255, when it is given.
        """
        items = VisionItems(
            np.empty((count, 3, self.size_px, self.size_px), np.uint8) if into is None else into,
            np.zeros(count, np.float32),
            np.full(count, NEVER_NS, np.int64),
            np.zeros(count, np.float32),
            np.zeros(count, np.int32),
            np.full(count, NOBODY, np.int32),
            np.full((count, 2), np.nan, np.float32),
            np.full((count, 4), np.nan, np.float32),
            np.full((count, 5, 2), np.nan, np.float32),
        )
        with self._lock:
            for row in range(count):
                slot = first_slot + row
                place = slot % self.slots
                filled = slot >= 0 and self._index[place] == slot
                if filled:
                    items.captured_ns[row] = self._captured_ns[place]
                    items.quality[row] = self._quality[place]
                    items.faces[row] = self._faces[place]
                    items.look[row] = self._look[place]
                    items.box[row] = self._box[place]
                    items.landmarks[row] = self._landmarks[place]
                if not (filled and self._face[place]):
                    items.frames[row] = 0
                else:
                    items.frames[row] = self._frames[place]
                    items.valid[row] = 1.0
                    items.person[row] = self._person[place]
                    self.used += int(self._unread[place])
                    self._unread[place] = False
            self._read_until = max(self._read_until, first_slot + count)
        return items

    def counts(self) -> RingCounts:
        """A consistent copy of the counters."""
        with self._lock:
            return RingCounts(self.frames_in, self.used, dict(self.dropped), int(self._unread.sum()))

    def _seen(self, captured_ns: int) -> None:
        self.frames_in += 1
        if self._newest_ns is None or captured_ns > self._newest_ns:
            self._newest_ns = captured_ns

    def _refusal(self, slot: int) -> str | None:
        if slot < self._read_until or slot <= self._newest_slot - self.slots:
            return "late"
        return "same_slot" if self._index[slot % self.slots] == slot else None


class AudioRing:
    """Mono samples by their index on the grid. A gap stays a gap.

    Reasons for dropping: `late` (read already, before the origin or older than the ring), `overlap` (that sample is
    there already; the first one stays), `overflow` (newer samples needed the room), `not_finite` (NaN or infinite).
    """

    def __init__(self, grid: TimeGrid, capacity_s: float) -> None:
        self.capacity_samples = int(capacity_s * grid.sample_rate_hz)
        if self.capacity_samples < 1:
            raise ValueError(f"AudioRing({capacity_s=}): must hold at least one sample")
        self._grid = grid
        self.samples_in = 0
        self.used = 0
        self.dropped = {"late": 0, "overlap": 0, "overflow": 0, "not_finite": 0}
        self._lock = threading.Lock()
        self._samples = np.zeros(self.capacity_samples, np.float32)
        self._present = np.zeros(self.capacity_samples, np.bool_)
        self._unread = np.zeros(self.capacity_samples, np.bool_)
        self.conditions = Conditions()
        self._end = 0  # index after the newest sample; the ring covers [_end - capacity, _end)
        self._read_until = 0

    @property
    def capacity_ns(self) -> int:
        """Span of time that fits without anything being dropped."""
        return self.capacity_samples * NS_PER_S // self._grid.sample_rate_hz

    @property
    def newest_ns(self) -> int | None:
        """Time just after the newest sample, or after the gap that `reach` left; None before the first."""
        with self._lock:
            return self._grid.sample_ns(self._end) if self._end else None

    @property
    def end_sample(self) -> int:
        """Index after the newest sample, or after the gap that `reach` left; 0 before the first."""
        with self._lock:
            return self._end

    @property
    def oldest_sample(self) -> int:
        """Index of the oldest sample that the ring can hold beside the newest."""
        with self._lock:
            return max(0, self._end - self.capacity_samples)

    def put(self, first_sample: int, samples: NDArray[np.float32]) -> None:
        """Take samples [first_sample, first_sample + n), float32; values outside -1..1 are clipped."""
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise ValueError(f"samples are {samples.dtype}{samples.shape}, this ring holds float32 (n,)")
        with self._lock:
            count = len(samples)
            self.samples_in += count
            stop = first_sample + count
            late = min(count, max(0, max(self._read_until, self._end - self.capacity_samples) - first_sample))
            self.dropped["late"] += late
            excess = max(0, count - late - self.capacity_samples)
            self.dropped["overflow"] += excess
            skipped = late + excess
            if skipped == count:
                return
            self._advance(stop)
            for place, offset in self._places(first_sample + skipped, stop):
                self._write(place, samples[skipped:][offset])

    def reach(self, stop: int) -> None:
        """The sound lasts until index `stop`: samples that do not come are a gap."""
        with self._lock:
            self._advance(stop)

    def read(self, start: int, stop: int) -> AudioItems:
        """Copy of samples [start, stop); samples before `stop` are late from now on."""
        items = AudioItems(np.zeros(stop - start, np.float32), np.zeros(stop - start, np.bool_))
        with self._lock:
            for place, row in self._held(start, stop):
                items.present[row] = self._present[place]
                np.multiply(self._samples[place], self._present[place], out=items.samples[row])
                self.used += int(np.count_nonzero(self._unread[place]))
                self._unread[place] = False
            self._read_until = max(self._read_until, stop)
        return items

    def peek(self, start: int, stop: int) -> NDArray[np.float32]:
        """Copy of samples [start, stop), zero where there are none; does not disturb the one reader."""
        samples = np.zeros(stop - start, np.float32)
        with self._lock:
            for place, row in self._held(start, stop):
                np.multiply(self._samples[place], self._present[place], out=samples[row])
        return samples

    def counts(self) -> RingCounts:
        """A consistent copy of the counters."""
        with self._lock:
            held = int(np.count_nonzero(self._unread))
            return RingCounts(self.samples_in, self.used, dict(self.dropped), held)

    def _advance(self, stop: int) -> None:
        """Make room up to index `stop` by dropping the oldest samples."""
        if stop <= self._end:
            return
        first = max(self._end, stop - self.capacity_samples)
        for place, _ in self._places(first, stop):
            self.dropped["overflow"] += int(np.count_nonzero(self._unread[place]))
            self._present[place] = False
            self._unread[place] = False
        self._end = stop

    def _write(self, place: slice, samples: NDArray[np.float32]) -> None:
        taken = self._present[place]
        finite = np.isfinite(samples)
        fresh = finite & ~taken
        self.dropped["overlap"] += int(np.count_nonzero(taken))
        self.dropped["not_finite"] += int(np.count_nonzero(~finite & ~taken))
        np.copyto(self._samples[place], np.clip(samples, -1.0, 1.0), where=fresh)
        self._unread[place] |= fresh
        self._present[place] |= fresh

    def _held(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """As `_places`, of those of samples [start, stop) that the ring covers."""
        first = min(max(start, self._end - self.capacity_samples, 0), stop)
        last = max(min(stop, self._end), first)
        for place, offset in self._places(first, last):
            yield place, slice(offset.start + first - start, offset.stop + first - start)

    def _places(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """At most two (place in the ring, offset from `start`) pairs that cover samples [start, stop)."""
        done = start
        while done < stop:
            place = done % self.capacity_samples
            count = min(stop - done, self.capacity_samples - place)
            yield slice(place, place + count), slice(done - start, done - start + count)
            done += count


@dataclass(frozen=True)
class Rings:
    """Where the sources of one session put what they capture."""

    grid: TimeGrid
    vision: VisionRing
    acoustic: AudioRing
    transcript: Transcript

    @property
    def data_end_ns(self) -> int:
        """The end of the newest picture or sound: of its slot or its last sample; the origin before the first."""
        ends = [self.grid.origin_ns]
        if self.acoustic.newest_ns is not None:
            ends.append(self.acoustic.newest_ns)
        if self.vision.newest_ns is not None:
            ends.append(self.grid.slot_ns(self.grid.slot_of(self.vision.newest_ns) + 1))
        return max(ends)


def make_rings(grid: TimeGrid, size_px: int, extra_s: float = EXTRA_S) -> Rings:
    """Rings that hold a window and `extra_s` more, so that a late tick still finds its data."""
    slots = grid.window_hops * grid.slots_per_hop + int(extra_s * grid.frame_rate_hz)
    acoustic = AudioRing(grid, grid.window_ns / NS_PER_S + extra_s)
    return Rings(grid, VisionRing(grid, size_px, slots), acoustic, Transcript())
