"""YuNet, a small network that finds faces, through OpenCV; for users who have its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ConfigError, one_line
from clcr_stream.frontends.faces import Hit

SEARCH_PX = 320  # the longer side of what is searched, as YuNet was trained
SCORE = 0.6  # at least
OVERLAP = 0.3  # of two boxes of one face
VOTES = 12.0  # what a score of 1 counts in a face's quality: as many as the cascade gives a clear face
WHERE = "face_detection_yunet_2023mar.onnx of opencv_zoo"


class YuNet:
    """The faces of a picture. ConfigError when the file is none of YuNet's, or OpenCV cannot run it."""

    def __init__(self, path: Path) -> None:
        import cv2

        if not path.is_file():
            raise ConfigError(f"--face-model {path}: no such file; give {WHERE}, or leave it out")
        if not hasattr(cv2, "FaceDetectorYN"):
            raise ConfigError(f"--face-model: OpenCV {cv2.__version__} has no FaceDetectorYN; allowed is 4.13 or later")
        self._path, self._size = path, (0, 0)
        try:
            self._detector: Any = cv2.FaceDetectorYN.create(str(path), "", (SEARCH_PX, SEARCH_PX), SCORE, OVERLAP, 50)
            self.faces(np.zeros((SEARCH_PX, SEARCH_PX, 3), np.uint8))
        except cv2.error as error:
            raise ConfigError(f"--face-model {path}: not YuNet ({_said(error)}); give {WHERE}") from None

    def faces(self, rgb: NDArray[np.uint8]) -> list[Hit]:
        """The faces of an RGB frame (height, width, 3): square boxes, votes and landmarks.

        The square has the area of YuNet's upright box and its centre. Whether it frames a face as the cascade does, on
        whose crops the model was trained, tools/bench_faces.py measures.
        """
        import cv2

        scale = min(1.0, SEARCH_PX / max(rgb.shape[:2]))
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        if size != self._size:
            self._detector.setInputSize(size)
            self._size = size
        _, rows = self._detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return [] if rows is None else [_hit(row, scale) for row in rows if row[2] > 0 and row[3] > 0]


def _hit(row: NDArray[np.float32], scale: float) -> Hit:
    x, y, width, height = (float(value) / scale for value in row[:4])
    side = math.sqrt(width * height)
    box = (x + (width - side) / 2, y + (height - side) / 2, side, side)
    return Hit(box, max(1, round(VOTES * float(row[14]))), row[4:14].reshape(5, 2) / np.float32(scale))


def _said(error: Exception) -> str:
    """What OpenCV says, without where in its code."""
    return one_line(str(error).split("error: ", 1)[-1])[:120]
