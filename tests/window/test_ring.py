"""VisionRing and AudioRing: the time grid, gaps, and accounting that is exact under any schedule."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import NEVER_NS, AudioRing, RingCounts, VisionRing

ORIGIN_NS = 7_000_000_123
GRID = TimeGrid(ORIGIN_NS, NS_PER_S // 5, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)


def crop(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def balanced(counts: RingCounts) -> bool:
    return counts.received == counts.used + sum(counts.dropped.values()) + counts.held


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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "none", "wants", "read"]), st.integers(-3, 60)), max_size=60))
def test_vision_accounting_is_exact_under_any_schedule(steps: list[tuple[str, int]]) -> None:
    ring = small_ring(slots=4)
    for action, slot in steps:
        if action == "read":
            ring.read(slot, 3)
        elif action != "wants":
            ring.put(at(slot), crop(1) if action == "put" else None, 1.0, 1)
        else:
            ring.wants(at(slot))
        assert balanced(ring.counts())


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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-30, 400), st.integers(0, 150)), max_size=40))
def test_audio_accounting_is_exact_under_any_schedule(steps: list[tuple[bool, int, int]]) -> None:
    ring = sound_ring(100, 1.0)
    for is_read, start, count in steps:
        if is_read:
            ring.read(start, start + count)
        else:
            ring.put(start, np.ones(count, np.float32))
        assert balanced(ring.counts())


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
