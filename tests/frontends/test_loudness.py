"""The gain for a microphone that is set too low."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.frontends.loudness import MOST_GAIN_DB, TARGET_DBFS, Loudness, raised_log_mel
from clcr_stream.frontends.mel import SPEECH_MEL, log_mel

HOP = 3200
levels_dbfs = st.floats(-90.0, 0.0)


def dbfs(samples: np.ndarray) -> float:
    return 10.0 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


def noise(level_dbfs: float, hops: int, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(hops * HOP)
    return np.asarray(samples * 10.0 ** (level_dbfs / 20.0), np.float32)


def voice(loudest_dbfs: float, seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """Syllables, words and pauses: noise whose level goes up and down by 40 dB, its loudest hop as given."""
    hops = round(seconds * 5)
    samples = noise(0.0, hops, seed)
    times = np.arange(len(samples)) / 16000
    shaped = samples * 10.0 ** (-(1.0 - np.abs(np.sin(4.1 * times)) * np.abs(np.sin(0.9 * times + 0.4))) * 2.0)
    loudest = max(dbfs(hop) for hop in shaped.reshape(hops, HOP))
    return np.asarray(shaped * 10.0 ** ((loudest_dbfs - loudest) / 20.0), np.float32)


def gains(samples: np.ndarray) -> list[float]:
    loudness = Loudness()
    return [float(loudness.gain(samples[start : start + HOP])) for start in range(0, len(samples), HOP)]


@given(st.floats(TARGET_DBFS - MOST_GAIN_DB, TARGET_DBFS), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_low_voice_is_raised_to_the_target_once_it_was_heard(level_dbfs: float, seed: int) -> None:
    sound = voice(level_dbfs, seed=seed)
    raised = [dbfs(hop) + 20 * np.log10(gain) for hop, gain in zip(sound.reshape(-1, HOP), gains(sound), strict=True)]
    assert TARGET_DBFS - 4.0 < max(raised[10:]) < TARGET_DBFS + 0.1
    assert max(raised) < TARGET_DBFS + 0.1  # never above it


@given(st.floats(TARGET_DBFS, 0.0), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_voice_as_loud_as_the_target_is_left_alone_from_there_on(level_dbfs: float, seed: int) -> None:
    sound = voice(level_dbfs, seed=seed)
    loudest = int(np.argmax([dbfs(hop) for hop in sound.reshape(-1, HOP)]))
    excess_db = level_dbfs - TARGET_DBFS  # forgotten at half a dB a second
    kept = gains(sound)[loudest : loudest + 1 + int(excess_db / 0.1)]
    assert max(kept) == 1.0


@given(levels_dbfs)
@settings(max_examples=20, deadline=None)
def test_a_steady_noise_is_never_raised(level_dbfs: float) -> None:
    assert max(gains(noise(level_dbfs, 20))) == 1.0


def test_digital_silence_and_what_was_not_captured_say_nothing_of_the_noise() -> None:
    loudness = Loudness()
    assert loudness.gain(np.zeros(HOP, np.float32)) == 1.0
    assert loudness.gain(np.zeros(0, np.float32)) == 1.0
    hiss = noise(-60.0, 5)
    assert [float(loudness.gain(hop)) for hop in hiss.reshape(5, HOP)] == [1.0] * 5  # silence before it is not softer


@given(st.integers(1, 29), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_gain_does_not_depend_on_what_comes_later(hop: int, seed: int) -> None:
    sound = voice(-55.0, seed=seed)
    changed = sound.copy()
    changed[hop * HOP :] = 0.9
    assert gains(changed)[:hop] == gains(sound)[:hop]


def test_soft_words_after_loud_ones_stay_soft_and_a_cough_is_forgotten() -> None:
    soon = gains(np.concatenate([voice(-20.0), voice(-45.0)]))
    assert max(soon[30:]) == 1.0
    cough, low = noise(-15.0, 1), voice(-50.0, seconds=90.0)
    later = gains(np.concatenate([cough, low]))
    assert later[10] == 1.0
    assert later[-1] > 5.0


@given(levels_dbfs, st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_gains_are_between_one_and_the_most(level_dbfs: float, seed: int) -> None:
    factors = gains(np.concatenate([noise(-95.0, 5), voice(level_dbfs, seed=seed)]))
    assert 1.0 <= min(factors)
    assert max(factors) <= 10.0 ** (MOST_GAIN_DB / 20.0) * (1 + 1e-6)


def test_a_low_recording_has_nearly_the_features_of_a_loud_one() -> None:
    sound = voice(TARGET_DBFS, seconds=4.0)
    as_it_is = log_mel(np.concatenate([np.zeros(SPEECH_MEL.context_samples, np.float32), sound]), SPEECH_MEL)
    low = raised_log_mel((sound / 10.0).astype(np.float32), SPEECH_MEL)
    loud_parts = as_it_is[150:] > as_it_is.max() - 6.0
    assert np.abs(low[150:] - as_it_is[150:])[loud_parts].max() < 0.8  # 3.5 dB; 20 dB without the gain: 4.6


def test_frames_are_whole_whatever_the_length() -> None:
    for length in (0, 100, 160, 3199, 3200, 3360, 7000):
        assert len(raised_log_mel(np.zeros(length, np.float32))) == length // 160
