"""A stream, a screen or a camera through GStreamer: live, decoded in a process of its own, reconnected for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError, redact
from clcr_stream.sources.audio import SampleClock
from clcr_stream.sources.base import Modality, Sinks, SourceIdentity
from clcr_stream.sources.capture_clock import SOUND_SLACK_NS, CaptureClock
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.decoder.process import DecodedStream, DecoderProcess, LivePicture
from clcr_stream.sources.decoder.protocol import Request
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.health import STALE_NETWORK_SOUND_NS, STALE_PICTURE_NS
from clcr_stream.sources.media import AudioItem
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.sources.threaded import ThreadedSource, backoff_s

STALE_NS = {"vision": STALE_PICTURE_NS, "acoustic": STALE_NETWORK_SOUND_NS}
Opener = Callable[
    [Callable[[str], None]], Any
]  # what opens a connection, told of errors in the middle: as DecodedStream
_host = MonotonicClock()  # by which a decoder stamps what arrives


class NetworkSource(ThreadedSource):
    """A live URL or pipeline. Pictures are placed by their own stamps as soon as these prove a clock, until then when
    they arrive, as sound is; when it stops, it is stale and opened again with back-off.

    Its decoder is a process: one that hangs or crashes is told as the reason, and another one is started.
    """

    def __init__(
        self,
        url: str,
        requested: tuple[Modality, ...],
        sinks: Sinks,
        open_reader: Opener | None = None,
        kind: Literal["network", "screen", "camera"] = "network",
    ) -> None:
        """`open_reader` in place of a decoder's process, for readers of another kind. A screen may stand still."""
        counts = {"decode_errors": 0, "frames": 0, "frozen_frames": 0, "samples": 0, "reconnects": 0}
        counts |= {"audio_gaps": 0, "decoder_restarts": 0, "overtaken_frames": 0}
        super().__init__(SourceIdentity(redact(url), kind, requested), sinks, counts, STALE_NS)
        self._requested = requested
        self._decoder = DecoderProcess(Request(url, requested, sinks.grid.sample_rate_hz), self.stop)
        self._open_reader = self._open if open_reader is None else open_reader
        self._feeder = FrameFeeder(sinks, live=kind != "screen") if "vision" in requested else None
        self._sound = SoundFeeder(sinks)
        self._sample_clock = SampleClock(sinks.grid)
        self._capture_clock = CaptureClock(sinks.patience_ns)
        self._arrived = 0  # pictures and blocks of sound
        self._absent = ""

    def run(self) -> str | None:
        try:
            return self._run()
        finally:
            self._decoder.close()

    def _run(self) -> str | None:
        attempt = 0
        jitter = random.Random()
        while not self.stop.is_set():
            before = self._arrived
            self.opening()
            try:
                with self._open_reader(lambda _reason: self.count("decode_errors")) as reader:
                    self._drain(reader)
                    over = reader.recorded and not self.stop.is_set()
                if over:
                    return "; ".join(filter(None, ("end of the recording", self._remarks())))
                problem: SourceError | OSError = SourceError("the stream ended", "ended")
            except (SourceError, OSError) as error:
                problem = error
            if self.stop.is_set():
                break
            attempt = 0 if self._arrived != before else attempt + 1
            self.gone(f"{problem}; trying again", code_of(problem))
            pause_ns = int(backoff_s(attempt, jitter.random()) * NS_PER_S)
            self.sinks.clock.wait_until(self.sinks.clock.now_ns() + pause_ns, self.stop)
        return self._remarks() or None

    def _remarks(self) -> str:
        """What is worth saying of what was seen until now."""
        return "; ".join(filter(None, (self._absent, "" if self._feeder is None else self._feeder.hint)))

    def _open(self, on_error: Callable[[str], None]) -> DecodedStream:
        try:
            return self._decoder.open(on_error)
        finally:
            self.set_counts(decoder_restarts=max(0, self._decoder.started - 1))

    def _drain(self, reader: DecodedStream) -> None:
        """Push what arrives until the stream ends."""
        self._sample_clock.restart()
        self._capture_clock.restart()
        self._sound.reset()
        if self._feeder is not None:
            self._feeder.reset()
        if self._arrived:
            self.count("reconnects")
        absent = [modality for modality in self._requested if modality not in reader.modalities]
        self._absent = f"the stream holds no {absent[0]} data" if absent else ""
        begun_ns = self.sinks.clock.now_ns()
        for item in reader.items():
            if reader.recorded:  # a recording comes as fast as it is read, and is played in its own time
                self.sinks.clock.wait_until(begun_ns + self._time_ns(item), self.stop)
            if self.stop.is_set():
                break
            self._push(item, not reader.recorded)
            self._arrived += 1

    def _arrived_ns(self, item: LivePicture | AudioItem, live: bool) -> int:
        """By the session's clock: the decoder's stamp, where there is one that says when it was live."""
        age_ns = _host.now_ns() - item.arrived_ns if live and item.arrived_ns is not None else 0
        return self.sinks.clock.now_ns() - age_ns

    def _captured_ns(self, item: LivePicture | AudioItem, live: bool) -> int:
        """When a picture, or a block's last sample, was captured: both by one clock, so that lips and voice agree."""
        arrived_ns = self._arrived_ns(item, live)
        if not live:
            return arrived_ns
        sent_ns = None
        if item.captured_ns is not None and item.arrived_ns is not None:
            sent_ns = arrived_ns - (item.arrived_ns - item.captured_ns)
        if isinstance(item, AudioItem):
            most_ns = max(0, self.sinks.patience_ns - SOUND_SLACK_NS)
            return self._capture_clock.place(self._time_ns(item), arrived_ns, "acoustic", most_ns, sent_ns)
        return self._capture_clock.place(item.time_ns, arrived_ns, "vision", sent_ns=sent_ns)

    def _time_ns(self, item: LivePicture | AudioItem) -> int:
        """From the recording's start to its end, as a live one would have arrived."""
        if not isinstance(item, AudioItem):
            return item.time_ns
        return (item.first_sample + len(item.samples)) * NS_PER_S // self.sinks.grid.sample_rate_hz

    def _push(self, item: LivePicture | AudioItem, live: bool) -> None:
        captured_ns = self._captured_ns(item, live)
        if live:
            self.set_timing(self._capture_clock.timing())
        if isinstance(item, AudioItem):
            first, samples = self._sample_clock.place(item.samples, captured_ns)
            self._sound.put(first, samples)
            self.count("samples", len(samples))
            self.set_counts(audio_gaps=self._sample_clock.gaps)
            self.came("acoustic", self._sound.condition)
        elif self._feeder is not None:
            fetched = _Fetched(item)
            self._feeder.offer(captured_ns, fetched)
            self.count("overtaken_frames" if fetched.gone else "frames")
            self.set_counts(frozen_frames=self._feeder.frozen_frames)
            self.note(self._remarks())
            self.came("vision", self._feeder.condition)


class _Fetched:
    """A picture's pixels, and whether newer pictures had taken their place in the decoder: then no ring counts it."""

    def __init__(self, item: LivePicture) -> None:
        self._item = item
        self.gone = False

    def __call__(self) -> NDArray[np.uint8] | None:
        rgb = self._item.rgb()
        self.gone = rgb is None
        return rgb
