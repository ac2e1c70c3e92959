"""Another process with pipes of its own: bytes go in and come out, and nobody waits longer than asked for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType

from clcr_stream.errors import SourceError

LEAVE_S = 1.0
CHUNK = 65536
LAST_BYTES = 4096  # kept of what it printed on standard error
F_SETPIPE_SZ = 1031  # fcntl's, which Python 3.10 on Linux names too, and type checkers do not


class ChildProcess:
    """One incarnation; a context manager that ends it. One thread."""

    def __init__(self, command: Sequence[str], pipe_bytes: int = 0) -> None:
        """`pipe_bytes` is what its output may be ahead of its reader, 0 for what the system gives. SourceError."""
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
            raise SourceError(f"{command[0]} cannot be started ({error.strerror})", "crashed") from None
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._selector = selectors.DefaultSelector()
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        for pipe in (self._stdout, self._stderr):
            self._selector.register(pipe, selectors.EVENT_READ)
        if pipe_bytes:
            with contextlib.suppress(OSError):  # a limit of the system: it works with less, too
                fcntl.fcntl(self._stdout.fileno(), F_SETPIPE_SZ, pipe_bytes)
        self._unsent = bytearray()
        self._printed = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def unsent_bytes(self) -> int:
        """What the process has not taken yet."""
        return len(self._unsent)

    def send(self, data: bytes) -> None:
        """Queue bytes for its standard input; `ready` sends them."""
        if not self._unsent:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._unsent += data

    def ready(self, timeout_s: float) -> bool:
        """Send what is possible now, and wait at most `timeout_s` for output; True when there is some, or its end."""
        output = False
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._stdin:
                self._write()
            elif key.fileobj is self._stderr:
                self._listen()
            else:
                output = True
        return output

    def read(self) -> bytes:
        """What there is of its output, at most CHUNK bytes, b"" for nothing. SourceError once the process has ended."""
        try:
            data = os.read(self._stdout.fileno(), CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            raise SourceError(self._how_it_ended(), "crashed")
        return data

    def read_into(self, place: memoryview) -> int:
        """As `read`, into `place`: the number of bytes."""
        try:
            count = os.readv(self._stdout.fileno(), [place])
        except BlockingIOError:
            return 0
        if not count:
            raise SourceError(self._how_it_ended(), "crashed")
        return count

    def close(self) -> None:
        """Kill it and what it has started: they hold nothing that could be lost. Idempotent."""
        self._selector.close()
        if not self._stdout.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session's, and so nobody else's
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

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

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._stderr.fileno(), CHUNK)
            self._printed = (self._printed + data)[-LAST_BYTES:]
            if not data:
                self._selector.unregister(self._stderr)

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

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
