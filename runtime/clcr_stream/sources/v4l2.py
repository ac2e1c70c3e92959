"""What a local camera offers, asked of its driver (Video4Linux2), and the mode that suits the model best."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from clcr_stream.errors import SourceCode, one_line
from clcr_stream.sources.camera_mode import CameraMode
from clcr_stream.sources.codes import code_of

Ioctl: TypeAlias = Callable[[int, int, bytearray], object]

BY_ID = Path("/dev/v4l/by-id")
# linux/videodev2.h: v4l2_fmtdesc, v4l2_frmsizeenum and v4l2_frmivalenum, and the requests that fill them.
_FORMAT, _SIZE, _INTERVAL = "=III32sIIIII", "=III6III", "=IIIII6III"
_ENUM_FORMATS, _ENUM_SIZES, _ENUM_INTERVALS = 2, 74, 75
_CAPABILITY = "=16s32s32sIII3I"  # v4l2_capability: driver, card, bus_info, numbers
_QUERY_CAPABILITY = 2 << 30 | struct.calcsize(_CAPABILITY) << 16 | ord("V") << 8  # _IOR('V', 0, it)
_CAPTURE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
_DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE and V4L2_FRMIVAL_TYPE_DISCRETE; others are a range
_MOST = 256  # entries of one list: a driver that never ends its list is believed so far

RAW = ("YUYV", "UYVY", "YVYU", "NV12", "NV21", "YU12", "YV12", "BGR3", "RGB3")  # no decoder runs for these
COMPRESSED = ("MJPG", "JPEG")
SIZE = (640, 480)  # a face at 2 m has 60 to 80 px there, more than the model takes
RATE_HZ = 30  # twice the model's: pictures lie close to their places on the time grid
COMMON_SIZES = ((640, 480), (1280, 720), (1920, 1080))  # tried where a driver offers a range


@dataclass(frozen=True)
class PictureMode:
    """One mode that a driver offers: its format, size in px and highest rate in Hz."""

    fourcc: str
    width: int
    height: int
    rate_hz: float

    def __str__(self) -> str:
        return f"{self.fourcc} {self.width}x{self.height} {self.rate_hz:g} Hz"


@dataclass(frozen=True)
class Identity:
    """Which physical camera a device is: its link's name in `by-id`, and its card and place as its driver says them.

    All are "" where nothing is known.
    """

    link: str = ""
    card: str = ""
    bus: str = ""

    def same(self, other: Identity, link_moved: bool = False) -> bool:
        """True when `other` is this camera: by the link where it had one, else by card and place.

        A twin without a serial number takes the link with it (`link_moved`), and leaves card and place.
        """
        if self.link and (other.link or not link_moved):
            return self.link == other.link
        return (self.card, self.bus) == (other.card, other.bus)

    def __str__(self) -> str:
        return self.link or (f"{self.card} at {self.bus}" if self.card or self.bus else "unknown")


UNKNOWN = Identity()


@dataclass(frozen=True)
class Offer:
    """What a driver offers, modes that OpenCV reads and formats that it does not, and which camera it drives."""

    modes: list[PictureMode] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    identity: Identity = UNKNOWN
    refused: SourceCode = ""  # why the device itself does not open

    @property
    def why_not(self) -> str:
        """Why such a camera cannot be read here; "" when it can, or nothing is known of it."""
        if self.modes or not self.unread:
            return ""
        formats = ", ".join(self.unread[:4])
        return f"gives {formats} alone, as a sensor at a CSI connector does; give --camera csi://0 or gst:PIPELINE"


def ask_driver(device: str, ioctl: Ioctl = fcntl.ioctl, by_id: Path = BY_ID) -> Offer:
    """What a device offers; nothing but its link when it is no camera, does not open or does not tell."""
    link = _link(Path(device), by_id)
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Offer(identity=Identity(link), refused=code_of(error))
    try:
        return _Asked(handle, ioctl).offer(link)
    finally:
        os.close(handle)


def _link(device: Path, by_id: Path) -> str:
    links = sorted(by_id.iterdir()) if by_id.is_dir() else []
    return next((link.name for link in links if link.resolve() == device.resolve()), "")


def best_mode(offered: list[PictureMode], asked: CameraMode, frame_rate_hz: int) -> CameraMode:
    """The mode to ask for: what was `asked`, completed by the best that the camera offers with it.

    In this order: as fast as the model (`frame_rate_hz`), at least SIZE, no larger than that, at RATE_HZ or close
    above it, without compression. `asked` comes back as it is when the camera offers nothing like it.
    """

    def rank(mode: PictureMode) -> tuple[float, ...]:
        area, least = mode.width * mode.height, SIZE[0] * SIZE[1]
        rate = round(mode.rate_hz)
        return (
            *(-min(rate, frame_rate_hz), -min(area, least), area),
            *(-min(rate, RATE_HZ), rate, mode.fourcc in COMPRESSED),
        )

    fitting = [
        mode
        for mode in offered
        if asked.fourcc in (None, mode.fourcc)
        and asked.size in (None, (mode.width, mode.height))
        and (asked.rate_hz is None or round(mode.rate_hz) >= asked.rate_hz)
    ]
    if not fitting:
        return asked
    best = min(fitting, key=rank)
    return CameraMode((best.width, best.height), asked.rate_hz or max(1, round(best.rate_hz)), best.fourcc)


class _Asked:
    """An open device's name, and its three lists: formats, sizes of a format, rates of a size."""

    def __init__(self, handle: int, ioctl: Ioctl) -> None:
        self._handle, self._ioctl = handle, ioctl

    def offer(self, link: str) -> Offer:
        modes, unread = [], []
        for fourcc, code in self._formats():
            if fourcc not in (*RAW, *COMPRESSED):
                unread.append(one_line(fourcc).strip())
                continue
            for width, height in self._sizes(code):
                rate_hz = self._rate_hz(code, width, height)
                if rate_hz is not None:
                    modes.append(PictureMode(fourcc, width, height, rate_hz))
        return Offer(modes, unread, self._identity(link))

    def _identity(self, link: str) -> Identity:
        data = bytearray(struct.calcsize(_CAPABILITY))
        try:
            self._ioctl(self._handle, _QUERY_CAPABILITY, data)
        except OSError:
            return Identity(link)
        card, bus = struct.unpack(_CAPABILITY, data)[1:3]
        return Identity(link, _text(card), _text(bus))

    def _formats(self) -> Iterator[tuple[str, int]]:
        for index in range(_MOST):
            told = self._ask(_ENUM_FORMATS, _FORMAT, index, _CAPTURE)
            if told is None:
                return
            code = int(told[4])
            yield code.to_bytes(4, "little").decode("ascii", errors="replace"), code

    def _sizes(self, code: int) -> Iterator[tuple[int, int]]:
        for index in range(_MOST):
            told = self._ask(_ENUM_SIZES, _SIZE, index, code)
            if told is None:
                return
            if told[2] == _DISCRETE:
                yield told[3], told[4]
                continue
            widths, heights = told[3:6], told[6:9]
            yield from (size for size in COMMON_SIZES if _within(size[0], widths) and _within(size[1], heights))
            return

    def _rate_hz(self, code: int, width: int, height: int) -> float | None:
        """The highest one: that of the shortest interval between pictures."""
        rates = []
        for index in range(_MOST):
            told = self._ask(_ENUM_INTERVALS, _INTERVAL, index, code, width, height)
            if told is None:
                break
            numerator, denominator = told[5:7]  # of a range its shortest
            if numerator and denominator:
                rates.append(denominator / numerator)
            if told[4] != _DISCRETE:
                break
        return max(rates, default=None)

    def _ask(self, number: int, layout: str, *begin: int) -> tuple[int, ...] | None:
        """The structure that the driver fills; None after the last one of a list."""
        data = bytearray(struct.calcsize(layout))
        struct.pack_into(f"={len(begin)}I", data, 0, *begin)
        try:
            self._ioctl(self._handle, _request(number, len(data)), data)
        except OSError:
            return None
        return struct.unpack(layout, data)


def _request(number: int, size: int) -> int:
    """_IOWR('V', number, structure of `size` bytes)."""
    return 3 << 30 | size << 16 | ord("V") << 8 | number


def _text(field: bytes) -> str:
    return one_line(field.partition(b"\0")[0].decode(errors="replace"))


def _within(value: int, bounds: tuple[int, ...]) -> bool:
    least, most, step = bounds
    return least <= value <= most and (value - least) % max(1, step) == 0
