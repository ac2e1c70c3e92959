"""Fault 4: after a replug the camera or microphone has another number, and another one has its old one."""

from __future__ import annotations

import errno
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.camera import CameraSource, resolve_device
from clcr_stream.sources.microphone import MicrophoneSource
from clcr_stream.sources.v4l2 import Identity, Offer, ask_driver
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

    def missed() -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return "no such camera" in source.report().reason

    assert eventually(missed)
    before = len(opened)
    link.symlink_to(devices[1])

    def found() -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return "video1" in opened

    assert eventually(found)
    source.close()
    assert "video0" not in opened[before:]


def test_a_camera_by_its_number_is_taken_again_under_another_one_and_no_other_under_its_own(tmp_path: Path) -> None:
    """The tree of /dev as udev keeps it: numbers come and go, a link stays with its camera."""
    links = tmp_path / "by-id"
    links.mkdir()
    devices = [tmp_path / f"video{number}" for number in (0, 1)]
    for device in devices:
        device.touch()
    link = links / "usb-Acme_Cam_123-video-index0"
    link.symlink_to(devices[0])
    opened: list[str] = []

    def opener(path: str) -> Unplugged:
        opened.append(Path(path).name)
        return Unplugged()

    def resolve(text: str) -> str | None:
        return str(devices[int(text)]) if text.isdecimal() else resolve_device(text, links)

    clock = SteppedClock()
    source = CameraSource("0", make_sinks(clock), opener, resolve, partial(ask_driver, by_id=links))
    source.start()
    assert eventually(lambda: opened == ["video0"])
    link.unlink()
    (links / "usb-Other_Cam_9-video-index0").symlink_to(devices[0])

    def stepped(reason: str) -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return reason in source.report().reason

    assert eventually(
        lambda: stepped("video0 is now usb-Other_Cam_9-video-index0 and not usb-Acme_Cam_123-video-index0")
    )
    before = len(opened)
    link.symlink_to(devices[1])
    assert eventually(lambda: stepped("opening it again"))
    source.close()
    assert set(opened[before:]) == {"video1"}


def test_without_a_link_a_camera_is_known_by_its_card_and_place() -> None:
    cameras = {"first": Identity("", "Acme Cam", "usb-1.2"), "other": Identity("", "Acme Cam", "usb-1.3")}
    plugged, opened = ["first"], []

    def opener(_path: str) -> Unplugged:
        opened.append(plugged[0])
        return Unplugged()

    clock = SteppedClock()
    source = CameraSource(
        *("0", make_sinks(clock), opener),
        lambda _: "/dev/video0",
        lambda _: Offer(identity=cameras.get(plugged[0], Identity())),
    )
    source.start()

    def stepped(reason: str) -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return reason in source.report().reason

    assert eventually(lambda: stepped("opening it again"))
    plugged[:] = ["other"]
    assert eventually(lambda: stepped("/dev/video0 is now Acme Cam at usb-1.3 and not Acme Cam at usb-1.2"))
    plugged[:] = ["nameless"]
    assert eventually(lambda: stepped("/dev/video0 is now unknown"))
    plugged[:] = ["first"]
    assert eventually(lambda: stepped("opening it again"))
    source.close()
    assert set(opened) == {"first"}


def test_a_twin_that_takes_the_link_is_not_taken_for_the_camera_that_is_still_there(tmp_path: Path) -> None:
    """Cameras of one make without serial numbers have one link: it shows the one that was plugged in last."""
    devices = [tmp_path / f"video{number}" for number in (0, 1)]
    links = tmp_path / "by-id"
    links.mkdir()
    link = links / "usb-Acme_Cam-video-index0"
    opened: list[str] = []

    def opener(path: str) -> Unplugged:
        opened.append(Path(path).name)
        return Unplugged()

    def resolve(text: str) -> str | None:
        return str(devices[int(text)]) if text.isdecimal() else resolve_device(text, links)

    def ask(path: str) -> Offer:
        return Offer(identity=Identity(ask_driver(path, by_id=links).identity.link, "Acme Cam", Path(path).name))

    for device in devices:
        device.touch()
    link.symlink_to(devices[0])
    clock = SteppedClock()
    source = CameraSource("0", make_sinks(clock), opener, resolve, ask)
    source.start()
    assert eventually(lambda: opened == ["video0"])
    link.unlink()
    link.symlink_to(devices[1])

    def opened_again() -> bool:
        clock.move_to(clock.now_ns() + 6 * NS_PER_S)
        return len(opened) >= 3

    assert eventually(opened_again)
    source.close()
    assert set(opened) == {"video0"}


def test_a_driver_says_its_card_and_place(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()

    def driver(_handle: int, request: int, data: bytearray) -> int:
        if request != 0x80685600:  # VIDIOC_QUERYCAP as linux/videodev2.h has it
            raise OSError(errno.EINVAL, "Invalid argument")
        struct.pack_into("=16s32s32s", data, 0, b"uvcvideo", b"Acme Cam: Acme\nCam", b"usb-0000:00:14.0-2")
        return 0

    links = tmp_path / "by-id"
    found = ask_driver(str(tmp_path / "video0"), driver, links).identity
    assert found == Identity("", "Acme Cam: Acme Cam", "usb-0000:00:14.0-2")
    links.mkdir()
    (links / "usb-Acme").symlink_to("../video0")
    assert ask_driver(str(tmp_path / "video0"), driver, links).identity.link == "usb-Acme"


class SoundCards:
    """A PyAudio module whose inputs are those plugged in; each stream falls silent at once."""

    paInt16, paContinue, paInputOverflow = 8, 0, 2

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.opened: list[str] = []

    def PyAudio(self) -> SoundCards:
        return self

    def get_device_count(self) -> int:
        return len(self.names)

    def get_device_info_by_index(self, index: int) -> dict[str, Any]:
        return {"index": index, "name": self.names[index], "maxInputChannels": 1, "defaultSampleRate": 16000.0}

    def open(self, **options: Any) -> Any:
        self.opened.append(self.names[options["input_device_index"]])
        return self

    def close(self) -> None:
        pass

    def terminate(self) -> None:
        pass


@pytest.mark.parametrize("text", ["1", "name:usb"])
def test_the_same_microphone_is_opened_under_its_new_number_and_never_another(text: str, tmp_path: Path) -> None:
    """ALSA numbers its cards anew after a replug; a link in /dev/snd/by-id says which one is which."""
    acme, other = tmp_path / "usb-Acme_Mic_123-00", tmp_path / "usb-Other_Mic_9-00"
    acme.symlink_to("../controlC1")
    cards = SoundCards("Built-in (hw:0,0)", "USB Mic (hw:1,0)", "USB Mic (hw:2,0)")
    clock = SteppedClock()
    source = MicrophoneSource(text, make_sinks(clock), lambda: cards, tmp_path)
    source.start()

    def stepped(reason: str) -> bool:
        clock.move_to(clock.now_ns() + 3 * NS_PER_S)
        return reason in source.report().reason

    assert eventually(lambda: stepped("opening the device again"))
    assert set(cards.opened) == {"USB Mic (hw:1,0)"}
    acme.unlink()
    other.symlink_to("../controlC1")
    assert eventually(lambda: stepped("is now USB Mic (hw:1,0) and not usb-Acme_Mic_123-00,0"))
    before = len(cards.opened)
    acme.symlink_to("../controlC2")
    assert eventually(lambda: len(cards.opened) > before and stepped("opening the device again"))
    source.close()
    assert set(cards.opened[before:]) == {"USB Mic (hw:2,0)"}


def test_a_twin_that_takes_the_link_is_not_taken_for_the_microphone_that_is_still_there(tmp_path: Path) -> None:
    link = tmp_path / "usb-Acme_Mic-00"
    link.symlink_to("../controlC2")
    cards = SoundCards("USB Mic (hw:1,0)", "USB Mic (hw:2,0)")
    clock = SteppedClock()
    source = MicrophoneSource("1", make_sinks(clock), lambda: cards, tmp_path)
    source.start()

    def stepped(count: int) -> bool:
        clock.move_to(clock.now_ns() + 3 * NS_PER_S)
        return len(cards.opened) >= count

    assert eventually(lambda: stepped(1))
    link.unlink()
    link.symlink_to("../controlC1")
    before = len(cards.opened)
    assert eventually(lambda: stepped(before + 2))
    source.close()
    assert set(cards.opened) == {"USB Mic (hw:2,0)"}


def test_without_a_link_a_microphone_is_known_by_its_name() -> None:
    cards = SoundCards("Built-in", "USB Mic", "pulse")
    clock = SteppedClock()
    source = MicrophoneSource("1", make_sinks(clock), lambda: cards)
    source.start()

    def stepped(reason: str) -> bool:
        clock.move_to(clock.now_ns() + 3 * NS_PER_S)
        return reason in source.report().reason

    assert eventually(lambda: stepped("opening the device again"))
    cards.names[:] = ["Built-in", "pulse"]
    assert eventually(lambda: stepped("input 1 is now pulse and not USB Mic"))
    cards.names[:] = ["USB Mic", "Built-in"]
    assert eventually(lambda: stepped("opening the device again"))
    source.close()
    assert set(cards.opened) == {"USB Mic"}
