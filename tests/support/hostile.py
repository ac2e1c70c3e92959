"""Peers that mean harm to a publisher on TCP: raw sockets that speak ZMTP as far as it suits them.

    python tests/support/hostile.py KIND PORT

does one of ATTACKS, prints how many bytes of the publisher's it was given beyond the handshake, and ends when its
standard input does. It knows nothing of the runtime.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from collections.abc import Callable, Mapping

NULL, PLAIN = b"NULL", b"PLAIN"
CONNECT_S, SEND_S, GREET_S = 5.0, 1.5, 30.0
PATIENT = 1000  # slow connections
FLOOD = 300_000  # subscriptions
FRAME_BYTES = 1 << 30
_BLOCK = 1 << 16
_HANDSHAKE_BYTES = 64 + 28  # a greeting and the READY of an XPUB


def greeting(mechanism: bytes = NULL) -> bytes:
    """The first 64 bytes of ZMTP 3.1 from a client."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, body: bytes) -> bytes:
    """A short command frame."""
    data = bytes([len(name)]) + name + body
    return b"\x04" + bytes([len(data)]) + data


def ready(kind: bytes = b"SUB") -> bytes:
    """The NULL handshake's only command."""
    name = b"Socket-Type"
    return command(b"READY", bytes([len(name)]) + name + len(kind).to_bytes(4, "big") + kind)


def frame(data: bytes, more: bool = False) -> bytes:
    """One frame of a message."""
    if len(data) < 256:
        return bytes([more, len(data)]) + data
    return bytes([2 | more]) + len(data).to_bytes(8, "big") + data


def subscription(topic: bytes) -> bytes:
    """As a SUB sends it."""
    return frame(b"\x01" + topic)


class Peer:
    """A connection to a publisher on loopback; a context manager. `came` counts what was read from it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_S)
        self._socket.settimeout(SEND_S)
        self.came = 0
        self.ended = threading.Event()
        self._greeted = threading.Event()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # which ends the thread that reads
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """False when the publisher has had enough, or takes nothing for a while."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def shake_hands(self) -> None:
        """As any reader would; what comes is read, and counted, by a thread from then on.

        libzmq takes what comes before its own READY is sent for a breach of the protocol, so that is awaited.
        """
        self.send(greeting() + ready())
        threading.Thread(target=self._read, daemon=True).start()
        self._greeted.wait(GREET_S)

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._socket.dup() as copy:  # which has no time-out of its own
            copy.settimeout(None)
            while data := copy.recv(_BLOCK):
                self.came += len(data)
                if self.came >= _HANDSHAKE_BYTES:
                    self._greeted.set()
        self.ended.set()
        self._greeted.set()


def noise(port: int) -> list[Peer]:
    """Random bytes, half of them after a proper greeting."""
    draw = random.Random(1)
    for number in range(100):
        with Peer(port) as peer:
            peer.send((greeting() if number % 2 else b"") + draw.randbytes(_BLOCK))
    return []


def subscribe_to_much(port: int) -> list[Peer]:
    """A reader with a third of a million subscriptions."""
    peer = Peer(port)
    peer.shake_hands()
    draw = random.Random(2)
    for _ in range(FLOOD // 1000):
        if not peer.send(b"".join(subscription(draw.randbytes(10).hex().encode()) for _ in range(1000))):
            break
    return [peer]


def subscribe_to_long(port: int) -> list[Peer]:
    """A reader whose subscriptions are as long as a frame may be."""
    peer = Peer(port)
    peer.shake_hands()
    for number in range(5000):
        if not peer.send(subscription(b"%01000d" % number)):
            break
    return [peer]


def large_frame(port: int) -> list[Peer]:
    """A frame of 1 GiB."""
    peer = Peer(port)
    peer.shake_hands()
    peer.send(b"\x02" + FRAME_BYTES.to_bytes(8, "big"))
    for _ in range(FRAME_BYTES // _BLOCK):
        if not peer.send(bytes(_BLOCK)):
            break
    return [peer]


def endless_message(port: int) -> list[Peer]:
    """A message of 300,000 parts, each within the limit of a frame, that never ends."""
    peer = Peer(port)
    peer.shake_hands()
    for _ in range(FLOOD // 60):
        if not peer.send(frame(bytes(1000), more=True) * 60):
            break
    return [peer]


def churn(port: int) -> list[Peer]:
    """A reader that subscribes and unsubscribes, to have the last values sent to everybody again and again."""
    peer = Peer(port)
    peer.shake_hands()
    turn = subscription(b"clcr/") + frame(b"\x00clcr/")
    for _ in range(1000):
        if not peer.send(turn * 100):
            break
    return [peer]


def wrong_mechanism(port: int) -> list[Peer]:
    """Readers that want to give a name and a password, or no key where one is needed."""
    peers = [Peer(port) for _ in range(20)]
    for number, peer in enumerate(peers):
        mechanism = PLAIN if number % 2 else NULL
        peer.send(greeting(mechanism) + ready() + subscription(b"clcr/"))
    return peers


def slow(port: int) -> list[Peer]:
    """A thousand connections that send one byte and wait."""
    peers = []
    for _ in range(PATIENT):
        with contextlib.suppress(OSError):
            peers.append(Peer(port))
            peers[-1].send(b"\xff")
    return peers


def silent(port: int) -> list[Peer]:
    """A thousand connections that shake hands and want nothing."""
    peers = []
    for _ in range(PATIENT):
        with contextlib.suppress(OSError):
            peers.append(Peer(port))
            peers[-1].send(greeting() + ready())
    return peers


ATTACKS: Mapping[str, Callable[[int], list[Peer]]] = {
    "noise": noise,
    "subscriptions": subscribe_to_much,
    "long": subscribe_to_long,
    "frame": large_frame,
    "endless": endless_message,
    "churn": churn,
    "mechanism": wrong_mechanism,
    "slow": slow,
    "silent": silent,
}

if __name__ == "__main__":
    held = ATTACKS[sys.argv[1]](int(sys.argv[2]))
    print("done", sum(each.came for each in held), flush=True)
    sys.stdin.read()
