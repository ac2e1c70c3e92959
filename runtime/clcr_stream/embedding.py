"""The runtime inside a program: `open` watches devices or files, `Engines` takes what the program pushes.

A loop runs on a thread of its own, predictions come by iteration or by a callback, and no socket is opened unless
`publish` is given. docs/embedding.md has the examples.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
from numpy.typing import NDArray

from clcr_stream.config import MAX_STREAMS, config_of, engine_options, load_config, only_stream
from clcr_stream.errors import ClcrError, ConfigError
from clcr_stream.inference.baselines import Baselines
from clcr_stream.run import check
from clcr_stream.sources.base import Modality, Pace, Sinks, Source, SourceIdentity, SourceSpec
from clcr_stream.sources.pushed import PushedSource
from clcr_stream.streams.mailbox import RECORDING_PREDICTIONS, Caller, Mailbox
from clcr_stream.streams.running import Running
from clcr_stream.streams.stream import Hooks, StreamOptions
from clcr_stream.wire import messages

MODALITIES: tuple[Modality, ...] = get_args(Modality)
OnPrediction = Callable[[messages.Prediction], object]


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
        **(config or {}),
    }
    whole = config_of(sources, stream, gamma, settle_ms, publish, format, _text(output))
    check([options := only_stream(whole, publish)])
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

    def __init__(self, running: Running) -> None:
        self._running = running
        self._finalizer = weakref.finalize(self, running.close)

    @classmethod
    def load(cls, bundle: str | Path | None = None, backend: str = "auto", streams: int = 1) -> Engines:
        """The engines of a bundle's folder, None for the one that is shipped. BundleError, BackendError."""
        if not 1 <= streams <= MAX_STREAMS:
            raise ConfigError(f"Engines.load: streams is {streams}, allowed are 1..{MAX_STREAMS}")
        config = load_config(None, {"model.bundle": _text(bundle), "model.backend": backend})
        return cls(Running(replace(engine_options(config), seats=streams)))

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
        own = {"person.calibrate_s": calibrate_s, "person.profile": _text(profile)}
        config = config_of(own, name, gamma, settle_ms, publish, format, _text(output))
        options = replace(only_stream(config, publish), sources=SourceSpec(pace=pace), origin_ns=0)
        check([options])
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


class PredictionStream:
    """A stream inside its own program: iterate it, or give `on_prediction`. A context manager.

    A live stream keeps the newest prediction alone: a slow reader misses some, and `missed` counts them. A recording at
    pace "max" keeps all and waits for its reader. Iteration ends with the input, and raises the ClcrError that ended
    the stream; so do `wait` and `close`, once.
    """

    def __init__(
        self,
        running: Running,
        options: StreamOptions,
        hooks: Hooks,
        limit: int | None,
        on_prediction: OnPrediction | None,
    ) -> None:
        self._running = running
        self._owned: weakref.finalize[Any, Any] | None = None
        unpaced = options.sources.pace == "max"
        self._mailbox = mailbox = Mailbox(not unpaced, limit, running.host.wake)
        source_ended = hooks.ended

        def ended(error: ClcrError | None) -> None:
            source_ended(error)
            mailbox.end(error)

        hooks = replace(hooks, sinks=(*hooks.sinks, mailbox), has_room=lambda: mailbox.has_room, ended=ended)
        (self._stream,) = running.host.begin([options], hooks)
        self._caller: Caller | None = None
        if on_prediction is not None:
            host, stream = running.host, self._stream
            self._caller = Caller(options.name, mailbox, on_prediction, lambda error: host.end(stream, error))

    def own(self) -> None:
        """End this loop with the stream, also when the program forgets to close it."""
        self._owned = weakref.finalize(self, self._running.close)

    @property
    def name(self) -> str:
        """The stream's name, which its messages carry."""
        return self._stream.options.name

    @property
    def endpoint(self) -> str | None:
        """Where it is published; None when it is not."""
        return self._stream.endpoint

    @property
    def session(self) -> messages.Session:
        """What its predictions mean: labels, bundle, time grid, intended use."""
        session = self._mailbox.session
        assert session is not None  # sent while the stream was opened
        return session

    @property
    def missed(self) -> int:
        """Predictions that newer ones replaced before they were read."""
        return self._mailbox.missed

    @property
    def ended(self) -> bool:
        """Whether no further prediction will come."""
        return self._mailbox.ended

    @property
    def baselines(self) -> Baselines:
        """What was usual for the person when the stream ended, by modality; {} before, or if the bundle keeps none."""
        return self._stream.session.person.final

    def sources(self) -> tuple[messages.Source, ...]:
        """How each input is doing. Any thread."""
        return self._stream.sources()

    def ticks(self) -> messages.Ticks:
        """The account so far: due = published + skipped. Any thread."""
        return self._stream.session.account.ticks()

    def read(self, timeout_s: float | None = None) -> messages.Prediction | None:
        """The next prediction; None at the end, or when `timeout_s` passed. Raises what ended the stream."""
        if self._caller is not None:
            raise ConfigError(f"stream {self.name}: has on_prediction, so it cannot be read as well")
        prediction = self._mailbox.take(timeout_s)
        if prediction is None and self._mailbox.ended:
            self._mailbox.raise_error()
        return prediction

    def __iter__(self) -> PredictionStream:
        return self

    def __next__(self) -> messages.Prediction:
        prediction = self.read()
        if prediction is None:
            raise StopIteration
        return prediction

    def __aiter__(self) -> PredictionStream:
        return self

    async def __anext__(self) -> messages.Prediction:
        import asyncio

        prediction = await asyncio.to_thread(self.read)
        if prediction is None:
            raise StopAsyncIteration
        return prediction

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the stream has ended, without reading; False when `timeout_s` passed. Raises what ended it."""
        if self._caller is None:
            self._mailbox.discard()
        if not self._mailbox.wait(timeout_s):
            return False
        if self._caller is not None:
            self._caller.join()
        self._mailbox.raise_error()
        return True

    def close(self) -> None:
        """End the stream and let go of its inputs. Idempotent. Raises what ended it, unless that was told already."""
        self._running.host.end(self._stream)
        self._mailbox.discard()
        if self._caller is not None:
            self._caller.join()
        if self._owned is not None:
            self._owned.detach()
            self._running.close()
        else:
            self._running.host.forget(self.name)
        self._mailbox.raise_error()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except ClcrError:
            if error is None:
                raise


class PushedStream(PredictionStream):
    """A stream that the program feeds; each push checks its arguments and copies what is kept. Any thread.

    SourceError says what was wrong with a push, and what ended the stream where it has ended.
    """

    def __init__(
        self,
        engines: Engines,
        running: Running,
        options: StreamOptions,
        modalities: tuple[Modality, ...],
        on_prediction: OnPrediction | None,
        hooks: Hooks,
    ) -> None:
        self._engines = engines  # which must not be closed by being forgotten
        sources: list[PushedSource] = []
        lossless = options.sources.pace == "max"

        def open_sources(sinks: Sinks) -> Sequence[Source]:
            sources.append(PushedSource(SourceIdentity(options.name, "pushed", modalities, lossless), sinks))
            return sources

        hooks = replace(hooks, open_sources=open_sources, ended=lambda error: sources[0].end(error))
        super().__init__(running, options, hooks, None, on_prediction)
        (self._source,) = sources

    @property
    def sample_rate_hz(self) -> int:
        """What `push_audio` takes."""
        return self._engines.sample_rate_hz

    def push_frame(self, captured_ns: SupportsIndex, rgb: NDArray[np.uint8]) -> None:
        """A picture, (height, width, 3) uint8 RGB. The face is searched in this call, in the caller's thread."""
        self._source.push_frame(captured_ns, rgb)

    def wants_frame(self, captured_ns: SupportsIndex) -> bool:
        """Whether a frame of this time would be used; one that is not need not be made. It is counted as dropped."""
        return self._source.wants_frame(captured_ns)

    def push_face(self, captured_ns: SupportsIndex, rgb: NDArray[np.uint8], quality: float = 1.0) -> None:
        """A face of your own detector, (face_px, face_px, 3) uint8 RGB, in place of a frame: none is searched."""
        self._source.push_face(captured_ns, rgb, quality)

    def push_gap(self, modality: Modality, end_ns: SupportsIndex) -> None:
        """Nothing of `modality` was captured before `end_ns`: a recording does not wait for it until then."""
        self._source.push_gap(modality, end_ns)

    def push_audio(self, captured_ns: SupportsIndex, samples: NDArray[np.float32], rate_hz: int | None = None) -> None:
        """Mono sound, (n,) float32 in -1..1, at `sample_rate_hz`; `captured_ns` is the time of its first sample."""
        self._source.push_audio(captured_ns, samples, rate_hz)

    def push_text(
        self,
        text: str,
        start_ns: SupportsIndex,
        end_ns: SupportsIndex,
        id: str | None = None,
        revision: int = 0,
        final: bool = True,
    ) -> None:
        """Words spoken in [start_ns, end_ns); the same `id` with a higher `revision` replaces an earlier text."""
        self._source.push_text(text, start_ns, end_ns, id, revision, final)

    def end(self, round_up: bool = False) -> None:
        """Nothing more will be pushed: what was pushed is still predicted, then iteration ends.

        A last hop that is not full is left out; with `round_up` it is predicted too, its rest a gap.
        """
        self._source.end_of_recording(round_up)


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)
