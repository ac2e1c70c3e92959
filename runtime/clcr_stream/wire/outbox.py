"""Where a stream's messages go: the publisher and the JSON lines."""

from __future__ import annotations

import msgspec

from clcr_stream.wire import messages
from clcr_stream.wire.jsonl import JsonLines
from clcr_stream.wire.publisher import Publisher


class Outbox:
    """Sends each message to the publisher and, as it was sent, to the JSON lines."""

    def __init__(self, lines: JsonLines | None) -> None:
        self.publisher: Publisher | None = None
        self._closing = False
        self._lines = lines
        self._beats = 0

    def send(self, message: messages.Message) -> None:
        """Publish a session, prediction or transcript."""
        if self.publisher is not None:
            message = self.publisher.publish(message)
        if self._lines is not None:
            self._lines.write(message)

    def close(self) -> None:
        """The next heartbeat is the goodbye."""
        self._closing = True

    def note(self, status: messages.Status) -> messages.Status:
        """A heartbeat on its way to the publisher, which numbers it as here; called by the publisher's thread alone."""
        self._beats += 1
        if self._lines is not None:
            state = "goodbye" if self._closing else status.state
            self._lines.write(msgspec.structs.replace(status, seq=self._beats, state=state))
        return status
