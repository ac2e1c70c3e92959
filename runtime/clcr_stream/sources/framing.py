"""How a picture is turned, mirrored and cut before a face is searched in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError

TURNS = (0, 90, 180, 270)
LEAST_SHARE = 0.05  # of a side: a smaller region holds no face that can be found
Region = tuple[float, float, float, float]  # left, top, width, height as shares of the turned picture


@dataclass(frozen=True)
class Framing:
    """Turned clockwise by `rotate` degrees, then mirrored, then cut.

    flip: "h", left and right change sides, "v", above and below do, or "hv".
    """

    rotate: int = 0
    flip: str = ""
    region: Region | None = None

    def turned_further(self, degrees: int) -> int:
        """What `rotate` must be for the framed picture to be turned by `degrees` more; a mirror turns the other way."""
        return (self.rotate + (-degrees if len(self.flip) == 1 else degrees)) % 360

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture as it is searched, (height, width, 3), in one piece of memory."""
        if self == UPRIGHT:
            return rgb
        if self.rotate:
            rgb = np.rot90(rgb, -self.rotate // 90)
        if "h" in self.flip:
            rgb = rgb[:, ::-1]
        if "v" in self.flip:
            rgb = rgb[::-1]
        if self.region is not None:
            rgb = _cut(rgb, self.region)
        return np.ascontiguousarray(rgb)


UPRIGHT = Framing()


def parse_framing(rotate: int, flip: str, region: str | None) -> Framing:
    """The options as they are typed: 0|90|180|270, h|v|hv, LEFT,TOP,WIDTH,HEIGHT in shares 0..1. ConfigError."""
    if rotate not in TURNS:
        raise ConfigError(f"rotate {rotate}: allowed are 0, 90, 180 and 270, degrees clockwise")
    if flip not in ("", "h", "v", "hv"):
        raise ConfigError(f"flip {flip}: allowed are h (left and right change sides), v (above and below) and hv")
    return Framing(rotate, flip, None if region is None else _parse_region(region))


def _parse_region(text: str) -> Region:
    allowed = "four shares of the picture, 0..1: LEFT,TOP,WIDTH,HEIGHT, as 0.5,0,0.5,1 for its right half"
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"region {text}: allowed are {allowed}") from None
    inside = 0 <= left and 0 <= top and left + width <= 1 + 1e-9 and top + height <= 1 + 1e-9
    if not (inside and width >= LEAST_SHARE and height >= LEAST_SHARE):
        raise ConfigError(f"region {text}: not inside the picture, or smaller than {LEAST_SHARE:g}; give {allowed}")
    return left, top, width, height


def _cut(rgb: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    left, top = int(region[0] * width), int(region[1] * height)
    right = max(left + 1, round((region[0] + region[2]) * width))
    below = max(top + 1, round((region[1] + region[3]) * height))
    return rgb[top:below, left:right]
