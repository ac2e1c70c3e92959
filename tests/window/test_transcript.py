"""Transcript: causal visibility, revisions, bounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.transcript import Segment, Transcript


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


segments = st.builds(
    Segment,
    st.sampled_from("abcd"),
    st.integers(0, 30),
    st.integers(0, 60),
    st.sampled_from(["", "x", "y"]),
    st.booleans(),
    st.integers(0, 4),
).map(lambda one: replace(one, end_ns=max(one.start_ns, one.end_ns)))
transcript_steps = st.lists(
    st.tuples(st.booleans(), segments, st.none() | st.integers(0, 80), st.integers(0, 20)), max_size=40
)


@settings(max_examples=100, deadline=None)
@given(transcript_steps)
def test_a_transcript_shows_what_a_list_of_all_arrivals_shows(
    steps: list[tuple[bool, Segment, int | None, int]],
) -> None:
    """Without a bound: the newest revision known by a window's end, unless it is older than the store keeps."""
    keep_ns = 25
    transcript = Transcript(keep_ns=keep_ns)
    known: dict[str, list[tuple[int, Segment]]] = {}
    newest_end_ns: int | None = None
    shown: list[Segment] = []
    for is_put, segment, arrived_ns, length in steps:
        if is_put:
            held = known.get(segment.id, [])
            late = newest_end_ns is not None and segment.end_ns < newest_end_ns - keep_ns
            stale = bool(held) and segment.revision <= held[-1][1].revision
            assert transcript.put(segment, arrived_ns) == (not late and not stale)
            if not late and not stale:
                at_ns = segment.end_ns if arrived_ns is None else arrived_ns
                known.setdefault(segment.id, []).append((at_ns, segment))
            continue
        end_ns = segment.end_ns
        start_ns = end_ns - length
        if newest_end_ns is None or end_ns > newest_end_ns:
            newest_end_ns = end_ns
            known = {key: held for key, held in known.items() if held[-1][1].end_ns >= end_ns - keep_ns}
        visible = []
        for held in known.values():
            seen = [one for at_ns, one in held if at_ns <= end_ns]
            if seen and seen[-1].text and seen[-1].start_ns < end_ns and seen[-1].end_ns > start_ns:
                visible.append(seen[-1])
        visible.sort(key=lambda one: (one.start_ns, one.end_ns, one.id))
        version = transcript.version
        assert transcript.between(start_ns, end_ns) == visible
        if visible != shown:
            assert transcript.version > version
        shown = visible
    held_ends = [held[-1][1].end_ns for held in known.values()]
    assert transcript.newest_ns == (max(held_ends) if held_ends else None)


def test_a_segment_is_final_and_the_first_revision_unless_it_says_otherwise() -> None:
    segment = Segment("a", 0, 1, "words")
    assert (segment.final, segment.revision) == (True, 0)


def test_an_empty_transcript_has_counted_nothing() -> None:
    transcript = Transcript()
    assert (transcript.received, transcript.replaced, transcript.expired) == (0, 0, 0)
    assert transcript.dropped == {"stale_revision": 0, "late": 0, "overflow": 0}
    assert transcript.keep_ns == 60 * NS_PER_S


def test_every_arrival_is_counted_as_received_and_each_that_is_held_changes_the_version() -> None:
    transcript = Transcript()
    versions = [transcript.version]
    for revision, taken in ((1, True), (1, False), (0, False), (2, True)):
        assert transcript.put(said("a", 1, 2, revision=revision)) == taken
        versions.append(transcript.version)
    assert transcript.received == 4
    assert [after > before for before, after in pairwise(versions)] == [True, False, False, True]
    assert transcript.dropped["stale_revision"] == 2


def test_a_full_store_forgets_superseded_revisions_first_and_then_the_segment_that_ended_first() -> None:
    transcript = Transcript(max_revisions=3)
    transcript.put(said("b", 5, 6, "b"))
    transcript.put(said("a", 1, 2, "a draft"), arrived_ns=0)
    transcript.put(said("a", 1, 2, "a", revision=1), arrived_ns=9 * NS_PER_S)
    transcript.put(said("c", 3, 4, "c"))
    assert transcript.dropped["overflow"] == 1
    assert texts(transcript, 0, 8) == ["c", "b"]  # the draft is forgotten and its revision has not arrived yet
    assert texts(transcript, 0, 9) == ["a", "c", "b"]
    transcript.put(said("d", 7, 8, "d"))
    assert transcript.dropped["overflow"] == 2
    assert texts(transcript, 0, 10) == ["c", "b", "d"]


def test_a_store_holds_as_many_revisions_as_it_may() -> None:
    transcript = Transcript(max_revisions=2)
    transcript.put(said("a", 1, 2, "a"))
    transcript.put(said("b", 3, 4, "b"))
    assert transcript.dropped["overflow"] == 0
    assert texts(transcript, 0, 5) == ["a", "b"]


def test_a_segment_exactly_a_minute_old_is_still_held() -> None:
    transcript = Transcript()
    transcript.put(said("a", 0, 1))
    transcript.between(0, 61 * NS_PER_S)
    assert transcript.expired == 0
    assert transcript.put(said("b", 0, 1))
    transcript.between(0, 61 * NS_PER_S + 1)
    assert transcript.expired == 2
    assert transcript.newest_ns is None
