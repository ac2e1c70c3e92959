"""Transcript: causal visibility, revisions, bounds; and the three file formats, malformed entries included."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.window.transcript import (
    Segment,
    Transcript,
    parse_json_line,
    parse_jsonl,
    parse_srt,
    parse_vtt,
    read_transcript,
)


def said(key: str, start_s: float, end_s: float, text: str = "words", revision: int = 0) -> Segment:
    return Segment(key, round(start_s * NS_PER_S), round(end_s * NS_PER_S), text, revision=revision)


def texts(transcript: Transcript, start_s: float, end_s: float) -> list[str]:
    return [segment.text for segment in transcript.between(round(start_s * NS_PER_S), round(end_s * NS_PER_S))]


def test_a_segment_is_not_seen_before_its_end() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 3, "hello"))
    assert texts(transcript, 0, 2.9) == []
    assert texts(transcript, 0, 3) == ["hello"]


def test_a_segment_that_arrives_late_is_seen_from_its_arrival() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 3, "hello"), arrived_ns=5 * NS_PER_S)
    assert texts(transcript, 0, 4.9) == []
    assert texts(transcript, 0, 5) == ["hello"]


def test_intervals_are_half_open() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 3))
    assert texts(transcript, 3, 9) == []
    assert texts(transcript, 2.999, 9) == ["words"]


def test_segments_come_in_order_of_time_not_of_arrival() -> None:
    transcript = Transcript()
    transcript.put(said("b", 4, 5, "second"))
    transcript.put(said("a", 1, 2, "first"))
    assert texts(transcript, 0, 6) == ["first", "second"]


def test_a_window_sees_the_revision_that_was_known_at_its_end() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 2, "i scream"), arrived_ns=2 * NS_PER_S)
    transcript.put(said("a", 1, 2, "ice cream", revision=1), arrived_ns=4 * NS_PER_S)
    assert texts(transcript, 0, 3) == ["i scream"]
    assert texts(transcript, 0, 4) == ["ice cream"]
    assert transcript.replaced == 1


def test_an_older_revision_that_comes_after_a_newer_one_is_dropped() -> None:
    transcript = Transcript()
    assert transcript.put(said("a", 1, 2, "new", revision=3))
    assert not transcript.put(said("a", 1, 2, "old", revision=2))
    assert texts(transcript, 0, 3) == ["new"]
    assert transcript.dropped["stale_revision"] == 1


def test_a_revision_without_text_takes_the_segment_back() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 2, "noise"))
    transcript.put(said("a", 1, 2, "", revision=1))
    assert texts(transcript, 0, 3) == []


def test_the_version_changes_exactly_when_the_visible_content_does() -> None:
    transcript = Transcript()
    transcript.put(said("a", 1, 3))
    transcript.between(0, 2 * NS_PER_S)
    before = transcript.version
    transcript.between(0, round(2.5 * NS_PER_S))
    assert transcript.version == before
    transcript.between(0, 3 * NS_PER_S)
    assert transcript.version > before
    before = transcript.version
    transcript.between(round(0.5 * NS_PER_S), round(3.5 * NS_PER_S))
    assert transcript.version == before
    transcript.between(4 * NS_PER_S, 9 * NS_PER_S)
    assert transcript.version > before


def test_segments_older_than_a_minute_are_forgotten_and_come_too_late() -> None:
    transcript = Transcript()
    transcript.put(said("a", 0, 1))
    transcript.between(55 * NS_PER_S, 62 * NS_PER_S)
    assert transcript.expired == 1
    assert not transcript.put(said("b", 0, 1.5))
    assert transcript.dropped["late"] == 1


def test_the_store_is_bounded_however_much_is_revised() -> None:
    transcript = Transcript(max_revisions=10)
    for revision in range(50):
        transcript.put(said("a", 1, 2, f"draft {revision}", revision=revision))
    for number in range(50):
        transcript.put(said(f"s{number}", 2 + number, 3 + number, f"{number}"))
    assert transcript.dropped["overflow"] == 90
    assert len(texts(transcript, 0, 60)) == 10
    assert texts(transcript, 51, 60)[-1] == "49"


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
