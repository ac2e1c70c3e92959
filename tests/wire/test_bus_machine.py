"""Publishers, readers, kills and partitions in any order: nothing is lost untold, given twice, or out of order.

One machine has the product's rules (numbers, encoding, what a reader accepts) on a network and a clock of the test, one
the product's sockets and threads over ipc. Kills of real processes are in tests/faults/test_25_publisher_killed.py.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clcr_stream.clock import read_boot_id
from clcr_stream.wire.client import Received, Subscriber, TopicTrack
from clcr_stream.wire.messages import decode, frame, split
from clcr_stream.wire.numbering import Numbering
from clcr_stream.wire.publisher import Publisher, PublishOptions
from wire_messages import prediction, status

QUEUE = 8
PATIENCE_MS = 20_000.0
NEWEST = prediction(1)


def run_of(number: int) -> str:
    return f"{number:016x}"


def check(log: list[Received], runs: list[str]) -> None:
    """What a reader was given, against what it was told."""
    for former, later in itertools.pairwise(log):
        if later.message.session == former.message.session:
            assert later.message.seq > former.message.seq and not later.new_session
            assert later.missed == later.message.seq - former.message.seq - 1
        else:
            assert later.new_session and later.missed == 0
            assert runs.index(later.message.session) > runs.index(former.message.session)


@dataclass
class Reader:
    """A reader's side of the network: a queue that drops what has no room, or keeps the newest alone."""

    conflates: bool
    track: TopicTrack = field(default_factory=lambda: TopicTrack(read_boot_id()))
    waiting: deque[bytes] = field(default_factory=deque)
    reachable: bool = True
    log: list[Received] = field(default_factory=list)

    def deliver(self, data: bytes) -> None:
        if not self.reachable:
            return
        if self.conflates:
            self.waiting.clear()
        if len(self.waiting) < QUEUE:
            self.waiting.append(data)

    def read(self, most: int, now_ns: int) -> None:
        for _ in range(min(most, len(self.waiting))):
            got = self.track.accept(decode(split(self.waiting.popleft())[1]), now_ns)
            if got is not None:
                self.log.append(got)


class Network(RuleBasedStateMachine):
    """The rules without sockets: any message may be lost, late or repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 1_000_000
        self.readers: list[Reader] = []
        self.sent: list[bytes] = []
        self.runs: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Another publisher takes the place of the one before."""
        self.runs.append(run_of(len(self.runs) + 1))
        self.numbering = Numbering()
        self.last = b""

    @initialize(conflates=st.booleans())
    def first_reader(self, conflates: bool) -> None:
        self.readers.append(Reader(conflates))

    @rule(conflates=st.booleans())
    def join(self, conflates: bool) -> None:
        self.readers.append(Reader(conflates))
        self.again()

    @rule(steps=st.lists(st.integers(1, 4), min_size=1, max_size=12))
    def publish(self, steps: list[int]) -> None:
        """Some ticks are skipped: their numbers are never sent."""
        for step in steps:
            self.now_ns += 1000
            seq = 0 if step == 1 else self.highest + step
            message = msgspec.structs.replace(NEWEST, session=self.runs[-1], seq=seq, published_ns=self.now_ns)
            message = self.numbering.numbered(message)
            self.numbering.keep(message)
            self.highest, self.last = message.seq, frame(message)
            self.sent.append(self.last)
            for reader in self.readers:
                reader.deliver(self.last)

    highest = 0

    @rule(lost=st.integers(0, QUEUE))
    def kill(self, lost: int) -> None:
        """What the publisher had not sent yet is gone with it."""
        for reader in self.readers:
            for _ in range(min(lost, len(reader.waiting))):
                reader.waiting.pop()
        self.highest = 0
        self.begin()

    @rule()
    def again(self) -> None:
        """The last value goes to everybody, as when somebody joins."""
        if self.last:
            for reader in self.readers:
                reader.deliver(self.last)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def late(self, data: st.DataObject) -> None:
        """An old message comes once more, perhaps of a run that has ended."""
        old = data.draw(st.sampled_from(self.sent))
        data.draw(st.sampled_from(self.readers)).deliver(old)

    @rule(data=st.data())
    def partition(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.reachable = not reader.reachable
        if reader.reachable:
            self.again()

    @rule(data=st.data(), most=st.integers(1, 2 * QUEUE))
    def read(self, data: st.DataObject, most: int) -> None:
        data.draw(st.sampled_from(self.readers)).read(most, self.now_ns)

    @invariant()
    def nothing_is_lost_untold_or_given_twice(self) -> None:
        for reader in self.readers:
            check(reader.log, self.runs)

    def teardown(self) -> None:
        """Once all is well again everybody reads the newest."""
        for reader in self.readers:
            reader.reachable = True
            reader.read(QUEUE, self.now_ns)
        self.publish([1])
        for reader in self.readers:
            reader.read(QUEUE, self.now_ns)
            check(reader.log, self.runs)
            newest = reader.log[-1].message
            assert (newest.session, newest.seq) == (self.runs[-1], self.highest)


class Sockets(RuleBasedStateMachine):
    """The product's publisher and readers over ipc; a reader that does not read falls behind."""

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = contextlib.ExitStack()
        folder = self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="clcr-"))
        self.endpoint = f"ipc://{folder}/s"
        self.readers: list[tuple[Subscriber, list[Received]]] = []
        self.runs: list[str] = []
        self.publisher: Publisher | None = None

    @initialize(every=st.booleans())
    def begin(self, every: bool) -> None:
        self.join(every)
        self.restart()

    @rule()
    def restart(self) -> None:
        """Another run of the publisher, after the end of the one before."""
        if self.publisher is not None:
            self.publisher.close()
        self.runs.append(run_of(len(self.runs) + 1))
        options = PublishOptions(endpoint=self.endpoint, heartbeat_ms=3_600_000, linger_ms=20)
        self.publisher = Publisher(options, lambda: status(run=self.runs[-1]))
        self.publish(1)

    @precondition(lambda self: len(self.readers) < 4)
    @rule(every=st.booleans())
    def join(self, every: bool) -> None:
        self.readers.append((Subscriber(self.endpoint, every=every), []))

    @precondition(lambda self: len(self.readers) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader, log = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        check(log, self.runs)
        reader.close()

    @rule(number=st.integers(1, 100))
    def publish(self, number: int) -> None:
        assert self.publisher is not None
        for _ in range(number):
            message = msgspec.structs.replace(NEWEST, session=self.runs[-1], seq=0, published_ns=time.monotonic_ns())
            self.newest = self.publisher.publish(message)

    @rule(data=st.data(), most=st.integers(1, 200))
    def read(self, data: st.DataObject, most: int) -> None:
        reader, log = data.draw(st.sampled_from(self.readers))
        for _ in range(most):
            got = reader.receive(0)
            if got is None:
                break
            log.append(got)
        check(log, self.runs)

    def teardown(self) -> None:
        """Everybody comes to the newest, which is repeated for whoever joins."""
        try:
            if self.publisher is not None:
                for reader, log in self.readers:
                    self._come_to_the_newest(reader, log)
                    check(log, self.runs)
        finally:
            for reader, _ in self.readers:
                reader.close()
            if self.publisher is not None:
                self.publisher.close()
            self.cleanup.close()

    def _come_to_the_newest(self, reader: Subscriber, log: list[Received]) -> None:
        deadline_s = time.monotonic() + PATIENCE_MS / 1000
        wanted = (self.runs[-1], self.newest.seq)
        while not log or (log[-1].message.session, log[-1].message.seq) < wanted:
            got = reader.receive(50)
            assert got is not None or time.monotonic() < deadline_s, "the newest never came"
            if got is not None:
                log.append(got)
            elif log and log[-1].message.session == self.runs[-1]:
                self.publish(1)  # its queue was full when the newest was sent: the next one tells the gap


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSockets = Sockets.TestCase
TestSockets.settings = settings(
    max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
