"""The process that decodes a live stream: FFmpeg may crash or hang here, and takes nobody with it.

It needs PyAV and NumPy, and ends when its standard input does, or its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import resource
import sys
import threading
import traceback
from collections import OrderedDict
from typing import BinaryIO

import msgspec
import numpy as np

from clcr_stream.clock import MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.processes import end_with
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.decoder.protocol import (
    ENDED,
    ERROR,
    OPENED,
    PICTURE,
    PIXELS,
    READY,
    SOUND,
    Ended,
    Opened,
    Request,
    pack,
    pack_with,
)
from clcr_stream.sources.media import AudioItem, MediaReader, VideoItem, reason_of
from clcr_stream.sources.pipeline import is_pipeline, open_pipeline
from clcr_stream.sources.screen import SCHEME as SCREEN
from clcr_stream.sources.screen import open_screen
from clcr_stream.sources.urls import READ_TIMEOUT_S, open_url

KEPT_PICTURES = 4  # decoded ones that may still be asked for
PR_SET_NO_NEW_PRIVS = 38


class Output:
    """Messages to the session, from two threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def put(self, head: bytes, body: memoryview | bytes = b"") -> None:
        """One whole message; blocks while the session does not read."""
        with self._lock:
            for part in (head, body):
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]


class Pictures:
    """The newest decoded pictures, by number, until somebody wants their pixels."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, VideoItem] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, number: int, item: VideoItem) -> None:
        """The newest one; the oldest goes."""
        with self._lock:
            self._kept[number] = item
            while len(self._kept) > KEPT_PICTURES:
                self._kept.popitem(last=False)

    def take(self, number: int) -> VideoItem | None:
        """A picture that is still there; those before it will not be wanted any more."""
        with self._lock:
            found = self._kept.get(number)
            for older in [kept for kept in self._kept if kept <= number]:
                del self._kept[older]
            return found


class Decoder:
    """Connections of one request, one after the other."""

    def __init__(self, request: Request, out: Output) -> None:
        self._request, self._out = request, out
        self._pictures = Pictures()
        self._number = 0

    def serve(self) -> None:
        """One connection, from its opening to its end."""
        import av

        try:
            with self._open() as reader:
                self._out.put(pack_with(OPENED, Opened(reader.modalities, reader.recorded)))
                self._pass_on(reader)
            ended = Ended("")
        except BrokenPipeError:  # nobody listens any more
            raise
        except (SourceError, OSError, av.error.FFmpegError) as error:
            ended = Ended(reason_of(error), code_of(error))
        self._out.put(pack_with(ENDED, ended))

    def send_pixels(self, number: int) -> None:
        """Answer a `want`; in the thread of the commands."""
        item = self._pictures.take(number)
        if item is None:
            self._out.put(pack(PIXELS, at=number))
        else:
            self._send(number, item)

    def _open(self) -> MediaReader:
        request, now_ns = self._request, MonotonicClock().now_ns
        if request.url.startswith(SCREEN):
            return open_screen(request.url, self._tell_error, now_ns)
        if is_pipeline(request.url):
            return open_pipeline(request.url, self._tell_error, now_ns)
        return open_url(request.url, request.requested, request.rate_hz, self._tell_error, READ_TIMEOUT_S, now_ns)

    def _tell_error(self, _reason: str) -> None:
        self._out.put(pack(ERROR))

    def _pass_on(self, reader: MediaReader) -> None:
        for item in reader.items():
            arrived_ns, captured_ns = item.arrived_ns or 0, item.captured_ns or 0
            if isinstance(item, AudioItem):
                body = np.ascontiguousarray(item.samples, "<f4")
                head = pack(SOUND, arrived_ns, captured_ns, item.first_sample, length=body.nbytes)
                self._out.put(head, body.tobytes())
                continue
            self._number = (self._number + 1) % 2**32
            if not reader.recorded:
                self._pictures.keep(self._number, item)
            self._out.put(pack(PICTURE, arrived_ns, captured_ns, item.time_ns, self._number))
            if reader.recorded:
                self._send(self._number, item)

    def _send(self, number: int, item: VideoItem) -> None:
        rgb = item.rgb()
        height, width = rgb.shape[:2]
        head = pack(PIXELS, at=number, a=height, b=width, length=rgb.nbytes)
        self._out.put(head, np.ascontiguousarray(rgb).data.cast("B"))


def guard(may_write: bool) -> None:
    """Die with the parent, write no file, dump no core (it would hold pictures), and never gain rights.

    A pipeline is its user's own command, and GStreamer keeps a list of its elements in a file: it `may_write`.
    """
    end_with(os.getppid())()  # a parent that had ended before has closed standard input
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not may_write:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def obey(commands: BinaryIO, decoder: Decoder, opens: queue.SimpleQueue[None]) -> None:
    """Read commands until the session ends; then this process ends too, wherever its other thread is."""
    with contextlib.suppress(OSError, ValueError):
        for line in commands:
            command, _, number = line.strip().partition(b" ")
            if command == b"open":
                opens.put(None)
            elif command == b"want":
                decoder.send_pixels(int(number))
    os._exit(0)


def main() -> int:
    """Called in a process of its own: commands on standard input, messages on standard output."""
    # Whatever a library prints must not stand between the messages.
    out = Output(os.dup(1))
    os.dup2(2, 1)
    import av  # noqa: F401 loaded before anybody waits for a connection

    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    request = msgspec.json.decode(line, type=Request)
    guard(may_write=is_pipeline(request.url))
    decoder = Decoder(request, out)
    opens: queue.SimpleQueue[None] = queue.SimpleQueue()
    threading.Thread(target=obey, args=(sys.stdin.buffer, decoder, opens), name="commands", daemon=True).start()
    try:
        out.put(pack(READY))
        while True:
            opens.get()
            decoder.serve()
    except BrokenPipeError:
        os._exit(0)
    except Exception:
        traceback.print_exc()  # its last line becomes the reason
        sys.stderr.flush()
        os._exit(1)  # the other thread waits in standard input, which Python's own end would wait for
