"""Finds one face per stream and cuts it out at model size; the same code in training and live use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError

FaceState = Literal["found", "held", "lost", "none"]
Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the frame

# 200 px on the longer side, alt2, scale step 1.2: 53 of 64 frames of webcam-like clips in 5.8 ms on one thread;
# frontalface_default at the same cost found 41. Faces down to 12 % of the longer side are found.
_SEARCH_PX = 200
_CASCADE_PX = 24  # one more than the cascade's own 20: smaller hits are mostly wrong
_HOLD_CALLS = 6  # 0.4 s at 15 Hz
_SMOOTHING = 0.6  # weight of a new detection in the box
# No margin is added to alt2's box: it frames a face as CK+ and most of FER2013 do.
_NEAR_SIDE_PX = 48  # the side to which a tracked face is scaled for the second, finer look


@dataclass(frozen=True)
class FaceCrop:
    """A face at model size. quality: 0..1, from the face's resolution, the detector's votes and how old the box is."""

    rgb: NDArray[np.uint8]  # (size_px, size_px, 3)
    box: tuple[int, int, int, int]  # x, y, width, height of the crop in the frame; may reach over its border
    quality: float
    faces: int  # faces seen at the last detection


class Detector(Protocol):
    """The part of cv2.CascadeClassifier that is used: boxes (x, y, width, height) and how many votes each has."""

    def detectMultiScale2(self, image: Any, /, **limits: Any) -> tuple[Any, Any]: ...


class FaceSearch(Protocol):
    """Another way to find faces than the cascade: boxes in pixels of the RGB frame, and how many votes each has."""

    def faces(self, rgb: NDArray[np.uint8], /) -> list[tuple[Box, int]]: ...


class FaceFinder:
    """Follows one face through the frames of one stream, in order; deterministic in their sequence, one thread.

    The largest face is taken first and kept while it is found; another replaces it only after it is lost. A missed
    face keeps its box for 0.4 s (6 calls). `detector` None: OpenCV's frontal Haar cascade, alt2; `search` replaces it.
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
        self._missed_calls = 0
        self._votes = 0
        self._faces = 0
        self._state: FaceState = "none"

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
        candidates = self._candidates(rgb, tracked)
        if candidates:
            found, self._votes = max(candidates, key=lambda hit: (hit[0][2], hit[1], hit[0]))
            self._box = found if tracked is None else _blend(tracked, found)
            self._faces = max(self._faces, 1)
            self._missed_calls = 0
            self._state = "found"
        elif tracked is not None:
            self._missed_calls += 1
            self._state = "held"
            if self._missed_calls > _HOLD_CALLS:
                self._box, self._missed_calls, self._state = None, 0, "lost"

    def _candidates(self, rgb: NDArray[np.uint8], tracked: Box | None) -> list[tuple[Box, int]]:
        """The faces of a frame, only those that may be the tracked one if there is one; counts all."""
        import cv2

        if self._model is not None:
            found = self._model.faces(rgb)
            self._faces = len(found)
            return found if tracked is None else [hit for hit in found if _same_face(hit[0], tracked)]
        grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        found = self._search(grey)
        self._faces = len(found)
        if tracked is None:
            return found
        return [hit for hit in found if _same_face(hit[0], tracked)] or self._search_near(grey, tracked)

    def _search(self, grey: NDArray[np.uint8]) -> list[tuple[Box, int]]:
        """Every face of the frame with the detector's votes."""
        import cv2

        assert self._cascade is not None  # as always without another search
        scale = min(1.0, _SEARCH_PX / max(grey.shape))
        small = cv2.equalizeHist(_shrink(grey, scale))
        boxes, votes = self._cascade.detectMultiScale2(
            small, scaleFactor=1.2, minNeighbors=3, minSize=(_CASCADE_PX, _CASCADE_PX)
        )
        return _in_frame(boxes, votes, scale, (0, 0))

    def _search_near(self, grey: NDArray[np.uint8], box: Box) -> list[tuple[Box, int]]:
        """A finer look at twice the tracked box, for turned or dim faces that the search misses."""
        import cv2

        x, y, side, _ = box
        left, top = max(0, int(x - side / 2)), max(0, int(y - side / 2))
        region = grey[top : int(y + 1.5 * side), left : int(x + 1.5 * side)]
        assert self._cascade is not None
        scale = min(1.0, _NEAR_SIDE_PX / side)
        if min(region.shape) * scale < _CASCADE_PX:
            return []
        small = cv2.equalizeHist(_shrink(region, scale))
        least, most = int(0.6 * side * scale), int(1.6 * side * scale)
        boxes, votes = self._cascade.detectMultiScale2(
            small, scaleFactor=1.08, minNeighbors=2, minSize=(least, least), maxSize=(most, most)
        )
        return [hit for hit in _in_frame(boxes, votes, scale, (left, top)) if _same_face(hit[0], box)]

    def _cut(self, rgb: NDArray[np.uint8], box: Box) -> FaceCrop:
        import cv2

        side = max(2, round(box[2]))
        left = round(box[0] + box[2] / 2 - side / 2)
        top = round(box[1] + box[3] / 2 - side / 2)
        height, width = rgb.shape[:2]
        inside = rgb[max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
        if 0 in inside.shape:  # the frames became smaller than the held box's place
            inside = rgb
        else:
            beyond = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
            if any(beyond):
                inside = np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), np.uint8)
        method = cv2.INTER_AREA if side > self._size_px else cv2.INTER_LINEAR
        face = cv2.resize(inside, (self._size_px, self._size_px), interpolation=method)
        freshness = 1.0 - self._missed_calls / (_HOLD_CALLS + 1)
        quality = min(1.0, side / self._size_px) * self._votes / (self._votes + 3.0) * freshness
        return FaceCrop(np.asarray(face, np.uint8), (left, top, side, side), float(quality), self._faces)


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


def _in_frame(boxes: Any, votes: Any, scale: float, offset: tuple[int, int]) -> list[tuple[Box, int]]:
    return [
        ((x / scale + offset[0], y / scale + offset[1], w / scale, h / scale), int(n))
        for (x, y, w, h), n in zip(boxes, votes, strict=True)
    ]


def _same_face(a: Box, b: Box) -> bool:
    """Centres within 0.6 of the tracked box's side and sides within a factor of 1.7."""
    distance = max(abs(a[0] + a[2] / 2 - b[0] - b[2] / 2), abs(a[1] + a[3] / 2 - b[1] - b[3] / 2))
    return distance < 0.6 * b[2] and 1 / 1.7 < a[2] / b[2] < 1.7


def _blend(old: Box, new: Box) -> Box:
    x, y, w, h = (o + _SMOOTHING * (n - o) for o, n in zip(old, new, strict=True))
    return (x, y, w, h)
