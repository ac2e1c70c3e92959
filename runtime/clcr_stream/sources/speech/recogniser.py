"""What a speech recogniser is: sound in, segments of words out, word by word as they become certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

SPEECH_HZ = 16_000  # the rate of all recognisers here
MAX_WORDS = 20  # of a segment: as much as the language encoders read at once


class Word(Struct, frozen=True):
    """A word, and when it was said in samples of the pushed sound; `probability` is the recogniser's own."""

    text: str
    start: int
    end: int
    probability: float


class Revision(Struct, frozen=True, tag="revision"):
    """A segment as it is known after `heard` samples; one with the same `number` replaces those before it.

    `words` are committed: later revisions only add to them. `tentative` words may still change. Nothing follows a
    `final` revision of a segment.
    """

    number: int
    words: tuple[Word, ...]
    tentative: tuple[Word, ...]
    final: bool
    heard: int


class Recogniser(Protocol):
    """Turns sound into words. It belongs to one thread, keeps its state between calls and is allowed to be slow."""

    @property
    def about(self) -> str:
        """What it is and what it understands, in a few words for a person."""
        ...

    @property
    def doubted(self) -> int:
        """Utterances so far that it did not understand: of another language, or not speech at all."""
        ...

    def push(self, first: int, samples: NDArray[np.float32]) -> list[Revision]:
        """What is new after samples (n,), -1..1 at SPEECH_HZ, of which the first has index `first`.

        Sound that does not follow what was pushed before ends the segment and begins anew.
        """
        ...

    def flush(self) -> list[Revision]:
        """The sound has ended: what was heard so far is final."""
        ...


class Segments:
    """Numbers committed words into segments; at most MAX_WORDS each, so that old words stop being revised."""

    def __init__(self) -> None:
        self._number = 0
        self._words: list[Word] = []
        self._tentative: tuple[Word, ...] = ()

    def add(self, committed: Sequence[Word], tentative: Sequence[Word], heard: int) -> list[Revision]:
        """The revisions that new words bring; none when nothing changed."""
        revisions = []
        for word in committed:
            self._words.append(word)
            if len(self._words) == MAX_WORDS:
                revisions.append(self._close(heard))
        if (committed and self._words) or tuple(tentative) != self._tentative:
            self._tentative = tuple(tentative)
            revisions.append(Revision(self._number, tuple(self._words), self._tentative, False, heard))
        return revisions

    def end(self, heard: int) -> list[Revision]:
        """The speaker has paused: the segment is final, and the next words begin another one."""
        changed = bool(self._words or self._tentative)
        self._tentative = ()
        return [self._close(heard)] if changed else []

    def _close(self, heard: int) -> Revision:
        revision = Revision(self._number, tuple(self._words), (), True, heard)
        self._number += 1
        self._words = []
        return revision
