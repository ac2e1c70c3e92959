"""Texts with the mistakes of a speech recogniser."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from any_text import texts

TEXTS = ["their house is there and they're here", "I knew the new knight saw a night", "by the sea we see a bye"] * 6
spoken: Any = import_module("data.spoken")
RECOGNISER = spoken.Recogniser(TEXTS)


@given(texts(min_size=1).filter(str.strip), st.integers(0, 2**32))
def test_something_is_always_heard_and_the_same_draws_give_the_same_mistakes(text: str, seed: int) -> None:
    heard = RECOGNISER.heard(text, np.random.default_rng(seed))
    assert heard.strip() and heard == RECOGNISER.heard(text, np.random.default_rng(seed))


def test_mistaken_words_are_of_the_vocabulary_and_sound_alike() -> None:
    rng = np.random.default_rng(0)
    heard = [RECOGNISER.heard("knew", rng) for _ in range(300)]
    seen = {word for one in heard for word in one.split()}
    assert "new" in seen and seen <= {"knew", "new", *" ".join(spoken.FILLERS).split()}


def test_about_a_seventh_of_the_words_is_wrong_and_most_texts_are_bare() -> None:
    rng = np.random.default_rng(1)
    text = "We see the new house by the sea, and they knew it was there; the night is here."
    words = text.lower().replace(",", "").replace(";", "").replace(".", "").split()
    heard = [RECOGNISER.heard(text, rng) for _ in range(400)]
    bare = np.mean([one == one.lower() and "," not in one for one in heard])
    assert 0.5 < bare < 0.7
    kept = np.mean([len(set(one.lower().replace(",", "").split()) & set(words)) / len(set(words)) for one in heard])
    assert 0.75 < kept < 0.98


def test_the_marks_in_place_of_names_become_names() -> None:
    heard = RECOGNISER.heard("[NAME] loves [NAME] and hates me", np.random.default_rng(3))
    assert "NAME" not in heard and "[" not in heard
