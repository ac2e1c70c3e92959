"""Speech that a few lines understand: every word is a tone of its own level. A recogniser of it, also as a process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.speech.child import Waiting, read_frames, serve
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Word
from clcr_stream.sources.speech.voice import BLOCK
from clcr_stream.sources.speech.whisper import WhisperRecogniser

VOCABULARY = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORD = int(0.3 * SPEECH_HZ)
BETWEEN = int(0.1 * SPEECH_HZ)  # two words of an utterance
CUT_OFF = "half"  # what is heard of a word whose end is not there yet
STRANGE = 0.9  # a level that is no word


def say(*words: str, pause_s: float = 0.0) -> NDArray[np.float32]:
    """The words one after the other, then silence."""
    parts = []
    for word in words:
        level = STRANGE if word not in VOCABULARY else 0.05 + 0.05 * VOCABULARY.index(word)
        parts += [np.full(WORD, level, np.float32), np.zeros(BETWEEN, np.float32)]
    return np.concatenate([*parts, np.zeros(int(pause_s * SPEECH_HZ), np.float32)])


def understand(samples: NDArray[np.float32]) -> list[Word] | None:
    """The words in samples (n,); one at the end of them may be cut off; None when there is a strange one."""
    voiced = np.concatenate([[False], samples > 0.01, [False]])
    edges = np.flatnonzero(voiced[1:] != voiced[:-1])
    words = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        level = float(samples[start])
        if level > 0.8:
            return None
        text = VOCABULARY[round((level - 0.05) / 0.05)] if end - start == WORD else CUT_OFF
        words.append(Word(text, start, end, 0.9))
    return words


class Ear:
    """Hears a voice in every block that is not silent."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def __call__(self, block: NDArray[np.float32]) -> float:
        assert block.shape == (BLOCK,)
        return 0.9 if float(block.max()) > 0.01 else 0.0


def coded_recogniser() -> WhisperRecogniser:
    """The product's recogniser with ears for this speech."""
    return WhisperRecogniser(understand, Ear(), "coded speech")


def coded_command(how: str = "") -> list[str]:
    """The command of a process that recognises this speech.

    `how`: `dies` after the first second of sound, `fails` to load, `talks` nonsense, `waits` in the file `wait:PATH`
    until it is removed, before it answers the first sound.
    """
    here = Path(__file__)
    paths = [str(here.parent), str(here.parents[2] / "runtime")]
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {paths!r}; import coded_speech; coded_speech.main({how!r})",
    ]


def main(how: str) -> None:
    """In a process of its own."""
    out = sys.stdout.buffer
    if how == "fails":
        out.write(b'{"type":"failed","reason":"no such model"}\n')
        return
    if how == "talks":
        out.write(b"good morning\n")
        out.flush()
        sys.stdin.buffer.read()
        return
    frames = read_frames(sys.stdin.buffer)
    if how == "dies":
        limited = (frame for number, frame in enumerate(frames) if number < 10 or os._exit(9))
        serve(coded_recogniser(), limited, out)
        return
    waiting = Waiting(join=False)

    def collect() -> None:
        for frame in frames:
            waiting.put(frame)
        os._exit(0)

    threading.Thread(target=collect, daemon=True).start()
    serve(coded_recogniser(), iter(waiting), out)


def texts(words: Sequence[Word]) -> list[str]:
    """What the words say."""
    return [word.text for word in words]
