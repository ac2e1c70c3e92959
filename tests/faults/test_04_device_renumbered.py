"""Fault 4: after a replug the camera has another number, and another camera has its old one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.camera import CameraSource, resolve_device
from media import SteppedClock, eventually, make_sinks


class Unplugged:
    """A device that opens, and fails at the first picture."""

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        return False

    def retrieve(self) -> tuple[bool, object]:
        return False, None

    def release(self) -> None:
        pass

    def set(self, _prop: int, _value: float, /) -> bool:
        return False

    def get(self, _prop: int, /) -> float:
        return 0.0


def test_the_same_physical_camera_is_opened_under_its_new_number_and_never_another(tmp_path: Path) -> None:
    (tmp_path / "by-id").mkdir()
    devices = [tmp_path / f"video{number}" for number in (0, 1)]
    for device in devices:
        device.touch()
    link = tmp_path / "by-id" / "usb-Acme_Cam_123-video-index0"
    other = tmp_path / "by-id" / "usb-Other_Cam_9-video-index0"
    link.symlink_to(devices[0])
    opened: list[str] = []

    def opener(path: str) -> Unplugged:
        opened.append(Path(path).name)
        return Unplugged()

    clock = SteppedClock()
    resolve = partial(resolve_device, by_id=tmp_path / "by-id")
    source = CameraSource("by-id:Acme_Cam", make_sinks(clock), opener, resolve)
    source.start()
    assert eventually(lambda: opened == ["video0"])
    link.unlink()
    other.symlink_to(devices[0])  # somebody else's camera has taken the number
    for _ in range(5):
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
    assert eventually(lambda: "no such camera" in source.report().reason)
    before = len(opened)
    link.symlink_to(devices[1])

    def found() -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return "video1" in opened

    assert eventually(found)
    source.close()
    assert "video0" not in opened[before:]
