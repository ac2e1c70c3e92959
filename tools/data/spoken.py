"""Written texts as a speech recogniser would give them: other words that sound alike, lost and repeated words, fillers,
no punctuation, no end.

Rates and kinds follow what streaming recognisers do on spoken opinions (about a quarter of the words wrong on small
models); every change is drawn from the generator that is passed in.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import jellyfish
import numpy as np

MOST_ERRORS = 0.3  # share of wrong words in the worst text
KINDS = {"alike": 0.6, "lost": 0.25, "more": 0.15}
BARE_P = 0.6  # of the texts lose their punctuation and capitals
CUT_P = 0.15  # of the texts are tentative: their end has not been said
LEAST_CUT = 0.6  # of such a text is there
RARE = 5  # a word that occurs less often is nobody's mistake
FILLERS = ("uh", "um", "you know", "i mean", "like")
NAMES = ("John", "Mary", "David", "Anna", "Tom", "Lisa", "Mike", "Sarah", "Chris", "Emma")
MARKED = re.compile(r"\[(NAME|RELIGION)\]")  # what GoEmotions has in place of a name
WORD = re.compile(r"[a-z]+")


class Recogniser:
    """Makes the mistakes of a recogniser with the vocabulary of `texts`."""

    def __init__(self, texts: Iterable[str]) -> None:
        counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word, count in sorted(counts.items()):
            if count >= RARE:
                self._alike[jellyfish.metaphone(word)].append(word)
        self._counts = counts

    def heard(self, text: str, rng: np.random.Generator) -> str:
        """The text with mistakes; at least one word is left."""
        text = MARKED.sub(lambda _: str(rng.choice(NAMES)), text)
        bare = rng.random() < BARE_P
        words = re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split() if bare else text.split()
        if len(words) > 3 and rng.random() < CUT_P:
            words = words[: max(3, round(len(words) * rng.uniform(LEAST_CUT, 1.0)))]
        rate = rng.uniform(0.0, MOST_ERRORS)
        out: list[str] = []
        for word in words:
            out.extend(self._mistaken(word, rng) if rng.random() < rate else [word])
        return " ".join(out or words or [text])

    def _mistaken(self, word: str, rng: np.random.Generator) -> list[str]:
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        if kind == "lost":
            return []
        if kind == "more":
            return [word, word if rng.random() < 0.5 else str(rng.choice(FILLERS))]
        plain = "".join(WORD.findall(word.lower()))
        others = [other for other in self._alike.get(jellyfish.metaphone(plain), ()) if other != plain] if plain else []
        if not others:
            return []  # nothing sounds like it: not understood
        weights = np.array([self._counts[other] for other in others], np.float64) ** 0.5
        return [str(rng.choice(others, p=weights / weights.sum()))]
