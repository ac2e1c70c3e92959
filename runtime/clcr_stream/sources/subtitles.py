"""Readers of transcript files: .srt, .vtt and .jsonl; a malformed entry is skipped and its line number kept.

A segment of a file arrives when its speech ends, unless a .jsonl line says `arrival_s`.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.codes import code_of
from clcr_stream.window.transcript import Arrival, Segment

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024  # of an entry: more is no segment of speech, and a message holds it many times over
UTF8, UTF16, WESTERN = "UTF-8", "UTF-16", "Windows-1252"


class TranscriptLine(msgspec.Struct, forbid_unknown_fields=False):
    """One line of JSONL, from a file, stdin or ZeroMQ; seconds since the session's zero, or monotonic ns."""

    text: str
    id: str | int | None = None
    start_s: float | None = None
    end_s: float | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    final: bool = True
    revision: int = 0
    arrival_s: float | None = None


@dataclass(frozen=True)
class ParsedTranscript:
    """Arrivals in order of arrival, and the numbers of the lines (from 1) whose entry could not be used."""

    arrivals: tuple[Arrival, ...]
    bad_lines: tuple[int, ...]
    encoding: str = UTF8


_DECODER = msgspec.json.Decoder(TranscriptLine)
_MAX_S = 1e9  # 31 years: anything beyond is a mistake and would overflow int64 ns


def parse_json_line(line: str | bytes, origin_ns: int, default_id: str = "") -> Arrival:
    """One JSONL entry; ValueError says what is wrong. Without `arrival_s` it arrives when its speech ends."""
    try:
        entry = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a transcript line: {error}") from None
    start_ns = _moment(entry.start_ns, entry.start_s, origin_ns)
    end_ns = _moment(entry.end_ns, entry.end_s, origin_ns)
    if start_ns is None or end_ns is None or end_ns < start_ns:
        raise ValueError("needs start_s <= end_s (seconds from the session's start) or start_ns <= end_ns (monotonic)")
    if len(entry.text.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"longer than {MAX_TEXT_BYTES} bytes")
    key = default_id or f"{start_ns}" if entry.id is None else str(entry.id)
    segment = Segment(key, start_ns, end_ns, " ".join(entry.text.split()), entry.final, entry.revision)
    arrived_ns = _moment(None, entry.arrival_s, origin_ns)
    return Arrival(segment, end_ns if arrived_ns is None else arrived_ns)


def _moment(time_ns: int | None, time_s: float | None, origin_ns: int) -> int | None:
    if time_ns is not None:
        return time_ns if abs(time_ns) < _MAX_S * NS_PER_S else None
    if time_s is None or not abs(time_s) < _MAX_S:
        return None
    return origin_ns + round(time_s * NS_PER_S)


def parse_jsonl(text: str, origin_ns: int = 0) -> ParsedTranscript:
    """Lines `{"id","start_s","end_s","text","final","revision","arrival_s"}`; empty lines are skipped."""
    arrivals: list[Arrival] = []
    bad: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            arrivals.append(parse_json_line(line, origin_ns, f"line-{number}"))
        except ValueError:
            bad.append(number)
    return _parsed(arrivals, bad)


def parse_srt(text: str, origin_ns: int = 0) -> ParsedTranscript:
    """SubRip: blocks of an optional number, `hh:mm:ss,mmm --> hh:mm:ss,mmm` and text lines."""
    return _parse_blocks(text, origin_ns, lambda block: False)


def parse_vtt(text: str, origin_ns: int = 0) -> ParsedTranscript:
    """WebVTT; header, NOTE, STYLE and REGION blocks are not speech and are passed over."""
    aside = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)\b")
    return _parse_blocks(text, origin_ns, lambda block: aside.match(block[0]) is not None)


_TIME = r"(?:(\d{1,3}):)?([0-5]?\d):([0-5]?\d)[.,](\d{1,3})"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def _parse_blocks(text: str, origin_ns: int, aside: Callable[[list[str]], bool]) -> ParsedTranscript:
    arrivals: list[Arrival] = []
    bad: list[int] = []
    for first_line, block in _blocks(text):
        cue = next((row for row, line in enumerate(block[:2]) if _CUE.match(line)), None)
        if cue is None:
            if not aside(block):
                bad.append(first_line)
            continue
        match = _CUE.match(block[cue])
        assert match is not None  # found two lines above
        start_ns, end_ns = (origin_ns + _cue_ns(match.groups()[at : at + 4]) for at in (0, 4))
        words = " ".join(html.unescape(_MARKUP.sub("", " ".join(block[cue + 1 :]))).split())
        if end_ns <= start_ns or not words or len(words.encode()) > MAX_TEXT_BYTES:
            bad.append(first_line)
            continue
        arrivals.append(Arrival(Segment(f"cue-{first_line}", start_ns, end_ns, words), end_ns))
    return _parsed(arrivals, bad)


def _cue_ns(parts: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    whole_s = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole_s * NS_PER_S + int(fraction.ljust(3, "0")) * NS_PER_MS


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of non-empty lines with the number of their first line."""
    block: list[str] = []
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            block.append(line.strip())
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number - len(block) + 1, block


def _parsed(arrivals: Iterable[Arrival], bad: list[int]) -> ParsedTranscript:
    return ParsedTranscript(tuple(sorted(arrivals, key=lambda arrival: arrival.arrived_ns)), tuple(bad))


PARSERS: dict[str, Callable[[str, int], ParsedTranscript]] = {
    ".srt": parse_srt,
    ".vtt": parse_vtt,
    ".jsonl": parse_jsonl,
}


def read_transcript(path: Path, origin_ns: int = 0) -> ParsedTranscript:
    """Parse a .srt, .vtt or .jsonl file; SourceError when it cannot be read or no entry of it is valid."""
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        raise SourceError(f"transcript {path}: {path.suffix or 'no'} suffix; allowed are {', '.join(PARSERS)}")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SourceError(f"transcript {path}: larger than {MAX_FILE_BYTES >> 20} MiB; is it a transcript?")
        text, encoding = decode_text(path.read_bytes(), path)
    except OSError as error:
        raise SourceError(
            f"transcript {path}: {error.strerror or error}; give the path of an existing file", code_of(error)
        ) from None
    parsed = parse(text, origin_ns)
    if not parsed.arrivals:
        if parsed.bad_lines:
            found = f"no valid entry ({len(parsed.bad_lines)} malformed, first at line {parsed.bad_lines[0]})"
        else:
            found = "no entry" if text.strip() else "the file is empty"
        raise SourceError(f"transcript {path}: {found}; allowed is {_EXAMPLES[path.suffix.lower()]}")
    return replace(parsed, encoding=encoding)


def decode_text(data: bytes, path: Path) -> tuple[str, str]:
    """A text and its encoding: UTF-8, UTF-16 with its mark, else Windows-1252, which holds Latin-1. SourceError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), UTF16
    if b"\0" in data:
        raise SourceError(
            f"transcript {path}: not UTF-8, nor UTF-16 with a mark; run `iconv -f OLD -t utf-8 {path.name}`"
        )
    try:
        return data.decode("utf-8-sig"), UTF8
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), WESTERN


_EXAMPLES = {
    ".srt": '"1", "00:00:01,000 --> 00:00:02,500", text, empty line',
    ".vtt": '"WEBVTT", empty line, "00:01.000 --> 00:02.500", text, empty line',
    ".jsonl": '{"start_s": 1.0, "end_s": 2.5, "text": "..."} on each line',
}
