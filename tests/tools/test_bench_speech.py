"""The measurement of speech recognition, on speech that a few lines understand."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bench_speech
from clcr_stream.sources.speech.recogniser import SPEECH_HZ
from coded_speech import coded_recogniser, say
from media import write_wav


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b", "a b b b", 2),
        ("", "a", 1),
        ("a", "", 1),
    ],
)
def test_word_errors_are_substitutions_insertions_and_deletions(reference: str, hypothesis: str, expected: int) -> None:
    assert bench_speech.errors(reference.split(), hypothesis.split()) == expected


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert bench_speech.plain("Don't, STOP -- now!") == ["dont", "stop", "now"]


def test_a_lag_counts_from_the_end_of_a_word() -> None:
    heard = bench_speech.listen(coded_recogniser(), say("one", "two", "three", pause_s=2))
    assert heard.text == "one two three"
    assert len(heard.lags_s) == 3
    assert all(0.3 < lag_s < 3 for lag_s in heard.lags_s)


def test_the_command_measures_clips_silence_noise_and_music(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "first.wav", say("one", "two", "three", "four"))
    write_wav(tmp_path / "second.wav", say("five", "six"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["clip", "text", "split"], ["first", "one two three four", "dev"], ["second.wav", "five nine", "dev"]]
        )
        rows.writerow(["missing", "not asked for", "train"])
    (tmp_path / "foreign").mkdir()
    write_wav(tmp_path / "foreign" / "a.wav", say("seven"))
    monkeypatch.setattr(bench_speech, "open_recogniser", lambda spec, live: coded_recogniser())
    monkeypatch.setattr(bench_speech, "music", lambda seconds: np.zeros(int(seconds * SPEECH_HZ), np.float32))
    monkeypatch.setattr(bench_speech, "noise", lambda level, seconds: np.zeros(int(seconds * SPEECH_HZ), np.float32))
    given = [
        "--labels",
        "labels.csv",
        "--split",
        "dev",
        "--foreign",
        "foreign",
        "--minutes",
        "0.05",
        "--json",
        "out.json",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench_speech.py", *given])
    assert bench_speech.main() == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["clips"]["clips"] == 2 and figures["clips"]["words"] == 6
    assert figures["clips"]["word_error_rate"] == round(1 / 6, 4)
    assert figures["no words"]["silence"]["words"] == 0
    assert figures["no words"]["speech in foreign"]["examples"] == ["seven"]
    assert [row[0] for row in bench_speech.table(figures)][:3] == ["sound", "2 clips", "silence"]
    assert "silence" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--minutes", "0"], "must be above 0"),
        (["--labels", "gone.csv"], "gone.csv"),
        (["--minutes", "0.01", "--foreign", "."], "no sound or video in it"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_speech, "open_recogniser", lambda spec, live: coded_recogniser())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench_speech.py", *given])
    assert bench_speech.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("bench_speech: error: ") and message in error and error.count("\n") == 1


def test_noise_and_music_are_as_loud_as_said_and_stay_within_bounds() -> None:
    assert bench_speech.noise(0.05, 2).std() == pytest.approx(0.05, rel=0.05)
    sound = bench_speech.music(4)
    assert len(sound) == 4 * SPEECH_HZ and np.abs(sound).max() <= 1 and sound.std() > 0.05
