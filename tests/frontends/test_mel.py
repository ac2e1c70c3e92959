"""The log-mel front-end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clcr_stream.errors import ConfigError
from clcr_stream.frontends.mel import SPEECH_MEL, MelSpec, log_mel, mel_filterbank

CONTEXT, HOP = 240, 160


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(int(seconds * 16000)) * 0.1
    return (samples * np.abs(np.sin(np.arange(len(samples)) / 3000.0))).astype(np.float32)


def with_context(samples: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(CONTEXT, np.float32), samples])


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_cut_into_random_chunks_gives_the_features_of_the_whole(seed: int) -> None:
    samples = with_context(speech_like(2.0, seed))
    whole = log_mel(samples)
    rng = np.random.default_rng(seed)
    pieces, done = [], 0
    while done < len(whole):
        frames = min(int(rng.integers(1, 40)), len(whole) - done)
        pieces.append(log_mel(samples[HOP * done : HOP * (done + frames) + CONTEXT]))
        done += frames
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-6)


def test_a_frame_uses_only_its_own_400_samples() -> None:
    samples = with_context(speech_like(1.0))
    before = log_mel(samples)
    changed = samples.copy()
    changed[HOP * 50 : HOP * 50 + 400] = 0.5
    differs = np.flatnonzero((log_mel(changed) != before).any(axis=1))
    # New-sample index of the change is [160*50 - 240, 160*50 + 160); the window reaches 2 frames to each side.
    assert differs.min() == 48
    assert differs.max() == 52


def test_silence_is_the_floor_in_every_band() -> None:
    features = log_mel(np.zeros(CONTEXT + 10 * HOP, np.float32))
    assert features.shape == (10, 64)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.float32(np.log(1e-6)))


@pytest.mark.parametrize("hz", [100.0, 440.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_peaks_in_the_band_around_its_frequency(hz: float) -> None:
    tone = np.sin(2 * np.pi * hz * np.arange(CONTEXT + 20 * HOP) / 16000).astype(np.float32)
    loudest = int(log_mel(tone)[5:].mean(axis=0).argmax())
    filters = mel_filterbank()
    bins_hz = np.arange(257) * 31.25
    covered = bins_hz[filters[:, loudest] > 0]
    assert covered.min() - 31.25 <= hz <= covered.max() + 31.25


def test_every_band_hears_something_and_none_beyond_its_limits() -> None:
    filters = mel_filterbank()
    bins_hz = np.arange(257) * 31.25
    assert (filters.sum(axis=0) > 0.2).all()
    assert not filters[(bins_hz <= 50.0) | (bins_hz >= 7600.0)].any()


def test_twice_the_amplitude_adds_the_log_of_four() -> None:
    samples = with_context(speech_like(0.5) + np.float32(0.01))
    difference = log_mel(2 * samples)[5:] - log_mel(samples)[5:]
    np.testing.assert_allclose(np.median(difference), np.log(4.0), atol=1e-4)


def test_samples_without_whole_hops_are_refused_with_the_allowed_shape() -> None:
    with pytest.raises(ConfigError, match=r"\(n \* 160 \+ 240,\)"):
        log_mel(np.zeros(1000, np.float32))
    with pytest.raises(ConfigError):
        log_mel(np.zeros(100, np.float32))


def test_no_new_samples_give_no_frames_and_another_spec_its_own_bands() -> None:
    assert log_mel(np.zeros(CONTEXT, np.float32)).shape == (0, 64)
    assert log_mel(np.zeros(CONTEXT + HOP, np.float32), MelSpec(mel_bands=20)).shape == (1, 20)


# librosa's documentation of mel_frequencies(n_mels=40) to 11,025 Hz: edges on Slaney's scale.
SLANEY_HZ = [0.0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855, 853.173, 938.49]
SLANEY_HZ += [1024.856, 1119.114, 1222.042, 1334.436, 1457.167, 1591.187, 1737.532, 1897.337, 2071.84, 2262.393]
SLANEY_HZ += [2470.47, 2697.686, 2945.799, 3216.731, 3512.582, 3835.643, 4188.417, 4573.636, 4994.285, 5453.621]
SLANEY_HZ += [5955.205, 6502.92, 7101.009, 7754.107, 8467.272, 9246.028, 10096.408, 11025.0]


def naive_edges(spec: MelSpec) -> list[float]:
    """The edges of the triangles, Hz, evenly spaced on the spec's mel scale."""
    if spec.mel_scale == "htk":
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (spec.low_hz, spec.high_hz))
    else:
        low, high = (
            hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)
            for hz in (spec.low_hz, spec.high_hz)
        )
    mels = [low + number * (high - low) / (spec.mel_bands + 1) for number in range(spec.mel_bands + 2)]
    if spec.mel_scale == "htk":
        return [700 * (10 ** (mel / 2595) - 1) for mel in mels]
    return [mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27) for mel in mels]


def test_slaney_s_scale_is_the_published_one() -> None:
    spec = MelSpec(22_050, 2048, 400, 160, 38, 0.0, 11_025.0, mel_scale="slaney")
    np.testing.assert_allclose(naive_edges(spec), SLANEY_HZ, atol=2e-3)
    filters = mel_filterbank(spec)
    bins_hz = np.arange(1025) * 22_050 / 2048
    for band, (left, right) in enumerate(zip(SLANEY_HZ, SLANEY_HZ[2:], strict=False)):
        heard = bins_hz[filters[:, band] > 0]
        assert left - 0.01 < heard.min() < left + 11 and right - 11 < heard.max() < right + 0.01
        assert filters[:, band].sum() * 22_050 / 2048 == pytest.approx(1.0, rel=0.03)  # an area of 1 Hz


def naive_log_mel(samples: np.ndarray, spec: MelSpec) -> np.ndarray:
    """The definition, band by band: Hann window, DFT as a sum, triangles on the spec's mel scale."""
    window = [0.5 - 0.5 * math.cos(2 * math.pi * at / spec.window_samples) for at in range(spec.window_samples)]
    bins = np.arange(spec.fft_samples // 2 + 1)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(spec.window_samples), bins) / spec.fft_samples)
    edges = naive_edges(spec)
    rows = []
    for start in range(0, len(samples) - spec.window_samples + 1, spec.hop_samples):
        frame = samples[start : start + spec.window_samples].astype(np.float64) * window
        power = np.abs(frame @ turns) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for number, value in enumerate(power):
                hz = number * spec.sample_rate_hz / spec.fft_samples
                if left < hz <= centre:
                    energy += value * (hz - left) / (centre - left)
                elif centre < hz < right:
                    energy += value * (right - hz) / (right - centre)
            energy *= 1.0 if spec.mel_scale == "htk" else 2 / (right - left)
            row.append(math.log(max(energy, spec.log_floor)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(
    "spec",
    [
        MelSpec(),
        MelSpec(8_000, 256, 200, 80, 24, 20.0, 3_800.0, 1e-4),
        MelSpec(24_000, 1024, 600, 240, 40, 0.0, 12_000.0, 1e-8),
        SPEECH_MEL,
        MelSpec(8_000, 256, 200, 80, 24, 300.0, 3_800.0, 1e-4, "slaney"),
    ],
)
def test_the_features_are_those_of_the_definition(spec: MelSpec) -> None:
    samples = speech_like(1.0)[5_000 : 5_000 + spec.context_samples + 4 * spec.hop_samples]
    np.testing.assert_allclose(log_mel(samples, spec), naive_log_mel(samples, spec), rtol=0, atol=1e-5)


def test_the_default_is_what_the_default_bundle_was_trained_with() -> None:
    assert MelSpec() == MelSpec(16_000, 512, 400, 160, 64, 50.0, 7_600.0, 1e-6)
    assert MelSpec().context_samples == 240


def test_the_features_of_samples_in_any_type_and_layout_are_the_same() -> None:
    samples = with_context(speech_like(0.2))
    twice = np.repeat(samples, 2)[::2]
    np.testing.assert_array_equal(log_mel(twice), log_mel(samples))
    with pytest.raises(ConfigError, match="allowed is"):
        log_mel(samples[:, None])
