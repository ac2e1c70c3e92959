"""Why a source brings nothing, as a word: real servers, files and decoders that fail, each in its own way."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import av
import cv2
import numpy as np
import pytest

from clcr_stream.clock import MonotonicClock
from clcr_stream.errors import ConfigError, SourceCode, SourceError
from clcr_stream.sources.base import BOTH
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.decoder.process import DecoderProcess
from clcr_stream.sources.decoder.protocol import Request
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.media import open_file
from clcr_stream.sources.network import NetworkSource
from clcr_stream.sources.subtitles import read_transcript
from clcr_stream.sources.v4l2 import ask_driver
from media import MediaSpec, eventually, make_sinks, write_media

ROOT = Path(__file__).resolve().parents[2]
JPEG = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))[1].tobytes()


class Camera(BaseHTTPRequestHandler):
    """Answers `/STATUS` with it, `/noise` with what nobody can decode, all else with pictures until `stop` is set."""

    status = 200  # of the pictures
    stop = threading.Event()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        status = int(name) if name.isdecimal() else self.status
        noise = np.random.default_rng(2).bytes(500_000)
        self.send_response(status)
        multipart = "multipart/x-mixed-replace; boundary=next"
        self.send_header("Content-Type", "video/mp2t" if name == "noise" else multipart)
        if name == "noise":
            self.send_header("Content-Length", str(len(noise)))
        self.end_headers()
        try:
            if name == "noise":
                self.wfile.write(noise)
            while status == 200 and name != "noise" and not self.stop.wait(0.02):
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
                self.wfile.write(head + JPEG + b"\r\n")
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def camera() -> Iterator[str]:
    Camera.stop.clear()
    Camera.status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Camera.stop.set()
        server.shutdown()


def refusal(url: str) -> SourceError:
    """What a decoder's process tells of a URL that does not open."""
    decoder = DecoderProcess(Request(url, BOTH, 16_000), threading.Event())
    try:
        with pytest.raises(SourceError) as caught:
            decoder.open(lambda _: None)
    finally:
        decoder.close()
    return caught.value


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("401", "unauthorized"),
        ("403", "unauthorized"),
        ("404", "not_found"),
        ("400", "client_error"),
        ("410", "client_error"),
        ("429", "client_error"),
        ("500", "server_error"),
        ("503", "server_error"),
        ("noise", "not_media"),
    ],
)
def test_what_a_server_answers_crosses_the_decoders_process(camera: str, path: str, code: SourceCode) -> None:
    assert refusal(f"{camera}/{path}").code == code


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("rtsp://127.0.0.1:9/live", "refused", "does not answer (Connection refused)"),
        ("http://nowhere.invalid/live", "unreachable", "the name of its host is not known here"),
        ("rtsp://user:secret@nowhere.invalid/live", "unreachable", "the name of its host is not known here"),
        ("http://255.255.255.255/live", "unreachable", "does not answer (Network is unreachable)"),
    ],
)
def test_a_server_that_is_not_there_is_told_from_one_that_cannot_be_reached(
    url: str, code: SourceCode, said: str
) -> None:
    told = refusal(url)
    assert told.code == code and said in str(told) and "secret" not in str(told)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_says_nothing_has_timed_out(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = refusal(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live")
    assert told.code == "timed_out" and "does not answer within 3 s" in str(told)


def test_a_live_source_has_no_code_and_each_of_its_faults_has_one(camera: str) -> None:
    Camera.status = 401
    source = NetworkSource(f"{camera}/live", ("vision",), make_sinks(MonotonicClock()))

    def tells(state: str, code: SourceCode) -> bool:
        report = source.report()
        return (report.state, report.code) == (state, code)

    source.start()
    try:
        assert eventually(lambda: tells("absent", "unauthorized"), 30)
        Camera.status = 200
        assert eventually(lambda: tells("live", ""), 30)
        for fault, code in ((signal.SIGKILL, "crashed"), (signal.SIGSTOP, "hung")):
            os.kill(decoder_of(source), fault)
            assert eventually(lambda code=code: source.report().code == code, 30)  # type: ignore[misc]
            assert eventually(lambda: tells("live", ""), 30)
        Camera.stop.set()
        assert eventually(lambda: source.report().code == "ended", 30)
    finally:
        source.close()


def decoder_of(source: NetworkSource) -> int:
    """The process that decodes for it; the only one of this process."""
    import psutil

    (child,) = (one for one in psutil.Process().children() if "sources.decoder.child" in " ".join(one.cmdline()))
    return child.pid


@contextmanager
def nobody() -> Iterator[None]:
    """As a user to whom files may be forbidden, which root is not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_a_user_may_not_read_is_not_permitted(tmp_path: Path) -> None:
    clip, words = write_media(tmp_path / "clip.mp4", MediaSpec(seconds=0.5)), tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    for path in (clip, words):
        path.chmod(0)
    with nobody():
        with pytest.raises(SourceError, match="cannot be read") as media:
            open_file(str(clip), BOTH, 16_000, lambda _: None)
        with pytest.raises(SourceError) as transcript:
            read_transcript(words)
        offer = ask_driver(str(clip))
    assert media.value.code == transcript.value.code == offer.refused == "not_permitted"


def test_a_file_that_is_missing_is_told_from_one_that_is_no_media(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(3).bytes(100_000))
    (tmp_path / "picture.jpg").write_bytes(JPEG)
    for name, code in (
        ("none.mp4", "not_found"),
        ("empty.mp4", "not_media"),
        ("noise.mp4", "not_media"),
        ("picture.jpg", "not_media"),
    ):
        with pytest.raises(SourceError) as caught:
            FileSource(str(tmp_path / name), BOTH, make_sinks())
        assert (name, caught.value.code) == (name, code)


def test_a_recording_of_a_server_says_what_a_stream_would(camera: str) -> None:
    from clcr_stream.sources.urls import open_recording

    with pytest.raises(SourceError) as caught:
        open_recording(f"{camera}/404", BOTH, 16_000, lambda _: None, "input")
    assert caught.value.code == "not_found"


def test_the_numbers_are_those_of_ffmpeg() -> None:
    expected = {
        av.error.HTTPUnauthorizedError: "unauthorized",
        av.error.HTTPForbiddenError: "unauthorized",
        av.error.HTTPNotFoundError: "not_found",
        av.error.HTTPBadRequestError: "client_error",
        av.error.HTTPOtherClientError: "client_error",
        av.error.HTTPServerError: "server_error",
        av.error.InvalidDataError: "not_media",
        av.error.ExitError: "timed_out",
        av.error.EOFError: "ended",
        av.error.ProtocolNotFoundError: "not_installed",
        av.error.DemuxerNotFoundError: "not_installed",
        av.error.DecoderNotFoundError: "not_installed",
        av.error.BugError: "",
    }
    numbers: dict[Any, int] = {kind: number for number, kind in av.error.classes.items()}
    assert {kind: code_of(kind(numbers[kind], "")) for kind in expected} == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EBUSY, "busy"), "in_use"),
        (OSError(errno.ENODEV, "gone"), "no_device"),
        (OSError(-9985, "Device unavailable"), "in_use"),  # as PyAudio raises it
        (ConnectionResetError(errno.ECONNRESET, "reset"), "ended"),
        (SourceError("said so", "hung"), "hung"),
        (OSError("without a number"), ""),
        (ConfigError("no input"), ""),
        (ValueError("a bug"), ""),
    ],
)
def test_what_has_no_number_has_no_code(error: Exception, code: SourceCode) -> None:
    assert code_of(error) == code


def test_every_code_is_explained_and_none_is_invented() -> None:
    text = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    table = text.partition("| code | ")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(SourceCode))[1:]
