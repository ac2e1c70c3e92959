"""Changed copies of a set: as loud, as echoing, as dark and as far as they say, and scored by the same commands."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr.training.data.decode import SAMPLE_RATE_HZ, decode_audio, decode_frames, load_image
from clcr.training.data.manifest import Row, read_manifest, write_manifest
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.sources.synthetic.person import Person, PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from media import MediaSpec, write_media

changed: Any = import_module("data.changed")
sounds: Any = import_module("data.changed_sound")
pictures: Any = import_module("data.changed_pictures")
SECONDS = 1.5


def voice() -> NDArray[np.float32]:
    """Half a second of a rich tone, then silence."""
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * hz * times) / 8 for hz in (120.0, 440.0, 1000.0, 2500.0, 5000.0))
    return np.where(times < 0.5, tone, 0.0).astype(np.float32)


def power_db(samples: NDArray[np.float32], low_hz: float, high_hz: float) -> float:
    spectrum, hz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    return float(10 * np.log10(spectrum[(hz >= low_hz) & (hz < high_hz)].sum() + 1e-12))


@pytest.mark.parametrize("change", sounds.CHANGES)
def test_a_change_keeps_the_length_and_repeats_with_the_same_draws(change: str) -> None:
    first, again = (sounds.CHANGES[change](voice(), np.random.default_rng(3), [voice()]) for _ in range(2))
    assert first.shape == voice().shape and first.dtype == np.float32 and np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - voice()).max() > 1e-3


def test_a_room_goes_on_sounding_and_a_hall_longer() -> None:
    tails = {}
    for change in ("room", "hall"):
        heard = sounds.CHANGES[change](voice(), np.random.default_rng(0), [])
        tails[change] = 20 * np.log10(np.std(heard[11200:12800]) / np.std(heard[:8000]))  # 0.25 s after the voice
    assert -45 < tails["room"] < -20 and tails["room"] + 10 < tails["hall"] < -5


def test_a_telephone_has_300_to_3400_hz() -> None:
    heard = sounds.CHANGES["telephone"](voice(), np.random.default_rng(0), [])
    kept = power_db(heard, 300, 3400)
    assert power_db(heard, 0, 250) < kept - 20 and power_db(heard, 4500, 8000) < kept - 20


def test_a_bad_call_is_as_loud_at_the_same_time() -> None:
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    said = np.where(times < 0.5, 0.3 * np.sin(2 * np.pi * 440 * times), 0.0).astype(np.float32)
    heard = sounds.CHANGES["call"](said, np.random.default_rng(0), [])
    assert np.std(heard[2000:7000]) == pytest.approx(np.std(said[2000:7000]), rel=0.2)
    assert np.std(heard[2000:7000]) > 30 * np.std(heard[10000:])


def test_noise_and_people_are_10_db_below_the_speech() -> None:
    for change, others in (("noise", []), ("people", [voice()])):
        beside = sounds.CHANGES[change](voice(), np.random.default_rng(0), others) - voice()
        ratio = 20 * np.log10(np.std(voice()[:8000]) / np.sqrt(np.mean(beside**2)))
        assert ratio == pytest.approx(10.0, abs=0.6)


def test_quiet_speech_is_at_55_db_below_full_scale_and_loud_speech_is_clipped() -> None:
    quiet = sounds.CHANGES["quiet"](voice(), np.random.default_rng(0), [])
    assert 20 * np.log10(np.std(quiet[:8000])) == pytest.approx(-55.0, abs=0.5)
    loud = sounds.CHANGES["loud"](voice(), np.random.default_rng(0), [])
    assert np.abs(loud).max() == 1.0 and (np.abs(loud) == 1.0).mean() > 0.02


def portrait() -> NDArray[np.uint8]:
    """A drawn person in a room, RGB."""
    return np.asarray(Person(PersonOptions(), 16_000).picture(0.5), np.uint8)


@pytest.mark.parametrize("change", pictures.CHANGES)
def test_a_changed_picture_has_its_size_and_repeats_with_the_same_draws(change: str) -> None:
    box = (20, 10, 60, 60)
    for picture in (portrait(), portrait()[..., 0]):
        first, again = (pictures.CHANGES[change](picture, box, np.random.default_rng(3)) for _ in range(2))
        assert first.shape == picture.shape and first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        assert (first != picture).any()


def test_dark_pictures_have_a_sixteenth_of_the_light_and_bright_ones_four_times() -> None:
    grey = np.full((40, 40), 100, np.uint8)
    light = {
        change: float(
            np.mean((pictures.CHANGES[change](grey, (0, 0, 40, 40), np.random.default_rng(0)) / 100.0) ** 2.2)
        )
        for change in ("dark", "bright")
    }
    assert light["dark"] == pytest.approx(1 / 16, rel=0.2) and light["bright"] == pytest.approx(4.0, rel=0.05)
    assert pictures.CHANGES["bright"](grey + 80, (0, 0, 40, 40), np.random.default_rng(0)).min() == 255


def test_a_face_three_times_as_far_is_found_at_a_third_of_its_size() -> None:
    near, away = (
        FaceFinder().crop(picture)
        for picture in (portrait(), pictures.CHANGES["far"](portrait(), (1, 1, 9, 9), np.random.default_rng(0)))
    )
    assert near is not None and away is not None
    assert away.box[2] == pytest.approx(near.box[2] / 3, rel=0.25)
    crop = np.asarray(np.random.default_rng(0).integers(0, 255, (48, 48)), np.uint8)
    coarse = pictures.CHANGES["far"](crop, (0, 0, 48, 48), np.random.default_rng(0))
    assert (
        np.abs(np.diff(coarse.astype(float), axis=1)).mean() < 0.3 * np.abs(np.diff(crop.astype(float), axis=1)).mean()
    )


def test_half_of_the_face_and_nothing_else_is_covered() -> None:
    for change, half in (("mask", (slice(40, 70), slice(20, 80))), ("side", (slice(10, 70), slice(20, 50)))):
        covered = pictures.CHANGES[change](portrait(), (20, 10, 60, 60), np.random.default_rng(0))
        beside = np.ones(covered.shape[:2], np.bool_)
        beside[half] = False
        assert np.ptp(covered[half].astype(int)) < 40
        np.testing.assert_array_equal(covered[beside], portrait()[beside])


def test_a_changed_film_has_the_pictures_of_the_model_s_slots_and_the_sound_as_it_is(tmp_path: Path) -> None:
    write_clip(tmp_path / "person.mp4", 1.2)
    film = Row("film", "person.mp4", "sad", "dev", "s1", "so sad", 0.0, 0.0, "video")
    voice_of = replace(film, id="voice", kind="audio")
    write_manifest(tmp_path / "set.csv", [film, voice_of])
    given = ["--manifest", str(tmp_path / "set.csv"), "--media-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert changed.main([*given, "--changes", "side"]) == 0
    (written,) = read_manifest(tmp_path / "out/set_side.csv")
    assert (written.id, written.kind, written.label, written.text) == ("film", "video", "sad", "so sad")
    before, after = (
        (dict(decode_frames(path, 0.0, 0.0)), decode_audio(path, 0.0, 0.0))
        for path in (tmp_path / "person.mp4", tmp_path / "out" / written.media)
    )
    assert before[0].keys() == after[0].keys() and len(before[0]) >= 17
    crop = FaceFinder().crop(before[0][0])
    assert crop is not None
    x, y, width, height = crop.box
    hidden, seen = slice(x + 4, x + width // 2 - 4), slice(x + width // 2 + 4, x + width)
    difference = np.abs(after[0][0].astype(int) - before[0][0].astype(int))[y : y + height]
    assert difference[:, seen].mean() < 6 < 20 < difference[:, hidden].mean()
    np.testing.assert_allclose(after[1], before[1], atol=1e-4)


def test_faces_and_photographs_stay_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "faces.npz", images=np.full((2, 48, 48), 90, np.uint8))
    rows = [Row("face", "faces.npz#1", "sad", "dev", "s1", "", 0.0, 0.0, "face")]
    write_manifest(tmp_path / "set.csv", rows)
    given = ["--manifest", str(tmp_path / "set.csv"), "--media-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert changed.main(given) == 0  # all that can be done to a face, and nothing of sound
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.csv")) == sorted(
        f"set_{c}" for c in pictures.CHANGES
    )
    (written,) = read_manifest(tmp_path / "out/set_mask.csv")
    picture = load_image(tmp_path / "out", written)
    assert written.kind == "face" and picture.shape[:2] == (48, 48)
    assert picture[:24].mean() == pytest.approx(90, abs=1) and picture[24:].mean() == pytest.approx(185, abs=3)


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
        (["--split", "test"], "nothing to change in split test"),
        (["--changes", "room,dark"], "nothing to change in split dev by room"),
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
