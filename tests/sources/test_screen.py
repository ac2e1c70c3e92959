"""screen://: a real X server's screen through the command and its decoder, and every way in which there is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from clcr_stream.clock import MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import SourceSpec
from clcr_stream.sources.choose import check_spec, open_sources
from clcr_stream.sources.devices import list_screens
from clcr_stream.sources.screen import Screen, open_screen, parse_screen
from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_pictures
from media import make_sinks
from x_server import HEIGHT, WIDTH, XServer, missing_x

with_x = pytest.mark.skipif((reason := missing_x()) is not None, reason=reason or "")
Record = Callable[[str, object], None]


@with_x
def test_a_face_on_a_screen_gives_faces_and_predictions_and_an_x_server_that_hangs_or_dies_is_told_and_taken_again(
    tmp_path: Path, record_property: Record
) -> None:
    person = cv2.imread(str(write_pictures(tmp_path / "pictures") / "000.jpg"))
    assert person is not None
    with XServer(tmp_path / "x") as server:
        server.show(person[:, :, ::-1])
        number = int(server.display[1:])
        with watched(tmp_path, "--camera", f"screen://{server.display}", "--mic", "none") as session:
            live = expect_state(session, "live", 30)
            seen = session.expect(lambda one: one["modalities"]["vision"]["coverage"] > 0.4, 30)
            # The picture stands still: nothing is wrong with that for longer than a camera's would count as frozen.
            still = session.expect(lambda one: one["seq"] >= seen.message["seq"] + 15, 30)
            frozen_ns = session.now_ns()
            server.freeze()
            told_s = seconds(expect_state(session, "stale lost", 10, frozen_ns), frozen_ns)
            server.thaw()
            back_s = seconds(expect_state(session, "live", 30, session.now_ns()), frozen_ns)
            server.kill()
            lost = expect_state(session, "lost", 10, session.now_ns())
            absent = expect_state(session, "reconnecting", 10, lost.arrived_ns)
            with XServer(tmp_path / "x", number) as again:
                again.show(person[:, :, ::-1])
                expect_state(session, "live", 30, lost.arrived_ns)
                code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert source(live.message)["kind"] == "screen" and source(live.message)["counts"]["frozen_frames"] == 0
    assert still.message["face"] is not None and not {"vision_frozen", "vision_stale"} & set(still.message["degraded"])
    assert "trying again" in source(absent.message)["reason"]
    record_property("screen", {"told_s": told_s, "back_s": back_s})
    assert told_s <= 1.0 * slowdown()


@with_x
def test_a_region_is_what_is_seen_and_pictures_are_placed_when_they_were_grabbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.full((100, 200, 3), (200, 30, 60), np.uint8)
    with XServer(tmp_path / "x") as server:
        monkeypatch.setenv("DISPLAY", server.display)
        server.show(picture, left=400, top=300)  # the pointer is in the middle
        clock = MonotonicClock()
        begun_ns = clock.now_ns()
        with open_screen("screen://?region=400,300,200,100", lambda _: None, clock.now_ns) as reader:
            items: list[Any] = list(itertools.islice(reader.items(), 5))
        ended_ns = clock.now_ns()
        with pytest.raises(SourceError, match="the region does not lie on this display"):
            open_screen(f"screen://?region={WIDTH - 50},0,100,{HEIGHT}", lambda _: None, clock.now_ns)
    assert (items[-1].rgb() == picture).all()
    times = [item.captured_ns for item in items]
    assert times == sorted(times) and begun_ns <= times[0] and times[-1] <= ended_ns
    assert all(item.captured_ns <= item.arrived_ns for item in items)


def test_a_display_that_is_not_there_is_waited_for_and_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"screen://:4321: no X server at :4321 lets this user see it \("):
        open_screen("screen://:4321", lambda _: None, MonotonicClock().now_ns)
    with watched(tmp_path, "--camera", "screen://:4321", "--mic", "none") as session:
        told = expect_state(session, "absent", 30)
        code, _ = session.terminate()
    assert code == 0 and "no X server at :4321" in source(told.message)["reason"]
    assert source(told.message)["code"] == "no_device"


def test_a_screen_is_the_sessions_own_unless_one_is_named() -> None:
    assert parse_screen("screen://", "camera", {"DISPLAY": ":1.0"}) == Screen(":1.0")
    assert parse_screen("screen://:0", "camera", {"DISPLAY": ":1"}) == Screen(":0")
    assert parse_screen("screen://host:10.2?region=1,2,300,400", "camera", {}) == Screen("host:10.2", (1, 2, 300, 400))


@pytest.mark.parametrize(
    ("text", "flag", "environment", "said"),
    [
        ("screen://", "camera", {}, "no X display here, $DISPLAY is not set; give screen://:0"),
        ("screen://", "camera", {"WAYLAND_DISPLAY": "wayland-0"}, "Wayland alone cannot be read"),
        ("screen://", "camera", {"DISPLAY": "a b"}, "a b is no X display"),
        ("screen://zero", "camera", {}, "zero is no X display"),
        ("screen://:0?region=1,2,3", "camera", {}, "give screen://, screen://:0"),
        ("screen://:0?region=0,0,8,100", "camera", {}, "at least 16 x 16 pixels"),
        ("screen://:0/x", "camera", {}, "give screen://, screen://:0"),
        ("screen:", "camera", {}, "give screen://, screen://:0"),
        ("screen://:0", "mic", {}, "a screen has pictures only; give --camera screen://:0"),
        ("screen://:0", "input", {}, "a screen has pictures only; give --camera screen://:0"),
    ],
)
def test_what_is_no_screen_is_refused_in_one_line(text: str, flag: Any, environment: dict[str, str], said: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_screen(text, flag, environment)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [SourceSpec(camera="screen://"), SourceSpec(microphone="screen://:0"), SourceSpec(input="screen://:0")],
)
def test_a_screen_that_can_never_be_is_refused_before_anything_is_loaded(
    spec: SourceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    for attempt in (lambda: check_spec(spec), lambda: open_sources(spec, make_sinks())):
        with pytest.raises(SourceError, match=r"DISPLAY|pictures only"):
            attempt()


def test_a_build_of_pyav_without_x11grab_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, _mode: str) -> None:
        raise ValueError(f"no container format {name!r}")

    monkeypatch.setattr(av.format, "ContainerFormat", refuse)
    with pytest.raises(SourceError, match=r"cannot grab screens \(no x11grab\); install the wheel"):
        check_spec(SourceSpec(camera="screen://:0"))


def test_the_screens_of_a_machine_are_the_sessions_own_and_those_with_a_socket(tmp_path: Path) -> None:
    for name in ("X10", "X9", "X0", "lock"):
        (tmp_path / name).touch()
    assert list_screens({"DISPLAY": ":0.0"}, tmp_path) == [":0.0", ":9", ":10"]
    assert list_screens({}, tmp_path / "absent") == []
