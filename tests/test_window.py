"""Cutting a hop: shapes, absolute positions, masks, and the account of what the window holds."""

from __future__ import annotations

import numpy as np
import pytest

from clcr_stream.features import log_mel
from clcr_stream.positions import sinusoid
from clcr_stream.ring import AudioRing, VisionRing
from clcr_stream.transcript import Segment, Transcript
from clcr_stream.window import Chunk, Cutter, Grid, Rings
from tiny_bundle import tiny_manifest

MANIFEST = tiny_manifest()
ORIGIN_NS = 5_000_000_123
HOP_NS = MANIFEST.hop_ns
SIZE = MANIFEST.vision.size_px


@pytest.fixture
def rings() -> Rings:
    return Rings(VisionRing(ORIGIN_NS, 15, SIZE, slots=120), AudioRing(ORIGIN_NS, 16000, 8.0), Transcript())


@pytest.fixture
def grid() -> Grid:
    return Grid(ORIGIN_NS, MANIFEST)


def slot_ns(slot: int) -> int:
    return ORIGIN_NS + slot * 1_000_000_000 // 15


def put_frame(rings: Rings, slot: int, value: int, quality: float = 0.5) -> None:
    crop = np.full((SIZE, SIZE, 3), value, np.uint8)
    crop[..., 1] += 1
    rings.vision.put(slot_ns(slot), crop, quality, 1)


def cut_all(rings: Rings, grid: Grid, ticks: int) -> list[Chunk]:
    cutter = Cutter(MANIFEST, grid)
    return [cutter.cut(rings, grid.tick(number)) for number in range(1, ticks + 1)]


def test_ticks_are_half_open_absolute_and_a_hop_apart(grid: Grid) -> None:
    tick = grid.tick(31)
    assert (tick.end_ns, tick.hop_start_ns, tick.start_ns) == (
        ORIGIN_NS + 31 * HOP_NS,
        ORIGIN_NS + 30 * HOP_NS,
        ORIGIN_NS + HOP_NS,
    )
    assert grid.closed_by(tick.end_ns) == 31
    assert grid.closed_by(tick.end_ns - 1) == 30


def test_frames_become_planes_in_channel_order(rings: Rings, grid: Grid) -> None:
    for slot in range(3):
        put_frame(rings, slot, 10 * slot)
    chunk = cut_all(rings, grid, 1)[0]
    vision = chunk.inputs["vision_in"]
    assert vision.shape == (1, 3, 3, SIZE, SIZE)
    assert vision.dtype == np.float32
    assert vision[0, :, :, 0, 0].tolist() == [[0, 1, 0], [10, 11, 10], [20, 21, 20]]
    assert chunk.inputs["vision_valid"].tolist() == [[1, 1, 1]]


def test_an_empty_slot_is_masked_and_not_repeated(rings: Rings, grid: Grid) -> None:
    put_frame(rings, 0, 50)
    put_frame(rings, 2, 70)
    chunk = cut_all(rings, grid, 1)[0]
    assert chunk.inputs["vision_valid"].tolist() == [[1, 0, 1]]
    assert not chunk.inputs["vision_in"][0, 1].any()


def test_a_frame_without_a_face_is_seen_but_not_valid(rings: Rings, grid: Grid) -> None:
    rings.vision.put(slot_ns(1), None, 0.0, 0)
    chunk = cut_all(rings, grid, 1)[0]
    assert chunk.vision.seen == 1
    assert chunk.vision.coverage == 0
    assert chunk.vision.newest_ns is None


def test_positions_are_those_of_the_absolute_step(rings: Rings, grid: Grid) -> None:
    cutter = Cutter(MANIFEST, grid)
    chunk = cutter.cut(rings, grid.tick(1000))
    width = MANIFEST.model.width
    np.testing.assert_array_equal(chunk.inputs["vision_position"][0], sinusoid(np.arange(2997, 3000), width, 10000.0))
    np.testing.assert_array_equal(chunk.inputs["acoustic_position"][0], sinusoid(np.arange(4995, 5000), width, 10000.0))


def test_hops_of_mel_equal_the_mel_of_the_whole_sound(rings: Rings, grid: Grid) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 3200 * 5).astype(np.float32)
    rings.acoustic.put(0, sound)
    cutter = Cutter(MANIFEST, grid)
    hops = [cutter.cut(rings, grid.tick(n)).inputs["acoustic_in"][0].copy() for n in range(1, 6)]
    whole = log_mel(np.concatenate([np.zeros(240, np.float32), sound]))
    np.testing.assert_allclose(np.concatenate(hops), whole, atol=1e-5)


def test_a_token_with_one_missing_sample_is_masked_and_the_others_are_not(rings: Rings, grid: Grid) -> None:
    rings.acoustic.put(0, np.ones(1500, np.float32) * 0.1)
    rings.acoustic.put(1501, np.ones(3200 - 1501, np.float32) * 0.1)
    chunk = cut_all(rings, grid, 1)[0]
    assert chunk.inputs["acoustic_valid"].tolist() == [[1, 1, 0, 1, 1]]
    assert chunk.acoustic.coverage == pytest.approx(4 / 150)


def test_coverage_rises_to_the_full_window_and_falls_when_data_stops(rings: Rings, grid: Grid) -> None:
    cutter = Cutter(MANIFEST, grid)
    coverages = []
    for number in range(1, 62):
        if number <= 30:
            for slot in range(3 * number - 3, 3 * number):
                put_frame(rings, slot, 1)
        coverages.append(cutter.cut(rings, grid.tick(number)).vision.coverage)
    assert coverages[0] == pytest.approx(1 / 30)
    assert coverages[29] == 1.0
    assert coverages[44] == pytest.approx(0.5)
    assert coverages[59:] == [0.0, 0.0]


def test_age_and_quality_are_those_of_the_valid_frames_in_the_window(rings: Rings, grid: Grid) -> None:
    put_frame(rings, 0, 1, quality=0.2)
    put_frame(rings, 1, 1, quality=0.6)
    chunks = cut_all(rings, grid, 31)
    view = chunks[4].vision
    assert view.quality == pytest.approx(0.4)
    assert view.newest_ns == slot_ns(1)
    assert view.age_ms == pytest.approx(1000 - 1000 / 15, abs=0.01)
    assert chunks[30].vision.age_ms is None
    assert chunks[30].vision.quality is None


def test_sound_is_as_old_as_its_last_sample(rings: Rings, grid: Grid) -> None:
    rings.acoustic.put(0, np.zeros(1600, np.float32))
    chunk = cut_all(rings, grid, 1)[0]
    assert chunk.acoustic.age_ms == pytest.approx(100.0)


def test_the_transcript_is_that_of_the_window(rings: Rings, grid: Grid) -> None:
    rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS // 2, "hello"))
    rings.transcript.put(Segment("b", ORIGIN_NS + 2 * HOP_NS, ORIGIN_NS + 3 * HOP_NS, "there"))
    assert [[segment.id for segment in chunk.segments] for chunk in cut_all(rings, grid, 3)] == [
        ["a"],
        ["a"],
        ["a", "b"],
    ]


def test_clearing_forgets_the_window(rings: Rings, grid: Grid) -> None:
    put_frame(rings, 0, 1)
    cutter = Cutter(MANIFEST, grid)
    assert cutter.cut(rings, grid.tick(1)).vision.coverage > 0
    cutter.clear()
    view = cutter.cut(rings, grid.tick(2)).vision
    assert (view.coverage, view.newest_ns) == (0.0, None)


def test_cutting_allocates_no_new_inputs(rings: Rings, grid: Grid) -> None:
    first, second = cut_all(rings, grid, 2)
    assert all(first.inputs[name] is second.inputs[name] for name in first.inputs)
