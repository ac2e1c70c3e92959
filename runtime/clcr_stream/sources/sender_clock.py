"""When the sender of a live stream says that it captured its packets, by this host's monotonic clock.

An RTP sender reports its wall clock (RTCP); FFmpeg gives each packet after that its time by it.
"""

from __future__ import annotations

import struct
import time
from fractions import Fraction
from typing import Any

from clcr_stream.clock import NS_PER_S

_PRODUCED = struct.Struct("<qi")  # AVProducerReferenceTime: us since 1970, what is meant by it


class SenderClock:
    """Of one connection; a sender whose clock is wrong says wrong times, which its reader must judge."""

    def __init__(self, wall_stamps: bool = False) -> None:
        """`wall_stamps`: time stamps are the host's own wall clock, as those of FFmpeg's grabbers."""
        self._wall_stamps = wall_stamps
        self._offsets_ns: dict[int, int] = {}  # by stream: the host's clock minus the stream's time stamps

    def see(self, packet: Any, arrived_ns: int) -> None:
        """A packet came just now. Older releases of PyAV do not show what the sender says."""
        if packet.pts is None:
            return
        wall_ns = stamped_ns = _ns(packet.pts * packet.time_base)
        if not self._wall_stamps:
            shows = getattr(packet, "has_sidedata", None)
            if shows is None or not shows("prft"):
                return
            wall_us, _ = _PRODUCED.unpack_from(bytes(packet.get_sidedata("prft")))
            wall_ns = wall_us * 1000
        age_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - wall_ns
        self._offsets_ns[packet.stream_index] = arrived_ns - age_ns - stamped_ns

    def captured_ns(self, stream_index: int, at_s: Fraction) -> int | None:
        """When data stamped `at_s` were captured; None while the sender has not said."""
        offset_ns = self._offsets_ns.get(stream_index)
        return None if offset_ns is None else offset_ns + _ns(at_s)


def _ns(at_s: Fraction) -> int:
    return int(at_s * NS_PER_S)
