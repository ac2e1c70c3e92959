"""Following a face, with a detector that finds bright squares, and with the real one where the data is present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clcr_stream.errors import ConfigError
from clcr_stream.frontends.faces import FaceCrop, FaceFinder
from clcr_stream.sources.synthetic.person import Person, PersonOptions

DATA = Path(__file__).parents[3] / "shared" / "data"


class BrightSquares:
    """Has a cascade's interface and finds bright squares; counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def detectMultiScale2(self, grey: np.ndarray, /, **limits: Any) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        _, _, stats, _ = cv2.connectedComponentsWithStats((grey > 200).astype(np.uint8))
        boxes = np.array([s[:4] for s in stats[1:] if s[2] >= 5], np.int32).reshape(-1, 4)
        return boxes, np.full(len(boxes), 9, np.int32)


def finder(detect_every: int = 3) -> tuple[FaceFinder, BrightSquares]:
    detector = BrightSquares()
    return FaceFinder(112, detect_every, detector), detector


def scene(*squares: tuple[int, int, int]) -> np.ndarray:
    """A dark 320x200 frame with bright squares (x, y, side)."""
    frame = np.full((200, 320, 3), 20, np.uint8)
    for x, y, side in squares:
        frame[y : y + side, x : x + side] = 255
    return frame


def centre(crop: FaceCrop | None) -> tuple[float, float]:
    assert crop is not None
    x, y, width, height = crop.box
    return x + width / 2, y + height / 2


def test_the_largest_face_is_taken_at_model_size() -> None:
    follow, _ = finder()
    crop = follow.crop(scene((20, 20, 40), (200, 60, 90)))
    assert crop is not None
    assert centre(crop) == pytest.approx((245, 105), abs=3)
    assert crop.rgb.shape == (112, 112, 3)
    assert crop.rgb.dtype == np.uint8
    assert crop.rgb[20:90, 20:90].min() > 200
    assert crop.faces == 2
    assert 0 < crop.quality <= 1
    assert follow.state == "found"


def test_without_a_face_there_is_no_crop() -> None:
    follow, _ = finder()
    assert [follow.crop(scene()) for _ in range(10)] == [None] * 10
    assert follow.state == "none"


def test_detection_runs_on_every_third_call_only() -> None:
    follow, detector = finder()
    for _ in range(9):
        assert follow.crop(scene((100, 50, 60))) is not None
    assert detector.calls == 3


def test_a_larger_newcomer_does_not_replace_the_followed_face() -> None:
    follow, _ = finder(1)
    follow.crop(scene((20, 20, 50)))
    for _ in range(10):
        crop = follow.crop(scene((20, 20, 50), (180, 50, 100)))
    assert centre(crop) == pytest.approx((45, 45), abs=3)
    assert crop is not None
    assert crop.faces == 2


def test_a_moving_face_is_followed_and_its_box_smoothed() -> None:
    follow, _ = finder(1)
    follow.crop(scene((50, 50, 60)))
    x = centre(follow.crop(scene((70, 50, 60))))[0]
    assert 82 < x < 98  # between the old centre 80 and the new one 100
    for _ in range(10):
        crop = follow.crop(scene((70, 50, 60)))
    assert centre(crop)[0] == pytest.approx(100, abs=2)


def test_a_missed_face_keeps_its_box_for_six_calls_with_falling_quality_and_is_then_lost() -> None:
    follow, _ = finder(1)
    seen = follow.crop(scene((100, 50, 60)))
    assert seen is not None
    held = [follow.crop(scene()) for _ in range(6)]
    qualities = [crop.quality for crop in held if crop is not None]
    assert len(qualities) == 6
    assert qualities == sorted(qualities, reverse=True)
    assert seen.quality > qualities[0]
    states = [follow.state]
    assert follow.crop(scene()) is None
    assert [*states, follow.state] == ["held", "lost"]


def test_a_face_that_comes_back_within_the_hold_is_found_at_once() -> None:
    follow, _ = finder(3)
    for frame in (scene((100, 50, 60)), scene(), scene(), scene()):
        follow.crop(frame)
    states = [follow.state]
    follow.crop(scene((100, 50, 60)))
    assert [*states, follow.state] == ["held", "found"]


def test_another_face_is_taken_only_after_the_followed_one_is_lost() -> None:
    follow, _ = finder(1)
    follow.crop(scene((20, 20, 50)))
    for _ in range(6):
        assert centre(follow.crop(scene((200, 50, 80)))) == pytest.approx((45, 45), abs=3)
    assert follow.crop(scene((200, 50, 80))) is None
    assert centre(follow.crop(scene((200, 50, 80)))) == pytest.approx((240, 90), abs=3)


def test_a_stream_that_becomes_smaller_than_the_held_box_still_gives_a_crop() -> None:
    follow, _ = finder(3)
    follow.crop(scene((240, 120, 60)))
    crop = follow.crop(np.zeros((60, 80, 3), np.uint8))
    assert crop is not None
    assert crop.rgb.shape == (112, 112, 3)


def test_the_same_frames_give_the_same_crops_after_a_reset() -> None:
    follow, _ = finder()
    rng = np.random.default_rng(3)
    frames = [scene((int(x), 40, 60)) if x < 150 else scene() for x in rng.integers(60, 200, 40)]
    first = [follow.crop(frame) for frame in frames]
    follow.reset()
    again = [follow.crop(frame) for frame in frames]
    assert any(crop is None for crop in first)
    assert any(crop is not None for crop in first)
    for one, other in zip(first, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.box, one.quality, one.faces) == (other.box, other.quality, other.faces)
            np.testing.assert_array_equal(one.rgb, other.rgb)


@pytest.mark.parametrize("shape", [(200, 320), (200, 320, 4), (0, 320, 3)])
def test_a_frame_that_is_not_rgb_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="RGB"):
        FaceFinder().crop(np.zeros(shape, np.uint8))


def test_a_size_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="size_px"):
        FaceFinder(size_px=0)


def test_the_real_cascade_finds_nothing_in_noise() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert FaceFinder().crop(frame) is None


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_real_faces_are_found_where_they_are() -> None:
    """CK+ faces, enlarged and put on a grey frame at a known place."""
    with np.load(DATA / "faces" / "ckplus48.npz") as archive:
        images = archive["images"][::50]
    found = 0
    for image in images:
        frame = np.full((480, 640, 3), 128, np.uint8)
        frame[150:342, 300:492] = cv2.resize(image, (192, 192))[..., None]
        crop = FaceFinder().crop(frame)
        found += crop is not None and np.allclose(centre(crop), (396, 246), atol=40)
    assert found >= 0.8 * len(images)


def test_a_head_that_tilts_slowly_is_followed_and_its_face_stays_upright() -> None:
    person = Person(PersonOptions(), 16_000)
    height, width = person.picture(0.0).shape[:2]
    for sign in (1, -1):
        follow = FaceFinder(112)
        crops = []
        for number in range(60):  # upright for 0.7 s, then to 40 degrees within 2 s
            tilt_deg = sign * 40.0 * min(1.0, max(0.0, (number - 10) / 30))
            matrix = cv2.getRotationMatrix2D((width / 2, height / 2), tilt_deg, 1.0)
            picture = cv2.warpAffine(
                person.picture(number / 15), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE
            )
            crops.append(follow.crop(np.asarray(picture, np.uint8)))
        assert all(crop is not None for crop in crops), "never lost"
        assert follow.state == "found"
        last = crops[-1]
        assert last is not None
        # 40 degrees are 25 and 15 or 50 less 10: what is left of the tilt is within reach of the cascade itself
        assert FaceFinder(112).crop(np.pad(last.rgb, ((40, 40), (40, 40), (0, 0)), mode="edge")) is not None


@pytest.mark.parametrize("tilt_deg", [-30.0, 30.0])
def test_a_head_that_comes_tilted_is_found_within_some_searches_and_cut_out_upright(tilt_deg: float) -> None:
    person = Person(PersonOptions(), 16_000)
    height, width = person.picture(0.0).shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), tilt_deg, 1.0)
    finder = FaceFinder(112)
    for number in range(30):  # 2 s
        picture = cv2.warpAffine(person.picture(number / 15), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        crop = finder.crop(np.asarray(picture, np.uint8))
    assert crop is not None
    assert FaceFinder(112).crop(np.pad(crop.rgb, ((40, 40), (40, 40), (0, 0)), mode="edge")) is not None
