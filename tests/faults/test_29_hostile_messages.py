"""Fault 29: messages that mean harm, sent to a reader by what claims to be its publisher, and to a session as words."""

from __future__ import annotations

import ast
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import zmq

from bus_process import Process
from clcr_stream.client import Subscriber
from clcr_stream.sources.transcripts import MAX_FRAME_BYTES
from clcr_stream.wire import messages
from faulty import free_port, source, watched
from media import eventually
from wire_messages import prediction

ROOT = Path(__file__).resolve().parents[2]
NAME = b"clcr/default/prediction "
MOST_MS = 1.0
RUN = "a" * 16
UNSAFE = {"pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle", "cloudpickle", "joblib"}


def valid(seq: int) -> bytes:
    return messages.frame(prediction(seq, run=RUN, published_ns=time.monotonic_ns()))


def hostile() -> dict[str, bytes]:
    """Payloads by what they try."""
    sound = json.loads(messages.encode(prediction(2, run=RUN)))
    return {
        "deep": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "deep msgpack": b"\x91" * 100_000,
        "NaN": json.dumps(sound | {"latency_ms": float("nan")}).encode(),
        "4 GiB of text": b"\xdb" + struct.pack(">I", 2**32 - 1) + b"x",
        "4 GiB of rows": b"\xdd" + struct.pack(">I", 2**32 - 1) + b"\xc0",
        "2^32 keys": b"\xdf" + struct.pack(">I", 2**32 - 1) + b"\xa1a\xc0",
        "pickle": b"cos\nsystem\n(S'touch /tmp/clcr-pickled'\ntR.",
        "unknown version": json.dumps(sound | {"schema": 99}).encode(),
        "a number of 5,000 digits": json.dumps(sound).replace('"seq": 2', '"seq": ' + "9" * 5000).encode(),
        "seq below 1": json.dumps(sound | {"seq": -1}).encode(),
        "another type": json.dumps(sound | {"type": "command"}).encode(),
        "not Unicode": json.dumps(sound).encode().replace(b"default", b"\xff\xfe"),
        "nothing": b"",
    }


@contextmanager
def forger() -> Iterator[tuple[zmq.Socket[bytes], str]]:
    """A publisher that may send anything."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as made:
        made.linger = 0
        yield made, f"tcp://127.0.0.1:{made.bind_to_random_port('tcp://127.0.0.1')}"


def test_no_message_changes_what_a_reader_knows_and_each_is_counted_and_soon_over(
    record_property: Callable[[str, object], None],
) -> None:
    slowest_ms: dict[str, float] = {}
    with forger() as (peer, endpoint), Subscriber(endpoint, every=True) as reader:
        assert peer.poll(20_000) and peer.recv() == b"\x01" + NAME
        peer.send(valid(1))
        first = reader.receive(20_000)
        assert first is not None and first.message.seq == 1
        for number, (kind, payload) in enumerate(hostile().items(), 1):
            peer.send(NAME + payload)
            while reader.counts["prediction"]["refused"] < number:
                begun_ns = time.thread_time_ns()  # what this thread computes, whatever else the machine does
                assert reader.receive(0) is None, kind
                spent_ms = (time.thread_time_ns() - begun_ns) / 1e6
                slowest_ms[kind] = max(slowest_ms.get(kind, 0.0), spent_ms)
        for seq in (1, 1, 2, 1, 2):  # a replay
            peer.send(valid(seq))
        second = reader.receive(20_000)
        peer.send(valid(3))
        third = reader.receive(20_000)
        counts = reader.counts["prediction"]
    assert second is not None and (second.message.seq, second.missed) == (2, 0)
    assert third is not None and (third.message.seq, third.missed) == (3, 0)
    assert counts == {"repeated": 4, "expired": 0, "refused": len(hostile())}
    record_property("fault_29", {"cpu_ms": slowest_ms})
    assert sorted(slowest_ms.values())[-3] <= 20 * MOST_MS, slowest_ms
    assert not Path("/tmp/clcr-pickled").exists()


def test_a_reader_in_its_own_process_outlives_them_in_little_memory() -> None:
    with forger() as (peer, endpoint), Process("read", endpoint, "every") as reader:
        assert peer.poll(20_000) and peer.recv()
        peer.send(valid(1))
        reader.wait_lines(1)
        before_mb = reader.peak_mb(anew=True)
        for _ in range(20):
            for payload in hostile().values():
                peer.send(NAME + payload)
        peer.send(valid(2))
        lines = reader.wait_lines(2)
        grown_mb = reader.peak_mb() - before_mb
    assert [(line.seq, line.missed) for line in lines] == [(1, 0), (2, 0)]
    assert grown_mb <= 80, "at most what waits in the queue: 280 frames of up to 600 kB"


def test_hostile_words_are_counted_and_the_session_goes_on(tmp_path: Path) -> None:
    port = free_port()
    words = {"start_s": 0.1, "end_s": 0.2, "text": "hello"}
    given_bad = [*hostile().values(), json.dumps(words | {"start_s": float("nan")}).encode(), b'{"text":"a"}']
    small = [payload for payload in given_bad if len(payload) <= MAX_FRAME_BYTES]
    large = [payload for payload in given_bad if len(payload) > MAX_FRAME_BYTES]
    with zmq.Context() as context, context.socket(zmq.PUB) as speaker:
        speaker.linger = 0
        speaker.bind(f"tcp://127.0.0.1:{port}")
        given = ("--camera", "none", "--mic", "none", "--transcript", f"zmq://127.0.0.1:{port}")
        with watched(tmp_path, *given) as session:
            session.expect(lambda one: True, 30)

            def counts() -> dict[str, int]:
                found = session.reader.received("status")
                told: dict[str, int] = source(found[-1].message)["counts"] if found else {}
                return told

            def heard(more_than: int) -> bool:
                speaker.send(msgspec.json.encode(words))
                return counts().get("segments", 0) > more_than

            assert eventually(lambda: heard(0), 30)
            before = session.reader.received("prediction")[-1].message["seq"]
            for payload in small:
                speaker.send(payload)
            assert eventually(lambda: counts()["malformed"] >= len(small) - 1, 30)
            assert large
            for payload in large:  # its connection ends, and is made again
                known = counts()
                speaker.send(payload)
                assert eventually(partial(_above, counts, "reconnects", known["reconnects"]), 30)
                assert eventually(partial(heard, counts()["segments"]), 30)
            session.expect(lambda one: True, 10, after_ns=session.now_ns())
            code, _ = session.terminate()
            seqs = [got.message["seq"] for got in session.reader.received("prediction")]
    assert code == 0, session.stderr()
    assert seqs == sorted(set(seqs)) and seqs[-1] > before


def _above(counts: Callable[[], dict[str, int]], name: str, number: int) -> bool:
    return counts()[name] > number


def test_nothing_that_runs_what_it_reads_is_on_any_path() -> None:
    found = []
    for path in sorted((ROOT / "runtime" / "clcr_stream").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            elif isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr in ("recv_pyobj", "send_pyobj", "unsafe_load", "full_load") else []
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if node.func.id in ("eval", "exec") else []
            bad = set(names) & (UNSAFE | {"recv_pyobj", "send_pyobj", "unsafe_load", "full_load", "eval", "exec"})
            found += [f"{os.path.relpath(path, ROOT)}:{getattr(node, 'lineno', 0)}: {name}" for name in sorted(bad)]
    assert found == []
