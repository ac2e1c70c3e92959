"""test://: a face the detectors find, sound and words that fit it, and the same data however it is cut."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import person_golden
from clcr_stream.clock import NS_PER_S
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.sources.base import BOTH
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.subtitles import read_transcript
from clcr_stream.sources.synthetic.person import MANNERS, UTTERANCE_S, Person, PersonOptions, parse_test_url
from clcr_stream.sources.synthetic.source import ALL, SyntheticSource, write_clip
from media import ORIGIN_NS, SteppedClock, eventually, make_sinks, read_all


def acting(options: PersonOptions) -> Person:
    return Person(options, 16_000)


@pytest.mark.parametrize("emotion", list(MANNERS))
def test_the_haar_cascade_finds_exactly_one_face_in_95_of_100_pictures(emotion: str) -> None:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data/haarcascade_frontalface_default.xml"))
    person = acting(PersonOptions(emotion=emotion))
    found = 0
    for number in range(20):
        grey = cv2.equalizeHist(cv2.cvtColor(person.picture(number * 0.434), cv2.COLOR_RGB2GRAY))
        found += len(cascade.detectMultiScale(grey, 1.2, 4, minSize=(80, 80))) == 1
    assert found >= 19


def test_the_product_s_face_finder_follows_the_face() -> None:
    person, finder = acting(PersonOptions(flash=True)), FaceFinder()
    crops = [finder.crop(person.picture(number / 15)) for number in range(75)]
    assert sum(crop is not None for crop in crops) >= 71


def test_the_sound_does_not_depend_on_how_it_is_cut() -> None:
    person = acting(PersonOptions(flash=True))
    whole = person.sound(70_000, 30_000)
    pieces = [person.sound(start, min(777, 100_000 - start)) for start in range(70_000, 100_000, 777)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


def test_the_mouth_opens_with_the_sound() -> None:
    person = acting(PersonOptions(emotion="happy"))
    times = np.arange(0, 5, 0.02)
    loud = [float(np.abs(person.sound(round(time_s * 16000), 320)).mean()) for time_s in times]
    opening = [person.mouth(time_s + 0.01) for time_s in times]
    assert np.corrcoef(loud, opening)[0, 1] > 0.7
    closed, opened = person.picture(4.6), person.picture(4.6 - 4.6 % (1 / 4.6))
    assert closed.shape == opened.shape == (480, 640, 3)


def test_the_sound_is_speech_like() -> None:
    person = acting(PersonOptions(emotion="neutral"))
    sound = person.sound(0, 16000 * 4)
    assert 0.02 < sound.std() < 0.4
    assert np.abs(sound).max() <= 1.0
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / 16000)
    assert spectrum[frequencies < 4000].sum() > 0.9 * spectrum.sum()
    syllables = np.abs(np.fft.rfft(np.abs(sound).reshape(-1, 160).mean(axis=1) - np.abs(sound).mean()))
    peak_hz = np.fft.rfftfreq(400, 0.01)[int(np.argmax(syllables))]
    assert 2.5 < peak_hz < 6


def test_emotions_differ_in_pitch_and_picture_and_take_turns() -> None:
    person = acting(PersonOptions())
    acted = [person.manner(number * UTTERANCE_S + 1) for number in range(7)]
    assert len(set(acted)) == 6
    assert acted[6] == acted[0]
    assert (person.picture(1.0) != acting(PersonOptions(emotion="anger")).picture(1.0)).any()


def test_the_flash_and_the_click_coincide() -> None:
    person = acting(PersonOptions(flash=True))
    assert person.picture(3.0).mean() > person.picture(3.2).mean() + 40
    plain = acting(PersonOptions())
    assert (person.picture(0.099) != plain.picture(0.099)).any() and (person.picture(0.1) == plain.picture(0.1)).all()
    click = person.sound(4 * 16000 + 12_000, 8000)  # 4.75 s .. 5.25 s: the pause, then the click at 5.0
    assert np.abs(click[4000:5600]).max() > 3 * np.abs(click[:3900]).max()


def test_options_come_from_the_url() -> None:
    options = parse_test_url("test://?seconds=2.5&fps=10&emotion=fear&flash=1&transcript=0")
    assert options == PersonOptions(2.5, 10, "fear", True, False)
    assert parse_test_url("test://") == PersonOptions()


def test_at_pace_max_it_is_lossless_and_complete() -> None:
    sinks = make_sinks()
    source = SyntheticSource("test://?seconds=12&fps=15", ALL, sinks, "max")
    assert source.lossless
    recording = read_all(source, sinks)
    assert recording.valid.sum() == 180
    assert recording.present.sum() == 12 * 16000
    assert sinks.rings.vision.counts().dropped["overflow"] == sinks.rings.acoustic.counts().dropped["overflow"] == 0
    person = acting(parse_test_url("test://?seconds=12"))
    np.testing.assert_array_equal(recording.samples, person.sound(0, 12 * 16000))
    heard = [segments[-1].text if segments else "" for segments in recording.said]
    assert heard[19] == ""
    assert heard[20] == MANNERS["neutral"].words
    assert heard[-1] == MANNERS["sad"].words


def test_at_real_pace_it_is_live_and_comes_with_the_clock() -> None:
    clock = SteppedClock()
    sinks = make_sinks(clock)
    source = SyntheticSource("test://", ALL, sinks, "real")
    assert not source.lossless
    source.start()
    for step in range(1, 6):
        now_ns = ORIGIN_NS + step * NS_PER_S // 10
        clock.move_to(now_ns)
        assert clock.await_wait(now_ns + 1)
        heard_ns, seen_ns = sinks.rings.acoustic.newest_ns, sinks.rings.vision.newest_ns
        assert heard_ns is not None and seen_ns is not None
        assert now_ns - NS_PER_S // 20 < heard_ns <= now_ns
        assert seen_ns <= now_ns
    source.close()
    assert eventually(lambda: source.finished)


def test_a_rendered_clip_holds_the_same_person(tmp_path: Path) -> None:
    options = PersonOptions(emotion="happy", fps=15)
    subtitles = write_clip(tmp_path / "a.mp4", 6.0, options)
    (arrival,) = read_transcript(subtitles).arrivals
    assert arrival.segment.text == MANNERS["happy"].words
    assert arrival.segment.end_ns == 4_200_000_000
    sinks = make_sinks()
    recording = read_all(FileSource(str(tmp_path / "a.mp4"), BOTH, sinks, "max"), sinks)
    assert recording.valid[:90].all()
    assert recording.present[: 6 * 16000].all()
    sound = acting(options).sound(0, 6 * 16000)
    assert np.corrcoef(recording.samples[: 6 * 16000], sound)[0, 1] > 0.9


@pytest.mark.parametrize("rate_hz", [8_000, 24_000, 44_100])
def test_the_person_sounds_the_same_at_any_rate(rate_hz: int) -> None:
    sinks = make_sinks(sample_rate_hz=rate_hz)
    recording = read_all(SyntheticSource("test://?seconds=6&fps=5&emotion=happy&flash=1", ALL, sinks, "max"), sinks)
    assert recording.present.sum() == 6 * rate_hz
    loudness = [
        np.abs(sound).reshape(60, -1).mean(axis=1)
        for sound in (recording.samples, Person(PersonOptions(emotion="happy", flash=True), 16_000).sound(0, 96_000))
    ]
    assert np.corrcoef(*loudness)[0, 1] > 0.98


def test_the_person_looks_and_sounds_as_recorded() -> None:
    """Whoever changes the drawing on purpose writes the record anew: tests/support/person_golden.py."""
    expected = np.load(person_golden.PATH)
    actual = person_golden.record()
    difference = np.abs(actual["pictures"].astype(int) - expected["pictures"].astype(int))
    assert difference.max() <= 1, "levels of 255, of the mean of a block of 20 x 20 pixels"
    np.testing.assert_allclose(actual["sounds"], expected["sounds"], atol=1e-4)
