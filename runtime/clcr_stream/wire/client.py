"""Read a stream's messages, the newest or every one of each topic: ages, missed ones, changes of session, losses.

    with Subscriber(topics=("prediction", "status"), lifespan_ms=400) as subscriber:
        for received in subscriber:
            print(received.message.seq, received.age_ms, received.missed)

Sessions, predictions and statuses come by conflating sockets, one per topic, so that a slow reader reads the newest and
not a queue of old ones. Transcript segments are queued, because each of them counts; with `every` all topics are.
One thread uses a Subscriber; `AsyncSubscriber` is the same for asyncio.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from clcr_stream.clock import NS_PER_MS, read_boot_id
from clcr_stream.errors import ConfigError, PublishError
from clcr_stream.wire.endpoint import check_private, default_folders, endpoint_in
from clcr_stream.wire.keys import CurveClient, reader_keys
from clcr_stream.wire.links import LOSSES, Links
from clcr_stream.wire.messages import KINDS, MAX_PAYLOAD_BYTES, Kind, Message, decode, split, topic

_QUIET_MS = 5000.0
_LOOK_NS = 200 * NS_PER_MS  # how often a folder that does not exist yet is looked for
_MARGIN_NS = 50 * NS_PER_MS  # beyond a period: then a message has waited, and its successor should be here
_TRY_NS = 300 * NS_PER_MS  # for the successor; a reader that was stopped is cut off, and back in 55 ms
_HWM_FRAMES = 1000  # of a queued topic; a publisher keeps 64 for a slow reader besides
MAX_FRAME_BYTES = MAX_PAYLOAD_BYTES + 256  # with its topic
QUEUED: tuple[Kind, ...] = ("transcript", "event")  # topics of which each message counts


@dataclass(frozen=True)
class Received:
    """One message as read.

    `age_ms` is the time since it was published, None when the publisher is another host, whose monotonic clock says
    nothing here. `missed` counts the seqs between this message and the one read before it on its topic: read too
    slowly, lost, or never published (a skipped tick). `new_session` is set when the publisher is another run than
    before; `missed` is then 0.
    """

    message: Message
    age_ms: float | None
    missed: int
    new_session: bool


@dataclass
class TopicTrack:
    """What has been read of one topic, and the rules that a next message must pass; no sockets, no clock.

    `counts` hold what was not handed on: repeated (sent again for another's sake, or older than what was read), expired
    (over its lifespan) and refused (not a message of this stream).
    """

    boot_id: str
    lifespan_ms: float | None = None
    session: str | None = None
    seq: int = 0
    published_ns: int = 0
    period_ns: int | None = None  # from one seq to the next, when it was last seen
    counts: dict[str, int] = field(default_factory=lambda: {"repeated": 0, "expired": 0, "refused": 0})

    def accept(self, message: Message, now_ns: int) -> Received | None:
        """The message with its age and gap, or None when it is a repetition or past its lifespan."""
        new_session = self.session is not None and message.session != self.session
        same_host = bool(self.boot_id) and message.boot_id == self.boot_id
        # A run that ended before the one already seen can still arrive, from a second endpoint or a late queue.
        outdated = new_session and same_host and message.published_ns < self.published_ns
        if outdated or (message.session == self.session and message.seq <= self.seq):
            self.counts["repeated"] += 1
            return None
        missed = 0 if self.session is None or new_session else message.seq - self.seq - 1
        age_ms = (now_ns - message.published_ns) / NS_PER_MS if same_host else None
        if self.lifespan_ms is not None and age_ms is not None and age_ms > self.lifespan_ms:
            self.counts["expired"] += 1
            return None
        if same_host and message.session == self.session:
            self.period_ns = (message.published_ns - self.published_ns) // (message.seq - self.seq)
        self.session, self.seq = message.session, message.seq
        if same_host:
            self.published_ns = message.published_ns
        return Received(message, age_ms, missed, new_session)

    def overdue(self, message: Message, now_ns: int) -> bool:
        """Whether its successor should be here by now: it has waited, in a queue or for a reader that was stopped."""
        if self.period_ns is None or not self.boot_id or message.boot_id != self.boot_id:
            return False
        age_ns = now_ns - message.published_ns
        expired = self.lifespan_ms is not None and age_ns > self.lifespan_ms * NS_PER_MS
        return age_ns > self.period_ns + _MARGIN_NS and not expired


@dataclass
class _Held:
    """A message that is overdue, until a newer one has come or `until_ns`."""

    message: Message
    until_ns: int


class Subscriber:
    """Typed messages of one stream, of one topic or several; a context manager and an endless iterator.

    With `every` it reads each message in order, up to 1000 behind on a topic; `missed` tells what did not fit. Without
    `endpoint` it listens in the user's own folders, where a publisher may already be or come later; a reader makes none
    of them, and listens in none that others could have made. With `lifespan_ms` an older message is dropped and
    counted, never handed on; it needs the publisher's clock, so it is without effect on messages from another host.

    Without `every` a message whose successor should be here, as after a stop of this process, waits 0.3 s for it, in
    which the time of a `receive` may be up. Then it is handed on nevertheless.

    It comes back after every loss: libzmq reconnects by itself, and where it gives up for good (a frame over the limit,
    another breach of the protocol, a key that is not allowed) the reader connects again, after 0.1 s and then ever
    later up to `quiet_ms`; after so long a silence all sockets are made anew. `losses` counts them. Raises ConfigError
    for an endpoint or topic that cannot be.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        stream: str = "default",
        topics: Sequence[Kind] | Kind = ("prediction",),
        lifespan_ms: float | None = None,
        curve: CurveClient | None = None,
        quiet_ms: float = _QUIET_MS,
        every: bool = False,
    ) -> None:
        kinds = [topics] if isinstance(topics, str) else list(topics)
        unknown = [name for name in kinds if name not in KINDS]
        if unknown or not kinds:
            raise ConfigError(f"topics {kinds}: not understood; allowed are {', '.join(KINDS)}")
        if lifespan_ms is not None and not lifespan_ms > 0:
            raise ConfigError(f"lifespan_ms {lifespan_ms:g}: must be above 0; None for messages of any age")
        boot_id = read_boot_id()
        self._names = {kind: topic(stream, kind) for kind in kinds}
        self._tracks = {kind: TopicTrack(boot_id, lifespan_ms) for kind in kinds}
        self._curve = None if curve is None else reader_keys(curve)
        self._quiet_ns = int(quiet_ms * NS_PER_MS)
        self._every = every
        self._places: list[tuple[Path | None, str]]
        self._places = [(None, _checked(endpoint))] if endpoint else _own_places(stream)
        self._absent: list[tuple[Path | None, str]] = []  # places whose folder does not exist yet
        self.endpoints = [text for _, text in self._places]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[zmq.Socket[bytes], Kind] = {}
        self._links: dict[zmq.Socket[bytes], Links] = {}
        self._poller = zmq.Poller()
        self._next: list[zmq.Socket[bytes]] = []
        self._held: dict[Kind, _Held] = {}
        self._heard_ns = time.monotonic_ns()
        self._wake_ns = self._heard_ns
        self.reconnects = 0
        self.losses = dict.fromkeys(LOSSES, 0)
        self._refused_before = 0  # when something was last heard
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def receive(self, timeout_ms: float | None = None) -> Received | None:
        """The next message of any topic, waiting at most `timeout_ms` (None: for ever); None when none came."""
        deadline_ns = None if timeout_ms is None else time.monotonic_ns() + int(timeout_ms * NS_PER_MS)
        while True:
            if self._context.closed:
                raise ConfigError("the subscriber is closed; make a new one")
            received = self._read()
            if received is not None:
                return received
            now_ns = time.monotonic_ns()
            received = self._release(now_ns)
            if received is not None:
                return received
            wake_ns = self._look_after(now_ns)
            if deadline_ns is not None and now_ns < deadline_ns:
                wake_ns = min(wake_ns, deadline_ns)
            elif deadline_ns is not None and not (self._held and timeout_ms):  # who asks with 0 will ask again
                return None
            self._poller.poll((wake_ns - now_ns) // NS_PER_MS + 1)

    def __iter__(self) -> Iterator[Received]:
        while True:
            received = self.receive()
            if received is not None:
                yield received

    @property
    def counts(self) -> dict[Kind, dict[str, int]]:
        """What was read and not handed on, by topic and reason: repeated, expired, refused."""
        return {kind: dict(track.counts) for kind, track in self._tracks.items()}

    @property
    def silence_ms(self) -> float:
        """Time since anything arrived; with topic status, over 2000 means that the publisher is gone or cut off."""
        return (time.monotonic_ns() - self._heard_ns) / NS_PER_MS

    @property
    def refusal(self) -> str:
        """What to do when a connection was refused and nothing has come since; "" otherwise."""
        if self.losses["refused"] == self._refused_before:
            return ""
        where = " and ".join(self.endpoints)
        if self._curve is None:
            return f"{where} refuses readers without a key; give --curve-secret and --curve-server"
        return f"{where} refuses our key; run `clcr-stream keys allow` there, or check --curve-server"

    @property
    def descriptors(self) -> list[int]:
        """File descriptors, readable when `receive(0)` should be called; for event loops, until the next `receive`."""
        return [source.fileno() for source in self._sockets] + [links.fileno() for links in self._links.values()]

    @property
    def patience_ms(self) -> float:
        """How long an event loop may wait for the descriptors before it calls `receive(0)` nevertheless."""
        return max(0.0, (self._wake_ns - time.monotonic_ns()) / NS_PER_MS)

    def close(self) -> None:
        """Let go of the sockets; safe to call twice."""
        self._disconnect()
        self._context.term()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Received | None:
        """The next message that waits and passes its topic's rules; topics take turns."""
        misses = 0
        while misses < len(self._next):
            source = self._next.pop(0)
            self._next.append(source)
            try:
                data = source.recv(zmq.DONTWAIT)
            except zmq.Again:
                misses += 1
                continue
            misses = 0
            self._heard_ns = time.monotonic_ns()
            self._refused_before = self.losses["refused"]
            self._links[source].heard()
            received = self._judge(data, self._sockets[source])
            if received is not None:
                return received
        return None

    def _look_after(self, now_ns: int) -> int:
        """Make the sockets anew after a long silence, look for folders that were absent; when to look again."""
        if now_ns - self._heard_ns > self._quiet_ns:
            self._disconnect()
            self._connect()
            self.reconnects += 1
            self._heard_ns = now_ns
        wake_ns = min(self._heard_ns + self._quiet_ns, *(links.mend(now_ns) for links in self._links.values()))
        wake_ns = min([wake_ns, *(held.until_ns for held in self._held.values())])
        if self._absent:
            self._connect_to(self._absent)
            wake_ns = min(wake_ns, now_ns + _LOOK_NS)
        self._wake_ns = wake_ns
        return wake_ns

    def _judge(self, data: bytes, kind: Kind) -> Received | None:
        track = self._tracks[kind]
        try:
            name, payload = split(data)
            if name != self._names[kind]:
                raise PublishError(f"topic {name!r} where {self._names[kind]!r} was subscribed")
            message = decode(payload)
        except PublishError:
            track.counts["refused"] += 1
            return None
        if not self._every and kind not in QUEUED and track.overdue(message, self._heard_ns):
            self._hold(kind, message)
            return None
        received = track.accept(message, self._heard_ns)
        if received is not None:
            self._held.pop(kind, None)
        return received

    def _hold(self, kind: Kind, message: Message) -> None:
        held = self._held.setdefault(kind, _Held(message, self._heard_ns + _TRY_NS))
        if message.published_ns >= held.message.published_ns:
            held.message = message

    def _release(self, now_ns: int) -> Received | None:
        """A message that has waited long enough for its successor."""
        for kind, held in list(self._held.items()):
            if now_ns >= held.until_ns:
                del self._held[kind]
                received = self._tracks[kind].accept(held.message, now_ns)
                if received is not None:
                    return received
        return None

    def _connect(self) -> None:
        for kind, name in self._names.items():
            source = self._context.socket(zmq.SUB)
            self._sockets[source] = kind
            configure(source, queued=self._every or kind in QUEUED, keys=self._curve)
            source.subscribe(name + b" ")
            links = self._links[source] = Links(source, self.losses, self._quiet_ns)
            self._poller.register(source, zmq.POLLIN)
            self._poller.register(links.monitor, zmq.POLLIN)
            self._next.append(source)
        self._connect_to(self._places)

    def _connect_to(self, places: list[tuple[Path | None, str]]) -> None:
        """Connect every socket to the places that can be trusted now; those without a folder are tried again later."""
        self._absent = []
        for folder, endpoint in places:
            try:
                if folder is not None:
                    check_private(folder)
            except FileNotFoundError:
                self._absent.append((folder, endpoint))
                continue
            except (PublishError, OSError):
                continue  # it has become somebody else's
            for source in self._sockets:
                try:
                    source.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))
                    self._links[source].connect(endpoint)
                except zmq.ZMQError as error:
                    raise ConfigError(
                        f"endpoint {endpoint}: {error.strerror}; allowed are ipc:///PATH and tcp://ADDRESS:PORT"
                    ) from None

    def _disconnect(self) -> None:
        for links in self._links.values():
            links.close()
        for source in self._sockets:
            source.close(linger=0)
        self._poller = zmq.Poller()
        self._sockets.clear()
        self._links.clear()
        self._next.clear()


def configure(source: zmq.Socket[bytes], queued: bool, keys: tuple[bytes, bytes, bytes] | None) -> None:
    """A reader's socket, before connecting. MAXMSGSIZE keeps a peer from filling our memory; libzmq gives up on it,
    Links does not."""
    if queued:
        source.rcvhwm = _HWM_FRAMES
    else:
        source.setsockopt(zmq.CONFLATE, 1)
    source.maxmsgsize = MAX_FRAME_BYTES
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.RECONNECT_IVL, 50),
        (zmq.RECONNECT_IVL_MAX, 1000),
        (zmq.HEARTBEAT_IVL, 500),
        (zmq.HEARTBEAT_TIMEOUT, 1500),
        (zmq.HEARTBEAT_TTL, 2000),
        (zmq.HANDSHAKE_IVL, 2000),
    ):
        source.setsockopt(option, value)
    if keys is not None:
        source.curve_publickey, source.curve_secretkey, source.curve_serverkey = keys


def _checked(endpoint: str) -> str:
    if not endpoint.isprintable():
        raise ConfigError(f"endpoint {endpoint!r}: not understood; allowed are ipc:///PATH and tcp://ADDRESS:PORT")
    return endpoint


def _own_places(stream: str) -> list[tuple[Path | None, str]]:
    """The user's folders with the stream's endpoint in each; one that belongs to somebody else is left out."""
    places: list[tuple[Path | None, str]] = []
    reasons = []
    for folder in default_folders():
        try:
            with contextlib.suppress(FileNotFoundError):
                check_private(folder)
            places.append((folder, endpoint_in(folder, stream)))
        except (PublishError, OSError) as error:
            reasons.append(str(error))
    if not places:
        raise ConfigError(f"no endpoint found: {'; '.join(reasons)}; pass endpoint=")
    return places
