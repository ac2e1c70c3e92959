"""Which languages a model of Whisper is asked for, with stand-ins for its files and for faster-whisper."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech import choose
from clcr_stream.sources.speech.choose import check, parse
from clcr_stream.sources.speech.recogniser import SPEECH_HZ
from clcr_stream.sources.speech.whisper import WhisperReader


@pytest.fixture(autouse=True)
def _whisper_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which packages are installed is not what is tested here."""
    monkeypatch.setattr(choose, "installed", lambda: True)


def write_model(folder: Path, tokens: int, suffix: str = "txt") -> Path:
    """The files that say what a model is, with so many tokens, those of English and German among them."""
    folder.mkdir()
    for name in ("model.bin", "tokenizer.json"):
        (folder / name).touch()
    vocabulary = ["<|en|>", "<|de|>", *(f"word{number}" for number in range(tokens - 2))]
    text = json.dumps(vocabulary) if suffix == "json" else "\n".join(vocabulary) + "\n"
    (folder / f"vocabulary.{suffix}").write_text(text)
    return folder


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_another_language_is_refused_by_an_english_model_and_taken_by_a_multilingual_one(
    suffix: str, tmp_path: Path
) -> None:
    english = write_model(tmp_path / "tiny.en", 51_864, suffix)
    check(parse(f"asr:whisper={english},language=en"))
    with pytest.raises(SourceError) as caught:
        check(parse(f"asr:whisper={english},language=de"))
    assert str(caught.value) == (
        "language=de: model tiny.en knows English alone; run `clcr-stream models --fetch tiny` "
        "and give asr:whisper=tiny,language=de"
    )
    multilingual = write_model(tmp_path / "tiny", 51_865, suffix)
    check(parse(f"asr:whisper={multilingual},language=de"))
    check(parse(f"asr:whisper={multilingual}"))


@pytest.mark.parametrize("tokens", [51_864, 51_865])
def test_a_language_that_no_model_knows_is_refused(tokens: int, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", tokens)
    for language in ("xx", "German", ""):
        with pytest.raises(SourceError, match=f"language={language}: model model knows no such language"):
            check(parse(f"asr:whisper={model},language={language}"))


def test_a_model_without_a_readable_vocabulary_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", 51_865)
    (model / "vocabulary.txt").unlink()
    for text in (None, "[", "3"):
        if text is not None:
            (model / "vocabulary.json").write_text(text)
        with pytest.raises(SourceError, match="cannot be read"):
            check(parse(f"asr:whisper={model},language=de"))


class FasterWhisper:
    """A multilingual model as faster-whisper gives one, which hears `spoken` in whatever it gets."""

    def __init__(self, spoken: str) -> None:
        self.spoken = spoken
        self.language = ""
        self.prompts: list[list[object]] = []
        self.is_multilingual = True
        self.model = self
        self.hf_tokenizer = None
        self.sot_sequence, self.no_timestamps, self.eot = ["<|startoftranscript|>"], "<|notimestamps|>", 50_257

    def feature_extractor(self, samples: np.ndarray, padding: int) -> np.ndarray:
        return np.zeros((80, len(samples) // 160 + padding), np.float32)

    def encode(self, features: np.ndarray) -> np.ndarray:
        return features

    def detect_language(self, _encoded: object) -> list[list[tuple[str, float]]]:
        return [[(f"<|{self.spoken}|>", 0.9), ("<|pl|>", 0.1)]]

    def tokenizer(self, _tokenizer: object, multilingual: bool, task: str, language: str) -> FasterWhisper:
        assert multilingual and task == "transcribe"
        self.language = language
        return self

    def generate(self, _encoded: object, prompts: list[list[object]], **_options: object) -> list[Any]:
        self.prompts += prompts
        return [SimpleNamespace(sequences_ids=[[7]], scores=[-0.2], no_speech_prob=0.0)]

    def decode(self, _tokens: list[int]) -> str:
        return " wunderbar"

    def find_alignment(self, *_arguments: object) -> list[list[dict[str, object]]]:
        return [[{"word": " wunderbar", "start": 0.1, "end": 0.5, "probability": 0.9}]]


@pytest.mark.parametrize(
    ("language", "spoken", "asked", "heard"),
    [
        ("de", "de", "de", ["wunderbar"]),
        ("de", "en", "de", ["wunderbar"]),  # named, so nothing is guessed
        (None, "en", "en", ["wunderbar"]),
        (None, "de", "en", None),  # the language encoders know no other: it is not read
    ],
)
def test_a_multilingual_model_reads_the_language_that_is_named_else_english_alone(
    language: str | None, spoken: str, asked: str, heard: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = FasterWhisper(spoken)
    package, tokenizer = ModuleType("faster_whisper"), ModuleType("faster_whisper.tokenizer")
    package.WhisperModel = lambda *_arguments, **_options: stub  # type: ignore[attr-defined]
    tokenizer.Tokenizer = stub.tokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    monkeypatch.setitem(sys.modules, "faster_whisper.tokenizer", tokenizer)
    words = WhisperReader(Path("model"), language)(np.zeros(SPEECH_HZ, np.float32))
    assert stub.language == asked
    assert (None if words is None else [word.text for word in words]) == heard
    assert bool(stub.prompts) == (heard is not None)
