"""Level, noise, signal-to-noise ratio and speech share against sounds whose own are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcr_stream.frontends.quality import decibels, powers, sharpness
from clcr_stream.window.meters import ClipMeter, SoundMeter, SoundNumbers

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine

RATE_HZ = 16_000


def metered(sound: np.ndarray, span_s: float = 6.0, block: int = 3200) -> SoundNumbers:
    meter = SoundMeter(RATE_HZ, span_s)
    for start in range(0, len(sound), block):
        meter.add(sound[start : start + block].astype(np.float32))
    return meter.numbers()


def test_a_tone_has_the_level_that_its_amplitude_gives() -> None:
    numbers = metered(0.5 * np.sin(np.arange(RATE_HZ) * 0.3))
    assert numbers.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)


def test_words_above_a_noise_have_the_ratio_and_share_that_they_were_made_with() -> None:
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.001, 6 * RATE_HZ)
    spoken = np.arange(6 * RATE_HZ) // RATE_HZ % 2 == 0  # a second of speech, a second of pause
    sound = noise + spoken * random.normal(0, 0.05, 6 * RATE_HZ)
    numbers = metered(sound)
    assert numbers.noise_dbfs == pytest.approx(-60, abs=1.0)
    assert numbers.snr_db == pytest.approx(34, abs=1.5)
    assert numbers.speech_share == pytest.approx(0.5, abs=0.02)


def test_nothing_is_said_of_too_little_sound_and_nothing_of_the_level_after_a_gap() -> None:
    meter = SoundMeter(RATE_HZ, 6.0)
    assert meter.numbers() == SoundNumbers()
    meter.add(np.full(3200, 0.1, np.float32))
    assert meter.numbers().level_dbfs == pytest.approx(-20.0, abs=0.01) and meter.numbers().snr_db is None
    meter.gap()
    assert meter.numbers() == SoundNumbers()


def test_only_the_span_counts() -> None:
    loud, quiet = np.full(6 * RATE_HZ, 0.5), np.full(6 * RATE_HZ, 0.005)
    assert metered(np.concatenate([loud, quiet])) == metered(quiet)


@UNHURRIED
@given(st.integers(100, 5000))
def test_how_sound_is_cut_does_not_change_what_is_measured(block: int) -> None:
    sound = np.random.default_rng(2).normal(0, 0.1, RATE_HZ)
    assert metered(sound, block=block).snr_db == metered(sound, block=RATE_HZ).snr_db


def test_the_share_of_clipped_samples_is_that_of_the_last_span() -> None:
    meter = ClipMeter(1000)
    meter.add(np.ones(500, np.float32))
    assert meter.share == 0, "too little was heard"
    meter.add(np.zeros(500, np.float32))
    assert meter.share == 0.5
    meter.add(np.zeros(500, np.float32))
    assert meter.share == 0.0


def test_decibels_of_nothing_are_finite_and_a_blurred_face_is_less_sharp() -> None:
    assert float(decibels(0.0)) == -120.0 and len(powers(np.zeros(10, np.float32), 20)) == 0
    face = np.random.default_rng(3).integers(0, 255, (112, 112, 3), np.uint8)
    flat = np.full_like(face, 90)
    assert sharpness(flat) == 0 < sharpness(face)
