"""Cutting a hop: shapes, absolute positions, masks, and the account of what the window holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import Manifest, SpeechSpec
from clcr_stream.frontends.loudness import raised_log_mel
from clcr_stream.frontends.mel import SPEECH_MEL, log_mel
from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.window.cutter import Chunk, Cutter
from clcr_stream.window.grid import Tick, TimeGrid
from clcr_stream.window.ring import AudioRing, Rings, VisionRing
from clcr_stream.window.transcript import Segment, Transcript
from tiny_bundle import tiny_manifest

MANIFEST = tiny_manifest()
ORIGIN_NS = 5_000_000_123
HOP_NS = MANIFEST.hop_ns
SIZE = MANIFEST.vision.size_px


@pytest.fixture
def rings(grid: TimeGrid) -> Rings:
    return Rings(grid, VisionRing(grid, SIZE, slots=120), AudioRing(grid, 8.0), Transcript())


@pytest.fixture
def grid() -> TimeGrid:
    return TimeGrid.of(MANIFEST, ORIGIN_NS)


def slot_ns(slot: int) -> int:
    return ORIGIN_NS + slot * 1_000_000_000 // 15


def put_frame(rings: Rings, slot: int, value: int, quality: float = 0.5) -> None:
    crop = np.full((SIZE, SIZE, 3), value, np.uint8)
    crop[..., 1] += 1
    rings.vision.put(slot_ns(slot), crop, quality, 1)


def make_rows() -> dict[str, NDArray[np.float32]]:
    """Rows as a stream has them in the levels, filled with what must be overwritten."""
    vision, acoustic, width = MANIFEST.vision, MANIFEST.acoustic, MANIFEST.model.width
    shapes: dict[str, tuple[int, ...]] = {
        "vision_in": (vision.slots_per_hop, 3, SIZE, SIZE),
        "vision_valid": (vision.slots_per_hop,),
        "vision_position": (vision.slots_per_hop, width),
        "acoustic_in": (acoustic.mel_frames_per_hop, acoustic.mel_bands),
        "acoustic_valid": (acoustic.tokens_per_hop,),
        "acoustic_position": (acoustic.tokens_per_hop, width),
    }
    return {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Cut:
    """What the cutter said of a hop and what it wrote."""

    chunk: Chunk
    rows: dict[str, NDArray[np.float32]]


def cut(cutter: Cutter, rings: Rings, tick: Tick) -> Cut:
    rows = make_rows()
    chunk = cutter.cut(rings, tick, rows)
    assert not any(np.isnan(array).any() for array in rows.values())
    return Cut(chunk, rows)


def cut_all(rings: Rings, grid: TimeGrid, ticks: int) -> list[Cut]:
    cutter = Cutter(MANIFEST, grid)
    return [cut(cutter, rings, grid.tick(number)) for number in range(1, ticks + 1)]


def test_frames_become_planes_in_channel_order(rings: Rings, grid: TimeGrid) -> None:
    for slot in range(3):
        put_frame(rings, slot, 10 * slot)
    one = cut_all(rings, grid, 1)[0]
    vision = one.rows["vision_in"]
    assert vision.shape == (3, 3, SIZE, SIZE)
    assert vision[:, :, 0, 0].tolist() == [[0, 1, 0], [10, 11, 10], [20, 21, 20]]
    assert one.rows["vision_valid"].tolist() == [1, 1, 1]


def test_an_empty_slot_is_masked_and_not_repeated(rings: Rings, grid: TimeGrid) -> None:
    put_frame(rings, 0, 50)
    put_frame(rings, 2, 70)
    one = cut_all(rings, grid, 1)[0]
    assert one.rows["vision_valid"].tolist() == [1, 0, 1]
    assert not one.rows["vision_in"][1].any()


def test_a_frame_without_a_face_is_seen_but_not_valid(rings: Rings, grid: TimeGrid) -> None:
    rings.vision.put(slot_ns(1), None, 0.0, 0)
    one = cut_all(rings, grid, 1)[0]
    assert one.chunk.vision.seen == 1
    assert one.chunk.vision.coverage == 0
    assert one.chunk.vision.newest_ns is None


def test_positions_are_those_of_the_absolute_step(rings: Rings, grid: TimeGrid) -> None:
    cutter = Cutter(MANIFEST, grid)
    rows = cut(cutter, rings, grid.tick(1000)).rows
    width = MANIFEST.model.width
    np.testing.assert_array_equal(rows["vision_position"], sinusoid(np.arange(2997, 3000), width, 10000.0))
    np.testing.assert_array_equal(rows["acoustic_position"], sinusoid(np.arange(4995, 5000), width, 10000.0))


def test_hops_of_mel_equal_the_mel_of_the_whole_sound(rings: Rings, grid: TimeGrid) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 3200 * 5).astype(np.float32)
    rings.acoustic.put(0, sound)
    cutter = Cutter(MANIFEST, grid)
    hops = [cut(cutter, rings, grid.tick(n)).rows["acoustic_in"] for n in range(1, 6)]
    whole = log_mel(np.concatenate([np.zeros(240, np.float32), sound]))
    np.testing.assert_allclose(np.concatenate(hops), whole, atol=1e-5)


def test_a_low_voice_is_raised_as_in_training_and_anew_after_a_break(rings: Rings, grid: TimeGrid) -> None:
    low = (np.random.default_rng(0).normal(0, 1e-3, (10, 3200)) * np.geomspace(0.01, 1, 10)[:, None]).astype(np.float32)
    rings.acoustic.put(0, low.ravel())
    cutter = Cutter(MANIFEST, grid)
    hops = [cut(cutter, rings, grid.tick(n)).rows["acoustic_in"] for n in range(1, 11)]
    np.testing.assert_allclose(np.concatenate(hops), raised_log_mel(low.ravel()), atol=1e-5)
    plain = log_mel(np.concatenate([np.zeros(240, np.float32), low.ravel()]))
    assert np.concatenate(hops)[-20:].mean() > plain[-20:].mean() + 5.0  # 30 dB are 6.9
    cutter.clear()
    again = cut(cutter, rings, grid.tick(10)).rows["acoustic_in"]
    np.testing.assert_allclose(again, plain[-20:], atol=1e-5)


def test_a_token_with_one_missing_sample_is_masked_and_the_others_are_not(rings: Rings, grid: TimeGrid) -> None:
    rings.acoustic.put(0, np.ones(1500, np.float32) * 0.1)
    rings.acoustic.put(1501, np.ones(3200 - 1501, np.float32) * 0.1)
    one = cut_all(rings, grid, 1)[0]
    assert one.rows["acoustic_valid"].tolist() == [1, 1, 0, 1, 1]
    assert one.chunk.acoustic.coverage == pytest.approx(4 / 150)


def test_coverage_rises_to_the_full_window_and_falls_when_data_stops(rings: Rings, grid: TimeGrid) -> None:
    cutter = Cutter(MANIFEST, grid)
    coverages = []
    for number in range(1, 62):
        if number <= 30:
            for slot in range(3 * number - 3, 3 * number):
                put_frame(rings, slot, 1)
        coverages.append(cut(cutter, rings, grid.tick(number)).chunk.vision.coverage)
    assert coverages[0] == pytest.approx(1 / 30)
    assert coverages[29] == 1.0
    assert coverages[44] == pytest.approx(0.5)
    assert coverages[59:] == [0.0, 0.0]


def test_age_and_quality_are_those_of_the_valid_frames_in_the_window(rings: Rings, grid: TimeGrid) -> None:
    put_frame(rings, 0, 1, quality=0.2)
    put_frame(rings, 1, 1, quality=0.6)
    chunks = [one.chunk for one in cut_all(rings, grid, 31)]
    view = chunks[4].vision
    assert view.quality == pytest.approx(0.4)
    assert view.newest_ns == slot_ns(1)
    assert view.age_ms == pytest.approx(1000 - 1000 / 15, abs=0.01)
    assert chunks[30].vision.age_ms is None
    assert chunks[30].vision.quality is None


def test_sound_is_as_old_as_its_last_sample(rings: Rings, grid: TimeGrid) -> None:
    rings.acoustic.put(0, np.zeros(1600, np.float32))
    one = cut_all(rings, grid, 1)[0]
    assert one.chunk.acoustic.age_ms == pytest.approx(100.0)


def test_the_transcript_is_that_of_the_window(rings: Rings, grid: TimeGrid) -> None:
    rings.transcript.put(Segment("a", ORIGIN_NS, ORIGIN_NS + HOP_NS // 2, "hello"))
    rings.transcript.put(Segment("b", ORIGIN_NS + 2 * HOP_NS, ORIGIN_NS + 3 * HOP_NS, "there"))
    assert [[segment.id for segment in one.chunk.segments] for one in cut_all(rings, grid, 3)] == [
        ["a"],
        ["a"],
        ["a", "b"],
    ]


def test_clearing_forgets_the_window(rings: Rings, grid: TimeGrid) -> None:
    put_frame(rings, 0, 1)
    cutter = Cutter(MANIFEST, grid)
    assert cut(cutter, rings, grid.tick(1)).chunk.vision.coverage > 0
    cutter.clear()
    view = cut(cutter, rings, grid.tick(2)).chunk.vision
    assert (view.coverage, view.newest_ns) == (0.0, None)


def test_a_cut_writes_into_the_rows_of_a_seat_and_nowhere_else(rings: Rings, grid: TimeGrid) -> None:
    put_frame(rings, 0, 50)
    rings.acoustic.put(0, np.full(3200, 0.1, np.float32))
    seats = {name: np.stack([row] * 3) for name, row in make_rows().items()}
    Cutter(MANIFEST, grid).cut(rings, grid.tick(1), {name: array[1] for name, array in seats.items()})
    for array in seats.values():
        assert np.isnan(array[0]).all() and np.isnan(array[2]).all()
        assert not np.isnan(array[1]).any()


@dataclass(frozen=True)
class Hop:
    """What is captured in one hop: up to three frames, and which of its five tokens' sound is whole."""

    frames: tuple[tuple[bool, float] | None, ...]  # per slot: face, quality; None = no frame
    heard: tuple[bool, ...]


hops = st.builds(
    Hop,
    st.tuples(*[st.none() | st.tuples(st.booleans(), st.floats(0, 1, width=32))] * 3),
    st.tuples(*[st.booleans()] * 5),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(hops, min_size=1, max_size=9))
def test_the_account_of_a_window_is_that_of_its_last_hops(recording: list[Hop]) -> None:
    window = 4
    manifest = _short_window(window)
    grid = TimeGrid.of(manifest, ORIGIN_NS)
    rings = Rings(grid, VisionRing(grid, 32, slots=60), AudioRing(grid, 4.0), Transcript())
    _push(rings, recording)
    cutter = Cutter(manifest, grid)
    for number in range(1, len(recording) + 1):
        rows = {
            "vision_in": np.zeros((3, 3, 32, 32), np.float32),
            "vision_valid": np.full(3, np.nan, np.float32),
            "vision_position": np.zeros((3, 8), np.float32),
            "acoustic_in": np.zeros((20, 64), np.float32),
            "acoustic_valid": np.full(5, np.nan, np.float32),
            "acoustic_position": np.zeros((5, 8), np.float32),
        }
        tick = grid.tick(number)
        chunk = cutter.cut(rings, tick, rows)
        newest = recording[number - 1]
        inside = list(enumerate(recording[:number]))[-window:]
        faces = [(3 * hop + slot, one[1]) for hop, it in inside for slot, one in enumerate(it.frames) if one and one[0]]
        tokens = [5 * hop + token for hop, it in inside for token, whole in enumerate(it.heard) if whole]
        assert rows["vision_valid"].tolist() == [bool(one and one[0]) for one in newest.frames]
        assert rows["acoustic_valid"].tolist() == list(newest.heard)
        assert chunk.vision.coverage == pytest.approx(len(faces) / (3 * window))
        assert chunk.acoustic.coverage == pytest.approx(len(tokens) / (5 * window))
        assert chunk.vision.seen == sum(one is not None for one in newest.frames)
        assert chunk.acoustic.seen == 640 * sum(newest.heard)
        assert chunk.acoustic.quality is None
        if faces:
            assert chunk.vision.quality == pytest.approx(sum(quality for _, quality in faces) / len(faces), abs=1e-6)
            assert chunk.vision.newest_ns == grid.slot_ns(faces[-1][0])
            assert chunk.vision.age_ms == pytest.approx((tick.end_ns - grid.slot_ns(faces[-1][0])) / 1e6)
        else:
            assert (chunk.vision.quality, chunk.vision.newest_ns, chunk.vision.age_ms) == (None, None, None)
        if tokens:
            end_ns = grid.sample_ns(640 * (tokens[-1] + 1))
            assert (chunk.acoustic.newest_ns, chunk.acoustic.age_ms) == (end_ns, (tick.end_ns - end_ns) / 1e6)
        else:
            assert (chunk.acoustic.newest_ns, chunk.acoustic.age_ms) == (None, None)


def _push(rings: Rings, recording: list[Hop]) -> None:
    for number, hop in enumerate(recording):
        for slot, frame in enumerate(hop.frames):
            if frame is not None:
                face, quality = frame
                crop = np.full((32, 32, 3), 80, np.uint8) if face else None
                rings.vision.put(rings.grid.slot_ns(3 * number + slot), crop, quality, int(face))
        for token, whole in enumerate(hop.heard):
            if whole:
                rings.acoustic.put(3200 * number + 640 * token, np.full(640, 0.1, np.float32))


def _short_window(hops_in_window: int) -> Manifest:
    manifest = tiny_manifest()
    return msgspec.structs.replace(
        manifest,
        window_hops=hops_in_window,
        vision=msgspec.structs.replace(manifest.vision, tokens=3 * hops_in_window),
        acoustic=msgspec.structs.replace(manifest.acoustic, tokens=5 * hops_in_window),
    )


def test_a_speech_encoder_gets_the_positions_of_the_hop_s_steps_and_its_own_log_mel(rings: Rings) -> None:
    mel = SPEECH_MEL
    acoustic = msgspec.structs.replace(
        MANIFEST.acoustic,
        speech=SpeechSpec(steps_per_hop=10, width=6, period_steps=35),
        **asdict(mel),
    )
    manifest = msgspec.structs.replace(MANIFEST, acoustic=acoustic)
    cutter, grid = Cutter(manifest, TimeGrid.of(manifest, ORIGIN_NS)), TimeGrid.of(manifest, ORIGIN_NS)
    sound = np.random.default_rng(0).normal(0, 0.1, 3200 * 9).astype(np.float32)
    rings.acoustic.put(0, sound)
    rows = make_rows() | {
        "acoustic_in": np.zeros((20, 80), np.float32),
        "speech_position": np.full((10, 6), np.nan, np.float32),
    }
    for number in (1, 4, 9):
        cutter.cut(rings, grid.tick(number), rows)
        steps = [(10 * (number - 1) + step) % 35 for step in range(10)]
        np.testing.assert_array_equal(rows["speech_position"], speech_positions(np.array(steps), 6, 1500))
    heard = np.concatenate([np.zeros(240, np.float32), sound])[3200 * 8 :]
    np.testing.assert_allclose(rows["acoustic_in"], log_mel(heard, mel), atol=1e-6)
