"""From a source's pictures to face crops in the vision ring, with what is wrong with the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import FOREVER_NS, NS_PER_S
from clcr_stream.frontends.quality import picture_numbers, sharpness
from clcr_stream.sources.base import FaceCropLike, FaceCropper, Sinks
from clcr_stream.sources.framing import Framing
from clcr_stream.window.conditions import FINE, Condition, PictureWatch
from clcr_stream.window.persons import Box
from clcr_stream.window.ring import Look

TURNED = (90, 270, 180)  # degrees clockwise
LOOK_NS = NS_PER_S  # between two looks at first; 37 looks in a minute, 103 in an hour, at most 25 ms each
RARER = 16  # then a look waits for this share of the time until now
STEADY = 0.75  # the share of pictures with a face from which on none is turned: false faces come and go


class FrameFeeder:
    """Offers frames to the vision ring, searching for a face only in those it wants.

    Of a `live` source a picture that repeats itself is none. `condition` is what is wrong with the newest picture,
    `hint` what a person could do about pictures that lie on their side.
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
        if self.condition == FINE:
            self._turn.see(captured_ns, frame, face)
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
    """Counts in how many looks a picture shows its best face as it stands, and in how many when it is turned.

    While most pictures show a face nothing is turned. Looks become rarer: how a camera stands is seen at first.
    """

    def __init__(self, size_px: int, framing: Framing) -> None:
        self._size_px, self._framing = size_px, framing
        self._first_ns = self._next_ns = FOREVER_NS
        self._pictures = self._faces = 0
        self._looks = dict.fromkeys((0, *TURNED), 0)  # by degrees clockwise
        self.hint = ""

    def see(self, captured_ns: int, frame: NDArray[np.uint8], face: FaceCropLike | None) -> None:
        """A picture in good light was searched."""
        self._pictures += 1
        self._faces += face is not None
        if captured_ns < self._first_ns:
            self._first_ns, self._next_ns = captured_ns, captured_ns + LOOK_NS
        if captured_ns < self._next_ns:
            return
        self._next_ns = captured_ns + max(LOOK_NS, (captured_ns - self._first_ns) // RARER)
        qualities = {} if face is None else {0: face.quality}
        if self._faces < STEADY * self._pictures:
            qualities |= turned_qualities(frame, self._size_px)
        if qualities:
            self._looks[max(qualities, key=qualities.__getitem__)] += 1
            turn = max(TURNED, key=self._looks.__getitem__)
            shown = self._looks[turn] > max(1, 2 * self._looks[0])
            degrees = self._framing.turned_further(turn)
            self.hint = f"faces are found when the picture is turned: give --rotate {degrees}" if shown else ""


def turned_qualities(rgb: NDArray[np.uint8], size_px: int) -> dict[int, float]:
    """How good a face is in a picture turned by 90, 180 and 270 degrees clockwise, where there is one; 25 ms."""
    copies = {turn: np.ascontiguousarray(np.rot90(rgb, -turn // 90)) for turn in TURNED}
    faces = {turn: make_finder(size_px).crop(copy) for turn, copy in copies.items()}
    return {turn: face.quality for turn, face in faces.items() if face is not None}


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
