"""Recordings that a program makes through the library: what is in them, that they play again, what is refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import clcr_stream
from clcr_stream import ConfigError, Engines, Prediction
from clcr_stream.recording.reader import open_recording
from clcr_stream.wire.messages import Recording
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "bundle"
    write_bundle(folder)
    return folder


def answers(predictions: Sequence[Prediction]) -> list[tuple[object, ...]]:
    """What two runs of the same media have in common."""
    return [(one.seq, one.probs, one.label, one.degraded) for one in predictions]


def replayed(path: Path, bundle: Path) -> list[tuple[object, ...]]:
    with clcr_stream.open(input=path, pace="max", bundle=bundle, backend="onnxruntime") as stream:
        return answers(list(stream))


def kinds(path: Path) -> set[str]:
    return {entry.kind for entry in open_recording(path).entries()}


def media_of(recording: Recording | None) -> bool:
    """Whether a recording that did not fail holds media."""
    assert recording is not None and recording.failure is None and recording.messages > 0
    return recording.media


def test_what_open_records_with_media_gives_the_same_predictions_again(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "talk.mcap"
    with clcr_stream.open(
        input="test://?seconds=3", pace="max", bundle=bundle, backend="onnxruntime", record=path, record_media=True
    ) as stream:
        first = list(stream)
    assert media_of(stream.recording) and all(one.recording for one in first)
    assert len(first) == 15 and replayed(path, bundle) == answers(first)
    warned = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert warned == [f"RECORDING faces, sound and words of whoever is there to {path}; tell them"]


def test_what_a_program_pushed_is_recorded_as_the_model_got_it_and_plays_again(bundle: Path, tmp_path: Path) -> None:
    path, random = tmp_path / "pushed.mcap", np.random.default_rng(5)
    with (
        Engines.load(bundle, backend="onnxruntime") as engines,
        engines.stream("robot", pace="max", record=str(path), record_media=True, record_rotate="1GiB") as robot,
    ):
        for slot in range(30):
            face = random.integers(0, 255, (engines.face_px, engines.face_px, 3), np.uint8)
            robot.push_face(slot * 1_000_000_000 // 15, face)
        robot.push_audio(0, (random.standard_normal(2 * engines.sample_rate_hz) / 10).astype(np.float32))
        robot.push_text("hello there", 200_000_000, 900_000_000)
        robot.end()
        first = list(robot)
    assert media_of(robot.recording)
    assert len(first) == 10 and replayed(path, bundle) == answers(first)


def test_without_media_no_face_and_no_sound_is_in_a_recording_and_nothing_is_said(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "{time}.mcap"
    with clcr_stream.open(input="test://?seconds=1", pace="max", bundle=bundle, backend="null", record=path) as stream:
        count = len(list(stream))
    (made,) = tmp_path.glob("*.mcap")
    assert not media_of(stream.recording) and not open_recording(made).has_media
    assert count == 5 and kinds(made) <= {"session", "prediction", "transcript", "status"}
    assert not caplog.records


def test_a_stream_that_records_nothing_says_so(bundle: Path) -> None:
    with clcr_stream.open(input="test://?seconds=1", pace="max", bundle=bundle, backend="null") as stream:
        assert stream.recording is None and not any(one.recording for one in stream)


def test_a_recording_that_cannot_be_made_is_refused_before_anything_runs(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.mcap").touch()

    def opened(**given: object) -> Callable[[], object]:
        return lambda: clcr_stream.open(microphone="test://", bundle=bundle, backend="null", **given)  # type: ignore[arg-type]

    with Engines.load(bundle, backend="null") as engines:
        wrong: list[tuple[Callable[[], object], str]] = [
            (opened(record=tmp_path / "old.mcap"), "exists already"),
            (opened(record=tmp_path / "talk.mp4"), "ends in .mcap"),
            (opened(record=tmp_path / "no" / "talk.mcap"), "there is no folder"),
            (opened(record_media=True), "needs a recording; give --record"),
            (opened(record=tmp_path / "a.mcap", record_rotate="often"), "give a size or time"),
            (lambda: engines.stream("a", record=bundle / "a.mcap"), "lies in the bundle"),
            (lambda: engines.stream("a", record_rotate="1GiB"), "needs a recording; give --record"),
        ]
        for act, text in wrong:
            with pytest.raises(ConfigError, match=text) as raised:
                act()
            assert "\n" not in str(raised.value)
        monkeypatch.setitem(sys.modules, "mcap.writer", None)
        with pytest.raises(ConfigError, match="mcap is not installed; run pip install"):
            engines.stream("a", record=tmp_path / "a.mcap")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.mcap"]
