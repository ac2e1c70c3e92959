"""Changed copies of a set's sound: as loud, as narrow and as echoing as they say, and scored by the same commands."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr.training.data.decode import SAMPLE_RATE_HZ, decode_audio
from clcr.training.data.manifest import Row, read_manifest, write_manifest
from media import MediaSpec, write_media

changed: Any = import_module("data.changed_sound")
SECONDS = 1.5


def voice() -> NDArray[np.float32]:
    """Half a second of a rich tone, then silence."""
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * hz * times) / 8 for hz in (120.0, 440.0, 1000.0, 2500.0, 5000.0))
    return np.where(times < 0.5, tone, 0.0).astype(np.float32)


def power_db(samples: NDArray[np.float32], low_hz: float, high_hz: float) -> float:
    spectrum, hz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    return float(10 * np.log10(spectrum[(hz >= low_hz) & (hz < high_hz)].sum() + 1e-12))


@pytest.mark.parametrize("change", changed.CHANGES)
def test_a_change_keeps_the_length_and_repeats_with_the_same_draws(change: str) -> None:
    first, again = (changed.CHANGES[change](voice(), np.random.default_rng(3), [voice()]) for _ in range(2))
    assert first.shape == voice().shape and first.dtype == np.float32 and np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - voice()).max() > 1e-3


def test_a_room_goes_on_sounding_and_a_hall_longer() -> None:
    tails = {}
    for change in ("room", "hall"):
        heard = changed.CHANGES[change](voice(), np.random.default_rng(0), [])
        tails[change] = 20 * np.log10(np.std(heard[11200:12800]) / np.std(heard[:8000]))  # 0.25 s after the voice
    assert -45 < tails["room"] < -20 and tails["room"] + 10 < tails["hall"] < -5


def test_a_telephone_has_300_to_3400_hz() -> None:
    heard = changed.CHANGES["telephone"](voice(), np.random.default_rng(0), [])
    kept = power_db(heard, 300, 3400)
    assert power_db(heard, 0, 250) < kept - 20 and power_db(heard, 4500, 8000) < kept - 20


def test_a_bad_call_is_as_loud_at_the_same_time() -> None:
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    said = np.where(times < 0.5, 0.3 * np.sin(2 * np.pi * 440 * times), 0.0).astype(np.float32)
    heard = changed.CHANGES["call"](said, np.random.default_rng(0), [])
    assert np.std(heard[2000:7000]) == pytest.approx(np.std(said[2000:7000]), rel=0.2)
    assert np.std(heard[2000:7000]) > 30 * np.std(heard[10000:])


def test_noise_and_people_are_10_db_below_the_speech() -> None:
    for change, others in (("noise", []), ("people", [voice()])):
        beside = changed.CHANGES[change](voice(), np.random.default_rng(0), others) - voice()
        ratio = 20 * np.log10(np.std(voice()[:8000]) / np.sqrt(np.mean(beside**2)))
        assert ratio == pytest.approx(10.0, abs=0.6)


def test_quiet_speech_is_at_55_db_below_full_scale_and_loud_speech_is_clipped() -> None:
    quiet = changed.CHANGES["quiet"](voice(), np.random.default_rng(0), [])
    assert 20 * np.log10(np.std(quiet[:8000])) == pytest.approx(-55.0, abs=0.5)
    loud = changed.CHANGES["loud"](voice(), np.random.default_rng(0), [])
    assert np.abs(loud).max() == 1.0 and (np.abs(loud) == 1.0).mean() > 0.02


def test_the_command_writes_sounds_and_manifests_that_the_others_read(tmp_path: Path) -> None:
    write_media(tmp_path / "tone.wav", MediaSpec(seconds=SECONDS, fps=0, audio_codec="pcm_s16le"))
    rows = [
        Row(f"{split}{n}", "tone.wav", "sad", split, "s1", "", 0.2, 1.2, "audio")
        for split in ("train", "dev")
        for n in (0, 1)
    ]
    write_manifest(tmp_path / "set.csv", rows)
    given = ["--manifest", str(tmp_path / "set.csv"), "--media-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert changed.main([*given, "--changes", "room,quiet"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["set_quiet.csv", "set_room.csv"]
    written = read_manifest(tmp_path / "out/set_room.csv")
    assert [(row.id, row.label, row.kind) for row in written] == [("dev0", "sad", "audio"), ("dev1", "sad", "audio")]
    heard = [decode_audio(tmp_path / "out" / row.media, row.start_s, row.end_s) for row in written]
    assert [len(one) for one in heard] == [SAMPLE_RATE_HZ] * 2
    assert np.abs(heard[0] - heard[1]).max() > 1e-3  # each clip in a room of its own


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--changes", "room,cave"], "--changes 'cave' is not known; allowed is room,"),
        (["--split", "test"], "no sound"),
        (["--limit", "-1"], "--limit is -1; allowed is 1 or more"),
    ],
)
def test_what_cannot_be_changed_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], text: str
) -> None:
    write_manifest(tmp_path / "set.csv", [Row("a", "", "sad", "dev", "s1", "so sad", 0.0, 0.0, "text")])
    given = ["--manifest", str(tmp_path / "set.csv"), "--media-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert changed.main([*given, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
