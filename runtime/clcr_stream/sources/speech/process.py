"""The recogniser's process as its session sees it: sound goes in and answers come out, and nobody waits."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType

import msgspec

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.child import Answer, decode_answer

LEAVE_S = 1.0
CHUNK = 65536
LAST_LINES = 4096  # bytes of what it printed on standard error


class RecogniserProcess:
    """One incarnation with pipes of its own; a context manager that ends it. One thread."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            # A session of its own, so that Ctrl-C is the program's to handle.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise SourceError(f"{command[0]} cannot be started ({error.strerror})") from None
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._selector = selectors.DefaultSelector()
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        for pipe in (self._stdout, self._stderr):
            self._selector.register(pipe, selectors.EVENT_READ)
        self._unsent = bytearray()
        self._unread = b""
        self._printed = b""
        self._ended = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def unsent_bytes(self) -> int:
        """Sound that the process has not taken yet."""
        return len(self._unsent)

    def send(self, frame: bytes) -> None:
        """Queue a frame; `exchange` sends it."""
        if not self._unsent and not self._ended:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._unsent += frame

    def exchange(self, timeout_s: float) -> Iterator[Answer]:
        """Send and receive what is possible now, and wait at most `timeout_s` for it. SourceError once it has ended."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._stdin:
                self._write()
            elif key.fileobj is self._stderr:
                self._printed = (self._printed + self._read(self._stderr.fileno()))[-LAST_LINES:]
            else:
                *lines, self._unread = (self._unread + self._read(self._stdout.fileno())).split(b"\n")
                for line in lines:
                    yield _decoded(line)
        if self._ended:
            raise SourceError(self._how_it_ended())

    def _read(self, descriptor: int) -> bytes:
        with contextlib.suppress(BlockingIOError):
            data = os.read(descriptor, CHUNK)
            if not data and descriptor == self._stdout.fileno():
                self._ended = True
            elif not data:
                self._selector.unregister(self._stderr)
            return data
        return b""

    def _write(self) -> None:
        try:
            sent = os.write(self._stdin.fileno(), self._unsent[:CHUNK])
        except BlockingIOError:
            return
        except OSError:  # it is about to end, which its output says
            self._unsent.clear()
        else:
            del self._unsent[:sent]
        if not self._unsent:
            self._selector.unregister(self._stdin)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        with contextlib.suppress(BlockingIOError, OSError):
            self._printed += os.read(self._stderr.fileno(), CHUNK)
        printed = self._printed.decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"its process ended with {how}" + (f" ({printed[-1]})" if printed else "")

    def __enter__(self) -> RecogniserProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        self._process.kill()  # it holds nothing that could be lost
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()


def _decoded(line: bytes) -> Answer:
    try:
        return decode_answer(line)
    except msgspec.MsgspecError:
        raise SourceError("its process said what no recogniser says") from None
