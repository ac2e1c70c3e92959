"""Readers of .srt, .vtt and .jsonl, malformed entries included."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.subtitles import parse_json_line, parse_jsonl, parse_srt, parse_vtt, read_transcript
from clcr_stream.window.transcript import Segment


def said(key: str, start_s: float, end_s: float, text: str = "words", revision: int = 0) -> Segment:
    return Segment(key, round(start_s * NS_PER_S), round(end_s * NS_PER_S), text, revision=revision)


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> {\\an8}there,
you &amp; me

2
00:00:03,000 -> 00:00:04,000
wrong arrow

3
01:00:05,000 --> 01:00:06,5
late
"""


def test_srt_keeps_words_and_drops_markup() -> None:
    parsed = parse_srt(SRT, origin_ns=10)
    first, last = parsed.arrivals
    assert first.segment.text == "Hello there, you & me"
    assert (first.segment.start_ns, first.segment.end_ns) == (NS_PER_S + 10, 2 * NS_PER_S + NS_PER_S // 2 + 10)
    assert first.arrived_ns == first.segment.end_ns
    assert last.segment.end_ns == 3606 * NS_PER_S + NS_PER_S // 2 + 10


def test_srt_counts_a_malformed_entry_with_its_line() -> None:
    assert parse_srt(SRT).bad_lines == (6,)


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode())
    assert len(read_transcript(path).arrivals) == 2


VTT = """WEBVTT - a title

NOTE this is not speech
nor this

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Anna>Good morning</v>

00:05.000 --> 00:04.000
backwards

00:00:06.000 --> 00:00:07.000

"""


def test_vtt_passes_over_notes_and_counts_backward_and_empty_cues() -> None:
    parsed = parse_vtt(VTT)
    assert [arrival.segment.text for arrival in parsed.arrivals] == ["Good morning"]
    assert parsed.bad_lines == (13, 16)


def test_jsonl_skips_malformed_lines_and_names_them() -> None:
    lines = [
        '{"id": "a", "start_s": 0.5, "end_s": 1, "text": " two   words "}',
        "",
        '{"id": "b", "start_s": 2, "text": "no end"}',
        "not json",
        '{"start_s": 3, "end_s": 2, "text": "backwards"}',
        '{"start_s": NaN, "end_s": 2, "text": "nan"}',
        '{"start_s": 1e300, "end_s": 1e301, "text": "far"}',
        '{"start_s": 4, "end_s": 5, "text": "later", "final": false, "revision": 2, "arrival_s": 7}',
        "[" * 100_000,
    ]
    parsed = parse_jsonl("\n".join(lines))
    assert parsed.bad_lines == (3, 4, 5, 6, 7, 9)
    first, second = parsed.arrivals
    assert first.segment == said("a", 0.5, 1, "two words")
    assert (second.segment.final, second.segment.revision) == (False, 2)
    assert second.arrived_ns == 7 * NS_PER_S


def test_a_json_line_may_give_monotonic_nanoseconds() -> None:
    line = '{"id": 7, "start_ns": 1000, "end_ns": 2000, "text": "x"}'
    assert parse_json_line(line, origin_ns=10**12).segment == Segment("7", 1000, 2000, "x")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_makes_a_parser_fail(text: str) -> None:
    for parse in (parse_srt, parse_vtt, parse_jsonl):
        parsed = parse(text)
        assert all(arrival.segment.end_ns >= arrival.segment.start_ns for arrival in parsed.arrivals)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "nothing here", "no valid entry .1 malformed, first at line 1"),
        ("a.vtt", "WEBVTT\n", "no valid entry"),
        ("a.jsonl", "", "no valid entry"),
        ("a.txt", "words", "allowed are .srt, .vtt, .jsonl"),
    ],
)
def test_a_file_without_a_valid_entry_is_an_error_of_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_transcript(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.srt: No such file"):
        read_transcript(tmp_path / "gone.srt")
