"""Fault 13: the clocks of a sound card and of a camera are off by 200 ppm in opposite directions, for a day."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.sources.audio import SampleClock
from clcr_stream.sources.capture_clock import CaptureClock
from clcr_stream.window.grid import TimeGrid

RATE_HZ = 1_000  # a coarse clock is enough to follow, and a day of it is 4 s of CPU
BLOCK = RATE_HZ // 2  # four a window, of which the least delayed counts
HOURS = 24
ORIGIN_NS = 5 * NS_PER_S
LEAST_S = 0.037  # what even the fastest picture takes, which no stamp tells
MOST_NS = 100 * NS_PER_MS


@pytest.mark.parametrize("ppm", [200, -200])
def test_sound_and_pictures_stay_where_they_belong_and_together_for_a_day(
    ppm: int, record_property: Callable[[str, object], None]
) -> None:
    """The sound card's clock is so much too fast, the camera's so much too slow; a picture with each block."""
    sound, camera = SampleClock(TimeGrid(ORIGIN_NS, NS_PER_S // 5, 30, 15, RATE_HZ)), CaptureClock(MOST_NS)
    random = np.random.default_rng(ppm + 1000)
    samples, newest_ns = np.zeros(BLOCK, np.float32), 0
    errors_ms: list[tuple[float, float]] = []
    true_rate = RATE_HZ * (1 + ppm * 1e-6)
    for number in range(1, HOURS * 3600 * RATE_HZ // BLOCK + 1):
        captured_s = number * BLOCK / true_rate  # when the block's last sample was heard, in truth
        late_s = 0.002 + float(random.exponential(0.004))
        first, placed = sound.place(samples, ORIGIN_NS + int((captured_s + late_s) * NS_PER_S))
        sound_s = (first + len(placed)) / RATE_HZ - captured_s
        late_s = LEAST_S + min(0.08, float(random.exponential(0.01)))
        newest_ns = max(newest_ns, ORIGIN_NS + int((captured_s + late_s) * NS_PER_S))
        seen_ns = camera.place(int(captured_s * (1 - ppm * 1e-6) * NS_PER_S), newest_ns)
        picture_s = (seen_ns - ORIGIN_NS) / NS_PER_S - captured_s - LEAST_S
        errors_ms.append((sound_s * 1e3, picture_s * 1e3))
    heard, seen = np.array(errors_ms[60:]).T  # the first half minute finds where the clocks stand
    p99_ms = {
        name: float(np.percentile(np.abs(errors), 99))
        for name, errors in (("sound", heard), ("pictures", seen), ("apart", heard - seen))
    }
    worst_ms = float(np.abs(heard - seen).max())
    record_property("fault_13", {"ppm": ppm, "p99_ms": p99_ms, "worst_apart_ms": worst_ms})
    assert max(p99_ms.values()) <= 10, f"{p99_ms}: uncorrected it would be 17 s each at the end of the day"
    assert sound.skew_ppm == pytest.approx(ppm, abs=15)
    assert sound.gaps == 0 and camera.jumps == 0
