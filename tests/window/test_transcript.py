"""Transcript: causal visibility, revisions, bounds."""

from __future__ import annotations

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
