"""Fault 2: the server of a camera is killed and started again, several times."""

from __future__ import annotations

import gc
import http.server
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from clcr_stream.sources.network import NetworkSource
from faulty import expect_state, free_port, seconds, watched, write_pictures
from job_live import MjpegCamera
from media import eventually, make_sinks

CYCLES = 4
RECONNECTS = int(os.environ.get("CLCR_RECONNECTS", "120"))  # 1,000 for docs/reliability.md


def test_a_killed_server_is_told_as_lost_reconnected_and_leaves_nothing_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    port, pictures = free_port(), write_pictures(tmp_path / "pictures")
    url, back, used = f"http://127.0.0.1:{port}/", [], []
    with watched(tmp_path, "--camera", url, "--mic", "none") as session:
        process = psutil.Process(session.process.pid)
        for cycle in range(CYCLES):
            begun_ns = session.now_ns()
            with MjpegCamera(pictures, port=port):
                live = expect_state(session, "live", 20, begun_ns)
                back.append(seconds(live, begun_ns))
                used.append((process.num_fds(), process.num_threads()))
            expect_state(session, "lost reconnecting", 10, live.arrived_ns)
            if cycle:
                assert live.message["sources"][0]["entered"]["lost"] == cycle
        last = expect_state(session, "reconnecting", 10, live.arrived_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert last.message["sources"][0]["reason"].endswith("trying again")
    record_property("fault_02", {"back_s": back, "descriptors_and_threads": used})
    assert used[-1][0] <= used[1][0] and used[-1][1] <= used[1][1] + 1, "nothing grows"
    assert max(back[1:]) <= 6.0, "the longest pause is 5 s"


class OneRound(http.server.BaseHTTPRequestHandler):
    """A camera that sends a second of pictures and breaks the connection."""

    jpegs: tuple[bytes, ...] = ()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for jpeg in self.jpegs:
            self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")

    def log_message(self, *_: object) -> None:
        return


def test_hundreds_of_reconnections_leave_no_descriptor_thread_or_memory_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The connections are real; the pauses between them are those of a virtual clock, so they take no time."""
    OneRound.jpegs = tuple(
        path.read_bytes() for path in sorted(write_pictures(tmp_path / "pictures").glob("*.jpg"))[:3]
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneRound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = NetworkSource(f"http://127.0.0.1:{server.server_port}/", ("vision",), make_sinks())
    process = psutil.Process()
    source.start()
    used = []
    for reconnects in (RECONNECTS * quarter // 4 for quarter in (1, 2, 3, 4)):
        assert eventually(lambda wanted=reconnects: source.report().counts["reconnects"] >= wanted, 120)  # type: ignore[misc]
        gc.collect()
        (decoder,) = (child for child in process.children() if "sources.decoder" in " ".join(child.cmdline()))
        memory = process.memory_info().rss, decoder.memory_info().rss
        used.append((process.num_fds(), process.num_threads(), memory[0] / 1e6, memory[1] / 1e6, decoder.num_fds()))
    source.close()
    server.shutdown()
    server.server_close()
    grown = [last - first for first, last in zip(used[0], used[-1], strict=True)]
    # What is lost with each connection is lost in every quarter; a library that takes memory once takes it in one.
    leaked = [min(later[kind] - before[kind] for before, later in itertools.pairwise(used)) for kind in (2, 3)]
    record_property("fault_02_reconnections", {"reconnects": RECONNECTS, "grown": grown, "least_mb": leaked})
    assert grown[0] <= 6 and grown[1] <= 4, "connections of the moment: a server's thread and its two sockets"
    assert max(leaked) <= 0.5, f"MB in each quarter, of the session and of its decoder: {used}"
    assert grown[4] <= 1 and source.report().counts["decoder_restarts"] == 0
