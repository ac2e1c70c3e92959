"""Watches streams: those given, or the user's running sessions as they come; `turn` never waits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, PublishError
from clcr_stream.wire.client import Received, Subscriber
from clcr_stream.wire.endpoint import default_folders, running_streams
from clcr_stream.wire.keys import CurveClient
from clcr_stream.wire.messages import Kind
from clcr_stream.wire.names import STREAM_NAME
from clcr_stream.wire.preview import PreviewReader, own_socket
from clcr_stream.wire.watched import Watched

KINDS: tuple[Kind, ...] = ("session", "prediction", "transcript", "status")
MAX_STREAMS = 32  # 22 file descriptors each, of the usual 1024
_LOOK_NS = NS_PER_S  # how often sessions that have come are looked for
_READ_AT_ONCE = 256  # of one stream in a turn
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


@dataclass(frozen=True)
class Place:
    """A stream to watch; without an endpoint it is one of the user's own."""

    stream: str
    endpoint: str | None = None


def place_of(text: str) -> Place:
    """NAME, ENDPOINT or NAME=ENDPOINT; an ipc path's file tells the name, else it is default. ConfigError."""
    named = _NAMED.fullmatch(text)
    name, endpoint = (named[1], named[2]) if named else (None, text)
    if STREAM_NAME.fullmatch(endpoint) and named is None:
        return Place(endpoint)
    if not re.match(r"(ipc:///|tcp://).", endpoint) or not endpoint.isprintable():
        raise ConfigError(
            f"{text!r}: not understood; allowed are a stream's NAME, ipc:///PATH, tcp://ADDRESS:PORT and NAME=ENDPOINT"
        )
    if name is None:
        stem = endpoint.rpartition("/")[2].removesuffix(".sock")
        own = endpoint.startswith("ipc://") and endpoint.endswith(".sock") and STREAM_NAME.fullmatch(stem)
        name = stem if own else "default"
    if not STREAM_NAME.fullmatch(name):
        raise ConfigError(f"{text!r}: a stream's name is 1 to 64 letters, digits, '.', '_' or '-'")
    return Place(name, endpoint)


class Watcher:
    """Subscribers of several streams and what they have told; a context manager used by one thread.

    With no `places` it finds the sessions that run in the user's own folders, once a second. Raises ConfigError.
    """

    def __init__(
        self, places: Sequence[Place] = (), curve: CurveClient | None = None, kept_s: float = 60.0, *, now_ns: int = 0
    ) -> None:
        self._curve = curve
        self._kept_s = kept_s
        self._finds = not places
        self._next_look_ns = now_ns
        self._readers: dict[str, Subscriber] = {}
        self._token_readers: dict[str, Subscriber] = {}
        self._face_readers: dict[str, PreviewReader] = {}
        self._places: dict[str, Place] = {}
        self.streams: dict[str, Watched] = {}
        names = [place.stream for place in places]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"stream {twice[0]} is given twice; name them apart: NAME=ENDPOINT")
        try:
            for place in places:
                self._open(place)
        except BaseException:
            self.close()
            raise

    def turn(self, now_ns: int, each: Callable[[Watched, Received], object] = lambda *_: None) -> bool:
        """Read what has come of every stream, handing each message to `each` too; whether anything had."""
        if self._finds and now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + _LOOK_NS
            self._find()
        came = False
        for name, reader in (*self._readers.items(), *self._token_readers.items()):
            for _ in range(_READ_AT_ONCE):
                received = reader.receive(0)
                if received is None:
                    break
                came = True
                self.streams[name].take(received, now_ns)
                each(self.streams[name], received)
        for name, reader in self._readers.items():
            self.streams[name].refusal = reader.refusal
        for name, faces in self._face_readers.items():
            self.streams[name].face = faces.newest() or self.streams[name].face
        return came

    def ask(self, names: Collection[str]) -> None:
        """Read tokens and faces of these streams and no longer of others: they are only sent while somebody does."""
        for name in [name for name in self._token_readers if name not in names]:
            self._forget(name)
        for name in names:
            if name in self._places and name not in self._token_readers:
                place = self._places[name]
                self._token_readers[name] = Subscriber(place.endpoint, place.stream, ("tokens",), curve=self._curve)
                with contextlib.suppress(PublishError):  # on TCP, or in a folder that others can write to
                    socket = own_socket(self._readers[name].endpoints[0])
                    self._face_readers[name] = PreviewReader(name, socket)

    def _forget(self, name: str) -> None:
        for reader in (self._token_readers.pop(name, None), self._face_readers.pop(name, None)):
            if reader is not None:
                reader.close()
        self.streams[name].tokens = self.streams[name].face = None

    def nothing(self) -> str:
        """What is waited for where no session was found; "" when there is one."""
        if self.streams:
            return ""
        folders = " or ".join(str(folder) for folder in default_folders())
        return f"waiting for a session of yours in {folders}; start one: clcr-stream"

    def close(self) -> None:
        """Let go of the sockets. Idempotent."""
        for name in list(self._token_readers):
            self._forget(name)
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self) -> None:
        """Open the user's sessions that are new, and those that now run in another folder than before."""
        for name, path in running_streams().items():
            place = Place(name, f"ipc://{path}")
            if self._places.get(name) != place and (name in self.streams or len(self.streams) < MAX_STREAMS):
                self._open(place)

    def _open(self, place: Place) -> None:
        reader = Subscriber(place.endpoint, place.stream, KINDS, curve=self._curve)
        if place.stream in self._readers:
            self._readers.pop(place.stream).close()
            self._forget(place.stream)
        self._readers[place.stream] = reader
        self._places[place.stream] = place
        where = " or ".join(reader.endpoints)
        self.streams.setdefault(place.stream, Watched(place.stream, where, self._kept_s)).where = where
