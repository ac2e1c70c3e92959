"""A decoder's process as its session sees it: asked to connect, read, and replaced when it hangs or crashes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.processes import command
from clcr_stream.sources.base import Modality
from clcr_stream.sources.child_process import ChildProcess
from clcr_stream.sources.decoder.protocol import (
    ENDED,
    ERROR,
    HEAD,
    OPEN,
    OPENED,
    PICTURE,
    PIXELS,
    READY,
    SOUND,
    WANT,
    Ended,
    Head,
    Opened,
    Request,
    pixels,
    read_head,
)
from clcr_stream.sources.media import AudioItem
from clcr_stream.sources.urls import OPEN_TIMEOUT_S, READ_TIMEOUT_S

# Beyond FFmpeg's own time-outs, which end a connection and not the process. Opening has two of them.
START_S, OPEN_S, ANSWER_S = 30.0, 2 * OPEN_TIMEOUT_S + 2.0, READ_TIMEOUT_S + 1.0
POLL_S = 0.1  # how soon the end of the source is noticed
PIPE_BYTES = 1 << 20  # a picture of 640 x 480, or 15 s of sound
Body = TypeVar("Body", Opened, Ended)
# Not the session's clock: waiting is for a process of this machine, whatever time the session lives in.
_host = MonotonicClock()


def decoder_command() -> list[str]:
    """The command of the process."""
    return command("clcr_stream.sources.decoder.child", "main")


@dataclass(frozen=True)
class LivePicture:
    """As a VideoItem; `rgb` fetches the pixels, None once newer ones have taken their place."""

    time_ns: int
    rgb: Callable[[], NDArray[np.uint8] | None]
    arrived_ns: int
    captured_ns: int | None = None  # where the sender says so


class DecoderProcess:
    """One source's decoder; a new process whenever the last one was ended. One thread."""

    def __init__(
        self, request: Request, stop: threading.Event, make_command: Callable[[], Sequence[str]] = decoder_command
    ) -> None:
        self._request, self._stop, self._make_command = request, stop, make_command
        self._process: ChildProcess | None = None
        self.started = 0  # processes

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        process = self._process  # another thread may ask
        return None if process is None else process.pid

    def open(self, on_error: Callable[[str], None]) -> DecodedStream:
        """Connect; SourceError when nothing usable answers, or the process does not."""
        process = self._running()
        process.send(OPEN)
        head, body = self.message(OPEN_S)
        if head.kind == ENDED:
            ended = _decoded(body, Ended)
            raise SourceError(ended.reason, ended.code)
        if head.kind != OPENED:
            self._replace("said what no decoder says")
        return DecodedStream(self, _decoded(body, Opened), on_error)

    def want(self, number: int) -> None:
        """Ask for a picture's pixels."""
        if self._process is not None:
            self._process.send(WANT % number)

    def message(self, limit_s: float) -> tuple[Head, bytearray]:
        """The next message; SourceError when it has not come whole after `limit_s`, and when the source is closed.

        Whoever leaves a message half read leaves a process that cannot be used again: it is ended.
        """
        assert self._process is not None
        deadline_ns = _host.now_ns() + int(limit_s * NS_PER_S)
        try:
            head = read_head(self._take(HEAD.size, deadline_ns, limit_s))
            return head, self._take(head.length, deadline_ns, limit_s)
        except SourceError:
            self.close()
            raise

    def close(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _running(self) -> ChildProcess:
        if self._process is None:
            self.started += 1
            self._process = ChildProcess(self._make_command(), PIPE_BYTES)
            self._process.send(msgspec.json.encode(self._request) + b"\n")
            head, _ = self.message(START_S)
            if head.kind != READY:
                self._replace("said what no decoder says")
        return self._process

    def _take(self, length: int, deadline_ns: int, limit_s: float) -> bytearray:
        process = self._process
        assert process is not None
        data = bytearray(length)
        place, got = memoryview(data), 0
        while got < length:
            if process.ready(min(POLL_S, max(0.0, (deadline_ns - _host.now_ns()) / NS_PER_S))):
                got += process.read_into(place[got:])
            elif self._stop.is_set():
                raise SourceError("its decoder is closed")
            elif _host.now_ns() >= deadline_ns:
                raise SourceError(f"its decoder did not answer for {limit_s:.0f} s and was ended", "hung")
        return data

    def _replace(self, reason: str) -> None:
        self.close()
        raise SourceError(f"its decoder {reason}", "crashed")


class DecodedStream:
    """One connection, to be read like a MediaReader; `time_ns` and samples count from its start."""

    def __init__(self, process: DecoderProcess, opened: Opened, on_error: Callable[[str], None]) -> None:
        self._process, self._opened, self._on_error = process, opened, on_error
        self._over = False
        self._waiting: list[tuple[Head, bytearray]] = []  # what came before the pixels that were asked for

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it brings of what was wanted."""
        return self._opened.modalities

    @property
    def recorded(self) -> bool:
        """True for a recording: what has an end."""
        return self._opened.recorded

    def items(self) -> Iterator[AudioItem | LivePicture]:
        """Pictures and sound as they come, to the end of the stream. SourceError when it breaks, with the reason."""
        while True:
            head, body = self._waiting.pop(0) if self._waiting else self._process.message(ANSWER_S)
            if head.kind == ENDED:
                self._over = True
                ended = _decoded(body, Ended)
                if ended.reason:
                    raise SourceError(ended.reason, ended.code)
                return
            if head.kind == ERROR:
                self._on_error("decoder")
            elif head.kind == SOUND:
                samples = np.frombuffer(body, "<f4").astype(np.float32)
                yield AudioItem(head.at, samples, head.arrived_ns, head.captured_ns or None)
            elif head.kind == PICTURE:  # a recording's pixels that nobody took are passed over
                yield LivePicture(head.at, self._pixels_of(head.a), head.arrived_ns, head.captured_ns or None)

    def _pixels_of(self, number: int) -> Callable[[], NDArray[np.uint8] | None]:
        def fetch() -> NDArray[np.uint8] | None:
            if not self._opened.recorded:
                self._process.want(number)
            while True:
                head, body = self._process.message(ANSWER_S)
                if head.kind != PIXELS:
                    self._waiting.append((head, body))
                elif head.at == number:
                    return pixels(head, body)

        return fetch

    def __enter__(self) -> DecodedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:  # it would go on sending
            self._process.close()


def _decoded(body: bytearray, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not Unicode
        raise SourceError("its decoder said what no decoder says", "crashed") from None
