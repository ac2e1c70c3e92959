"""Writes a stream's messages, and its media when asked, to MCAP on a thread of its own; never holds a tick up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, one_line
from clcr_stream.recording import media
from clcr_stream.recording.file import CHUNK_BYTES, PartFile
from clcr_stream.recording.options import RecordOptions, begun, check_record, parse_rotation, part_path
from clcr_stream.window.cutter import Chunk
from clcr_stream.window.transcript import Segment
from clcr_stream.wire import messages

QUEUE_BYTES = 32 * 2**20  # with media about 50 s of a disk that does not answer
MESSAGE_BYTES = 4000  # what a message is counted as in the queue
FLUSH_NS = NS_PER_S
CLOSE_TIMEOUT_S = 10.0
TIMES = (
    "log_time and publish_time are ns of CLOCK_MONOTONIC of the boot boot_id, not of the wall clock; "
    "started_at is the wall clock at origin_ns"
)
_Item: TypeAlias = messages.Message | media.HopMedia


def nobody() -> None:
    """Nobody waits for room."""


@dataclass(frozen=True)
class RecorderHooks:
    """`failed` gets one line when the recording stops before its end; `room` is called when there is room again.

    `about` is kept in the file's metadata, beside what the session says.
    """

    failed: Callable[[str], object] = lambda _: None
    room: Callable[[], object] = nobody
    about: Mapping[str, str] = field(default_factory=dict)


class Recorder:
    """A sink of a stream's messages and media; what does not fit into its queue is dropped and counted.

    `write` and `hop` may be called by any thread and return at once. A chunk is ended about every second, so a process
    that is killed loses no more. When the disk is full, or the file cannot be written for another reason, the recording
    stops and the stream goes on. Raises ConfigError when it cannot begin.
    """

    def __init__(self, options: RecordOptions, hooks: RecorderHooks) -> None:
        self.options = options = begun(options)
        check_record(options)
        self._hooks = hooks
        self._rotation = parse_rotation(options.rotate)
        self._chunk_bytes = min(CHUNK_BYTES, self._rotation.bytes // 8)  # a part is that much larger at most
        try:
            self._file = PartFile(options.path, self._chunk_bytes)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"--record {options.shown}: cannot be written ({reason}); give another file") from error
        self.failure: str | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._room_asked = False
        self._closing = False
        self._dropped = 0
        self._written = 0
        self._bytes = 0
        self._bytes_before = 0  # of the parts that are finished
        self._part = 1
        self._part_since_ns = self._flushed_ns = time.monotonic_ns()
        self._session: messages.Session | None = None
        self._words: tuple[Segment, ...] | None = None
        self._thread = threading.Thread(target=self._guarded_run, name="clcr-recorder", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        """True while what comes is recorded."""
        return self.failure is None

    def has_room(self) -> bool:
        """Whether a recording that can wait should go on; after a False, `room` is called once it can."""
        with self._changed:
            room = self.failure is not None or self._queued_bytes < QUEUE_BYTES // 2
            self._room_asked = not room
            return room

    def state(self) -> messages.Recording:
        """What a status says of it."""
        with self._changed:
            return messages.Recording(
                media=self.options.media,
                part=self._part,
                bytes=self._bytes,
                messages=self._written,
                dropped=self._dropped,
                failure=self.failure,
            )

    def write(self, message: messages.Message) -> None:
        """Record a message as it was sent."""
        self._put(message, MESSAGE_BYTES)

    def hop(self, chunk: Chunk, sample_rate_hz: int, segments: Sequence[Segment]) -> None:
        """Record what a hop brought and the words that it is answered with; nothing without `media`.

        Its pictures are coded after the tick, whose prediction wakes the thread: beside it they would slow it down.
        """
        if not self.options.media or chunk.hop is None or self.failure is not None:
            return
        words = tuple(segments)
        changed = words != (self._words or ())
        copied = media.copy_hop(chunk.tick, chunk.hop, sample_rate_hz, words if changed else None)
        if self._put(copied, copied.nbytes, wake=False):
            self._words = words

    def close(self) -> None:
        """Write what waits and the index, then close the file. Idempotent; waits for at most CLOSE_TIMEOUT_S."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._fail("the disk does not answer")

    def _put(self, item: _Item, nbytes: int, wake: bool = True) -> bool:
        with self._changed:
            if self.failure is not None or self._closing:
                return False
            if self._queued_bytes + nbytes > QUEUE_BYTES:
                self._dropped += 1
                return False
            self._queue.append(item)
            self._queued_bytes += nbytes
            if wake:
                self._changed.notify()
            return True

    def _guarded_run(self) -> None:
        try:
            self._run()
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception as error:  # the thread's edge: a fault here must not end the stream
            self._fail(one_line(f"{type(error).__name__}: {error}"))
        finally:
            self._file.close()

    def _run(self) -> None:
        while True:
            items, closing = self._taken()
            for item in items:
                self._record(item)
            now_ns = time.monotonic_ns()
            if now_ns - self._flushed_ns >= FLUSH_NS or closing:
                self._flush(now_ns)
            if closing:
                if self._session is not None:
                    self._file.finish()
                    self._count_bytes()
                return

    def _taken(self) -> tuple[list[_Item], bool]:
        """What waits, after the next flush is due at the latest, and whether it is the last."""
        due_ns = self._flushed_ns + FLUSH_NS
        with self._changed:
            while not self._queue and not self._closing:
                left_s = (due_ns - time.monotonic_ns()) / NS_PER_S
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            items = list(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            told, self._room_asked = self._room_asked, False
            closing = self._closing
        if told:
            self._hooks.room()
        return items, closing

    def _record(self, item: _Item) -> None:
        if isinstance(item, messages.Session):
            self._session = item
            if self._part == 1 and self._written == 0:
                self._begin(item)
        session = self._session
        if session is None:
            return  # a heartbeat that came before the session
        if isinstance(item, media.HopMedia):
            for kind, time_ns, part in media.messages_of(item):
                self._add(kind, time_ns, msgspec.json.encode(part), item.tick.number)
        else:
            self._add(messages.kind_of(item), item.published_ns, messages.encode(item, "json"), item.seq)
        old_s = (time.monotonic_ns() - self._part_since_ns) / NS_PER_S
        if self._file.nbytes >= self._rotation.bytes or old_s >= self._rotation.seconds:
            self._rotate(session)

    def _add(self, kind: str, time_ns: int, payload: bytes, sequence: int) -> None:
        session = self._session
        assert session is not None
        self._file.add(session.stream, kind, max(0, time_ns), payload, sequence)
        self._written += 1

    def _begin(self, session: messages.Session) -> None:
        self._file.start(
            session,
            {
                "times": TIMES,
                "stream": session.stream,
                "session": session.session,
                "part": str(self._part),
                "media": "true" if self.options.media else "false",
                "boot_id": session.boot_id,
                "started_at": session.started_at,
                "origin_ns": str(session.origin_ns),
                "bundle": session.bundle,
                "bundle_name": session.bundle_name,
                "notice": session.intended_use.notice,
                **self._hooks.about,
            },
        )
        self._part_since_ns = time.monotonic_ns()

    def _rotate(self, session: messages.Session) -> None:
        """Finish this part; the next one begins with the session too, so that each can be read alone."""
        self._file.finish()
        self._bytes_before += self._file.nbytes
        self._part += 1
        self._file = PartFile(part_path(self.options.path, self._part), self._chunk_bytes)
        self._begin(session)
        self._add("session", session.published_ns, messages.encode(session, "json"), session.seq)

    def _flush(self, now_ns: int) -> None:
        if self._session is not None:
            self._file.flush()
        self._flushed_ns = now_ns
        self._count_bytes()

    def _count_bytes(self) -> None:
        with self._changed:
            self._bytes = self._bytes_before + self._file.nbytes

    def _fail(self, reason: str) -> None:
        with self._changed:
            if self.failure is not None:
                return
            self.failure = reason
            self._dropped += len(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            told = self._room_asked
        if told:
            self._hooks.room()
        self._hooks.failed(f"--record {self.options.shown} has stopped: {reason}; the session goes on without it")
