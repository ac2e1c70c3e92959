"""A container's packets in the order of time, where it holds its streams in blocks one behind the other."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

AHEAD_S = 10.0  # a fragment of x264's longest distance between key pictures, 250 of them at 25 Hz
AHEAD_BYTES = 32 << 20


def in_order(packets: Iterable[Any], streams: Iterable[int]) -> Iterator[Any]:
    """The packets of `streams` by their time; each stream's stay in their own order.

    What one stream has is held until the others have come as far. One that is AHEAD_S or AHEAD_BYTES behind is not
    waited for until it comes again. When `packets` break off, what is held comes before the error.
    """
    import av

    held: list[tuple[float, int, Any]] = []  # a heap
    counts: Counter[int] = Counter()
    newest_s: dict[int, float] = {}
    awaited, size, error = set(streams), 0, None
    try:
        for number, packet in enumerate(packets):
            stream = packet.stream.index  # its own number is unset at the end of a stream
            newest_s[stream] = max(_due_s(packet), newest_s.get(stream, -math.inf))
            heapq.heappush(held, (newest_s[stream], number, packet))
            counts[stream] += 1
            size += packet.size
            awaited.add(stream)
            if newest_s[stream] - held[0][0] > AHEAD_S or size > AHEAD_BYTES:
                awaited = {one for one in awaited if counts[one]}
            while held and all(counts[one] for one in awaited):
                packet = heapq.heappop(held)[2]
                counts[packet.stream.index] -= 1
                size -= packet.size
                yield packet
    except (OSError, av.error.FFmpegError) as broken:
        error = broken
    yield from (packet for *_, packet in sorted(held))
    if error is not None:
        raise error


def _due_s(packet: Any) -> float:
    """When a packet is decoded; before everything for one without a stamp, as the last of a stream."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return -math.inf if stamp is None else float(stamp * packet.time_base)
