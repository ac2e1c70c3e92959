"""A UVC camera at the level of file descriptors: a library (fake_camera.c) that is preloaded into the real command."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np

from clcr_stream.sources.synthetic.person import Person, PersonOptions

DEVICE = "/dev/video42"  # need not exist
GOOD, HANGS, WEDGED, REPEATS, DARK, COVERED, BROKEN = range(7)  # as in fake_camera.c
DELAY_MS = 25  # from a buffer's stamp to its delivery
PICTURES = 10
JPEG_ROOM = 1 << 18
FIELDS = ("plug", "mood", "fourcc", "width", "height", "rate_hz", "opened", "started", "frames", "jump_s")
WHY_NOT = None if shutil.which("cc") else "no C compiler: apt-get install gcc"


class FakeCamera:
    """One camera for whatever runs in its `environment`; a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, control, film = folder / "fake_camera.so", folder / "control", folder / "film"
        code = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl", "-lpthread"], check=True)
        control.write_bytes(bytes(4 * len(FIELDS)))
        film.write_bytes(_film())
        self._control = control
        self.environment = {
            "LD_PRELOAD": str(library),
            "CLCR_TEST_CAMERA": DEVICE,
            "CLCR_TEST_CAMERA_CONTROL": str(control),
            "CLCR_TEST_CAMERA_FILM": str(film),
        }

    def __enter__(self) -> FakeCamera:
        with self._control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.close()

    def __getitem__(self, field: str) -> int:
        """What the camera tells of itself: the mode in which it was started last, and how often it was."""
        value: int = struct.unpack_from("=i", self._shared, 4 * FIELDS.index(field))[0]
        return value

    def be(self, mood: int) -> None:
        """GOOD again, or one of the others, from the next picture on."""
        self._put("mood", mood)

    def pull(self) -> None:
        """Take its cable out."""
        assert self["plug"] % 2 == 0
        self._put("plug", self["plug"] + 1)

    def plug_in(self) -> None:
        """Put its cable in again."""
        assert self["plug"] % 2 == 1
        self._put("plug", self["plug"] + 1)

    def jump(self, seconds: int) -> None:
        """Its stamps are so many seconds off from now on."""
        self._put("jump_s", seconds)

    @property
    def fourcc(self) -> str:
        """The format in which it was started last."""
        return self["fourcc"].to_bytes(4, "little").decode("ascii")

    def _put(self, field: str, value: int) -> None:
        struct.pack_into("=i", self._shared, 4 * FIELDS.index(field), value)


def real_loopbacks() -> list[str]:
    """Devices of the kernel's own test drivers, v4l2loopback and vivid, which somebody may have loaded."""
    found = []
    for name in sorted(Path("/sys/class/video4linux").glob("video*/name")):
        told = name.read_text(errors="replace").lower()
        device = Path("/dev") / name.parent.name
        if ("vivid" in told or "dummy" in told or "loopback" in told) and os.access(device, os.R_OK | os.W_OK):
            found.append(str(device))
    return found


def _film() -> bytes:
    """The pictures of test:// as YUYV of video range, and then as JPEG in rooms of one size."""
    person = Person(PersonOptions(), 16_000)
    pictures = [person.picture(number / 7) for number in range(PICTURES)]
    return b"".join(map(_yuyv, pictures)) + b"".join(map(_jpeg, pictures))


def _yuyv(rgb: np.ndarray) -> bytes:
    """(480, 640, 3) RGB as 4:2:2."""
    yuv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV), np.float32)
    packed = np.empty((*rgb.shape[:2], 2), np.float32)
    packed[..., 0] = 16 + yuv[..., 0] * 219 / 255
    packed[:, 0::2, 1] = 128 + (yuv[:, 0::2, 1] - 128)
    packed[:, 1::2, 1] = 128 + (yuv[:, 0::2, 2] - 128)
    return np.clip(np.round(packed), 0, 255).astype(np.uint8).tobytes()


def _jpeg(rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done and len(data) <= JPEG_ROOM
    return struct.pack("=i", len(data)) + data.tobytes().ljust(JPEG_ROOM, b"\0")
