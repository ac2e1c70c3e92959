"""The typed client: newest per topic, gaps, ages, sessions, reconnects; its rules without sockets or clocks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.clock import read_boot_id
from clcr_stream.errors import ConfigError
from clcr_stream.wire import messages
from clcr_stream.wire.async_client import AsyncSubscriber
from clcr_stream.wire.client import Received, Subscriber, TopicTrack
from clcr_stream.wire.keys import CurveClient, CurveServer
from clcr_stream.wire.messages import Message, Status, Transcript, decode
from clcr_stream.wire.publisher import Publisher, PublishOptions
from curve_keys import write_keys
from media import eventually

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire"
BOOT = "this boot"
MS = 1_000_000
PATIENCE_MS = 20_000


def golden(kind: messages.Kind, seq: int, **changes: object) -> Message:
    fields = {"seq": seq, "published_ns": time.monotonic_ns(), "boot_id": read_boot_id(), **changes}
    return msgspec.structs.replace(decode((GOLDEN / f"{kind}.json").read_bytes()), **fields)


def made(seq: int, published_ns: int = 0, session: str = "a" * 16, boot_id: str = BOOT) -> Message:
    return golden("prediction", seq, published_ns=published_ns, session=session, boot_id=boot_id)


def status() -> Status:
    message = golden("status", 0)
    assert isinstance(message, Status)
    return message


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def publisher(endpoint: str) -> Iterator[Publisher]:
    with Publisher(PublishOptions(endpoint=endpoint, heartbeat_ms=3_600_000), status) as made_publisher:
        yield made_publisher


def send(publisher: Publisher, *several: Message) -> None:
    for message in several:
        publisher.publish(message)


def test_a_gap_is_told_by_its_size_and_a_repetition_is_not_handed_on() -> None:
    track = TopicTrack(BOOT)
    told = [track.accept(made(seq), 0) for seq in (5, 6, 6, 9, 7, 10)]
    assert [None if got is None else got.missed for got in told] == [0, 0, None, 2, None, 0]
    assert track.counts == {"repeated": 2, "expired": 0, "refused": 0}


def test_a_message_is_overdue_when_its_successor_should_be_here() -> None:
    track = TopicTrack(BOOT, lifespan_ms=5000)
    assert not track.overdue(made(1, 0), 4000 * MS), "of the first nobody knows when the next one comes"
    track.accept(made(1, 0), 0)
    track.accept(made(4, 600 * MS), 600 * MS)
    assert not track.overdue(made(5, 800 * MS), 1049 * MS)
    assert track.overdue(made(5, 800 * MS), 1051 * MS)
    assert track.overdue(made(1, 800 * MS, "b" * 16), 1051 * MS)
    assert not track.overdue(made(5, 800 * MS), 5801 * MS), "that one is past its lifespan"
    assert not track.overdue(made(5, 800 * MS, boot_id="elsewhere"), 1051 * MS)


@contextlib.contextmanager
def overdue(subscriber: Subscriber) -> Iterator[zmq.Socket[bytes]]:
    """It reads a message every 200 ms and has seq 2, and seq 5 has come 5 s late, alone."""
    with forger(subscriber.endpoints[0]) as peer:
        peer.recv()
        for seq in (1, 2):
            published_ns = time.monotonic_ns() - 10_000 * MS + 200 * seq * MS
            peer.send(messages.frame(golden("prediction", seq, published_ns=published_ns)))
            assert subscriber.receive(PATIENCE_MS) is not None
        peer.send(messages.frame(golden("prediction", 5, published_ns=time.monotonic_ns() - 5000 * MS)))
        yield peer


def test_an_overdue_message_waits_for_a_newer_one(endpoint: str) -> None:
    with Subscriber(endpoint) as subscriber, overdue(subscriber) as peer:
        threading.Event().wait(0.1)
        assert subscriber.receive(0) is None
        peer.send(messages.frame(golden("prediction", 20)))
        got = [subscriber.receive(PATIENCE_MS)]
        while got[-1] is not None and got[-1].message.seq != 20:  # where the machine was too slow for that
            got.append(subscriber.receive(PATIENCE_MS))
        assert sum(one.missed + 1 for one in got if one is not None) == 18, "what was not handed on is told"


def test_of_overdue_messages_of_one_moment_the_last_one_counts(endpoint: str) -> None:
    with Subscriber(endpoint) as subscriber, overdue(subscriber) as peer:
        late_ns = time.monotonic_ns() - 4000 * MS
        got = []
        for seq in (6, 7):
            peer.send(messages.frame(golden("prediction", seq, published_ns=late_ns)))
            threading.Event().wait(0.1)
            got.append(subscriber.receive(0))
        while got[-1] is None or got[-1].message.seq < 7:
            got.append(subscriber.receive(2000))
            assert got[-1] is not None, got


def test_an_overdue_message_without_a_successor_is_handed_on(endpoint: str) -> None:
    with Subscriber(endpoint) as subscriber, overdue(subscriber):
        got = None
        while got is None:
            begun_s = time.monotonic()
            got = subscriber.receive(1)
        assert (got.message.seq, got.missed) == (5, 2)
        assert time.monotonic() - begun_s > 0.2, "a stop of the process is no reason not to try for a newer one"
    with Subscriber(endpoint) as subscriber, overdue(subscriber):
        got = subscriber.receive(PATIENCE_MS)
        assert got is not None and (got.message.seq, got.missed) == (5, 2)

    async def read() -> Received | None:
        with Subscriber(endpoint) as subscriber, overdue(subscriber):
            reader = AsyncSubscriber.__new__(AsyncSubscriber)
            reader.subscriber = subscriber
            return await reader.receive(PATIENCE_MS)

    got = asyncio.run(read())
    assert got is not None and got.message.seq == 5


def test_a_new_session_is_told_once_and_the_ended_one_does_not_come_back() -> None:
    track = TopicTrack(BOOT)
    first, again = track.accept(made(90, 1000), 2000), track.accept(made(1, 3000, "b" * 16), 4000)
    late = track.accept(made(91, 2000, "a" * 16), 4000)
    after = track.accept(made(2, 4000, "b" * 16), 5000)
    assert first is not None and not first.new_session
    assert again is not None and again.new_session and again.missed == 0
    assert late is None
    assert after is not None and not after.new_session and after.missed == 0


def test_age_is_told_on_the_same_boot_only() -> None:
    here, elsewhere = TopicTrack(BOOT).accept(made(1, 10 * MS), 35 * MS), TopicTrack("x").accept(made(1), 35 * MS)
    unknown = TopicTrack("").accept(made(1, boot_id=""), 35 * MS)
    assert here is not None and here.age_ms == 25.0
    assert elsewhere is not None and elsewhere.age_ms is None
    assert unknown is not None and unknown.age_ms is None


def test_what_is_past_its_lifespan_is_counted_and_shows_as_missed_later() -> None:
    track = TopicTrack(BOOT, lifespan_ms=250)
    assert track.accept(made(1, 0), 250 * MS) is not None
    assert track.accept(made(2, 200 * MS), 451 * MS) is None
    got = track.accept(made(3, 400 * MS), 451 * MS)
    assert got is not None and got.missed == 1 and track.counts["expired"] == 1


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=60))
def test_no_loss_goes_unnoticed_whatever_is_lost_or_repeated(steps: list[tuple[int, bool]]) -> None:
    """Some seqs lost, some delivered twice: what is handed on and what is told missing are together everything."""
    track = TopicTrack(BOOT)
    sent = handed = missed = first = 0
    for step, lost in steps:
        sent += step  # a step above 1 is a run of losses
        if lost:
            continue
        got = track.accept(made(sent, sent), sent)
        assert got is not None and track.accept(made(sent, sent), sent) is None
        first = first or sent
        handed, missed = handed + 1, missed + got.missed
    assert handed + missed == (track.seq - first + 1 if handed else 0)


def test_a_subscriber_reads_every_topic_typed_and_with_its_age(publisher: Publisher, endpoint: str) -> None:
    send(publisher, golden("session", 0), golden("prediction", 4))
    publisher.beat()
    with Subscriber(endpoint, topics=("session", "prediction", "status")) as subscriber:
        got = [subscriber.receive(PATIENCE_MS) for _ in range(3)]
        assert subscriber.receive(0) is None
        assert subscriber.silence_ms < PATIENCE_MS
    kinds = sorted(messages.kind_of(one.message) for one in got if one is not None)
    assert kinds == ["prediction", "session", "status"]
    assert all(one is not None and one.age_ms is not None and 0 <= one.age_ms < PATIENCE_MS for one in got)


def test_one_topic_may_be_given_as_a_text(publisher: Publisher, endpoint: str) -> None:
    send(publisher, golden("prediction", 4))
    with Subscriber(endpoint, topics="prediction") as subscriber:
        got = subscriber.receive(PATIENCE_MS)
    assert got is not None and got.message.seq == 4


def test_a_slow_subscriber_reads_the_newest_prediction_and_every_transcript(
    publisher: Publisher, endpoint: str
) -> None:
    with Subscriber(endpoint, topics=("prediction",)) as newest, Subscriber(endpoint, topics=("transcript",)) as queued:
        send(publisher, golden("prediction", 1))
        first = newest.receive(PATIENCE_MS)
        while publisher.subscribers < 2:
            publisher.beat()
        send(publisher, golden("transcript", 0))
        while (segment := queued.receive(50)) is None:  # until its subscription has arrived
            send(publisher, golden("transcript", 0))
        start = segment.message.seq
        send(publisher, *(golden("transcript", 0) for _ in range(20)))
        send(publisher, *(golden("prediction", seq) for seq in range(2, 40)))
        last = newest.receive(PATIENCE_MS)
        while last is not None and last.message.seq < 39:
            last = newest.receive(PATIENCE_MS)
        segments = [queued.receive(PATIENCE_MS) for _ in range(20)]
    assert first is not None and first.message.seq == 1
    assert last is not None and last.message.seq == 39
    texts = [one.message for one in segments if one is not None]
    assert all(isinstance(text, Transcript) for text in texts)
    assert [text.seq for text in texts] == list(range(texts[0].seq, texts[0].seq + 20)) and texts[0].seq > start


def test_a_subscriber_survives_a_restart_and_tells_the_new_session(endpoint: str) -> None:
    options = PublishOptions(endpoint=endpoint)
    with Subscriber(endpoint) as subscriber:
        with Publisher(options, status) as first:
            send(first, golden("prediction", 7, session="a" * 16))
            before = subscriber.receive(PATIENCE_MS)
        with Publisher(options, status) as second:
            send(second, golden("prediction", 1, session="b" * 16))
            after = subscriber.receive(PATIENCE_MS)
    assert before is not None and not before.new_session
    assert after is not None and after.new_session and after.message.seq == 1


def test_a_subscriber_that_came_first_finds_the_default_endpoint_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Subscriber(stream="late") as subscriber, Publisher(PublishOptions(stream="late"), status) as publisher:
        send(publisher, golden("prediction", 1, stream="late"))
        got = next(iter(subscriber))
    assert got.message.seq == 1 and publisher.endpoint in subscriber.endpoints


def test_a_subscriber_makes_no_folder_and_finds_one_that_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Subscriber(stream="late", quiet_ms=3_600_000) as subscriber:
        assert subscriber.receive(50) is None
        assert list(tmp_path.iterdir()) == []
        with Publisher(PublishOptions(stream="late"), status) as publisher:
            send(publisher, golden("prediction", 1, stream="late"))
            got = subscriber.receive(PATIENCE_MS)
    assert got is not None and got.message.seq == 1


def test_a_subscriber_listens_in_no_folder_that_somebody_else_could_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Subscriber(stream="late", quiet_ms=3_600_000) as subscriber:
        (tmp_path / "clcr-stream").mkdir()
        (tmp_path / "clcr-stream").chmod(0o777)
        options = PublishOptions(stream="late", endpoint=f"ipc://{tmp_path}/clcr-stream/late.sock")
        with Publisher(options, status) as publisher:
            send(publisher, golden("prediction", 1, stream="late"))
            assert subscriber.receive(600) is None


@pytest.mark.parametrize("waits", [True, False])
def test_a_peer_that_breaks_the_protocol_is_tried_again_also_by_a_reader_that_never_waits(waits: bool) -> None:
    """libzmq never reconnects after a protocol error; here something else held the port when the reader came."""
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        port = impostor.getsockname()[1]
        with Subscriber(f"tcp://127.0.0.1:{port}", quiet_ms=200) as subscriber:
            answered = threading.Thread(target=_speak_nonsense, args=(impostor,))
            answered.start()
            assert subscriber.receive(10) is None
            answered.join()
            impostor.close()
            with Publisher(PublishOptions(endpoint=f"tcp://127.0.0.1:{port}"), status) as publisher:
                send(publisher, golden("prediction", 1))
                came = [subscriber.receive(PATIENCE_MS)] if waits else []

                def polled() -> bool:
                    came.append(subscriber.receive(0))
                    return any(came)

                assert any(came) or eventually(polled, 30)
            got = next(one for one in came if one is not None)
            assert got.message.seq == 1 and subscriber.reconnects + subscriber.losses["broken"] >= 1


def _speak_nonsense(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        # A ZMTP 3.1 greeting, then a frame where the NULL handshake's READY belongs.
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31) + b"\x00\x05hello")
        while peer.recv(4096):
            pass


def test_what_is_not_a_message_of_the_stream_is_counted_and_passed_over(endpoint: str) -> None:
    name = messages.topic("default", "prediction")
    valid = messages.frame(golden("prediction", 1))
    with zmq.Context() as context, context.socket(zmq.XPUB) as forger, Subscriber(endpoint) as subscriber:
        forger.linger = 0
        forger.bind(endpoint)
        forger.recv()
        for counted, data in enumerate((name + b" {}", name + b" \x80", name + b" " + b"[" * 5000), start=1):
            forger.send(data)
            while subscriber.counts["prediction"]["refused"] < counted:
                assert subscriber.receive(1) is None
        forger.send(valid)
        got = subscriber.receive(PATIENCE_MS)
    assert got is not None and got.message.seq == 1


def test_curve_keys_reach_an_endpoint_that_needs_them(tmp_path: Path) -> None:
    write_keys(tmp_path)
    server = CurveServer(tmp_path / "server.key_secret", tmp_path / "allowed")
    keys = CurveClient(tmp_path / "reader.key_secret", tmp_path / "server.key")
    with Publisher(PublishOptions(endpoint="tcp://127.0.0.1:*", curve=server), status) as publisher:
        send(publisher, golden("prediction", 1))
        with Subscriber(publisher.endpoint, curve=keys) as subscriber:
            got = subscriber.receive(PATIENCE_MS)
    assert got is not None and got.message.seq == 1


def test_wrong_topics_endpoints_and_uses_are_refused_in_one_line(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed are session, prediction, transcript, status"):
        Subscriber(endpoint, topics=("mood",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not understood; allowed are ipc:///PATH"):
        Subscriber(f"{endpoint}\0more")
    with pytest.raises(ConfigError, match="allowed are session"):
        Subscriber(endpoint, topics=())
    with pytest.raises(ConfigError, match=r"topics \['mood'\]: not understood"):
        AsyncSubscriber(endpoint, topics="mood")  # type: ignore[arg-type]
    for lifespan_ms in (-1, 0, float("nan")):
        with pytest.raises(ConfigError, match=r"lifespan_ms (-1|0|nan): must be above 0"):
            Subscriber(endpoint, lifespan_ms=lifespan_ms)
        with pytest.raises(ConfigError, match="must be above 0"):
            AsyncSubscriber(endpoint, lifespan_ms=lifespan_ms)
    with pytest.raises(ConfigError, match="endpoint nowhere"):
        Subscriber("nowhere")
    with pytest.raises(ConfigError, match="CURVE certificate"):
        Subscriber(endpoint, curve=CurveClient(tmp_path / "none", tmp_path / "none"))
    subscriber = Subscriber(endpoint)
    subscriber.close()
    subscriber.close()
    with pytest.raises(ConfigError, match="closed"):
        subscriber.receive(0)


@contextlib.contextmanager
def forger(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A publisher that may send anything."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as made_forger:
        made_forger.linger = 0
        made_forger.bind(endpoint)
        yield made_forger


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_frame_over_the_limit_costs_a_connection_that_the_reader_makes_again_and_counts(
    endpoint: str, transport: str
) -> None:
    """Without that libzmq would never read from there again, and nothing of the frame reaches our memory."""
    name = messages.topic("default", "prediction")
    with forger(endpoint if transport == "ipc" else "tcp://127.0.0.1:*") as peer:
        at = peer.getsockopt_string(zmq.LAST_ENDPOINT)
        with Subscriber(at, quiet_ms=3_600_000) as subscriber:
            for seq in (1, 2, 3):
                got = None
                while got is None:  # until the new connection's subscription is there
                    peer.send(messages.frame(golden("prediction", seq)))
                    got = subscriber.receive(20)
                assert got.message.seq == seq
                while subscriber.losses["broken"] < seq:
                    peer.send(name + b" " + bytes(2 << 20))
                    assert subscriber.receive(20) is None
            assert subscriber.losses == {"closed": 0, "broken": 3, "refused": 0} and subscriber.reconnects == 0


def test_a_reader_that_wants_every_message_gets_each_in_order_and_is_told_of_what_is_missing(endpoint: str) -> None:
    with forger(endpoint) as peer, Subscriber(endpoint, every=True) as subscriber:
        peer.recv()
        for seq in (1, 2, 3, 7, 8, 60):
            peer.send(messages.frame(golden("prediction", seq)))
        got = [subscriber.receive(PATIENCE_MS) for _ in range(6)]
    told = [(one.message.seq, one.missed) for one in got if one is not None]
    assert told == [(1, 0), (2, 0), (3, 0), (7, 3), (8, 0), (60, 51)]


def test_a_reader_whose_key_is_refused_tries_ever_more_slowly_and_says_so(tmp_path: Path) -> None:
    write_keys(tmp_path)
    server = CurveServer(tmp_path / "server.key_secret", tmp_path / "allowed")
    keys = CurveClient(tmp_path / "stranger.key_secret", tmp_path / "server.key")
    with Publisher(PublishOptions(endpoint="tcp://127.0.0.1:*", curve=server), status) as publisher:
        with Subscriber(publisher.endpoint, curve=keys, quiet_ms=3_600_000) as subscriber:
            while subscriber.losses["refused"] < 3:
                assert subscriber.receive(20) is None
            refusals = [subscriber.losses["refused"]]
            assert subscriber.receive(300) is None  # the next pause is 0.8 s
            refusals.append(subscriber.losses["refused"])
    assert refusals[0] == refusals[1] == 3 and subscriber.losses["broken"] == 0


REFUSALS = {
    "no key": (None, "refuses readers without a key; give --curve-secret"),
    "a stranger's": (("stranger.key_secret", "server.key"), "refuses our key; run `clcr-stream keys allow` there"),
    "for another server": (("reader.key_secret", "stranger.key"), "or check --curve-server"),
}


@pytest.mark.parametrize("which", REFUSALS)
def test_a_reader_that_is_refused_says_so_until_it_is_let_in(tmp_path: Path, which: str) -> None:
    """Whether the publisher names the reason, or has closed before it could, as it does over a network."""
    names, advice = REFUSALS[which]
    write_keys(tmp_path)
    server = CurveServer(tmp_path / "server.key_secret", tmp_path / "allowed")
    keys = None if names is None else CurveClient(*(tmp_path / name for name in names))
    options = PublishOptions(endpoint="tcp://127.0.0.1:*", heartbeat_ms=50, curve=server)
    with Publisher(options, status) as publisher:
        send(publisher, golden("prediction", 1))
        with Subscriber(publisher.endpoint, curve=keys, quiet_ms=400) as subscriber:
            assert subscriber.refusal == ""
            for count in (1, 2, 3):
                while subscriber.losses["refused"] < count:
                    assert subscriber.receive(20) is None
            assert subscriber.losses["closed"] == subscriber.losses["broken"] == 0
            assert subscriber.refusal.startswith(publisher.endpoint) and advice in subscriber.refusal
            if which == "a stranger's":
                (tmp_path / "stranger.key").rename(tmp_path / "allowed/stranger.key")
                assert subscriber.receive(PATIENCE_MS) is not None and subscriber.refusal == ""
        assert eventually(lambda: publisher.refused >= 1), "by its own thread, which may be later"


def test_a_peer_that_accepts_and_says_nothing_has_refused_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Subscriber(f"tcp://127.0.0.1:{silent.getsockname()[1]}", quiet_ms=3_600_000) as subscriber:
            while not any(subscriber.losses.values()):  # libzmq waits 2 s for a handshake
                assert subscriber.receive(100) is None
            assert subscriber.losses["refused"] == 0 and subscriber.refusal == ""


def test_an_async_reader_gets_what_a_plain_one_gets_while_other_tasks_run(publisher: Publisher, endpoint: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read() -> tuple[list[int], Received | None]:
        seen: list[int] = []
        async with AsyncSubscriber(endpoint, every=True) as subscriber:
            beside = asyncio.create_task(others())
            assert await subscriber.receive(50) is None
            with pytest.raises(asyncio.TimeoutError):  # cancelled, and nothing is lost by it
                await asyncio.wait_for(subscriber.receive(), 0.05)
            send(publisher, *(golden("prediction", seq) for seq in range(1, 6)))
            async for received in subscriber:
                seen.append(received.message.seq)
                if received.message.seq == 5:
                    break
            nothing = await subscriber.receive(0)
            beside.cancel()
        return seen, nothing

    seen, nothing = asyncio.run(asyncio.wait_for(read(), 60))
    assert seen[-1] == 5 and seen == sorted(set(seen)) and nothing is None and turns > 10


def test_the_client_s_names_are_those_of_the_wire_and_importing_them_loads_no_engine() -> None:
    heavy = "{'av', 'cv2', 'onnxruntime', 'asyncio.runners'} & set(sys.modules)"
    code = f"import sys, clcr_stream.client as c; print(sorted({heavy} - {{'asyncio.runners'}}), len(c.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["[]", "14"]
