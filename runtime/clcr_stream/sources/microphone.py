"""A sound card through PyAudio: callbacks that only copy, a sample-count clock, a watchdog that reopens."""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.audio import Resampler, SampleClock
from clcr_stream.sources.base import Sinks, SourceIdentity
from clcr_stream.sources.capture_clock import SOUND_SLACK_NS, SoundLatency
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.sources.threaded import POLL_S, ThreadedSource, backoff_s

BLOCK_S = 0.02
QUIET_NS = 500 * NS_PER_MS
FIRST_RETRY_S, RETRY_S = 0.25, 2.0  # looking for devices costs 0.1 s of CPU
FLOOD_S = 1.25  # more than any device's buffers hold
QUEUE_BLOCKS = 256  # 5 s: more than the reader thread can ever be late without being dead
BY_ID = Path("/dev/snd/by-id")
ALLOWED = "default, an index, name:TEXT, a file, test:// or none"
INSTALL = (
    "PyAudio is not installed; run `apt-get install portaudio19-dev gcc python3-dev` and "
    '`pip install "clcr-stream[live]"`'
)
_STDERR_LOCK = threading.Lock()


@dataclass(frozen=True)
class Format:
    """What a device was opened with."""

    device: int
    rate_hz: int
    channels: int


def is_microphone(text: str) -> bool:
    """True when `text` names a sound card."""
    return text == "default" or text.isdecimal() or text.startswith("name:")


def load_pyaudio() -> Any:
    """The PyAudio module; SourceError with the command to run when it is missing."""
    try:
        import pyaudio
    except (ImportError, OSError):
        raise SourceError(INSTALL, "not_installed") from None
    return pyaudio


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 to /dev/null: PortAudio, ALSA and JACK print pages while they look for devices."""
    with _STDERR_LOCK:
        try:
            saved = os.dup(2)
        except OSError:  # closed, as by `2>&-`: nothing to silence
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)


def choose_device(audio: Any, device: str, known: Known | None = None, by_id: Path = BY_ID) -> dict[str, Any]:
    """PortAudio's description of the input that `device` names; SourceError when it is not there.

    Of a `known` one that was opened before, that one and no other; `default` is the system's choice.
    """
    if device == "default":
        try:
            info: dict[str, Any] = audio.get_default_input_device_info()
        except OSError:
            raise SourceError("no microphone found; `clcr-stream devices` lists inputs", "no_device") from None
        return info
    inputs = [
        info
        for number in range(audio.get_device_count())
        if (info := audio.get_device_info_by_index(number))["maxInputChannels"] > 0
    ]
    if device.startswith("name:"):
        text = device.removeprefix("name:").casefold()
        matches = [info for info in inputs if text in str(info["name"]).casefold()]
    else:
        matches = [info for info in inputs if info["index"] == int(device)]
    same = matches if known is None else known.among(inputs, by_id)
    if not same:
        other = (
            f"input {device} is now {matches[0]['name']} and not {known}" if matches else f"no input device {device}"
        )
        raise SourceError(f"{other}; `clcr-stream devices` lists inputs", "no_device")
    return same[0]


@dataclass(frozen=True)
class Known:
    """Which physical input was opened: PortAudio's name, and the link of its card, whose number may change."""

    name: str
    link: str

    @classmethod
    def by(cls, info: Mapping[str, Any], by_id: Path) -> Known:
        """The one that PortAudio describes."""
        name = str(info["name"])
        card = re.search(r"\(hw:(\d+),(\d+)\)", name)
        links = sorted(by_id.iterdir()) if card is not None and by_id.is_dir() else []
        found = [link.name for link in links if card is not None and link.resolve().name == f"controlC{card[1]}"]
        return cls(name, f"{found[0]},{card[2]}" if card is not None and found else "")

    def among(self, inputs: Sequence[dict[str, Any]], by_id: Path) -> list[dict[str, Any]]:
        """This one: by its link if it had one, else by its name.

        A twin without a serial number takes the link with it, and leaves the name.
        """
        found = [(info, Known.by(info, by_id)) for info in inputs]
        linked = [info for info, one in found if self.link and one.link == self.link]
        if self.link and not linked:
            return []
        return [info for info, one in found if one.name == self.name and not (self.link and one.link)] or linked

    def __str__(self) -> str:
        return self.link or self.name


class Flood:
    """Whether a device gives sound much faster than time passes, as one without a clock of its own does."""

    def __init__(self) -> None:
        self._begun_ns = 0
        self._heard_s = 0.0

    def ahead(self, now_ns: int, block_s: float) -> bool:
        """A block came; True when there was more than an overrun can have left behind: more than 1 s in no time."""
        if now_ns - self._begun_ns >= NS_PER_S:
            self._begun_ns, self._heard_s = now_ns, 0.0
        self._heard_s += block_s
        return self._heard_s > FLOOD_S + (now_ns - self._begun_ns) / NS_PER_S


class MicrophoneSource(ThreadedSource):
    """One microphone. Absent: it waits and looks every 0.25 to 2 s. Nothing for 0.5 s: PortAudio is started anew.

    The one that was opened first is taken again, under whatever number, and never another one in its place.
    """

    def __init__(self, device: str, sinks: Sinks, load: Callable[[], Any] = load_pyaudio, by_id: Path = BY_ID) -> None:
        counts = {"blocks": 0, "overflows": 0, "queue_drops": 0, "gaps": 0, "reopened": 0, "skew_ppm": 0}
        counts |= {"held_back": 0}
        super().__init__(SourceIdentity(device, "microphone", ("acoustic",)), sinks, counts)
        self._rate_hz = sinks.grid.sample_rate_hz
        self._heard_blocks = self._overflows = 0
        self._device, self._load, self._by_id = device, load, by_id
        self._known: Known | None = None  # from the first opening on
        self._blocks: deque[tuple[bytes, int, bool, Mapping[str, Any]]] = deque(maxlen=QUEUE_BLOCKS)
        self._arrived = threading.Event()
        self._queue_drops = self._held_back = 0  # written by PortAudio's thread only
        self._sample_clock = SampleClock(sinks.grid)
        self._feeder = SoundFeeder(sinks, microphone=True)
        self._latency = SoundLatency(max(0, sinks.patience_ns - SOUND_SLACK_NS))
        self._lives = 0  # how often blocks began to come

    def run(self) -> None:
        attempt = 0
        jitter = random.Random()
        while not self.stop.is_set():
            before = self._lives
            self.opening()
            try:
                self._listen(self._load())
            except (SourceError, OSError, ValueError) as error:
                if not self.stop.is_set():
                    attempt = 0 if self._lives != before else attempt + 1
                    self.gone(f"{error}; looking again and again", code_of(error))
                    pause_s = backoff_s(attempt, jitter.random(), FIRST_RETRY_S, RETRY_S)
                    self.sinks.clock.wait_until(self.sinks.clock.now_ns() + int(pause_s * NS_PER_S), self.stop)

    def _listen(self, module: Any) -> None:
        """One life of PortAudio: it looks for devices only when it starts."""
        with quiet_stderr():
            audio = module.PyAudio()
        try:
            self._capture(module, audio)
        finally:
            with quiet_stderr():
                audio.terminate()

    def _capture(self, module: Any, audio: Any) -> None:
        """Open the device and move its blocks to the ring until it falls silent or the source stops."""
        info = choose_device(audio, self._device, self._known, self._by_id)
        self._blocks.clear()
        self._sample_clock.restart()
        self._latency.restart()
        self._feeder.reset()
        stream, opened = self._open(module, audio, info)
        self._known = self._known or Known.by(info, self._by_id)
        try:
            self._pump(opened)
        finally:
            with quiet_stderr():
                stream.close()

    def _open(self, module: Any, audio: Any, info: dict[str, Any]) -> tuple[Any, Format]:
        """A running int16 stream at the model's rate, else at the device's own; SourceError when it does neither."""

        def on_block(data: bytes, _frames: int, stamps: Mapping[str, Any], status: int) -> tuple[None, int]:
            if len(self._blocks) == QUEUE_BLOCKS:
                self._queue_drops += 1
            overflowed = bool(status & module.paInputOverflow)
            now_ns = self.sinks.clock.now_ns()
            self._blocks.append((data, now_ns, overflowed, stamps))
            self._arrived.set()
            if flood.ahead(now_ns, BLOCK_S):
                self._held_back += 1
                self.stop.wait(BLOCK_S)  # else PortAudio's thread takes a core
            return None, module.paContinue

        flood = Flood()
        own_hz = int(info["defaultSampleRate"])
        formats = [
            Format(info["index"], rate_hz, channels) for rate_hz in (self._rate_hz, own_hz) for channels in (1, 2)
        ]
        failure: OSError | ValueError = ValueError("no format")
        for candidate in formats:
            try:
                with quiet_stderr():
                    stream = audio.open(
                        format=module.paInt16,
                        channels=candidate.channels,
                        rate=candidate.rate_hz,
                        input=True,
                        input_device_index=candidate.device,
                        frames_per_buffer=int(candidate.rate_hz * BLOCK_S),
                        stream_callback=on_block,
                    )
            except (OSError, ValueError) as error:
                failure = error
                continue
            return stream, candidate
        raise SourceError(f"{info['name']} does not open: {failure}", code_of(failure))

    def _pump(self, opened: Format) -> None:
        clock = self.sinks.clock
        resampler = Resampler(self._rate_hz)
        heard_ns = clock.now_ns()
        first = True
        while not self.stop.is_set():
            self._arrived.wait(POLL_S)
            self._arrived.clear()
            while self._blocks:
                data, arrived_ns, overflowed, stamps = self._blocks.popleft()
                heard_ns = max(heard_ns, arrived_ns)
                if first:
                    first = False
                    self._on_first()
                block_s = len(data) / (2 * opened.channels * opened.rate_hz)
                late_ns = self._latency.see(stamps, block_s)
                self._place(_mono(data, opened, resampler), arrived_ns - late_ns, overflowed)
            if clock.now_ns() - heard_ns > QUIET_NS:
                self.gone("no sound for 0.5 s; opening the device again", "no_data")
                return

    def _on_first(self) -> None:
        if self._lives:
            self.count("reopened")
        self._lives += 1

    def _place(self, samples: NDArray[np.float32], arrived_ns: int, overflowed: bool) -> None:
        if len(samples):
            first, samples = self._sample_clock.place(samples, arrived_ns, overflowed)
            self._feeder.put(first, samples)
        self.came("acoustic", self._feeder.condition)
        self.set_timing(self._latency.timing(self._sample_clock.skew_ppm, self._sample_clock.gaps))
        self._heard_blocks += 1
        self._overflows += overflowed
        self.set_counts(
            blocks=self._heard_blocks,
            overflows=self._overflows,
            queue_drops=self._queue_drops,
            held_back=self._held_back,
            gaps=self._sample_clock.gaps,
            skew_ppm=round(self._sample_clock.skew_ppm),
        )


def _mono(data: bytes, opened: Format, resampler: Resampler) -> NDArray[np.float32]:
    """Interleaved int16 bytes to mono float32 -1..1 at the resampler's rate."""
    pcm = np.frombuffer(data, np.int16)
    if opened.rate_hz == resampler.rate_hz:
        mono = pcm.reshape(-1, opened.channels).astype(np.float32).mean(axis=1)
        return np.asarray(mono / 32768.0, np.float32)
    import av

    layout = "mono" if opened.channels == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = opened.rate_hz
    return resampler.push(frame)
