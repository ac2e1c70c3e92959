"""The library's two doors: `open` watches devices or files, `Engines` takes what the program pushes.

A loop runs on a thread of its own, predictions come by iteration or by a callback, and no socket is opened unless
`publish` is given. docs/embedding.md has the examples.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from clcr_stream.config import MAX_STREAMS, config_of, engine_options, load_config, only_stream
from clcr_stream.embedding.streams import OnPrediction, PredictionStream, PushedStream
from clcr_stream.errors import ConfigError
from clcr_stream.inference.baselines import Baselines
from clcr_stream.run import check
from clcr_stream.sources.base import Modality, Pace, SourceSpec
from clcr_stream.streams.mailbox import RECORDING_PREDICTIONS
from clcr_stream.streams.running import Running
from clcr_stream.streams.stream import Hooks, StreamOptions

MODALITIES: tuple[Modality, ...] = get_args(Modality)
_LOG = logging.getLogger(__name__)


def open(
    *,
    camera: str | int | None = None,
    microphone: str | int | None = None,
    input: str | Path | None = None,
    transcript: str | Path | None = None,
    pace: Pace = "real",
    bundle: str | Path | None = None,
    backend: str = "auto",
    gamma: float | None = None,
    duration_s: float | None = None,
    calibrate_s: float | None = None,
    profile: str | Path | None = None,
    settle_ms: float = 60.0,
    stream: str = "default",
    publish: str | None = None,
    format: Literal["json", "msgpack"] = "json",
    output: str | Path | None = None,
    record: str | Path | None = None,
    record_media: bool = False,
    record_rotate: str | None = None,
    on_prediction: OnPrediction | None = None,
    config: Mapping[str, object] | None = None,
) -> PredictionStream:
    """A stream that runs from now on until its input ends or it is closed; values are those of the command's flags.

    One of `camera`, `microphone`, `input` and `transcript` is needed: no device is opened unasked. `publish`: endpoint,
    "default" is the user's own ipc socket. With `on_prediction` the stream calls, else it is iterated. `config`: other
    keys of configs/default.yaml, {"sources.rotate": 90}. Raises the ClcrError of whatever cannot be opened.
    """
    if camera is None and microphone is None and input is None and transcript is None:
        raise ConfigError("open: no source; give camera, microphone, input or transcript")
    device = "none" if input is None else None
    sources = {
        "sources.camera": device if camera is None else str(camera),
        "sources.mic": device if microphone is None else str(microphone),
        "sources.input": _text(input),
        "sources.transcript": _text(transcript),
        "sources.pace": pace,
        "model.bundle": _text(bundle),
        "model.backend": backend,
        "run.duration_s": duration_s,
        "person.calibrate_s": calibrate_s,
        "person.profile": _text(profile),
        **_recorded(record, record_media, record_rotate),
        **(config or {}),
    }
    whole = config_of(sources, stream, gamma, settle_ms, publish, format, _text(output))
    check([options := only_stream(whole, publish)])
    _tell_of_media(options)
    running = Running(engine_options(whole))
    try:
        limit = RECORDING_PREDICTIONS if pace == "max" else None
        opened = PredictionStream(running, options, Hooks(), limit, on_prediction)
    except BaseException:
        running.close()
        raise
    opened.own()
    return opened


class Engines:
    """A bundle's engines for up to `streams` streams that the program feeds itself; a context manager.

    Streams of one Engines share one loop: those that are due together go through the engines in one call.
    """

    def __init__(self, running: Running, bundle: str | None = None) -> None:
        self._running, self._bundle = running, bundle
        self._finalizer = weakref.finalize(self, running.close)

    @classmethod
    def load(cls, bundle: str | Path | None = None, backend: str = "auto", streams: int = 1) -> Engines:
        """The engines of a bundle's folder, None for the one that is shipped. BundleError, BackendError."""
        if not 1 <= streams <= MAX_STREAMS:
            raise ConfigError(f"Engines.load: streams is {streams}, allowed are 1..{MAX_STREAMS}")
        config = load_config(None, {"model.bundle": _text(bundle), "model.backend": backend})
        return cls(Running(replace(engine_options(config), seats=streams)), _text(bundle))

    @property
    def backend(self) -> str:
        """The name of what runs the engines."""
        return self._running.engines.backend

    @property
    def frame_rate_hz(self) -> int:
        """Frames a second that the model sees; of more, those nearest to its slots are used."""
        return self._running.engines.manifest.vision.rate_hz

    @property
    def sample_rate_hz(self) -> int:
        """What `push_audio` takes."""
        return self._running.engines.manifest.acoustic.sample_rate_hz

    @property
    def face_px(self) -> int:
        """The side of the faces that `push_face` takes."""
        return self._running.engines.manifest.vision.size_px

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the bundle's predictions; () of a regression."""
        return tuple(self._running.engines.manifest.labels)

    @property
    def baseline_rates(self) -> dict[str, float]:
        """Steps a second of a person's baseline, by modality; {} if the bundle keeps none."""
        states = self._running.engines.levels.baseline_states
        return {modality: one.steps_per_s for modality, one in states.items()}

    def stream(
        self,
        name: str = "default",
        on_prediction: OnPrediction | None = None,
        *,
        modalities: Sequence[Modality] = MODALITIES,
        pace: Pace = "real",
        gamma: float | None = None,
        calibrate_s: float | None = None,
        profile: str | Path | None = None,
        baselines: Baselines | None = None,
        settle_ms: float = 60.0,
        publish: str | None = None,
        format: Literal["json", "msgpack"] = "json",
        output: str | Path | None = None,
        record: str | Path | None = None,
        record_media: bool = False,
        record_rotate: str | None = None,
    ) -> PushedStream:
        """A stream that the program feeds: with the clock (`pace` "real"), or a recording as fast as it goes ("max").

        A recording's times count from 0. Its ticks wait until every one of `modalities` but language was pushed so far,
        so name those that will be. `baselines` are what another stream left of the same person. ConfigError,
        PublishError; BackendError when all streams are taken.
        """
        if not modalities or not set(modalities) <= set(MODALITIES):
            raise ConfigError(f"stream {name}: modalities are {modalities!r}, allowed are {', '.join(MODALITIES)}")
        if pace not in ("real", "max"):
            raise ConfigError(f"stream {name}: pace is {pace!r}, allowed are real and max")
        running = self._running
        running.check(name)
        own = {
            "model.bundle": self._bundle,
            "person.calibrate_s": calibrate_s,
            "person.profile": _text(profile),
            **_recorded(record, record_media, record_rotate),
        }
        config = config_of(own, name, gamma, settle_ms, publish, format, _text(output))
        options = replace(only_stream(config, publish), sources=SourceSpec(pace=pace), origin_ns=0)
        check([options])
        _tell_of_media(options)
        hooks = Hooks(baselines=baselines or {})
        return PushedStream(self, running, options, tuple(modalities), on_prediction, hooks)

    def close(self) -> None:
        """End every stream and let go of the engines. Idempotent."""
        self._finalizer.detach()
        self._running.close()

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)


def _recorded(record: str | Path | None, media: bool, rotate: str | None) -> dict[str, object]:
    return {"record.file": _text(record), "record.media": media or None, "record.rotate": rotate}


def _tell_of_media(options: StreamOptions) -> None:
    """Nobody's face and voice are recorded without a line; the program's logging shows it unless it is told not to."""
    if options.record is not None and options.record.media:
        _LOG.warning("RECORDING faces, sound and words of whoever is there to %s; tell them", options.record.shown)
