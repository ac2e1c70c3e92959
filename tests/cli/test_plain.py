"""A session as plain lines, and as a block that is redrawn."""

from __future__ import annotations

import re

import pytest

from clcr_stream.cli.plain import View, shown
from clcr_stream.wire.messages import Latency, Message, Recording, Ticks, encode
from wire_messages import prediction, session, status, words

TICKS = Ticks(due=17, published=15, skipped={"late": 2, "invalid": 0})
LATENCY = Latency(p50=61.0, p95=62.0, p99=63.0)


def messages() -> list[Message]:
    """A session of 3 s: a session message, 15 predictions, one segment, the last status."""
    predictions = [prediction(seq, {"a": 0.25, "b": 0.75}, latency_ms=61.0) for seq in range(1, 16)]
    return [
        session(),
        *predictions[:8],
        words("hello"),
        *predictions[8:],
        status(seq=1, sources=(), ticks=TICKS, latency_ms=LATENCY),
    ]


def lines() -> list[bytes]:
    return [encode(message) for message in messages()]


def test_the_view_shows_one_plain_line_per_second_the_words_and_the_account() -> None:
    text = "".join(shown(lines(), in_place=False))
    assert "\x1b" not in text
    assert re.findall(r"^ +(\d\.\d) s   b         0\.75 ", text, re.MULTILINE) == ["0.2", "1.2", "2.2"]
    assert text.startswith(f"model default ({'ab' * 6}) on onnxruntime\nTell those you watch.\n")
    assert '"hello"' in text
    assert text.endswith("15 predictions, 2 skipped (late 2)\ncapture to publish: p50 61 ms, p95 62 ms, p99 63 ms\n")


def test_the_view_redraws_its_block_in_place_and_leaves_the_words_above_it() -> None:
    drawn = list(shown(lines(), in_place=True))
    blocks = [text for text in drawn if " a  0.25" in text]
    assert len(blocks) == 15
    height = blocks[0].count("\n")
    assert not blocks[0].startswith("\x1b[")
    assert all(text.startswith(f"\x1b[{height}A") for text in blocks[1:8])
    (said,) = (text for text in drawn if "hello" in text)
    assert said.startswith(f"\x1b[{height}A\x1b[J")
    assert not blocks[8].startswith("\x1b["), "the block after the words starts a new one below them"


@pytest.mark.parametrize("in_place", [False, True])
def test_each_answer_says_that_faces_are_recorded_while_they_are(in_place: bool) -> None:
    view = View(in_place)

    def answered(seq: int, run: str = "a" * 16) -> bool:
        text = view.show(prediction(seq, run=run))
        assert "neutral" in text
        return "REC faces and sound\n" in text

    assert not answered(1)
    view.show(status(recording=True, record=Recording(media=True)))
    assert answered(11) and answered(21) and not answered(31, "b" * 16), "of another session nothing is known"
    view.show(status(recording=True, record=Recording(media=True), state="goodbye"))
    assert not answered(41)


def test_with_several_streams_each_line_says_whose_it_is() -> None:
    view = View(False, "left")
    text = "".join(view.show(message) for message in messages())
    assert text.splitlines() and all(line.startswith("left: ") for line in text.splitlines())


def test_a_reader_that_joins_before_the_session_message_counts_from_its_first_window() -> None:
    assert View(False).show(prediction(500)).startswith("   6.0 s   neutral")


def test_words_cannot_move_the_cursor() -> None:
    assert "\x1b" not in View(True).show(words("\x1b[2Jgone"))
