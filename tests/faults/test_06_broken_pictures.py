"""Fault 6: a camera gives broken, dark, covered pictures, or pictures of another size and colour, and goes on."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from crowd import slowdown
from fake_camera import BROKEN, COVERED, DARK, DEVICE, GOOD, REPEATS, WHY_NOT, FakeCamera
from faulty import expect_state, seconds, source, watched, write_pictures
from job_process import Message, Watched

Record = Callable[[str, object], None]
NOISE = np.random.default_rng(6)
LIMIT_S = 2.0  # a second without a break, a tick and its settling


class Moody(http.server.BaseHTTPRequestHandler):
    """Endless MJPEG at 15 Hz of the kind of picture that is wanted now."""

    films: ClassVar[dict[str, list[bytes]]] = {}
    kind = "good"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        pause = threading.Event()
        for number in itertools.count():
            film = self.films[self.__class__.kind]
            body = film[number % len(film)]
            head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
            try:
                self.wfile.write(head + body + b"\r\n")
            except OSError:
                return
            pause.wait(1 / 15)

    def log_message(self, *_: object) -> None:
        return


def jpeg(picture: np.ndarray) -> bytes:
    noisy = np.clip(picture + NOISE.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", noisy)[1].tobytes())


def show(kind: str, bad: bool) -> None:
    """That kind of picture, or good ones again."""
    Moody.kind = kind if bad else "good"


@contextmanager
def moody_camera(place: Path) -> Iterator[str]:
    folder = write_pictures(place / "pictures")
    good = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    pictures = [np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)) for data in good]
    Moody.films = {
        "good": good,
        "dark": [jpeg(picture * 0.05) for picture in pictures],
        "covered": [jpeg(np.full_like(picture, 90)) for picture in pictures],
        "noise": [NOISE.bytes(20_000) for _ in good],
        "small": [jpeg(np.asarray(cv2.resize(picture, (320, 240)))) for picture in pictures],
        "grey": [jpeg(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))) for picture in pictures],
    }
    Moody.kind = "good"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def fine(prediction: Message) -> bool:
    """Nothing is wrong with what is seen."""
    return not any(mark.startswith("vision") for mark in prediction["degraded"])


def has_frames(number: int, status: Message) -> bool:
    return bool(source(status)["counts"]["frames"] >= number)


def told_and_over(session: Watched, change: Callable[[bool], None], state: str, mark: str) -> tuple[float, float]:
    """Seconds until a fault is told in the status and in the predictions, and until it is over in both."""
    begun_ns = session.now_ns()
    change(True)
    stated = expect_state(session, state, 20, begun_ns)
    marked = session.expect(lambda one: mark in one["degraded"], 20, after_ns=begun_ns)
    over_ns = session.now_ns()
    change(False)
    live = expect_state(session, "live", 20, over_ns)
    clear = session.expect(lambda one: mark not in one["degraded"], 20, after_ns=over_ns)
    return (
        max(seconds(stated, begun_ns), seconds(marked, begun_ns)),
        max(seconds(live, over_ns), seconds(clear, over_ns)),
    )


def test_a_network_camera_s_bad_pictures_are_told_and_the_good_ones_after_them_taken(
    tmp_path: Path, record_property: Record
) -> None:
    figures: dict[str, tuple[float, ...]] = {}
    with (
        moody_camera(tmp_path) as url,
        watched(tmp_path, "--camera", url, "--mic", "test://") as session,
    ):
        expect_state(session, "live", 30)
        for kind in ("dark", "covered"):
            figures[kind] = told_and_over(session, partial(show, kind), kind, f"vision_{kind}")
        for kind in ("small", "grey"):
            changed_ns = session.now_ns()
            Moody.kind = kind
            counted = source(expect_state(session, "live", 10, changed_ns).message)["counts"]["frames"]
            session.expect(partial(has_frames, counted + 30), 20, "status", changed_ns)
            seen = session.expect(fine, 10, after_ns=session.now_ns())
            assert seen.message["modalities"]["vision"]["age_ms"] < 600 * slowdown(), "it is looked at as before"
        broken_ns = session.now_ns()
        Moody.kind = "noise"
        session.expect(lambda one: "vision_stale" in one["degraded"], 20, after_ns=broken_ns)
        session.expect(lambda one: source(one)["counts"]["decode_errors"] > 0, 20, "status", broken_ns)
        Moody.kind = "good"
        good_ns = session.now_ns()
        back = expect_state(session, "live", 30, good_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    figures["broken"] = (seconds(back, good_ns),)
    record_property("fault_06_network", figures)
    for kind in ("dark", "covered"):
        assert figures[kind][0] <= LIMIT_S * slowdown() and figures[kind][1] <= 1.0 * slowdown()


def become(camera: FakeCamera, mood: int, bad: bool) -> None:
    camera.be(mood if bad else GOOD)


# In place of a broken picture OpenCV gives its last one again.
LOCAL = {"": {DARK: "dark", COVERED: "covered", REPEATS: "frozen"}, "?format=mjpg": {BROKEN: "frozen"}}


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("mode", LOCAL)
def test_a_local_camera_s_bad_pictures_are_told_and_the_good_ones_after_them_taken(
    mode: str, tmp_path: Path, record_property: Record
) -> None:
    figures = {}
    given = ("--camera", f"{DEVICE}{mode}", "--mic", "none")
    with (
        FakeCamera(tmp_path / "camera") as camera,
        watched(tmp_path, *given, extra=camera.environment) as session,
    ):
        expect_state(session, "live", 30)
        for mood, state in LOCAL[mode].items():
            figures[state] = told_and_over(session, partial(become, camera, mood), state, f"vision_{state}")
        last = expect_state(session, "live", 10, session.now_ns())
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    record_property("fault_06_local", {"mode": mode} | figures)
    for told_s, back_s in figures.values():
        assert told_s <= LIMIT_S * slowdown() and back_s <= 1.0 * slowdown()
    counts = source(last.message)["counts"]
    assert counts["frozen_frames"] > 0 and counts["reopened"] == 0, "bad pictures are counted, the camera is kept"
