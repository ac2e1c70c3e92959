"""A decoder's process hangs (SIGSTOP) or crashes (SIGSEGV, SIGKILL), or a server sends it rubbish."""

from __future__ import annotations

import http.server
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_pictures
from job_live import MjpegCamera
from job_process import Watched
from media import eventually

SESSION_KEEPS = "predictions go on in the meantime"


def decoder(session: Watched, timeout_s: float = 30.0) -> psutil.Process:
    """The only decoder of a session, which may be about to start."""
    found: list[psutil.Process] = []

    def look() -> bool:
        children = psutil.Process(session.process.pid).children()
        found[:] = [child for child in children if "sources.decoder.child" in " ".join(child.cmdline())]
        return len(found) == 1

    assert eventually(look, timeout_s), f"decoders: {found}"
    return found[0]


def test_a_decoder_that_hangs_or_crashes_is_told_and_replaced_while_predictions_go_on(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told, back = [], []
    with (
        MjpegCamera(write_pictures(tmp_path / "pictures")) as camera,
        watched(tmp_path, "--camera", camera.url, "--mic", "test://") as session,
    ):
        expect_state(session, "live", 30)
        for fault, reason, code in (
            (signal.SIGSTOP, "its decoder did not answer for 2 s and was ended", "hung"),
            (signal.SIGSEGV, "signal 11", "crashed"),
            (signal.SIGKILL, "signal 9", "crashed"),
        ):
            process = decoder(session)
            begun_ns = session.now_ns()
            process.send_signal(fault)
            told.append(seconds(expect_state(session, "stale lost", 10, begun_ns), begun_ns))
            lost = expect_state(session, "lost", 10, begun_ns)
            assert reason in source(lost.message)["reason"] and source(lost.message)["code"] == code
            live = expect_state(session, "live", 20, lost.arrived_ns)
            assert source(live.message)["code"] is None
            back.append(seconds(live, begun_ns))
            assert not process.is_running() and decoder(session).pid != process.pid
        assert source(live.message)["counts"]["decoder_restarts"] == 3
        last = decoder(session)
        last.send_signal(signal.SIGSTOP)
        numbers = [got.message["seq"] for got in session.reader.received("prediction")]
        session.process.kill()  # and it cannot say goodbye to its decoder
        session.process.wait()
        assert eventually(lambda: not last.is_running() or last.status() == psutil.STATUS_ZOMBIE, 30)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), SESSION_KEEPS
    record_property("fault_decoder", {"told_s": told, "back_s": back})
    assert max(told) <= 1.0 * slowdown() and max(back) <= 4.0 * slowdown()


class Rubbish(http.server.BaseHTTPRequestHandler):
    """Answers the requests in turn with noise, noise that calls itself pictures, cut pictures, and then real ones."""

    jpegs: tuple[bytes, ...] = ()
    asked = itertools.count()

    def do_GET(self) -> None:
        noise = np.random.default_rng(next(self.asked))
        kind = next(self.kinds, "good")
        self.send_response(200)
        multipart = "multipart/x-mixed-replace; boundary=next"
        self.send_header("Content-Type", "video/mp2t" if kind == "noise" else multipart)
        self.end_headers()
        pause = threading.Event()
        try:
            for number in range(10_000 if kind == "good" else 15):
                whole = self.jpegs[number % len(self.jpegs)]
                body = {"good": whole, "cut": whole[: len(whole) // 3]}.get(kind) or noise.bytes(20_000)
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
                self.wfile.write((b"" if kind == "noise" else head) + body + b"\r\n")
                pause.wait(0.04)
        except OSError:
            return

    kinds: Iterator[str] = iter(())

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def rubbish_server(pictures: Path) -> Iterator[str]:
    """A camera that sends three kinds of rubbish, a connection each, before it sends pictures."""
    Rubbish.jpegs = tuple(path.read_bytes() for path in sorted(pictures.glob("*.jpg"))[:10])
    Rubbish.kinds = iter(("noise", "noise pictures", "cut"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rubbish)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_server_that_sends_rubbish_is_outlived_and_taken_when_it_sends_pictures(tmp_path: Path) -> None:
    with (
        rubbish_server(write_pictures(tmp_path / "pictures")) as url,
        watched(tmp_path, "--camera", url, "--mic", "none") as session,
    ):
        expect_state(session, "absent lost reconnecting", 30)
        expect_state(session, "live", 60)
        session.expect(lambda one: one["modalities"]["vision"]["coverage"] > 0.3, 30)
        first = decoder(session).pid
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert not psutil.pid_exists(first)
