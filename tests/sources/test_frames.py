"""From pictures to the vision ring: what the ring is told of a face."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.base import Sinks
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.framing import Framing
from clcr_stream.sources.synthetic.person import Person, PersonOptions
from clcr_stream.window.ring import NOBODY
from media import ORIGIN_NS, Face, make_sinks


@dataclass
class Script:
    """A finder that finds what it is told to, one frame after the other."""

    boxes: list[tuple[int, int, int, int] | None]
    resets: int = 0
    quality: float = 0.9
    crop_rgb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((112, 112, 3), np.uint8))

    def crop(self, rgb: NDArray[np.uint8], /) -> Face | None:
        box = self.boxes.pop(0)
        return None if box is None else Face(self.crop_rgb, self.quality, box=box)

    def reset(self) -> None:
        self.resets += 1


def persons(
    frames: list[tuple[tuple[int, int], tuple[int, int, int, int] | None]], reset_before: int = -1
) -> list[int]:
    """Whose faces the slots hold, after frames of (width, height) with a face at (left, top, width, height)."""
    finder = Script([box for _, box in frames])
    sinks = replace(make_sinks(), finder=finder)
    feeder, grid, ring = FrameFeeder(sinks), sinks.grid, sinks.rings.vision
    for slot, ((width, height), _) in enumerate(frames):
        if slot == reset_before:
            feeder.reset()
        picture = np.zeros((height, width, 3), np.uint8)
        assert feeder.offer(grid.slot_ns(slot), lambda picture=picture: picture)  # type: ignore[misc]
    return [int(person) for person in ring.read(0, len(frames)).person]


def test_a_face_that_jumps_is_another_person_s_and_one_that_moves_is_not() -> None:
    wide = (640, 480)
    boxes = [(10, 10, 100, 100), (60, 40, 100, 100), None, (400, 40, 100, 100), (410, 40, 100, 100)]
    assert persons([(wide, box) for box in boxes]) == [0, 0, NOBODY, 1, 1]


def test_a_camera_that_changes_its_size_does_not_change_the_person() -> None:
    assert persons([((640, 480), (320, 240, 160, 120)), ((1280, 960), (640, 480, 320, 240))]) == [0, 0]
    assert persons([((1280, 960), (640, 480, 320, 240)), ((640, 480), (10, 10, 160, 120))]) == [0, 1]


def test_a_camera_that_comes_back_soon_shows_the_same_person() -> None:
    frames = [((640, 480), (100, 100, 90, 90))] * 3
    assert persons(list(frames), reset_before=2) == [0, 0, 0]


def upright() -> NDArray[np.uint8]:
    return Person(PersonOptions(), 16_000).picture(1.0)


def offered(picture: NDArray[np.uint8], seconds: int, framing: Framing = Framing()) -> tuple[FrameFeeder, Sinks]:  # noqa: B008
    """A feeder with the product's finder, after pictures of so many seconds, one a second."""
    sinks = replace(make_sinks(), finder=None, framing=framing)
    feeder = FrameFeeder(sinks)
    for second in range(seconds + 1):
        feeder.offer(ORIGIN_NS + second * NS_PER_S, lambda: picture)
    return feeder, sinks


def on_its_side() -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(upright()))


@pytest.mark.parametrize("turn", [90, 270])
def test_a_picture_that_stands_on_its_side_gets_a_hint_that_helps(turn: int) -> None:
    picture = np.ascontiguousarray(np.rot90(upright(), turn // 90))
    assert offered(picture, 1)[0].hint == "", "one look is not enough"
    assert offered(picture, 3)[0].hint.endswith(f"give --rotate {turn}")
    feeder, sinks = offered(picture, 3, Framing(rotate=turn))
    assert feeder.hint == "" and sinks.rings.vision.read(0, 100).valid.any()


def shown(finder: Script, pictures: list[NDArray[np.uint8]]) -> FrameFeeder:
    """A feeder whose finder finds what it is told to, after pictures of a second each; turned copies are searched."""
    feeder = FrameFeeder(replace(make_sinks(), finder=finder))
    for second, picture in enumerate(pictures):
        feeder.offer(ORIGIN_NS + second * NS_PER_S, lambda picture=picture: picture)  # type: ignore[misc]
    return feeder


def test_false_faces_that_come_and_go_do_not_keep_the_hint_away() -> None:
    false: list[tuple[int, int, int, int] | None] = [(0, 0, 20, 20), None]
    assert shown(Script(false * 10, quality=0.5), [on_its_side()] * 20).hint.endswith("give --rotate 90")


def test_no_hint_is_given_where_nobody_is_or_where_faces_mostly_are(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert offered(empty, 25)[0].hint == ""
    sat_and_lay: list[tuple[int, int, int, int] | None] = [(0, 0, 20, 20)] * 8 + [None] * 12
    pictures = [upright()] * 8 + [on_its_side()] * 12
    assert shown(Script(sat_and_lay), pictures).hint == "", "who lies down has not turned the camera"
    monkeypatch.setattr("clcr_stream.sources.frames.turned_qualities", None)  # it would raise
    often: list[tuple[int, int, int, int] | None] = [*[(0, 0, 20, 20)] * 3, None]
    shown(Script(often * 10), [upright()] * 40)


def test_a_hint_goes_when_faces_are_found_as_the_picture_stands() -> None:
    late: list[tuple[int, int, int, int] | None] = [None] * 4 + [(0, 0, 20, 20)] * 8
    pictures = [on_its_side()] * 4 + [upright()] * 8
    assert shown(Script(late[:4]), pictures[:4]).hint != ""
    assert shown(Script(late), pictures).hint == ""


def test_looks_at_turned_copies_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look(rgb: NDArray[np.uint8], _: int) -> dict[int, float]:
        looks.append(len(rgb))
        return {}

    monkeypatch.setattr("clcr_stream.sources.frames.turned_qualities", look)
    empty = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    shown(Script([None] * 61), [empty] * 61)
    assert len(looks) < 40
    shown(Script([None] * 601), [empty] * 601)
    assert len(looks) < 130


def test_a_region_leaves_out_a_face_beside_it_and_its_box_counts_from_it() -> None:
    picture = upright()
    _, whole = offered(picture, 1)
    _, right = offered(picture, 1, Framing(region=(0.6, 0.0, 0.4, 1.0)))
    _, middle = offered(picture, 1, Framing(region=(0.2, 0.0, 0.6, 1.0)))
    assert whole.rings.vision.read(0, 1).valid[0] == 1 and right.rings.vision.read(0, 1).valid[0] == 0
    box, cut = whole.rings.vision.read(0, 1).box[0], middle.rings.vision.read(0, 1).box[0]
    assert cut[0] == pytest.approx((box[0] - 0.2) / 0.6, abs=0.05) and cut[3] == pytest.approx(box[3], abs=0.05)


def test_the_ring_is_told_how_each_picture_looks_and_what_is_wrong_with_it() -> None:
    feeder, sinks = offered((upright() * 0.04).astype(np.uint8), 3)
    assert feeder.condition == "dark" == sinks.rings.vision.conditions.at(ORIGIN_NS + 3 * NS_PER_S)
    assert sinks.rings.vision.conditions.at(ORIGIN_NS) == ""
    luma, sharp = sinks.rings.vision.read(0, 1).look[0]
    assert luma < 0.06 and sharp < 10
    luma, sharp = offered(upright(), 0)[1].rings.vision.read(0, 1).look[0]
    assert luma > 0.3 and sharp > 10
