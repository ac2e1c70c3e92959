"""Frames pushed by hand: OpenCV reads a camera or a file, a callback hears what CLCR says of them.

python examples/embed_opencv.py             5 seconds of a test pattern, without a face
python examples/embed_opencv.py 0           the first camera, until Ctrl-C
python examples/embed_opencv.py talk.mp4    the pictures of a file, at their own speed
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

import clcr_stream


def read_frames(name: str | None) -> Iterator[Any]:
    """Pictures as OpenCV gives them: (height, width, 3), BGR."""
    if name is None:
        for number in range(75):
            yield np.full((240, 320, 3), number, np.uint8)
            time.sleep(1 / 15)
        return
    capture = cv2.VideoCapture(int(name) if name.isdigit() else name)
    pause_s = 0.0 if name.isdigit() else 1 / (capture.get(cv2.CAP_PROP_FPS) or 25)
    while True:
        arrived, frame = capture.read()
        if not arrived:
            return
        yield frame
        time.sleep(pause_s)


def show(prediction: clcr_stream.Prediction) -> None:
    """Called on a thread of its own, with the newest prediction."""
    print(prediction.seq, prediction.label, prediction.confidence, *prediction.degraded)


def main() -> None:
    """Push every frame with the time of its capture."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    with clcr_stream.Engines.load() as engines, engines.stream("opencv", show, modalities=["vision"]) as stream:
        for frame in read_frames(name):
            stream.push_frame(time.monotonic_ns(), cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


if __name__ == "__main__":
    main()
