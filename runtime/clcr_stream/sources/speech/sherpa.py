"""A streaming transducer of sherpa-onnx: it reads the sound once, as it comes, and does not take a piece back.

All words but the last are committed; the last one may get more pieces until the next word begins, or a pause ends it.
"""

from __future__ import annotations

import math
import mmap
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Revision, Segments, Word

NEEDED = (
    "a streaming model has encoder*.onnx, decoder*.onnx and joiner*.onnx (or .int8.onnx) of one name, and tokens.txt"
)
STREAMING_KEYS = (b"decode_chunk_len", b"chunk_shift")  # what only encoders that stream say about themselves
PAUSE_S = 0.8  # after the last piece, of which the word's own rest is about 0.3 s
SILENCE_S = 2.4  # without a word: the library's clock begins anew
NEVER_S = 1e9
MAX_PIECES = 200  # of speech without a pause, until the library's list of them begins anew
LAST_PIECE = int(0.2 * SPEECH_HZ)  # how long a word goes on after its last piece began, at most
FRAME = SPEECH_HZ // 100
MAX_NEED = 60 * SPEECH_HZ  # no model reads so much at once

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # kana, ideographs
MARKS = (" ", "\u2581")  # one of these begins a word


@dataclass(frozen=True)
class TransducerFiles:
    """What sherpa-onnx needs of a folder."""

    encoder: Path
    decoder: Path
    joiner: Path
    tokens: Path


class Piece(Struct, frozen=True):
    """A part of a word, as the model counts them; `start` in samples of the pushed sound."""

    text: str
    start: int
    probability: float


def find_files(folder: Path) -> TransducerFiles:
    """The streaming model in a folder; SourceError when there is none.

    Encoder and joiner are taken in int8 where there are both, the decoder, which costs little, in float. Of several
    models the first by name is taken.
    """
    if not folder.is_dir():
        raise SourceError(f"model {folder}: not a folder; {NEEDED}")
    parts = {
        "encoder": _by_name(folder, "encoder", int8=True),
        "decoder": _by_name(folder, "decoder", int8=False),
        "joiner": _by_name(folder, "joiner", int8=True),
    }
    missing = [f"{part}*.onnx" for part, paths in parts.items() if not paths]
    if not (folder / "tokens.txt").is_file():
        missing.append("tokens.txt")
    if missing:
        raise SourceError(f"model {folder}: no {', no '.join(missing)}; {NEEDED}")
    names = sorted(parts["encoder"].keys() & parts["decoder"].keys() & parts["joiner"].keys())
    if not names:
        raise SourceError(f"model {folder}: encoder, decoder and joiner have different names; {NEEDED}")
    encoder, decoder, joiner = (paths[names[0]] for paths in parts.values())
    if not _streams(encoder):
        raise SourceError(
            f"model {folder}: {encoder.name} reads whole recordings, or is no encoder; take one that streams"
        )
    return TransducerFiles(encoder, decoder, joiner, folder / "tokens.txt")


def _by_name(folder: Path, part: str, int8: bool) -> dict[str, Path]:
    """Files of a part by the model's name, which is what the names of its parts have in common."""
    paths = sorted(folder.glob(f"{part}*.onnx"), key=lambda path: path.name.endswith(".int8.onnx") == int8)
    return {path.name.removeprefix(part).removesuffix(".onnx").removesuffix(".int8"): path for path in paths}


def _streams(encoder: Path) -> bool:
    """True for an encoder that names its step; sherpa-onnx ends the whole process when it does not find it."""
    with encoder.open("rb") as file:
        if encoder.stat().st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.rfind(key) >= 0 for key in STREAMING_KEYS)  # it stands at the end of the file


class SherpaRecogniser:
    """Greedy search in one thread of the processor. ImportError without sherpa-onnx, SourceError for other folders."""

    def __init__(self, folder: Path) -> None:
        import sherpa_onnx

        files = find_files(folder)
        self.about = f"sherpa-onnx, {folder.resolve().name.removeprefix('sherpa-onnx-')}"
        self.doubted = 0  # such models say nothing of what they do not understand
        self._library: Any = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(files.tokens),
            encoder=str(files.encoder),
            decoder=str(files.decoder),
            joiner=str(files.joiner),
            num_threads=1,
            sample_rate=SPEECH_HZ,
            decoding_method="greedy_search",
            provider="cpu",
            enable_endpoint_detection=True,
            rule1_min_trailing_silence=SILENCE_S,
            rule2_min_trailing_silence=PAUSE_S,
            rule3_min_utterance_length=NEVER_S,
        )
        self._letters_are_bytes = writes_bytes_as_letters(files.tokens.read_text(encoding="utf-8"))
        self._need, self._step = self._measure()
        self._segments = Segments()
        self._begin_anew(0)

    def push(self, first: int, samples: NDArray[np.float32]) -> list[Revision]:
        revisions = []
        if first != self._next:
            revisions += self.flush()
            self._begin_anew(first)
        if len(samples):
            self._next += len(samples)
            self._stream.accept_waveform(SPEECH_HZ, np.ascontiguousarray(samples, np.float32))
            revisions += self._decode()
        return revisions

    def flush(self) -> list[Revision]:
        revisions = []
        if self._next > self._first:
            # Silence, so that the last sound is in a whole step with all that the encoder sees after it.
            self._stream.accept_waveform(SPEECH_HZ, np.zeros(self._need + self._step, np.float32))
            self._stream.input_finished()
            revisions += self._decode() + self._pause(self._next)
        self._begin_anew(self._next)
        return revisions

    def _measure(self) -> tuple[int, int]:
        """Samples until the encoder reads for the first time, exactly, and from one reading to the next."""
        stream, frames = self._feed_until_ready(0, FRAME)
        stream, need = self._feed_until_ready(frames - FRAME, 1)
        self._library.decode_stream(stream)
        self._library.reset(stream)
        return need, round(self._library.get_result_all(stream).start_time * 100) * FRAME

    def _feed_until_ready(self, need: int, grain: int) -> tuple[Any, int]:
        stream = self._library.create_stream()
        stream.accept_waveform(SPEECH_HZ, np.zeros(need, np.float32))
        while not self._library.is_ready(stream):
            if need > MAX_NEED:
                raise ValueError(f"the model reads nothing in {MAX_NEED // SPEECH_HZ} s of sound")
            stream.accept_waveform(SPEECH_HZ, np.zeros(grain, np.float32))
            need += grain
        return stream, need

    def _begin_anew(self, first: int) -> None:
        """Nothing was heard before sample `first`."""
        self._stream = self._library.create_stream()
        self._first = self._next = self._begin = first  # `_begin`: from which the library counts the time
        self._steps = 0
        self._taken = 0  # pieces of the library's list
        self._open: list[Piece] = []  # of the word that may get more

    def _decode(self) -> list[Revision]:
        revisions = []
        while self._library.is_ready(self._stream):
            self._library.decode_stream(self._stream)
            self._steps += 1
            heard = min(self._first + self._need + (self._steps - 1) * self._step, self._next)
            result = self._library.get_result_all(self._stream)
            revisions += self._take(result, heard)
            # Asked after every step, so that it does not matter how the sound was cut.
            pause = self._library.is_endpoint(self._stream)
            if pause:
                revisions += self._pause(heard)
            if pause or len(result.tokens) > MAX_PIECES:
                self._library.reset(self._stream)
                # Counted in whole numbers: the library's own time is a float, 8 ms coarse after a day.
                self._begin, self._taken = self._first + self._steps * self._step, 0
        return revisions

    def _take(self, result: Any, heard: int) -> list[Revision]:
        """The pieces that are new in the library's result."""
        committed: list[Word] = []
        texts, times_s, scores = result.tokens, result.timestamps, result.ys_probs
        for index in range(self._taken, len(texts)):
            start = min(self._begin + round(times_s[index] * SPEECH_HZ), self._next - 1)
            # Models of NeMo give no probability.
            piece = Piece(texts[index], start, math.exp(scores[index]) if index < len(scores) else 1.0)
            if begins_word(piece.text):
                committed += self._word(start)
                self._open = []
            self._open.append(piece)
        self._taken = len(texts)
        return self._segments.add(committed, self._word(None), heard)

    def _pause(self, heard: int) -> list[Revision]:
        """The last word is complete."""
        committed, self._open = self._word(self._next), []
        return self._segments.add(committed, (), heard) + self._segments.end(heard)

    def _word(self, limit: int | None) -> list[Word]:
        """The open word if it has any text; it ends before `limit`."""
        text = written([piece.text for piece in self._open], self._letters_are_bytes)
        if not text:
            return []
        pieces = [piece for piece in self._open if piece.text not in MARKS]
        start, end = pieces[0].start, pieces[-1].start + LAST_PIECE
        end = end if limit is None else min(end, limit)
        probability = sum(piece.probability for piece in pieces) / len(pieces)
        return [Word(text, start, max(end, start + 1), probability)]


def begins_word(piece: str) -> bool:
    """True for a piece with a mark before it, and for a character of a script without spaces.

    sherpa-onnx writes the mark of word pieces, U+2581, as a space.
    """
    return piece.startswith(MARKS) or UNSPACED.match(piece) is not None


def written(pieces: list[str], letters_are_bytes: bool) -> str:
    """A word from its pieces: some stand for bytes ("<0xE4>"), in a model of bytes every letter does."""
    data = bytearray()
    for piece in pieces:
        byte = BYTE.fullmatch(piece)
        if byte:
            data.append(int(byte[1], 16))
        elif letters_are_bytes:
            data += bytes(_byte_letters().get(letter, 0x20) for letter in piece)
        else:
            data += piece.encode()
    return data.decode(errors="ignore").strip("".join(MARKS))


def writes_bytes_as_letters(tokens: str) -> bool:
    """True for a table (tokens.txt) of byte-level pieces as icefall writes them, by sherpa-onnx's own rule."""
    pieces = [line.split()[0].removeprefix(MARKS[1]) for line in tokens.splitlines() if len(line.split()) == 2]
    highest = max((letter for piece in pieces for letter in piece), default="")
    return "\u0180" <= highest < "\u01c0"


@cache
def _byte_letters() -> dict[str, int]:
    """Printable ASCII stands for itself; the other bytes, in order, for letters from U+0100 that NFKC leaves alone."""
    letters = (chr(code) for code in range(0x100, 0x1C0))
    stable = (letter for letter in letters if unicodedata.normalize("NFKC", letter) == letter)
    return {chr(byte) if 32 <= byte < 127 else next(stable): byte for byte in range(256)}
