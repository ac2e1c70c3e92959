"""A camera or stream on the network through PyAV: live, stamped at arrival, reconnected for as long as it takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceError, one_line, redact
from clcr_stream.sources.audio import SampleClock
from clcr_stream.sources.base import Modality, Sinks, SourceIdentity, SourceReport
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.media import AudioItem, MediaReader, VideoItem
from clcr_stream.sources.threaded import ThreadedSource, backoff_s

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "rtp", "srt")
# A playlist on the network may name more of the network, never a local file.
PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,http,https,httpproxy,tls,udp,tcp,rtp,srtp,srt,crypto"
OPEN_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 1.0
STALE_NS = 1000 * NS_PER_MS


def open_url(url: str, requested: tuple[Modality, ...], rate_hz: int, on_error: Callable[[str], None]) -> MediaReader:
    """Connect; SourceError (without credentials) when nothing usable answers in time."""
    import av

    options = {"protocol_whitelist": PROTOCOLS}
    if url.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # no torn frames, and the connection's end is seen
    try:
        container = av.open(url, mode="r", options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S))
    except av.error.ExitError:
        raise SourceError(redact(f"{url}: does not answer within {OPEN_TIMEOUT_S:.0f} s")) from None
    except (OSError, av.error.FFmpegError, ValueError) as error:
        raise SourceError(redact(f"{url}: does not answer ({one_line(str(error))})")) from None
    reader = MediaReader(container, requested, rate_hz, on_error)
    if not reader.modalities:
        container.close()
        raise SourceError(redact(f"{url}: sends neither video nor audio"))
    return reader


class NetworkSource(ThreadedSource):
    """A live URL. What arrives is stamped at arrival; when it stops, it is stale and opened again with back-off."""

    def __init__(self, url: str, requested: tuple[Modality, ...], sinks: Sinks, open_reader: Any = open_url) -> None:
        counts = {"decode_errors": 0, "frames": 0, "samples": 0, "reconnects": 0, "audio_gaps": 0}
        super().__init__(SourceIdentity(redact(url), "network", requested), sinks, counts)
        self._url, self._requested, self._open_reader = url, requested, open_reader
        self._feeder = FrameFeeder(sinks) if "vision" in requested else None
        self._sample_clock = SampleClock(sinks.grid)
        self._last_ns: int | None = None

    def run(self) -> None:
        import av

        attempt = 0
        jitter = random.Random()
        while not self.stop.is_set():
            before_ns = self._last_ns
            try:
                reader = self._open_reader(
                    self._url,
                    self._requested,
                    self.sinks.grid.sample_rate_hz,
                    lambda _reason: self.count("decode_errors"),
                )
                with reader:
                    self._drain(reader)
                reason = "the stream ended"
            except av.error.ExitError:  # PyAV's own time-out
                reason = f"nothing arrived for {READ_TIMEOUT_S:.0f} s"
            except (SourceError, OSError, av.error.FFmpegError) as error:
                reason = str(error)
            attempt = 0 if self._last_ns != before_ns else attempt + 1
            self.set_state("waiting" if self._last_ns is None else "stale", f"{reason}; trying again")
            pause_ns = int(backoff_s(attempt, jitter.random()) * NS_PER_S)
            self.sinks.clock.wait_until(self.sinks.clock.now_ns() + pause_ns, self.stop)

    def report(self) -> SourceReport:
        report = super().report()
        quiet = self._last_ns is not None and self.sinks.clock.now_ns() - self._last_ns > STALE_NS
        if report.state == "live" and quiet:
            return SourceReport(report.name, report.kind, "stale", "nothing arrives", report.counts)
        return report

    def _drain(self, reader: MediaReader) -> None:
        """Push what arrives until the stream ends."""
        self._sample_clock.restart()
        if self._feeder is not None:
            self._feeder.reset()
        if self._last_ns is not None:
            self.count("reconnects")
        absent = [modality for modality in self._requested if modality not in reader.modalities]
        note = f"the stream holds no {absent[0]} data" if absent else ""
        for item in reader.items():
            if self.stop.is_set():
                break
            self._last_ns = self.sinks.clock.now_ns()
            self.set_state("live", note)
            self._push(item, self._last_ns)

    def _push(self, item: VideoItem | AudioItem, arrived_ns: int) -> None:
        if isinstance(item, AudioItem):
            first, samples = self._sample_clock.place(item.samples, arrived_ns)
            self.sinks.rings.acoustic.put(first, samples)
            self.count("samples", len(samples))
            self.set_counts(audio_gaps=self._sample_clock.gaps)
        elif self._feeder is not None:
            self._feeder.offer(arrived_ns, item.rgb)
            self.count("frames")
