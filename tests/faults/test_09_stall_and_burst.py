"""Fault 9: a network camera's pictures are held up and then come all at once, by the same connection or a new one."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_pictures

RATE_HZ = 30
DIM = 0.4  # of a picture's light: those that were held up


class Stalling(http.server.BaseHTTPRequestHandler):
    """MJPEG at 30 Hz; what is due during a stall is sent at its end, dim."""

    bright: ClassVar[list[bytes]] = []
    dim: ClassVar[list[bytes]] = []
    owed = threading.Event()
    until_s = 0.0
    held_up = 0
    ended_ns: ClassVar[list[int]] = []

    @classmethod
    def stall(cls, stall_s: float) -> None:
        cls.held_up, cls.until_s = int(stall_s * RATE_HZ), time.monotonic() + stall_s
        cls.owed.set()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        number, begun_s = 0, time.monotonic()
        pause = threading.Event()
        try:
            while True:
                if self.owed.is_set():
                    pause.wait(max(0.0, self.until_s - time.monotonic()))
                    for _ in range(self.held_up):
                        self._send(self.dim, number)
                        number += 1
                    self.owed.clear()  # by whichever connection it could be sent
                    self.ended_ns.append(time.monotonic_ns())
                    begun_s = time.monotonic() - number / RATE_HZ
                self._send(self.bright, number)
                number += 1
                pause.wait(max(0.0, begun_s + number / RATE_HZ - time.monotonic()))
        except OSError:
            return

    def _send(self, film: list[bytes], number: int) -> None:
        body = film[number % len(film)]
        head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.wfile.write(head + body + b"\r\n")

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def stalling_camera(place: Path) -> Iterator[str]:
    Stalling.bright[:] = [path.read_bytes() for path in sorted(write_pictures(place / "pictures").glob("*.jpg"))]
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in Stalling.bright]
    Stalling.dim[:] = [
        bytes(cv2.imencode(".jpg", (np.asarray(one) * DIM).astype(np.uint8))[1].tobytes()) for one in pictures
    ]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("stall_s", [0.9, 3.0])
def test_after_a_stall_the_newest_picture_is_used_and_what_was_held_up_leaves_no_tail(
    stall_s: float, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with stalling_camera(tmp_path) as url, watched(tmp_path, "--camera", url, "--mic", "none") as session:
        expect_state(session, "live", 30)
        before = session.expect(lambda one: one["modalities"]["vision"]["coverage"] > 0.4, 20)
        stalled_ns = session.now_ns()
        Stalling.stall(stall_s)
        stale = session.expect(lambda one: source(one)["state"] != "live", 10, "status", stalled_ns)
        live = expect_state(session, "live", 20, stale.arrived_ns)
        burst_ns = Stalling.ended_ns[-1]
        last = session.expect(lambda one: source(one)["state"] == "live", 20, "status", burst_ns + 2 * 10**9)
        code, _ = session.terminate()
        after = [got for got in session.reader.received("prediction") if got.arrived_ns > live.arrived_ns]
    assert code == 0, session.stderr()
    counts = source(last.message)["counts"]
    vision = [(seconds(got, burst_ns), got.message["modalities"]["vision"]) for got in after]
    light = before.message["modalities"]["vision"]["numbers"]["luma"]
    late_s = [at_s for at_s, one in vision if (one["numbers"]["luma"] or light) < light * (1 + DIM) / 2]
    ages_ms = [one["age_ms"] for at_s, one in vision if at_s > 1.0]
    record_property(
        "fault_09",
        {
            "told_s": seconds(stale, stalled_ns),
            "back_s": seconds(live, burst_ns),
            "last_dim_s": max(late_s, default=None),
            "oldest_ms": max(ages_ms, default=None),
            "counts": counts,
            "entered": source(last.message)["entered"],
        },
    )
    assert seconds(stale, stalled_ns) <= 1.0 * slowdown() and seconds(live, burst_ns) <= 1.0 * slowdown()
    assert max(late_s, default=0.0) <= 1.0 * slowdown(), "a second later nothing of the burst is left"
    assert ages_ms and max(ages_ms) <= 400 * slowdown(), "no tail: pictures are as new as before"
    dropped = sum(number for name, number in counts.items() if name.startswith("frames_dropped_"))
    assert counts["frames"] == counts["frames_in"] == counts["frames_used"] + counts["frames_held"] + dropped
    assert counts["overtaken_frames"] + dropped >= Stalling.held_up * 2 // 3, "what was held up is counted, not used"
