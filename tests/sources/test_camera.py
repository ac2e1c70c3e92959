"""A camera that is absent, comes, breaks, freezes and returns, with a fake OpenCV capture on a clock the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import Sinks
from clcr_stream.sources.camera import CameraSource, resolve_device
from clcr_stream.sources.camera_mode import CameraMode, split_mode
from clcr_stream.sources.health import REASONS, STALE_PICTURE_NS
from clcr_stream.sources.v4l2 import Offer, PictureMode
from clcr_stream.window.conditions import FROZEN_NS
from media import ORIGIN_NS, SteppedClock, eventually, make_sinks

FRAME_NS = NS_PER_S // 15


class FakeCapture:
    """Gives `pictures` one per grab at 15 Hz of the test's clock, then fails as a pulled cable does."""

    def __init__(self, clock: SteppedClock, pictures: list[np.ndarray], opened: bool = True) -> None:
        self._clock, self._pictures, self._opened = clock, iter(pictures), opened
        self._current: object = None
        self.released = False

    def isOpened(self) -> bool:
        return self._opened

    def grab(self) -> bool:
        self._current = next(self._pictures, None)
        self._clock.move_to(self._clock.now_ns() + FRAME_NS)
        return self._current is not None

    def retrieve(self) -> tuple[bool, object]:
        return True, self._current

    def release(self) -> None:
        self.released = True

    def set(self, _prop: int, _value: float, /) -> bool:
        return False

    def get(self, _prop: int, /) -> float:
        return 0.0  # what drivers give that stamp nothing


class ModedCapture(FakeCapture):
    """A driver with one size and two formats, which takes what is nearest to what it is asked for."""

    def __init__(self, clock: SteppedClock, pictures: list[np.ndarray]) -> None:
        super().__init__(clock, pictures)
        self.mode = {3: 640.0, 4: 480.0, 5: 30.0, 6: float(cv2.VideoWriter.fourcc(*"YUYV"))}
        self.asked: list[int] = []

    def set(self, prop: int, value: float, /) -> bool:
        self.asked.append(prop)
        if prop in (5, 6):
            self.mode[prop] = value
        return prop in (5, 6)

    def get(self, prop: int, /) -> float:
        return self.mode.get(prop, 0.0)


def pauses(clock: SteppedClock) -> bool:
    """Whether the source waits for a time that is still to come; one that is moved before would be too early."""
    return any(deadline_ns > clock.now_ns() for deadline_ns in list(clock.waits))


def test_a_cameras_mode_is_asked_for_and_what_the_driver_takes_instead_is_told() -> None:
    clock = SteppedClock()
    captures = [ModedCapture(clock, pictures(10)), ModedCapture(clock, pictures(10, 100))]
    first, second = captures
    sinks = make_sinks(clock)
    opened: list[str | None] = []
    source = CameraSource(
        "0?size=1280x720&rate=15&format=mjpg",
        sinks,
        lambda _: captures.pop(0),
        lambda name: opened.append(name) or "/dev/video0",  # type: ignore[func-returns-value]
    )
    source.start()
    assert eventually(lambda: first.released and pauses(clock))
    clock.move_to(clock.now_ns() + 10 * NS_PER_S)
    assert eventually(lambda: second.released), "it is opened again, in the same mode"
    source.close()
    assert set(opened) == {"0"} and source.name == "0?size=1280x720&rate=15&format=mjpg"
    for capture in (first, second):
        assert capture.asked == [6, 3, 4, 5], "sizes and rates are offered by format"
        assert capture.mode[6] == cv2.VideoWriter.fourcc(*"MJPG") and capture.mode[5] == 15
    told = CameraMode((1280, 720), 15, "MJPG").refused(ModedCapture(clock, []))
    assert told.startswith("the camera takes size=640x480, rate=30, format=YUYV instead")


def test_without_a_mode_the_best_one_is_asked_for() -> None:
    clock = SteppedClock()
    capture = ModedCapture(clock, pictures(10))
    offer = Offer([PictureMode("YUYV", 640, 480, 5.0), PictureMode("MJPG", 640, 480, 60.0)])
    source = CameraSource("0", make_sinks(clock), lambda _: capture, lambda _: "/dev/video0", lambda _: offer)
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    assert capture.asked == [6, 3, 4, 5]
    assert capture.mode[6] == cv2.VideoWriter.fourcc(*"MJPG") and capture.mode[5] == 60


def test_a_bare_sensor_says_how_to_read_it() -> None:
    clock = SteppedClock()
    closed = FakeCapture(clock, [], opened=False)
    source = CameraSource(
        "0", make_sinks(clock), lambda _: closed, lambda _: "/dev/video0", lambda _: Offer([], ["RG10", "RG12"])
    )
    source.start()
    assert eventually(lambda: "/dev/video0 gives RG10, RG12 alone" in source.report().reason)
    assert "csi://0" in source.report().reason and source.report().code == "not_media"
    source.close()


@pytest.mark.parametrize(
    "mode", ["size=0x0", "size=big", "rate=0", "rate=x", "format=png", "zoom=2", "", "size=640x480&x"]
)
def test_a_mode_that_is_none_is_refused_with_what_is_allowed(mode: str) -> None:
    with pytest.raises(SourceError, match="size=WIDTHxHEIGHT"):
        split_mode(f"/dev/video0?{mode}")


class StampedCapture(FakeCapture):
    """Stamps each buffer 25 ms before it can be grabbed, as V4L2 does, in ms of the host's monotonic clock."""

    def get(self, prop: int, /) -> float:
        return (self._clock.now_ns() - 25_000_000) / 1e6 if prop == cv2.CAP_PROP_POS_MSEC else 0.0


def pictures(count: int, first: int = 0) -> list[np.ndarray]:
    return [np.full((48, 64, 3), first + number, np.uint8) for number in range(count)]


def camera(
    clock: SteppedClock, opener: Callable[[str], Any], path: str | None = "/dev/video0"
) -> tuple[CameraSource, Sinks]:
    sinks = make_sinks(clock)
    return CameraSource("0", sinks, opener, lambda _: path), sinks


def test_a_missing_camera_is_waited_for_every_second_and_none_else_is_taken() -> None:
    clock = SteppedClock()
    opened: list[str] = []
    source, sinks = camera(clock, lambda path: opened.append(path), path=None)
    source.start()
    for step in range(1, 4):
        assert clock.await_wait(ORIGIN_NS + step * NS_PER_S)
        assert source.report().state == "absent"
        assert "no such camera" in source.report().reason and source.report().code == "no_device"
        clock.move_to(ORIGIN_NS + step * NS_PER_S)
    source.close()
    assert opened == []
    assert sinks.rings.vision.frames_in == 0


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (Offer(refused="not_permitted"), "not_permitted"),
        (Offer(refused="in_use"), "in_use"),  # of a driver that allows one opener only
        (Offer([PictureMode("YUYV", 640, 480, 30.0)]), "in_use"),
        (Offer(), ""),
    ],
)
def test_why_a_camera_does_not_open_is_said_as_far_as_its_driver_tells(offer: Offer, code: str) -> None:
    clock = SteppedClock()
    closed = FakeCapture(clock, [], opened=False)
    source = CameraSource("0", make_sinks(clock), lambda _: closed, lambda _: "/dev/video0", lambda _: offer)
    source.start()
    assert clock.await_wait(ORIGIN_NS + NS_PER_S)
    assert closed.released and (source.report().state, source.report().code) == ("absent", code)
    source.close()


def test_a_camera_that_comes_later_is_picked_up() -> None:
    clock = SteppedClock()
    captures = [FakeCapture(clock, [], opened=False), FakeCapture(clock, pictures(30))]
    first, second = captures
    source, sinks = camera(clock, lambda _: captures.pop(0))
    source.start()
    assert clock.await_wait(ORIGIN_NS + NS_PER_S)
    assert first.released
    clock.move_to(ORIGIN_NS + 2 * NS_PER_S)
    assert eventually(lambda: second.released)
    source.close()
    assert sinks.rings.vision.frames_in == 30
    items = sinks.rings.vision.read(sinks.grid.slot_of(ORIGIN_NS + 2 * NS_PER_S), 31)
    assert items.valid.sum() >= 29


def test_a_picture_was_captured_when_its_buffer_was_stamped() -> None:
    clock = SteppedClock()
    capture = StampedCapture(clock, pictures(10))
    source, sinks = camera(clock, lambda _: capture)
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    captured = sinks.rings.vision.read(0, 12).captured_ns
    expected = [ORIGIN_NS + (number + 1) * FRAME_NS - 25_000_000 for number in range(10)]
    assert captured[captured >= 0].tolist() == pytest.approx(expected, abs=1000)
    timing = source.report().timing
    assert timing is not None and (timing.by, timing.offset_ms, timing.jumps) == ("device", 0.0, 0)


def test_a_camera_that_fails_is_released_and_opened_again() -> None:
    clock = SteppedClock()
    captures = [FakeCapture(clock, pictures(5)), FakeCapture(clock, pictures(5, 100))]
    first, second = captures
    source, sinks = camera(clock, lambda _: captures.pop(0))
    source.start()
    assert eventually(lambda: first.released)
    assert eventually(lambda: source.report().state == "lost")
    assert "opening it again" in source.report().reason and source.report().code == "ended"
    assert source.report().counts["reopened"] == 0
    assert eventually(lambda: pauses(clock))
    clock.move_to(clock.now_ns() + 2 * NS_PER_S)
    assert eventually(lambda: second.released)
    source.close()
    assert source.report().counts["reopened"] == 1
    assert sinks.rings.vision.frames_in == 10


def test_frames_are_stamped_when_they_are_grabbed() -> None:
    clock = SteppedClock()
    capture = FakeCapture(clock, pictures(3))
    source, sinks = camera(clock, lambda _: capture)
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    items = sinks.rings.vision.read(0, 4)
    assert items.captured_ns[1:].tolist() == [ORIGIN_NS + number * FRAME_NS for number in (1, 2, 3)]
    assert items.frames[1:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_frozen_picture_is_not_taken_for_a_live_one() -> None:
    clock = SteppedClock()
    states: list[tuple[str, str]] = []
    frozen = [np.full((48, 64, 3), 9, np.uint8)] * 60
    source, sinks = camera(clock, lambda _: capture)

    class Watched(FakeCapture):
        def grab(self) -> bool:
            report = source.report()
            states.append((report.state, report.reason))
            return super().grab()

    capture = Watched(clock, frozen + pictures(5, 50))
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    assert ("frozen", REASONS["frozen"]) in states
    assert source.report().counts["frozen_frames"] >= 25
    assert states[-1][0] == "live"
    assert sinks.rings.vision.frames_in < 65


@pytest.mark.parametrize(("same_for_ns", "frozen"), [(FROZEN_NS - 1, 0), (FROZEN_NS, 1)])
def test_a_picture_is_frozen_from_the_limit_of_sameness_on(same_for_ns: int, frozen: int) -> None:
    clock = SteppedClock()
    source, _ = camera(clock, lambda _: capture)
    times_ns = iter([ORIGIN_NS + NS_PER_S, ORIGIN_NS + NS_PER_S + same_for_ns])

    class Timed(FakeCapture):
        def grab(self) -> bool:
            self._current = next(self._pictures, None)
            clock.move_to(next(times_ns, clock.now_ns()))
            return self._current is not None

    capture = Timed(clock, pictures(1) * 2)
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    assert source.report().counts.get("frozen_frames", 0) == frozen


class HangingCapture(FakeCapture):
    """A driver that gives its pictures and then does not return from grab until it is let go."""

    def __init__(self, clock: SteppedClock, pictures: list[np.ndarray]) -> None:
        super().__init__(clock, pictures)
        self.left = len(pictures)
        self.hangs, self.let_go = threading.Event(), threading.Event()

    def grab(self) -> bool:
        if self.left == 0:
            self.hangs.set()
            self.let_go.wait(10)
            return False
        self.left -= 1
        return super().grab()


def test_a_hanging_camera_is_reported_stale_within_a_second() -> None:
    clock = SteppedClock()
    capture = HangingCapture(clock, pictures(3))
    source, _ = camera(clock, lambda _: capture)
    source.start()
    assert capture.hangs.wait(10)
    clock.move_to(clock.now_ns() + STALE_PICTURE_NS)
    assert source.report().state == "live"
    clock.move_to(clock.now_ns() + 1)
    assert source.report().state == "stale"
    assert source.report().reason == "no new picture for 0.6 s"
    assert source.report().since_ns == clock.now_ns() - 1
    capture.let_go.set()
    source.close()


@pytest.mark.parametrize("broken", [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), b"x"])
def test_a_broken_picture_is_counted_and_leaves_its_slot_free(broken: object) -> None:
    class Broken(FakeCapture):
        def retrieve(self) -> tuple[bool, object]:
            return True, broken

    clock = SteppedClock()
    capture = Broken(clock, pictures(1))
    source, sinks = camera(clock, lambda _: capture)
    source.start()
    assert eventually(lambda: capture.released)
    source.close()
    assert source.report().counts["bad_frames"] == 1
    assert sinks.rings.vision.frames_in == 0


def test_devices_are_resolved_by_index_path_and_stable_name(tmp_path: Path) -> None:
    device = tmp_path / "video7"
    device.touch()
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    for number in (0, 1):
        (by_id / f"usb-Acme_Cam_123-video-index{number}").symlink_to(device)
    assert resolve_device("by-id:usb-Acme_Cam_123-video-index0", by_id) == str(device)
    assert resolve_device("by-id:Acme_Cam", by_id) == str(device)
    assert resolve_device("by-id:Other", by_id) is None
    assert resolve_device("by-id:Acme", tmp_path / "none") is None
    assert resolve_device("9999") is None
    assert resolve_device("v4l2:/dev/null") == "/dev/null"
    with pytest.raises(SourceError, match="not a device"):
        resolve_device("/dev/../etc/passwd")


def test_two_cameras_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    for serial in (1, 2):
        (tmp_path / f"usb-Acme_{serial}-video-index0").touch()
    assert resolve_device("by-id:Acme", tmp_path) is None
    assert resolve_device("by-id:Acme_2", tmp_path) is not None
