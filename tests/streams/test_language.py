"""Text in a stream: each segment is encoded once, slides without changing, and revisions cost only themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr_stream.frontends.positions import sinusoid
from clcr_stream.inference.null import NullRunner
from clcr_stream.inference.program import single_program
from clcr_stream.streams.language import LanguageStream
from clcr_stream.window.transcript import Segment
from media import eventually
from tiny_bundle import tiny_manifest

MANIFEST = tiny_manifest()
LIMIT, WIDTH = MANIFEST.language.tokens, MANIFEST.model.width
POOL = MANIFEST.model.shared_rank + MANIFEST.model.private_rank


class WordTokenizer:
    """One id per letter of the alphabet, framed like BERT's."""

    def encode(self, text: str, limit: int) -> list[int]:
        ids = [10 + ord(word[0]) for word in text.split() if word[0].isalpha()][-(limit - 2) :]
        return [2, *ids, 3] if ids else []


class IdEngine:
    """A token is l * id + position, where valid, laid into each of the three layouts; counts its runs."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self._runner = NullRunner(single_program("language", MANIFEST.engines["language"]), 1)
        self.inputs, self.outputs = self._runner.inputs, self._runner.outputs

    def run(self, first: int, count: int) -> Mapping[str, float]:
        assert (first, count) == (0, 1)
        valid = self.inputs["token_valid"][0] > 0
        self.runs.append(self.inputs["token_ids"][0][valid].tolist())
        for level in (1, 2, 3):
            value = level * self.inputs["token_ids"][..., None].astype(np.float32) + self.inputs["position"]
            token = np.where(valid[None, :, None], value, 0).astype(np.float32)  # [1, tokens, width]
            heads = token[..., : POOL - POOL % 2].reshape(1, LIMIT, -1, 2).transpose(0, 2, 1, 3)
            self.outputs[f"language_qkv_{level}"][:] = np.concatenate([heads, -heads], axis=1)
            self.outputs[f"language_marks_{level}"][:] = np.stack([token[..., 0], self.inputs["token_valid"]], axis=1)
            self.outputs[f"language_pool_{level}"][:] = token[..., :POOL]
        return {}

    def clear(self, seat: int) -> None:
        self._runner.clear(seat)

    def move(self, source: int, target: int) -> None:
        self._runner.move(source, target)

    def read_state(self, seat: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        return self._runner.read_state(seat, names)

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]]) -> None:
        self._runner.write_state(seat, rows)

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def engine() -> IdEngine:
    return IdEngine()


@pytest.fixture
def stream(engine: IdEngine) -> LanguageStream:
    return LanguageStream(WordTokenizer(), engine, MANIFEST)


def segment(name: str, text: str, end_ns: int = 1) -> Segment:
    return Segment(name, end_ns - 1, end_ns, text)


def ids(words: str) -> list[int]:
    return WordTokenizer().encode(words, LIMIT)


def shown(stream: LanguageStream, segments: list[Segment], level: int = 1) -> NDArray[np.float32]:
    """The window's tokens of one level, [n, pool], after a look at whether every layout holds the same."""
    tokens = stream.update(segments)
    words, present = tokens.levels[level], tokens.levels[level]["language_marks"][1] > 0
    pool = words["language_pool"]
    np.testing.assert_array_equal(words["language_marks"], np.stack([pool[:, 0], present]))
    heads = pool.reshape(LIMIT, -1, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(words["language_qkv"], np.concatenate([heads, -heads]))
    assert not pool[~present].any()
    said: NDArray[np.float32] = pool[present].copy()
    return said


def test_no_words_mean_no_run_and_an_empty_mask(stream: LanguageStream, engine: IdEngine) -> None:
    tokens = stream.update([])
    assert (tokens.ran, tokens.coverage, tokens.newest_ns, engine.runs) == (0, 0.0, None, [])
    assert not any(array.any() for array in tokens.levels[3].values())


def test_a_text_without_a_word_is_not_run(stream: LanguageStream, engine: IdEngine) -> None:
    assert stream.update([segment("a", "..."), segment("b", "  ")]).coverage == 0.0
    assert engine.runs == []


def test_tokens_are_laid_out_in_time_order_with_absolute_steps(stream: LanguageStream) -> None:
    got = shown(stream, [segment("a", "a b"), segment("b", "c")], level=2)
    steps = sinusoid(np.arange(7), WIDTH, 10000.0)[:, :POOL]
    wanted = 2 * np.array(ids("a b") + ids("c"), np.float32)[:, None] + steps
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_an_unchanged_window_runs_nothing_again(stream: LanguageStream, engine: IdEngine) -> None:
    segments = [segment("a", "a b"), segment("b", "c")]
    assert stream.update(segments).ran == 2
    assert stream.update(segments).ran == 0
    assert len(engine.runs) == 2


def test_the_revision_changes_with_the_shown_words_and_only_then(stream: LanguageStream) -> None:
    silent = stream.update([]).revision
    first = stream.update([segment("a", "a b")]).revision
    assert stream.update([segment("a", "a b")]).revision == first != silent
    assert len({silent, first, stream.update([segment("a", "a c")]).revision, stream.update([]).revision}) == 4


def test_a_segment_keeps_its_values_while_it_slides(stream: LanguageStream, engine: IdEngine) -> None:
    first, second = segment("a", "a b"), segment("b", "c")
    both = shown(stream, [first, second])
    np.testing.assert_array_equal(shown(stream, [second]), both[4:])
    assert len(engine.runs) == 2


def test_a_growing_segment_is_run_alone_and_keeps_its_first_step(stream: LanguageStream, engine: IdEngine) -> None:
    finished = segment("a", "a b")
    before = shown(stream, [finished, segment("b", "c")])
    after = shown(stream, [finished, segment("b", "c d")])
    assert engine.runs == [ids("a b"), ids("c"), ids("c d")]
    np.testing.assert_array_equal(after[:6], before[:6])
    assert len(after) == 8


def test_a_revision_of_an_older_segment_gets_new_steps_and_moves_nobody_else(stream: LanguageStream) -> None:
    before = shown(stream, [segment("a", "a"), segment("b", "b")])
    after = shown(stream, [segment("a", "a c"), segment("b", "b")])
    np.testing.assert_array_equal(after[4:], before[3:])
    steps = sinusoid(np.arange(6, 10), WIDTH, 10000.0)[:, :POOL]
    np.testing.assert_allclose(after[:4], np.array(ids("a c"), np.float32)[:, None] + steps, rtol=1e-6)


def test_only_the_last_tokens_are_kept(stream: LanguageStream) -> None:
    words = ["a b c d", "e f g h", "i j k l"]
    got = shown(stream, [segment(str(index), text) for index, text in enumerate(words)])
    raw = [token for text in words for token in ids(text)][-LIMIT:]
    steps = sinusoid(np.arange(18 - LIMIT, 18), WIDTH, 10000.0)[:, :POOL]
    np.testing.assert_allclose(got, np.array(raw, np.float32)[:, None] + steps, rtol=1e-6)


def test_a_segment_longer_than_the_window_keeps_its_newest_words(stream: LanguageStream) -> None:
    long = [segment("a", " ".join("abcdefghijklmnopqrstuvwxyz"))]
    got = shown(stream, long)
    assert stream.update(long).coverage == 1.0
    assert got[-2, 0] == pytest.approx(10 + ord("z") + np.sin(LIMIT - 2), rel=1e-5)


def test_the_newest_words_are_as_old_as_the_end_of_their_segment(stream: LanguageStream) -> None:
    assert stream.update([segment("a", "a", 70), segment("b", "b", 50)]).newest_ns == 70


def test_the_cache_does_not_outgrow_the_window(stream: LanguageStream, engine: IdEngine) -> None:
    for index in range(500):
        stream.update([segment(str(index), "a b")])
    assert stream.held_segments == 1
    assert len(engine.runs) == 500


def test_reset_runs_everything_again_with_fresh_steps(stream: LanguageStream, engine: IdEngine) -> None:
    before = shown(stream, [segment("a", "a")])
    stream.reset()
    after = shown(stream, [segment("a", "a")])
    assert len(engine.runs) == 2
    assert not np.array_equal(before, after)


class HeldEngine(IdEngine):
    """Runs when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Semaphore(0)

    def run(self, first: int, count: int) -> Mapping[str, float]:
        assert self.let.acquire(timeout=10)
        return super().run(first, count)


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_with_a_worker_a_stream_that_waits_shows_what_one_without_shows(worker: ThreadPoolExecutor) -> None:
    rng = np.random.default_rng(3)
    engines = IdEngine(), IdEngine()
    alone, helped = (
        LanguageStream(WordTokenizer(), engine, MANIFEST, where)
        for engine, where in zip(engines, (None, worker), strict=True)
    )
    for _ in range(60):
        said = [segment(f"{name}", " ".join(rng.choice(list("abcdefg"), rng.integers(0, 6)))) for name in range(4)]
        chosen = [one for one in said if rng.random() < 0.7]
        np.testing.assert_array_equal(shown(alone, chosen), shown(helped, chosen))
    assert engines[0].runs == engines[1].runs


def test_a_stream_that_does_not_wait_shows_words_when_they_are_encoded(worker: ThreadPoolExecutor) -> None:
    engine = HeldEngine()
    stream = LanguageStream(WordTokenizer(), engine, MANIFEST, worker)
    stream.waits = False
    said = [segment("1", "a b")]
    first = stream.update(said)
    assert (first.coverage, first.newest_ns, first.ran) == (0.0, None, 1)
    assert stream.update(said).ran == 0
    engine.let.release()
    assert eventually(lambda: len(shown(stream, said)) == len(ids("a b")))
    assert stream.update(said).newest_ns == said[0].end_ns
    # The older revision stays until the newer one is there.
    grown = [segment("1", "a b c")]
    assert len(shown(stream, grown)) == len(ids("a b"))
    engine.let.release()
    assert eventually(lambda: len(shown(stream, grown)) == len(ids("a b c")))
    assert engine.runs == [ids("a b"), ids("a b c")]


def test_words_that_left_the_window_while_they_were_encoded_are_not_shown(worker: ThreadPoolExecutor) -> None:
    engine = HeldEngine()
    stream = LanguageStream(WordTokenizer(), engine, MANIFEST, worker)
    stream.waits = False
    stream.update([segment("1", "a b")])
    stream.update([segment("2", "c")])
    engine.let.release(2)
    assert eventually(lambda: len(shown(stream, [segment("2", "c")])) == len(ids("c")))
    assert stream.held_segments == 1


def test_an_engine_that_fails_in_the_worker_fails_the_update(worker: ThreadPoolExecutor) -> None:
    class Broken(IdEngine):
        def run(self, first: int, count: int) -> Mapping[str, float]:
            raise RuntimeError("no more memory")

    stream = LanguageStream(WordTokenizer(), Broken(), MANIFEST, worker)
    with pytest.raises(RuntimeError, match="no more memory"):
        stream.update([segment("1", "a")])
