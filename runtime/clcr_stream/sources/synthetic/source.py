"""test:// as a source, and the same person rendered into a media file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import Flag, Modality, Pace, Sinks, SourceIdentity
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.sources.synthetic.person import Person, PersonOptions, parse_test_url
from clcr_stream.sources.threaded import ThreadedSource

BLOCK_NS = 20 * NS_PER_MS  # as a sound card gives them
CLIP_RATE_HZ = 16_000
ALL: tuple[Modality, ...] = ("vision", "acoustic", "language")


class SyntheticSource(ThreadedSource):
    """The drawn person, live at pace `real` (what is not read in time is dropped), lossless at `max`."""

    def __init__(
        self, url: str, requested: tuple[Modality, ...], sinks: Sinks, pace: Pace = "real", flag: Flag = "input"
    ) -> None:
        options = parse_test_url(url, flag)
        modalities = tuple(modality for modality in requested if modality != "language" or options.transcript)
        counts = {"frames": 0, "samples": 0, "segments": 0}
        super().__init__(SourceIdentity(url, "synthetic", modalities, lossless=pace == "max"), sinks, counts)
        self._rate_hz = sinks.grid.sample_rate_hz
        self._person = Person(options, self._rate_hz)
        self._pace = pace
        self._end_ns = None if options.seconds is None else round(options.seconds * NS_PER_S)
        self._fps = options.fps
        self._feeder = FrameFeeder(sinks) if "vision" in modalities else None
        self._sound = SoundFeeder(sinks)

    def run(self) -> None:
        block = frame = 0
        origin_ns = self.sinks.origin_ns
        while self._end_ns is None or block * BLOCK_NS < self._end_ns:
            start_ns, end_ns = block * BLOCK_NS, (block + 1) * BLOCK_NS
            if self._end_ns is not None:
                end_ns = min(end_ns, self._end_ns)
            if not self._await_turn(origin_ns + end_ns):
                return
            while frame * NS_PER_S // self._fps < end_ns:
                self._show(frame)
                frame += 1
            self._speak(start_ns, end_ns)
            self.advance(origin_ns + end_ns)
            block += 1

    def _await_turn(self, end_ns: int) -> bool:
        """A block can be heard once it is over: live at that moment, lossless as soon as there is room."""
        if self._pace == "max":
            return self.await_room(end_ns)
        return self.sinks.clock.wait_until(end_ns, self.stop)

    def _show(self, frame: int) -> None:
        if self._feeder is None:
            return
        time_s = frame / self._fps
        captured_ns = self.sinks.origin_ns + frame * NS_PER_S // self._fps
        self._feeder.offer(captured_ns, lambda: self._person.picture(time_s))
        self.count("frames")
        self.note(self._feeder.hint)
        self.came("vision", self._feeder.condition)

    def _speak(self, start_ns: int, end_ns: int) -> None:
        if "acoustic" in self.modalities:
            first, stop = start_ns * self._rate_hz // NS_PER_S, end_ns * self._rate_hz // NS_PER_S
            self._sound.put(first, self._person.sound(first, stop - first))
            self.count("samples", stop - first)
            self.came("acoustic", self._sound.condition)
        if "language" in self.modalities:
            origin_ns = self.sinks.origin_ns
            for segment in self._person.segments(start_ns / NS_PER_S, end_ns / NS_PER_S, origin_ns):
                self.sinks.rings.transcript.put(segment, segment.end_ns)
                self.count("segments")


def write_clip(path: Path, seconds: float, options: PersonOptions | None = None) -> Path:
    """Render the person to `path` (.mp4 or .mkv: H.264 and AAC) and what is said to a .srt beside it; returns the .srt.

    Raises SourceError when the file cannot be written.
    """
    import av

    person = Person(options or PersonOptions(), CLIP_RATE_HZ)
    try:
        with av.open(str(path), "w") as container:
            _render(container, person, seconds)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        raise SourceError(
            f"clip {path}: cannot be written ({error}); give a .mp4 or .mkv in a writable folder"
        ) from None
    subtitles = path.with_suffix(".srt")
    cues = []
    for number, segment in enumerate(person.segments(0.0, seconds), 1):
        cues.append(f"{number}\n{_srt_time(segment.start_ns)} --> {_srt_time(segment.end_ns)}\n{segment.text}\n")
    subtitles.write_text("\n".join(cues), encoding="utf-8")
    return subtitles


def _srt_time(time_ns: int) -> str:
    seconds, milliseconds = divmod(time_ns // NS_PER_MS, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{milliseconds:03}"


def _render(container: Any, person: Person, seconds: float) -> None:
    import av

    fps = person.options.fps
    video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "20", "g": str(fps)})
    video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
    audio = container.add_stream("aac", rate=CLIP_RATE_HZ, layout="mono")
    frames = blocks = 0
    block_samples = CLIP_RATE_HZ // 50
    while blocks * block_samples < seconds * CLIP_RATE_HZ:
        while frames < seconds * fps and frames * CLIP_RATE_HZ <= blocks * block_samples * fps:
            picture = av.VideoFrame.from_ndarray(person.picture(frames / fps), format="rgb24")
            picture.pts, picture.time_base = frames, Fraction(1, fps)
            container.mux(video.encode(picture))
            frames += 1
        samples = person.sound(blocks * block_samples, block_samples)
        block = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None, :], format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = CLIP_RATE_HZ, blocks * block_samples, Fraction(1, CLIP_RATE_HZ)
        container.mux(audio.encode(block))
        blocks += 1
    for stream in (video, audio):
        container.mux(stream.encode(None))
