"""YuNet's path through OpenCV, with a network of its contract that sees bright spots: its own file is not here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from clcr_stream.cli.main import main
from clcr_stream.errors import ConfigError
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.frontends.yunet import YuNet
from clcr_stream.recording.story import read_story
from tiny_bundle import write_bundle
from tiny_yunet import SIDE_PX, write_yunet

pytestmark = pytest.mark.usefixtures("own_endpoints")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yunet(tmp_path_factory.mktemp("yunet") / "tiny.onnx")


def spots(*at: tuple[int, int], size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A dark frame (height, width) with bright cells of 32 pixels whose centres are at (x, y)."""
    frame = np.full((*size, 3), 20, np.uint8)
    for x, y in at:
        frame[y - 16 : y + 16, x - 16 : x + 16] = 255
    return frame


def test_a_face_is_where_the_network_says_in_pixels_of_the_frame(model: Path) -> None:
    ((box, votes, landmarks),) = YuNet(model).faces(spots((112, 80)))
    assert box == pytest.approx((112 - SIDE_PX / 2, 80 - SIDE_PX / 2, SIDE_PX, SIDE_PX), abs=1)
    assert votes == 12
    assert landmarks == pytest.approx(np.array([(96, 64), (128, 64), (112, 80), (96, 96), (128, 96)]), abs=0.1)


def test_a_large_frame_is_searched_small_and_answered_large_and_the_size_may_change(model: Path) -> None:
    yunet = YuNet(model)
    large = np.repeat(np.repeat(spots((112, 80)), 2, 0), 2, 1)
    ((box, _, landmarks),) = yunet.faces(large)
    assert box == pytest.approx((224 - SIDE_PX, 160 - SIDE_PX, 2 * SIDE_PX, 2 * SIDE_PX), abs=2)
    assert landmarks is not None
    assert landmarks[2] == pytest.approx((224, 160), abs=0.1)
    ((box, _, _),) = yunet.faces(spots((112, 80)))
    assert box[2] == pytest.approx(SIDE_PX, abs=1)


def test_the_finder_follows_one_of_two_and_loses_it_as_with_the_cascade(model: Path) -> None:
    finder = FaceFinder(detect_every=1, search=YuNet(model))
    first = finder.crop(spots((80, 80)))
    assert first is not None and first.faces == 1
    second = finder.crop(spots((80, 80), (240, 176)))
    assert second is not None and second.faces == 2
    assert abs(second.box[0] - first.box[0]) <= 1, "it stays with the face that it follows"
    held = [finder.crop(spots((240, 176))) for _ in range(6)]
    assert all(crop is not None and abs(crop.box[0] - first.box[0]) <= 1 for crop in held)
    assert finder.crop(spots((240, 176))) is None and finder.state == "lost"


def test_a_file_that_is_not_yunet_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"no such file; give face_detection_yunet_2023mar\.onnx"):
        YuNet(tmp_path / "none.onnx")
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"no network")
    with pytest.raises(ConfigError, match="not YuNet"):
        YuNet(wrong)
    capsys.readouterr()
    assert main(["--input", "test://", "--face-model", str(tmp_path / "none.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_landmarks_move_with_the_face_while_it_is_seen_and_are_gone_while_it_is_held(model: Path) -> None:
    finder = FaceFinder(detect_every=1, search=YuNet(model))
    for x in (80, 112):
        crop = finder.crop(spots((x, 80)))
        assert crop is not None and crop.landmarks is not None
        assert crop.landmarks[2] == pytest.approx((x, 80), abs=0.1)
    held = finder.crop(spots())
    assert held is not None and held.landmarks is None


def test_landmarks_are_published_recorded_and_played_again(model: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    movie = cv2.VideoWriter(str(tmp_path / "face.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 15, (320, 240))
    for _ in range(30):
        movie.write(spots((112, 80)))
    movie.release()
    fixed = ("--bundle", str(tmp_path / "bundle"), "--pace", "max", "--quiet")
    lines, again, record = (str(tmp_path / name) for name in ("lines.jsonl", "again.jsonl", "face.mcap"))
    live = ("--input", str(tmp_path / "face.avi"), "--face-model", str(model), "--record", record, "--record-media")
    assert main([*fixed, *live, "--output", lines]) == 0
    assert main([*fixed, "--input", record, "--output", again]) == 0
    faces = [one.face for one in read_story(Path(lines)).predictions]
    assert [one.face for one in read_story(Path(again)).predictions] == faces
    assert len(faces) == 10 and all(face is not None and face.landmarks is not None for face in faces)
    found = faces[-1].landmarks  # type: ignore[union-attr]
    assert found["nose"] == pytest.approx((112 / 320, 80 / 240), abs=1e-4)  # type: ignore[index]
    assert found["right_eye"] == pytest.approx((96 / 320, 64 / 240), abs=1e-4)  # type: ignore[index]
