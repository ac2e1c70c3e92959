"""What a socket's monitor tells, read as zmq.utils.monitor does, which imports asyncio: 25 ms of every start."""

from __future__ import annotations

import struct

import zmq


def read_event(monitor: zmq.Socket[bytes]) -> tuple[int, int, str]:
    """The next event, waiting for it: which of zmq.EVENT_..., its value (mostly a descriptor), and the endpoint."""
    data, endpoint = monitor.recv_multipart()
    event, value = struct.unpack("=Hi", data)
    return event, value, endpoint.decode("utf-8", "replace")
