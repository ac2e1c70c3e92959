"""Reads a recording, all its parts in order; of a file that ends in the middle, all up to its last whole chunk."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcr_stream.errors import SourceError, one_line
from clcr_stream.recording.file import METADATA
from clcr_stream.recording.options import INSTALL, part_path

if TYPE_CHECKING:
    from mcap.records import Chunk

MAX_RECORD_BYTES = 256 * 2**20  # of a chunk, packed or not: ours are of a few MB
_MAGIC = b"\x89MCAP0\r\n"


@dataclass(frozen=True)
class Entry:
    """One message: the last word of its topic, its time and its JSON."""

    kind: str
    time_ns: int
    payload: bytes


@dataclass
class Recording:
    """The file of a recording's first part, or of any one part; `about` is what its metadata says.

    `notes` say, once all has been read, what is missing of it.
    """

    path: Path
    about: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def part(self) -> int:
        """1 unless a later part was opened by its own name."""
        return int(self.about["part"]) if self.about.get("part", "").isdecimal() else 1

    @property
    def has_media(self) -> bool:
        """Whether faces and sound were recorded."""
        return self.about.get("media") == "true"

    def number(self, name: str) -> float | None:
        """A number of `about`: gamma, calibrate_s; None where it has none."""
        text = self.about.get(name)
        try:
            return float(text) if text else None
        except ValueError:
            return None

    def entries(self) -> Iterator[Entry]:
        """Every message of this and the following parts, in the order in which they were recorded. SourceError."""
        path, number = self.path, self.part
        first = path if number == 1 else None
        while True:
            yield from _entries(path, self.notes)
            number += 1
            following = None if first is None else part_path(first, number)
            if following is None or not following.is_file() or not self._continues(following, number):
                return
            path = following

    def _continues(self, following: Path, number: int) -> bool:
        about = read_about(following)
        return about.get("session") == self.about.get("session") and about.get("part") == str(number)


def open_recording(path: Path, what: str = "recording") -> Recording:
    """The recording of a file; SourceError says why it is none, beginning with `what` and its name."""
    name = f"{what} {path}"
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror}); give a file of --record FILE.mcap") from None
    if magic != _MAGIC:
        raise SourceError(f"{name}: not an MCAP file; give a file of --record FILE.mcap")
    about = read_about(path)
    if not about:
        raise SourceError(f"{name}: holds nothing of clcr-stream; give a file of --record FILE.mcap")
    return Recording(path, about)


def read_about(path: Path) -> Mapping[str, str]:
    """The metadata at the head of a part; {} when there is none."""
    from mcap.records import Chunk, Metadata

    for record in _records(path, []):
        if isinstance(record, Metadata) and record.name == METADATA:
            return dict(record.metadata)
        if isinstance(record, Chunk):
            break
    return {}


def _entries(path: Path, notes: list[str]) -> Iterator[Entry]:
    from mcap.records import Channel, Chunk, Message

    kinds: dict[int, str] = {}
    for record in _records(path, notes):
        if not isinstance(record, Chunk):
            continue
        for inner in _unpacked(record, path, notes):
            if isinstance(inner, Channel):
                kinds[inner.id] = inner.topic.rpartition("/")[2]
            elif isinstance(inner, Message) and inner.channel_id in kinds:
                yield Entry(kinds[inner.channel_id], inner.log_time, inner.data)


def _unpacked(chunk: Chunk, path: Path, notes: list[str]) -> list[Any]:
    """The records of a chunk; of a damaged one none."""
    from mcap.exceptions import McapError
    from mcap.stream_reader import breakup_chunk

    reason: str
    if chunk.uncompressed_size > MAX_RECORD_BYTES:
        reason = f"{chunk.uncompressed_size} bytes"
    else:
        try:
            _check_size(chunk)
            return list(breakup_chunk(chunk, validate_crc=True))
        except (McapError, ValueError, EOFError, struct.error) as error:
            reason = one_line(str(error) or type(error).__name__)
        except Exception as error:  # zstandard's own errors have no base that could be named without importing it
            reason = one_line(f"{type(error).__name__}: {error}")
    notes.append(f"{path.name}: a chunk is damaged and was left out ({reason})")
    return []


def _check_size(chunk: Chunk) -> None:
    """ValueError for a chunk whose packed data claim to be huge, which would be allocated before anything is read."""
    if chunk.compression == "zstd":
        import zstandard

        size = zstandard.frame_content_size(chunk.data)
        if size > MAX_RECORD_BYTES:
            raise ValueError(f"{size} bytes")


def _records(path: Path, notes: list[str]) -> Iterator[Any]:
    """The records of one file, chunks whole; ends where the file does."""
    try:
        from mcap.exceptions import McapError
        from mcap.stream_reader import StreamReader
    except ImportError:
        raise SourceError(f"{path}: the package mcap is not installed; run {INSTALL}") from None
    try:
        with path.open("rb") as file:
            yield from StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES).records
    except (McapError, EOFError, struct.error) as error:
        notes.append(f"{path.name}: ends in the middle, read to its last whole chunk ({type(error).__name__})")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        notes.append(f"{path.name}: is damaged, read up to there ({one_line(str(error))})")
