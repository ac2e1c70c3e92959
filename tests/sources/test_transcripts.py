"""Transcripts from a file, from standard input and over ZeroMQ; malformed lines are skipped and counted."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.sources.transcripts import (
    MAX_LINE_BYTES,
    StdinTranscriptSource,
    TranscriptFileSource,
    ZmqTranscriptSource,
    parse_zmq_url,
)
from media import ORIGIN_NS, SteppedClock, await_filled, eventually, make_sinks


def cues(seconds: int) -> str:
    return "\n".join(json.dumps({"start_s": at, "end_s": at + 1, "text": f"word {at}"}) for at in range(seconds))


def test_a_long_file_is_fed_as_the_loop_reads_and_every_cue_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(cues(300) + "\nbroken\n")
    sinks = make_sinks()
    source = TranscriptFileSource(str(path), sinks)
    source.start()
    seen: set[str] = set()
    for hop in range(1, 1510):
        end_ns = ORIGIN_NS + hop * NS_PER_S // 5
        assert await_filled(source, end_ns)
        visible = sinks.rings.transcript.between(end_ns - 6 * NS_PER_S, end_ns)
        assert all(segment.end_ns <= end_ns for segment in visible)
        assert len(visible) <= 7
        seen |= {segment.text for segment in visible}
        source.consumed(end_ns)
        held = sinks.rings.transcript.received - sinks.rings.transcript.expired
        assert held < 80
    source.close()
    assert len(seen) == 300
    assert sinks.rings.transcript.dropped == {"stale_revision": 0, "late": 0, "overflow": 0}
    report = source.report()
    assert report.counts == {"malformed": 1, "segments": 300}
    assert "malformed entries at lines 301" in report.reason


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_lines_on_standard_input_are_visible_from_their_arrival_on(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    clock = SteppedClock(ORIGIN_NS + 10 * NS_PER_S)
    sinks = make_sinks(clock)
    source = StdinTranscriptSource(sinks, reader)
    source.start()
    os.write(writer, b'{"id": "a", "start_s": 7, "end_s": 8, "text": "json words"}\nplain wo')
    os.write(writer, "rds ü\n{broken json: secret words\n\n".encode())
    assert eventually(lambda: source.report().counts == {"segments": 2, "malformed": 1})
    assert "line 3 skipped" in source.report().reason
    assert "secret" not in source.report().reason
    transcript = sinks.rings.transcript
    start_ns, now_ns = ORIGIN_NS, ORIGIN_NS + 10 * NS_PER_S
    assert transcript.between(start_ns, now_ns - 1) == []
    assert [segment.text for segment in transcript.between(start_ns, now_ns)] == ["json words", "plain words ü"]
    os.close(writer)
    assert eventually(lambda: source.finished)
    source.close()


def test_a_line_without_end_is_cut_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    source = StdinTranscriptSource(make_sinks(), reader)
    source.start()
    feeder = threading.Thread(target=lambda: [os.write(writer, b"x" * 4096) for _ in range(100)])
    feeder.start()
    feeder.join(5)
    os.write(writer, b" the end of it\na short line\n")
    assert eventually(lambda: source.report().counts == {"segments": 1, "malformed": 1})
    os.write(writer, b"another one\n")
    assert eventually(lambda: source.report().counts == {"segments": 2, "malformed": 1})
    source.close()


def test_waiting_for_standard_input_does_not_hold_up_the_end(pipe: tuple[int, int]) -> None:
    source = StdinTranscriptSource(make_sinks(), pipe[0])
    source.start()
    source.close()
    assert source.finished
    assert not source.running


def test_a_recogniser_over_zeromq_is_heard_and_its_mistakes_are_counted() -> None:
    clock = SteppedClock(ORIGIN_NS + 3 * NS_PER_S)
    sinks = make_sinks(clock)
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        source = ZmqTranscriptSource(f"zmq://127.0.0.1:{port}/asr", sinks)
        source.start()
        assert publisher.poll(5000)
        assert publisher.recv() == b"\x01asr"
        publisher.send(b'asr {"id": "a", "start_s": 1, "end_s": 2, "text": "draft", "final": false}')
        publisher.send(b'asr {"id": "a", "start_s": 1, "end_s": 2, "text": "final words", "revision": 1}')
        publisher.send(b'other {"id": "b", "start_s": 1, "end_s": 2, "text": "not ours"}')
        publisher.send(b"asr nothing")
        publisher.send_multipart([b"asr", b"{}"])
        line = {"id": "c", "start_ns": ORIGIN_NS, "end_ns": ORIGIN_NS + NS_PER_S, "text": "in ns"}
        publisher.send(b"asr " + json.dumps(line).encode())
        assert eventually(lambda: source.report().counts == {"segments": 3, "malformed": 2, "reconnects": 0})
        visible = sinks.rings.transcript.between(ORIGIN_NS, clock.now_ns())
        assert [segment.text for segment in visible] == ["in ns", "final words"]
        source.close()
    assert not source.running


def test_a_recogniser_that_sends_too_much_at_once_is_left_and_heard_again() -> None:
    sinks = make_sinks(MonotonicClock())
    line = {"id": "a", "start_s": 1, "end_s": 2, "text": "back"}
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        source = ZmqTranscriptSource(f"zmq://127.0.0.1:{port}/asr", sinks)
        source.start()
        assert publisher.poll(10_000) and publisher.recv() == b"\x01asr"
        publisher.send(b"asr " + b"x" * 2 * MAX_LINE_BYTES)
        assert eventually(lambda: source.report().counts["reconnects"] >= 1, 30)
        assert eventually(lambda: source.report().state == "live", 30), "connected again, though nothing was said yet"
        while publisher.recv() != b"\x01asr":  # the end of the former connection
            pass
        publisher.send(b"asr " + json.dumps(line).encode())
        assert eventually(lambda: source.report().counts["segments"] == 1, 30)
        assert source.report().state == "live"
        source.close()
    assert not source.running


def test_zeromq_urls_name_endpoint_and_topic() -> None:
    assert parse_zmq_url("zmq://robot:5556/asr/en") == ("tcp://robot:5556", "asr/en")
    assert parse_zmq_url("zmq://127.0.0.1:5556") == ("tcp://127.0.0.1:5556", "")
    assert parse_zmq_url("ipc:///run/asr.ipc") == ("ipc:///run/asr.ipc", "")
