"""What a camera offers, with a driver that answers at the level of ioctl as Linux' uvcvideo does."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.sources.camera_mode import CameraMode
from clcr_stream.sources.v4l2 import Offer, PictureMode, ask_driver, best_mode

ENUM_FMT, ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = 0xC0405602, 0xC02C564A, 0xC034564B  # as linux/videodev2.h has them
Lists = dict[str, dict[tuple[int, int], list[int]]]  # rates by size by format


class Driver:
    """Answers the three requests for lists, and no other; each list ends with EINVAL."""

    def __init__(self, offer: Lists) -> None:
        self._offer = offer

    def __call__(self, handle: int, request: int, data: bytearray) -> int:
        assert handle > 2 and len(data) == request >> 16 & 0x3FFF
        answers = {ENUM_FMT: self._format, ENUM_FRAMESIZES: self._size, ENUM_FRAMEINTERVALS: self._interval}
        try:
            answers[request](data)
        except (KeyError, IndexError):
            raise OSError(errno.EINVAL, "Invalid argument") from None
        return 0

    def _format(self, data: bytearray) -> None:
        index, kind = struct.unpack_from("=II", data)
        if kind != 1:
            raise KeyError(kind)
        struct.pack_into("=4s", data, 44, list(self._offer)[index].encode())

    def _size(self, data: bytearray) -> None:
        index, code = struct.unpack_from("=I4s", data)
        struct.pack_into("=III", data, 8, 1, *list(self._offer[code.decode()])[index])

    def _interval(self, data: bytearray) -> None:
        index, code, width, height = struct.unpack_from("=I4sII", data)
        rate_hz = self._offer[code.decode()][width, height][index]
        struct.pack_into("=III", data, 16, 1, 10_000, rate_hz * 10_000)


class RangeDriver(Driver):
    """Offers a range of sizes and of rates, as virtual cameras do."""

    def __init__(self) -> None:
        super().__init__({"NV12": {(0, 0): [1]}})

    def _size(self, data: bytearray) -> None:
        struct.pack_into("=I6I", data, 8, 3, 32, 1280, 16, 32, 1024, 16)

    def _interval(self, data: bytearray) -> None:
        struct.pack_into("=I6I", data, 16, 2, 1, 60, 1, 5, 0, 1)


class EndlessDriver(Driver):
    """Has no end of formats."""

    def _format(self, data: bytearray) -> None:
        struct.pack_into("=4s", data, 44, b"YUYV")


@pytest.fixture
def device(tmp_path: Path) -> str:
    (tmp_path / "video0").touch()
    return str(tmp_path / "video0")


OFFERS = st.dictionaries(
    st.sampled_from(["YUYV", "MJPG", "NV12", "H264", "Z16 ", "Y10B"]),
    st.dictionaries(
        st.tuples(st.integers(1, 8192), st.integers(1, 8192)),
        st.lists(st.integers(1, 240), min_size=1, max_size=4),
        max_size=6,
    ),
    max_size=4,
)


@given(offer=OFFERS)
@settings(max_examples=60, deadline=None)
def test_every_mode_that_can_be_read_is_found_at_its_highest_rate(
    offer: Lists, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "video-any"
    path.touch()
    expected = [
        PictureMode(fourcc, *size, max(rates))
        for fourcc, sizes in offer.items()
        if fourcc in ("YUYV", "MJPG", "NV12")  # OpenCV has no decoder for the others
        for size, rates in sizes.items()
    ]
    found = ask_driver(str(path), Driver(offer))
    assert found.modes == expected
    assert found.unread == [fourcc.strip() for fourcc in offer if fourcc not in ("YUYV", "MJPG", "NV12")]
    assert bool(found.why_not) == bool(found.unread and not found.modes)


def test_of_a_range_the_common_sizes_are_tried(device: str) -> None:
    assert ask_driver(device, RangeDriver()).modes == [
        PictureMode("NV12", 640, 480, 60.0),
        PictureMode("NV12", 1280, 720, 60.0),
    ]


def test_a_driver_without_an_end_is_believed_so_far(device: str) -> None:
    assert len(ask_driver(device, EndlessDriver({"YUYV": {(640, 480): [30]}})).modes) == 256


def test_what_is_no_camera_has_no_modes(device: str, tmp_path: Path) -> None:
    assert ask_driver(device) == Offer(), "an ordinary file"
    assert ask_driver(str(tmp_path / "none")) == Offer(refused="not_found")
    assert ask_driver(device, Driver({})) == Offer()


# A common webcam: raw pictures are fast only when small.
WEBCAM = [
    PictureMode("YUYV", 320, 240, 30.0),
    PictureMode("YUYV", 640, 480, 30.0),
    PictureMode("YUYV", 1280, 720, 10.0),
    PictureMode("MJPG", 640, 480, 60.0),
    PictureMode("MJPG", 1280, 720, 30.0),
    PictureMode("MJPG", 1920, 1080, 30.0),
]


@pytest.mark.parametrize(
    ("asked", "best"),
    [
        (CameraMode(), CameraMode((640, 480), 30, "YUYV")),
        (CameraMode(fourcc="MJPG"), CameraMode((640, 480), 60, "MJPG")),
        (CameraMode(size=(1280, 720)), CameraMode((1280, 720), 30, "MJPG")),
        (CameraMode(rate_hz=50), CameraMode((640, 480), 50, "MJPG")),
        (CameraMode((1280, 720), 5, "YUYV"), CameraMode((1280, 720), 5, "YUYV")),
        (CameraMode(size=(800, 600)), CameraMode(size=(800, 600))),
        (CameraMode(fourcc="NV12"), CameraMode(fourcc="NV12")),
    ],
)
def test_what_was_asked_is_completed_by_the_best_that_goes_with_it(asked: CameraMode, best: CameraMode) -> None:
    for offered in (WEBCAM, WEBCAM[::-1]):
        assert best_mode(offered, asked, frame_rate_hz=15) == best


@pytest.mark.parametrize(
    ("offered", "best"),
    [
        # Fast enough comes before large, large enough before small, and no more than that.
        (["YUYV 1280x720 5", "YUYV 320x240 30"], "YUYV 320x240 30"),
        (["YUYV 1280x720 15", "YUYV 320x240 30"], "YUYV 1280x720 15"),
        (["MJPG 1920x1080 30", "MJPG 1280x720 30"], "MJPG 1280x720 30"),
        (["YUYV 640x480 15", "MJPG 640x480 30"], "MJPG 640x480 30"),
        (["MJPG 640x480 120", "MJPG 640x480 60"], "MJPG 640x480 60"),
    ],
)
def test_the_order_of_what_counts(offered: list[str], best: str) -> None:
    def mode(text: str) -> PictureMode:
        fourcc, size, rate = text.split()
        width, height = map(int, size.split("x"))
        return PictureMode(fourcc, width, height, float(rate))

    taken, expected = best_mode([mode(text) for text in offered], CameraMode(), 15), mode(best)
    assert taken == CameraMode((expected.width, expected.height), int(expected.rate_hz), expected.fourcc)
