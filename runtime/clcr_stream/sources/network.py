"""A camera or stream on the network through PyAV: live, stamped at arrival, reconnected for as long as it takes."""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Callable
from typing import Any

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError, one_line, redact
from clcr_stream.sources.audio import SampleClock
from clcr_stream.sources.base import Flag, Modality, Sinks, SourceIdentity
from clcr_stream.sources.files import NETWORK_READ_S
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.health import STALE_NETWORK_SOUND_NS, STALE_PICTURE_NS
from clcr_stream.sources.media import AudioItem, MediaReader, VideoItem
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.sources.threaded import ThreadedSource, backoff_s

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "rtp", "srt")
# A playlist on the network may name more of the network, never a local file.
PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,http,https,httpproxy,tls,udp,tcp,rtp,srtp,srt,crypto"
RECORDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".wav", ".mp3", ".m4a", ".ogg", ".opus", ".flac")
OPEN_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 1.0
STALE_NS = {"vision": STALE_PICTURE_NS, "acoustic": STALE_NETWORK_SOUND_NS}


def open_url(
    url: str,
    requested: tuple[Modality, ...],
    rate_hz: int,
    on_error: Callable[[str], None],
    read_timeout_s: float = READ_TIMEOUT_S,
) -> MediaReader:
    """Connect; SourceError (without credentials) when nothing usable answers in time."""
    import av

    options = {"protocol_whitelist": PROTOCOLS}
    if url.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # no torn frames, and the connection's end is seen
    try:
        container = av.open(url, mode="r", options=options, timeout=(OPEN_TIMEOUT_S, read_timeout_s))
    except av.error.ExitError:
        raise SourceError(redact(f"{url}: does not answer within {OPEN_TIMEOUT_S:.0f} s")) from None
    except (OSError, av.error.FFmpegError, ValueError) as error:
        raise SourceError(redact(f"{url}: does not answer ({one_line(str(error))})")) from None
    reader = MediaReader(container, requested, rate_hz, on_error)
    if not reader.modalities:
        container.close()
        raise SourceError(redact(f"{url}: sends neither video nor audio"))
    return reader


def names_recording(url: str) -> bool:
    """True for a URL of http(s) whose path ends as files do: it is read to its end, and as fast as it comes."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme.lower() in ("http", "https") and parts.path.lower().endswith(RECORDINGS)


def open_recording(
    url: str, requested: tuple[Modality, ...], rate_hz: int, on_error: Callable[[str], None], flag: Flag
) -> MediaReader:
    """Connect to a recording; SourceError (without credentials) when it does not answer."""
    try:
        return open_url(url, requested, rate_hz, on_error, NETWORK_READ_S)
    except SourceError as error:
        raise SourceError(f"{flag} {error}") from None


class NetworkSource(ThreadedSource):
    """A live URL. What arrives is stamped at arrival; when it stops, it is stale and opened again with back-off."""

    def __init__(self, url: str, requested: tuple[Modality, ...], sinks: Sinks, open_reader: Any = open_url) -> None:
        counts = {"decode_errors": 0, "frames": 0, "frozen_frames": 0, "samples": 0, "reconnects": 0}
        counts |= {"audio_gaps": 0}
        super().__init__(SourceIdentity(redact(url), "network", requested), sinks, counts, STALE_NS)
        self._url, self._requested, self._open_reader = url, requested, open_reader
        self._feeder = FrameFeeder(sinks, live=True) if "vision" in requested else None
        self._sound = SoundFeeder(sinks)
        self._sample_clock = SampleClock(sinks.grid)
        self._arrived = 0  # pictures and blocks of sound

    def run(self) -> str | None:
        import av

        attempt = 0
        jitter = random.Random()
        while not self.stop.is_set():
            before = self._arrived
            self.opening()
            try:
                reader = self._open_reader(
                    self._url,
                    self._requested,
                    self.sinks.grid.sample_rate_hz,
                    lambda _reason: self.count("decode_errors"),
                )
                with reader:
                    self._drain(reader)
                    over = reader.length_s is not None and not self.stop.is_set()
                if over:
                    return "end of the recording"
                reason = "the stream ended"
            except av.error.ExitError:  # PyAV's own time-out
                reason = f"nothing arrived for {READ_TIMEOUT_S:.0f} s"
            except (SourceError, OSError, av.error.FFmpegError) as error:
                reason = str(error)
            attempt = 0 if self._arrived != before else attempt + 1
            self.gone(f"{reason}; trying again")
            pause_ns = int(backoff_s(attempt, jitter.random()) * NS_PER_S)
            self.sinks.clock.wait_until(self.sinks.clock.now_ns() + pause_ns, self.stop)
        return None

    def _drain(self, reader: MediaReader) -> None:
        """Push what arrives until the stream ends."""
        self._sample_clock.restart()
        self._sound.reset()
        if self._feeder is not None:
            self._feeder.reset()
        if self._arrived:
            self.count("reconnects")
        absent = [modality for modality in self._requested if modality not in reader.modalities]
        self._missing = f"the stream holds no {absent[0]} data" if absent else ""
        begun_ns = self.sinks.clock.now_ns()
        for item in reader.items():
            if reader.length_s is not None:  # a recording comes as fast as it is read, and is played in its own time
                self.sinks.clock.wait_until(begun_ns + self._time_ns(item), self.stop)
            if self.stop.is_set():
                break
            self._push(item, self.sinks.clock.now_ns())
            self._arrived += 1

    def _time_ns(self, item: VideoItem | AudioItem) -> int:
        """From the recording's start to its end, as a live one would have arrived."""
        if isinstance(item, VideoItem):
            return item.time_ns
        return (item.first_sample + len(item.samples)) * NS_PER_S // self.sinks.grid.sample_rate_hz

    def _push(self, item: VideoItem | AudioItem, arrived_ns: int) -> None:
        if isinstance(item, AudioItem):
            first, samples = self._sample_clock.place(item.samples, arrived_ns)
            self._sound.put(first, samples)
            self.count("samples", len(samples))
            self.set_counts(audio_gaps=self._sample_clock.gaps)
            self.came("acoustic", self._sound.condition)
        elif self._feeder is not None:
            self._feeder.offer(arrived_ns, item.rgb)
            self.count("frames")
            self.set_counts(frozen_frames=self._feeder.frozen_frames)
            self.note(self._missing or self._feeder.hint)
            self.came("vision", self._feeder.condition)
