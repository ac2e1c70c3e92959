"""The newest face of a hop as a JPEG, as the model gets it, for `--preview`."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from clcr_stream.window.cutter import Rows
from clcr_stream.wire.preview import Preview

QUALITY = 80


def show_faces(preview: Preview, rows: Rows, end_ns: int) -> None:
    """Offer the newest face of a hop, copied out of its rows; nothing is copied while nobody reads."""
    if not preview.wanted:
        return
    valid = np.flatnonzero(rows["vision_valid"])
    face = np.clip(rows["vision_in"][valid[-1]], 0, 255).astype(np.uint8) if len(valid) else None
    preview.offer(end_ns, partial(jpeg_of, face))


def jpeg_of(face: NDArray[np.uint8] | None) -> bytes:
    """A JPEG of (3, height, width) RGB; b"" for no face."""
    if face is None:
        return b""
    import cv2

    done, data = cv2.imencode(".jpg", face[::-1].transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes() if done else b""
