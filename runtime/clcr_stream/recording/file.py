"""One part of a recording: an MCAP file that is whole after each `flush`, whatever happens to the process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from clcr_stream.recording import media
from clcr_stream.recording.schemas import message_schema, struct_schema
from clcr_stream.wire import messages

METADATA = "clcr-stream"
CHUNK_BYTES = 2**20
_SCHEMA_NAMES = {media.FACE: "foxglove.CompressedImage"}
_STRUCTS: Mapping[str, type[msgspec.Struct]] = {
    media.FACE: media.Face,
    media.SOUND: media.Sound,
    media.WORDS: media.Words,
    media.HOP: media.HopEnd,
}


class _Stage:
    """What the writer of MCAP writes to: bytes that wait for `commit`."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.written = 0

    def write(self, data: bytes) -> int:
        self.waiting += data
        return len(data)

    def tell(self) -> int:
        return self.written + len(self.waiting)

    def flush(self) -> None:
        """Nothing yet: `commit` writes."""


class PartFile:
    """A new file with mode 0600; OSError from everything that writes. After one, the file holds whole chunks only."""

    def __init__(self, path: Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        """A chunk ends at `chunk_bytes` and at each flush. OSError when there is such a file."""
        from mcap.writer import Writer

        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._stage = _Stage()
        self._writer = Writer(self._stage, chunk_size=chunk_bytes)  # type: ignore[arg-type]  # it calls write, tell and flush
        self._channels: dict[str, int] = {}
        self._labels: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The file's length, with what waits for the next flush."""
        return self._stage.tell()

    def start(self, session: messages.Session, about: Mapping[str, str]) -> None:
        """The head of the file: what it is of, in one record of metadata, on the disk at once."""
        self._labels = session.labels
        self._writer.start(profile="", library=f"clcr-stream {session.versions.get('clcr-stream', '')}")
        self._writer.add_metadata(METADATA, dict(about))
        self.flush()

    def add(self, stream: str, kind: str, time_ns: int, payload: bytes, sequence: int = 0) -> None:
        """One message; it is on the disk after the next flush."""
        channel = self._channels.get(kind)
        if channel is None:
            channel = self._channels[kind] = self._register(stream, kind)
        self._writer.add_message(channel, time_ns, payload, time_ns, sequence & 0xFFFFFFFF)

    def flush(self) -> None:
        """End the chunk and write all that waits to the system, which keeps it when this process is killed."""
        self._writer.flush()
        self._commit()

    def finish(self) -> None:
        """Write the index and close."""
        try:
            self._writer.finish()
            self._commit()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file as it is. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _register(self, stream: str, kind: str) -> int:
        schema: dict[str, Any]
        if kind in messages.KINDS:
            schema = message_schema(kind, self._labels)
        else:
            schema = struct_schema(_STRUCTS[kind])
        name = _SCHEMA_NAMES.get(kind, f"clcr-stream.{kind}")
        number = self._writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
        return self._writer.register_channel(f"clcr/{stream}/{kind}", "json", number)

    def _commit(self) -> None:
        """Write what waits; of what does not fit, nothing stays."""
        stage, start = self._stage, self._stage.written
        data = memoryview(bytes(stage.waiting))
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            os.ftruncate(self._descriptor, start)
            raise
        stage.written += done
        stage.waiting.clear()
