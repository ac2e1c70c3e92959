"""Who is connected to a publisher, and the bounds within which they stay: those beyond them are cut off.

libzmq bounds neither how many connect nor how much they subscribe to nor a message of endless parts, and cannot end
one connection. The system can: the socket behind the descriptor that libzmq names is shut down, which libzmq takes for
an end. The descriptor is copied first and compared with what was accepted, so that no other file is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq

from clcr_stream.clock import FOREVER_NS, NS_PER_MS, NS_PER_S
from clcr_stream.wire.monitor import read_event

REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | REFUSALS
MOST_PEERS = 512  # 30 kB each; fewer where half of the process's descriptors are fewer
MOST_WAITING = 128  # connections over TCP without a subscription, at any time
FEW_WAITING = 64  # of them, after _PATIENCE_NS
MOST_TOPIC_BYTES = 128
MOST_FOREIGN = 256  # distinct subscriptions of all peers to what is never sent here
_PATIENCE_NS = 200 * NS_PER_MS
_FIRST_EVENTS, _EVENTS_PER_S = 64, 16  # subscriptions and their ends, of one peer
_FIRST_BYTES, _BYTES_PER_S = 1 << 16, 1 << 12  # of one TCP peer; heartbeats are some 50 bytes a second
_LOOK_NS = 100 * NS_PER_MS  # 0.3 % of a core; an endless message comes to 1 MB in it
_LOOK_AT = 64  # peers, at once
_SO_COOKIE = 57  # of asm-generic/socket.h; socket has no name for it
_BYTES_RECEIVED = struct.Struct("=128xQ")  # in struct tcp_info


@dataclass
class _Peer:
    """One connection; `identity` is the kernel's number of its socket, which no other one ever gets."""

    identity: bytes
    since_ns: int
    events: int = 0
    cut: bool = False


class Peers:
    """The connections of one bound XPUB socket; used by that socket's thread. `own` are the topics that are sent.

    `refused` counts those that were turned away: by libzmq in the handshake, or here.
    """

    def __init__(self, own: Sequence[bytes]) -> None:
        self._own = tuple(own)
        self._endpoint, self._over_tcp = "", False
        self._peers: dict[int, _Peer] = {}
        self._waiting: dict[int, _Peer] = {}  # without a subscription, the oldest first
        self._foreign: set[bytes] = set()
        self._unseen: list[int] = []  # descriptors to look at in this round
        self._just_refused = False
        self._next_ns = 0
        self._most = min(MOST_PEERS, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self.refused = 0

    @property
    def subscribers(self) -> int:
        """How many are connected and have subscribed to something."""
        return sum(peer.events > 0 and not peer.cut for peer in list(self._peers.values()))

    def begin(self, endpoint: str) -> None:
        """The socket is bound anew, and nobody is connected."""
        self._endpoint, self._over_tcp = endpoint, endpoint.startswith("tcp://")
        self._peers.clear()
        self._waiting.clear()
        self._foreign.clear()

    def read(self, monitor: zmq.Socket[bytes], now_ns: int) -> None:
        """Take note of who has come and gone."""
        while monitor.poll(0):
            event, descriptor, _ = read_event(monitor)
            if event == zmq.EVENT_ACCEPTED:
                self._accept(descriptor, now_ns)
            elif event == zmq.EVENT_DISCONNECTED:
                self._forget(descriptor)
            elif event & REFUSALS:
                self.refused += 1
            self._just_refused = bool(event & REFUSALS)

    def takes(self, event: zmq.Frame, now_ns: int) -> bool:
        """Whether a subscription, or the end of one, is within bounds; if not, its peer is cut off."""
        data = event.bytes
        topic = data[1:]
        if data[:1] != b"\x01":
            self._foreign.discard(topic)
        try:
            descriptor = int(event.get("__fd"))
        except (zmq.ZMQError, ValueError):
            return True  # the end of a subscription of somebody who has gone
        peer = self._peers.get(descriptor)
        if peer is None:
            return True
        self._waiting.pop(descriptor, None)
        peer.events += 1
        if data[:1] == b"\x01" and self._is_foreign(topic):
            self._foreign.add(topic)
        too_many = peer.events > _allowance(peer, now_ns, _FIRST_EVENTS, _EVENTS_PER_S)
        if too_many or len(topic) > MOST_TOPIC_BYTES or (len(self._foreign) > MOST_FOREIGN and topic in self._foreign):
            self._cut(descriptor, peer)
        return not peer.cut

    def look(self, now_ns: int) -> int:
        """Cut off those who wait too long while many do, or have sent too much; when to look again."""
        if not self._peers or (not self._over_tcp and len(self._waiting) <= FEW_WAITING):
            return FOREVER_NS
        if now_ns < self._next_ns:
            return self._next_ns
        for descriptor, peer in list(self._waiting.items())[: max(0, len(self._waiting) - FEW_WAITING)]:
            if now_ns - peer.since_ns > _PATIENCE_NS:
                self._cut(descriptor, peer)
        if self._over_tcp:
            self._unseen = self._unseen or list(self._peers)
            for descriptor in self._unseen[:_LOOK_AT]:
                self._weigh(descriptor, now_ns)
            del self._unseen[:_LOOK_AT]
        self._next_ns = now_ns + _LOOK_NS
        return self._next_ns

    def _accept(self, descriptor: int, now_ns: int) -> None:
        with _socket_of(descriptor) as found:
            identity = _identity(found) if found is not None and self._is_ours(found) else b""
        self._peers[descriptor] = self._waiting[descriptor] = peer = _Peer(identity, now_ns)
        if len(self._peers) > self._most:
            self._cut(descriptor, peer)
        if self._over_tcp and len(self._waiting) > MOST_WAITING:
            self._cut(*next(iter(self._waiting.items())))

    def _forget(self, descriptor: int) -> None:
        self._waiting.pop(descriptor, None)
        peer = self._peers.pop(descriptor, None)
        if peer is not None and peer.cut and not self._just_refused:
            self.refused += 1

    def _weigh(self, descriptor: int, now_ns: int) -> None:
        peer = self._peers.get(descriptor)
        if peer is None or peer.cut:
            return
        with _socket_of(descriptor) as found:
            if found is None or _identity(found) != peer.identity:
                return
            received = _received(found)
        if received > _allowance(peer, now_ns, _FIRST_BYTES, _BYTES_PER_S):
            self._cut(descriptor, peer)

    def _cut(self, descriptor: int, peer: _Peer) -> None:
        peer.cut = True
        self._waiting.pop(descriptor, None)
        with _socket_of(descriptor) as found:
            if found is not None and peer.identity and _identity(found) == peer.identity:
                with contextlib.suppress(OSError):  # it has gone already
                    found.shutdown(socket.SHUT_RDWR)

    def _is_foreign(self, topic: bytes) -> bool:
        """Whether nothing that is sent here begins with it. What is longer than a topic names its payload too."""
        return not any(own.startswith(topic) for own in self._own)

    def _is_ours(self, found: socket.socket) -> bool:
        """Whether the socket was accepted at this endpoint: only those have its address as their own."""
        try:
            name = found.getsockname()
        except OSError:
            return False
        if isinstance(name, str):
            return self._endpoint == f"ipc://{name}"
        return isinstance(name, tuple) and self._endpoint.rpartition(":")[2] == str(name[1])


def _allowance(peer: _Peer, now_ns: int, first: int, per_s: int) -> float:
    return first + per_s * (now_ns - peer.since_ns) / NS_PER_S


@contextlib.contextmanager
def _socket_of(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor of libzmq, by a copy; None when there is none any more."""
    copy = -1
    try:
        copy = os.dup(descriptor)
        found = socket.socket(fileno=copy)
    except OSError:
        if copy >= 0:
            os.close(copy)
        yield None
        return
    with found:
        yield found


def _identity(found: socket.socket) -> bytes:
    """b"" where the system has no such number: then nobody is cut off here."""
    try:
        return found.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError:
        return b""


def _received(found: socket.socket) -> int:
    """Bytes that a TCP socket has received; 0 where the system does not say."""
    try:
        return int(
            _BYTES_RECEIVED.unpack(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size))[0]
        )
    except (OSError, struct.error):
        return 0
