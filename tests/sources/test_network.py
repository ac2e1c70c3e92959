"""Live URLs: a real MJPEG server on loopback, refusals, and reconnecting with a scripted reader."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import cv2
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError, redact
from clcr_stream.sources.base import BOTH
from clcr_stream.sources.health import STALE_PICTURE_NS
from clcr_stream.sources.media import AudioItem, VideoItem
from clcr_stream.sources.network import NetworkSource
from clcr_stream.sources.urls import open_url
from media import ORIGIN_NS, SteppedClock, eventually, make_sinks, newest_ns


class Mjpeg(BaseHTTPRequestHandler):
    """Endless JPEG pictures, as a network camera serves them; the connection closes after `limit` pictures."""

    limit = 40
    freeze = False  # stay connected after the last picture, silent
    stop = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for number in range(self.limit):
            _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 5 * number % 256, np.uint8))
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")
            except OSError:
                return
            if self.stop.wait(0.01):
                return
        if self.freeze:
            self.stop.wait(30)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def mjpeg_url() -> Iterator[str]:
    Mjpeg.stop.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/cam.mjpg?password=hunter2"
    Mjpeg.stop.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_network_camera_is_live_reconnects_and_keeps_its_password_to_itself(mjpeg_url: str) -> None:
    clock = MonotonicClock()
    sinks = make_sinks(clock)
    source = NetworkSource(mjpeg_url, BOTH, sinks)
    source.start()
    assert eventually(lambda: source.report().counts["reconnects"] >= 1, 20)
    assert eventually(lambda: source.report().counts["frames"] >= 20)
    source.close()
    report = source.report()
    assert report.state == "ended"
    assert "hunter2" not in f"{report}"
    assert abs(newest_ns(sinks) - clock.now_ns()) < 10 * NS_PER_S
    assert sinks.rings.vision.frames_in == report.counts["frames"]


def test_a_camera_that_freezes_with_its_connection_open_is_stale_and_then_opened_again(
    mjpeg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mjpeg, "freeze", True)
    source = NetworkSource(mjpeg_url, BOTH, make_sinks(MonotonicClock()))
    source.start()
    assert eventually(lambda: source.report().state == "live", 20)
    assert eventually(lambda: source.report().state in ("stale", "lost", "reconnecting"), 5)
    assert eventually(lambda: source.report().counts["reconnects"] >= 1 and source.report().state == "live", 10)
    source.close()


def test_a_dead_url_is_told_without_its_credentials() -> None:
    with pytest.raises(SourceError, match="does not answer") as caught:
        open_url("rtsp://user:secret@127.0.0.1:9/live", BOTH, 16_000, lambda _: None)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Rtsp(socketserver.StreamRequestHandler):
    """As much of an RTSP server as is needed to be refused by it; it remembers what was asked for."""

    refusal: str | None = None
    asked: ClassVar[list[str]] = []
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:track\r\n"

    def handle(self) -> None:
        while head := self._request():
            number = re.findall(r"CSeq: (\d+)", head)[0]
            self.asked.append(head)
            method = head.split(" ")[0]
            status, more, body = "200 OK", "Public: DESCRIBE, SETUP, PLAY\r\n", ""
            if method == "DESCRIBE" and self.refusal is not None:
                status, more = self.refusal, 'WWW-Authenticate: Basic realm="camera"\r\n'
            elif method == "DESCRIBE":
                more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(self.sdp)}\r\n", self.sdp
            elif method == "SETUP":
                status = "461 Unsupported Transport"
            self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())

    def _request(self) -> str:
        lines = list(iter(self.rfile.readline, b"\r\n"))
        return b"".join(lines).decode() if lines and lines[-1] else ""


@contextmanager
def rtsp_url(refusal: str | None) -> Iterator[str]:
    Rtsp.refusal, Rtsp.asked[:] = refusal, []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rtsp) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"rtsp://user:secret@127.0.0.1:{server.server_address[1]}/live"
        server.shutdown()


@pytest.mark.parametrize(
    ("refusal", "said", "code"),
    [
        ("401 Unauthorized", "does not accept this name and password (401)", "unauthorized"),
        ("403 Forbidden", "refuses this user (403)", "unauthorized"),
        ("404 Not Found", "has no stream of this path (404)", "not_found"),
        ("453 Not Enough Bandwidth", "does not answer (Server returned 4XX", "client_error"),
        ("503 Service Unavailable", "does not answer (Server returned 5XX", "server_error"),
    ],
)
def test_why_a_camera_refuses_is_said_in_words_and_without_the_password(refusal: str, said: str, code: str) -> None:
    with rtsp_url(refusal) as url, pytest.raises(SourceError) as caught:
        open_url(url, BOTH, 16_000, lambda _: None)
    assert said in str(caught.value) and "secret" not in str(caught.value) and caught.value.code == code


def test_who_gave_no_password_is_told_where_one_belongs_also_in_a_status() -> None:
    with rtsp_url("401 Unauthorized") as url, pytest.raises(SourceError) as caught:
        open_url(url.replace("user:secret@", ""), BOTH, 16_000, lambda _: None)
    advice = "asks for a name and a password (401); put NAME:PASSWORD@ before its host"
    assert str(caught.value).endswith(advice) and redact(str(caught.value)).endswith(advice)


def test_rtsp_asks_for_tcp() -> None:
    with rtsp_url(None) as url, pytest.raises(SourceError) as caught:
        open_url(url, BOTH, 16_000, lambda _: None)
    assert caught.value.code == "client_error", "461, which is all that this server says to TCP"
    transports = re.findall(r"Transport: (\S+?);", "".join(Rtsp.asked))
    assert transports and set(transports) == {"RTP/AVP/TCP"}


class ScriptedReader:
    """A reader whose items advance the test's clock, then the connection breaks with `error` or ends."""

    modalities = BOTH
    recorded = False

    def __init__(
        self, clock: SteppedClock, items: Sequence[AudioItem | VideoItem], error: Exception | None = None
    ) -> None:
        self._clock, self._items, self._error = clock, items, error
        self.closed = False

    def __enter__(self) -> ScriptedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def items(self) -> Iterator[AudioItem | VideoItem]:
        for item in self._items:
            self._clock.move_to(self._clock.now_ns() + NS_PER_S // 10)
            yield item
        if self._error is not None:
            raise self._error


def sound() -> AudioItem:
    return AudioItem(0, np.full(1600, 0.5, np.float32))


def picture() -> VideoItem:
    return VideoItem(0, lambda: np.full((48, 64, 3), 7, np.uint8))


class JitteredReader(ScriptedReader):
    """A camera at 15 Hz that stamps when it takes a picture; each arrives 5 to 50 ms later, by the test's clock."""

    def items(self) -> Iterator[AudioItem | VideoItem]:
        random = np.random.default_rng(3)
        begun_ns = self._clock.now_ns()
        for number in range(len(self._items)):
            late_ns = int((5 + min(45.0, random.pareto(1.5) * 4)) * 1_000_000)
            self._clock.move_to(max(self._clock.now_ns(), begun_ns + number * NS_PER_S // 15 + late_ns))
            level = number % 200
            yield VideoItem(number * NS_PER_S // 15, lambda level=level: np.full((48, 64, 3), level, np.uint8))  # type: ignore[misc]


def test_a_streams_pictures_are_placed_by_their_own_stamps_once_these_are_known_for_a_clock() -> None:
    clock = SteppedClock()
    sinks = make_sinks(clock)
    reader = JitteredReader(clock, [picture()] * 15 * 40)
    source = NetworkSource("rtsp://cam/", ("vision",), sinks, lambda *_: reader)
    source.start()
    assert eventually(lambda: reader.closed, 30)
    source.close()
    captured = sinks.rings.vision.read(15 * 36, 15 * 4).captured_ns
    phases_ms = (captured[captured >= 0] - ORIGIN_NS) % (NS_PER_S // 15) / 1e6
    assert len(phases_ms) >= 55 and np.ptp(phases_ms) < 2, "the way's jitter is gone"
    timing = source.report().timing
    assert timing is not None and timing.by == "device"


def test_an_absent_stream_is_waited_for_with_growing_pauses() -> None:
    clock = SteppedClock()

    def refuse(*_: object) -> None:
        raise SourceError("rtsp://cam/: does not answer (Connection refused)")

    source = NetworkSource("rtsp://cam/", BOTH, make_sinks(clock), refuse)
    source.start()
    pauses = []
    for tries in range(1, 6):
        assert eventually(lambda tries=tries: len(clock.waits) == tries)  # type: ignore[misc]
        assert source.report().state == "absent"
        pauses.append(clock.waits[-1] - clock.now_ns())
        clock.move_to(clock.waits[-1])
    source.close()
    assert pauses[-1] > 2 * pauses[0]
    assert max(pauses) <= 5 * NS_PER_S


def test_what_arrives_is_stamped_at_arrival() -> None:
    clock = SteppedClock()
    sinks = make_sinks(clock)
    reader = ScriptedReader(clock, [picture(), sound(), sound(), picture()])
    source = NetworkSource("rtsp://cam/", BOTH, sinks, lambda *_: reader)
    source.start()
    assert eventually(lambda: reader.closed)
    source.close()
    frames = sinks.rings.vision.read(0, 8).captured_ns
    assert sorted(frames[frames >= 0] - ORIGIN_NS) == [NS_PER_S // 10, 4 * NS_PER_S // 10]
    assert sinks.rings.acoustic.read(0, 6400).present.tolist() == [False] * 1600 + [True] * 3200 + [False] * 1600


@pytest.mark.parametrize("error", [None, TimeoutError("read timed out"), ConnectionResetError("reset by peer")])
def test_a_stream_that_breaks_is_lost_then_back_with_a_gap(error: Exception | None) -> None:
    clock = SteppedClock()
    sinks = make_sinks(clock)
    readers = [ScriptedReader(clock, [sound()], error), ScriptedReader(clock, [sound()])]
    first, second = readers
    source = NetworkSource("rtsp://cam/", BOTH, sinks, lambda *_: readers.pop(0))
    source.start()
    assert eventually(lambda: first.closed and len(clock.waits) == 1)
    assert source.report().state == "lost"
    assert source.report().counts["reconnects"] == 0
    clock.move_to(ORIGIN_NS + NS_PER_S)
    assert eventually(lambda: second.closed)
    source.close()
    assert source.report().counts["reconnects"] == 1
    present = sinks.rings.acoustic.read(0, 17600).present
    assert present.tolist() == [True] * 1600 + [False] * 14400 + [True] * 1600


class HangingReader(ScriptedReader):
    """A reader that gives what it has and then nothing more, without an end, until it is let go."""

    def __init__(self, clock: SteppedClock, items: Sequence[AudioItem | VideoItem]) -> None:
        super().__init__(clock, items)
        self.hangs, self.let_go = threading.Event(), threading.Event()

    def items(self) -> Iterator[AudioItem | VideoItem]:
        yield from super().items()
        self.hangs.set()
        self.let_go.wait(10)


def test_a_stream_that_hangs_is_reported_stale_within_a_second() -> None:
    clock = SteppedClock()
    reader = HangingReader(clock, [picture()])
    source = NetworkSource("rtsp://cam/", BOTH, make_sinks(clock), lambda *_: reader)
    source.start()
    assert reader.hangs.wait(10)
    assert source.report().state == "live"
    clock.move_to(clock.now_ns() + STALE_PICTURE_NS)
    assert source.report().state == "live"
    clock.move_to(clock.now_ns() + 1)
    assert (source.report().state, source.report().reason) == ("stale", "no new picture for 0.6 s")
    assert source.report().code == "no_data"
    reader.let_go.set()
    source.close()
