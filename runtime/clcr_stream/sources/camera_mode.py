"""How a local camera is to deliver its pictures: size, rate and format, as written behind its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

from clcr_stream.errors import SourceError

FORMATS = {"mjpg": "MJPG", "mjpeg": "MJPG", "yuyv": "YUYV", "nv12": "NV12", "h264": "H264"}
ALLOWED = f"size=WIDTHxHEIGHT (16..8192), rate=1..240, format={'|'.join(FORMATS)}"
FOURCC, WIDTH, HEIGHT, FPS = 6, 3, 4, 5  # of cv2.CAP_PROP_


class Settable(Protocol):
    """The part of cv2.VideoCapture that a mode needs."""

    def set(self, prop: int, value: float, /) -> bool: ...
    def get(self, prop: int, /) -> float: ...


@dataclass(frozen=True)
class CameraMode:
    """What to ask a driver for; None leaves it to the driver."""

    size: tuple[int, int] | None = None
    rate_hz: int | None = None
    fourcc: str | None = None

    def apply(self, capture: Settable) -> None:
        """Ask the driver for it; it may take something else."""
        # The format first: sizes and rates are offered by format.
        if self.fourcc is not None:
            capture.set(FOURCC, float(_code(self.fourcc)))
        if self.size is not None:
            capture.set(WIDTH, float(self.size[0]))
            capture.set(HEIGHT, float(self.size[1]))
        if self.rate_hz is not None:
            capture.set(FPS, float(self.rate_hz))

    def refused(self, capture: Settable) -> str:
        """In one line what the driver takes instead; "" when it does as told."""
        refused = []
        size = int(capture.get(WIDTH)), int(capture.get(HEIGHT))
        if self.size is not None and size != self.size:
            refused.append(f"size={size[0]}x{size[1]}")
        if self.rate_hz is not None and round(capture.get(FPS)) != self.rate_hz:
            refused.append(f"rate={capture.get(FPS):g}")
        code = int(capture.get(FOURCC))
        if self.fourcc is not None and code != _code(self.fourcc):
            refused.append(f"format={_name(code)}")
        return (
            f"the camera takes {', '.join(refused)} instead; `v4l2-ctl --list-formats-ext` lists its modes"
            if refused
            else ""
        )


def split_mode(text: str) -> tuple[str, CameraMode]:
    """`0?size=1280x720&rate=30&format=mjpg` as the device's name and its mode; SourceError for what is not known."""
    device, asked, query = text.partition("?")
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    try:
        mode = CameraMode(
            _size(pairs.pop("size")) if "size" in pairs else None,
            _number(pairs.pop("rate"), 1, 240) if "rate" in pairs else None,
            FORMATS[pairs.pop("format").lower()] if "format" in pairs else None,
        )
    except (ValueError, KeyError):
        pairs["?"] = ""
        mode = CameraMode()
    if pairs or (asked and mode == CameraMode()):
        raise SourceError(f"camera {text}: not a mode; allowed after the ? are {ALLOWED}, joined by &")
    return device, mode


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return _number(width, 16, 8192), _number(height, 16, 8192)


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def _code(fourcc: str) -> int:
    return int.from_bytes(fourcc.encode("ascii"), "little")


def _name(code: int) -> str:
    name = (code & 0xFFFFFFFF).to_bytes(4, "little").decode("ascii", errors="replace").strip("\0 ")
    return name if name.isprintable() and name else "unknown"
