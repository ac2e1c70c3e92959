"""What the dashboard knows, and who is told: a Watcher with ten minutes, and clients with short queues.

Everything here runs on the server's one thread. A client that is slow misses updates, oldest first, and is told how
many; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import time
from collections import deque
from typing import Any

import msgspec

from clcr_stream.clock import NS_PER_MS
from clcr_stream.wire.client import Received
from clcr_stream.wire.messages import Prediction, Session, Status, Tokens, Transcript
from clcr_stream.wire.preview import Face
from clcr_stream.wire.watched import Moment, Watched
from clcr_stream.wire.watcher import Watcher

KEPT_S = 600.0
TURN_S = 0.1
QUEUED = 16  # updates of a client: 1.6 s or more
MAX_CLIENTS = 32
MODALITIES = ("vision", "sound", "words")


class Client:
    """One browser's page: the stream that it watches, and what it has not been sent yet."""

    def __init__(self) -> None:
        self.stream: str | None = None
        self.missed = 0
        self._queue: deque[bytes] = deque()
        self._ready = asyncio.Event()

    def put(self, payload: bytes) -> None:
        """Queue an update; the oldest goes when there are too many."""
        if len(self._queue) >= QUEUED:
            self._queue.popleft()
            self.missed += 1
        self._queue.append(payload)
        self._ready.set()

    def restart(self, payload: bytes) -> None:
        """Drop what is queued, which this one replaces."""
        self._queue.clear()
        self.missed = 0
        self.put(payload)

    def take(self) -> bytes | None:
        """The oldest update that waits, None when none does."""
        return self._queue.popleft() if self._queue else None

    async def next(self) -> bytes:
        """The next update, when there is one."""
        while (payload := self.take()) is None:
            self._ready.clear()
            await self._ready.wait()
        return payload


class Hub:
    """Reads the streams every TURN_S and tells each client what is new of the stream that it watches."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._clients: set[Client] = set()
        self._news: dict[str, dict[str, Any]] = {}
        self._list: bytes = b""
        self._told: dict[str, dict[str, str]] = {}  # by stream: what it waits for and records
        self._faces: dict[str, Face] = {}

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            self.turn(time.monotonic_ns())
            await asyncio.sleep(TURN_S)

    def turn(self, now_ns: int) -> None:
        """Read what has come, and queue it for whoever watches."""
        self._watcher.ask({client.stream for client in self._clients if client.stream is not None})
        self._news.clear()
        self._watcher.turn(now_ns, self._note)
        for name, watched in self._watcher.streams.items():
            if watched.face is not None and watched.face is not self._faces.get(name):
                self._faces[name] = watched.face
                self._news.setdefault(name, {})["face"] = base64.b64encode(watched.face.jpeg).decode("ascii")
            standing = _standing(watched, now_ns)
            if self._told.get(name) != standing:
                self._told[name] = standing
                self._news.setdefault(name, {}).update(standing)
        for name, news in self._news.items():
            watching = [client for client in self._clients if client.stream == name]
            if not watching:
                continue
            payload = _encoded({"type": "update", "stream": name, **news})
            for client in watching:
                client.put(payload)
        self._tell_streams()

    def add(self, client: Client) -> bool:
        """A page has come; False when there are too many."""
        if len(self._clients) >= MAX_CLIENTS:
            return False
        self._clients.add(client)
        client.put(self._streams())
        return True

    def remove(self, client: Client) -> None:
        """A page has gone."""
        self._clients.discard(client)

    def watch(self, client: Client, name: str) -> bool:
        """A page wants to see this stream: all that is known of it, then what is new. False when there is none."""
        watched = self._watcher.streams.get(name)
        if watched is None:
            return False
        client.stream = name
        client.restart(_encoded(self._whole(watched)))
        return True

    def table(self, name: str, first_ms: int, last_ms: int) -> str | None:
        """The kept moments whose window ends within these monotonic ms as CSV, None for an unknown stream."""
        watched = self._watcher.streams.get(name)
        if watched is None:
            return None
        labels = watched.labels or ("value",)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(_columns(labels))
        for moment in watched.moments:
            if first_ms <= moment.end_ns // NS_PER_MS <= last_ms:
                writer.writerow(_cells(moment, watched))
        return out.getvalue()

    def _note(self, watched: Watched, received: Received) -> None:
        """Remember a message for the clients' next update."""
        news = self._news.setdefault(watched.name, {})
        match received.message:
            case Prediction() as message if watched.prediction is message:
                news.setdefault("rows", []).append(watched.moments[-1])
                news["prediction"] = message
            case Session() as message:
                news["session"] = message
            case Status() as message:
                news["status"] = message
            case Transcript() as message:
                news.setdefault("words", []).append(message)
            case Tokens() as message:
                news["tokens"] = _token_shares(message)
            case _:
                pass

    def _whole(self, watched: Watched) -> dict[str, Any]:
        return {
            "type": "whole",
            "stream": watched.name,
            "labels": watched.labels,
            "session": watched.session,
            "status": watched.status,
            "prediction": watched.prediction,
            "words": watched.words,
            "rows": watched.moments,
            **_standing(watched, time.monotonic_ns()),
            "kept_s": KEPT_S,
        }

    def _streams(self) -> bytes:
        return _encoded({"type": "streams", "names": list(self._watcher.streams), "waiting": self._watcher.nothing()})

    def _tell_streams(self) -> None:
        names = self._streams()
        if names != self._list:
            self._list = names
            for client in self._clients:
                client.put(names)


def _standing(watched: Watched, now_ns: int) -> dict[str, str]:
    """What the stream waits for and what it records, in words."""
    return {"waiting": watched.waiting(now_ns), "recording": watched.recording(now_ns)}


def _encoded(tree: dict[str, Any]) -> bytes:
    return msgspec.json.encode(tree, enc_hook=list)  # a deque of moments


def _token_shares(message: Tokens) -> dict[str, Any]:
    """The bytes as base64, and where the window lies."""
    lanes = zip(MODALITIES, (message.vision, message.acoustic, message.language), strict=True)
    return {
        "seq": message.seq,
        "start_ns": message.window.start_ns,
        "end_ns": message.window.end_ns,
        **{name: [base64.b64encode(level).decode("ascii") for level in levels] for name, levels in lanes},
    }


def _columns(labels: tuple[str, ...]) -> list[str]:
    triples = [f"{what}_{name}" for what in ("beta", "eta", "coverage", "active") for name in MODALITIES]
    levels = [f"omega_{level}" for level in (1, 2, 3)]
    return [
        "time",
        "seq",
        "end_ns",
        "label",
        "confidence",
        *map(_safe, labels),
        "latency_ms",
        *levels,
        *triples,
        "quality_vision",  # the other modalities have none
        "degraded",
    ]


def _cells(moment: Moment, watched: Watched) -> list[object]:
    numbers = (*moment.beta, *moment.eta, *moment.coverage, *moment.active, moment.quality[0])
    return [
        watched.wall_time(moment.end_ns),
        moment.seq,
        moment.end_ns,
        _safe(moment.label or ""),
        moment.confidence,
        *moment.scores,
        moment.latency_ms,
        *moment.omega,
        *numbers,
        _safe(" ".join(moment.degraded)),
    ]


def _safe(text: str) -> str:
    """Text of others for a spreadsheet, which would compute what begins like a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
