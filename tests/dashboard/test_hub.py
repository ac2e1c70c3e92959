"""What the dashboard tells its pages: all that is known, then what is new; short queues, and tables."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clcr_stream.clock import NS_PER_MS
from clcr_stream.dashboard.hub import MAX_CLIENTS, QUEUED, Client, Hub
from clcr_stream.wire.client import Received
from clcr_stream.wire.messages import Message, Recording
from clcr_stream.wire.watched import Watched
from clcr_stream.wire.watcher import Place, Watcher
from wire_messages import HOP_NS, ORIGIN_NS, prediction, read, session, status, tokens, words


class Fed(Watcher):
    """A watcher whose messages are those of a test."""

    def __init__(self) -> None:
        super().__init__([Place("left"), Place("right")], kept_s=600.0)
        self.waiting: list[Message] = []
        self.asked: set[str] = set()

    def turn(self, now_ns: int, each: Callable[[Watched, Received], object] = lambda *_: None) -> bool:
        for message in self.waiting:
            self.streams[message.stream].take(read(message), now_ns)
            each(self.streams[message.stream], read(message))
        self.waiting.clear()
        return True

    def ask(self, names: Any) -> None:
        self.asked = set(names)


@pytest.fixture
def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fed]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = Fed()
    yield found
    found.close()


def told(client: Client) -> list[dict[str, Any]]:
    """What a client's page would get now."""

    found = []
    while (payload := client.take()) is not None:
        found.append(json.loads(payload))
    return found


def test_a_page_waits_for_its_next_update() -> None:
    async def both() -> bytes:
        client = Client()
        asyncio.get_running_loop().call_soon(client.put, b"new")
        return await client.next()

    assert asyncio.run(both()) == b"new"


def test_a_page_gets_the_streams_then_all_that_is_known_then_what_is_new_and_nothing_of_others(watcher: Fed) -> None:
    hub, client = Hub(watcher), Client()
    watcher.waiting = [session("left"), prediction(1, stream="left"), words("hello", stream="left"), status("left")]
    hub.turn(0)
    assert hub.add(client)
    (streams,) = told(client)
    assert streams == {"type": "streams", "names": ["left", "right"], "waiting": ""}
    assert not hub.watch(client, "middle") and hub.watch(client, "left")
    (whole,) = told(client)
    assert (whole["type"], whole["labels"], len(whole["rows"])) == ("whole", ["neutral", "sad"], 1)
    assert whole["session"]["intended_use"]["notice"] == "Tell those you watch."
    assert [segment["text"] for segment in whole["words"]] == ["hello"]
    watcher.waiting = [prediction(2, stream="left"), prediction(9, stream="right"), tokens(2, "left")]
    hub.turn(0)
    (update,) = told(client)
    assert [row[0] for row in update["rows"]] == [2] and update["prediction"]["seq"] == 2
    assert [base64.b64decode(level) for level in update["tokens"]["vision"]] == [
        b"\x00\xff\x80",
        b"\x01\x02\x03",
        b"\0\0\0",
    ]
    hub.turn(0)
    assert told(client) == [], "nothing is new"


def test_tokens_are_asked_for_while_a_page_watches(watcher: Fed) -> None:
    hub, client = Hub(watcher), Client()
    hub.add(client)
    hub.turn(0)
    assert watcher.asked == set()
    hub.watch(client, "left")
    hub.turn(0)
    assert watcher.asked == {"left"}
    hub.remove(client)
    hub.turn(0)
    assert watcher.asked == set()


def test_a_page_that_is_slow_gets_the_newest_and_its_queue_stays_short(watcher: Fed) -> None:
    hub, slow = Hub(watcher), Client()
    hub.add(slow)
    hub.watch(slow, "left")
    hub.turn(0)
    told(slow)
    for seq in range(1, 100):
        watcher.waiting = [prediction(seq, stream="left")]
        hub.turn(0)
    missed = slow.missed
    found = told(slow)
    assert len(found) == QUEUED and missed == 99 - QUEUED
    assert found[-1]["prediction"]["seq"] == 99
    hub.watch(slow, "left")
    assert [message["type"] for message in told(slow)] == ["whole"] and slow.missed == 0


def test_a_page_is_told_what_is_waited_for_and_that_it_came(watcher: Fed) -> None:
    hub, client = Hub(watcher), Client()
    hub.add(client)
    hub.watch(client, "left")
    assert told(client)[-1]["waiting"].startswith("waiting for a session of this name")
    watcher.waiting = [prediction(1, stream="left")]
    hub.turn(0)
    assert told(client)[-1]["waiting"] == ""
    hub.turn(10**10)
    assert told(client)[-1]["waiting"] == "nothing heard for 10 s; waiting for the session to come back"


def test_a_page_is_told_that_faces_are_recorded_until_the_session_is_gone(watcher: Fed) -> None:
    hub, client = Hub(watcher), Client()
    watcher.waiting = [status("left", recording=True, record=Recording(media=True))]
    hub.turn(time.monotonic_ns())
    hub.add(client)
    hub.watch(client, "left")
    assert told(client)[-1]["recording"] == "REC faces and sound"
    watcher.waiting = [status("left", recording=True, record=Recording(media=True), state="goodbye")]
    hub.turn(time.monotonic_ns())
    assert told(client)[-1]["recording"] == ""


def test_too_many_pages_are_refused(watcher: Fed) -> None:
    hub = Hub(watcher)
    clients = [Client() for _ in range(MAX_CLIENTS + 1)]
    assert [hub.add(client) for client in clients] == [True] * MAX_CLIENTS + [False]


def test_a_table_holds_the_moments_of_its_span_and_no_formula(watcher: Fed) -> None:
    probs = {"=1+1": 0.75, "sad": 0.25}
    watcher.waiting = [session("left", labels=tuple(probs)), *(prediction(seq, probs, "left") for seq in range(1, 11))]
    hub = Hub(watcher)
    hub.turn(0)
    first_ms = (ORIGIN_NS + 4 * HOP_NS) // NS_PER_MS
    text = hub.table("left", first_ms, first_ms + 400)
    assert text is not None
    head, *rows = csv.reader(io.StringIO(text))
    assert [row[head.index("seq")] for row in rows] == ["4", "5", "6"]
    assert "'=1+1" in head and rows[0][head.index("label")] == "'=1+1"
    assert rows[0][head.index("time")] == "2026-11-20T18:00:00.800Z"
    assert (
        rows[0][head.index("'=1+1")] == "0.75"
        and "quality_words" not in head
        and rows[0][head.index("quality_vision")] == "0.9"
    )
    assert all(len(row) == len(head) for row in rows)
    assert hub.table("middle", 0, 1) is None


def test_a_regression_s_table_has_its_value(watcher: Fed) -> None:
    watcher.waiting = [prediction(1, None, "left", value=-1.5)]
    hub = Hub(watcher)
    hub.turn(0)
    head, row = csv.reader(io.StringIO(hub.table("left", 0, 2**60) or ""))
    assert row[head.index("value")] == "-1.5"
