"""From sound to certain words: utterances, local agreement, segments, and Whisper's recogniser without Whisper."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.agreement import LocalAgreement, comparable
from clcr_stream.sources.speech.choose import RecogniserSpec, parse
from clcr_stream.sources.speech.recogniser import MAX_WORDS, SPEECH_HZ, Revision, Word
from clcr_stream.sources.speech.voice import BLOCK, PAUSE, Turn, Utterances
from clcr_stream.sources.speech.whisper import LEAD, MAX_UTTERANCE, STEP, Reading, WhisperRecogniser, believable, joined
from coded_speech import CUT_OFF, VOCABULARY, Ear, coded_recogniser, say, texts, understand


def hear(
    recogniser: WhisperRecogniser, sound: NDArray[np.float32], cuts: list[int] | None = None, first: int = 0
) -> list[Revision]:
    """All revisions of a sound that is pushed in pieces (default: 0.1 s each) and flushed."""
    edges = sorted({0, len(sound), *(cuts if cuts is not None else range(0, len(sound), SPEECH_HZ // 10))})
    revisions = []
    for start, end in pairwise(edges):
        revisions += recogniser.push(first + start, sound[start:end])
    return revisions + recogniser.flush()


def segments(revisions: list[Revision]) -> dict[int, Revision]:
    """The last revision of each segment."""
    return {revision.number: revision for revision in revisions}


def said(revisions: list[Revision]) -> list[str]:
    return [word.text for revision in segments(revisions).values() for word in revision.words]


def word(text: str, start_s: float, end_s: float) -> Word:
    return Word(text, int(start_s * SPEECH_HZ), int(end_s * SPEECH_HZ), 0.9)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_word_is_heard_once_however_the_sound_is_cut(data: st.DataObject) -> None:
    words = data.draw(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=60))
    pauses = data.draw(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0]), min_size=len(words), max_size=len(words)))
    sound = np.concatenate([say(one, pause_s=pause) for one, pause in zip(words, pauses, strict=True)])
    cuts = data.draw(st.lists(st.integers(0, len(sound)), max_size=30))
    revisions = hear(coded_recogniser(), sound, cuts)
    assert said(revisions) == words
    assert all(revision.final for revision in segments(revisions).values())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=70))
def test_committed_words_are_only_added_to(words: list[str]) -> None:
    revisions = hear(coded_recogniser(), say(*words))
    for number in segments(revisions):
        history = [revision for revision in revisions if revision.number == number]
        for before, after in pairwise(history):
            assert after.words[: len(before.words)] == before.words
            assert not before.final
        assert len(history[-1].words) <= MAX_WORDS
        assert CUT_OFF not in [one.text for revision in history for one in revision.words]
    assert sorted(segments(revisions)) == list(range(len(segments(revisions))))


def test_a_word_s_time_is_where_it_was_said() -> None:
    silence = np.zeros(3 * SPEECH_HZ + 123, np.float32)
    revisions = hear(coded_recogniser(), np.concatenate([silence, say("three", "one", "four", pause_s=2)]), first=7000)
    (revision,) = segments(revisions).values()
    assert texts(revision.words) == ["three", "one", "four"]
    assert [one.start for one in revision.words] == [7000 + len(silence) + index * 6400 for index in range(3)]
    assert [one.end - one.start for one in revision.words] == [4800] * 3


def test_words_are_committed_within_two_readings_of_their_end() -> None:
    revisions = hear(coded_recogniser(), say(*VOCABULARY * 4))
    known: dict[tuple[int, int], int] = {}
    for revision in revisions:
        for place, one in enumerate(revision.words):
            known.setdefault((revision.number, place), revision.heard - one.end)
    assert len(known) == 40
    assert max(known.values()) <= 2 * STEP + SPEECH_HZ // 10 + BLOCK


def test_a_number_is_committed_once_it_is_whole() -> None:
    agreement = LocalAgreement()
    readings = ("is 100", "is 100 and", "is 100 and 25", "is 100 and 25 not", "is $125,462", "is $125,462. Thank",
                "is $125,462. Thank you")  # fmt: skip
    committed = []
    for reading in readings:
        at_s = 0.5
        words = []
        for text in reading.split():
            words.append(word(text, at_s, at_s + 0.5))
            at_s += 0.5
        committed.append(texts(agreement.offer(words)[0]))
    assert committed == [[], ["is"], [], [], [], [], ["$125,462.", "Thank"]]
    assert texts(agreement.finish(words)) == ["you"]


def test_numbers_one_after_the_other_are_committed_before_they_end() -> None:
    agreement, lag_s = LocalAgreement(), 0.0
    counted = [word(str(number), number / 2, number / 2 + 0.5) for number in range(1, 60)]
    for until in range(1, 60):
        agreement.offer(counted[:until])
        lag_s = max(lag_s, counted[until - 1].end / SPEECH_HZ - agreement.end / SPEECH_HZ)
    assert lag_s == pytest.approx(6.5, abs=0.6)


def test_what_is_written_to_a_word_belongs_to_it() -> None:
    pieces = [" $125", ",462", ".", " It", "'s", " 23", "%", "你", "好", "。"]
    times = [
        {"word": piece, "start": 0.5 * at, "end": 0.5 * at + 0.5, "probability": 1.0} for at, piece in enumerate(pieces)
    ]
    words = joined(times)
    assert texts(words) == ["$125,462.", "It's", "23%", "你", "好。"]
    assert [one.end / SPEECH_HZ for one in words] == [1.0, 2.5, 3.0, 4.0, 4.5], "a sign takes no time, a sound does"


def test_speech_without_a_pause_is_read_in_pieces_of_bounded_length() -> None:
    longest = 0

    def reader(samples: NDArray[np.float32]) -> list[Word] | None:
        nonlocal longest
        longest = max(longest, len(samples))
        return understand(samples)

    words = [VOCABULARY[index * 7 % 10] for index in range(150)]  # 60 s
    assert said(hear(WhisperRecogniser(reader, Ear(), "test"), say(*words))) == words
    assert longest <= MAX_UTTERANCE + LEAD


def test_silence_and_short_noises_are_never_read() -> None:
    def reader(samples: NDArray[np.float32]) -> list[Word]:
        raise AssertionError("read")

    sound = np.zeros(30 * SPEECH_HZ, np.float32)
    for second in range(2, 28, 4):
        sound[second * SPEECH_HZ :][:1600] = 0.3  # 0.1 s
    assert hear(WhisperRecogniser(reader, Ear(), "test"), sound) == []


def test_sound_that_does_not_follow_ends_the_utterance_and_begins_anew() -> None:
    recogniser = coded_recogniser()
    first = recogniser.push(0, say("one", "two"))
    after = recogniser.push(50_000, say("three")) + recogniser.flush()
    assert said(first + after) == ["one", "two", "three"]
    assert [len(revision.words) for revision in segments(first + after).values()] == [2, 1]
    assert segments(after)[1].words[0].start == 50_000


def test_utterances_that_are_not_understood_are_counted_and_say_nothing() -> None:
    recogniser = coded_recogniser()
    revisions = hear(recogniser, np.concatenate([say("strange", pause_s=1), say("one", pause_s=1), say("odd")]))
    assert said(revisions) == ["one"]
    assert recogniser.doubted == 2


def test_an_utterance_ends_with_a_pause_and_not_before() -> None:
    utterances = Utterances()
    assert utterances.take(0.4) is Turn.SILENCE
    assert utterances.take(0.6) is Turn.BEGINS
    assert utterances.take(0.4) is Turn.GOES_ON
    assert utterances.voiced == 2 * BLOCK
    turns = [utterances.take(0.1) for _ in range(PAUSE // BLOCK + 1)]
    assert turns[:-1] == [Turn.GOES_ON] * (PAUSE // BLOCK) and turns[-1] is Turn.ENDS
    assert utterances.take(0.1) is Turn.SILENCE


def test_agreement_commits_what_begins_two_readings_and_shows_the_rest() -> None:
    agreement = LocalAgreement()
    first = [word("So", 0, 0.2), word("we", 0.2, 0.4), word("wheat", 0.4, 0.7)]
    second = [word("so,", 0, 0.2), word("we", 0.2, 0.4), word("read", 0.4, 0.7), word("it", 0.7, 0.9)]
    assert agreement.offer(first) == ([], first)
    assert agreement.offer(second) == (second[:2], second[2:])
    assert agreement.finish([*second, word("now", 1.0, 1.2)]) == [*second[2:], word("now", 1.0, 1.2)]
    assert agreement.finish([]) == []


def test_agreement_tells_a_word_said_twice_from_one_heard_once_more() -> None:
    agreement = LocalAgreement()
    assert agreement.finish([word("very", 0.0, 0.3)])
    twice = [word("very", 0.0, 0.3), word("very", 0.4, 0.7), word("good", 0.7, 1.0)]
    assert texts(agreement.finish(twice)) == ["very", "good"]
    # The same words a little later: the model's times vary.
    again = [word("very", 0.7, 1.0), word("good", 0.95, 1.2), word("day", 1.2, 1.4)]
    assert texts(agreement.finish(again)) == ["day"]


def test_what_is_said_again_and_again_is_heard_again_and_again() -> None:
    words = ["one", "two"] * 4 + ["three", "four", "five", "six"] * 5 + ["seven"] * 6
    assert said(hear(coded_recogniser(), say(*words))) == words


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert comparable(word("Don't,", 0, 1)) == comparable(word("dont", 0, 1)) != comparable(word("do", 0, 1))
    assert comparable(word("?", 0, 1)) == "?"


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (Reading("we did it", -0.3, 0.1, [word("we", 0, 1)]), True),
        (Reading("we did it", -0.9, 0.1, [word("we", 0, 1)]), False),
        (Reading("we did it", -0.3, 0.1, [Word("we", 0, 1, 0.3)]), False),
        (Reading("we did it", -0.6, 0.9, [word("we", 0, 1)]), False),
        (Reading("we did it " * 12, -0.1, 0.1, [word("we", 0, 1)]), False),
        (Reading("", -0.1, 0.1, []), False),
    ],
)
def test_a_guess_and_a_reading_in_circles_are_not_believed(reading: Reading, expected: bool) -> None:
    assert believable(reading) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("asr", RecogniserSpec("whisper")),
        ("asr:", RecogniserSpec("whisper")),
        ("asr:whisper", RecogniserSpec("whisper")),
        ("asr:whisper=base.en", RecogniserSpec("whisper", "base.en")),
        ("asr:whisper=/models/x,language=de", RecogniserSpec("whisper", "/models/x", "de")),
        ("asr:whisper,language=de", RecogniserSpec("whisper", None, "de")),
        ("asr:sherpa=/models/y", RecogniserSpec("sherpa", "/models/y")),
    ],
)
def test_a_text_names_a_recogniser(text: str, expected: RecogniserSpec) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["asr:vosk", "asr:whisper=x,beam=3", "asr:sherpa", "asr:sherpa=x,language=de"])
def test_a_text_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match=r"transcript asr:.*(allowed are asr|asr:sherpa=FOLDER)"):
        parse(text)
