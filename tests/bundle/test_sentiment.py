"""The shipped bundle of sentiment: what it says of good and bad words, and that its document is up to date."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from clcr_stream import Engines

ROOT = Path(__file__).resolve().parents[2]
GOOD = ("it was a wonderful movie and I loved every minute", "the acting is great and I had so much fun")
BAD = ("it was a terrible movie and I hated every minute", "the acting is awful and I was so bored")


@pytest.fixture(scope="module")
def values() -> dict[str, float]:
    """What the bundle says of each text alone."""
    found = {}
    with Engines.load(ROOT / "engines/sentiment", backend="onnxruntime") as engines:
        assert engines.labels == ()
        for text in (*GOOD, *BAD):
            with engines.stream(pace="max", modalities=("language",)) as stream:
                stream.push_text(text, 0, stream.session.hop_ns)
                stream.end()
                *_, last = stream
            assert last.label is None and last.probs is None and last.value is not None
            found[text] = last.value
    return found


def test_good_words_have_a_value_above_zero_and_bad_ones_below(values: dict[str, float]) -> None:
    assert all(0.5 < values[text] <= 3.5 for text in GOOD), values
    assert all(-3.5 <= values[text] < -0.5 for text in BAD), values


def test_the_tables_of_the_document_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sentiment_card.py", "--check"])
    assert import_module("docs.sentiment_card").main() == 0
