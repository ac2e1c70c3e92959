"""Publish messages over ZeroMQ: XPUB, one frame per message, the last value again for whoever joins late.

One thread owns the sockets; `publish` hands a finished frame over and returns, so no reader, slow, stopped or hostile,
delays the caller.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from clcr_stream.clock import NS_PER_MS, Wake
from clcr_stream.errors import PublishError
from clcr_stream.wire.endpoint import bind, checked_endpoint, claim, default_endpoint, release
from clcr_stream.wire.keys import CurveServer, allowed_keys, check_curve, secret_key, signature_of
from clcr_stream.wire.messages import (
    KINDS,
    Format,
    Kind,
    Message,
    Status,
    encode,
    kind_of,
    topic,
)
from clcr_stream.wire.monitor import read_event
from clcr_stream.wire.numbering import Numbering
from clcr_stream.wire.peers import EVENTS, Peers

_INBOX_FRAMES = 256
_EVENTS_PER_TURN = 64  # so that a flood of subscriptions cannot keep the thread from sending
_MAX_UPSTREAM_BYTES = 1024  # a subscription is a topic; below 276 bytes the handshake itself fails
_KEPT: tuple[Kind, ...] = ("session", "status", "prediction", "event")
_LET_GO_MS = 2000  # how long a listener may take to let go of its endpoint
_RETRY_S = 0.05
_SOONEST_NS = 200 * NS_PER_MS  # from one heartbeat to the next when a subscriber has gone
_ON_REQUEST: tuple[Kind, ...] = ("tokens",)
_RECEIVE_FRAMES = 4  # of a peer, as long as this thread has not read them: the rest waits in its own machine
_RECEIVE_BYTES = 1024  # the least there is: a message of endless parts then comes at 10 MB/s, not at 600

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True)
class PublishOptions:
    """Where and how to publish; without `endpoint`, the user's own ipc socket for the stream."""

    stream: str = "default"
    endpoint: str | None = None
    format: Format = "json"
    heartbeat_ms: int = 1000
    send_hwm_frames: int = 64
    linger_ms: int = 200
    curve: CurveServer | None = None


class Publisher:
    """A bound XPUB socket and the thread that owns it; a context manager.

    `heartbeat` makes the current Status and is called on that thread every `heartbeat_ms`, on `beat`, when a subscriber
    has gone and for the goodbye; `beaten` gets it there as it was sent; neither may block. Sessions, predictions and
    transcripts come by `publish`. The last session, status and prediction are sent again when somebody subscribes; as
    XPUB cannot send to one peer alone, every subscriber of that topic sees the repetition and drops it by its seq.
    Raises PublishError when the endpoint cannot be had.
    """

    def __init__(
        self,
        options: PublishOptions,
        heartbeat: Callable[[], Status],
        beaten: Callable[[Status], object] = lambda _: None,
    ) -> None:
        self._options = options
        self._heartbeat = heartbeat
        self._beaten = beaten
        self._prefixes = {kind: topic(options.stream, kind) + b" " for kind in KINDS}
        self._guard = threading.Lock()
        self._numbering = Numbering()
        self._inbox: deque[tuple[Kind, bytes]] = deque()
        self._newest: dict[Kind, bytes] = {}
        self._peers = Peers(list(self._prefixes.values()))
        self._wanted: frozenset[bytes] = frozenset()  # subscriptions to _ON_REQUEST
        self._admitted: set[bytes] = set()  # keys of those who may be connected
        self._allow_list: object = None  # as it was when it was last looked at
        self._dropped = 0
        self._told_subscribers = 0  # by the last heartbeat
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._beat_asked = threading.Event()
        self._cleanup, self._sockets = contextlib.ExitStack(), contextlib.ExitStack()
        try:
            self._open()
        except BaseException:
            self._cleanup.close()
            raise
        self._thread = threading.Thread(target=self._run, name="clcr-publisher", daemon=True)
        self._thread.start()

    def publish(self, message: _M) -> _M:
        """Hand a message over and return it as sent, numbered if its seq was 0. Any thread; never waits for a reader.

        Raises PublishError when it does not fit the schema, belongs to another stream, does not advance its topic's
        seq, or when the publisher is closed or its thread has failed.
        """
        if self._stop.is_set() or self._failure is not None:
            raise PublishError(f"{self.endpoint}: not publishing any more: {self._failure or 'closed'}")
        if message.stream != self._options.stream:
            raise PublishError(f"a message of stream {message.stream!r} given to stream {self._options.stream!r}")
        with self._guard:
            message, payload = self._numbered(message)
            kind = kind_of(message)
            if len(self._inbox) >= _INBOX_FRAMES:
                self._inbox.popleft()
                self._dropped += 1
            self._inbox.append((kind, self._prefixes[kind] + payload))
        self._wake.set()
        return message

    def beat(self) -> None:
        """Send a heartbeat now, as when the state has changed."""
        self._beat_asked.set()
        self._wake.set()

    def wanted(self, kind: Kind) -> bool:
        """True while somebody subscribes to this very topic, and not to what many topics begin with."""
        return any(self._prefixes[kind].startswith(topic_text) for topic_text in self._wanted)

    @property
    def subscribers(self) -> int:
        """How many peers are connected and have subscribed."""
        return self._peers.subscribers

    @property
    def refused(self) -> int:
        """How many peers were turned away, for their key or beyond the bounds of `Peers`."""
        return self._peers.refused

    @property
    def dropped(self) -> int:
        """Frames lost between `publish` and the socket, oldest first; 0 unless the machine starves the thread."""
        return self._dropped

    def close(self) -> None:
        """Send what was handed over and the goodbye, then let go of the endpoint, within `linger_ms` and a little.

        Safe to call twice. Raises PublishError when the thread had failed.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self._failure is not None:
            raise PublishError(f"{self.endpoint}: publisher failed: {self._failure}") from self._failure

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        check_options(self._options)
        text = self._options.endpoint or default_endpoint(self._options.stream)
        requested = checked_endpoint(text, self._options.curve)
        if requested.startswith("ipc://"):
            path = Path(requested[len("ipc://") :])
            self._cleanup.callback(release, path, claim(path, self._options.stream))
        self._wake = self._cleanup.enter_context(Wake())
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._cleanup.callback(context.term)
        self._zap: zmq.Socket[bytes] | None = None
        if self._options.curve is not None:
            # Without a handler bound first, CURVE admits whoever knows the server's public key.
            self._zap = context.socket(zmq.REP)
            self._cleanup.callback(self._zap.close, linger=0)
            self._zap.bind("inproc://zeromq.zap.01")
        self._context = context
        self._cleanup.callback(lambda: self._sockets.close())  # those that are open at the end
        self._open_sockets(requested)

    def _open_sockets(self, endpoint: str) -> None:
        """The socket, bound, and its monitor; all or none."""
        with contextlib.ExitStack() as stack:
            self._xpub = self._context.socket(zmq.XPUB)
            stack.callback(self._xpub.close)
            _configure(self._xpub, self._options)
            self._monitor = self._xpub.get_monitor_socket(EVENTS)
            stack.callback(self._monitor.close, linger=0)
            stack.callback(self._xpub.disable_monitor)
            self.endpoint = bind(self._xpub, endpoint)
            self._peers.begin(self.endpoint)
            self._sockets = stack.pop_all()

    def _cut_off_revoked(self) -> bool:
        """End every connection when a key that was admitted is no longer allowed; whether there are new sockets.

        libzmq cannot end a single one. The others are back within their RECONNECT_IVL, and get the last values again.
        """
        if self._options.curve is None:
            return False
        now = signature_of(self._options.curve.allowed_folder)
        if now == self._allow_list:
            return False
        self._allow_list = now
        if self._admitted <= allowed_keys(self._options.curve.allowed_folder):
            return False
        self._admitted.clear()
        # The old listener removes an ipc path when it closes, so the new one must come after it.
        self._xpub.unbind(self.endpoint)
        deadline_ns = time.monotonic_ns() + _LET_GO_MS * NS_PER_MS
        while self._monitor.poll(max(0, (deadline_ns - time.monotonic_ns()) // NS_PER_MS)):
            if read_event(self._monitor)[0] == zmq.EVENT_CLOSED:
                break
        self._xpub.linger = 0
        self._sockets.close()
        self._wanted = frozenset()
        while True:
            try:
                self._open_sockets(self.endpoint)
                return True
            except PublishError:
                if time.monotonic_ns() >= deadline_ns:
                    raise
                self._stop.wait(_RETRY_S)

    def _numbered(self, message: _M) -> tuple[_M, bytes]:
        message = self._numbering.numbered(message)
        payload = encode(message, self._options.format)
        self._numbering.keep(message)
        return message, payload

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # the thread's edge: told by the next publish() or close()
            self._failure = error
        finally:
            self._cleanup.close()

    def _serve(self) -> None:
        poller = self._poller()
        period_ns = self._options.heartbeat_ms * NS_PER_MS
        told_ns = time.monotonic_ns()
        next_ns = told_ns + period_ns
        while not self._stop.is_set():
            now_ns = time.monotonic_ns()
            ready = dict(poller.poll(max(0, min(next_ns, self._peers.look(now_ns)) - now_ns) // NS_PER_MS + 1))
            if self._zap in ready:
                self._admit()
            # Subscriptions are read before the inbox and answered after it, from what was sent last: a late joiner gets
            # nothing older than others have, and what was handed over meanwhile follows in order. Only the session,
            # which says what all the rest means, goes first.
            requested = self._subscriptions(ready)
            if self._peers.subscribers < self._told_subscribers:
                next_ns = min(next_ns, told_ns + _SOONEST_NS)
            if "session" in requested:
                self._xpub.send(self._newest["session"], zmq.DONTWAIT)
            answered = self._flush() | {"session"}
            for kind in sorted(requested - answered):
                self._xpub.send(self._newest[kind], zmq.DONTWAIT)
            if self._beat_asked.is_set() or time.monotonic_ns() >= next_ns:
                self._beat_asked.clear()
                told_ns = time.monotonic_ns()
                next_ns = told_ns + period_ns
                if self._cut_off_revoked():
                    poller = self._poller()
                self._send_status(goodbye=False)
        self._flush()
        self._send_status(goodbye=True)

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for source in (self._xpub, self._monitor, self._wake.fileno(), self._zap):
            if source is not None:
                poller.register(source, zmq.POLLIN)
        return poller

    def _flush(self) -> set[Kind]:
        """Send what was handed over; the kinds that it was."""
        sent: set[Kind] = set()
        self._wake.clear()
        while True:
            with self._guard:
                if not self._inbox:
                    return sent
                kind, data = self._inbox.popleft()
            self._send(kind, data)
            sent.add(kind)

    def _send(self, kind: Kind, data: bytes) -> None:
        # XPUB never blocks: a peer whose queue is full misses the frame and sees it in seq.
        self._xpub.send(data, zmq.DONTWAIT)
        if kind in _KEPT:
            self._newest[kind] = data

    def _send_status(self, goodbye: bool) -> None:
        status = self._heartbeat()
        self._told_subscribers = self._peers.subscribers
        status = msgspec.structs.replace(
            status,
            seq=0,
            state="goodbye" if goodbye else status.state,
            subscribers=self._told_subscribers,
            refused_peers=self._peers.refused,
        )
        with self._guard:
            status, payload = self._numbered(status)
        self._send("status", self._prefixes["status"] + payload)
        self._beaten(status)

    def _subscriptions(self, ready: Container[object]) -> set[Kind]:
        """The kinds to send again: those whose kept frame a new subscription matches."""
        frames: list[zmq.Frame] = []
        if self._xpub in ready:
            with contextlib.suppress(zmq.Again):
                while len(frames) < _EVENTS_PER_TURN:
                    frames.append(self._xpub.recv(zmq.DONTWAIT, copy=False))
        if frames or self._monitor in ready:  # after the frames: who sent them is known by then
            self._peers.read(self._monitor, time.monotonic_ns())
        requested: set[Kind] = set()
        for frame in frames:
            event = frame.bytes
            self._note(event)
            if self._peers.takes(frame, time.monotonic_ns()) and event[:1] == b"\x01":
                requested.update(kind for kind, data in self._newest.items() if data.startswith(event[1:]))
        return requested

    def _note(self, event: bytes) -> None:
        """Remember who wants what is only sent on request; other subscriptions are not kept, however many come."""
        if any(prefix[:-1] == event[1:].rstrip(b" ") for prefix in (self._prefixes[kind] for kind in _ON_REQUEST)):
            self._wanted = self._wanted | {event[1:]} if event[:1] == b"\x01" else self._wanted - {event[1:]}

    def _admit(self) -> None:
        """Answer one ZAP request (RFC 27): yes to a CURVE key whose certificate lies in the allow-list's folder."""
        assert self._zap is not None and self._options.curve is not None
        version, request, _domain, _address, _identity, mechanism, *keys = self._zap.recv_multipart()
        allowed = (
            mechanism == b"CURVE" and len(keys) == 1 and keys[0] in allowed_keys(self._options.curve.allowed_folder)
        )
        if allowed:
            self._admitted.add(keys[0])
        verdict = [b"200", b"OK"] if allowed else [b"400", b"key not in the allow-list"]
        self._zap.send_multipart([version, request, *verdict, b"", b""])


def check_options(options: PublishOptions) -> None:
    """PublishError for an endpoint or keys that cannot be used, without opening or making anything."""
    topic(options.stream, "status")
    if options.endpoint is not None:
        checked_endpoint(options.endpoint, options.curve)
    if options.curve is not None:
        check_curve(options.curve)
        secret_key(options.curve.secret_file)


def _configure(xpub: zmq.Socket[bytes], options: PublishOptions) -> None:
    xpub.linger = options.linger_ms
    xpub.sndhwm = options.send_hwm_frames
    xpub.maxmsgsize = _MAX_UPSTREAM_BYTES
    xpub.rcvhwm = _RECEIVE_FRAMES
    xpub.rcvbuf = _RECEIVE_BYTES
    for option, value in (
        (zmq.XPUB_VERBOSE, 1),
        (zmq.HEARTBEAT_IVL, 500),
        (zmq.HEARTBEAT_TIMEOUT, 1300),
        (zmq.HEARTBEAT_TTL, 2000),
        (zmq.HANDSHAKE_IVL, 2000),
        (zmq.TCP_MAXRT, 5000),
        (zmq.IPV6, 1 if (options.endpoint or "").startswith("tcp://[") else 0),
    ):
        xpub.setsockopt(option, value)
    if options.curve is not None:
        xpub.curve_secretkey = secret_key(options.curve.secret_file)
        xpub.curve_server = True
