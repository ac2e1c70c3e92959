"""FaceFinder against arithmetic done by hand: a detector that answers by script, and what is made of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError
from clcr_stream.frontends.faces import FaceCrop, FaceFinder

Hit = tuple[int, int, int, int, int]  # x, y, width, height in the image that is searched, votes
SIZE_PX = 32
FRAME = np.random.default_rng(5).integers(0, 256, (120, 160, 3), np.uint8)
SMOOTH = np.asarray(cv2.resize(FRAME[:8, :10], (160, 120), interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass
class Script:
    """A detector whose n-th answer is given; keeps what it was asked."""

    answers: list[list[Hit]]
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)

    def detectMultiScale2(self, grey: NDArray[np.uint8], /, **limits: Any) -> tuple[Any, Any]:
        self.shapes.append(grey.shape)
        self.limits.append(limits)
        hits = self.answers.pop(0) if self.answers else []
        return [hit[:4] for hit in hits], [hit[4] for hit in hits]


def face(x: int, y: int, side: int, votes: int = 9) -> Hit:
    return (x, y, side, side, votes)


def follow(*answers: list[Hit], frame: NDArray[np.uint8] = FRAME) -> tuple[list[FaceCrop | None], Script]:
    """One call per answer, each of which searches."""
    script = Script([list(answer) for answer in answers])
    finder = FaceFinder(SIZE_PX, 1, script)
    return [finder.crop(frame) for _ in answers], script


def last(*answers: list[Hit]) -> FaceCrop:
    crop = follow(*answers)[0][-1]
    assert crop is not None
    return crop


@settings(max_examples=150, deadline=None)
@given(x=st.integers(-40, 150), y=st.integers(-40, 110), side=st.integers(10, 90))
def test_a_crop_is_the_box_with_its_border_repeated_beyond_the_frame(x: int, y: int, side: int) -> None:
    height, width = FRAME.shape[:2]
    if x + side <= 0 or y + side <= 0 or x >= width or y >= height:
        return
    crop = last([face(x, y, side)])
    around = 100
    padded = np.pad(FRAME, ((around, around), (around, around), (0, 0)), mode="edge")
    region = padded[around + y : around + y + side, around + x : around + x + side]
    method = cv2.INTER_AREA if side > SIZE_PX else cv2.INTER_LINEAR
    assert crop.box == (x, y, side, side)
    np.testing.assert_array_equal(crop.rgb, cv2.resize(region, (SIZE_PX, SIZE_PX), interpolation=method))


def test_a_box_that_lies_wholly_outside_a_smaller_frame_gives_the_whole_frame() -> None:
    script = Script([[face(100, 60, 30)]])
    finder = FaceFinder(SIZE_PX, 2, script)
    assert finder.crop(FRAME) is not None
    smaller = FRAME[:40, :50]
    crop = finder.crop(smaller)
    assert crop is not None
    np.testing.assert_array_equal(crop.rgb, cv2.resize(smaller, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize(
    ("side", "votes", "quality"),
    [(16, 9, 0.5 * 9 / 12), (32, 9, 9 / 12), (64, 9, 9 / 12), (32, 3, 0.5), (32, 1, 0.25), (8, 27, 0.25 * 0.9)],
)
def test_quality_grows_with_resolution_up_to_the_model_s_and_with_votes(side: int, votes: int, quality: float) -> None:
    assert last([face(20, 20, side, votes)]).quality == pytest.approx(quality)


def test_quality_falls_by_a_seventh_with_every_missed_call_and_is_whole_again_when_found() -> None:
    crops, _ = follow([face(20, 20, 32)], *[[] for _ in range(12)])
    kept = [crop.quality for crop in crops if crop is not None]
    assert kept == pytest.approx([0.75 * (7 - missed) / 7 for missed in range(7)])


def test_a_face_that_is_found_again_has_its_whole_quality() -> None:
    # A missed call searches the frame, the box, and the box in two turns.
    script = Script([[face(20, 20, 32)], [], [], [], [], [face(20, 20, 32)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    crops = [finder.crop(FRAME) for _ in range(3)]
    assert [crop.quality for crop in crops if crop is not None] == pytest.approx([0.75, 0.75 * 6 / 7, 0.75])


@pytest.mark.parametrize(
    ("x", "y", "side", "same"),
    [
        (69, 40, 50, True),  # centre 29 px to the right; 0.6 x 50 = 30 are allowed
        (70, 40, 50, False),
        (11, 40, 50, True),
        (10, 40, 50, False),
        (40, 69, 50, True),
        (40, 70, 50, False),
        (40, 11, 50, True),
        (40, 10, 50, False),
        (23, 23, 84, True),  # 1.68 times as large around the same centre; 1.7 are allowed
        (22, 22, 86, False),
        (50, 50, 30, True),  # 1 / 1.67
        (51, 51, 28, False),
    ],
)
def test_a_box_is_the_same_face_by_distance_and_size(x: int, y: int, side: int, same: bool) -> None:
    crop = last([face(40, 40, 50)], [face(x, y, side)])
    moved = crop.box != (40, 40, 50, 50) or crop.quality == pytest.approx(0.75)
    assert moved == same
    assert crop.faces == 1


def test_a_new_box_counts_six_tenths_in_place_and_size() -> None:
    crop = last([face(40, 30, 40)], [face(50, 40, 50)])
    assert crop.box == (46, 36, 46, 46)
    # 46 + 0.6 x 4 = 48.4 in place and size: the centre 72.6 stays where it is when the side is rounded to 48
    assert last([face(40, 30, 40)], [face(50, 40, 50)], [face(50, 40, 50)]).box == (49, 39, 48, 48)


@pytest.mark.parametrize(
    ("hits", "chosen"),
    [
        ([face(10, 10, 30), face(60, 50, 31)], (60, 50)),
        ([face(60, 50, 31), face(10, 10, 30)], (60, 50)),
        ([face(10, 10, 30, 5), face(60, 50, 30, 6)], (60, 50)),
        ([face(60, 50, 30, 6), face(10, 10, 30, 5)], (60, 50)),
        ([face(10, 10, 30), face(60, 50, 30)], (60, 50)),
    ],
)
def test_the_largest_face_is_taken_then_the_one_with_more_votes(hits: list[Hit], chosen: tuple[int, int]) -> None:
    crop = last(hits)
    assert crop.box[:2] == chosen
    assert crop.faces == 2


def test_of_two_faces_alike_the_choice_does_not_depend_on_their_order() -> None:
    hits = [face(60, 50, 30), face(10, 80, 30), face(60, 20, 30)]
    assert {last(order).box for order in (hits, hits[::-1], [hits[1], hits[0], hits[2]])} == {(60, 50, 30, 30)}
    assert last([face(10, 10, 30, 6), face(60, 50, 30, 5)]).box[:2] == (10, 10)


def test_of_several_faces_the_followed_one_stays_and_all_are_counted() -> None:
    crop = last([face(20, 20, 40)], [face(90, 30, 60), face(22, 20, 40), face(100, 0, 20)])
    assert crop.box == (21, 20, 40, 40)
    assert crop.faces == 3


def test_a_large_frame_is_searched_at_200_px_and_its_boxes_are_scaled_back() -> None:
    frame = np.zeros((300, 400, 3), np.uint8)
    (crop,), script = follow([face(20, 30, 40)], frame=frame)
    assert script.shapes == [(150, 200)]
    assert script.limits == [{"scaleFactor": 1.2, "minNeighbors": 3, "minSize": (24, 24)}]
    assert crop is not None
    assert crop.box == (40, 60, 80, 80)


def test_a_small_frame_is_searched_as_it_is() -> None:
    _, script = follow([])
    assert script.shapes == [(120, 160)]


def test_a_missed_face_is_looked_for_around_its_box_at_48_px() -> None:
    near = face(34, 26, 48)  # in the region around the box, scaled by 48 / 60
    crops, script = follow([face(60, 40, 60)], [], [near])
    assert script.shapes[1:3] == [(120, 160), (88, 96)]  # y 10..120 of 130 and x 30..150, times 0.8
    assert script.limits[2] == {"scaleFactor": 1.08, "minNeighbors": 2, "minSize": (28, 28), "maxSize": (76, 76)}
    crop = crops[1]
    assert crop is not None
    assert crop.quality == pytest.approx(0.75)
    assert crop.faces == 1
    # 30 + 34 / 0.8 = 72.5 and 10 + 26 / 0.8 = 42.5, six tenths of the way from 60 and 40; the side stays 60
    assert crop.box == (round(60 + 0.6 * 12.5), round(40 + 0.6 * 2.5), 60, 60)


def test_a_face_near_the_box_that_is_another_one_is_not_taken() -> None:
    crops, _ = follow([face(60, 40, 60)], [], [face(0, 0, 30)])
    assert crops[1] is not None
    assert crops[1].quality == pytest.approx(0.75 * 6 / 7)
    assert crops[1].box == (60, 40, 60, 60)


def turned_frame(turn_deg: float, x: float, y: float) -> NDArray[np.uint8]:
    """FRAME's picture turned clockwise around a place: what a turn counter-clockwise sets upright."""
    matrix = cv2.getRotationMatrix2D((x, y), -turn_deg, 1.0)
    return np.asarray(cv2.warpAffine(SMOOTH, matrix, (160, 120), borderMode=cv2.BORDER_REPLICATE), np.uint8)


@pytest.mark.parametrize(("turn_deg", "searches"), [(25.0, 3), (-25.0, 4)])
def test_a_tilted_face_is_looked_for_in_turns_and_cut_out_upright(turn_deg: float, searches: int) -> None:
    misses: list[list[Hit]] = [[] for _ in range(searches - 1)]
    script = Script([[face(60, 40, 40)], *misses, [face(20, 20, 40)]])  # as large as the box, in its middle, turned
    finder = FaceFinder(SIZE_PX, 1, script)
    before = finder.crop(SMOOTH)
    crop = finder.crop(turned_frame(turn_deg, 80, 60))
    assert len(script.shapes) == 1 + searches and crop is not None and before is not None
    assert crop.box == (60, 40, 40, 40)
    assert np.abs(crop.rgb.astype(int) - before.rgb).mean() < 4, "as it was before it was turned"
    assert np.abs(crop.rgb[::-1].astype(int) - before.rgb).mean() > 20


def test_a_face_that_stays_tilted_is_looked_for_there_first_and_then_a_step_less_and_a_step_more() -> None:
    at = face(20, 20, 40)
    script = Script([[face(60, 40, 40)], [], [], [at], [at], [], [at], [face(60, 40, 40)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    counts = []
    for _ in range(5):
        finder.crop(SMOOTH)
        counts.append(len(script.shapes))
    # upright; missed twice and found turned; found there at once; missed there, found a step less: upright again
    assert counts == [1, 4, 5, 7, 8] and finder.state == "found"
    assert script.shapes[-1] == (120, 160), "the whole frame again, with all faces counted"


def test_where_a_turned_face_lies_in_the_frame_is_known() -> None:
    off = face(30, 20, 40)  # 10 px to the right of the middle of the turned region, which is 80 px wide
    script = Script([[face(60, 40, 40)], [], [], [off]])
    finder = FaceFinder(SIZE_PX, 1, script)
    finder.crop(SMOOTH)
    crop = finder.crop(SMOOTH)
    assert crop is not None
    moved = 10 * np.array([np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))]) * 0.6  # smoothing
    assert crop.box[:2] == (round(60 + moved[0]), round(40 + moved[1]))


def test_without_a_face_every_third_search_is_followed_by_one_of_the_turned_frame_left_and_right_by_turns() -> None:
    script = Script([])
    finder = FaceFinder(SIZE_PX, 1, script)
    counts = []
    for _ in range(9):
        assert finder.crop(SMOOTH) is None
        counts.append(len(script.shapes))
    assert counts == [1, 2, 4, 5, 6, 8, 9, 10, 12] and set(script.shapes) == {(120, 160)}


@pytest.mark.parametrize(("searches", "turn_deg"), [(2, 25.0), (5, -25.0)])
def test_a_face_that_comes_tilted_is_taken_where_it_stands_and_cut_out_upright(searches: int, turn_deg: float) -> None:
    misses: list[list[Hit]] = [[] for _ in range(searches + searches // 3)]
    # in the turned frame 20 px to the right of its middle, then as large as the box in the middle of its own region
    script = Script([*misses, [], [face(80, 40, 40)], [face(24, 24, 48, 10)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    frame = turned_frame(turn_deg, 80, 60)
    for _ in range(searches):
        assert finder.crop(frame) is None
    crop = finder.crop(frame)
    assert crop is not None and finder.state == "found" and crop.faces == 1
    across, down = 20 * np.cos(np.deg2rad(turn_deg)), 20 * np.sin(np.deg2rad(turn_deg))
    assert crop.box == (round(60 + across), round(40 + down), 40, 40)
    upright = np.asarray(cv2.resize(SMOOTH[40:80, 80:120], (SIZE_PX, SIZE_PX)), np.uint8)
    assert np.abs(crop.rgb.astype(int) - upright).mean() < 4


def test_a_large_frame_is_searched_at_300_px_too_and_a_small_face_taken_that_is_seen_there_and_in_its_place() -> None:
    script = Script([[], [], [face(60, 75, 30)], [face(24, 24, 48, 10)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    frame = np.zeros((480, 640, 3), np.uint8)
    assert finder.crop(frame) is None
    crop = finder.crop(frame)
    assert crop is not None and crop.box == (128, 160, 64, 64) and finder.state == "found"
    assert script.shapes == [(150, 200), (150, 200), (225, 300), (96, 96)]


@pytest.mark.parametrize("second", [[], [face(20, 20, 40, 9)]])
def test_a_pattern_that_is_a_face_in_the_turned_frame_alone_is_not_taken(second: list[Hit]) -> None:
    script = Script([[], [], [], [face(80, 40, 40)], second, [], [face(60, 40, 40)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    states = []
    for _ in range(5):
        finder.crop(SMOOTH)
        states.append(finder.state)
    assert states == ["none"] * 4 + ["found"], "and what is upright is taken at once"


def test_after_a_face_the_rhythm_of_turned_searches_begins_anew() -> None:
    lost: list[list[Hit]] = [[] for _ in range(28)]
    script = Script([[], [], [face(20, 20, 40)], *lost])
    finder = FaceFinder(SIZE_PX, 1, script)
    while finder.state != "lost":
        finder.crop(SMOOTH)
    before = len(script.shapes)
    for _ in range(3):
        finder.crop(SMOOTH)
    assert len(script.shapes) - before == 4


def test_a_region_smaller_than_the_cascade_s_window_is_not_searched() -> None:
    script = Script([[face(100, 60, 12)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    finder.crop(FRAME)
    finder.crop(FRAME[:77, :117])  # around the box 6 + 17 = 23 px are left
    assert script.shapes[2:] == [(24, 24)] * 2  # the turned squares alone, which repeat the border
    script = Script([[face(100, 60, 12)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    finder.crop(FRAME)
    finder.crop(FRAME[:78, :118])
    assert script.shapes[2] == (24, 24)


def test_the_region_around_a_box_ends_at_the_frame() -> None:
    _, script = follow([face(5, 8, 60)], [])
    assert script.shapes[2] == (round((8 + 90) * 0.8), round((5 + 90) * 0.8))
    script = Script([[face(60, 40, 60)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    finder.crop(FRAME)
    finder.crop(FRAME[:38])  # 28 rows around the box are 22 at the scale of the second look
    assert script.shapes[1:] == [(38, 160), (96, 96), (96, 96)]  # the turned squares repeat the border


@pytest.mark.parametrize(("shape", "searched"), [((1, 4000, 3), (1, 200)), ((4000, 1, 3), (200, 1))])
def test_a_frame_of_one_line_is_searched_without_an_error(shape: tuple[int, ...], searched: tuple[int, int]) -> None:
    _, script = follow([], frame=np.zeros(shape, np.uint8))
    assert script.shapes == [searched]


def test_an_opencv_without_cascades_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.data, "haarcascades", f"{tmp_path}/")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="has no face cascades; allowed is 4"):
        FaceFinder()


def test_a_found_face_is_searched_for_at_every_third_call_and_a_missed_one_at_each() -> None:
    script = Script([[face(40, 40, 40)], [face(40, 40, 40)], []])
    finder = FaceFinder(SIZE_PX, 3, script)
    searches = []
    for _ in range(12):
        finder.crop(FRAME)
        searches.append(len(script.shapes))
    # found at calls 0 and 3, missed from call 6 on: the frame, then the region around the box, upright and in two turns
    assert searches == [1, 1, 1, 2, 2, 2, 6, 10, 14, 18, 22, 26]


def test_a_face_is_lost_after_six_missed_calls_and_the_next_one_is_taken_anew() -> None:
    script = Script([[face(20, 20, 40)], *[[] for _ in range(28)], [face(90, 50, 50)]])
    finder = FaceFinder(SIZE_PX, 1, script)
    states = []
    for _ in range(9):
        crop = finder.crop(FRAME)
        states.append(finder.state)
    assert states == ["found", *["held"] * 6, "lost", "found"]
    assert crop is not None
    assert crop.box == (90, 50, 50, 50)


def test_a_reset_forgets_the_face_and_the_rhythm_of_searches() -> None:
    script = Script([[face(20, 20, 40)], [face(90, 50, 50)]])
    finder = FaceFinder(SIZE_PX, 3, script)
    finder.crop(FRAME)
    finder.reset()
    assert finder.state == "none"
    crop = finder.crop(FRAME)
    assert crop is not None
    assert crop.box == (90, 50, 50, 50)


@pytest.mark.parametrize(("size_px", "detect_every", "allowed"), [(8, 1, True), (7, 1, False), (8, 0, False)])
def test_the_smallest_sizes_that_make_sense(size_px: int, detect_every: int, allowed: bool) -> None:
    if allowed:
        assert FaceFinder(size_px, detect_every, Script([])).crop(FRAME) is None
    else:
        with pytest.raises(ConfigError, match="allowed is size_px >= 8, detect_every >= 1"):
            FaceFinder(size_px, detect_every, Script([]))
