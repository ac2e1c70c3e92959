"""A streaming transducer of sherpa-onnx, on a model that hears tones as pieces of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.choose import open_recogniser, parse
from clcr_stream.sources.speech.recogniser import MAX_WORDS, SPEECH_HZ, Recogniser, Revision, Word
from clcr_stream.sources.speech.sherpa import (
    MAX_PIECES,
    PAUSE_S,
    SherpaRecogniser,
    find_files,
    writes_bytes_as_letters,
)
from tiny_transducer import tones, write_transducer

pytest.importorskip("sherpa_onnx")

NO, YES, TERDAY, CHEESE, YOU, GOOD = range(6)
PIECES = ("▁NO", "▁YES", "TERDAY", "▁CHEESE", "你", "好")
SCRIPT = [(0.5, NO), (0.8, YES), (1.0, TERDAY), (1.8, CHEESE), (3.5, NO), (3.7, YES)]
SAID = [["NO", "YESTERDAY", "CHEESE"], ["NO", "YES"]]
LENGTH_S = 4.2
NEAR = int(0.06 * SPEECH_HZ)  # a step of the model, and half a window


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sherpa-onnx-streaming-tones-2026-11-22"
    write_transducer(folder, PIECES)
    return folder


@pytest.fixture
def recogniser(folder: Path) -> SherpaRecogniser:
    return SherpaRecogniser(folder)


@pytest.fixture(scope="session")
def whole(folder: Path) -> list[Revision]:
    """What comes of the script in one piece."""
    return heard(SherpaRecogniser(folder), tones(SCRIPT, LENGTH_S), [])


def heard(recogniser: Recogniser, sound: NDArray[np.float32], cuts: Iterable[int], first: int = 0) -> list[Revision]:
    """All revisions of sound that is pushed in pieces and flushed."""
    revisions: list[Revision] = []
    places = [0, *sorted(cuts), len(sound)]
    for start, stop in pairwise(places):
        revisions += recogniser.push(first + start, sound[start:stop])
    return revisions + recogniser.flush()


def every(step_s: float, sound: NDArray[np.float32]) -> range:
    return range(0, len(sound), int(step_s * SPEECH_HZ))


def finals(revisions: Sequence[Revision]) -> list[tuple[Word, ...]]:
    return [revision.words for revision in revisions if revision.final]


def texts(revisions: Sequence[Revision]) -> list[list[str]]:
    return [[word.text for word in words] for words in finals(revisions)]


def near(sample: int, second: float) -> bool:
    return abs(sample - second * SPEECH_HZ) <= NEAR


def test_words_are_made_of_pieces_and_begin_when_they_are_said(recogniser: SherpaRecogniser) -> None:
    sound = tones(SCRIPT, LENGTH_S)
    revisions = heard(recogniser, sound, every(0.1, sound))
    assert texts(revisions) == SAID
    words = [word for segment in finals(revisions) for word in segment]
    begins_s = [at for at, piece in SCRIPT if piece != TERDAY]
    assert all(near(word.start, at) for word, at in zip(words, begins_s, strict=True)), words
    # A word goes on while its last piece does, and ends before the next one begins.
    assert near(words[1].end, 1.0 + 0.2)
    assert all(word.start < word.end for word in words)
    assert all(word.end <= following.start for word, following in pairwise(words))
    assert near(words[3].end, words[4].start / SPEECH_HZ)
    assert all(0.5 < word.probability < 1 for word in words)


def test_times_count_from_the_first_sample_that_was_pushed(recogniser: SherpaRecogniser) -> None:
    first = 3_000_000_000  # two days of sound, more than a float of 32 bits can count
    sound = tones(SCRIPT, LENGTH_S)
    at_zero = finals(heard(recogniser, sound, every(0.1, sound)))
    later = finals(heard(recogniser, sound, every(0.1, sound), first))
    moved = [tuple((w.text, w.start + first, w.end + first) for w in words) for words in at_zero]
    assert [tuple((w.text, w.start, w.end) for w in words) for words in later] == moved


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, int(LENGTH_S * SPEECH_HZ) - 1), max_size=12))
@example(cuts=[43_800])  # less than a frame before a step
def test_it_does_not_matter_how_the_sound_is_cut(
    recogniser: SherpaRecogniser, whole: list[Revision], cuts: list[int]
) -> None:
    cut = heard(recogniser, tones(SCRIPT, LENGTH_S), cuts)
    assert finals(cut) == finals(whole)
    assert [r.heard for r in cut if r.final] == [r.heard for r in whole if r.final]


def test_a_pause_ends_the_segment_without_a_flush(recogniser: SherpaRecogniser) -> None:
    sound = tones([(0.5, NO), (0.8, CHEESE)], 3.0)
    revisions = []
    for start in every(0.1, sound):
        revisions += recogniser.push(start, sound[start : start + 1600])
    assert texts(revisions) == [["NO", "CHEESE"]]
    (final,) = [revision for revision in revisions if revision.final]
    assert abs(final.heard / SPEECH_HZ - (0.8 + PAUSE_S)) < 0.3
    assert revisions[-1] is final
    assert recogniser.flush() == []


def test_the_last_word_is_tentative_until_the_next_one_begins(recogniser: SherpaRecogniser) -> None:
    sound = tones([(0.5, YES), (0.7, TERDAY), (1.0, NO)], 1.5)
    states = []
    for start in every(0.1, sound):
        for revision in recogniser.push(start, sound[start : start + 1600]):
            states.append([" ".join(word.text for word in words) for words in (revision.words, revision.tentative)])
    assert states == [["", "YES"], ["", "YESTERDAY"], ["YESTERDAY", "NO"]]


def test_committed_words_are_never_taken_back(recogniser: SherpaRecogniser) -> None:
    rng = np.random.default_rng(3)
    script = [(0.3 + 0.2 * index, int(piece)) for index, piece in enumerate(rng.integers(0, len(PIECES), 60))]
    sound = tones(script, 13.0)
    committed: dict[int, tuple[Word, ...]] = {}
    for revision in heard(recogniser, sound, every(0.05, sound)):
        before = committed.get(revision.number, ())
        assert revision.words[: len(before)] == before
        committed[revision.number] = revision.words
    assert max(map(len, committed.values())) == MAX_WORDS
    assert list(committed) == sorted(committed)


def test_sound_after_a_gap_begins_anew(recogniser: SherpaRecogniser) -> None:
    before, after = tones([(0.5, YES)], 0.7), tones([(0.3, TERDAY), (0.6, NO)], 1.0)
    revisions = recogniser.push(0, before)
    revisions += recogniser.push(100_000, after)
    assert texts(revisions) == [["YES"]]  # ended by the gap
    revisions += recogniser.flush()
    assert texts(revisions) == [["YES"], ["TERDAY", "NO"]]  # and not "YESTERDAY"
    assert near(finals(revisions)[1][0].start - 100_000, 0.3)


def test_a_tone_over_a_gap_is_said_twice(recogniser: SherpaRecogniser) -> None:
    """What the encoder heard before a gap must not be what it hears after it."""
    sound = tones([(0.5, NO)], 0.55)
    revisions = recogniser.push(0, sound)
    revisions += recogniser.push(100_000, sound[int(0.52 * SPEECH_HZ) :])
    assert texts(revisions + recogniser.flush()) == [["NO"], ["NO"]]


def test_a_word_at_the_very_end_is_heard_by_the_flush(recogniser: SherpaRecogniser) -> None:
    sound = tones([(0.5, CHEESE)], 0.515)
    assert recogniser.push(0, sound) == []
    revisions = recogniser.flush()
    assert texts(revisions) == [["CHEESE"]]
    ((word,),) = finals(revisions)
    assert word.start < word.end <= len(sound) == revisions[-1].heard  # not in the silence that the flush adds
    assert recogniser.flush() == []


def test_silence_and_nothing_bring_no_word(recogniser: SherpaRecogniser) -> None:
    assert recogniser.flush() == []
    assert recogniser.push(0, np.zeros(0, np.float32)) == []
    assert heard(recogniser, np.zeros(10 * SPEECH_HZ, np.float32), [5000]) == []


def test_speech_without_a_pause_loses_no_word(recogniser: SherpaRecogniser) -> None:
    """Also where the library's list of pieces begins anew, which may be within a word."""
    times = MAX_PIECES // 2
    script = [(0.3 + 0.14 * index, piece) for index, piece in enumerate([YES, TERDAY, NO] * times)]
    sound = tones(script, 0.3 + 0.14 * len(script) + 0.2)
    words = [word for segment in finals(heard(recogniser, sound, [])) for word in segment]
    assert [word.text for word in words] == ["YESTERDAY", "NO"] * times
    begins_s = [at for at, piece in script if piece != TERDAY]
    assert all(near(word.start, at) for word, at in zip(words, begins_s, strict=True))


def test_characters_of_a_script_without_spaces_are_words(recogniser: SherpaRecogniser) -> None:
    sound = tones([(0.5, YOU), (0.7, GOOD), (0.9, YES), (1.1, TERDAY), (1.3, YOU)], 1.7)
    assert texts(heard(recogniser, sound, [])) == [["你", "好", "YESTERDAY", "你"]]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("▁", "n", "o", "▁", "a", "h"), ["no", "ah"]),  # a model of letters
        (("▁caf", "<0xC3>", "<0xA9>", "▁", "<0xC3>", "é"), ["café", "é"]),  # bytes for rare letters, one of them lost
        (("▁ƋţŅ", "▁ƌŋ", "ţM", "▁no"), ["你", "好M", "no"]),  # icefall's letters for bytes
    ],
)  # fmt: skip
def test_pieces_are_written_as_the_words_that_they_mean(
    tmp_path: Path, pieces: tuple[str, ...], expected: list[str]
) -> None:
    write_transducer(tmp_path, pieces)
    sound = tones([(0.4 + 0.2 * index, index) for index in range(len(pieces))], 1.8)
    assert texts(heard(SherpaRecogniser(tmp_path), sound, [])) == [expected]


def test_the_mark_before_a_word_is_no_part_of_its_time(tmp_path: Path) -> None:
    write_transducer(tmp_path, ("▁", "a"))
    ((word,),) = finals(heard(SherpaRecogniser(tmp_path), tones([(0.4, 0), (0.7, 1)], 1.0), []))
    assert word.text == "a"
    assert near(word.start, 0.7)


def test_only_a_table_of_byte_letters_is_read_as_bytes() -> None:
    assert writes_bytes_as_letters("<blk> 0\n▁ƋţŅ 1\nA 2\n")
    assert not writes_bytes_as_letters("<blk> 0\n▁ŻÓŁĆ 1\n")
    assert not writes_bytes_as_letters("<blk> 0\n▁Ƌ 1\n你 2\n")
    assert not writes_bytes_as_letters("")


def test_a_text_that_names_the_folder_opens_it(folder: Path) -> None:
    recogniser = open_recogniser(parse(f"asr:sherpa={folder}"), live=True)
    assert recogniser.about == "sherpa-onnx, streaming-tones-2026-11-22"
    assert texts(heard(recogniser, tones([(0.5, NO)], 1.0), [])) == [["NO"]]


@pytest.mark.parametrize("missing", ["encoder-tiny.onnx", "decoder-tiny.onnx", "joiner-tiny.onnx", "tokens.txt"])
def test_a_missing_file_is_named_in_one_line(tmp_path: Path, missing: str) -> None:
    write_transducer(tmp_path, PIECES)
    (tmp_path / missing).unlink()
    with pytest.raises(SourceError, match=rf"no {missing.replace('-tiny', '[*]')}; a streaming model has") as error:
        open_recogniser(parse(f"asr:sherpa={tmp_path}"), live=True)
    assert "\n" not in str(error.value)


def test_what_is_no_streaming_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a folder; a streaming model has"):
        find_files(tmp_path / "nothing")
    # sherpa-onnx itself would end the process without an exception.
    write_transducer(tmp_path / "offline", PIECES, streaming=False)
    with pytest.raises(SourceError, match=r"encoder-tiny[.]onnx reads whole recordings"):
        find_files(tmp_path / "offline")
    (tmp_path / "offline" / "encoder-tiny.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"encoder-tiny[.]onnx reads whole recordings"):
        find_files(tmp_path / "offline")


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    write_transducer(tmp_path, PIECES)
    (tmp_path / "joiner-tiny.onnx").write_bytes(b"no graph")
    with pytest.raises(SourceError, match="the recogniser sherpa does not load: ") as error:
        open_recogniser(parse(f"asr:sherpa={tmp_path}"), live=True)
    assert "\n" not in str(error.value)


def test_int8_is_taken_where_it_pays_and_parts_of_two_models_are_never_mixed(tmp_path: Path) -> None:
    for name in ("-b", "-b.int8", "-a.int8"):
        write_transducer(tmp_path, PIECES, name)
    (tmp_path / "joiner-a.int8.onnx").unlink()  # so that "a" is not complete
    files = find_files(tmp_path)
    assert [path.name for path in (files.encoder, files.decoder, files.joiner, files.tokens)] == [
        "encoder-b.int8.onnx", "decoder-b.onnx", "joiner-b.int8.onnx", "tokens.txt",
    ]  # fmt: skip
    for path in tmp_path.glob("*-b*"):
        path.unlink()
    write_transducer(tmp_path, PIECES, "-a.int8")
    assert find_files(tmp_path).decoder.name == "decoder-a.int8.onnx"
    (tmp_path / "joiner-a.int8.onnx").rename(tmp_path / "joiner-c.int8.onnx")
    with pytest.raises(SourceError, match="different names"):
        find_files(tmp_path)
