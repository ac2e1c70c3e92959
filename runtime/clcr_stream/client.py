"""Read what a session publishes, from another process: all that a program needs for it, typed.

    from clcr_stream.client import Subscriber

    with Subscriber(topics=("prediction", "status"), lifespan_ms=400) as subscriber:
        for received in subscriber:
            print(received.message, received.age_ms, received.missed)

`Subscriber` is for plain code, `AsyncSubscriber` for asyncio; docs/wire.md says what the messages mean.
"""

from __future__ import annotations

from clcr_stream.wire.async_client import AsyncSubscriber
from clcr_stream.wire.client import Received, Subscriber
from clcr_stream.wire.endpoint import running_streams
from clcr_stream.wire.keys import CurveClient
from clcr_stream.wire.messages import KINDS, Event, Kind, Message, Prediction, Session, Status, Tokens, Transcript

__all__ = [
    "KINDS",
    "AsyncSubscriber",
    "CurveClient",
    "Event",
    "Kind",
    "Message",
    "Prediction",
    "Received",
    "Session",
    "Status",
    "Subscriber",
    "Tokens",
    "Transcript",
    "running_streams",
]
