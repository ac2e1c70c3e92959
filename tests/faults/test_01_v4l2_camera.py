"""Faults 1 to 3 of a local camera: OpenCV's V4L2 on file descriptors that answer as a UVC camera's driver does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crowd import slowdown
from fake_camera import DELAY_MS, DEVICE, GOOD, HANGS, WEDGED, WHY_NOT, FakeCamera, real_loopbacks
from faulty import expect_state, seconds, source, watched
from job_process import Message

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
Record = Callable[[str, object], None]


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[FakeCamera]:
    with FakeCamera(tmp_path / "camera") as made:
        yield made


def seen(prediction: Message) -> bool:
    return bool(prediction["modalities"]["vision"]["coverage"] > 0.2)


def test_a_local_camera_runs_in_its_best_mode_and_its_pictures_are_placed_by_their_stamps(
    camera: FakeCamera, tmp_path: Path, record_property: Record
) -> None:
    with watched(tmp_path, "--camera", DEVICE, "--mic", "none", extra=camera.environment) as session:
        expect_state(session, "live", 30)
        session.expect(seen, 30)
        last = session.expect(lambda one: source(one)["counts"]["frames"] >= 90, 30, "status")
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert (camera.fourcc, camera["width"], camera["height"], camera["rate_hz"]) == ("YUYV", 640, 480, 30)
    told = source(last.message)
    record_property("v4l2_timing", told["timing"])
    assert (told["timing"]["by"], told["timing"]["jumps"]) == ("device", 0)
    assert DELAY_MS <= told["timing"]["delay_ms"] <= DELAY_MS + 20 * slowdown()
    assert told["reason"] is None and camera["started"] == 1, "nothing was refused, and it was started once"


def test_a_mode_that_was_asked_for_reaches_the_driver_and_one_it_has_not_is_told(
    camera: FakeCamera, tmp_path: Path
) -> None:
    for mode, expected, reason in (
        ("format=mjpg", ("MJPG", 640, 480, 30), ""),
        ("size=1280x720", ("YUYV", 1280, 720, 10), ""),
        ("size=800x600&rate=60", ("YUYV", 640, 480, 30), "the camera takes size=640x480, rate=30 instead"),
    ):
        given = ("--camera", f"{DEVICE}?{mode}", "--mic", "none")
        with watched(tmp_path / mode, *given, extra=camera.environment) as session:
            live = expect_state(session, "live", 30)
            session.expect(seen, 30)
            code, _ = session.terminate()
        assert code == 0, session.stderr()
        assert (camera.fourcc, camera["width"], camera["height"], camera["rate_hz"]) == expected
        assert (source(live.message)["reason"] or "").startswith(reason)


def test_a_local_camera_that_hangs_is_told_within_a_second_and_back_within_three(
    camera: FakeCamera, tmp_path: Path, record_property: Record
) -> None:
    told, back = [], []
    with watched(tmp_path, "--camera", DEVICE, "--mic", "none", extra=camera.environment) as session:
        expect_state(session, "live", 30)
        for _ in range(3):
            hung_ns = session.now_ns()
            camera.be(HANGS)
            told.append(seconds(expect_state(session, "stale", 10, hung_ns), hung_ns))
            marked = session.expect(lambda one: "vision_stale" in one["degraded"], 10, after_ns=hung_ns)
            told.append(seconds(marked, hung_ns))
            good_ns = session.now_ns()
            camera.be(GOOD)
            back.append(seconds(expect_state(session, "live", 10, good_ns), good_ns))
        camera.be(HANGS)
        expect_state(session, "stale", 10, session.now_ns())
        code, ended_s = session.terminate()
    assert code == 0, session.stderr()
    record_property("fault_01_v4l2", {"told_s": told, "back_s": back, "ended_while_it_hangs_s": ended_s})
    assert max(told) <= 1.0 * slowdown() and max(back) <= 3.0 * slowdown()
    assert ended_s <= 4.0 * slowdown(), "a driver that gives nothing does not hold up the session's end"


def test_a_local_camera_that_hangs_until_it_is_started_again_is_started_again(
    camera: FakeCamera, tmp_path: Path, record_property: Record
) -> None:
    with watched(tmp_path, "--camera", DEVICE, "--mic", "none", extra=camera.environment) as session:
        expect_state(session, "live", 30)
        hung_ns = session.now_ns()
        camera.be(WEDGED)
        expect_state(session, "stale", 10, hung_ns)
        lost = expect_state(session, "lost reconnecting", 30, hung_ns)
        live = expect_state(session, "live", 30, lost.arrived_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    back_s = seconds(live, hung_ns)
    record_property("fault_01_v4l2_wedged", {"lost_s": seconds(lost, hung_ns), "live_s": back_s})
    assert back_s <= 4.0 + 2.0 * slowdown(), "OpenCV's own limit is 10 s"
    assert camera["started"] == 2 and source(live.message)["counts"]["reopened"] == 1


def test_a_local_camera_that_is_unplugged_is_told_and_taken_again_however_often(
    camera: FakeCamera, tmp_path: Path, record_property: Record
) -> None:
    told, back = [], []
    camera.pull()
    with watched(tmp_path, "--camera", DEVICE, "--mic", "none", extra=camera.environment) as session:
        absent = expect_state(session, "absent", 30)
        assert "no such camera" in source(absent.message)["reason"]
        for _ in range(4):
            plugged_ns = session.now_ns()
            camera.plug_in()
            back.append(seconds(expect_state(session, "live", 20, plugged_ns), plugged_ns))
            session.expect(seen, 10, after_ns=plugged_ns)
            pulled_ns = session.now_ns()
            camera.pull()
            told.append(seconds(expect_state(session, "lost reconnecting", 10, pulled_ns), pulled_ns))
            session.expect(lambda one: "no such camera" in (source(one)["reason"] or ""), 10, "status", pulled_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    record_property("fault_02_v4l2", {"told_s": told, "back_s": back})
    assert max(told) <= 1.0 * slowdown() and max(back) <= 3.0 * slowdown()
    assert camera["started"] == 4


LOOPBACKS = real_loopbacks()


@pytest.mark.device
@pytest.mark.skipif(not LOOPBACKS, reason="no v4l2loopback or vivid device: modprobe vivid")
def test_a_camera_of_the_kernel_s_test_driver_is_live_and_placed_by_its_stamps(tmp_path: Path) -> None:
    with watched(tmp_path, "--camera", LOOPBACKS[0], "--mic", "none") as session:
        live = expect_state(session, "live", 30)
        last = session.expect(lambda one: source(one)["counts"]["frames"] >= 45, 30, "status", live.arrived_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert source(last.message)["timing"]["by"] == "device"
