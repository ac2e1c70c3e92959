"""What a decoder's process and its session say to each other.

To the process go lines: first the request as JSON, then `open` for each connection, and `want N` for the pixels of
picture N. From it come messages, each a head of fixed length and as many bytes as it says. A picture's pixels are
asked for, so that nobody converts and carries pictures that no slot of the grid wants; those of a recording, which is
read as fast as its reader takes it, come by themselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from clcr_stream.errors import SourceCode, SourceError
from clcr_stream.sources.base import Modality

HEAD = struct.Struct("<cqqqIII")  # what it is, as in Head
READY, OPENED, ENDED, ERROR, PICTURE, PIXELS, SOUND = b"r", b"o", b"e", b"x", b"v", b"p", b"s"
KINDS = (READY, OPENED, ENDED, ERROR, PICTURE, PIXELS, SOUND)
OPEN, WANT = b"open\n", b"want %d\n"
MAX_BYTES = 256 * 1024 * 1024  # a picture of 8192 x 8192 has 192 MiB
MAX_SIDE = 16384


class Request(Struct, frozen=True):
    """What is to be opened, and what is wanted of it."""

    url: str
    requested: tuple[Modality, ...]
    rate_hz: int


class Opened(Struct, frozen=True):
    """What a connection brings."""

    modalities: tuple[Modality, ...]
    recorded: bool


class Ended(Struct, frozen=True):
    """A connection is over, or there was none; `reason` is "" at the end of the stream, `code` a SourceError's."""

    reason: str
    code: SourceCode = ""


@dataclass(frozen=True)
class Head:
    """What a message begins with."""

    kind: bytes
    arrived_ns: int  # monotonic ns
    captured_ns: int  # the same, by the sender's clock; 0: it does not say
    at: int  # a picture's time in ns, the index of the first sample, the number of the picture that pixels are of
    a: int
    b: int
    length: int


def pack(
    kind: bytes, arrived_ns: int = 0, captured_ns: int = 0, at: int = 0, a: int = 0, b: int = 0, length: int = 0
) -> bytes:
    """The head of a message; `length` bytes must follow."""
    return HEAD.pack(kind, arrived_ns, captured_ns, at, a, b, length)


def pack_with(kind: bytes, body: Opened | Ended) -> bytes:
    """A whole message with a body of JSON."""
    data = msgspec.json.encode(body)
    return pack(kind, length=len(data)) + data


def read_head(data: bytes | bytearray) -> Head:
    """A head of HEAD.size bytes; SourceError when no decoder says such a thing."""
    head = Head(*HEAD.unpack(data))
    sound = head.kind != SOUND or head.length % 4 == 0
    pixels = head.kind != PIXELS or (max(head.a, head.b) <= MAX_SIDE and head.length in (0, head.a * head.b * 3))
    if head.kind not in KINDS or head.length > MAX_BYTES or not sound or not pixels:
        raise SourceError("its decoder said what no decoder says", "crashed")
    return head


def pixels(head: Head, body: bytearray) -> NDArray[np.uint8] | None:
    """The picture (height, width, 3); None when it was no longer there."""
    return np.frombuffer(body, np.uint8).reshape(head.a, head.b, 3) if head.length else None
