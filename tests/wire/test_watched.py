"""What a watcher remembers of a stream: moments, words, what it waits for, and other runs of the publisher."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.wire.messages import Message, Recording
from clcr_stream.wire.watched import KEPT_SEGMENTS, Moment, Watched, moment_of
from wire_messages import HOP_NS, ORIGIN_NS, prediction, read, session, status, words


def watched(*several: Message, kept_s: float = 60.0) -> Watched:
    made = Watched("default", "ipc:///somewhere", kept_s)
    for message in several:
        made.take(read(message), 0)
    return made


def test_a_moment_keeps_the_numbers_of_its_prediction_and_is_an_array_in_json() -> None:
    moment = moment_of(prediction(7, latency_ms=71.26), ("sad", "neutral"))
    assert (moment.seq, moment.end_ns) == (7, ORIGIN_NS + 7 * HOP_NS)
    assert moment.scores == (0.25, 0.75), "in the order of the session's labels"
    assert (moment.latency_ms, moment.omega, moment.quality) == (71.3, (0.2, 0.3, 0.5), (0.9, 0.9, None))
    assert moment.active == (0.75, 0.2917, 0.0), "means of the levels, by modality"
    row = msgspec.json.decode(msgspec.json.encode(moment))
    assert len(row) == len(Moment.__struct_fields__) and row[0] == 7


def test_a_regression_s_moment_has_its_one_value() -> None:
    assert moment_of(prediction(1, None, value=-1.25), ()).scores == (-1.25,)
    assert moment_of(prediction(1, None, value=None), ()).scores == (None,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 60))
def test_what_is_kept_is_what_lies_within_the_time_whatever_is_missing(steps: list[int], kept_s: int) -> None:
    found = watched(kept_s=kept_s)
    seqs, seq = [], 0
    for step in steps:
        seq += step
        seqs.append(seq)
        found.take(read(prediction(seq)), 0)
    hops = kept_s * NS_PER_S // HOP_NS
    assert [moment.seq for moment in found.moments] == [one for one in seqs if one > seq - hops]


def test_the_latency_is_that_of_the_last_minute() -> None:
    found = watched(prediction(1, latency_ms=9000.0), kept_s=600)
    for seq in range(400, 500):
        found.take(read(prediction(seq, latency_ms=float(seq))), 0)
    assert found.latency_ms(60.0) == (450.0, 498.0)
    assert watched().latency_ms() is None


def test_another_run_s_moments_follow_the_last_ones_and_its_words_do_not() -> None:
    found = watched(session(), prediction(10), words("hello"), prediction(11), kept_s=600)
    found.take(read(prediction(60, run="b" * 16)), 0)
    assert [moment.seq for moment in found.moments] == [10, 11, 60]
    assert (found.words, found.session, found.status) == ([], None, None)


def test_a_run_whose_time_or_scores_do_not_continue_the_last_begins_anew() -> None:
    found = watched(prediction(10))
    found.take(read(prediction(3, run="b" * 16)), 0)
    assert [moment.seq for moment in found.moments] == [3]
    found.take(read(prediction(9, None, value=1.0, run="c" * 16)), 0)
    assert [moment.scores for moment in found.moments] == [(1.0,)]


def test_the_last_words_of_an_ended_run_do_not_end_its_successor() -> None:
    found = watched(prediction(10), session(run="b" * 16), status(state="goodbye"), prediction(1, run="b" * 16))
    assert found.waiting(0) == ""
    assert found.session is not None and found.session.session == "b" * 16


def test_what_is_waited_for_is_said() -> None:
    found = watched()
    assert found.waiting(10**12) == "waiting for a session of this name: ipc:///somewhere"
    found.take(read(prediction(1)), 0)
    assert found.waiting(NS_PER_S) == ""
    assert found.waiting(7 * NS_PER_S) == "nothing heard for 7 s; waiting for the session to come back"
    found.take(read(status(state="goodbye")), 8 * NS_PER_S)
    assert found.waiting(8 * NS_PER_S) == "the session has ended; waiting for the next one"
    found.take(read(prediction(1, run="b" * 16)), 9 * NS_PER_S)
    assert found.waiting(9 * NS_PER_S) == ""


MEDIA = Recording(media=True)


def test_what_is_recorded_is_said_while_the_session_is_there() -> None:
    found = watched(prediction(1))
    assert found.recording(0) == ""
    for record, badge in ((MEDIA, "REC faces and sound"), (Recording(media=False), "REC messages")):
        found.take(read(status(recording=True, record=record)), 0)
        assert found.recording(0) == badge
    found.take(read(status(recording=False, record=MEDIA)), 0)
    assert found.recording(0) == "", "a recording that has stopped"
    for last, now_ns in (
        (status(recording=True, record=MEDIA), 7 * NS_PER_S),
        (status(state="goodbye", record=MEDIA), 0),
    ):
        found.take(read(last), 0)
        assert found.recording(now_ns) == "", "the session is gone"


def test_a_revised_segment_replaces_the_first_and_old_ones_are_forgotten() -> None:
    found = watched(words("i sink", "1", start_ns=5, end_ns=6), words("before", "0", start_ns=1, end_ns=2))
    found.take(read(words("i think", "1", start_ns=5, end_ns=7, revision=3)), 0)
    assert [segment.text for segment in found.words] == ["before", "i think"]
    for number in range(KEPT_SEGMENTS + 5):
        found.take(read(words("x", f"n{number}")), 0)
    assert len(found.words) == KEPT_SEGMENTS


def test_a_moment_s_wall_time_follows_from_the_session_s_start() -> None:
    found = watched(session(started_at="2026-11-20T18:00:00Z"))
    assert found.wall_time(ORIGIN_NS + 61 * NS_PER_S + 5_000_000) == "2026-11-20T18:01:01.005Z"
    assert watched().wall_time(1) is None
    assert watched(session(started_at="yesterday")).wall_time(1) is None
