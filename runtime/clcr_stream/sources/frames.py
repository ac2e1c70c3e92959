"""From a source's pictures to face crops in the vision ring."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.base import FaceCropper, Sinks
from clcr_stream.window.persons import Box


class FrameFeeder:
    """Offers frames to the vision ring, searching for a face only in those it wants."""

    def __init__(self, sinks: Sinks) -> None:
        self._ring = sinks.rings.vision
        self._finder = sinks.finder if sinks.finder is not None else make_finder(sinks.rings.vision.size_px)

    def offer(self, captured_ns: int, rgb: Callable[[], NDArray[np.uint8] | None]) -> bool:
        """Search `rgb()`, (height, width, 3), for a face if the frame's slot is free.

        False when it is not, or when `rgb` answers None: the frame turned out unusable and leaves its slot free.
        """
        if not self._ring.wants(captured_ns):
            return False
        frame = rgb()
        if frame is None:
            return False
        face = self._finder.crop(frame)
        if face is None:
            self._ring.put(captured_ns, None, 0.0, 0)
        else:
            self._ring.put(captured_ns, face.rgb, face.quality, face.faces, _share(face.box, frame))
        return True

    def reset(self) -> None:
        """Forget the tracked face: the next frame has nothing to do with the last one."""
        self._finder.reset()


def _share(box: tuple[int, int, int, int], frame: NDArray[np.uint8]) -> Box:
    """A box in pixels as shares of its frame, whose size may change with the camera."""
    height, width = frame.shape[:2]
    left, top, wide, high = box
    return left / width, top / height, wide / width, high / height


def make_finder(size_px: int) -> FaceCropper:
    """The product's face finder; imported here because it loads OpenCV."""
    from clcr_stream.frontends.faces import FaceFinder

    return FaceFinder(size_px=size_px)
