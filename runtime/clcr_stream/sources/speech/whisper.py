"""Whisper as a streaming recogniser: an utterance is read again as it grows, and ends with a pause.

Whisper reads 30 s at once, whatever was said. Here it reads CONTEXT_S: on 40 opinion clips tiny.en makes 28 % word
errors with 15 s of context, 30 % with 30 s at 2.6 times the cost, and 43 % with 10 s (docs/speech.md).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import one_line
from clcr_stream.sources.speech.agreement import LocalAgreement
from clcr_stream.sources.speech.models import Model
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Revision, Segments, Word
from clcr_stream.sources.speech.voice import BLOCK, Turn, Utterances, VoiceDetector

CONTEXT_S = 15.0  # what the encoder reads; what was not said is silence
MAX_UTTERANCE = 12 * SPEECH_HZ  # longer ones are read from the last committed word on
LEAD = int(0.5 * SPEECH_HZ)  # read before the first voice: a soft beginning
SOFT = int(0.1 * SPEECH_HZ)  # words last so long before and after what is surely a voice
STEP = int(0.5 * SPEECH_HZ)  # new sound that is worth another reading
MIN_VOICED = int(0.25 * SPEECH_HZ)  # shorter noises are no words
TAIL = int(0.2 * SPEECH_HZ)  # words that begin so long after that end were invented
MAX_TOKENS = 100  # of a reading: 12 s of fast speech
# A reading that is not believed: it goes in circles, or it is a guess. An English model makes English words of any
# language: the mean log probability of a token is -0.62 or more for 90 % of English clips and -0.73 or less for 90 % of
# Javanese, Polish and Amharic ones, the mean probability of a word 0.61 and 0.61 (docs/speech.md).
MAX_COMPRESSION = 2.4
MIN_LOG_PROBABILITY = -0.8
MIN_WORD_P = 0.5
NO_SPEECH_P = 0.6
ENGLISH_P = 0.5  # of a multilingual model, for the sound to be read at all when no language was named

# Samples (n,) -> the words in them, times from the first sample; None: speech that is not understood.
Read = Callable[[NDArray[np.float32]], list[Word] | None]


class Voice(Protocol):
    """What tells whether a block of BLOCK samples holds speech."""

    def reset(self) -> None: ...
    def __call__(self, block: NDArray[np.float32]) -> float: ...


@dataclass
class _Heard:
    """What was heard since the sound began anew; indices are those of the pushed samples."""

    next: int  # the sample that follows what was pushed
    end: int  # of the blocks that were judged
    last_read: int  # where the sound ended that was read last
    voice: int = 0  # where the utterance's voice began
    doubted: bool = False  # what was read last was not understood
    waiting: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # less than a block
    sound: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # the utterance, or its LEAD
    utterances: Utterances = field(default_factory=Utterances)
    agreement: LocalAgreement = field(default_factory=LocalAgreement)

    @property
    def begin(self) -> int:
        """Of `sound`, which lasts until `end`."""
        return self.end - len(self.sound)


class WhisperRecogniser:
    """Reads an utterance whenever STEP of it is new, and once more at its end.

    `busy_share` limits how much of the time readings may take; 1: no limit, for a recording that waits for its words.
    """

    def __init__(self, read: Read, voice: Voice, about: str, busy_share: float = 1.0) -> None:
        self.about = about
        self.doubted = 0
        self._read, self._voice = read, voice
        self._busy_share = busy_share
        self._step = STEP
        self._segments = Segments()
        self._heard = _Heard(0, 0, 0)

    def push(self, first: int, samples: NDArray[np.float32]) -> list[Revision]:
        revisions = []
        if first != self._heard.next:
            revisions += self.flush()
            self._begin_anew(first)
        heard = self._heard
        heard.next += len(samples)
        waiting = np.concatenate([heard.waiting, samples])
        blocks = len(waiting) // BLOCK
        heard.waiting = waiting[blocks * BLOCK :]
        for block in waiting[: blocks * BLOCK].reshape(blocks, BLOCK):
            revisions += self._take(block)
        if heard.utterances.speaking and heard.end - heard.last_read >= self._step:
            revisions += self._read_again()
        return revisions

    def flush(self) -> list[Revision]:
        heard, revisions = self._heard, []
        if len(heard.waiting):
            revisions += self._take(np.pad(heard.waiting, (0, BLOCK - len(heard.waiting))))
        if heard.utterances.speaking:
            revisions += self._end_utterance()
        self._begin_anew(self._heard.next)
        return revisions

    def _begin_anew(self, first: int) -> None:
        """Nothing was heard before sample `first`."""
        self._voice.reset()
        self._heard = _Heard(first, first, first)

    def _take(self, block: NDArray[np.float32]) -> list[Revision]:
        heard = self._heard
        heard.end += BLOCK
        heard.sound = np.concatenate([heard.sound, block])
        turn = heard.utterances.take(self._voice(block))
        if turn is Turn.SILENCE:
            heard.sound = heard.sound[-LEAD:]
        elif turn is Turn.BEGINS:
            heard.last_read = heard.voice = heard.end - BLOCK
        elif turn is Turn.ENDS:
            return self._end_utterance()
        elif len(heard.sound) >= MAX_UTTERANCE:
            return self._shorten()
        return []

    def _words(self) -> list[Word]:
        """A reading of the utterance, in samples of the whole sound."""
        heard = self._heard
        if heard.utterances.voiced < MIN_VOICED:
            return []
        started_s = time.perf_counter()
        words = self._read(heard.sound)
        heard.doubted = words is None
        if self._busy_share < 1.0:
            cost = int((time.perf_counter() - started_s) * SPEECH_HZ)
            self._step = max(STEP, int(cost / self._busy_share))
        heard.last_read = heard.end
        # Whisper lets the first word begin with the sound, and the last one end with it.
        first, last = heard.voice - SOFT, heard.end - heard.utterances.quiet + SOFT
        at = []
        for word in words or ():
            start, end = max(first, heard.begin + word.start), min(last, heard.begin + word.end)
            if heard.begin + word.start < last + TAIL:
                at.append(Word(word.text, min(start, last), max(end, start + 1), word.probability))
        return at

    def _read_again(self) -> list[Revision]:
        committed, tentative = self._heard.agreement.offer(self._words())
        return self._segments.add(committed, tentative, self._heard.end)

    def _end_utterance(self) -> list[Revision]:
        heard = self._heard
        committed = heard.agreement.finish(self._words())
        self.doubted += heard.doubted
        revisions = self._segments.add(committed, (), heard.end) + self._segments.end(heard.end)
        heard.agreement, heard.utterances = LocalAgreement(), Utterances()
        heard.sound = heard.sound[-LEAD:]
        return revisions

    def _shorten(self) -> list[Revision]:
        """An utterance without a pause: go on after the last committed word, or after all of it if there is none."""
        heard = self._heard
        revisions = self._read_again()
        if heard.agreement.end <= heard.begin:
            revisions += self._segments.add(heard.agreement.finish(self._words()), (), heard.end)
        heard.sound = heard.sound[max(heard.agreement.end - heard.begin, MAX_UTTERANCE // 4) :]
        return revisions


class WhisperReader:
    """Reads sound of up to CONTEXT_S with a model of faster-whisper, greedily, in one thread.

    Without a `language`, what is not English is not read: the language encoders of today's bundles know no other.
    """

    def __init__(self, folder: Path, language: str | None = None) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        self._model: Any = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
        self.multilingual: bool = self._model.model.is_multilingual
        self._language = language
        self._tokenizer: Any = Tokenizer(
            self._model.hf_tokenizer, self.multilingual, task="transcribe", language=language or "en"
        )

    def __call__(self, samples: NDArray[np.float32]) -> list[Word] | None:
        length = int(CONTEXT_S * SPEECH_HZ)
        padded = np.zeros(length, np.float32)
        padded[: len(samples)] = samples[:length]
        features = self._model.feature_extractor(padded, padding=0)[:, : int(CONTEXT_S * 100)]
        encoded = self._model.encode(features)
        if self.multilingual and self._language is None:
            (guesses,) = self._model.model.detect_language(encoded)
            if dict(guesses).get("<|en|>", 0.0) < ENGLISH_P:
                return None
        tokenizer = self._tokenizer
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        (result,) = self._model.model.generate(
            encoded, [prompt], beam_size=1, max_length=MAX_TOKENS, return_scores=True, return_no_speech_prob=True
        )
        tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        if not tokens:
            return []
        frames = min(len(samples), length) // 160
        (pieces,) = self._model.find_alignment(tokenizer, [tokens], encoded, frames)
        words = joined(pieces)
        reading = Reading(tokenizer.decode(tokens), result.scores[0], result.no_speech_prob, words)
        return words if believable(reading) else None


@dataclass(frozen=True)
class Reading:
    """What the model says of its own answer: the mean log probability of a token, and that there was no speech."""

    text: str
    log_probability: float
    no_speech: float
    words: Sequence[Word]


def believable(reading: Reading) -> bool:
    """False for a reading in circles, and for one that the model itself does not believe."""
    data = reading.text.encode()
    circles = len(data) / len(zlib.compress(data)) > MAX_COMPRESSION
    mean_p = float(np.mean([word.probability for word in reading.words])) if reading.words else 0.0
    guessed = reading.log_probability < MIN_LOG_PROBABILITY or mean_p < MIN_WORD_P
    return not (circles or guessed or (reading.no_speech > NO_SPEECH_P and reading.log_probability < -0.5))


def joined(pieces: list[dict[str, Any]]) -> list[Word]:
    """Words with what is written to them (a full stop, `'s`, the `,462` of a number); times in samples."""
    words: list[Word] = []
    for piece in pieces:
        text = piece["word"]
        if not text.strip():
            continue
        start, end = round(piece["start"] * SPEECH_HZ), round(piece["end"] * SPEECH_HZ)
        if words and not (text[0] == " " or text[0].isalnum()):
            last, spoken = words[-1], any(letter.isalnum() for letter in text)
            words[-1] = Word(last.text + text.strip(), last.start, max(last.end, end * spoken), last.probability)
        elif any(letter.isalnum() for letter in text):
            words.append(Word(text.strip(), start, max(end, start + 1), float(piece["probability"])))
    return words


def open_whisper(model: Model, language: str | None, busy_share: float) -> WhisperRecogniser:
    """A recogniser with this model; ImportError without faster-whisper, RuntimeError for files of another kind."""
    import faster_whisper

    (detector,) = sorted((Path(faster_whisper.__file__).parent / "assets").glob("silero_vad*.onnx"))[-1:]
    reader = WhisperReader(model.folder, language)
    understands = language if reader.multilingual and language else "English"
    return WhisperRecogniser(reader, VoiceDetector(detector), f"whisper {model.name}, {understands}", busy_share)


def problem(model: Model) -> str | None:
    """Why a model does not work here; None when it reads a second of silence."""
    try:
        WhisperReader(model.folder)(np.zeros(SPEECH_HZ, np.float32))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return one_line(f"does not load: {error}")
    return None
