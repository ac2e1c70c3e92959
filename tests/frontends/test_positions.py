"""Sinusoidal positions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from clcr_stream.frontends.positions import sinusoid, speech_positions

TWO_PI = Fraction("6.283185307179586476925286766559005768394338798750")


@pytest.mark.parametrize("step", [0, 1, 90, 10**6, 10**9 - 7, 10**9])
def test_a_step_is_exact_up_to_a_billion(step: int) -> None:
    """The fastest column has the worst phase: its period is 2 pi, reduced here in exact arithmetic."""
    position = sinusoid(np.array([step]), 128)[0]
    phase = float(Fraction(step) % TWO_PI)
    assert position[0] == pytest.approx(math.sin(phase), abs=1e-6)
    assert position[1] == pytest.approx(math.cos(phase), abs=1e-6)


def test_columns_are_pairs_of_falling_frequency() -> None:
    position = sinusoid(np.array([3]), 8, base=100.0)[0]
    for pair in range(4):
        phase = 3 * 100.0 ** (-2 * pair / 8)
        assert position[2 * pair] == pytest.approx(math.sin(phase), abs=1e-6)
        assert position[2 * pair + 1] == pytest.approx(math.cos(phase), abs=1e-6)


def test_a_step_has_the_same_position_in_any_company() -> None:
    steps = np.arange(123_456_000, 123_456_090)
    together = sinusoid(steps)
    alone = np.concatenate([sinusoid(steps[index : index + 1]) for index in range(len(steps))])
    np.testing.assert_array_equal(together, alone)
    assert together.shape == (90, 128)
    assert together.dtype == np.float32


def test_no_steps_give_no_rows_and_an_odd_width_works() -> None:
    assert sinusoid(np.zeros(0, np.int64)).shape == (0, 128)
    assert sinusoid(np.array([5]), 7).shape == (1, 7)


def test_the_default_is_128_columns_of_base_10000_and_the_last_column_of_an_odd_width_is_a_sine() -> None:
    position = sinusoid(np.array([7]))[0]
    for pair in range(64):
        phase = 7 * 10_000.0 ** (-2 * pair / 128)
        assert position[2 * pair] == pytest.approx(math.sin(phase), abs=1e-6)
        assert position[2 * pair + 1] == pytest.approx(math.cos(phase), abs=1e-6)
    odd = sinusoid(np.array([5]), 5, base=32.0)[0]
    phases = [5 * 32.0 ** (-2 * pair / 5) for pair in range(3)]
    expected = [wave(phase) for phase in phases for wave in (math.sin, math.cos)][:5]
    assert odd.tolist() == pytest.approx(expected, abs=1e-6)


def test_speech_positions_are_whisper_s_and_repeat_after_30_s() -> None:
    table = speech_positions(np.arange(1500))
    for step, column in ((0, 0), (7, 0), (7, 191), (1499, 100)):
        phase = step * 10_000.0 ** (-column / 191)
        assert table[step, column] == pytest.approx(math.sin(phase), abs=1e-6)
        assert table[step, 192 + column] == pytest.approx(math.cos(phase), abs=1e-6)
    later = np.arange(1500) + 1500 * 10**9
    np.testing.assert_array_equal(speech_positions(later), table)
    assert table.shape == (1500, 384) and table.dtype == np.float32
    assert speech_positions(np.array([9]), 6, 5)[0].tolist() == speech_positions(np.array([4]), 6, 5)[0].tolist()
