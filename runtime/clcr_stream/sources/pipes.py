"""A recording that comes through a pipe: standard input or a named pipe, read without blocking for good."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path

from clcr_stream.errors import SourceError
from clcr_stream.sources.base import Flag, Modality, never
from clcr_stream.sources.media import MediaReader, reason_of

STDIN = "-"
POLL_MS = 100
BEGIN_S = 30.0  # until the first byte: a session cannot begin before, and what writes may have to be started
CONTAINERS = (
    "Matroska, MPEG-TS, fragmented MP4, WAV and Ogg can be read from a pipe; an MP4 with its index at the end cannot"
)


def is_pipe(location: str) -> bool:
    """True for standard input and for a named pipe."""
    if location == STDIN:
        return True
    try:
        return stat.S_ISFIFO(Path(location.removeprefix("file://")).expanduser().stat().st_mode)
    except OSError:
        return False


class PipeFile:
    """What PyAV reads from: `read` waits for data, and `cancel` makes it the end. Any thread may cancel.

    Before the first byte, when nobody can close the source yet, `stopping` ends the wait as well.
    """

    def __init__(self, location: str, begin_s: float = BEGIN_S, stopping: Callable[[], bool] = never) -> None:
        self._stopping = stopping
        self._location, self._polls_left = location, int(begin_s * 1000 / POLL_MS)
        if location == STDIN:
            if os.isatty(0):
                raise SourceError(f"input {STDIN}: standard input is a terminal; pipe a recording into it")
            self._descriptor, self._owned = 0, False
        else:
            # Without O_NONBLOCK opening would wait for a writer, and could not be cancelled.
            path = Path(location.removeprefix("file://")).expanduser()
            self._descriptor, self._owned = os.open(path, os.O_RDONLY | os.O_NONBLOCK), True
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._cancelled = False
        self.begun = False  # a byte came

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end. SourceError when nothing begins to come."""
        while not self._cancelled:
            events = self._poll.poll(POLL_MS)
            if not events or (not events[0][1] & select.POLLIN and not self.begun and self._owned):
                self._await_begin(hung_up=bool(events))
                continue
            try:
                data = os.read(self._descriptor, size)
            except BlockingIOError:
                continue
            self.begun = self.begun or bool(data)
            return data
        return b""

    def _await_begin(self, hung_up: bool) -> None:
        """Before the first byte; a named pipe without a writer yet says at once that it was hung up."""
        if self.begun:
            return
        if self._stopping():
            self.cancel()
        self._polls_left -= 1
        if self._polls_left < 0:
            raise SourceError(
                f"input {self._location}: nothing came through the pipe; start what writes to it", "timed_out"
            )
        if hung_up:
            time.sleep(POLL_MS / 1000)

    def cancel(self) -> None:
        """A read that waits ends, and so does every later one."""
        self._cancelled = True

    def close(self) -> None:
        """PyAV closes what it read; the descriptor of standard input stays."""
        self._cancelled = True
        if self._owned and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_pipe(
    file: PipeFile,
    location: str,
    requested: tuple[Modality, ...],
    rate_hz: int,
    on_error: Callable[[str], None],
    flag: Flag,
) -> MediaReader:
    """Wait for the beginning of what comes through the pipe; SourceError when it is no recording."""
    import av

    try:
        container = av.open(file, mode="r")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if not file.begun:
            raise SourceError(
                f"{flag} {location}: the pipe ended before a byte came; see what writes to it", "ended"
            ) from None
        raise SourceError(
            f"{flag} {location}: not a recording ({reason_of(error)}); {CONTAINERS}", "not_media"
        ) from None
    reader = MediaReader(container, requested, rate_hz, on_error)
    if not reader.modalities:
        container.close()
        raise SourceError(f"{flag} {location}: holds neither video nor audio", "not_media")
    return reader
