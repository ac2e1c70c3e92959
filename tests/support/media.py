"""For tests of sources: small media files written with PyAV, sinks, and a reader that behaves like the loop."""

from __future__ import annotations

import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S, Clock, VirtualClock, Wake
from clcr_stream.sources.base import Sinks, Source
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from clcr_stream.window.transcript import Segment


@dataclass(frozen=True)
class MediaSpec:
    """What to write; 0 fps or 0 Hz leaves that stream out. `audio_seconds` None = as long as the video."""

    seconds: float = 2.0
    fps: int = 30
    rate_hz: int = 16000
    audio_seconds: float | None = None
    size: tuple[int, int] = (64, 48)
    tone_hz: float = 440.0
    audio_codec: str = "aac"


def write_media(path: Path, spec: MediaSpec | None = None) -> Path:
    """Grey frames whose level is 2 x frame number modulo 256, and a tone of amplitude 0.5; mp4, mkv, wav by suffix."""
    spec = spec or MediaSpec()
    with av.open(str(path), "w") as container:
        video: av.VideoStream | None = None
        audio: av.AudioStream | None = None
        if spec.fps:
            video = container.add_stream("libx264", rate=spec.fps, options={"preset": "ultrafast", "g": "10"})
            video.width, video.height = spec.size
            video.pix_fmt = "yuv420p"
        if spec.rate_hz:
            stream = container.add_stream(spec.audio_codec, rate=spec.rate_hz, layout="mono")
            assert isinstance(stream, av.AudioStream)
            audio = stream
        if video is not None and audio is not None:
            _write_both(container, video, audio, spec)
        elif video is not None:
            for number in range(round(spec.seconds * spec.fps)):
                container.mux(video.encode(_picture(number, spec)))
        elif audio is not None:
            for block in range(_blocks(spec)):
                container.mux(audio.encode(_tone(block, spec)))
        if video is not None:
            container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def _blocks(spec: MediaSpec) -> int:
    seconds = spec.seconds if spec.audio_seconds is None else spec.audio_seconds
    return round(seconds * 50)


def _write_both(container: OutputContainer, video: av.VideoStream, audio: av.AudioStream, spec: MediaSpec) -> None:
    due = [(number / spec.fps, "video", number) for number in range(round(spec.seconds * spec.fps))]
    due += [(block / 50, "audio", block) for block in range(_blocks(spec))]
    for _, kind, number in sorted(due):
        if kind == "video":
            container.mux(video.encode(_picture(number, spec)))
        else:
            container.mux(audio.encode(_tone(number, spec)))


def _picture(number: int, spec: MediaSpec) -> av.VideoFrame:
    width, height = spec.size
    picture = np.full((height, width, 3), 2 * number % 256, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts = number
    frame.time_base = Fraction(1, spec.fps)
    return frame


def _tone(block: int, spec: MediaSpec) -> av.AudioFrame:
    count = spec.rate_hz // 50
    at = np.arange(block * count, (block + 1) * count) / spec.rate_hz
    samples = (0.5 * np.sin(2 * np.pi * spec.tone_hz * at) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
    frame.sample_rate = spec.rate_hz
    frame.pts = block * count
    frame.time_base = Fraction(1, spec.rate_hz)
    return frame


def write_text(path: Path) -> Path:
    """A text file, whatever its suffix says."""
    path.write_text("this is not a video\n" * 50)
    return path


def corrupt_middle(path: Path, source: Path, share: float = 0.2) -> Path:
    """A copy of `source` whose middle `share` of bytes is noise."""
    data = bytearray(source.read_bytes())
    noise = np.random.default_rng(5)
    start, stop = int(len(data) * (0.5 - share / 2)), int(len(data) * (0.5 + share / 2))
    data[start:stop] = noise.integers(0, 256, stop - start, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


@dataclass(frozen=True)
class Face:
    """What GreyFinder finds: the frame's mean level, everywhere."""

    rgb: np.ndarray
    quality: float = 0.9
    faces: int = 1
    box: tuple[int, int, int, int] = (0, 0, 1, 1)
    landmarks: np.ndarray | None = None


class GreyFinder:
    """A face finder that finds a face in every frame and keeps only the frame's level."""

    def crop(self, rgb: np.ndarray, /) -> Face:
        return Face(np.full((112, 112, 3), round(float(rgb.mean())), np.uint8))

    def reset(self) -> None:
        """Nothing is followed, so nothing is forgotten."""


ORIGIN_NS = 5 * NS_PER_S + 77
HOP_NS = NS_PER_S // 5


def time_grid(sample_rate_hz: int = 16_000) -> TimeGrid:
    """The default bundle's grid from ORIGIN_NS on, with sound at another rate if need be."""
    return TimeGrid(ORIGIN_NS, HOP_NS, window_hops=30, frame_rate_hz=15, sample_rate_hz=sample_rate_hz)


def make_sinks(clock: Clock | None = None, sample_rate_hz: int = 16_000) -> Sinks:
    """Rings and a transcript that start at ORIGIN_NS, on a virtual clock unless another is given."""
    return Sinks(clock or VirtualClock(ORIGIN_NS), make_rings(time_grid(sample_rate_hz), size_px=112), GreyFinder())


@dataclass(frozen=True)
class Recording:
    """What a loop read, one entry per video slot and per audio sample."""

    frames: np.ndarray
    valid: np.ndarray
    captured_ns: np.ndarray
    samples: np.ndarray
    present: np.ndarray
    said: list[list[Segment]]  # per hop


def read_all(source: Source, sinks: Sinks, hops: int | None = None) -> Recording:
    """Start a lossless source and read it hop by hop as the loop does, to its end or for `hops`; then close it."""
    vision, audio, said = [], [], []
    samples = sinks.grid.samples_per_hop
    source.start()
    hop = 0
    while hop != hops and not (source.finished and _hop_end(hop) >= newest_ns(sinks)):
        hop += 1
        assert await_filled(source, _hop_end(hop))
        vision.append(sinks.rings.vision.read(3 * (hop - 1), 3))
        audio.append(sinks.rings.acoustic.read(samples * (hop - 1), samples * hop))
        said.append(sinks.rings.transcript.between(_hop_end(hop) - 6 * NS_PER_S, _hop_end(hop)))
        source.consumed(_hop_end(hop))
    source.close()
    return Recording(
        np.concatenate([items.frames for items in vision]),
        np.concatenate([items.valid for items in vision]),
        np.concatenate([items.captured_ns for items in vision]),
        np.concatenate([items.samples for items in audio]),
        np.concatenate([items.present for items in audio]),
        said,
    )


def newest_ns(sinks: Sinks) -> int:
    """The end of the newest picture or sound that was pushed, the origin before there is any."""
    ends = [sinks.rings.vision.newest_ns, sinks.rings.acoustic.newest_ns]
    return max((end_ns for end_ns in ends if end_ns is not None), default=ORIGIN_NS)


def _hop_end(hop: int) -> int:
    return ORIGIN_NS + hop * HOP_NS


class SteppedClock:
    """A clock that stands still until a test moves it; waiters wake when it does."""

    def __init__(self, start_ns: int = ORIGIN_NS) -> None:
        self._now_ns = start_ns
        self._moved = threading.Condition()
        self.waits: list[int] = []  # deadlines asked for

    def now_ns(self) -> int:
        with self._moved:
            return self._now_ns

    def move_to(self, time_ns: int) -> None:
        with self._moved:
            self._now_ns = time_ns
            self._moved.notify_all()

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> bool:
        with self._moved:
            self.waits.append(deadline_ns)
            self._moved.notify_all()
            while self._now_ns < deadline_ns and not stop.is_set():
                self._moved.wait(0.02)
        return not stop.is_set()

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        """Sources never call this; it completes the protocol of a clock."""
        if deadline_ns is not None:
            self.wait_until(deadline_ns, threading.Event())

    def await_wait(self, deadline_ns: int, timeout_s: float = 10.0) -> bool:
        """Until somebody waits for `deadline_ns` or later."""
        with self._moved:
            return self._moved.wait_for(lambda: bool(self.waits) and self.waits[-1] >= deadline_ns, timeout_s)


def await_filled(source: Source, end_ns: int, timeout_s: float = 30.0) -> bool:
    """Until a source has pushed everything before `end_ns`, as the loop sees it."""
    return eventually(lambda: source.filled(end_ns), timeout_s)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Poll until `condition` holds; for what happens in another thread and announces itself nowhere."""
    deadline_ns = time.monotonic_ns() + int(timeout_s * NS_PER_S)
    pause = threading.Event()
    while not condition():
        if time.monotonic_ns() > deadline_ns:
            return False
        pause.wait(0.001)
    return True


def write_wav(path: Path, samples: NDArray[Any], rate_hz: int = 16_000) -> Path:
    """Samples of -1..1 as a sound file of 16 bits, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path
