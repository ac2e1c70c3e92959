"""From a source's pictures to face crops in the vision ring, with what is wrong with the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.frontends.quality import picture_numbers, sharpness
from clcr_stream.sources.base import FaceCropLike, FaceCropper, Sinks
from clcr_stream.sources.framing import Framing
from clcr_stream.window.conditions import FINE, Condition, PictureWatch
from clcr_stream.window.persons import Box
from clcr_stream.window.ring import Look

TURN_NS = 10 * NS_PER_S  # without a face: perhaps the picture lies on its side
TURN_TRIES = 6  # one each TURN_NS, 25 ms each: a minute without a face and in good light says enough


class FrameFeeder:
    """Offers frames to the vision ring, searching for a face only in those it wants.

    Of a `live` source a picture that repeats itself is none. `condition` is what is wrong with the newest picture,
    `hint` what a person could do about pictures without a face.
    """

    def __init__(self, sinks: Sinks, live: bool = False) -> None:
        self._ring = sinks.rings.vision
        self._framing = sinks.framing
        self._finder = sinks.finder if sinks.finder is not None else make_finder(sinks.rings.vision.size_px)
        self._watch = PictureWatch(live)
        self._turn = _TurnHint(self._ring.size_px, sinks.framing)
        self.condition: Condition = FINE
        self.frozen_frames = 0

    @property
    def hint(self) -> str:
        """One line, or ""."""
        return self._turn.hint

    def offer(self, captured_ns: int, rgb: Callable[[], NDArray[np.uint8] | None]) -> bool:
        """Search `rgb()`, (height, width, 3), for a face if the frame's slot is free.

        False when it is not, when `rgb` answers None, or when the picture is frozen: the slot stays free.
        """
        if not self._ring.wants(captured_ns):
            return False
        frame = rgb()
        if frame is None:
            return False
        numbers = picture_numbers(frame)
        self.condition = self._watch.see(captured_ns, frame[::4, ::4].tobytes(), numbers)
        self._ring.conditions.put(captured_ns, self.condition)
        if self.condition == "frozen":
            self.frozen_frames += 1
            return False
        frame = self._framing.apply(frame)
        face = self._finder.crop(frame)
        self._turn.see(captured_ns, frame, found=face is not None, fine=self.condition == FINE)
        if face is None:
            self._ring.put(captured_ns, None, 0.0, 0, look=Look(numbers.luma))
        else:
            look = Look(numbers.luma, sharpness(face.rgb))
            box, landmarks = _share(face, frame)
            self._ring.put(captured_ns, face.rgb, face.quality, face.faces, box, look, landmarks)
        return True

    def reset(self) -> None:
        """Forget the tracked face and picture: the next frame has nothing to do with the last one."""
        self._finder.reset()
        self._watch.reset()


class _TurnHint:
    """Looks for a face in turned copies of a picture when there has been none for long."""

    def __init__(self, size_px: int, framing: Framing) -> None:
        self._size_px, self._framing = size_px, framing
        self._since_ns: int | None = None
        self._tries = 0
        self._ever = False
        self.hint = ""

    def see(self, captured_ns: int, frame: NDArray[np.uint8], found: bool, fine: bool) -> None:
        """A picture was searched. Once a face was seen the picture stands as it should."""
        if found or self._ever or self._tries >= TURN_TRIES:
            self._ever = self._ever or found
            self.hint = "" if found else self.hint
            return
        if self._since_ns is None or captured_ns < self._since_ns or not fine:
            self._since_ns = captured_ns
        elif captured_ns - self._since_ns >= TURN_NS:
            self._since_ns = captured_ns
            self._tries += 1
            turn = face_when_turned(frame, self._size_px)
            if turn:
                degrees = self._framing.turned_further(turn)
                self.hint = f"no face is found, but one when the picture is turned: give --rotate {degrees}"


def face_when_turned(rgb: NDArray[np.uint8], size_px: int) -> int:
    """The degrees clockwise, 90, 180 or 270, by which a picture shows a face; 0 when it does so by none. 25 ms."""
    best, degrees = 0.0, 0
    for turn in (90, 270, 180):
        face = make_finder(size_px).crop(np.ascontiguousarray(np.rot90(rgb, -turn // 90)))
        if face is not None and face.quality > best:
            best, degrees = face.quality, turn
    return degrees


def _share(face: FaceCropLike, frame: NDArray[np.uint8]) -> tuple[Box, NDArray[np.float32] | None]:
    """A face's box and landmarks in pixels as shares of its frame, whose size may change with the camera."""
    height, width = frame.shape[:2]
    left, top, wide, high = face.box
    box = left / width, top / height, wide / width, high / height
    return box, None if face.landmarks is None else np.divide(face.landmarks, (width, height), dtype=np.float32)


def make_finder(size_px: int, face_model: Path | None = None) -> FaceCropper:
    """The product's face finder, with YuNet's file another one; imported here because it loads OpenCV. ConfigError."""
    from clcr_stream.frontends.faces import FaceFinder
    from clcr_stream.frontends.yunet import YuNet

    return FaceFinder(size_px=size_px, search=None if face_model is None else YuNet(face_model))
