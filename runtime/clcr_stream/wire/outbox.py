"""Where a stream's messages go: over the wire, if it is published, and as they were sent to every sink."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import ClcrError, as_clcr_error
from clcr_stream.wire.messages import Kind, Message, Status, Tokens
from clcr_stream.wire.numbering import Numbering
from clcr_stream.wire.publisher import Publisher, PublishOptions

HEARTBEAT_MS = 1000

_M = TypeVar("_M", bound=Message)


class Sink(Protocol):
    """Takes each message of a stream once, numbered, as its readers get it: a file, a mailbox, a recorder.

    `write` is called by the loop's thread, and for a Status by the thread of the heartbeat; it must not wait.
    """

    def write(self, message: Message, /) -> None: ...


class Outbox:
    """Numbers, publishes and hands on the messages of one stream; a context manager whose end is the goodbye.

    `heartbeat` makes the current Status; it is called once a second, by `beat` and at the end. Without `publish` no
    socket is opened, and the outbox numbers the messages itself. What a sink raises ends the stream: `send` raises it,
    of a heartbeat the next one. `recording` is asked for each message's field of that name.
    """

    def __init__(
        self,
        stream: str,
        publish: PublishOptions | None,
        heartbeat: Callable[[], Status],
        recording: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stream = stream
        self._recording = recording
        self._heartbeat = heartbeat
        self._sinks: list[Sink] = []
        self._failure: ClcrError | None = None
        self._publisher: Publisher | None = None
        self._beats: _Beats | None = None
        if publish is not None:
            self._publisher = Publisher(publish, heartbeat, self._beaten)
        else:
            self._numbering = Numbering()
            self._beats = _Beats(self._beat)

    @property
    def endpoint(self) -> str | None:
        """Where the stream is published, None when it is not."""
        return None if self._publisher is None else self._publisher.endpoint

    @property
    def refused(self) -> int:
        """How many readers were turned away."""
        return 0 if self._publisher is None else self._publisher.refused

    def add(self, sink: Sink) -> None:
        """Hand every message from now on to `sink` too; before the first one is sent."""
        self._sinks.append(sink)

    def send(self, message: _M) -> _M:
        """A session, prediction, transcript or tokens; as it was sent. Raises PublishError and what a sink raised.

        Tokens go over the wire alone.
        """
        if self._failure is not None:
            raise self._failure
        if self._recording():
            message = msgspec.structs.replace(message, recording=True)
        sent = self._numbered(message) if self._publisher is None else self._publisher.publish(message)
        if not isinstance(sent, Tokens):
            for sink in self._sinks:
                sink.write(sent)
        return sent

    def wanted(self, kind: Kind) -> bool:
        """True while a reader asks for what is only sent on request."""
        return self._publisher is not None and self._publisher.wanted(kind)

    def beat(self) -> None:
        """A heartbeat now, because something has changed. Any thread, never waits."""
        if self._publisher is not None:
            self._publisher.beat()
        elif self._beats is not None:
            self._beats.ask()

    def close(self) -> None:
        """The goodbye, then let go of the endpoint. Raises PublishError when the publisher had failed. Idempotent."""
        if self._publisher is not None:
            self._publisher.close()
        elif self._beats is not None:
            self._beats.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _numbered(self, message: _M) -> _M:
        message = self._numbering.numbered(message)
        self._numbering.keep(message)
        return message

    def _beat(self, goodbye: bool) -> None:
        status = self._heartbeat()
        if goodbye:
            status = msgspec.structs.replace(status, state="goodbye")
        self._beaten(self._numbered(status))

    def _beaten(self, status: Status) -> None:
        """A heartbeat was sent, on a thread of its own: its failure waits for the loop's next message."""
        try:
            for sink in self._sinks:
                sink.write(status)
        except Exception as error:
            self._failure = as_clcr_error(error, f"stream {self._stream}: a sink failed")


class _Beats:
    """Calls `beat` once a second and when asked, on a thread of its own, and a last time, with True, at the end."""

    def __init__(self, beat: Callable[[bool], None]) -> None:
        self._beat = beat
        self._stop = False
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clcr-heartbeat", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        self._asked.set()

    def close(self) -> None:
        self._stop = True
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._asked.wait(HEARTBEAT_MS * NS_PER_MS / NS_PER_S)
            self._asked.clear()
            if self._stop:
                break
            self._beat(False)
        self._beat(True)
