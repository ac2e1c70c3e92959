"""Finds one face per stream and cuts it out at model size; the same code in training and live use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError

FaceState = Literal["found", "held", "lost", "none"]
Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the frame
Landmarks = NDArray[np.float32]  # (5, 2), x and y of the person's right and left eye, nose, mouth's right and left end

# 200 px on the longer side, alt2, scale step 1.2: 53 of 64 frames of webcam-like clips in 5.8 ms on one thread;
# frontalface_default at the same cost found 41. Faces down to 12 % of the longer side are found at once.
_SEARCH_PX = 200
_CASCADE_PX = 24  # one more than the cascade's own 20: smaller hits are mostly wrong
_HOLD_CALLS = 6  # 0.4 s at 15 Hz
_SMOOTHING = 0.6  # weight of a new detection in the box
# No margin is added to alt2's box: it frames a face as CK+ and most of FER2013 do.
_NEAR_SIDE_PX = 48  # the side to which a tracked face is scaled for the second, finer look
# The cascade finds faces that are tilted by less than 15 to 20 degrees: steps in which a tracked one is turned back.
_TURN_DEG, _MOST_TURN_DEG = 25.0, 50.0
# Of three searches in vain the second is followed by a finer one, for faces down to 8 % of the longer side, the third
# by one of the turned frame, left and right by turns.
_FINE_PX, _ROUND = 300, 3
_SURE_VOTES = 10  # of a second look: patterns of rooms had 9 at most, faces 12 at least


@dataclass(frozen=True)
class FaceCrop:
    """A face at model size. quality: 0..1, from the face's resolution, the detector's votes and how old the box is."""

    rgb: NDArray[np.uint8]  # (size_px, size_px, 3)
    box: tuple[int, int, int, int]  # x, y, width, height of the crop in the frame; may reach over its border
    quality: float
    faces: int  # faces seen at the last detection
    landmarks: Landmarks | None = None  # in pixels of the frame, as last found; None while it is held


class Hit(NamedTuple):
    """A face in a frame: its box and landmarks in pixels, and how many votes it has."""

    box: Box
    votes: int
    landmarks: Landmarks | None = None


class Detector(Protocol):
    """The part of cv2.CascadeClassifier that is used: boxes (x, y, width, height) and how many votes each has."""

    def detectMultiScale2(self, image: Any, /, **limits: Any) -> tuple[Any, Any]: ...


class FaceSearch(Protocol):
    """Another way to find the faces of an RGB frame than the cascade."""

    def faces(self, rgb: NDArray[np.uint8], /) -> list[Hit]: ...


class FaceFinder:
    """Follows one face through the frames of one stream, in order; deterministic in their sequence, one thread.

    The largest face is taken first and kept while it is found; another replaces it only after it is lost. A missed
    face keeps its box for 0.4 s (6 calls). The cascade finds small faces (8 to 12 % of the frame's longer side) and
    heads that come tilted by up to about 35 degrees within a second, follows one to about 60, and a tilted face is cut
    out upright. `detector` None: OpenCV's frontal Haar cascade, alt2; `search` replaces it.
    """

    def __init__(
        self,
        size_px: int = 112,
        detect_every: int = 3,
        detector: Detector | None = None,
        search: FaceSearch | None = None,
    ) -> None:
        if size_px < 8 or detect_every < 1:
            raise ConfigError(
                f"FaceFinder was given size_px={size_px}, detect_every={detect_every}; "
                "allowed is size_px >= 8, detect_every >= 1"
            )
        self._size_px = size_px
        self._detect_every = detect_every
        self._model = search
        self._cascade = detector if detector is not None or search is not None else _load_cascade()
        self.reset()

    def reset(self) -> None:
        """Forget the tracked face, as at the start of a stream."""
        self._calls = 0
        self._box: Box | None = None
        self._landmarks: Landmarks | None = None
        self._missed_calls = 0
        self._votes = 0
        self._faces = 0
        self._state: FaceState = "none"
        self._turn_deg = 0.0  # counter-clockwise, what sets the tracked face upright
        self._in_vain = 0  # searches of the whole frame since the last face

    @property
    def state(self) -> FaceState:
        """found: seen at the last detection; held: missed, box kept; lost: gone after a hold; none: never seen."""
        return self._state

    def crop(self, rgb: NDArray[np.uint8]) -> FaceCrop | None:
        """The tracked face in an RGB frame (height, width, 3), or None. Costs 6 ms on detecting calls, else 0.2 ms."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise ConfigError(
                f"FaceFinder was given {rgb.dtype} of shape {rgb.shape}; allowed is uint8 (height, width, 3), RGB"
            )
        # A missed face is looked for at every call: it has only the hold to be found again.
        if self._calls % self._detect_every == 0 or self._state == "held":
            self._detect(rgb)
        self._calls += 1
        if self._box is None:
            return None
        return self._cut(rgb, self._box)

    def _detect(self, rgb: NDArray[np.uint8]) -> None:
        tracked = self._box
        candidates, turn_deg = self._candidates(rgb, tracked)
        if candidates:
            self._turn_deg = turn_deg
            found, self._votes, self._landmarks = max(candidates, key=lambda hit: (hit.box[2], hit.votes, hit.box))
            self._box = found if tracked is None else _blend(tracked, found)
            self._faces = max(self._faces, 1)
            self._missed_calls = self._in_vain = 0
            self._state = "found"
        elif tracked is not None:
            self._missed_calls += 1
            self._state, self._landmarks = "held", None
            if self._missed_calls > _HOLD_CALLS:
                self._box, self._missed_calls, self._state, self._turn_deg = None, 0, "lost", 0.0

    def _candidates(self, rgb: NDArray[np.uint8], tracked: Box | None) -> tuple[list[Hit], float]:
        """The faces of a frame, only those that may be the tracked one if there is one, and their turn; counts all."""
        import cv2

        if self._model is not None:
            found = self._model.faces(rgb)
            self._faces = len(found)
            return (found if tracked is None else [hit for hit in found if _same_face(hit.box, tracked)]), 0.0
        grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        if tracked is None:
            return self._newcomers(grey)
        if self._turn_deg == 0.0:
            found = self._search(grey)
            self._faces = len(found)
            found = [hit for hit in found if _same_face(hit.box, tracked)] or self._search_near(grey, tracked)
            if found:
                return found, 0.0
        for turn_deg in _turns(self._turn_deg):
            found = self._search_turned(grey, tracked, turn_deg)
            if found:
                return found, turn_deg
        return [], 0.0

    def _newcomers(self, grey: NDArray[np.uint8]) -> tuple[list[Hit], float]:
        """Every face of a frame in which none is followed, and their turn; counts the upright ones."""
        found = self._search(grey)
        self._faces = len(found)
        if found:
            return found, 0.0
        self._in_vain += 1
        rounds, turn = divmod(self._in_vain, _ROUND)
        if turn == 1 or (turn == 2 and max(grey.shape) <= _SEARCH_PX):
            return [], 0.0
        if turn == 2:
            found, turn_deg = self._search(grey, _FINE_PX), 0.0
            again = [self._search_near(grey, box) for box, _, _ in found]
        else:
            turn_deg = _TURN_DEG if rounds % 2 else -_TURN_DEG
            found = self._search(grey, turn_deg=turn_deg)
            again = [self._search_turned(grey, box, turn_deg) for box, _, _ in found]
        sure = [any(hit.votes >= _SURE_VOTES for hit in seen) for seen in again]
        return [hit for hit, is_sure in zip(found, sure, strict=True) if is_sure], turn_deg

    def _search(self, grey: NDArray[np.uint8], size_px: int = _SEARCH_PX, turn_deg: float = 0.0) -> list[Hit]:
        """Every face of the frame, scaled to this longer side and turned first, with the detector's votes."""
        import cv2

        assert self._cascade is not None  # as always without another search
        scale = min(1.0, size_px / max(grey.shape))
        small = _shrink(grey, scale)
        middle = (small.shape[1] / 2, small.shape[0] / 2)
        boxes, votes = self._cascade.detectMultiScale2(
            cv2.equalizeHist(_turned(small, middle, turn_deg)),
            scaleFactor=1.2,
            minNeighbors=3,
            minSize=(_CASCADE_PX, _CASCADE_PX),
        )
        boxes = [_turned_back(found, middle, turn_deg) for found in boxes] if turn_deg else boxes
        return _in_frame(boxes, votes, scale, (0, 0))

    def _search_near(self, grey: NDArray[np.uint8], box: Box) -> list[Hit]:
        """A finer look at twice the tracked box, for turned or dim faces that the search misses."""
        x, y, side, _ = box
        left, top = max(0, int(x - side / 2)), max(0, int(y - side / 2))
        region = grey[top : int(y + 1.5 * side), left : int(x + 1.5 * side)]
        scale = min(1.0, _NEAR_SIDE_PX / side)
        if min(region.shape) * scale < _CASCADE_PX:
            return []
        return self._look(_shrink(region, scale), box, scale, (left, top))

    def _search_turned(self, grey: NDArray[np.uint8], box: Box, turn_deg: float) -> list[Hit]:
        """The same in a square around the box that is turned first, to find a tilted face."""
        side = round(box[2])
        left, top = round(box[0] - side / 2), round(box[1] - side / 2)
        size_px = round(2 * side * min(1.0, _NEAR_SIDE_PX / side))
        if size_px < _CASCADE_PX:
            return []
        scale, middle = size_px / (2 * side), (size_px / 2, size_px / 2)
        small = _turned(_square(grey, left, top, 2 * side, size_px), middle, turn_deg)
        return self._look(small, box, scale, (left, top), turn_deg)

    def _look(
        self, small: NDArray[np.uint8], box: Box, scale: float, offset: tuple[int, int], turn_deg: float = 0.0
    ) -> list[Hit]:
        """Faces of about the tracked one's size in a part of the frame."""
        import cv2

        assert self._cascade is not None
        least, most = int(0.6 * box[2] * scale), int(1.6 * box[2] * scale)
        boxes, votes = self._cascade.detectMultiScale2(
            cv2.equalizeHist(small), scaleFactor=1.08, minNeighbors=2, minSize=(least, least), maxSize=(most, most)
        )
        middle = (small.shape[1] / 2, small.shape[0] / 2)
        boxes = [_turned_back(found, middle, turn_deg) for found in boxes] if turn_deg else boxes
        return [hit for hit in _in_frame(boxes, votes, scale, offset) if _same_face(hit.box, box)]

    def _cut(self, rgb: NDArray[np.uint8], box: Box) -> FaceCrop:
        side = max(2, round(box[2]))
        left = round(box[0] + box[2] / 2 - side / 2)
        top = round(box[1] + box[3] / 2 - side / 2)
        if self._turn_deg:
            margin, margin_px = side // 4, self._size_px // 4  # the corners of the turned square lie in it
            wide_px = self._size_px + 2 * margin_px
            face = _square(rgb, left - margin, top - margin, side + 2 * margin, wide_px)
            face = _turned(face, (wide_px / 2, wide_px / 2), self._turn_deg)
            face = np.ascontiguousarray(face[margin_px:-margin_px, margin_px:-margin_px])
        else:
            face = _square(rgb, left, top, side, self._size_px)
        freshness = 1.0 - self._missed_calls / (_HOLD_CALLS + 1)
        quality = min(1.0, side / self._size_px) * self._votes / (self._votes + 3.0) * freshness
        return FaceCrop(face, (left, top, side, side), float(quality), self._faces, self._landmarks)


def _square(picture: NDArray[np.uint8], left: int, top: int, side: int, size_px: int) -> NDArray[np.uint8]:
    """A square of a frame, in colours or grey, at `size_px`; what lies beyond the frame repeats its border."""
    import cv2

    height, width = picture.shape[:2]
    inside = picture[max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
    if 0 in inside.shape:  # the frames became smaller than the held box's place
        inside = picture
    else:
        beyond = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
        if any(beyond):
            inside = np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), np.uint8)
    method = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inside, (size_px, size_px), interpolation=method), np.uint8)


def _turns(turn_deg: float) -> list[float]:
    """In which turns a tracked face is looked for: as it stands, then a step less and a step more."""
    if turn_deg == 0.0:
        return [_TURN_DEG, -_TURN_DEG]
    step_deg = _TURN_DEG if turn_deg > 0 else -_TURN_DEG
    return [turn for turn in (turn_deg, turn_deg - step_deg, turn_deg + step_deg) if abs(turn) <= _MOST_TURN_DEG]


def _turned(picture: NDArray[np.uint8], centre: tuple[float, float], turn_deg: float) -> NDArray[np.uint8]:
    """Turned counter-clockwise around a place, at the same size."""
    import cv2

    if not turn_deg:
        return picture
    size = (picture.shape[1], picture.shape[0])
    matrix = cv2.getRotationMatrix2D(centre, turn_deg, 1.0)
    return np.asarray(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _turned_back(box: Any, centre: tuple[float, float], turn_deg: float) -> Box:
    """Where a box of a turned picture lies in the picture itself; it stays upright."""
    x, y, width, height = (float(part) for part in box)
    radians = np.deg2rad(turn_deg)
    across, down = x + width / 2 - centre[0], y + height / 2 - centre[1]
    middle_x = centre[0] + across * np.cos(radians) - down * np.sin(radians)
    middle_y = centre[1] + across * np.sin(radians) + down * np.cos(radians)
    return float(middle_x - width / 2), float(middle_y - height / 2), width, height


def _load_cascade() -> Detector:
    import cv2

    path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml" if hasattr(cv2, "data") else Path()
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise ConfigError(
            f"OpenCV {cv2.__version__} has no face cascades; allowed is 4.13 or a later 4.x: "
            "pip install 'opencv-python-headless>=4.13,<5'"
        )
    cascade: Any = cv2.CascadeClassifier(str(path))
    return cast(Detector, cascade)


def _shrink(grey: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    import cv2

    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _in_frame(boxes: Any, votes: Any, scale: float, offset: tuple[int, int]) -> list[Hit]:
    return [
        Hit((x / scale + offset[0], y / scale + offset[1], w / scale, h / scale), int(n))
        for (x, y, w, h), n in zip(boxes, votes, strict=True)
    ]


def _same_face(a: Box, b: Box) -> bool:
    """Centres within 0.6 of the tracked box's side and sides within a factor of 1.7."""
    distance = max(abs(a[0] + a[2] / 2 - b[0] - b[2] / 2), abs(a[1] + a[3] / 2 - b[1] - b[3] / 2))
    return distance < 0.6 * b[2] and 1 / 1.7 < a[2] / b[2] < 1.7


def _blend(old: Box, new: Box) -> Box:
    x, y, w, h = (o + _SMOOTHING * (n - o) for o, n in zip(old, new, strict=True))
    return (x, y, w, h)
