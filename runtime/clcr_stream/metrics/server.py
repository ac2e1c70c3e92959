"""Serves metrics and the two answers that a supervisor asks for: /metrics, /livez, /readyz."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from clcr_stream.errors import PublishError
from clcr_stream.metrics.gauges import Gauges
from clcr_stream.metrics.options import MetricsOptions

_MOST_AT_ONCE = 8
_PATIENCE_S = 2.0
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """A web server on a thread of its own, until `close`; a context manager. PublishError when the port is taken."""

    def __init__(self, options: MetricsOptions, gauges: Gauges) -> None:
        self._server: _Server
        try:
            self._server = (_Server6 if ":" in options.host else _Server)((options.host, options.port), gauges, options)
        except OSError as error:
            raise PublishError(
                f"--metrics {options.host}:{options.port}: cannot be bound: {error.strerror}; give another port"
            ) from None
        host, port = self._server.server_address[:2]
        text = str(host) if isinstance(host, str) else host.decode()
        self.url = f"http://{f'[{text}]' if ':' in text else text}:{port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="clcr-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Let go of the port; a slow scraper is not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], gauges: Gauges, options: MetricsOptions) -> None:
        self.gauges = gauges
        self.options = options
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(address, _Handler)

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Answer on a thread of its own, but only so many at once; others are let go of."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that has gone is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_S
    server: _Server

    def do_GET(self) -> None:
        """Answer one request."""
        if not self._meant_for_us():
            self._answer(403, "this address is not asked for by that name\n")
            return
        gauges = self.server.gauges
        match self.path.partition("?")[0]:
            case "/metrics":
                self._send(200, gauges.text(), _TEXT)
            case "/livez":
                self._health(gauges.alive())
            case "/readyz":
                self._health(gauges.unready())
            case _:
                self._answer(404, "there are /metrics, /livez and /readyz\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a scraper asks every few seconds."""

    def _meant_for_us(self) -> bool:
        """On loopback, a page of another site that has got our address by its name's server is refused."""
        if not self.server.options.loopback:
            return True
        name = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
        try:
            return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _health(self, wrong: Mapping[str, str]) -> None:
        lines = "".join(f"{name}: {why}\n" if name else f"{why}\n" for name, why in wrong.items())
        self._answer(503 if wrong else 200, lines or "ok\n")

    def _answer(self, code: int, text: str) -> None:
        self._send(code, text.encode(), "text/plain; charset=utf-8")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
