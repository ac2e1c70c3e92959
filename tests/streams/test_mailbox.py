"""The box between the loop and one reader: what is kept, replaced, counted and told."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from clcr_stream.errors import ClcrError, SourceError
from clcr_stream.streams.mailbox import Caller, Mailbox
from clcr_stream.wire import messages

GOLDEN = Path(__file__).resolve().parents[1] / "golden/wire"
LONG_S = 20.0


def prediction(seq: int) -> messages.Prediction:
    message = messages.decode((GOLDEN / "prediction.json").read_bytes())
    assert isinstance(message, messages.Prediction)
    return msgspec.structs.replace(message, seq=seq)


def session() -> messages.Session:
    message = messages.decode((GOLDEN / "session.json").read_bytes())
    assert isinstance(message, messages.Session)
    return message


def has_room(box: Mailbox) -> bool:
    """Asked anew each time, which mypy does not believe of a property."""
    return box.has_room


def taken(box: Mailbox) -> list[int]:
    """The numbers of what waits, taken one by one."""
    numbers = []
    while (message := box.take(0.0)) is not None:
        numbers.append(message.seq)
    return numbers


def test_a_live_stream_keeps_the_newest_and_counts_what_it_replaced() -> None:
    box = Mailbox(newest_only=True)
    for seq in (1, 2, 3):
        assert has_room(box)
        box.write(prediction(seq))
    assert (taken(box), box.missed) == ([3], 2)
    box.write(prediction(4))
    assert (taken(box), box.missed) == ([4], 2)


def test_a_recording_keeps_all_in_order_and_says_when_it_is_full_and_when_it_has_room_again() -> None:
    calls: list[int] = []
    box = Mailbox(newest_only=False, limit=2, on_room=lambda: calls.append(1))
    box.write(prediction(1))
    assert has_room(box)
    box.write(prediction(2))
    assert not has_room(box)
    first = box.take(0.0)
    assert first is not None and first.seq == 1
    assert has_room(box) and len(calls) == 1
    assert taken(box) == [2] and len(calls) == 1  # it was not full any more
    assert box.missed == 0


def test_without_a_limit_there_is_always_room() -> None:
    box = Mailbox(newest_only=False, limit=None)
    for seq in range(1, 200):
        box.write(prediction(seq))
    assert has_room(box) and taken(box) == list(range(1, 200))


def test_other_messages_are_no_predictions_and_the_session_is_remembered() -> None:
    box = Mailbox(newest_only=True)
    box.write(session())
    assert box.session == session()
    assert taken(box) == [] and box.missed == 0


def test_the_end_is_told_once_after_what_waits_and_a_second_end_changes_nothing() -> None:
    box = Mailbox(newest_only=False)
    box.write(prediction(1))
    assert not box.wait(0.0)
    box.end(SourceError("the camera is gone"))
    box.end(None)
    assert box.ended and box.wait(0.0)
    assert taken(box) == [1]
    with pytest.raises(SourceError, match="the camera is gone"):
        box.raise_error()
    box.raise_error()


def test_a_reader_that_waits_is_woken_by_a_prediction_and_by_the_end() -> None:
    box, got = Mailbox(newest_only=True), []
    woken = threading.Event()

    def read() -> None:
        for _ in range(2):
            message = box.take(LONG_S)
            got.append(None if message is None else message.seq)
            woken.set()

    reader = threading.Thread(target=read)
    reader.start()
    box.write(prediction(5))
    assert woken.wait(LONG_S)
    box.end()
    reader.join(LONG_S)
    assert got == [5, None]


def test_what_is_discarded_is_gone_frees_the_loop_and_nothing_more_is_kept() -> None:
    calls: list[int] = []
    box = Mailbox(newest_only=False, limit=1, on_room=lambda: calls.append(1))
    box.write(prediction(1))
    box.discard()
    assert calls == [1] and has_room(box)
    box.write(prediction(2))
    assert box.take(LONG_S) is None, "a reader of a discarded box is not kept waiting"


def test_a_callback_gets_every_prediction_and_what_it_raises_ends_the_stream_in_one_line() -> None:
    box, seen, failures = Mailbox(newest_only=False), list[int](), list[ClcrError]()
    failed = threading.Event()

    def act(message: messages.Prediction) -> None:
        seen.append(message.seq)
        if message.seq == 2:
            raise ValueError("two\nlines")

    def fail(error: ClcrError) -> None:
        failures.append(error)
        failed.set()

    caller = Caller("robot", box, act, fail)
    for seq in (1, 2, 3):
        box.write(prediction(seq))
    assert failed.wait(LONG_S)
    caller.join(LONG_S)
    assert seen == [1, 2]
    assert str(failures[0]) == "stream robot: on_prediction raised ValueError: two lines"
    assert isinstance(failures[0].__cause__, ValueError)
