"""Media files to arrays on the runtime's grids (ARCHITECTURE.md, time grid): 15 Hz video slots, 16 kHz mono sound."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.manifest import Row
from clcr_stream.errors import SourceError

VIDEO_RATE_HZ = 15
SAMPLE_RATE_HZ = 16000
_NS = 1_000_000_000


def video_slot(time_ns: int) -> int:
    """The 15 Hz slot that a frame `time_ns` after the origin falls into: the nearest."""
    return (time_ns * VIDEO_RATE_HZ * 2 + _NS) // (2 * _NS)


def decode_frames(path: Path, start_s: float, end_s: float) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(slot, RGB frame) of the first frame in each slot of [start_s, end_s); end_s 0: to the end.

    Raises SourceError when the file cannot be read; a file without video yields nothing.
    """
    start_ns, end_ns = round(start_s * _NS), round(end_s * _NS) or None
    last_slot = -1
    with _open(path) as container:
        if not container.streams.video:
            return
        zero_ns = (container.start_time or 0) * 1000
        stream = container.streams.video[0]
        _seek(container, start_s)
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            time_ns = int(frame.pts * stream.time_base * _NS) - zero_ns
            if end_ns is not None and time_ns >= end_ns:
                return
            slot = video_slot(time_ns - start_ns)
            if time_ns >= start_ns and slot > last_slot:
                last_slot = slot
                yield slot, frame.to_ndarray(format="rgb24")


def decode_audio(path: Path, start_s: float, end_s: float) -> NDArray[np.float32]:
    """Mono float32 sound at 16 kHz of [start_s, end_s), sample 0 at start_s; empty for a file without sound.

    Time zero is the container's start, the one `decode_frames` uses: sound that starts later begins with zeros.
    """
    import av

    with _open(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        zero_s = (container.start_time or 0) / 1e6
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        blocks: list[NDArray[np.float32]] = []
        first_s: float | None = None
        _seek(container, start_s)
        for frame in container.decode(container.streams.audio[0]):
            if first_s is None:
                first_s = float(frame.time or 0.0) - zero_s
            if end_s and frame.time is not None and frame.time - zero_s > end_s + 0.1:
                break
            blocks.extend(np.asarray(block.to_ndarray(), np.float32).reshape(-1) for block in resampler.resample(frame))
        blocks.extend(np.asarray(block.to_ndarray(), np.float32).reshape(-1) for block in resampler.resample(None))
    if not blocks:
        return np.zeros(0, np.float32)
    samples = np.concatenate(blocks)
    lead = round(((first_s or 0.0) - start_s) * SAMPLE_RATE_HZ)
    samples = np.concatenate([np.zeros(lead, np.float32), samples]) if lead > 0 else samples[-lead:]
    return samples[: round((end_s - start_s) * SAMPLE_RATE_HZ)] if end_s else samples


def load_image(root: Path, row: Row) -> NDArray[np.uint8]:
    """The image of a row: (height, width) grey or (height, width, 3) RGB, uint8. Raises SourceError."""
    import cv2

    media, _, index = row.media.partition("#")
    if index:
        path = root / media
        images = _image_pack(path, path.stat().st_mtime_ns)
        if not index.isdigit() or int(index) >= len(images):
            raise SourceError(f"{row.media}: no such image; {media} holds 0..{len(images) - 1}")
        return np.asarray(images[int(index)], np.uint8)
    data = cv2.imread(str(root / media), cv2.IMREAD_COLOR)
    if data is None:
        raise SourceError(f"{row.media}: not an image OpenCV can read; give a JPEG or PNG")
    return np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB), np.uint8)


@lru_cache(maxsize=2)
def _image_pack(path: Path, changed_ns: int) -> NDArray[Any]:
    """The images of a pack; `changed_ns` keeps a rewritten file from being served from memory."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            images: NDArray[Any] = archive["images"]
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path}: not an image pack ({error}); an .npz with a uint8 array `images`") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise SourceError(
            f"{path}: images are {images.dtype} {images.shape}; allowed is uint8 (n, h, w) or (n, h, w, 3)"
        )
    return images


def _seek(container: Any, start_s: float) -> None:
    """Go to the key frame before start_s: a long recording cut into many rows is not read from its start each time."""
    if start_s > 5.0:
        container.seek(int((start_s - 2.0) * 1e6) + (container.start_time or 0))


def _open(path: Path) -> Any:
    import av

    try:
        return av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise SourceError(f"{path}: cannot be opened ({error}); give a file FFmpeg can read") from error
