"""Who may stay connected to a publisher: bounds on connections, subscriptions and bytes. Attackers in this process."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from clcr_stream.wire import peers
from clcr_stream.wire.publisher import Publisher, PublishOptions
from hostile import Peer, frame, subscription
from media import eventually
from wire_messages import prediction, status

TOPIC = b"clcr/default/prediction "
PATIENCE_S = 30.0


@contextmanager
def publishing(**options: object) -> Iterator[tuple[Publisher, int]]:
    settings = {"endpoint": "tcp://127.0.0.1:*", "heartbeat_ms": 50, **options}
    with Publisher(PublishOptions(**settings), status) as publisher:  # type: ignore[arg-type]
        yield publisher, int(publisher.endpoint.rpartition(":")[2]) if "tcp" in publisher.endpoint else 0


@contextmanager
def reading(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A plain reader of the status."""
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        reader.linger = 0
        reader.subscribe(b"clcr/default/status ")
        reader.connect(endpoint)
        yield reader


def refused(reader: zmq.Socket[bytes]) -> int:
    """How many were turned away, by the next status."""
    assert reader.poll(int(PATIENCE_S * 1000))
    return int(json.loads(reader.recv().split(b" ", 1)[1])["refused_peers"])


def hears_the_end(peer: Peer) -> bool:
    return peer.ended.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "sent",
    [
        b"".join(subscription(b"junk %d" % number) for number in range(peers.MOST_FOREIGN * 20)),
        subscription(TOPIC) * 2000,
        (subscription(TOPIC) + frame(b"\x00" + TOPIC)) * 1000,
        subscription(TOPIC + b"x" * peers.MOST_TOPIC_BYTES),
        b"".join(frame(bytes(900), more=True) for _ in range(400)),
    ],
    ids=["many topics", "one again and again", "to and fro", "a long topic", "endless message"],
)
def test_who_asks_too_much_is_cut_off_and_counted_and_another_reader_goes_on(sent: bytes) -> None:
    with publishing() as (publisher, port), reading(publisher.endpoint) as reader, Peer(port) as peer:
        assert refused(reader) == 0
        peer.shake_hands()
        peer.send(sent)
        assert hears_the_end(peer)
        assert eventually(lambda: refused(reader) == 1, PATIENCE_S)
        assert eventually(lambda: publisher.subscribers == 1, PATIENCE_S)


def test_a_reader_with_a_few_topics_some_not_of_this_stream_stays() -> None:
    with publishing() as (publisher, _), reading(publisher.endpoint) as reader:
        assert refused(reader) == 0
        with zmq.Context() as context, context.socket(zmq.SUB) as other:
            other.linger = 0
            for topic in (b"clcr/", TOPIC, b"clcr/other/prediction ", TOPIC + b'{"type"'):
                other.subscribe(topic)
            other.connect(publisher.endpoint)
            assert eventually(lambda: publisher.subscribers == 2, PATIENCE_S)
            publisher.publish(prediction(0))
            frame_of = b""
            while not frame_of.startswith(TOPIC):
                assert other.poll(int(PATIENCE_S * 1000))
                frame_of = other.recv()
            assert refused(reader) == 0 and publisher.subscribers == 2


def test_of_those_who_connect_and_want_nothing_few_stay_and_a_reader_is_served_among_them() -> None:
    with publishing() as (publisher, port), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Peer(port)) for _ in range(peers.FEW_WAITING + 40)]
        for peer in crowd:
            peer.shake_hands()
        with reading(publisher.endpoint) as reader:
            assert eventually(lambda: refused(reader) >= 40, PATIENCE_S)
            assert eventually(lambda: sum(peer.ended.is_set() for peer in crowd) >= 40, PATIENCE_S)
            assert publisher.subscribers == 1


def test_no_more_connect_than_half_of_the_descriptors_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MOST_PEERS", 5)
    with publishing() as (publisher, port), contextlib.ExitStack() as stack:
        with reading(publisher.endpoint) as reader:
            assert refused(reader) == 0
            crowd = [stack.enter_context(Peer(port)) for _ in range(8)]
            for peer in crowd:
                peer.shake_hands()
                peer.send(subscription(TOPIC))
            assert eventually(lambda: refused(reader) >= 4, PATIENCE_S)
            assert publisher.subscribers <= 5
            assert eventually(lambda: sum(peer.ended.is_set() for peer in crowd) >= 4, PATIENCE_S)
        stack.close()
        with reading(publisher.endpoint) as another:  # there is room again
            assert refused(another) >= 4


@pytest.mark.parametrize("kind", ["file", "socket", "closed"])
def test_a_file_that_took_the_number_of_a_connection_is_left_alone(tmp_path: Path, kind: str) -> None:
    """What libzmq names may be closed, and its number another's, by the time it is looked at."""
    watch = peers.Peers([TOPIC])
    watch.begin("tcp://127.0.0.1:5555")
    ours, theirs = socket.socketpair()
    with (
        (tmp_path / "file").open("w") as file,
        ours,
        theirs,
        zmq.Context() as context,
        context.socket(zmq.PAIR) as one,
        context.socket(zmq.PAIR) as other,
    ):
        one.bind("inproc://monitor")
        other.connect("inproc://monitor")
        descriptor = {"file": file.fileno(), "socket": ours.fileno(), "closed": 900}[kind]
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(peers.MOST_WAITING + 50):  # of which the oldest is cut off again and again
            told = descriptor if number == 0 else 1000 + number
            one.send_multipart([struct.pack("=Hi", zmq.EVENT_ACCEPTED, told), b""])
        watch.read(other, 0)
        watch.look(10**12)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before, "of others some may end meanwhile"
        theirs.send(b"still there")
        assert ours.recv(20) == b"still there"
        file.write("still there")
