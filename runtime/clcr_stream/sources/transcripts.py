"""Where the words come from: a transcript file, standard input, or a recogniser over ZeroMQ."""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.clock import FOREVER_NS, NS_PER_S
from clcr_stream.errors import SourceError, redact
from clcr_stream.sources.base import Sinks, SourceIdentity, Span
from clcr_stream.sources.subtitles import WESTERN, parse_json_line, read_transcript
from clcr_stream.sources.threaded import ThreadedSource
from clcr_stream.window.transcript import Arrival, Segment

if TYPE_CHECKING:
    import zmq

MAX_LINE_BYTES = 64 * 1024
MAX_FRAME_BYTES = MAX_LINE_BYTES + 1024  # of a ZeroMQ publisher: a line and its topic
RECONNECT_NS = NS_PER_S // 2
POLL_MS = 100
PLAIN_LINE_NS = 2 * NS_PER_S  # a plain line says nothing of its time: taken as spoken just before it came


class TranscriptFileSource(ThreadedSource):
    """A .srt, .vtt or .jsonl file, pushed ahead of the loop; each window sees what had been said by its end.

    Its times are those of the recording that is `played` beside it: of a part it gives the words of that part, in each
    round of a loop.
    """

    def __init__(self, path: str, sinks: Sinks, played: ThreadedSource | None = None) -> None:
        span = Span() if played is None else played.identity.span
        parsed = read_transcript(Path(path).expanduser(), sinks.origin_ns - round(span.start_s * NS_PER_S))
        counts = {"segments": 0, "malformed": len(parsed.bad_lines)}
        super().__init__(SourceIdentity(path, "transcript", ("language",), lossless=True), sinks, counts)
        self._arrivals = _of_part(parsed.arrivals, sinks.origin_ns, span)
        self._played = played if span.loop else None
        self._rounds: deque[int] = deque()  # when the next ones begin
        self._left, self._round, self._shift_ns = deque(self._arrivals), 0, 0  # of this one
        if self._played is not None:
            self._played.on_round(self._rounds.append)
        lines = ", ".join(map(str, parsed.bad_lines[:5])) + (", ..." if len(parsed.bad_lines) > 5 else "")
        notes = [f"skipped malformed entries at lines {lines}"] if parsed.bad_lines else []
        if parsed.encoding == WESTERN:
            notes.append(f"not UTF-8: read as {WESTERN}")
        self._note = "; ".join(notes)

    def run(self) -> str:
        self.set_state("live", self._note)
        if self._played is not None:
            self._follow(self._played)
            return self._note
        for arrival in self._arrivals:
            self.advance(arrival.arrived_ns)
            if not self.await_room(arrival.arrived_ns):
                break
            self._put(arrival)
        return self._note

    def _put(self, arrival: Arrival) -> None:
        self.sinks.rings.transcript.put(arrival.segment, arrival.arrived_ns)
        self.count("segments")

    def _follow(self, played: ThreadedSource) -> None:
        """Push the words of each round as far as it has been played, until there is no more or when stopping."""
        while not self.stop.is_set() and not self.finished:
            reached_ns = played.await_beyond(self.watermark_ns)
            while self._rounds and self._rounds[0] <= reached_ns:
                begun_ns = self._rounds.popleft()
                self._put_until(begun_ns)
                self._left, self._round = deque(self._arrivals), self._round + 1
                self._shift_ns = begun_ns - self.sinks.origin_ns
            self._put_until(reached_ns)
            self.advance(reached_ns)

    def _put_until(self, time_ns: int) -> None:
        """Push what arrives until then in this round, whose words are others than those of the rounds before."""
        shift_ns, again = self._shift_ns, f" {self._round}" if self._round else ""
        while self._left and self._left[0].arrived_ns + shift_ns <= time_ns:
            arrival = self._left.popleft()
            one = arrival.segment
            start_ns, end_ns = one.start_ns + shift_ns, one.end_ns + shift_ns
            moved = replace(one, id=one.id + again, start_ns=start_ns, end_ns=end_ns)
            self._put(Arrival(moved, arrival.arrived_ns + shift_ns))


def _of_part(arrivals: Sequence[Arrival], zero_ns: int, span: Span) -> tuple[Arrival, ...]:
    """The words of a part that begins at `zero_ns`: those not over by then and known by its end.

    What was said earlier is known from its beginning on.
    """
    if span == Span(loop=span.loop):
        return tuple(arrivals)
    end_ns = FOREVER_NS if span.end_s is None else zero_ns + round((span.end_s - span.start_s) * NS_PER_S)
    return tuple(
        replace(arrival, arrived_ns=max(zero_ns, arrival.arrived_ns))
        for arrival in arrivals
        if arrival.segment.end_ns > zero_ns and arrival.arrived_ns <= end_ns
    )


class LiveTranscriptSource(ThreadedSource):
    """Lines from a recogniser, visible from their arrival on; malformed ones are skipped and counted."""

    def __init__(self, identity: SourceIdentity, sinks: Sinks, **counts: int) -> None:
        super().__init__(identity, sinks, {"segments": 0, "malformed": 0, **counts})
        self._lines = 0

    def take(self, line: bytes, plain: bool) -> None:
        """One line: JSON with the fields of a segment, or (if `plain`) just words."""
        text = line.strip()
        if not text:
            return
        self._lines += 1
        now_ns = self.sinks.clock.now_ns()
        try:
            arrival = self._read(text, plain, now_ns)
        except ValueError as error:
            self.count("malformed")
            self.set_state("live", f"line {self._lines} skipped: {_without_words(error)}")
            return
        # What a live line says of its arrival is the past of another clock: it is known from now on.
        self.sinks.rings.transcript.put(arrival.segment, now_ns)
        self.count("segments")
        self.set_state("live")

    def _read(self, text: bytes, plain: bool, now_ns: int) -> Arrival:
        if len(text) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        key = f"live-{self._lines}"
        if plain and not text.startswith(b"{"):
            words = " ".join(text.decode("utf-8", errors="replace").split())
            start_ns = max(self.sinks.origin_ns, now_ns - PLAIN_LINE_NS)
            return Arrival(Segment(key, start_ns, now_ns, words), now_ns)
        return parse_json_line(text, self.sinks.origin_ns, key)


def _without_words(error: ValueError) -> str:
    """The error without anything that was said (a decoder may quote its input)."""
    return str(error).split("`$", 1)[0][:120]


class StdinTranscriptSource(LiveTranscriptSource):
    """JSON lines or plain lines on a file descriptor, standard input by default."""

    def __init__(self, sinks: Sinks, descriptor: int = 0) -> None:
        super().__init__(SourceIdentity("stdin", "transcript", ("language",)), sinks)
        self._descriptor = descriptor

    def run(self) -> None:
        self.set_state("live", "reading standard input")
        for line in _lines(self._descriptor, self.stop.is_set):
            self.take(line, plain=True)


def _lines(descriptor: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """Lines as they come; of one that is far too long only the start is given, and it cannot fill the memory."""
    pending, skipping = b"", False
    while not stopped():
        ready, _, _ = select.select([descriptor], [], [], POLL_MS / 1000)
        if not ready:
            continue
        data = os.read(descriptor, 65536)
        if not data:
            if pending and not skipping:
                yield pending
            return
        *whole, pending = (pending + data).split(b"\n")
        if whole and skipping:
            whole, skipping = whole[1:], False  # what was left of the long line
        yield from whole
        if len(pending) > 2 * MAX_LINE_BYTES:
            if not skipping:
                yield pending
            pending, skipping = b"", True


class ZmqTranscriptSource(LiveTranscriptSource):
    """A ZeroMQ publisher of single frames: `topic json` or bare JSON. `zmq://host:port[/topic]` or `ipc://path`."""

    def __init__(self, url: str, sinks: Sinks) -> None:
        self._endpoint, self._topic = parse_zmq_url(url)
        super().__init__(SourceIdentity(redact(url), "transcript", ("language",)), sinks, reconnects=0)

    def run(self) -> None:
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.SUB)
        link = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 1000)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
            socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
            socket.setsockopt(zmq.SUBSCRIBE, self._topic.encode())
            socket.connect(self._endpoint)
            self.set_state("starting", f"no line from {self._endpoint} yet")
            while not self.stop.is_set():
                if socket.poll(POLL_MS):
                    self._receive(socket.recv_multipart())
                elif link.poll(0):
                    # As zmq.utils.monitor reads it, which imports asyncio.
                    self._changed_link(struct.unpack("=Hi", link.recv_multipart()[0])[0], socket)
        except zmq.ZMQError as error:
            raise SourceError(f"{self.name}: {error}; give zmq://host:port[/topic] or ipc://path") from None
        finally:
            socket.disable_monitor()
            link.close(0)
            socket.close(0)
            context.term()

    def _changed_link(self, event: int, socket: zmq.Socket[bytes]) -> None:
        """libzmq tries again by itself, but never after a breach of the protocol such as a frame over the limit."""
        import zmq

        if event != zmq.EVENT_DISCONNECTED:
            if self.report().counts["reconnects"]:
                self.set_state("live", f"connected to {self._endpoint} again")
            return
        self.count("reconnects")
        self.gone(f"{self._endpoint} ended the connection, or sent over {MAX_FRAME_BYTES} bytes at once", "ended")
        self.sinks.clock.wait_until(self.sinks.clock.now_ns() + RECONNECT_NS, self.stop)
        with contextlib.suppress(zmq.ZMQError):  # libzmq has forgotten it already
            socket.disconnect(self._endpoint)
        socket.connect(self._endpoint)

    def _receive(self, frames: list[bytes]) -> None:
        if len(frames) != 1:
            self.count("malformed")
            self.set_state("live", f"message of {len(frames)} frames skipped; allowed is one frame `topic json`")
            return
        start = frames[0].find(b"{")
        self.take(frames[0][max(start, 0) :], plain=False)


def parse_zmq_url(url: str) -> tuple[str, str]:
    """ZeroMQ endpoint and topic ("" = all) of a transcript URL; SourceError when it is none."""
    if url.startswith("ipc://") and len(url) > len("ipc://"):
        return url, ""
    address, _, topic = url.removeprefix("zmq://").partition("/")
    host, _, port = address.rpartition(":")
    if not url.startswith("zmq://") or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SourceError(f"transcript {redact(url)}: not an endpoint; give zmq://host:port[/topic] or ipc://path")
    return f"tcp://{address}", topic
