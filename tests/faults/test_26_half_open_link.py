"""Fault 26: a link goes dead without a word (a black hole between reader and publisher), and a publisher freezes."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from bus_process import Process
from clcr_stream.client import Subscriber
from crowd import slowdown
from media import eventually

NOTICED_S = 2.0
NS_PER_S = 1_000_000_000


class BlackHole:
    """A TCP relay to a port of loopback that passes nothing on, either way, and ends nothing, while it is shut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._ended = False
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """From now on the link is dead."""
        self._open.clear()

    def reopen(self) -> None:
        """New connections pass; those of before are gone."""
        for one in self._pairs:
            one.close()
        self._pairs.clear()
        self._open.set()

    def close(self) -> None:
        """End it, and its threads."""
        self._ended = True
        self._open.set()
        self._server.close()
        for one in self._pairs:
            one.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self._open.wait()
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()


@contextmanager
def black_hole(port: int) -> Iterator[BlackHole]:
    made = BlackHole(port)
    try:
        yield made
    finally:
        made.close()


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def test_a_dead_link_is_noticed_by_both_sides_and_the_reader_comes_back_with_its_gap_told(
    record_property: Callable[[str, object], None],
) -> None:
    with (
        Process("publish", "tcp://127.0.0.1:*", "a" * 16, 10) as publisher,
        black_hole(port_of(publisher.first_line())) as link,
        zmq.Context() as context,
        context.socket(zmq.SUB) as watcher,
        Subscriber(f"tcp://127.0.0.1:{link.port}", every=True) as reader,
    ):
        watcher.subscribe(b"clcr/default/status ")
        watcher.connect(publisher.first_line())
        seen = [reader.receive(20_000) for _ in range(20)]
        link.shut()
        shut_ns = time.monotonic_ns()
        while reader.losses["closed"] + reader.losses["broken"] == 0:
            assert time.monotonic_ns() - shut_ns < 20 * NS_PER_S
            reader.receive(10)
        reader_s = (time.monotonic_ns() - shut_ns) / NS_PER_S
        assert eventually(lambda: _subscribers(watcher) == 1, 20)
        publisher_s = (time.monotonic_ns() - shut_ns) / NS_PER_S
        link.reopen()
        again = None
        while again is None or again.missed == 0:
            again = reader.receive(20_000)
            assert again is not None
        seen.append(again)
    record_property("fault_26", {"reader_s": reader_s, "publisher_s": publisher_s, "missed": again.missed})
    assert reader_s <= NOTICED_S * slowdown()
    assert publisher_s <= (NOTICED_S + 0.2) * slowdown(), "a status of its own says so"
    assert again.missed > 0 and again.age_ms is not None and again.age_ms < 1000 * slowdown(), "fresh, not what waited"


def _subscribers(watcher: zmq.Socket[bytes]) -> int:
    assert watcher.poll(20_000)
    return int(json.loads(watcher.recv().split(b" ", 1)[1])["subscribers"])


def test_a_frozen_publisher_is_noticed_and_read_on_when_it_thaws(
    record_property: Callable[[str, object], None],
) -> None:
    with Process("publish", "tcp://127.0.0.1:*", "a" * 16, 10) as publisher:
        with Subscriber(publisher.first_line(), every=True, lifespan_ms=500) as reader:
            before = [reader.receive(20_000) for _ in range(10)]
            publisher.process.send_signal(signal.SIGSTOP)
            frozen_ns = time.monotonic_ns()
            while reader.losses["closed"] + reader.losses["broken"] == 0:
                assert time.monotonic_ns() - frozen_ns < 20 * NS_PER_S
                got = reader.receive(10)
                assert got is None or (got.age_ms is not None and got.age_ms <= 500), "stale is never given as fresh"
            noticed_s = (time.monotonic_ns() - frozen_ns) / NS_PER_S
            publisher.process.send_signal(signal.SIGCONT)
            after = [reader.receive(20_000) for _ in range(10)]
    record_property("fault_26_frozen", {"reader_s": noticed_s})
    seqs = [got.message.seq for got in (*before, *after) if got is not None]
    assert seqs == sorted(set(seqs)) and len(seqs) == 20
    assert noticed_s <= NOTICED_S * slowdown()
