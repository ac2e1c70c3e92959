"""Which words of a growing recording are certain: those that two readings in a row agree on.

Local agreement (Liu, Spanakis and Niehues 2020; Macháček, Dabre and Bojar 2023): a recogniser that reads the whole
recording again and again changes its mind about the last words, seldom about those before them.
"""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Word

SAME_PLACE = int(0.15 * SPEECH_HZ)  # a word's time varies so much from reading to reading
OVERLAP = 4  # words that may be read once more just after they were committed
# "One hundred and twenty five thousand" is read as 100, then as 100 and 25, then as 125,000.
GROWING = 6 * SPEECH_HZ  # that a long number takes to say
WITHIN_NUMBERS = ("and", "point", "hundred", "thousand", "million", "billion")


class LocalAgreement:
    """Commits the words that begin two readings in a row, after those that are committed already.

    A number is committed once two readings agree on a word after it.
    """

    def __init__(self) -> None:
        self.end = 0  # of the last committed word, in samples
        self._committed: list[str] = []  # the last few, as they are compared
        self._before: list[Word] = []  # the open words of the reading before

    def offer(self, words: Sequence[Word]) -> tuple[list[Word], list[Word]]:
        """A reading of all that was said, in samples of the whole recording: words to commit, and tentative ones."""
        words = self._open(words)
        agreed = 0
        for now, before in zip(words, self._before, strict=False):
            if comparable(now) != comparable(before):
                break
            agreed += 1
        agreed -= _growing(words, agreed)
        self._before = words[agreed:]
        return self._commit(words[:agreed]), words[agreed:]

    def finish(self, words: Sequence[Word]) -> list[Word]:
        """The last reading: what it adds is committed without a second one."""
        self._before = []
        return self._commit(self._open(words))

    def _commit(self, words: list[Word]) -> list[Word]:
        if words:
            self.end = max(self.end, words[-1].end)
            self._committed = [*self._committed, *map(comparable, words)][-OVERLAP:]
        return words

    def _open(self, words: Sequence[Word]) -> list[Word]:
        """The words of a reading that are not committed, by their time and by what was said last."""
        left = [word for word in words if (word.start + word.end) // 2 >= self.end]
        # Words are said twice ("very very"): they were read once more only if they are in the same place.
        if left and (left[0].start + left[0].end) // 2 < self.end + SAME_PLACE:
            for count in range(min(OVERLAP, len(left), len(self._committed)), 0, -1):
                if [comparable(word) for word in left[:count]] == self._committed[-count:]:
                    return left[count:]
        return left


def _growing(words: Sequence[Word], agreed: int) -> int:
    """How many of the agreed words, the last ones, are a number, or part of one that is still being said."""
    count = 0
    for before, word in enumerate(reversed(words[:agreed]), 1):
        number = any(letter.isdigit() for letter in word.text)
        if words[-1].end - word.start > GROWING or not (number or comparable(word) in WITHIN_NUMBERS):
            break
        count = before if number else count
    return count


def comparable(word: Word) -> str:
    """A word without what varies from reading to reading: case and punctuation."""
    text = word.text.casefold()
    return "".join(letter for letter in text if letter.isalnum()) or text
