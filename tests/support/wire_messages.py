"""Messages of a session as its publisher would send them, from the golden ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from clcr_stream.clock import read_boot_id
from clcr_stream.wire.client import Received
from clcr_stream.wire.messages import (
    Kind,
    Message,
    Prediction,
    Session,
    Status,
    Tokens,
    Transcript,
    Window,
    decode,
    kind_of,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire"
HOP_NS = 200_000_000
ORIGIN_NS = 12_000_000_000_000
PROBS = {"neutral": 0.75, "sad": 0.25}
_M = TypeVar("_M", bound=Message)


def _made(kind: Kind, wanted: type[_M], **changes: object) -> _M:
    message = decode((GOLDEN / f"{kind}.json").read_bytes())
    assert isinstance(message, wanted) and kind_of(message) == kind
    return msgspec.structs.replace(message, boot_id=read_boot_id(), **changes)


def session(stream: str = "default", run: str = "a" * 16, **changes: object) -> Session:
    return _made("session", Session, stream=stream, session=run, **({"seq": 1} | changes))


def prediction(
    seq: int,
    probs: Mapping[str, float] | None = PROBS,
    stream: str = "default",
    run: str = "a" * 16,
    **changes: object,
) -> Prediction:
    """The tick `seq` of a session that began at ORIGIN_NS; without `probs` it is a regression's."""
    end_ns = ORIGIN_NS + seq * HOP_NS
    label = max(probs, key=lambda name: probs[name]) if probs else None
    fields: dict[str, object] = {
        "probs": None if probs is None else dict(probs),
        "label": label,
        "confidence": probs[label] if probs and label else None,
        "window": Window(start_ns=end_ns - 6 * 10**9, end_ns=end_ns, filled=1.0),
        "latency_ms": 70.0,
        "degraded": (),
    }
    return _made("prediction", Prediction, seq=seq, stream=stream, session=run, **(fields | changes))


def status(stream: str = "default", run: str = "a" * 16, **changes: object) -> Status:
    return _made("status", Status, stream=stream, session=run, **({"seq": 0} | changes))


def words(text: str, name: str = "1", stream: str = "default", run: str = "a" * 16, **changes: object) -> Transcript:
    return _made("transcript", Transcript, id=name, text=text, stream=stream, session=run, **({"seq": 1} | changes))


def read(message: Message, missed: int = 0) -> Received:
    """The message as a Subscriber hands it on."""
    return Received(message, 1.0, missed, False)


def tokens(seq: int, stream: str = "default", run: str = "a" * 16, **changes: object) -> Tokens:
    return _made("tokens", Tokens, seq=seq, stream=stream, session=run, **changes)
