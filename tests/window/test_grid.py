"""The time grid against exact fractions: hops, video slots and audio samples at any rate, also after weeks."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.grid import Tick, TimeGrid
from tiny_bundle import tiny_manifest

HOP_NS = NS_PER_S // 5
GRID = TimeGrid(7_000_000_123, HOP_NS, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)
WEEKS_NS = 30 * 86_400 * NS_PER_S

grids = st.builds(
    TimeGrid,
    st.integers(0, 10**18),
    st.just(HOP_NS),
    st.integers(1, 100),
    st.sampled_from([5, 10, 15, 25, 30, 60]),
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]),
)
times_ns = st.integers(-NS_PER_S, WEEKS_NS)


def nearest(seconds: Fraction) -> int:
    """The nearest whole number, the later one of two."""
    return math.floor(seconds + Fraction(1, 2))


def test_a_bundle_s_grid_has_its_rates_and_sizes() -> None:
    manifest = tiny_manifest(sample_rate_hz=24_000)
    grid = TimeGrid.of(manifest, 99)
    assert grid == TimeGrid(99, manifest.hop_ns, manifest.window_hops, manifest.vision.rate_hz, 24_000)
    assert grid.window_ns == 6 * NS_PER_S
    assert grid.slots_per_hop == manifest.vision.slots_per_hop == 3
    assert grid.samples_per_hop == manifest.acoustic.samples_per_hop == 4_800


def test_ticks_are_half_open_absolute_and_a_hop_apart() -> None:
    end_ns = GRID.origin_ns + 31 * HOP_NS
    assert GRID.tick(31) == Tick(31, end_ns - 30 * HOP_NS, end_ns - HOP_NS, end_ns)
    assert GRID.closed_by(end_ns) == 31
    assert GRID.closed_by(end_ns - 1) == 30


@given(grids, times_ns)
def test_a_time_belongs_to_the_nearest_slot_and_sample(grid: TimeGrid, after_ns: int) -> None:
    time_ns, seconds = grid.origin_ns + after_ns, Fraction(after_ns, NS_PER_S)
    assert grid.slot_of(time_ns) == nearest(seconds * grid.frame_rate_hz)
    assert grid.sample_of(time_ns) == nearest(seconds * grid.sample_rate_hz)


@given(grids, st.integers(-60, 30 * 86_400 * 60))
def test_a_slot_and_a_sample_lie_where_their_number_says(grid: TimeGrid, number: int) -> None:
    assert grid.slot_ns(number) == grid.origin_ns + math.floor(Fraction(number * NS_PER_S, grid.frame_rate_hz))
    assert grid.sample_ns(number) == grid.origin_ns + math.floor(Fraction(number * NS_PER_S, grid.sample_rate_hz))
    assert grid.slot_of(grid.slot_ns(number)) == number
    assert grid.sample_of(grid.sample_ns(number)) == number


@given(grids, st.integers(1, 30 * 86_400 * 5))
def test_a_hop_begins_with_its_first_slot_and_sample(grid: TimeGrid, number: int) -> None:
    tick = grid.tick(number)
    assert tick.hop_start_ns == grid.sample_ns((number - 1) * grid.samples_per_hop)
    assert tick.hop_start_ns == grid.slot_ns((number - 1) * grid.slots_per_hop)
    assert grid.closed_by(tick.end_ns) == number


@pytest.mark.parametrize("field", ["hop_ns", "window_hops", "frame_rate_hz", "sample_rate_hz"])
def test_a_size_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        replace(GRID, **{field: 0})


@pytest.mark.parametrize(("field", "rate_hz"), [("frame_rate_hz", 16), ("sample_rate_hz", 16_001)])
def test_a_hop_that_is_no_whole_number_of_slots_or_samples_is_refused(field: str, rate_hz: int) -> None:
    with pytest.raises(ValueError, match="whole number"):
        replace(GRID, **{field: rate_hz})


def test_the_smallest_grid_is_allowed() -> None:
    grid = TimeGrid(0, NS_PER_S, window_hops=1, frame_rate_hz=1, sample_rate_hz=1)
    assert (grid.slots_per_hop, grid.samples_per_hop, grid.window_ns) == (1, 1, NS_PER_S)
