"""A reader's connections: what was lost and why, and those that libzmq has given up on made again."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import zmq

from clcr_stream.clock import FOREVER_NS, NS_PER_MS
from clcr_stream.wire.monitor import read_event

LOSSES = ("closed", "broken", "refused")
_FIRST_WAIT_NS = 100 * NS_PER_MS
_LONGEST_WAIT_NS = 5000 * NS_PER_MS
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECTED | _FAILED


@dataclass
class _Link:
    """One endpoint: since when it is without a connection that libzmq tries again, and how long to wait then."""

    lost_ns: int | None = None
    refused: bool = False
    wait_ns: int = _FIRST_WAIT_NS


class Links:
    """The connections of one SUB socket; used by that socket's thread, closed before it.

    libzmq follows an end of a connection with a new try, unless the peer broke the protocol: then it never tries again,
    and a second `connect` to the same endpoint does nothing. `losses` counts ends that it tries again after (closed),
    breaches such as a frame over MAXMSGSIZE (broken), and handshakes that the peer ended (refused): our key is not
    allowed, or there is none where one is needed. `longest_ns` is the longest pause between tries.
    """

    def __init__(self, source: zmq.Socket[bytes], losses: dict[str, int], longest_ns: int = _LONGEST_WAIT_NS) -> None:
        self._source = source
        self._losses = losses
        self._longest_ns = max(_FIRST_WAIT_NS, longest_ns)
        self._links: dict[str, _Link] = {}
        self.monitor = source.get_monitor_socket(_EVENTS)

    def fileno(self) -> int:
        """Readable when `mend` should be called."""
        return self.monitor.fileno()

    def connect(self, endpoint: str) -> None:
        """Connect the socket. Raises zmq.ZMQError for an endpoint that is not understood."""
        self._source.connect(endpoint)
        self._links[endpoint] = _Link()

    def heard(self) -> None:
        """A message came: the next loss is mended at once again."""
        for link in self._links.values():
            link.wait_ns = _FIRST_WAIT_NS

    def mend(self, now_ns: int) -> int:
        """Take note of what has happened and connect again what was given up; when to look again, ns."""
        while self.monitor.poll(0):
            event, value, address = read_event(self.monitor)
            self._note(event, value, address, now_ns)
        wake_ns = FOREVER_NS
        for endpoint, link in self._links.items():
            if link.lost_ns is None:
                continue
            due_ns = link.lost_ns + link.wait_ns
            if now_ns >= due_ns:
                self._again(endpoint, link)
            else:
                wake_ns = min(wake_ns, due_ns)
        return wake_ns

    def close(self) -> None:
        """Let go of the monitor, before the socket is closed."""
        self._source.disable_monitor()
        self.monitor.close(linger=0)

    def _note(self, event: int, value: int, address: str, now_ns: int) -> None:
        link = self._links.get(address)
        if link is None:  # a name that libzmq has resolved
            link = next(iter(self._links.values()), _Link())
        if event & _FAILED:
            link.refused = _is_refusal(event, value)
        elif event == zmq.EVENT_DISCONNECTED:
            link.lost_ns = now_ns
        elif link.lost_ns is not None:  # it is tried again, or is back already
            self._losses["refused" if link.refused else "closed"] += 1
            link.lost_ns, link.refused = None, False

    def _again(self, endpoint: str, link: _Link) -> None:
        self._losses["refused" if link.refused else "broken"] += 1
        link.lost_ns, link.refused = None, False
        link.wait_ns = min(2 * link.wait_ns, self._longest_ns)
        try:
            self._source.disconnect(endpoint)
        except zmq.ZMQError:
            pass  # forgotten already
        self._source.connect(endpoint)


def _is_refusal(event: int, value: int) -> bool:
    """Whether the peer ended the handshake for our key or the lack of one, and neither was too slow nor spoke nonsense.

    A publisher that wants keys closes before it says so when it is the faster one, and with a wrong key of its own.
    """
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
    return event == zmq.EVENT_HANDSHAKE_FAILED_AUTH or value in (errno.EPIPE, errno.ECONNRESET)
