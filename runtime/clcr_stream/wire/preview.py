"""The face crop for a person who watches: small JPEGs on a socket of their own, for the user alone, while it is read.

Nothing here runs without `--preview`; without it no pixel leaves the process. A frame is `clcr/<stream>/preview`, one
space, the capture window's end as 8 bytes (big-endian ns), and a JPEG, or nothing where no face was found.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from clcr_stream.clock import NS_PER_MS, Wake
from clcr_stream.errors import PublishError
from clcr_stream.wire.endpoint import bind, check_private, claim, default_endpoint, release

PERIOD_NS = 190 * NS_PER_MS  # at most about five a second
MAX_BYTES = 1 << 18
_HWM_FRAMES = 2
_IDLE_MS = 1000


@dataclass(frozen=True)
class Face:
    """A face crop as it was read: the end of its hop and a JPEG, b"" where there was no face."""

    end_ns: int
    jpeg: bytes


def preview_path(socket: Path) -> Path:
    """Where the preview of the stream with this ipc socket is."""
    return socket.with_name(f"{socket.name.removesuffix('.sock')}.preview")


def preview_topic(stream: str) -> bytes:
    """The topic of a stream's preview."""
    return f"clcr/{stream}/preview".encode()


class Preview:
    """Publishes faces of one stream in the user's own folder; a context manager with a thread of its own.

    `offer` never waits: the newest face wins, and nothing is even drawn while nobody reads. PublishError when the
    socket cannot be had.
    """

    def __init__(self, stream: str) -> None:
        self._prefix = preview_topic(stream) + b" "
        self._newest: tuple[int, Callable[[], bytes]] | None = None
        self._next_ns = 0
        self._stop = threading.Event()
        self.wanted = False
        self._cleanup = contextlib.ExitStack()
        try:
            path = preview_path(Path(default_endpoint(stream).removeprefix("ipc://")))
            self._cleanup.callback(release, path, claim(path, stream))
            self._wake = self._cleanup.enter_context(Wake())
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            self._cleanup.callback(context.term)
            self._xpub = context.socket(zmq.XPUB)
            self._cleanup.callback(self._xpub.close, linger=0)
            self._xpub.sndhwm, self._xpub.maxmsgsize = _HWM_FRAMES, 1024
            self.endpoint = bind(self._xpub, f"ipc://{path}")
        except BaseException:
            self._cleanup.close()
            raise
        self._thread = threading.Thread(target=self._run, name="clcr-preview", daemon=True)
        self._thread.start()

    def offer(self, end_ns: int, draw: Callable[[], bytes]) -> None:
        """A face of the hop that ends at `end_ns`; `draw` makes its JPEG, on this class's thread, if somebody reads."""
        now_ns = time.monotonic_ns()
        if self.wanted and now_ns >= self._next_ns:
            self._next_ns = now_ns + PERIOD_NS
            self._newest = (end_ns, draw)
            self._wake.set()

    def __enter__(self) -> Preview:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._xpub, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        try:
            while not self._stop.is_set():
                poller.poll(_IDLE_MS)
                self._wake.clear()
                with contextlib.suppress(zmq.Again):
                    while True:  # libzmq tells the first subscription to a topic and the end of the last one
                        event = self._xpub.recv(zmq.DONTWAIT)
                        if event[1:] == self._prefix:
                            self.wanted = event[:1] == b"\x01"
                newest, self._newest = self._newest, None
                if newest is not None:
                    self._xpub.send(
                        self._prefix + newest[0].to_bytes(8, "big", signed=True) + newest[1](), zmq.DONTWAIT
                    )
        finally:
            self.wanted = False
            self._cleanup.close()


class PreviewReader:
    """The newest face of a stream whose ipc socket lies in a folder of the user's alone; PublishError for another."""

    def __init__(self, stream: str, socket: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            check_private(socket.parent)
        self._prefix = preview_topic(stream) + b" "
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        for option, value in (
            (zmq.CONFLATE, 1),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, 200),
            (zmq.RECONNECT_IVL_MAX, 2000),
        ):
            self._socket.setsockopt(option, value)
        self._socket.subscribe(self._prefix)
        self._socket.connect(f"ipc://{preview_path(socket)}")

    def newest(self) -> Face | None:
        """The face that has come since the last call, None when none has; never waits."""
        try:
            data = self._socket.recv(zmq.DONTWAIT)
        except zmq.Again:
            return None
        body = data[len(self._prefix) :]
        if not data.startswith(self._prefix) or not 8 <= len(body) <= MAX_BYTES:
            return None
        return Face(int.from_bytes(body[:8], "big", signed=True), body[8:])

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close(linger=0)
        self._context.term()


def own_socket(endpoint: str) -> Path:
    """The path of an ipc endpoint. PublishError for another: a preview never leaves the machine."""
    if not endpoint.startswith("ipc:///"):
        raise PublishError(f"{endpoint}: has no preview; faces are shown over ipc alone")
    return Path(endpoint.removeprefix("ipc://"))
