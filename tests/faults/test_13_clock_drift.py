"""Fault 13: a sound card's clock is off by 200 ppm, for a day."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.audio import SampleClock
from clcr_stream.window.grid import TimeGrid

RATE_HZ = 1_000  # a coarse clock is enough to follow, and a day of it is 4 s of CPU
BLOCK = RATE_HZ // 2  # four a window, of which the least delayed counts
ORIGIN_NS = 5 * NS_PER_S


@pytest.mark.parametrize(("ppm", "hours"), [(200, 24), (-200, 4)])
def test_sound_stays_where_it_belongs_for_a_day(
    ppm: int, hours: int, record_property: Callable[[str, object], None]
) -> None:
    clock = SampleClock(TimeGrid(ORIGIN_NS, NS_PER_S // 5, 30, 15, RATE_HZ))
    random = np.random.default_rng(ppm + 1000)
    samples, errors_s = np.zeros(BLOCK, np.float32), []
    true_rate = RATE_HZ * (1 + ppm * 1e-6)
    for number in range(1, hours * 3600 * RATE_HZ // BLOCK + 1):
        captured_s = number * BLOCK / true_rate  # when the block's last sample was heard, in truth
        late_s = 0.002 + float(random.exponential(0.004))
        first, placed = clock.place(samples, ORIGIN_NS + int((captured_s + late_s) * NS_PER_S))
        errors_s.append((first + len(placed)) / RATE_HZ - captured_s)
    errors = np.abs(np.array(errors_s[40:]))  # the first windows find the anchor
    p99_ms = float(np.percentile(errors, 99)) * 1e3
    record_property("fault_13", {"ppm": ppm, "p99_ms": p99_ms, "worst_ms": float(errors.max()) * 1e3})
    assert p99_ms <= 10, "uncorrected it would be 17 s at the end of the day"
    assert clock.skew_ppm == pytest.approx(ppm, abs=15)
    assert clock.gaps == 0
