"""The resampler, and the clock that places a live device's blocks by counting samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.audio import Resampler, SampleClock
from clcr_stream.window.grid import TimeGrid

RATE_HZ = 16000
GRID = TimeGrid(0, NS_PER_S // 5, window_hops=30, frame_rate_hz=15, sample_rate_hz=RATE_HZ)


def frame(samples: np.ndarray, rate_hz: int) -> av.AudioFrame:
    made = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None, :], format="flt", layout="mono")
    made.sample_rate = rate_hz
    return made


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_resampling_in_blocks_neither_shifts_nor_loses_sound(rate_hz: int) -> None:
    at_s = np.arange(2 * rate_hz) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 300 * at_s)
    resampler = Resampler(RATE_HZ)
    parts = [resampler.push(frame(tone[start : start + 777], rate_hz)) for start in range(0, len(tone), 777)]
    got = np.concatenate([*parts, resampler.flush()])
    assert abs(len(got) - 32000) <= 2
    expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(32000) / RATE_HZ)
    np.testing.assert_allclose(got[500:31000], expected[500:31000], atol=0.01)


def test_the_input_format_may_change_in_the_middle() -> None:
    resampler = Resampler(RATE_HZ)
    first = resampler.push(frame(np.full(48000, 0.25), 48000))
    second = resampler.push(frame(np.full(8000, 0.5), 8000))
    got = np.concatenate([first, second, resampler.flush()])
    assert abs(len(got) - 32000) <= 4
    assert abs(got[8000] - 0.25) < 0.01
    assert abs(got[24000] - 0.5) < 0.01


class Device:
    """A sound card whose clock is off by `ppm`: blocks of 20 ms by its own count, each delivered a little late."""

    def __init__(self, ppm: float, jitter_s: float = 0.0) -> None:
        self._rate_hz = RATE_HZ * (1 + ppm * 1e-6)
        self._jitter = np.random.default_rng(3)
        self._jitter_s = jitter_s
        self.count = 0

    def block(self, size: int = 320) -> tuple[np.ndarray, int, float]:
        """Samples, arrival in ns, and the true time of the block's end in s."""
        self.count += size
        end_s = self.count / self._rate_hz
        arrival_s = end_s + self._jitter.uniform(0, self._jitter_s)
        return np.zeros(size, np.float32), round(arrival_s * NS_PER_S), end_s


@pytest.mark.parametrize("ppm", [-200, -50, 0, 50, 200])
def test_sound_stays_within_10_ms_of_the_truth_with_a_skewed_clock(ppm: int) -> None:
    device, clock = Device(ppm, jitter_s=0.004), SampleClock(GRID)
    worst_s = 0.0
    for number in range(15 * 60 * 50):  # a quarter of an hour; uncorrected it would be 180 ms off
        samples, arrival_ns, end_s = device.block()
        first, placed = clock.place(samples, arrival_ns)
        if number > 500:
            worst_s = max(worst_s, abs((first + len(placed)) / RATE_HZ - end_s))
    assert worst_s < 0.010
    assert clock.gaps == clock.moved_back == 0
    assert abs(clock.skew_ppm - ppm) < 15


def test_blocks_follow_each_other_without_hole_or_overlap() -> None:
    device, clock = Device(150, jitter_s=0.01), SampleClock(GRID)
    end = None
    for _ in range(20_000):
        samples, arrival_ns, _ = device.block()
        first, placed = clock.place(samples, arrival_ns)
        assert end is None or first == end
        end = first + len(placed)


def test_a_late_block_moves_nothing() -> None:
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    for number in range(1, 400):
        late_s = 3.0 if 100 <= number < 150 else 0.0  # a pause, then a burst
        first, _ = clock.place(block, round((number * 0.02 + late_s) * NS_PER_S))
        assert first == (number - 1) * 320
    assert clock.gaps == 0


def test_an_announced_overflow_leaves_a_gap_of_what_was_lost() -> None:
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    clock.place(block, NS_PER_S // 50)
    first, _ = clock.place(block, NS_PER_S, overflowed=True)
    assert first == 16000 - 320
    assert clock.gaps == 1


def test_sound_lost_without_notice_leaves_a_gap_within_two_windows() -> None:
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    for number in range(1, 500):
        lost_s = 0.5 if number > 100 else 0.0
        first, _ = clock.place(block, round((number * 0.02 + lost_s) * NS_PER_S))
    assert clock.gaps == 1
    assert first == 499 * 320 - 320 + 8000


def test_an_anchor_that_was_late_moves_back() -> None:
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    clock.place(block, 2 * NS_PER_S)  # the first block of a stream that starts with old sound
    first, _ = clock.place(block, 2 * NS_PER_S)
    for _ in range(5):
        first, _ = clock.place(block, 2 * NS_PER_S)
    assert clock.moved_back > 0
    assert first + 320 <= 32000 + 800


def test_after_a_restart_the_next_block_is_anchored_anew() -> None:
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    clock.place(block, NS_PER_S)
    clock.restart()
    assert clock.place(block, 9 * NS_PER_S)[0] == 9 * RATE_HZ - 320
    assert clock.gaps == 0


BLOCK = np.linspace(-0.5, 0.5, 160, dtype=np.float32)
WINDOW_BLOCKS = 200  # of 160 samples in 2 s


def feed(clock: SampleClock, errors: Iterable[int]) -> list[tuple[int, NDArray[np.float32]]]:
    """Blocks that arrive so many samples later than a perfect clock would bring them."""
    return [
        clock.place(BLOCK, GRID.sample_ns((number + 1) * len(BLOCK) + error)) for number, error in enumerate(errors)
    ]


# The anchor is on time: a late error shows at the end of the second window, an early one at the end of the first.
@pytest.mark.parametrize(
    ("late", "window", "lengths"), [(9, 2, [161] * 9), (8, 2, []), (-9, 1, [159] * 9), (-8, 1, [])]
)
def test_a_steady_error_of_more_than_half_a_millisecond_is_worked_off_a_sample_a_block(
    late: int, window: int, lengths: list[int]
) -> None:
    placed = feed(SampleClock(GRID), [late if number else 0 for number in range(3 * WINDOW_BLOCKS - 1)])
    begins = window * WINDOW_BLOCKS - 1
    sizes = [len(samples) for _, samples in placed]
    assert sizes[:begins] == [160] * begins
    assert sizes[begins : begins + WINDOW_BLOCKS] == lengths + [160] * (WINDOW_BLOCKS - len(lengths))


@pytest.mark.parametrize(("late", "window", "length"), [(9, 2, 161), (-9, 1, 159)])
def test_a_stretched_block_keeps_its_ends_and_its_shape(late: int, window: int, length: int) -> None:
    placed = feed(SampleClock(GRID), [late if number else 0 for number in range(window * WINDOW_BLOCKS)])
    samples = placed[-1][1]
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, np.linspace(-0.5, 0.5, length), atol=1e-6)


@pytest.mark.parametrize(("late", "gaps"), [(1600, 0), (1601, 1)])
def test_a_window_that_is_late_throughout_by_more_than_a_tenth_of_a_second_lost_sound(late: int, gaps: int) -> None:
    clock = SampleClock(GRID)
    placed = feed(clock, [late if number else 0 for number in range(2 * WINDOW_BLOCKS)])
    assert clock.gaps == gaps
    assert placed[-1][0] == 160 * (2 * WINDOW_BLOCKS - 1) + (late if gaps else 0)
    assert len(placed[-1][1]) == (160 if gaps else 161)


def test_one_block_on_time_shows_that_nothing_was_lost() -> None:
    clock = SampleClock(GRID)
    errors = [5000] * (2 * WINDOW_BLOCKS)
    errors[0] = errors[-1] = 0
    feed(clock, errors)
    assert (clock.gaps, clock.moved_back) == (0, 0)


@pytest.mark.parametrize(("lost", "gaps"), [(320, 0), (321, 1)])
def test_an_announced_overflow_is_a_gap_from_20_ms_on(lost: int, gaps: int) -> None:
    clock = SampleClock(GRID)
    clock.place(BLOCK, GRID.sample_ns(160))
    first, _ = clock.place(BLOCK, GRID.sample_ns(320 + lost), overflowed=True)
    assert clock.gaps == gaps
    assert first == 160 + (lost if gaps else 0)


@pytest.mark.parametrize(("early", "moved"), [(800, 0), (801, 1)])
def test_the_anchor_moves_back_when_a_block_ends_more_than_50_ms_in_the_future(early: int, moved: int) -> None:
    clock = SampleClock(GRID)
    clock.place(BLOCK, GRID.sample_ns(16_000))
    first, _ = clock.place(BLOCK, GRID.sample_ns(16_160 - early))
    assert clock.moved_back == moved
    assert first == 16_000 - (early if moved else 0)


def test_the_skew_is_unknown_in_the_first_windows_and_then_what_was_corrected() -> None:
    device, clock = Device(100), SampleClock(GRID)
    skews = []
    for _ in range(10 * 60 * 50):
        samples, arrival_ns, _ = device.block()
        clock.place(samples, arrival_ns)
        skews.append(clock.skew_ppm)
    assert skews[: 2 * 100] == [0.0] * 200
    assert skews[-1] == pytest.approx(100, abs=5)


@pytest.mark.parametrize("rate_hz", [8_000, 24_000])
def test_the_clock_counts_in_samples_of_the_grid(rate_hz: int) -> None:
    grid = replace(GRID, sample_rate_hz=rate_hz)
    clock = SampleClock(grid)
    block = np.zeros(rate_hz // 50, np.float32)
    for number in range(1, 400):
        first, placed = clock.place(block, number * NS_PER_S // 50)
        assert (first, len(placed)) == ((number - 1) * rate_hz // 50, rate_hz // 50)


def test_a_resampler_starts_afresh_after_a_flush() -> None:
    resampler = Resampler(RATE_HZ)
    assert len(resampler.flush()) == 0
    resampler.push(frame(np.full(4800, 0.25), 48_000))
    resampler.flush()
    assert len(resampler.flush()) == 0
    again = np.concatenate([resampler.push(frame(np.full(4800, 0.25), 48_000)), resampler.flush()])
    assert abs(len(again) - 1600) <= 1


def test_a_lasting_delay_below_a_gap_is_caught_up_by_stretching_and_not_beyond() -> None:
    """80 ms are 1280 samples, at two a block six windows: what is still to add must not be asked for again."""
    clock = SampleClock(GRID)
    block = np.zeros(320, np.float32)
    behind = []
    for number in range(1, 1500):
        late_s = 0.08 if number > 100 else 0.0
        first, placed = clock.place(block, round((number * 0.02 + late_s) * NS_PER_S))
        behind.append(round((number * 0.02 + late_s) * RATE_HZ) - (first + len(placed)))
    assert clock.gaps == 0
    assert behind[101] > 1200
    assert all(-8 <= later <= earlier for earlier, later in itertools.pairwise(behind[101:]))
    assert abs(behind[-1]) <= 8
