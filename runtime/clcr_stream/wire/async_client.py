"""The typed reader for asyncio: the same rules as `Subscriber`, without a thread and without blocking the loop.

async with AsyncSubscriber(lifespan_ms=400) as subscriber:
    async for received in subscriber:
        print(received.message.seq, received.age_ms)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.wire.client import Received, Subscriber
from clcr_stream.wire.keys import CurveClient
from clcr_stream.wire.messages import Kind


class AsyncSubscriber:
    """`Subscriber`'s arguments, and its counts by `subscriber`; an async context manager and endless async iterator.

    One task reads at a time. A cancelled `receive` loses no message.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        stream: str = "default",
        topics: Sequence[Kind] | Kind = ("prediction",),
        lifespan_ms: float | None = None,
        curve: CurveClient | None = None,
        every: bool = False,
    ) -> None:
        self.subscriber = Subscriber(endpoint, stream, topics, lifespan_ms, curve, every=every)

    async def receive(self, timeout_ms: float | None = None) -> Received | None:
        """The next message of any topic, waiting at most `timeout_ms` (None: for ever); None when none came."""
        deadline_ns = None if timeout_ms is None else time.monotonic_ns() + int(timeout_ms * NS_PER_MS)
        while True:
            received = self.subscriber.receive(0)
            if received is not None:
                await asyncio.sleep(0)  # a queue that is never empty must not starve other tasks
                return received
            wait_ms = self.subscriber.patience_ms
            if deadline_ns is not None:
                left_ms = (deadline_ns - time.monotonic_ns()) / NS_PER_MS
                if left_ms <= 0:
                    return None
                wait_ms = min(wait_ms, left_ms)
            await self._readable(wait_ms * NS_PER_MS / NS_PER_S)

    async def _readable(self, seconds: float) -> None:
        """Until something may have come, or for so long."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        descriptors = self.subscriber.descriptors
        for descriptor in descriptors:
            loop.add_reader(descriptor, came.set)
        try:
            await asyncio.wait_for(came.wait(), seconds + 0.001)
        except asyncio.TimeoutError:  # its own class before Python 3.11
            pass
        finally:
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    async def __aiter__(self) -> AsyncIterator[Received]:
        while True:
            received = await self.receive()
            if received is not None:
                yield received

    def close(self) -> None:
        """Let go of the sockets; safe to call twice."""
        self.subscriber.close()

    async def __aenter__(self) -> AsyncSubscriber:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
