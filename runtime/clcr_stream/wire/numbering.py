"""The numbers of a stream's messages: per topic from 1 on, never back."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from clcr_stream.errors import PublishError
from clcr_stream.wire.messages import Kind, Message, kind_of

_M = TypeVar("_M", bound=Message)


class Numbering:
    """Gives a message with seq 0 the next number of its topic; messages of a topic come from one thread at a time."""

    def __init__(self) -> None:
        self._last: dict[Kind, int] = {}

    def numbered(self, message: _M) -> _M:
        """The message with its number, which only `keep` uses up. PublishError when its own does not advance."""
        kind = kind_of(message)
        last = self._last.get(kind, 0)
        if message.seq == 0:
            return msgspec.structs.replace(message, seq=last + 1)
        if message.seq <= last:
            raise PublishError(f"{kind} seq {message.seq} after {last}: seq must increase within a session")
        return message

    def keep(self, message: Message) -> None:
        """The message was sent."""
        self._last[kind_of(message)] = message.seq
