"""Fault 15: sound of other rates and channels, a rate that changes, samples that are no numbers, clipping, silence."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_room
from job_live import SoundServer, missing_sound
from job_process import Message, environment, finish, read_lines
from media import write_wav
from tiny_bundle import write_bundle

SECONDS = 4
TONE_HZ, LEVEL = 440, 0.2


def tone(rate_hz: int, seconds: float = SECONDS, level: float = LEVEL) -> np.ndarray:
    """With pauses and a room's noise, as speech has them."""
    at_s = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(15).normal(0, 0.001, len(at_s))
    return (level * np.sin(2 * np.pi * TONE_HZ * at_s) * (at_s % 1 < 0.6) + noise).astype(np.float32)


def write_sound(
    path: Path, samples: np.ndarray, rate_hz: int, layout: str = "mono", codec: str = "pcm_f32le", first_s: int = 0
) -> Path:
    """The same samples in every channel, without a limit to what they are."""
    container: Any
    with av.open(str(path), "w", options={"output_ts_offset": str(first_s)} if first_s else {}) as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, layout=layout)
        channels = stream.layout.nb_channels
        for start in range(0, len(samples), 1024):
            block = np.repeat(samples[start : start + 1024], channels)[None, :].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def play(place: Path, file: Path) -> tuple[list[Message], list[Message]]:
    """What the command says of a file: predictions and statuses."""
    write_bundle(place / "bundle")
    environment(place)
    fixed = ("--bundle", place / "bundle", "--backend", "null", "--transcript", "none", "--pace", "max")
    finish(place, *fixed, "--input", file, "--output", place / "out")
    messages = read_lines(place / "out")
    return [one for one in messages if one["type"] == "prediction"], [
        one for one in messages if one["type"] == "status"
    ]


def level_dbfs(prediction: Message) -> float:
    found: float = prediction["modalities"]["acoustic"]["numbers"]["level_dbfs"]
    return found


@pytest.mark.parametrize(
    ("rate_hz", "layout", "mixed_db"),
    [
        (8000, "mono", 0.0),
        (11_025, "stereo", 3.0),
        (44_100, "stereo", 3.0),
        (96_000, "5.1", 10.7),
        (192_000, "mono", 0.0),
    ],
)
def test_any_rate_and_any_channels_are_heard_for_as_long_as_they_last(
    rate_hz: int, layout: str, mixed_db: float, tmp_path: Path
) -> None:
    predictions, _ = play(tmp_path, write_sound(tmp_path / "a.wav", tone(rate_hz), rate_hz, layout))
    assert len(predictions) == SECONDS * 5
    last = predictions[-1]["modalities"]["acoustic"]
    assert last["coverage"] == pytest.approx(SECONDS / 6, abs=0.01)
    loudest = max(map(level_dbfs, predictions)) - 20 * math.log10(LEVEL / math.sqrt(2))
    assert loudest == pytest.approx(mixed_db, abs=0.5), "FFmpeg's mix adds up channels that are alike"
    assert not any("acoustic" in mark for mark in predictions[-1]["degraded"])


def test_a_rate_that_changes_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    parts = [
        write_sound(tmp_path / f"{rate_hz}.ts", tone(rate_hz), rate_hz, codec="aac", first_s=first_s)
        for rate_hz, first_s in ((16_000, 0), (44_100, SECONDS))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    predictions, _ = play(tmp_path, tmp_path / "both.ts")
    assert len(predictions) == pytest.approx(2 * SECONDS * 5, abs=1)
    assert predictions[29]["modalities"]["acoustic"]["coverage"] == pytest.approx(1.0, abs=0.03)
    loudest = [max(map(level_dbfs, predictions[first : first + 15])) for first in (2, 22)]
    assert loudest[0] == pytest.approx(loudest[1], abs=1.0)


def test_samples_that_are_no_numbers_are_counted_and_never_heard(tmp_path: Path) -> None:
    samples = tone(16_000)
    samples[20_000:20_100], samples[30_000:30_050] = np.nan, np.inf
    predictions, statuses = play(tmp_path, write_sound(tmp_path / "a.wav", samples, 16_000))
    assert len(predictions) == SECONDS * 5
    counts = source(statuses[-1])["counts"]
    assert counts["samples_dropped_not_finite"] >= 150
    assert counts["samples"] == counts["samples_in"]
    for one in predictions:
        numbers = [*one["probs"].values(), one["confidence"], level_dbfs(one)]
        assert all(number is None or math.isfinite(number) for number in numbers)


@pytest.mark.parametrize(
    ("samples", "mark"),
    [
        (np.clip(tone(16_000, 5) * 12, -1, 1), "acoustic_clipping"),
        (np.concatenate([tone(16_000, 1), np.zeros(80_000, np.float32)]), "acoustic_silent"),
        (tone(16_000, 5, 0.02) + np.random.default_rng(1).normal(0, 0.05, 80_000), "acoustic_noisy"),
        (tone(16_000, 5) + 0.01, None),
    ],
    ids=["clipping", "silence", "noise", "offset"],
)
def test_sound_that_is_clipped_silent_or_drowned_is_told_and_an_offset_is_none_of_them(
    samples: np.ndarray, mark: str | None, tmp_path: Path
) -> None:
    predictions, _ = play(tmp_path, write_wav(tmp_path / "a.wav", samples))
    told = {name for one in predictions for name in one["degraded"] if name.startswith("acoustic")}
    assert told == ({mark} if mark else set())
    assert all(one["modalities"]["acoustic"]["present"] for one in predictions)


WHY_NOT = missing_sound()


@pytest.mark.device
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_sound_card_of_another_rate_and_two_channels_is_heard_and_its_clipping_told(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    loud = write_wav(tmp_path / "loud.wav", np.clip(np.tile(tone(16_000), 10) * 12, -1, 1))
    with SoundServer(tmp_path / "pulse", rate_hz=44_100, channels=2) as server:
        player = server.play(write_room(tmp_path / "room.wav"))
        with watched(tmp_path, "--camera", "none", "--mic", "default", extra=server.environment) as session:
            expect_state(session, "live", 30)
            heard = session.expect(lambda one: one["modalities"]["acoustic"]["coverage"] > 0.4, 30)
            player.kill()
            begun_ns = session.now_ns()
            server.play(loud)
            told = expect_state(session, "clipping", 10, begun_ns)
            code, _ = session.terminate()
    assert code == 0, session.stderr()
    record_property("fault_15", {"told_s": seconds(told, begun_ns), "level_dbfs": level_dbfs(heard.message)})
    assert seconds(told, begun_ns) <= 3.0 * slowdown()
