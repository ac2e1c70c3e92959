"""Video and sound out of one container through PyAV: decoding on the container's own timeline."""

from __future__ import annotations

import contextlib
import errno
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError, one_line, redact
from clcr_stream.sources.audio import Resampler
from clcr_stream.sources.base import Flag, Modality
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.packets import in_order
from clcr_stream.sources.sender_clock import SenderClock

STREAM_KIND: dict[Modality, str] = {"vision": "video", "acoustic": "audio"}
JUMP_S = 0.04  # audio time stamps of containers with ms time bases wobble by less
BLOCK_S = 0.2  # the longest block of sound that is pushed at once
MAX_READ_FAILURES = 100
LEFT_S = 2.0  # a recording that ends so much before its length was cut off
SEEK_FROM_NS = 5 * NS_PER_S  # what begins earlier is read from the start
SEEK_MARGIN_NS = 2 * NS_PER_S  # decoded before the place that was sought: codecs of sound need a run-up
# A file may name others (playlists, concat scripts) and some demuxers turn any text into a picture.
REFUSED_FORMATS = frozenset({"concat", "hls", "dash", "tty", "applehttp", "webvtt", "srt", "ass", "lavfi"})
GRABBERS = frozenset({"x11grab"})  # devices: their stamps are the host's wall clock
STATING = frozenset({"mov", "matroska", "flac"})  # their length is written in them, that of others measured
FRAGMENTED = "mov"  # read in order, such a container tells the length of its first fragment as its own
_MATROSKA_END = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)$")  # its streams say so in a tag only


@dataclass(frozen=True)
class VideoItem:
    """One decoded picture; `rgb` converts it, upright, to (height, width, 3) uint8."""

    time_ns: int  # from the container's start
    rgb: Callable[[], NDArray[np.uint8]]
    arrived_ns: int | None = None  # by the host's clock, where the reader was given one
    captured_ns: int | None = None  # by the same, where the sender says so


@dataclass(frozen=True)
class AudioItem:
    """At most BLOCK_S of mono samples at the reader's rate; `first_sample` counts from the container's start."""

    first_sample: int
    samples: NDArray[np.float32]
    arrived_ns: int | None = None
    captured_ns: int | None = None  # its last sample


Item = VideoItem | AudioItem


class MediaReader:
    """The pictures and samples of one container; a context manager.

    What is live comes as it arrives, a recording's streams side by side in the order of time.

    Errors in the middle are counted (`on_error`) and decoding goes on with the next packet.
    """

    def __init__(
        self,
        container: Any,
        requested: tuple[Modality, ...],
        rate_hz: int,
        on_error: Callable[[str], None],
        now_ns: Callable[[], int] | None = None,
        on_disk: bool = False,
    ) -> None:
        """`now_ns` is asked when a packet arrives, for live streams; only what is `on_disk` is sure to be sought."""
        self._container = container
        self.on_disk = on_disk
        self.seekable = container.size > 0  # pipes and live streams do not say how many bytes they have
        self._now_ns = now_ns
        self._arrived_ns: int | None = None
        self._grabs = container.format.name in GRABBERS
        self._sender = SenderClock(wall_stamps=self._grabs)
        self._heard_ns: int | None = None  # when the end of the newest sound was captured, where the sender says so
        self._on_error = on_error
        self._rate_hz = rate_hz
        self._streams = {
            modality: stream for modality in requested if (stream := _best(container, modality)) is not None
        }
        for stream in self._streams.values():
            stream.codec_context.thread_count = 1  # frame threads add latency and reorder errors
        start = container.start_time
        self._start = Fraction(start, 1_000_000) if start is not None else None
        self.length_s = float(container.duration) / 1e6 if container.duration else None  # as far as it is known
        indexed = all(stream.frames for stream in self._streams.values())
        formats = set(container.format.name.split(","))
        fragmented = FRAGMENTED in formats and not on_disk
        self.recorded = self.length_s is not None and (not fragmented or indexed or self.seekable)  # it has an end
        if fragmented:
            self.length_s = None
        # Read now: a stream of a closed container is freed memory.
        self.ends_ns = {modality: self._end_ns(stream) for modality, stream in self._streams.items()}
        self._stated_s = self._longest_s() if formats & STATING else None
        self._reached_s = 0.0  # the end of what was decoded
        self._resampler = Resampler(rate_hz)
        self._next_sample = 0
        self._expected_s: float | None = None

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The wanted modalities that the container holds."""
        return tuple(self._streams)

    def cut_short(self, end_s: float | None) -> str:
        """What could be read of a recording that ends before it says that it does, and before `end_s`; "" otherwise."""
        if self._stated_s is None or self._reached_s > min(self._stated_s, end_s or math.inf) - LEFT_S:
            return ""
        return f"the file says {self._stated_s:.1f} s, {self._reached_s:.1f} s could be read"

    def items(self, from_ns: int = 0) -> Iterator[Item]:
        """Everything that decodes, to the end of the input; from a little before `from_ns` on where that can be sought.

        Times count from the container's start either way. A server may still go elsewhere: see `Playback`.
        SourceError when the input breaks off.
        """
        import av

        if from_ns > SEEK_FROM_NS and self._start is not None and self.seekable:
            with contextlib.suppress(OSError, av.error.FFmpegError):
                self._container.seek(int(self._start * 1_000_000) + (from_ns - SEEK_MARGIN_NS) // 1000)
        for packet in self._packets():
            for frame in self._decoded(packet):
                if packet.stream.type == "video":
                    yield from self._picture(frame, packet.stream_index)
                else:
                    yield from self._sound(frame, packet.stream_index)
        yield from self._blocks(self._resampler.flush())

    def _packets(self) -> Iterator[Any]:
        import av

        failures = 0
        while failures < MAX_READ_FAILURES:
            try:
                packets = self._container.demux(list(self._streams.values()))
                if self._now_ns is None or self.recorded:
                    packets = in_order(packets, (stream.index for stream in self._streams.values()))
                for packet in packets:
                    failures = 0
                    if self._now_ns is not None:
                        self._arrived_ns = self._now_ns()
                        self._sender.see(packet, self._arrived_ns)
                    yield packet
                return
            except av.error.EOFError:
                return
            except av.error.ExitError:  # PyAV's own time-out
                raise SourceError(f"nothing arrived for {self._container.read_timeout or 0:.0f} s", "no_data") from None
            except OSError as error:
                if self._is_end(error):
                    yield from self._last_packets()
                    return
                raise SourceError(self._break(error), code_of(error) or "ended") from None
            except av.error.FFmpegError as error:  # unreadable place: the demuxer looks for the next packet
                if self._grabs:  # there are no unreadable places on a screen
                    raise SourceError("what is grabbed is gone", "ended") from None
                failures += 1
                self._on_error(one_line(str(error)))

    def _last_packets(self) -> Iterator[Any]:
        """Empty ones, which make decoders give what they still hold."""
        import av

        for stream in self._streams.values():
            packet = av.Packet()
            packet.stream, packet.time_base = stream, stream.time_base
            yield packet

    def _is_end(self, error: OSError) -> bool:
        """True for the end of what does not say how many bytes it has: its connection is closed, whole or not."""
        whole = self.length_s is None or self._reached_s > self.length_s - LEFT_S
        return error.errno == errno.EIO and not self.seekable and whole

    def _break(self, error: OSError) -> str:
        why = "" if error.errno == errno.EIO else f" ({error.strerror})"
        at = f" at {self._reached_s:.0f} s" if self.recorded or self.seekable else ""
        of = f" of {self.length_s:.0f} s" if at and self.length_s is not None else ""
        return f"{'the file cannot be read any further' if self.on_disk else 'the connection ended'}{at}{of}{why}"

    def _end_ns(self, stream: Any) -> int | None:
        """Where a stream ends by the container's index, from its start; None when it does not say, or only guesses."""
        tag = _MATROSKA_END.match(stream.metadata.get("DURATION", ""))
        if tag is not None:
            hours, minutes, seconds = tag.groups()
            return int((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * NS_PER_S)
        if not self.on_disk or not stream.duration or stream.time_base is None or self._start is None:
            return None
        start_s = (stream.start_time or 0) * stream.time_base - self._start
        return int((start_s + stream.duration * stream.time_base) * NS_PER_S)

    def _longest_s(self) -> float | None:
        """The length of the longest wanted stream where all say theirs, else the container's."""
        ends_ns = [end_ns for end_ns in self.ends_ns.values() if end_ns is not None]
        return max(ends_ns) / NS_PER_S if ends_ns and len(ends_ns) == len(self.ends_ns) else self.length_s

    def _decoded(self, packet: Any) -> list[Any]:
        import av

        try:
            return list(packet.decode())
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            self._on_error(one_line(str(error)))
            return []

    def _time_s(self, frame: Any) -> Fraction | None:
        """From the container's start; None for a frame without a usable time stamp."""
        if frame.pts is None or frame.time_base is None:
            return None
        time_s: Fraction = Fraction(frame.pts) * frame.time_base
        if self._start is None:
            self._start = time_s
        time_s -= self._start
        if self.on_disk and self.length_s is not None and time_s > self.length_s + 1.0:
            self._on_error("time stamp after the end")
            return None
        self._reached_s = max(self._reached_s, float(time_s + (frame.duration or 0) * frame.time_base))
        return time_s

    def _picture(self, frame: Any, stream: int) -> Iterator[VideoItem]:
        time_s = self._time_s(frame)
        if frame.is_corrupt:
            self._on_error("corrupt picture")
        elif time_s is not None:
            captured_ns = self._sender.captured_ns(stream, frame.pts * frame.time_base)
            yield VideoItem(int(time_s * NS_PER_S), lambda: _upright_rgb(frame), self._arrived_ns, captured_ns)

    def _sound(self, frame: Any, stream: int) -> Iterator[AudioItem]:
        time_s = self._time_s(frame)
        frame_s = frame.samples / frame.sample_rate
        if time_s is not None and (self._expected_s is None or abs(float(time_s) - self._expected_s) > JUMP_S):
            yield from self._blocks(self._resampler.flush())
            self._next_sample = round(time_s * self._rate_hz)
            self._expected_s = float(time_s)
        if self._expected_s is None:
            return  # nothing says when this was
        self._expected_s += frame_s
        if time_s is not None:
            end_s = frame.pts * frame.time_base + Fraction(frame.samples, frame.sample_rate)
            self._heard_ns = self._sender.captured_ns(stream, end_s)
        yield from self._blocks(self._resampler.push(frame))

    def _blocks(self, samples: NDArray[np.float32]) -> Iterator[AudioItem]:
        longest = int(BLOCK_S * self._rate_hz)
        for start in range(0, len(samples), longest):
            block = samples[start : start + longest]
            later_ns = (len(samples) - start - len(block)) * NS_PER_S // self._rate_hz
            captured_ns = None if self._heard_ns is None else self._heard_ns - later_ns
            yield AudioItem(self._next_sample, block, self._arrived_ns, captured_ns)
            self._next_sample += len(block)


def _best(container: Any, modality: Modality) -> Any:
    """The stream FFmpeg would play, cover pictures aside; None when there is none."""
    from av.stream import Disposition

    candidates = [
        stream
        for stream in container.streams
        if stream.type == STREAM_KIND[modality]
        and stream.codec_context is not None
        and not stream.disposition & Disposition.attached_pic
    ]
    best = container.streams.best(STREAM_KIND[modality])
    return best if best in candidates else next(iter(candidates), None)


def _upright_rgb(frame: Any) -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarter_turns)) if quarter_turns else picture


def check_media_file(location: str, requested: tuple[Modality, ...], flag: Flag) -> None:
    """SourceError for a file that a source could not read; nothing of it is decoded."""
    with open_file(location, requested, 16_000, lambda _: None, flag):  # the rate matters to decoding only
        pass


def open_file(
    location: str, requested: tuple[Modality, ...], rate_hz: int, on_error: Callable[[str], None], flag: Flag = "input"
) -> MediaReader:
    """Open a local media file; SourceError says why it cannot be used, and which flag named it."""
    import av

    path = Path(location.removeprefix("file://")).expanduser()
    what = f"{flag} {path}"
    try:
        _check_file(path, what)
    except OSError as error:
        raise SourceError(f"{what}: cannot be read ({reason_of(error)}); give another file", code_of(error)) from None
    try:
        container = av.open(f"file:{path}", mode="r", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(
            f"{what}: not a media file ({reason_of(error)}); give a video or audio file that `ffprobe` can read",
            "not_media",
        ) from None
    refusal = _refusal(container.format.name)
    if refusal is not None:
        container.close()
        raise SourceError(f"{what}: {refusal}; give a video or audio file", "not_media")
    reader = MediaReader(container, requested, rate_hz, on_error, on_disk=True)
    if not reader.modalities:
        container.close()
        kinds = " or ".join(STREAM_KIND[modality] for modality in requested)
        raise SourceError(f"{what}: holds no {kinds} stream; see `ffprobe {path.name}`", "not_media")
    return reader


def _check_file(path: Path, what: str) -> None:
    if not path.exists():
        raise SourceError(f"{what}: no such file; give an existing video or audio file, a URL or test://", "not_found")
    if not path.is_file():
        raise SourceError(f"{what}: not a regular file; give a video or audio file, a URL or test://", "not_media")
    path.open("rb").close()
    if path.stat().st_size == 0:
        raise SourceError(f"{what}: the file is empty (0 bytes); give a video or audio file", "not_media")


def _refusal(container_format: str) -> str | None:
    """Why files of this FFmpeg format are not read; None for those that are."""
    if container_format == "image2" or container_format.endswith("_pipe"):
        return "a still picture"
    if REFUSED_FORMATS & set(container_format.split(",")):
        return f"a {container_format} file is not read"
    return None


def reason_of(error: Exception) -> str:
    """What FFmpeg or the system says, in one line without numbers of errors."""
    return redact(one_line(getattr(error, "strerror", None) or str(error)))
