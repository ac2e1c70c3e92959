"""The recogniser's process as its session sees it: sound goes in and answers come out, and nobody waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

import msgspec

from clcr_stream.errors import SourceError
from clcr_stream.sources.child_process import ChildProcess
from clcr_stream.sources.speech.child import Answer, decode_answer


class RecogniserProcess:
    """One incarnation with pipes of its own; a context manager that ends it. One thread."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = ChildProcess(command)
        self._unread = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def unsent_bytes(self) -> int:
        """Sound that the process has not taken yet."""
        return self._process.unsent_bytes

    def send(self, frame: bytes) -> None:
        """Queue a frame; `exchange` sends it."""
        self._process.send(frame)

    def exchange(self, timeout_s: float) -> Iterator[Answer]:
        """Send and receive what is possible now, and wait at most `timeout_s` for it. SourceError once it has ended."""
        if self._process.ready(timeout_s):
            *lines, self._unread = (self._unread + self._process.read()).split(b"\n")
            for line in lines:
                yield read_answer(line)

    def __enter__(self) -> RecogniserProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()


def read_answer(line: bytes) -> Answer:
    """One line of the process; SourceError when no recogniser says such a thing."""
    try:
        return decode_answer(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not Unicode
        raise SourceError("its process said what no recogniser says", "crashed") from None
