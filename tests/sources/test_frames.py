"""From pictures to the vision ring: what the ring is told of a face."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.window.ring import NOBODY
from media import Face, make_sinks


@dataclass
class Script:
    """A finder that finds what it is told to, one frame after the other."""

    boxes: list[tuple[int, int, int, int] | None]
    resets: int = 0
    crop_rgb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((112, 112, 3), np.uint8))

    def crop(self, rgb: NDArray[np.uint8], /) -> Face | None:
        box = self.boxes.pop(0)
        return None if box is None else Face(self.crop_rgb, box=box)

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
