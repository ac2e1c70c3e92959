"""What was seen: sums of predictions, sessions out of files, tables, and the page."""

from __future__ import annotations

import html.parser
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any_text import texts
from clcr_stream.cli.predict import answer_text
from clcr_stream.cli.predict import line as predict_line
from clcr_stream.cli.tables import csv_text
from clcr_stream.cli.terminal import seen_lines
from clcr_stream.errors import SourceError
from clcr_stream.recording import charts
from clcr_stream.recording.compare import compare
from clcr_stream.recording.page import page
from clcr_stream.recording.poster import poster
from clcr_stream.recording.seen import Watch, clock_text
from clcr_stream.recording.story import Story, make_story, read_story
from clcr_stream.recording.table import columns, rows
from clcr_stream.wire import messages
from session_messages import HOP_NS, LABELS, prediction, session, status, words

HOSTILE = "<script>alert(1)</script> \"'></svg></title><img src=x onerror=y> & \x00\x1b[31m \u202e"


def story(*found: messages.Message) -> Story:
    return make_story([session(), *found], "talk", [])


def happy_then_sad() -> list[messages.Message]:
    """3 s neutral, 4 s happy, strongest at 5.0 s, 2 s sad, then nobody."""
    found: list[messages.Message] = [prediction(tick, "neutral", 0.9) for tick in range(1, 16)]
    found += [prediction(tick, "happy", 0.95 if tick == 25 else 0.7) for tick in range(16, 36)]
    found += [prediction(tick, "sad", 0.6, missing=("language",)) for tick in range(36, 46)]
    found += [prediction(tick, None) for tick in range(46, 51)]
    return found


def test_shares_moments_and_presence_are_those_of_the_predictions() -> None:
    seen = story(*happy_then_sad()).seen()
    assert (seen.predictions, seen.answers, seen.start_s, seen.end_s) == (50, 45, 0.0, 10.0)
    assert seen.shares == pytest.approx({"neutral": 15 / 45, "sad": 10 / 45, "happy": 20 / 45})
    happy, sad = seen.moments  # neutral is no moment beside others
    assert (happy.label, happy.strength, happy.peak_s, happy.start_s, happy.end_s) == ("happy", 0.95, 5.0, 3.0, 7.0)
    assert (sad.label, sad.start_s, sad.end_s) == ("sad", 7.0, 9.0)
    assert seen.present == {"vision": 1.0, "acoustic": 1.0, "language": 0.8}
    assert seen.degraded == {"language_absent": 0.2, "no_input": 0.1}
    # Windows are full from tick 30 on: 6 happy answers and 10 sad ones count for the means.
    assert seen.label == "sad" and seen.means["sad"] == pytest.approx((10 * 0.6 + 6 * 0.15) / 16)


def test_a_clip_shorter_than_a_window_answers_with_its_last_prediction() -> None:
    seen = story(prediction(1, "sad", 0.9), prediction(2, "happy", 0.5)).seen()
    assert (seen.label, seen.confidence, seen.full) == ("happy", 0.5, 0)
    assert seen.means["happy"] == pytest.approx((0.05 + 0.5) / 2), "the mean is one"
    told = seen.as_json()
    assert (told["label"], told["confidence"], told["full_windows"]) == ("happy", 0.5, 0)
    assert told["probs"] == {"neutral": 0.25, "sad": 0.25, "happy": 0.5}
    assert told["mean_probs"] == {"neutral": 0.15, "sad": 0.575, "happy": 0.275}


@pytest.mark.parametrize(("last", "short"), [(2, True), (31, False)])
@pytest.mark.parametrize("labels", [LABELS, ()])
def test_what_is_said_to_be_a_mean_is_one(labels: Sequence[str], last: int, short: bool) -> None:
    early, late = ("sad", "happy") if labels else (-2.0, 1.0)
    found = [prediction(1, early, 0.9), *(prediction(tick, late, 0.5) for tick in (2, last))]
    told = make_story([session(labels=labels), *found], "talk", [])
    for text in (Tags(page(told, "x")).text, Tags(poster(told, "x")).text, answer_text(told.seen())):
        assert ("last answer" in text) == short
        assert not (short and ("mean probability" in text or "on average, from" in text))


def test_the_times_of_a_part_are_those_of_the_clip_wherever_they_are_told() -> None:
    of_part = msgspec.structs.replace(session(), begins_s=60.0)
    found = [*happy_then_sad(), words("said before", -3.0, 0.5), words("what a day", 4.0, 4.6, id="2")]
    whole, part = story(*found), make_story([of_part, *found], "talk", [])
    seen = part.seen()
    assert (seen.start_s, seen.end_s, seen.moments[0].peak_s, seen.length) == (60.0, 70.0, 65.0, "10.0 s from 1:00.0")
    assert (seen.as_json()["start_s"], seen.as_json()["begins_s"]) == (60.0, 60.0)
    assert seen_lines(seen)[0].startswith("saw 10.0 s from 1:00.0: ") and "happy 0.95 at 1:05.0" in seen_lines(seen)[1]
    assert predict_line("talk", seen).count("10.0 s from 1:00.0") == 1
    for drawn in (page, poster):
        text, before = Tags(drawn(part, "talk")).text, Tags(drawn(whole, "talk")).text
        assert "10.0 s watched from 1:00.0" in text and "1:05.0" in text and "1:03.0 to 1:07.0" in text
        assert "10.0 s watched ·" in before and "1:05.0" not in before
        lines = [re.findall(r'points="([^"]*)"', drawn(one, "talk")) for one in (part, whole)]
        assert lines[0] == lines[1], "the same picture under other times"
        assert text.count("what a day") == before.count("what a day") > 1, "words of the strongest moment too"
        assert all(float(x) >= charts.LEFT for x in re.findall(r'<g transform="translate\((\S+) 0\)"><title>', text))
    assert "0:57.0said before" in Tags(page(part, "talk")).text
    assert [row[1] for row in rows(part)][:2] == [60.2, 60.4]


def test_nobody_gives_no_answer_and_no_division_by_zero() -> None:
    seen = story(prediction(1, None), prediction(2, None)).seen()
    assert (seen.label, seen.answers, dict(seen.shares), seen.moments) == (None, 0, {}, ())
    assert "nobody was seen or heard" in page(story(prediction(1, None)), "x")
    assert story().seen().predictions == 0


def ending(reason: str) -> messages.Message:
    """A status in which a recording has ended with this reason."""
    source = messages.Source(name="talk.mp4", kind="file", state="ended", reason=reason)
    return msgspec.structs.replace(status(), sources=(source,))


def test_pictures_without_any_face_are_told_of_with_the_turn_that_a_source_advises() -> None:
    blind = [msgspec.structs.replace(prediction(1, "sad", missing=("vision",)), degraded=("no_face",))]
    assert story(*blind).seen().note == "no face was found in any picture"
    seen = prediction(2, "sad")
    for fine in (story(*blind, seen), story(prediction(1, "sad", missing=("vision",)))):
        assert fine.seen().note == "" and "in any picture" not in page(fine, "x")
    hint = "faces are found when the pictures are turned: give --rotate 90"
    told = story(*blind, ending("end of input; faces are found ...: give --rotate 90"))
    assert told.seen().note == f"no face was found in any picture; {hint}" == told.seen().as_json()["note"]
    assert f'<p class="note">no face was found in any picture; {hint}' in page(told, "x")
    assert seen_lines(told.seen())[-1] == told.seen().note
    false = story(*blind, seen, ending("faces are found ...: give --rotate 90"))
    assert false.seen().note == hint, "some pictures show what passes for a face"
    watch = Watch()
    for message in (session(), seen, ending("give --rotate 90"), ending("end of input")):
        watch.write(message)
    assert watch.seen().note == "", "it was taken back"


def test_a_recording_that_was_cut_short_is_told_of() -> None:
    cut = "the file says 16.3 s, 2.8 s could be read (1 decode error)"
    told = story(prediction(1, "sad"), ending(f"{cut}; the file holds no audio"))
    assert told.seen().note == told.seen().as_json()["note"] == cut
    assert f'<p class="note">{cut}' in page(told, "x") and seen_lines(told.seen())[-1] == cut


def test_a_regression_has_a_mean_a_range_and_moments_of_both_signs() -> None:
    found = [prediction(tick, value) for tick, value in enumerate([0.5] * 5 + [2.5] * 5 + [-1.5] * 5, 1)]
    whole = make_story([session(labels=()), *found], "talk", [])
    seen = whole.seen()
    assert seen.values is not None
    assert (seen.value, seen.values.mean, seen.values.low, seen.values.high) == (-1.5, 0.5, -1.5, 2.5)
    assert [(one.label, one.strength, one.start_s) for one in seen.moments] == [
        ("positive", 2.5, 0.0),
        ("negative", -1.5, 2.0),
    ]
    assert 'class="curve"' in page(whole, "talk")
    assert columns(whole)[4:5] == ["value"] and next(rows(whole))[4] == 0.5


@given(st.lists(st.sampled_from([*LABELS, None]), min_size=1, max_size=60), st.randoms())
def test_a_session_is_the_same_in_whatever_order_its_messages_come(
    answers: list[str | None], order: random.Random
) -> None:
    found: list[messages.Message] = [prediction(tick, answer) for tick, answer in enumerate(answers, 1)]
    found += [words("hello", 0.1, 0.5), words("hello there", 0.1, 0.6, revision=1), status()]
    other = session("f" * 16, started_at="2026-11-21T10:00:00.000+00:00")
    shuffled: list[messages.Message] = [other, prediction(1, "sad", name="f" * 16), session(), *found]
    order.shuffle(shuffled)
    notes: list[str] = []
    told, straight = make_story(shuffled, "talk", notes), make_story([session(), *found], "talk", [])
    assert (told.predictions, told.words, told.status) == (straight.predictions, straight.words, straight.status)
    assert told.seen() == straight.seen()
    assert [one.text for one in told.words] == ["hello there"]
    assert "holds 2 sessions" in notes[0]
    seen = told.seen()
    assert sum(seen.shares.values()) == pytest.approx(1.0 if seen.answers else 0.0)
    assert seen.predictions == len(answers) and seen.answers == sum(answer is not None for answer in answers)


def test_lines_that_are_no_messages_are_left_out_and_another_session_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    lines = [messages.encode(one) for one in (session(), prediction(1, "sad"), session("a" * 16), status())]
    path.write_bytes(b"\n".join([b"not json", *lines, b'{"type": "prediction"}', b"\xff\xfe", b""]))
    assert read_story(path, "0123456789abcdef").predictions[0].label == "sad"
    assert "3 lines are no messages" in read_story(path).notes[0]
    with pytest.raises(SourceError, match="there is no session b"):
        read_story(path, "b")
    path.write_bytes(b"nothing of ours\n")
    with pytest.raises(SourceError, match="not a session"):
        read_story(path)
    with pytest.raises(SourceError, match="No such file"):
        read_story(tmp_path / "none.jsonl")


def test_a_table_has_the_words_once_and_as_csv_no_formula() -> None:
    told = story(*happy_then_sad(), words('=HYPERLINK("http://x")', 0.0, 0.5), words("fine", 0.5, 1.0, id="2"))
    table = [dict(zip(columns(told), row, strict=True)) for row in rows(told)]
    assert [row["words"] for row in table if row["words"]] == ['=HYPERLINK("http://x")', "fine"]
    assert "\"'=HYPERLINK" in csv_text(columns(told), rows(told))
    assert table[24]["label"] == "happy" and table[24]["p_happy"] == 0.95 and table[24]["time_s"] == 5.0
    assert table[49]["label"] is None and table[49]["degraded"] == "no_input"


def test_words_of_a_skipped_tick_and_of_after_the_last_one_are_in_one_row_each() -> None:
    found = [prediction(tick, "happy") for tick in (1, 2, 6, 7)]
    said = [words("one", 0.0, 0.3, id="1"), words("skipped", 0.3, 0.7, id="2"), words("six", 0.9, 1.2, id="3")]
    told = story(*found, *said, words("over", 0.1, 1.3, id="4"), words("and out", 1.3, 9.0, id="5"))
    table = [dict(zip(columns(told), row, strict=True)) for row in rows(told)]
    assert [row["words"] for row in table] == ["", "one", "skipped six", "over and out"]


class Tags(html.parser.HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(text: str) -> Tags:
    """Well formed, and nothing in it can load or run anything."""
    tags = Tags(text)
    assert tags.open == []
    assert not tags.tags & {"script", "img", "link", "iframe", "object", "form", "a", "base", "image", "use"}
    names = {name for name, _ in tags.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "href", "xlink:href", "action"}
    assert "url(" not in text and "@import" not in text
    return tags


def test_hostile_words_and_names_stay_text_in_the_page() -> None:
    found = [*happy_then_sad(), words(HOSTILE, 0.2, 0.9), words(HOSTILE, 4.0, 5.0, id="2"), status(source=HOSTILE)]
    tags = check_page(page(story(*found), HOSTILE))
    assert tags.text.count("<script>alert(1)</script>") >= 4
    assert "\x00" not in tags.text and "\x1b" not in tags.text and "\u202e" not in tags.text
    labels = (HOSTILE, "a", "b")
    probs = dict.fromkeys(labels, 0.3)
    odd = [msgspec.structs.replace(prediction(tick, "sad"), label=HOSTILE, probs=probs) for tick in range(1, 6)]
    check_page(page(make_story([session(labels=labels), *odd], "x", [HOSTILE]), "x"))


@given(texts(max_size=60), st.floats(0, 9), st.floats(0, 3), st.sampled_from([1, 2, 50]))
def test_any_words_give_a_page_that_is_well_formed(said: str, start_s: float, long_s: float, ticks: int) -> None:
    found = [prediction(tick, "happy") for tick in range(1, ticks + 1)]
    safe = said.encode("utf-8", "replace").decode()
    check_page(page(story(*found, words(safe, start_s, start_s + long_s), words(safe, start_s, start_s, id="2")), safe))


def test_the_bar_of_words_that_outlast_the_last_answer_ends_with_the_picture() -> None:
    spoken, _ = charts.words([words("and so on", 1.0, 9.0)], session().origin_ns, charts.Axis(0.0, 2.0))
    found = re.search(r'translate\((\S+) 0\).*width="(\S+)"', spoken)
    assert found is not None and sum(map(float, found.groups())) == pytest.approx(charts.WIDTH - charts.RIGHT, abs=1.5)


def test_a_page_says_what_was_missing_how_long_it_took_and_what_the_bundle_is_for() -> None:
    text = Tags(page(story(*happy_then_sad(), words("well then", 1.0, 2.0), status()), "talk.mp4")).text
    for part in (
        "Tell people.", "made up", "language_absent", "no words in the window", "10 of 12 predictions", "2 late",
        "Half of them within 70 ms", "not of what a person feels", "happy 0.95", "well then", "talk.mp4",
    ):  # fmt: skip
        assert part in text, part


def test_a_long_session_gives_a_page_of_bounded_size() -> None:
    found: list[messages.Message] = [prediction(tick, LABELS[tick // 7 % 3]) for tick in range(1, 6001)]
    found += [words("so and so", number, number + 0.5, id=str(number)) for number in range(1200)]
    assert len(page(story(*found), "long")) < 700_000


def test_runs_are_compared_tick_by_tick_within_a_tolerance() -> None:
    before = [prediction(tick, "happy", 0.8) for tick in range(1, 11)]
    moved = [prediction(tick, "happy", 0.8004) for tick in range(1, 12)]
    near = compare(before, moved, HOP_NS)
    assert near.same and near.added == 1 and near.largest == pytest.approx(0.0004)
    assert not compare(before, moved, HOP_NS, tolerance=0.0001).same
    assert not compare(before, moved[:9], HOP_NS).same  # one did not come again
    other = compare(before, [*moved[:9], prediction(10, "sad", 0.9)], HOP_NS)
    assert (other.labels_changed, other.changes[0].tick, other.changes[0].time_s) == (1, 10, 2.0)
    assert not compare(before, [], HOP_NS).same and not compare([], [], HOP_NS).same
    values = [prediction(tick, 1.0) for tick in range(1, 4)]
    assert compare(values, values, HOP_NS).same
    assert not compare(values, before, HOP_NS).same
    assert compare(values, before, HOP_NS).told == "not comparable: a value against labels (neutral, sad, happy)"
    assert near.told == "labels changed: 0; largest difference 0.0004, mean 0.0004"
    assert json.dumps(other.as_json())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (61.25, "1:01.2"), (3661.96, "1:01:02.0"), (59.99, "1:00.0")]
)
def test_a_time_is_written_as_on_a_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_a_watch_does_not_grow_with_the_session() -> None:
    watch = Watch()
    watch.write(session())
    for tick in range(1, 3000):
        watch.write(prediction(tick, LABELS[tick // 4 % 3]))
    assert len(watch.seen().moments) <= 5
