"""A profile: private, of one bundle, replaced as a whole; and what the product does with it and with a calibration."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import clcr_stream
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream import Baseline, ConfigError, Engines, OutputError, Prediction
from clcr_stream.clock import NS_PER_S
from clcr_stream.inference.baselines import Baselines
from clcr_stream.streams.profile import Profile, check_profile
from driving import socket_folder
from tiny_bundle import write_bundle
from tiny_checkpoint import write_tiny_checkpoint
from traced import exports_trace_once

OURS, THEIRS = "a" * 64, "b" * 64
REMEMBERED = 300  # hops of a minute


def some_baselines(seed: int = 0) -> dict[str, Baseline]:
    rng = np.random.default_rng(seed)
    names = ("vision", "acoustic")
    return {m: Baseline(rng.normal(0, 3, (3, 32)).astype(np.float32), np.full(3, 41, np.float32)) for m in names}


def assert_equal(one: Baselines, other: Baselines) -> None:
    assert one.keys() == other.keys()
    for modality in one:
        np.testing.assert_array_equal(one[modality].mean, other[modality].mean)
        np.testing.assert_array_equal(one[modality].steps, other[modality].steps)


# The file


def test_a_profile_holds_the_numbers_exactly_and_for_its_owner_alone(tmp_path: Path) -> None:
    path, mask = tmp_path / "me.profile", os.umask(0)
    try:
        Profile(path, OURS).keep(some_baselines())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert_equal(Profile(path, OURS).read(), some_baselines())
    assert list(tmp_path.iterdir()) == [path]
    numbers = json.loads(path.read_text())
    assert set(numbers) == {"format", "bundle", "vision", "acoustic"}


def test_nothing_is_read_where_there_is_no_profile_and_nothing_written_of_nobody(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "me", OURS)
    check_profile(tmp_path / "me")
    assert profile.read() == {}
    profile.keep({})
    profile.close({})
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_is_closed_is_not_written_again(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "me", OURS)
    profile.close(some_baselines(1))
    profile.keep(some_baselines(2))
    assert_equal(profile.read(), some_baselines(1))


def loose(path: Path) -> None:
    path.chmod(0o640)


def link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def text(path: Path) -> None:
    path.write_text("a diary")


def another_format(path: Path) -> None:
    path.write_text(path.read_text().replace('"format":1', '"format":2'))


def another_key(path: Path) -> None:
    path.write_text(path.read_text().replace('"vision"', '"faces"'))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (loose, "chmod 600"),
        (link, "is a link"),
        (folder, "not a regular file"),
        (pipe, "not a regular file"),
        (text, "is not a profile"),
        (another_format, "format 2"),
        (another_key, "is not a profile"),
    ],
)
def test_what_is_no_private_profile_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "me"
    Profile(path, OURS).keep(some_baselines())
    spoil(path)
    for read in (lambda: check_profile(path), lambda: Profile(path, OURS).read()):
        with pytest.raises(ConfigError, match=reason) as caught:
            read()
        assert str(caught.value).startswith(f"--profile {path}: ") and "\n" not in str(caught.value)


def test_a_profile_of_another_bundle_is_refused(tmp_path: Path) -> None:
    Profile(tmp_path / "me", THEIRS).keep(some_baselines())
    with pytest.raises(ConfigError, match="belongs to bundle bbbbbbbbbbbb, this one is aaaaaaaaaaaa"):
        Profile(tmp_path / "me", OURS).read()


def test_a_profile_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile(tmp_path / "me", OURS)
    profile.keep(some_baselines(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left"):
        profile.keep(some_baselines(2))
    assert_equal(profile.read(), some_baselines(1))
    assert list(tmp_path.iterdir()) == [tmp_path / "me"]


def test_a_profile_in_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        check_profile(tmp_path / "nowhere" / "me")


# The product


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow model with baselines, exported."""
    place = tmp_path_factory.mktemp("profile")
    write_tiny_checkpoint(place / "checkpoint", baseline=True)
    with exports_trace_once(tmp_path_factory):
        export_bundle(place / "checkpoint", place / "bundle", ExportOptions("tiny", proof_hops=10), lambda text: None)
    return place / "bundle"


@pytest.fixture(scope="module")
def engines(bundle: Path) -> Iterator[Engines]:
    with Engines.load(bundle, backend="onnxruntime", streams=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without baselines."""
    place = tmp_path_factory.mktemp("plain") / "bundle"
    write_bundle(place)
    return place


def play(engines: Engines, hops: int = 15, **options: Any) -> tuple[list[Prediction], Baselines]:
    """Faces and sound of so many hops; what was predicted, and what was left of the person."""
    rng = np.random.default_rng(1)
    with engines.stream(pace="max", modalities=("vision", "acoustic"), **options) as stream:
        for slot in range(3 * hops):
            face = rng.integers(0, 255, (engines.face_px, engines.face_px, 3)).astype(np.uint8)
            stream.push_face(slot * NS_PER_S // 15, face)
        stream.push_audio(0, rng.normal(0, 0.1, hops * engines.sample_rate_hz // 5).astype(np.float32))
        stream.end(round_up=True)
        predictions = list(stream)
        return predictions, stream.baselines


def probs(predictions: list[Prediction]) -> np.ndarray[Any, Any]:
    return np.array([list((prediction.probs or {}).values()) for prediction in predictions], np.float64)


def test_a_stream_that_begins_anew_knows_nobody(engines: Engines) -> None:
    (one, left), (other, again) = play(engines), play(engines)
    np.testing.assert_array_equal(probs(one), probs(other))
    assert_equal(left, again)
    assert left["vision"].steps.tolist() == [45, 45, 45] and left["acoustic"].steps.tolist() == [75, 75, 75]


def test_what_a_stream_left_of_a_person_is_what_the_next_one_begins_with(engines: Engines) -> None:
    cold, left = play(engines)
    warm, again = play(engines, baselines=left)
    assert np.abs(probs(cold)[0] - probs(warm)[0]).max() > 1e-5
    assert again["vision"].steps.tolist() == [90, 90, 90]


def test_a_pushed_face_that_was_away_for_more_than_five_seconds_begins_anew(engines: Engines) -> None:
    face = np.full((engines.face_px, engines.face_px, 3), 90, np.uint8)
    left = []
    for away_s in (4, 6):
        with engines.stream(pace="max", modalities=("vision",)) as stream:
            for slot in (*range(9), *range(9 + 15 * away_s, 15 + 15 * away_s)):
                stream.push_face(slot * NS_PER_S // 15, face)
            stream.end(round_up=True)
            assert len(list(stream)) == 5 * (away_s + 1)
            left.append(stream.baselines["vision"].steps.tolist())
    assert left == [[15] * 3, [6] * 3]


def test_a_profile_is_written_at_the_end_and_read_at_the_start(engines: Engines, tmp_path: Path) -> None:
    path = tmp_path / "me"
    _, left = play(engines)
    cold, _ = play(engines, profile=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    warm, _ = play(engines, profile=path)
    given, again = play(engines, baselines=left)
    np.testing.assert_array_equal(probs(warm), probs(given))
    assert np.abs(probs(cold) - probs(warm)).max() > 1e-5
    numbers = json.loads(path.read_text())
    assert [level["steps"] for level in numbers["vision"]] == [90, 90, 90]
    np.testing.assert_array_equal(np.array(numbers["vision"][2]["mean"], np.float32), again["vision"].mean[2])


def test_a_profile_of_another_shape_is_refused_before_anything_is_opened(engines: Engines, tmp_path: Path) -> None:
    path = tmp_path / "me"
    play(engines, profile=path)
    numbers = json.loads(path.read_text())
    numbers["vision"] = [{"steps": 1.0, "mean": [0.0] * 5}] * 3
    path.write_bytes(msgspec.json.encode(numbers))
    with pytest.raises(ConfigError, match=r"baseline of vision is \(3, 5\)"):
        play(engines, profile=path)


def test_a_calibration_is_marked_in_the_predictions_and_written(engines: Engines, tmp_path: Path) -> None:
    path = tmp_path / "me"
    predictions, left = play(engines, calibrate_s=2.0, profile=path)
    marked = ["calibrating" in prediction.degraded for prediction in predictions]
    assert marked == [True] * 10 + [False] * 5
    assert left["vision"].steps.tolist() == [3 * REMEMBERED] * 3
    plain_run, _ = play(engines)
    np.testing.assert_array_equal(probs(predictions)[:10], probs(plain_run)[:10])
    assert np.abs(probs(predictions)[10:] - probs(plain_run)[10:]).max() > 1e-6
    assert [level["steps"] for level in json.loads(path.read_text())["acoustic"]] == [5 * REMEMBERED] * 3


def test_a_profile_outlives_a_calibration_that_was_cut_off(engines: Engines, tmp_path: Path) -> None:
    path = tmp_path / "me"
    play(engines, profile=path)
    before = path.read_bytes()
    play(engines, hops=5, calibrate_s=2.0, profile=path)
    assert path.read_bytes() == before


def test_no_file_is_written_unasked(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    play(engines, calibrate_s=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"calibrate_s": 5.0}, {"profile": "me"}], ids=["calibrate", "profile"])
def test_a_bundle_without_baselines_refuses_in_one_line(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="this bundle keeps no baseline of a person"):
        clcr_stream.open(input="test://?seconds=1", pace="max", bundle=plain, **option)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_baselines_leaves_none(plain: Path) -> None:
    with Engines.load(plain, backend="onnxruntime") as loaded:
        assert play(loaded)[1] == {}
        with pytest.raises(ConfigError, match="the bundle keeps baselines of none"):
            play(loaded, baselines=some_baselines())


# The command


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    with socket_folder() as place:
        return subprocess.run(
            [sys.executable, "-m", "clcr_stream", *map(str, arguments)],
            env=os.environ | {"XDG_RUNTIME_DIR": place},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.mark.slow
def test_the_command_calibrates_once_and_knows_the_person_next_time(bundle: Path, tmp_path: Path) -> None:
    path, lines = tmp_path / "me", tmp_path / "out.jsonl"
    run = ("--bundle", bundle, "--backend", "onnxruntime", "--input", "test://?seconds=2&fps=15", "--pace", "max")
    first = command(*run, "--calibrate", "1", "--profile", path, "--output", lines)
    assert first.returncode == 0, first.stderr
    said = [line for line in first.stderr.splitlines() if line.startswith("stream default: ")]
    assert said[0] == "stream default: calibrating: look and speak neutrally for 1 s"
    assert said[1].startswith("stream default: calibrated: face from ")
    assert len(said) == 2
    sent = [json.loads(line) for line in lines.read_text().splitlines()]
    marked = ["calibrating" in one["degraded"] for one in sent if one["type"] == "prediction"]
    assert marked == [True] * 5 + [False] * 5
    kept = path.read_bytes()
    second = command(*run, "--profile", path, "--quiet")
    assert (second.returncode, second.stderr) == (0, "")
    assert path.read_bytes() != kept and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    refused = command(*run, "--profile", path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and "chmod 600" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e10"])
def test_a_calibration_without_end_or_beginning_is_refused(value: str) -> None:
    refused = command("--input", "test://", "--calibrate", value)
    assert refused.returncode == 2 and "person.calibrate_s" in refused.stderr, refused.stderr
