"""Readers of .srt, .vtt and .jsonl, malformed entries included."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any_text import CHARACTERS, texts
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources import subtitles
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


@settings(max_examples=100, deadline=None)
@given(texts(max_size=100))
def test_no_text_makes_a_parser_fail(text: str) -> None:
    for parse in (parse_srt, parse_vtt, parse_jsonl):
        parsed = parse(text)
        assert all(arrival.segment.end_ns >= arrival.segment.start_ns for arrival in parsed.arrivals)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "nothing here", "no valid entry .1 malformed, first at line 1"),
        ("a.vtt", "WEBVTT\n", "a.vtt: no entry; allowed is"),
        ("a.jsonl", "", "a.jsonl: the file is empty; allowed is"),
        ("a.srt", "\ufeff", "a.srt: the file is empty; allowed is"),
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


def srt_time(time_ms: int, comma: str = ",") -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{comma}{milliseconds:03}"


DAY_MS = 86_400_000
cue_lists = st.lists(
    st.tuples(
        st.integers(0, DAY_MS),
        st.integers(1, 60_000),
        st.from_regex(r"[a-z]{1,8}( [a-z]{1,8}){0,3}", fullmatch=True, alphabet=CHARACTERS),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(cue_lists, st.integers(0, 10**15), st.booleans())
def test_cues_come_back_as_they_were_written(cues: list[tuple[int, int, str]], origin_ns: int, vtt: bool) -> None:
    blocks, expected, line = [], [], 3 if vtt else 1
    for start_ms, length_ms, words in cues:
        times = f"{srt_time(start_ms, '.' if vtt else ',')} --> {srt_time(start_ms + length_ms, '.' if vtt else ',')}"
        blocks.append(f"{times}\n{words}\n" if vtt else f"7\n{times}\n{words}\n")
        start_ns, end_ns = origin_ns + start_ms * 10**6, origin_ns + (start_ms + length_ms) * 10**6
        expected.append(Segment(f"cue-{line}", start_ns, end_ns, words))
        line += 3 if vtt else 4
    parsed = parse_vtt("WEBVTT\n\n" + "\n".join(blocks), origin_ns) if vtt else parse_srt("\n".join(blocks), origin_ns)
    assert parsed.bad_lines == ()
    assert [arrival.segment for arrival in parsed.arrivals] == sorted(expected, key=lambda segment: segment.end_ns)
    assert all(arrival.arrived_ns == arrival.segment.end_ns for arrival in parsed.arrivals)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("00:00:01,5", 1.5),
        ("00:00:01.05", 1.05),
        ("0:1,25", 1.25),
        ("59:59.999", 3599.999),
        ("123:00:00,000", 442_800.0),
        ("1:02:03,004", 3723.004),
    ],
)
def test_a_time_may_leave_out_hours_and_digits(time: str, seconds: float) -> None:
    (arrival,) = parse_srt(f"{time} --> 999:00:00,000\nwords\n").arrivals
    assert arrival.segment.start_ns == round(seconds * NS_PER_S)


@pytest.mark.parametrize(
    "time", ["00:60:01,0", "00:00:60,0", "1000:00:00,0", "00:00:01", "00:00:01,0000", "-1:00:01,0"]
)
def test_a_time_that_is_none_makes_its_entry_malformed(time: str) -> None:
    assert parse_srt(f"{time} --> 999:00:00,000\nwords\n").bad_lines == (1,)


def test_a_cue_without_length_or_words_is_malformed_and_the_times_may_stand_in_the_second_line_only() -> None:
    text = "00:01,0 --> 00:01,0\nno length\n\n00:01,0 --> 00:02,0\n<b></b>\n\nnote\nmore\n00:01,0 --> 00:02,0\nlate\n"
    assert parse_srt(text).bad_lines == (1, 4, 7)


def test_the_last_block_needs_no_empty_line_and_keeps_its_line_number() -> None:
    parsed = parse_srt("\n\n1\n00:01,0 --> 00:02,0\nwords")
    assert [arrival.segment.id for arrival in parsed.arrivals] == ["cue-3"]


def test_what_a_json_line_leaves_out_has_its_default() -> None:
    line = '{"start_s": 1, "end_s": 2, "text": "x"}'
    assert parse_json_line(line, 10).segment == Segment(str(NS_PER_S + 10), NS_PER_S + 10, 2 * NS_PER_S + 10, "x")
    assert parse_json_line(line, 10, "given").segment.id == "given"
    segment = parse_json_line(line, 10).segment
    assert (segment.final, segment.revision) == (True, 0)
    assert parse_json_line('{"id": 0, "start_s": 1, "end_s": 2, "text": "x"}', 10, "given").segment.id == "0"


def test_a_json_line_arrives_when_it_says_or_when_its_speech_ends() -> None:
    assert parse_json_line('{"start_s": 1, "end_s": 2, "text": "x"}', 10).arrived_ns == 2 * NS_PER_S + 10
    assert parse_json_line('{"start_s": 1, "end_s": 2, "text": "x", "arrival_s": 0}', 10).arrived_ns == 10


def test_nanoseconds_win_over_seconds_and_a_segment_may_have_no_length() -> None:
    line = '{"start_ns": 5, "start_s": 9, "end_ns": 5, "end_s": 1, "text": "x"}'
    segment = parse_json_line(line, 10).segment
    assert (segment.start_ns, segment.end_ns) == (5, 5)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ('"start_s": 0, "end_s": 999999999', True),
        ('"start_s": 0, "end_s": 1000000000', False),
        ('"start_s": -999999999, "end_s": 0', True),
        ('"start_s": -1000000000, "end_s": 0', False),
        ('"start_ns": 0, "end_ns": 999999999999999999', True),
        ('"start_ns": 0, "end_ns": 1000000000000000000', False),
        ('"start_s": 2, "end_s": 1.999', False),
        ('"end_s": 2', False),
        ('"start_s": 2', False),
    ],
)
def test_times_beyond_thirty_years_and_backward_ones_are_refused(fields: str, allowed: bool) -> None:
    line = f'{{{fields}, "text": "x"}}'
    if allowed:
        assert parse_json_line(line, 0).segment.text == "x"
    else:
        with pytest.raises(ValueError, match="needs start_s <= end_s"):
            parse_json_line(line, 0)


def test_arrivals_are_in_order_of_arrival() -> None:
    lines = [f'{{"id": {at}, "start_s": {at}, "end_s": {at + 1}, "text": "x"}}' for at in (5, 1, 3)]
    assert [arrival.segment.id for arrival in parse_jsonl("\n".join(lines)).arrivals] == ["1", "3", "5"]


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.srt"
    path.write_text("1\n00:01,0 --> 00:02,0\nwords\n")
    monkeypatch.setattr(subtitles, "MAX_FILE_BYTES", path.stat().st_size)
    assert len(read_transcript(path).arrivals) == 1
    monkeypatch.setattr(subtitles, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(SourceError, match="larger than 0 MiB; is it a transcript"):
        read_transcript(path)


def test_the_error_of_an_empty_file_and_of_a_malformed_one_differ(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for content, message in (("", "the file is empty"), ("\n\nx\ny\n", "2 malformed, first at line 3")):
        path.write_text(content)
        with pytest.raises(SourceError) as caught:
            read_transcript(path)
        assert message in str(caught.value)
        assert 'allowed is {"start_s": 1.0, "end_s": 2.5, "text": "..."} on each line' in str(caught.value)


def test_keys_that_are_not_known_are_passed_over() -> None:
    assert parse_json_line('{"start_s": 1, "end_s": 2, "text": "x", "speaker": "Anna"}', 0).segment.text == "x"


def test_without_an_origin_times_count_from_zero() -> None:
    cue = "00:01.000 --> 00:02.000\nwords\n"
    parsed = parse_srt(cue), parse_vtt(cue), parse_jsonl('{"start_s": 1, "end_s": 2, "text": "words"}')
    assert [one.arrivals[0].segment.start_ns for one in parsed] == [NS_PER_S] * 3


@pytest.mark.parametrize(
    ("encoding", "read_as"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("latin-1", "Windows-1252"),
        ("cp1252", "Windows-1252"),
        ("utf-16", "UTF-16"),
    ],
)
def test_accents_survive_the_encodings_that_subtitles_come_in(tmp_path: Path, encoding: str, read_as: str) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nça va, Zoë? schön\n".encode(encoding))
    parsed = read_transcript(path)
    assert parsed.arrivals[0].segment.text == "ça va, Zoë? schön"
    assert parsed.encoding == read_as


def test_utf_16_without_its_mark_is_refused_with_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nhello\n".encode("utf-16-le"))
    with pytest.raises(SourceError, match=r"not UTF-8, nor UTF-16 with a mark; run `iconv"):
        read_transcript(path)


def test_an_entry_of_two_megabytes_is_skipped_and_does_not_end_a_session(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    huge = "word " * 400_000
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{huge}\n\n2\n00:00:03,000 --> 00:00:04,000\nhello\n")
    parsed = read_transcript(path)
    assert [one.segment.text for one in parsed.arrivals] == ["hello"] and parsed.bad_lines == (1,)
    line = '{"start_s": 1, "end_s": 2, "text": "%s"}'
    (tmp_path / "a.jsonl").write_text(line % huge + "\n" + line % "hello")
    assert len(read_transcript(tmp_path / "a.jsonl").arrivals) == 1
