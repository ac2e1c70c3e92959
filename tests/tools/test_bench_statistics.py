"""Percentiles and the rule of the last three windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.command import unstable_measures
from bench.statistics import (
    JUDGED,
    KEPT_SAMPLES,
    MAX_SPREAD,
    WINDOWS,
    measure,
    spread,
    stable,
    summarise,
    window_medians,
)

TIMES = st.floats(0.001, 1e5)
RUNS = st.lists(TIMES, min_size=WINDOWS, max_size=200)


@given(st.lists(TIMES, min_size=1, max_size=200))
def test_percentiles_rise_from_the_median_to_the_largest_and_ignore_the_order(samples: list[float]) -> None:
    found = summarise(samples, digits=9)
    ordered = [found[name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered)  # type: ignore[type-var]
    assert found["max"] == pytest.approx(max(samples))
    assert found["n"] == len(samples)
    assert {**summarise(samples[::-1], digits=6), "mean": 0} == {**summarise(samples, digits=6), "mean": 0}


def test_nothing_measured_has_nulls_and_not_zeros() -> None:
    assert summarise([]) == {"n": 0, "p50": None, "p90": None, "p95": None, "p99": None, "max": None, "mean": None}
    assert measure([])["stable"] is False
    assert measure([])["spread"] is None


@given(RUNS)
def test_the_windows_hold_every_sample_in_order_and_differ_by_one_at_most(samples: list[float]) -> None:
    parts = np.array_split(np.asarray(samples), WINDOWS)
    assert np.concatenate(parts).tolist() == samples
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert window_medians(samples) == [float(np.median(part)) for part in parts]


@given(st.floats(0.01, 1e4), st.integers(WINDOWS, 300))
def test_a_run_that_never_changes_is_stable(value: float, count: int) -> None:
    assert stable([value] * count)


@given(st.floats(0.01, 1e4), st.integers(1, 20), st.floats(0.0, 0.5))
def test_a_last_window_apart_from_the_two_before_decides_at_ten_percent(value: float, size: int, share: float) -> None:
    samples = [value] * (size * (WINDOWS - 1)) + [value * (1 + share)] * size
    if not math.isclose(share, MAX_SPREAD, rel_tol=1e-6):
        assert stable(samples) is (share < MAX_SPREAD)


@given(st.lists(TIMES, min_size=WINDOWS - JUDGED, max_size=WINDOWS - JUDGED), st.integers(1, 20))
def test_what_the_first_windows_were_does_not_matter(values: list[float], size: int) -> None:
    samples = [value for value in values for _ in range(size)] + [7.0] * (JUDGED * size)
    assert stable(samples)


@given(RUNS, st.floats(0.01, 100.0))
def test_the_unit_of_the_samples_does_not_change_the_verdict(samples: list[float], factor: float) -> None:
    before, after = spread(window_medians(samples)), spread(window_medians([s * factor for s in samples]))
    assert after == pytest.approx(before, rel=1e-6, abs=1e-9)


@given(st.lists(TIMES, max_size=WINDOWS - 1))
def test_too_few_samples_are_never_stable(samples: list[float]) -> None:
    assert not stable(samples)


def test_a_long_run_is_written_thinned_and_says_how_long_it_was() -> None:
    found = measure([float(index) for index in range(3 * KEPT_SAMPLES + 1)])
    assert found["n"] == 3 * KEPT_SAMPLES + 1
    samples = found["samples"]
    assert isinstance(samples, list)
    assert len(samples) <= KEPT_SAMPLES
    assert samples[:3] == [0.0, 4.0, 8.0]


def test_an_unstable_measure_is_named_wherever_it_lies() -> None:
    steady, rising = measure([1.0] * 12), measure([float(value) for value in range(1, 13)])
    figures = {"a": {"b": rising, "c": steady}, "cases": [{"d": steady}, {"d": rising}], "e": 1}
    assert list(unstable_measures(figures)) == ["a.b", "cases[1].d"]
