"""Streams inside a program: predictions by iteration or by a callback, and pushes of frames, sound and words."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ClcrError, ConfigError
from clcr_stream.inference.baselines import Baselines
from clcr_stream.sources.base import Modality, Sinks, Source, SourceIdentity
from clcr_stream.sources.pushed import PushedSource
from clcr_stream.streams.mailbox import Caller, Mailbox
from clcr_stream.streams.running import Running
from clcr_stream.streams.stream import Hooks, StreamOptions
from clcr_stream.wire import messages

OnPrediction = Callable[[messages.Prediction], object]


class SampleRate(Protocol):
    """What a pushed stream needs of its engines; it also keeps them from being closed by being forgotten."""

    @property
    def sample_rate_hz(self) -> int: ...


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

    @property
    def recording(self) -> messages.Recording | None:
        """How its recording is doing, the last state after the end; None when none is made. Any thread."""
        return self._stream.recording()

    def sources(self) -> tuple[messages.Source, ...]:
        """How each input is doing. Any thread."""
        return self._stream.sources()

    def ticks(self) -> messages.Ticks:
        """The account so far: due = published + skipped. Any thread."""
        return self._stream.session.account.ticks()

    def read(self, timeout_s: float | None = None) -> messages.Prediction | None:
        """The next prediction; None at the end, or when `timeout_s` passed. Raises what ended the stream."""
        self._running.check_process()
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
        self._running.check_process()
        if self._caller is None:
            self._mailbox.discard()
        if not self._mailbox.wait(timeout_s):
            return False
        if self._caller is not None:
            self._caller.join()
        self._mailbox.raise_error()
        return True

    def close(self) -> None:
        """End the stream and let go of its inputs. Idempotent. Raises what ended it, unless that was told already.

        In a child of the process that opened it nothing happens.
        """
        if not self._running.here:
            return
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
        engines: SampleRate,
        running: Running,
        options: StreamOptions,
        modalities: tuple[Modality, ...],
        on_prediction: OnPrediction | None,
        hooks: Hooks,
    ) -> None:
        self._engines = engines
        sources: list[PushedSource] = []
        lossless = options.sources.pace == "max"

        def open_sources(sinks: Sinks) -> Sequence[Source]:
            sources.append(PushedSource(SourceIdentity(options.name, "pushed", modalities, lossless), sinks))
            return sources

        hooks = replace(hooks, open_sources=open_sources, ended=lambda error: sources[0].end(error))
        super().__init__(running, options, hooks, None, on_prediction)
        (self._pushed,) = sources

    @property
    def _source(self) -> PushedSource:
        self._running.check_process()
        return self._pushed

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
