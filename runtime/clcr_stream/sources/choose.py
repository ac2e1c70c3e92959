"""Cameras, microphones, files, streams and transcripts; `open_sources` picks by the way they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from clcr_stream.errors import ConfigError, SourceError, redact
from clcr_stream.sources.base import AUTO, BOTH, Flag, Modality, Sinks, Source, SourceSpec, Span
from clcr_stream.sources.pipeline import check_pipeline, is_pipeline
from clcr_stream.sources.speech import choose as recognisers
from clcr_stream.sources.speech.choose import names_recogniser
from clcr_stream.sources.threaded import ThreadedSource

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class FileKind(Protocol):
    """Files of an ending that another room reads, such as recordings."""

    def open(self, location: str, requested: tuple[Modality, ...], sinks: Sinks, spec: SourceSpec) -> Source: ...
    def check(self, location: str, requested: tuple[Modality, ...], spec: SourceSpec, flag: Flag) -> None: ...


FileKinds = Mapping[str, FileKind]  # by the ending, with its dot


def open_sources(spec: SourceSpec, sinks: Sinks, kinds: FileKinds = {}) -> list[Source]:  # noqa: B006
    """The sources of `spec`, not started; nothing is opened twice. A file of one of `kinds` is opened by it.

    SourceError for anything that can never work (a file that is missing or empty, an unknown scheme); a device or a
    network stream that is merely absent now gives a source that waits for it. ConfigError for a contradiction.
    """
    if spec.input is not None and {spec.camera, spec.microphone} != {"none"}:
        raise ConfigError("--input gives video and audio: leave out --camera and --mic, or give those alone")
    if spec.pace not in ("real", "max"):
        raise ConfigError(f"pace {spec.pace}: allowed are real and max")
    sources: list[Source] = []
    for flag, text, requested in _inputs(spec):
        kind = _kind_of(text, kinds)
        if kind is None:
            sources.append(_open(flag, text, requested, spec, sinks))
        else:
            sources.append(kind.open(text, requested, sinks, spec))
    words = _open_words(spec, sinks, sources)
    return sources if words is None else [*sources, words]


def _kind_of(text: str, kinds: FileKinds) -> FileKind | None:
    return kinds.get(Path(text).suffix) if _names_file(text) else None


def files_of(spec: SourceSpec, kinds: FileKinds) -> list[tuple[Flag, str]]:
    """The inputs that one of `kinds` opens: the flag that names each, and its text."""
    return [(flag, text) for flag, text, _ in _inputs(spec) if _kind_of(text, kinds) is not None]


def check_spec(spec: SourceSpec, kinds: FileKinds = {}) -> None:  # noqa: B006
    """SourceError for files that can never work, before anything slow is loaded; touches no device and no network."""
    from clcr_stream.sources.media import check_media_file
    from clcr_stream.sources.pipes import STDIN, is_pipe
    from clcr_stream.sources.screen import check_screen

    check_settings(spec)
    _check_span(spec)
    for flag, text, requested in _inputs(spec):
        if text == STDIN and spec.transcript == STDIN:
            raise ConfigError(f"{flag} - and transcript - are both standard input; give one of them a name")
        kind = _kind_of(text, kinds)
        if kind is not None:
            kind.check(text, requested, spec, flag)
        elif text.startswith("screen:"):
            check_screen(text, flag)
        elif is_pipeline(text):
            check_pipeline(text, flag)
        elif not _is_device(text) and _names_file(text) and not is_pipe(text):
            check_media_file(text, requested, flag)
    if spec.transcript.endswith((".srt", ".vtt", ".jsonl")) and not _SCHEME.match(spec.transcript):
        from clcr_stream.sources.subtitles import read_transcript

        read_transcript(Path(spec.transcript).expanduser())
    elif names_recogniser(spec.transcript):
        recognisers.check(recognisers.parse(spec.transcript))


def check_settings(spec: SourceSpec) -> None:
    """ConfigError for what is wrong whatever the inputs are: the times of a part, the file that finds faces."""
    start_s, end_s = spec.span.start_s, spec.span.end_s
    if not 0 <= start_s < float("inf") or (end_s is not None and not start_s < end_s < float("inf")):
        end = "" if end_s is None else f", --end {end_s:g}"
        raise ConfigError(f"--start {start_s:g}{end}: allowed are seconds, 0 or more, the end after the start")
    if spec.face_model is not None:
        from clcr_stream.frontends.yunet import YuNet

        YuNet(spec.face_model)


def _check_span(spec: SourceSpec) -> None:
    """ConfigError when a part of a recording is asked for, and there is none that can be cut so."""
    from clcr_stream.sources.pipes import is_pipe

    if spec.span == Span():
        return
    inputs = [text for _, text, _ in _inputs(spec)]
    if not inputs:
        raise ConfigError(
            "--start, --end and --loop are for recordings, there is none; give --input, or leave them out"
        )
    live = [text for text in inputs if not _is_recording(text)]
    if live:
        raise ConfigError(f"--start, --end and --loop are for recordings, {redact(live[0])} is none; leave them out")
    pipes = [text for text in inputs if is_pipe(text)]
    if pipes and spec.span.loop:
        raise ConfigError(f"--loop: {pipes[0]} is a pipe, which can be read once; give a file")


def _is_recording(text: str) -> bool:
    from clcr_stream.sources.urls import names_recording

    return not _is_device(text) and (_names_file(text) or names_recording(text))


def _inputs(spec: SourceSpec) -> list[tuple[Flag, str, tuple[Modality, ...]]]:
    """What brings video and sound: the flag that names it, its text and what is wanted of it. Nothing stands twice."""
    if spec.input is not None:
        return [("input", spec.input, BOTH)]
    if spec.camera == spec.microphone and spec.camera != "none" and not _is_device(spec.camera):
        return [("camera", spec.camera, BOTH)]
    apart: list[tuple[Flag, str, tuple[Modality, ...]]] = [
        ("camera", spec.camera, ("vision",)),
        ("mic", spec.microphone, ("acoustic",)),
    ]
    return [(flag, text, requested) for flag, text, requested in apart if text != "none"]


def _open(flag: Flag, text: str, requested: tuple[Modality, ...], spec: SourceSpec, sinks: Sinks) -> Source:
    """The source of one of `_inputs`; test:// also brings its words unless a transcript is given."""
    match requested:
        case ("vision",):
            return _open_camera(spec, sinks)
        case ("acoustic",):
            return _open_microphone(spec, sinks)
        case _:
            words = text.startswith("test:") and spec.transcript in ("none", AUTO)
            return _open_media(text, (*requested, "language") if words else requested, spec, sinks, flag)


def _names_file(text: str) -> bool:
    if is_pipeline(text):
        return False
    return text == "-" or text.startswith("file://") or (_SCHEME.match(text) is None and not _is_word(text))


def _is_device(text: str) -> bool:
    from clcr_stream.sources.camera import is_camera
    from clcr_stream.sources.microphone import is_microphone

    return is_camera(text) or is_microphone(text)


def _open_camera(spec: SourceSpec, sinks: Sinks) -> Source:
    from clcr_stream.sources.camera import ALLOWED, CameraSource, is_camera

    if is_camera(spec.camera):
        return CameraSource(spec.camera, sinks)
    if _is_word(spec.camera):
        raise SourceError(f"camera {redact(spec.camera)}: give {ALLOWED}")
    return _open_media(spec.camera, ("vision",), spec, sinks, "camera")


def _open_microphone(spec: SourceSpec, sinks: Sinks) -> Source:
    from clcr_stream.sources.microphone import ALLOWED, MicrophoneSource, is_microphone

    if is_microphone(spec.microphone):
        return MicrophoneSource(spec.microphone, sinks)
    if _is_word(spec.microphone):
        raise SourceError(f"mic {redact(spec.microphone)}: give {ALLOWED}")
    return _open_media(spec.microphone, ("acoustic",), spec, sinks, "mic")


def _is_word(text: str) -> bool:
    """True when `text` looks neither like a path, a URL nor a pipeline: more likely a device that was misspelt."""
    return text != "-" and "/" not in text and "." not in text and not is_pipeline(text)


def _open_media(text: str, requested: tuple[Modality, ...], spec: SourceSpec, sinks: Sinks, flag: Flag) -> Source:
    """A test source, a live URL or a file; an error begins with the `flag` that named it."""
    if is_pipeline(text):
        from clcr_stream.sources.network import NetworkSource

        check_pipeline(text, flag)
        return NetworkSource(text, ("vision",), sinks, kind="camera")
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme.group(1).lower() == "test":
        from clcr_stream.sources.synthetic.source import SyntheticSource

        return SyntheticSource(text, requested, sinks, spec.pace, flag)
    if text.startswith("screen:"):
        from clcr_stream.sources.network import NetworkSource
        from clcr_stream.sources.screen import check_screen

        check_screen(text, flag)
        return NetworkSource(text, ("vision",), sinks, kind="screen")
    if scheme is None or scheme.group(1).lower() == "file":
        return _open_file(text, requested, spec, sinks, flag)
    from clcr_stream.sources.network import NetworkSource
    from clcr_stream.sources.urls import SCHEMES, LiveError, names_recording, open_recording

    if scheme.group(1).lower() not in SCHEMES:
        raise SourceError(
            f"{flag} {redact(text)}: scheme {scheme.group(1)}:// is not read; allowed are {', '.join(SCHEMES)}"
        )
    if names_recording(text):
        from clcr_stream.sources.files import FileSource

        try:
            return FileSource(text, requested, sinks, spec.pace, flag, spec.span, open_recording)
        except LiveError as live:
            if spec.span != Span():
                raise ConfigError(f"{live}; --start, --end and --loop are for recordings, leave them out") from None
    return NetworkSource(text, requested, sinks)


def _open_file(text: str, requested: tuple[Modality, ...], spec: SourceSpec, sinks: Sinks, flag: Flag) -> Source:
    from clcr_stream.sources.files import FileSource
    from clcr_stream.sources.pipes import PipeFile, is_pipe, open_pipe

    if not is_pipe(text):
        return FileSource(text, requested, sinks, spec.pace, flag, spec.span)
    pipe = PipeFile(text, stopping=sinks.stopping)
    return FileSource(text, requested, sinks, spec.pace, flag, spec.span, partial(open_pipe, pipe), pipe.cancel)


def _open_words(spec: SourceSpec, sinks: Sinks, others: Sequence[Source]) -> Source | None:
    """What brings the words: the one named, or with AUTO a recogniser if there is one and sound without words."""
    text = spec.transcript
    if text == "none":
        return None
    from clcr_stream.sources.speech.source import AbsentRecogniser, SpeechSource

    heard = [source for source in others if "acoustic" in source.modalities]
    if text == AUTO:
        scripted = any("language" in source.modalities for source in others)
        if scripted or not heard or _is_hummed(spec):
            return None
        try:
            text = recognisers.automatic(sinks.grid.sample_rate_hz)
        except SourceError as error:
            return AbsentRecogniser(AUTO, f"words are not heard: {error}, or say --transcript none", error.code)
    if not recognisers.names_recogniser(text):
        played = next((source for source in (*heard, *others) if isinstance(source, ThreadedSource)), None)
        return _open_transcript(text, sinks, played)
    if not heard:
        raise ConfigError(f"transcript {text}: there is no sound to listen to; give --mic or an --input with sound")
    return SpeechSource(text, sinks, heard[0], lossless=spec.pace == "max")


def _is_hummed(spec: SourceSpec) -> bool:
    """True for the sound of test:// without a voice of espeak-ng: there are no words in it."""
    text = spec.microphone if spec.input is None else spec.input
    return text.startswith("test:") and "voice=espeak" not in text


def _open_transcript(text: str, sinks: Sinks, played: ThreadedSource | None) -> Source:
    from clcr_stream.sources.transcripts import StdinTranscriptSource, TranscriptFileSource, ZmqTranscriptSource

    if text == "-":
        return StdinTranscriptSource(sinks)
    if text.startswith(("zmq://", "ipc://")):
        return ZmqTranscriptSource(text, sinks)
    if _SCHEME.match(text):
        raise SourceError(
            f"transcript {redact(text)}: not available; give auto, none, FILE.srt, FILE.vtt, FILE.jsonl, -, "
            f"zmq://host:port[/topic], ipc://path, {recognisers.ALLOWED}"
        )
    return TranscriptFileSource(text, sinks, played)
