"""Which recogniser a text names: `asr`, `asr:whisper[=MODEL][,language=en]` or `asr:sherpa=FOLDER`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.models import INSTALL, check_language, find, installed
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Recogniser

ALLOWED = "asr, asr:whisper[=MODEL][,language=en] or asr:sherpa=FOLDER"
INSTALL_SHERPA = 'pip install "clcr-stream[sherpa]"'
BUSY_SHARE = 0.75  # of the time, at most, readings of a live voice may take


@dataclass(frozen=True)
class RecogniserSpec:
    """A recogniser, as somebody asked for it."""

    kind: Literal["whisper", "sherpa"]
    model: str | None = None  # a folder or, for Whisper, a name
    language: str | None = None  # None: the model's own, or its guess


def names_recogniser(text: str) -> bool:
    """True when a transcript's text asks for speech recognition."""
    return text == "asr" or text.startswith("asr:")


def parse(text: str) -> RecogniserSpec:
    """What a text asks for; SourceError when it is none of ALLOWED."""
    name, _, rest = text.removeprefix("asr").removeprefix(":").partition("=")
    model, *options = rest.split(",")
    name, _, option = name.partition(",")  # asr:whisper,language=de: the first "=" is the option's
    if option:
        model, options = "", [f"{option}={rest}"]
    languages = [one.removeprefix("language=") for one in options if one.startswith("language=")]
    if name not in ("", "whisper", "sherpa") or len(languages) != len(options) or len(options) > 1:
        raise SourceError(f"transcript {text}: not a recogniser; allowed are {ALLOWED}")
    if name == "sherpa":
        if not model or options:
            raise SourceError(f"transcript {text}: give the folder of a streaming model, asr:sherpa=FOLDER")
        return RecogniserSpec("sherpa", model)
    return RecogniserSpec("whisper", model or None, languages[0] if languages else None)


def check(spec: RecogniserSpec) -> None:
    """SourceError, with what to run, when this machine cannot do it; loads nothing."""
    if spec.kind == "sherpa":
        if importlib.util.find_spec("sherpa_onnx") is None:
            raise SourceError(f"sherpa-onnx is not installed; run `{INSTALL_SHERPA}`", "not_installed")
        from clcr_stream.sources.speech.sherpa import find_files

        find_files(Path(spec.model or "").expanduser())
        return
    if not installed():
        raise SourceError(f"faster-whisper is not installed; run `{INSTALL}`", "not_installed")
    model = find(spec.model)
    if spec.language is not None:
        check_language(model, spec.language)


def automatic(sample_rate_hz: int = SPEECH_HZ) -> str:
    """The text of what is taken where nothing was named. SourceError, with what to run, when there is none."""
    if sample_rate_hz != SPEECH_HZ:
        raise SourceError(f"recognisers hear {SPEECH_HZ} Hz, this bundle {sample_rate_hz}; give a file of words")
    check(RecogniserSpec("whisper"))
    return "asr:whisper"


def open_recogniser(spec: RecogniserSpec, live: bool) -> Recogniser:
    """The recogniser, loaded: takes seconds. SourceError when its files cannot be used."""
    check(spec)
    try:
        if spec.kind == "sherpa":
            from clcr_stream.sources.speech.sherpa import SherpaRecogniser

            return SherpaRecogniser(Path(spec.model or "").expanduser())
        from clcr_stream.sources.speech.whisper import open_whisper

        return open_whisper(find(spec.model), spec.language, BUSY_SHARE if live else 1.0)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"the recogniser {spec.kind} does not load: {reason}; run `clcr-stream models`") from None
