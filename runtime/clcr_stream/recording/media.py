"""What a recording with media keeps of each hop: face crops as PNG, sound as float32, the words that were shown.

All of it is exactly what the model got, so that a replay computes the same. Times are the session's monotonic ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.window.cutter import Hop
from clcr_stream.window.grid import Tick
from clcr_stream.window.ring import NEVER_NS
from clcr_stream.window.transcript import Segment
from clcr_stream.wire.messages import Ns

FACE, SOUND, WORDS, HOP = "face", "sound", "words", "hop"
MEDIA = (FACE, SOUND, WORDS, HOP)
_PNG_COMPRESSION = 1  # 1.0 ms and 19.2 kB a crop; 3: 2.4 ms and 18.7 kB
_MAX_SIDE_PX = 4096

Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**62)]  # a count or a number; sums of two still fit
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Place: TypeAlias = Annotated[float, Meta(ge=-16, le=16)]  # in shares of a picture; a face may reach over its edge
Sharpness: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]


class Time(msgspec.Struct, frozen=True):
    """A time as Foxglove writes it."""

    sec: int
    nsec: int


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """A face crop at the model's size, in the fields of Foxglove's CompressedImage; `data` is a PNG in base64."""

    timestamp: Time
    frame_id: str = FACE
    format: str = "png"
    data: bytes
    captured_ns: Ns


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """A hop's samples, little-endian float32 in base64, at the bundle's rate; `first_sample` counts from the origin.

    `present` lists [start, stop) of the samples that arrived, counted from the first; the others are zero.
    """

    timestamp: Time
    format: str = "pcm-f32"
    sample_rate: Whole
    number_of_channels: int = 1
    first_sample: Whole
    present: list[tuple[Whole, Whole]]
    data: bytes


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of text in the window."""

    id: str
    start_ns: Ns
    end_ns: Ns
    text: str
    final: bool


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """All words that the model had from this hop on, until the next such message."""

    hop: Whole
    segments: list[Word]


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of the hop: when it was captured, and the face in it, if there was one (its crop came before).

    `box` is left, top, width, height in shares of the picture, `landmarks` x and y of five places in the face; `look`
    its luma and the face's sharpness, as a Look.
    """

    captured_ns: Ns
    face: bool
    quality: Share
    faces: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    box: tuple[Place, Place, Place, Place] | None = None
    look: tuple[Share | None, Sharpness | None] = (None, None)
    landmarks: Annotated[list[tuple[Place, Place]], Meta(min_length=5, max_length=5)] | None = None


class HopEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Ends the media of a hop: all that came before it is whole."""

    number: Whole
    start_ns: Ns
    end_ns: Ns
    slots: list[Slot]


@dataclass(frozen=True)
class HopMedia:
    """What one hop brought, copied out of the rings' reader; `words` None: as before."""

    tick: Tick
    frames: NDArray[np.uint8]  # (n, 3, size_px, size_px), of the slots with a face
    slots: tuple[Slot, ...]
    first_sample: int
    sample_rate_hz: int
    samples: NDArray[np.float32]
    present: NDArray[np.bool_]
    words: tuple[Segment, ...] | None

    @property
    def nbytes(self) -> int:
        """Memory that it holds, about."""
        return self.frames.nbytes + self.samples.nbytes + self.present.nbytes + 2000


def copy_hop(tick: Tick, hop: Hop, sample_rate_hz: int, words: Sequence[Segment] | None) -> HopMedia:
    """A copy of what was read for a tick; the rows that it was read into may be used again."""
    pictures = hop.pictures
    seen = [row for row in range(len(pictures.valid)) if pictures.captured_ns[row] != NEVER_NS]
    slots = tuple(
        Slot(
            captured_ns=int(pictures.captured_ns[row]),
            face=bool(pictures.valid[row] > 0),
            quality=float(pictures.quality[row]),
            faces=int(pictures.faces[row]),
            box=None if np.isnan(pictures.box[row]).any() else _box(pictures.box[row]),
            look=_look(pictures.look[row]),
            landmarks=None if np.isnan(pictures.landmarks[row]).any() else pictures.landmarks[row].tolist(),
        )
        for row in seen
    )
    return HopMedia(
        tick=tick,
        frames=pictures.frames[pictures.valid > 0].astype(np.uint8),  # 0..255 and whole: nothing is lost
        slots=slots,
        first_sample=hop.first_sample,
        sample_rate_hz=sample_rate_hz,
        samples=hop.sound.samples.copy(),
        present=hop.sound.present.copy(),
        words=None if words is None else tuple(words),
    )


def messages_of(media: HopMedia) -> list[tuple[str, int, msgspec.Struct]]:
    """The messages of a hop in the order of a file: kind, time and message; the hop's end is the last."""
    found: list[tuple[str, int, msgspec.Struct]] = []
    with_face = [slot for slot in media.slots if slot.face]
    for frame, slot in zip(media.frames, with_face, strict=True):
        face = Face(timestamp=_time(slot.captured_ns), data=to_png(frame), captured_ns=slot.captured_ns)
        found.append((FACE, slot.captured_ns, face))
    if media.present.any():
        sound = Sound(
            timestamp=_time(media.tick.hop_start_ns),
            sample_rate=media.sample_rate_hz,
            first_sample=media.first_sample,
            present=runs(media.present),
            data=media.samples.astype("<f4").tobytes(),
        )
        found.append((SOUND, media.tick.hop_start_ns, sound))
    if media.words is not None:
        segments = [
            Word(id=one.id, start_ns=one.start_ns, end_ns=one.end_ns, text=one.text, final=one.final)
            for one in media.words
        ]
        found.append((WORDS, media.tick.end_ns, Words(hop=media.tick.number, segments=segments)))
    tick = media.tick
    end = HopEnd(number=tick.number, start_ns=tick.hop_start_ns, end_ns=tick.end_ns, slots=list(media.slots))
    found.append((HOP, tick.end_ns, end))
    return found


def to_png(frame: NDArray[np.uint8]) -> bytes:
    """A crop (3, size, size) RGB as a PNG, without loss."""
    import cv2

    picture = np.ascontiguousarray(frame.transpose(1, 2, 0)[..., ::-1])
    written, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])
    assert written, "OpenCV writes PNG"
    return bytes(data.tobytes())


def from_png(data: bytes, size_px: int) -> NDArray[np.uint8]:
    """The crop (size, size, 3) RGB in a PNG; SourceError when it is none, or of another size."""
    import cv2

    # The size is in the header: a picture that claims to be huge must not be decoded.
    side = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    if data[:8] != b"\x89PNG\r\n\x1a\n" or max(side) > _MAX_SIDE_PX:
        raise SourceError("a recorded face is no PNG; the file is damaged")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (size_px, size_px, 3):
        raise SourceError(f"recorded faces are {side[0]} x {side[1]} px, the bundle takes {size_px}; give --bundle")
    return np.ascontiguousarray(picture[..., ::-1])


def samples_of(sound: Sound) -> NDArray[np.float32]:
    """The samples of a recorded hop; SourceError when they are no float32, or fewer than it says to be present."""
    kept, rest = divmod(len(sound.data), 4)
    if rest or any(not start <= stop <= kept for start, stop in sound.present):
        raise SourceError(f"a recorded sound holds {len(sound.data)} bytes, not its samples; the file is damaged")
    return np.frombuffer(sound.data, "<f4").astype(np.float32)


def runs(present: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The [start, stop) of what is True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], present, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _time(time_ns: int) -> Time:
    return Time(time_ns // NS_PER_S, time_ns % NS_PER_S)


def _look(row: Any) -> tuple[float | None, float | None]:
    luma, sharpness = (None if np.isnan(value) else float(value) for value in row)
    return luma, sharpness


def _box(row: Any) -> tuple[float, float, float, float]:
    left, top, width, height = (float(value) for value in row)
    return left, top, width, height
