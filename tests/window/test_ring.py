"""VisionRing and AudioRing: the time grid, gaps, and accounting that is exact under any schedule."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import NEVER_NS, NOBODY, AudioRing, RingCounts, VisionRing, make_rings

ORIGIN_NS = 7_000_000_123
GRID = TimeGrid(ORIGIN_NS, NS_PER_S // 5, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)


def crop(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def small_ring(slots: int = 6) -> VisionRing:
    return VisionRing(GRID, size_px=8, slots=slots)


def sound_ring(sample_rate_hz: int, capacity_s: float) -> AudioRing:
    return AudioRing(replace(GRID, sample_rate_hz=sample_rate_hz), capacity_s)


def at(slot: float) -> int:
    return ORIGIN_NS + round(slot * NS_PER_S / 15)


def test_the_first_frame_of_a_slot_stays_and_the_second_is_counted() -> None:
    ring = small_ring()
    ring.put(at(1), crop(10), 0.5, 1)
    assert not ring.wants(at(1.2))
    ring.put(at(1.3), crop(20), 0.9, 1)
    items = ring.read(0, 3)
    assert items.frames[1, 0, 0, 0] == 10
    assert items.valid.tolist() == [0.0, 1.0, 0.0]
    assert items.captured_ns.tolist() == [NEVER_NS, at(1), NEVER_NS]
    assert ring.counts() == RingCounts(3, 1, {"same_slot": 2, "no_face": 0, "late": 0, "overflow": 0}, 0)


def test_a_frame_without_a_face_takes_its_slot_but_is_masked() -> None:
    ring = small_ring()
    ring.put(at(2), None, 0.0, 0)
    assert not ring.wants(at(2.1))
    items = ring.read(2, 1)
    assert items.valid[0] == 0.0
    assert items.captured_ns[0] == at(2)
    assert ring.dropped["no_face"] == 1


def test_an_old_face_does_not_show_through_a_reused_place() -> None:
    ring = small_ring(slots=3)
    ring.put(at(0), crop(99), 1.0, 1)
    ring.put(at(3), None, 0.0, 0)
    items = ring.read(3, 1)
    assert items.valid[0] == 0.0
    assert not items.frames.any()
    assert ring.dropped["overflow"] == 1


def test_a_frame_for_a_slot_that_was_read_is_late() -> None:
    ring = small_ring()
    ring.read(0, 3)
    assert not ring.wants(at(2))
    assert ring.wants(at(3))
    assert ring.dropped["late"] == 1


def test_a_frame_older_than_the_ring_never_replaces_a_newer_one() -> None:
    ring = small_ring(slots=3)
    ring.put(at(10), crop(1), 1.0, 1)
    ring.put(at(7), crop(2), 1.0, 1)
    assert ring.read(10, 1).frames[0, 0, 0, 0] == 1
    assert ring.dropped["late"] == 1


def test_reading_a_slot_twice_counts_it_once() -> None:
    ring = small_ring()
    ring.put(at(0), crop(1), 1.0, 1)
    assert ring.read(0, 1).valid[0] == ring.read(0, 1).valid[0] == 1.0
    assert ring.used == 1


def test_a_crop_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8\(8, 8, 3\)"):
        small_ring().put(at(0), np.zeros((8, 9, 3), np.uint8), 1.0, 1)


def ramp(start: int, stop: int) -> np.ndarray:
    return (np.arange(start, stop) / 10_000).astype(np.float32)


def test_samples_come_back_at_their_index_across_the_wrap() -> None:
    ring = sound_ring(100, 1.0)
    ring.put(0, ramp(0, 90))
    ring.put(90, ramp(90, 130))
    items = ring.read(60, 130)
    assert items.present.all()
    np.testing.assert_array_equal(items.samples, ramp(60, 130))
    assert ring.dropped["overflow"] == 30


def test_a_gap_in_the_audio_stays_a_gap() -> None:
    ring = sound_ring(100, 2.0)
    ring.put(0, ramp(0, 40))
    ring.put(60, ramp(60, 100))
    items = ring.read(0, 120)
    assert items.present.tolist() == [True] * 40 + [False] * 20 + [True] * 40 + [False] * 20
    assert not items.samples[40:60].any()


def test_sound_that_lasts_longer_than_its_samples_ends_in_a_gap_that_can_still_be_filled() -> None:
    ring = sound_ring(16_000, 0.01)
    ring.put(0, ramp(0, 40))
    ring.reach(100)
    ring.reach(60)
    assert ring.newest_ns == GRID.sample_ns(100)
    ring.put(80, ramp(80, 90))
    items = ring.read(0, 100)
    assert np.flatnonzero(items.present).tolist() == [*range(40), *range(80, 90)]
    assert (items.samples[40:80] == 0).all()


def test_an_old_sample_does_not_show_through_a_gap() -> None:
    ring = sound_ring(100, 1.0)
    ring.put(0, np.ones(100, np.float32))
    ring.put(150, np.ones(10, np.float32))
    items = ring.read(60, 160)
    assert not items.present[40:90].any()
    assert not items.samples[40:90].any()


def test_the_first_of_two_overlapping_blocks_stays() -> None:
    ring = sound_ring(100, 8.0)
    ring.put(0, np.full(50, 0.25, np.float32))
    ring.put(30, np.full(50, 0.5, np.float32))
    items = ring.read(0, 80)
    assert items.samples.tolist() == [0.25] * 50 + [0.5] * 30
    assert ring.dropped["overlap"] == 20


def test_samples_that_arrive_after_they_were_read_are_late() -> None:
    ring = sound_ring(100, 8.0)
    ring.read(0, 50)
    ring.put(20, ramp(0, 60))
    assert ring.dropped["late"] == 30
    assert ring.read(20, 80).present.sum() == 30


def test_history_can_be_read_again_and_is_counted_once() -> None:
    ring = sound_ring(100, 8.0)
    ring.put(0, ramp(0, 100))
    ring.read(0, 60)
    assert ring.read(40, 100).present.all()
    assert ring.used == 100


def test_not_a_number_becomes_a_gap_and_loud_samples_are_clipped() -> None:
    ring = sound_ring(100, 8.0)
    ring.put(0, np.array([np.nan, np.inf, 3.0, -3.0], np.float32))
    items = ring.read(0, 4)
    assert items.present.tolist() == [False, False, True, True]
    assert items.samples.tolist() == [0.0, 0.0, 1.0, -1.0]
    assert ring.dropped["not_finite"] == 2


def test_a_writer_and_a_reader_in_two_threads_lose_nothing() -> None:
    ring = sound_ring(1000, 1.0)
    done = threading.Condition()
    progress = {"written": 0, "read": 0}

    def write() -> None:
        for start in range(0, 20_000, 50):
            with done:
                room = start + 50 - 1000
                assert done.wait_for(lambda room=room: progress["read"] >= room, timeout=10)  # type: ignore[misc]
            ring.put(start, ramp(start % 5000, start % 5000 + 50))
            with done:
                progress["written"] = start + 50
                done.notify_all()

    writer = threading.Thread(target=write)
    writer.start()
    for start in range(0, 20_000, 100):
        with done:
            assert done.wait_for(lambda stop=start + 100: progress["written"] >= stop, timeout=10)  # type: ignore[misc]
        items = ring.read(start, start + 100)
        assert items.present.all()
        with done:
            progress["read"] = start + 100
            done.notify_all()
    writer.join()
    assert ring.counts().used == ring.counts().received == 20_000


def test_capacity_says_how_much_time_fits() -> None:
    assert VisionRing(GRID, 8, 30).capacity_ns == 2 * NS_PER_S
    assert AudioRing(GRID, 8.0).capacity_ns == 8 * NS_PER_S
    with pytest.raises(ValueError, match="at least"):
        VisionRing(GRID, 8, slots=0)
    with pytest.raises(ValueError, match="at least"):
        AudioRing(GRID, 0.0)


RATE_HZ = 100  # of the sound in these tests
LOW_GRID = replace(GRID, sample_rate_hz=RATE_HZ)


@dataclass(frozen=True)
class Frame:
    """A frame in the middle of its slot; level None = no face in it."""

    slot: int
    level: int | None
    quality: float
    faces: int

    @property
    def captured_ns(self) -> int:
        return GRID.slot_ns(self.slot) + 7


@dataclass
class SlotModel:
    """What VisionRing promises, as a dictionary of slots."""

    size: int
    held: dict[int, Frame] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    received: int = 0
    used: int = 0
    newest: int | None = None
    read_until: int = 0

    def refusal(self, slot: int) -> str | None:
        if slot < self.read_until or (self.newest is not None and slot <= self.newest - self.size):
            return "late"
        return "same_slot" if slot in self.held else None

    def wants(self, frame: Frame) -> bool:
        reason = self.refusal(frame.slot)
        if reason is not None:
            self.received += 1
            self.dropped[reason] += 1
        return reason is None

    def put(self, frame: Frame) -> None:
        self.received += 1
        reason = self.refusal(frame.slot)
        if reason is not None:
            self.dropped[reason] += 1
            return
        for slot in [slot for slot in self.held if (slot - frame.slot) % self.size == 0]:
            del self.held[slot]
            if slot in self.unread:
                self.unread.discard(slot)
                self.dropped["overflow"] += 1
        self.held[frame.slot] = frame
        self.newest = frame.slot if self.newest is None else max(self.newest, frame.slot)
        if frame.level is None:
            self.dropped["no_face"] += 1
        else:
            self.unread.add(frame.slot)

    def read(self, first: int, count: int) -> list[Frame | None]:
        slots = range(first, first + count)
        self.used += len(self.unread & set(slots))
        self.unread -= set(slots)
        self.read_until = max(self.read_until, first + count)
        return [self.held.get(slot) if slot >= 0 else None for slot in slots]


frames = st.builds(
    Frame, st.integers(-3, 40), st.none() | st.integers(1, 255), st.floats(0, 1, width=32), st.integers(0, 3)
)
vision_steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "wants", "read"]), frames, st.integers(0, 4)), max_size=50
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), vision_steps)
def test_a_vision_ring_does_what_a_dictionary_of_slots_does(size: int, steps: list[tuple[str, Frame, int]]) -> None:
    ring, model = VisionRing(GRID, size_px=2, slots=size), SlotModel(size)
    for action, frame, count in steps:
        if action == "wants":
            assert ring.wants(frame.captured_ns) == model.wants(frame)
        elif action == "put":
            crop = None if frame.level is None else np.full((2, 2, 3), frame.level, np.uint8)
            ring.put(frame.captured_ns, crop, frame.quality, frame.faces)
            model.put(frame)
        else:
            items = ring.read(frame.slot, count)
            for row, expected in enumerate(model.read(frame.slot, count)):
                level = None if expected is None else expected.level
                assert items.valid[row] == (level is not None)
                assert np.all(items.frames[row] == (level or 0))
                assert items.captured_ns[row] == (NEVER_NS if expected is None else expected.captured_ns)
                assert items.quality[row] == (0.0 if expected is None else expected.quality)
                assert items.faces[row] == (0 if expected is None else expected.faces)
        dropped = {reason: model.dropped[reason] for reason in ("same_slot", "no_face", "late", "overflow")}
        assert ring.counts() == RingCounts(model.received, model.used, dropped, len(model.unread))


def test_the_newest_frame_is_the_newest_by_time_whether_it_was_kept_or_not() -> None:
    ring = VisionRing(GRID, size_px=2, slots=4)
    newest = [ring.newest_ns]
    for slot in (3, 2):
        ring.put(GRID.slot_ns(slot), None, 0.0, 0)
        newest.append(ring.newest_ns)
    assert not ring.wants(GRID.slot_ns(3) + 9)
    newest.append(ring.newest_ns)
    assert newest == [None, GRID.slot_ns(3), GRID.slot_ns(3), GRID.slot_ns(3) + 9]


def test_the_mark_of_an_empty_slot_is_no_time_of_a_clock() -> None:
    assert NEVER_NS < 0


def test_the_smallest_rings_hold_one_slot_and_one_sample() -> None:
    vision = VisionRing(GRID, size_px=1, slots=1)
    vision.put(GRID.slot_ns(0), np.full((1, 1, 3), 9, np.uint8), 1.0, 1)
    assert vision.read(0, 1).frames.tolist() == [[[[9]], [[9]], [[9]]]]
    sound = AudioRing(LOW_GRID, 1 / RATE_HZ)
    sound.put(0, np.array([0.5], np.float32))
    assert sound.read(0, 1).samples.tolist() == [0.5]
    for size_px, slots in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            VisionRing(GRID, size_px, slots)


def test_nobody_is_no_number_of_a_person() -> None:
    ring = small_ring()
    ring.put(at(1), crop(9), 1.0, 1)
    ring.put(at(2), None, 0.0, 0)
    assert ring.read(0, 3).person.tolist() == [NOBODY, 0, NOBODY]
    assert NOBODY < 0


def test_the_oldest_sample_is_the_first_until_newer_ones_need_its_room() -> None:
    ring = sound_ring(100, 1.0)
    oldest = [ring.oldest_sample]
    for start, stop in ((0, 90), (90, 130)):
        ring.put(start, ramp(start, stop))
        oldest.append(ring.oldest_sample)
    assert oldest == [0, 0, 30]


def test_a_peek_shows_the_asked_samples_and_leaves_them_to_the_reader() -> None:
    ring = sound_ring(100, 1.0)
    ring.put(0, ramp(0, 50))
    assert ring.peek(40, 60).tolist() == [*ramp(40, 50).tolist(), *[0.0] * 10]
    assert (ring.used, ring.counts().held) == (0, 50)
    assert ring.read(40, 60).present.sum() == 10


def test_data_end_with_the_newest_sample_or_the_slot_of_the_newest_picture() -> None:
    rings = make_rings(GRID, size_px=2)
    ends = [rings.data_end_ns]
    rings.acoustic.put(0, ramp(0, 800))
    ends.append(rings.data_end_ns)
    rings.vision.put(at(4.2), None, 0.0, 0)
    ends.append(rings.data_end_ns)
    assert ends == [ORIGIN_NS, GRID.sample_ns(800), GRID.slot_ns(5)]
    silent = make_rings(GRID, size_px=2)
    silent.vision.put(at(0), None, 0.0, 0)
    assert silent.data_end_ns == GRID.slot_ns(1)


@dataclass
class SampleModel:
    """What AudioRing promises, sample by sample."""

    size: int
    held: dict[int, float] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    received: int = 0
    used: int = 0
    end: int = 0
    read_until: int = 0

    def put(self, first: int, samples: list[float]) -> None:
        self.received += len(samples)
        late_before = max(self.read_until, self.end - self.size)
        fresh = {first + offset: value for offset, value in enumerate(samples) if first + offset >= late_before}
        self.dropped["late"] += len(samples) - len(fresh)
        newest = dict(list(fresh.items())[-self.size :])
        self.dropped["overflow"] += len(fresh) - len(newest)
        if not newest:
            return
        self.end = max(self.end, first + len(samples))
        for index in [index for index in self.held if index < self.end - self.size]:
            del self.held[index]
            self.dropped["overflow"] += index in self.unread
            self.unread.discard(index)
        for index, value in newest.items():
            if index in self.held:
                self.dropped["overlap"] += 1
            elif not math.isfinite(value):
                self.dropped["not_finite"] += 1
            else:
                self.held[index] = min(1.0, max(-1.0, value))
                self.unread.add(index)

    def read(self, start: int, stop: int) -> list[float | None]:
        span = set(range(start, stop))
        self.used += len(self.unread & span)
        self.unread -= span
        self.read_until = max(self.read_until, stop)
        return [self.held.get(index) for index in range(start, stop)]


values = st.lists(st.floats(-2, 2, width=32) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=40)
audio_steps = st.lists(st.tuples(st.booleans(), st.integers(-10, 90), values, st.integers(0, 40)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), audio_steps)
def test_an_audio_ring_does_what_a_dictionary_of_samples_does(
    size: int, steps: list[tuple[bool, int, list[float], int]]
) -> None:
    ring, model = AudioRing(LOW_GRID, (size + 0.5) / RATE_HZ), SampleModel(size)
    for is_read, first, samples, count in steps:
        if is_read:
            items = ring.read(first, first + count)
            expected = model.read(first, first + count)
            assert items.present.tolist() == [value is not None for value in expected]
            assert items.samples.tolist() == [value or 0.0 for value in expected]
        else:
            ring.put(first, np.array(samples, np.float32))
            model.put(first, samples)
        dropped = {reason: model.dropped[reason] for reason in ("late", "overlap", "overflow", "not_finite")}
        assert ring.counts() == RingCounts(model.received, model.used, dropped, len(model.unread))
        assert ring.newest_ns == (LOW_GRID.sample_ns(model.end) if model.end else None)


@pytest.mark.parametrize("samples", [np.zeros(3, np.float64), np.zeros((3, 1), np.float32)])
def test_samples_of_another_shape_or_type_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"this ring holds float32 \(n,\)"):
        AudioRing(LOW_GRID, 1.0).put(0, samples)


def test_crops_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"this ring holds uint8\(2, 2, 3\)"):
        VisionRing(GRID, size_px=2, slots=4).put(ORIGIN_NS, np.zeros((2, 2, 3), np.int16), 1.0, 1)


def test_rings_hold_a_window_and_two_seconds() -> None:
    rings = make_rings(GRID, size_px=4)
    assert rings.vision.slots == 90 + 30
    assert rings.acoustic.capacity_samples == 8 * 16_000
    assert (rings.vision.size_px, rings.grid) == (4, GRID)
    assert make_rings(GRID, 4, extra_s=0.0).vision.slots == 90


def test_a_ring_holds_at_least_one_slot_of_one_pixel() -> None:
    assert VisionRing(GRID, 1, 1).slots == 1
    for size_px, slots in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="each must be at least 1"):
            VisionRing(GRID, size_px, slots)
