"""The drawn face of test://: plain shapes, but close enough to a face for the face finder to take it for one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = (640, 480)  # width, height
SUBPIXEL_BITS = 4
Colour = tuple[int, int, int]
Point = tuple[float, float]  # from the face's centre, right and down, px

SHIRT, SHADE, HAIR = (70, 84, 120), (186, 138, 112), (58, 40, 30)
SKIN, LIGHT, SOCKET = (214, 170, 142), (230, 190, 164), (168, 120, 98)
WHITE, IRIS, LIP, INSIDE, TEETH = (236, 232, 228), (52, 36, 28), (166, 84, 84), (64, 22, 26), (232, 226, 216)


@dataclass(frozen=True)
class Look:
    """How an emotion shows in the face."""

    brow_raise: float  # -1 lowered .. 1 raised
    brow_slant: float  # -1 inner ends down (anger) .. 1 inner ends up (sadness)
    mouth_curve: float  # -1 corners down .. 1 corners up
    eye_open: float  # 1 = relaxed


class Canvas:
    """Filled shapes with subpixel positions around a centre."""

    def __init__(self, picture: NDArray[np.uint8], centre: NDArray[np.float64]) -> None:
        import cv2

        self._cv2: Any = cv2
        self._picture, self._centre = picture, centre

    def ellipse(self, at: Point, axes: Point, colour: Colour) -> None:
        centre, size = self._fixed(self._centre + at), self._fixed(np.array(axes))
        self._cv2.ellipse(
            self._picture, centre.tolist(), size.tolist(), 0, 0, 360, colour, -1, self._cv2.LINE_AA, SUBPIXEL_BITS
        )

    def shape(self, points: NDArray[np.float64], colour: Colour) -> None:
        self._cv2.fillPoly(
            self._picture, [self._fixed(points + self._centre)], colour, self._cv2.LINE_AA, SUBPIXEL_BITS
        )

    def stroke(self, points: NDArray[np.float64], colour: Colour, width_px: int) -> None:
        fixed = self._fixed(points + self._centre)
        self._cv2.polylines(self._picture, [fixed], False, colour, width_px, self._cv2.LINE_AA, SUBPIXEL_BITS)

    def _fixed(self, values: NDArray[np.float64]) -> NDArray[np.int32]:
        return np.asarray(np.round(values * 2**SUBPIXEL_BITS), np.int32)


def draw_face(look: Look, mouth: float, time_s: float) -> NDArray[np.uint8]:
    """(480, 640, 3) RGB: a frontal face that sways a little, blinks every three seconds; `mouth` 0..1 open."""
    picture = _backdrop().copy()
    sway = (14 * np.sin(2 * np.pi * 0.13 * time_s), 8 * np.sin(2 * np.pi * 0.31 * time_s))
    canvas = Canvas(picture, np.array([SIZE[0] / 2, SIZE[1] / 2 - 10]) + sway)
    canvas.ellipse((0, 262), (190, 110), SHIRT)
    canvas.ellipse((0, 140), (46, 70), SHADE)
    canvas.ellipse((0, -22), (120, 148), HAIR)
    canvas.ellipse((0, 8), (102, 132), SKIN)
    canvas.ellipse((0, -62), (72, 34), LIGHT)
    closed = 0.12 if time_s % 3.0 < 0.12 else 1.0
    for side in (-1, 1):
        _draw_eye(canvas, side, look, closed)
        canvas.ellipse((side * 56, 46), (26, 20), LIGHT)
    canvas.shape(np.array([[-9.0, -20], [9, -20], [17, 40], [-17, 40]]), LIGHT)
    canvas.ellipse((0, 42), (20, 9), SHADE)
    _draw_mouth(canvas, look.mouth_curve, mouth)
    return _soften(picture)


def _draw_eye(canvas: Canvas, side: int, look: Look, closed: float) -> None:
    x, y = side * 43.0, -22.0
    canvas.ellipse((x, y), (30, 20), SOCKET)
    height = 9.0 * look.eye_open * closed
    canvas.ellipse((x, y), (19, height), WHITE)
    canvas.ellipse((x, y), (min(9.0, height + 3), min(9.0, height)), IRIS)
    lid = np.linspace(-1, 1, 9)
    canvas.stroke(np.stack([x + 20 * lid, y - height * (1 - lid**2) - 1], axis=1), HAIR, 3)
    inner, outer = x - side * 26, x + side * 28
    brow_y = y - 24 - 8 * look.brow_raise
    slant = 9 * look.brow_slant
    brow = np.array([[inner, brow_y - slant], [x, brow_y - 5], [outer, brow_y + 2 + slant * 0.5]])
    canvas.stroke(brow, HAIR, 8)


def _draw_mouth(canvas: Canvas, curve: float, opening: float) -> None:
    at = np.linspace(-1, 1, 21)
    x = at * (40 + 6 * max(curve, 0) - 8 * opening)
    corners = -14 * curve * at**2
    y, gap = 80.0 + 6 * curve, 18 * opening * (1 - at**2)
    upper = np.stack([x, y + corners - 5 * (1 - at**2) - 0.4 * gap], axis=1)
    lower = np.stack([x, y + corners + 8 * (1 - at**2) + gap], axis=1)
    canvas.shape(np.concatenate([upper, lower[::-1]]), LIP)
    if opening > 0.08:
        top = np.stack([x * 0.86, y + corners - 0.3 * gap], axis=1)
        bottom = np.stack([x * 0.86, y + corners + 0.8 * gap], axis=1)
        canvas.shape(np.concatenate([top, bottom[::-1]]), INSIDE)
        teeth = np.stack([x * 0.7, y + corners - 0.3 * gap + np.minimum(5, 0.5 * gap)], axis=1)
        canvas.shape(np.concatenate([top * (0.8, 1.0), teeth[::-1]]), TEETH)
    else:
        canvas.stroke(np.stack([x * 0.92, y + corners], axis=1), INSIDE, 3)


def _soften(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A slight blur, as any lens has: hard edges are unlike what the face finder learned from."""
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (5, 5), 1.2), np.uint8)


@lru_cache(maxsize=1)
def _backdrop() -> NDArray[np.uint8]:
    """A wall with a light gradient and a little grain; a plain colour would be too easy a picture."""
    width, height = SIZE
    wall = 120 + 40 * np.linspace(0, 1, height)[:, None, None] + np.linspace(-12, 12, width)[None, :, None]
    grain = np.random.default_rng(21).normal(0, 3, (height, width, 1))
    return np.asarray(np.clip(wall + grain + np.array([0, 6, 14]), 0, 255), np.uint8)
