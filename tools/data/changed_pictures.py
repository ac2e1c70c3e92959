"""Pictures of a face in the dark, in glaring light, far away or half covered, and films of such pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clcr.training.data.decode import SAMPLE_RATE_HZ, VIDEO_RATE_HZ, decode_audio, decode_frames
from clcr.training.data.manifest import Row
from clcr_stream.frontends.faces import FaceFinder

Picture = NDArray[np.uint8]  # (height, width) or (height, width, 3)
Box = tuple[int, int, int, int]  # of the face: x, y, width, height; may reach over the border
GAMMA = 2.2
DARK, DARK_NOISE = 1 / 16, 6.0  # of the light; grey levels
BRIGHT = 4.0  # times the light
FAR = 3  # times the distance
CLOTH, HAND = 185, 110  # grey levels


def dark(picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """With a sixteenth of the light, and a camera's noise."""
    return _levels(picture * DARK ** (1 / GAMMA) + DARK_NOISE * rng.standard_normal(picture.shape))


def bright(picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """With four times the light: what is light is white."""
    return _levels(picture * BRIGHT ** (1 / GAMMA))


def far(picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """Three times as far: a third of the size before more of the same background; a face crop has fewer pixels."""
    height, width = picture.shape[:2]
    size = (max(2, width // FAR), max(2, height // FAR))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    if box == (0, 0, width, height):
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    above, left = (height - size[1]) // 2, (width - size[0]) // 2
    edges = (above, height - size[1] - above, left, width - size[0] - left)
    return np.asarray(cv2.copyMakeBorder(small, *edges, cv2.BORDER_REPLICATE), np.uint8)


def mask(picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """The lower half of the face behind a cloth."""
    x, y, width, height = box
    return _covered(picture, (x, y + height // 2, width, height - height // 2), CLOTH, rng)


def side(picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """One side of the face behind something."""
    x, y, width, height = box
    return _covered(picture, (x, y, width // 2, height), HAND, rng)


Change = Callable[[Picture, Box, np.random.Generator], Picture]
CHANGES: dict[str, Change] = {"dark": dark, "bright": bright, "far": far, "mask": mask, "side": side}


def changed_frames(
    row: Row, media_root: Path, change: Change, rng: np.random.Generator
) -> Iterator[tuple[int, Picture]]:
    """(slot, picture) of a film's row, the pictures changed; while no face was found, box 0 wide in the middle."""
    finder = FaceFinder()
    box: Box | None = None
    for slot, rgb in decode_frames(media_root / row.media, row.start_s, row.end_s):
        crop = finder.crop(rgb)
        box = box if crop is None else crop.box
        yield slot, change(rgb, box or (rgb.shape[1] // 2, rgb.shape[0] // 2, 0, 0), rng)


def write_film(path: Path, row: Row, media_root: Path, change: Change, rng: np.random.Generator) -> None:
    """The row's changed pictures in the slots that the model sees, and its sound as it is: H.264 and 16 bits."""
    import av

    sound = decode_audio(media_root / row.media, row.start_s, row.end_s)
    with av.open(str(path), "w") as out:
        video: Any = None
        for slot, picture in changed_frames(row, media_root, change, rng):
            even = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
            if video is None:
                video = out.add_stream("libx264", rate=VIDEO_RATE_HZ, options={"crf": "10", "preset": "veryfast"})
                video.height, video.width, video.pix_fmt = *even.shape[:2], "yuv420p"
                video.time_base = video.codec_context.time_base = Fraction(1, VIDEO_RATE_HZ)
                audio: Any = out.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = slot, Fraction(1, VIDEO_RATE_HZ)
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
            if len(sound):
                samples = np.rint(np.clip(sound, -1.0, 1.0) * 32767.0).astype(np.int16)
                block = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
                block.sample_rate, block.pts = SAMPLE_RATE_HZ, 0
                out.mux(audio.encode(block))
                out.mux(audio.encode(None))


def write_picture(path: Path, picture: Picture, row: Row, change: Change, rng: np.random.Generator) -> None:
    """A photograph or face crop, changed, as PNG."""
    box: Box | None = (0, 0, picture.shape[1], picture.shape[0])
    if row.kind == "image":
        crop = FaceFinder().crop(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
        box = None if crop is None else crop.box
    heard = change(picture, box or (picture.shape[1] // 2, picture.shape[0] // 2, 0, 0), rng)
    cv2.imwrite(str(path), heard if heard.ndim == 2 else np.ascontiguousarray(heard[..., ::-1]))


def _levels(values: NDArray[Any]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _covered(picture: Picture, box: Box, level: int, rng: np.random.Generator) -> Picture:
    x, y, width, height = box
    rows, columns = slice(max(0, y), max(0, y + height)), slice(max(0, x), max(0, x + width))
    changed = picture.copy()
    changed[rows, columns] = _levels(level + 3.0 * rng.standard_normal(picture[rows, columns].shape))
    return changed
