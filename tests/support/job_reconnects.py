"""A camera that breaks its connection again and again, in a process of its own; what the source uses meanwhile.

    python tests/support/job_reconnects.py FOLDER COUNT

The connections are real; the pauses between them are those of a virtual clock, so they take no time. Prints JSON: after
each quarter of the connections descriptors and threads, MB of this process and of the decoder, the decoder's
descriptors; then how often the decoder was started anew.
"""

from __future__ import annotations

import gc
import http.server
import json
import sys
import threading
from pathlib import Path

import psutil

from clcr_stream.sources.network import NetworkSource
from faulty import write_pictures
from media import eventually, make_sinks


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


def used(process: psutil.Process) -> tuple[int, int, float, float, int]:
    """Of the source's process and of its decoder's, now."""
    gc.collect()
    (decoder,) = (child for child in process.children() if "sources.decoder" in " ".join(child.cmdline()))
    memory = process.memory_info().rss / 1e6, decoder.memory_info().rss / 1e6
    return process.num_fds(), process.num_threads(), *memory, decoder.num_fds()


def main(folder: Path, count: int) -> None:
    OneRound.jpegs = tuple(path.read_bytes() for path in sorted(write_pictures(folder).glob("*.jpg"))[:3])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneRound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = NetworkSource(f"http://127.0.0.1:{server.server_port}/", ("vision",), make_sinks())
    source.start()
    quarters = []
    for wanted in (count * quarter // 4 for quarter in (1, 2, 3, 4)):
        assert eventually(lambda wanted=wanted: source.report().counts["reconnects"] >= wanted, 120)  # type: ignore[misc]
        quarters.append(used(psutil.Process()))
    restarts = source.report().counts["decoder_restarts"]
    source.close()
    server.shutdown()
    server.server_close()
    json.dump({"quarters": quarters, "restarts": restarts}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
