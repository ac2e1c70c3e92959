"""The time grid of a session: its hops, video slots and audio samples, on the host's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import NS_PER_S


@dataclass(frozen=True)
class Tick:
    """Hop `number` (1, 2, ...) closes the window [start_ns, end_ns) and adds the data of [hop_start_ns, end_ns)."""

    number: int
    start_ns: int
    hop_start_ns: int
    end_ns: int


@dataclass(frozen=True)
class TimeGrid:
    """Where hops, video slots and audio samples lie: whole numbers counted from `origin_ns`, never accumulated.

    Slot k is centred on origin + k / frame_rate_hz, sample i starts at origin + i / sample_rate_hz; both count up
    without end, and those before the origin are negative. A hop is a whole number of slots and samples (ValueError).
    """

    origin_ns: int
    hop_ns: int
    window_hops: int
    frame_rate_hz: int
    sample_rate_hz: int

    def __post_init__(self) -> None:
        if min(self.hop_ns, self.window_hops, self.frame_rate_hz, self.sample_rate_hz) < 1:
            raise ValueError(f"{self}: hop, window and rates must be at least 1")
        if self.frame_rate_hz * self.hop_ns % NS_PER_S or self.sample_rate_hz * self.hop_ns % NS_PER_S:
            raise ValueError(f"{self}: a hop must be a whole number of video slots and audio samples")

    @classmethod
    def of(cls, manifest: Manifest, origin_ns: int) -> TimeGrid:
        """The grid of a bundle, from `origin_ns` on."""
        rates = manifest.vision.rate_hz, manifest.acoustic.sample_rate_hz
        return cls(origin_ns, manifest.hop_ns, manifest.window_hops, *rates)

    @property
    def window_ns(self) -> int:
        """Length of a window."""
        return self.hop_ns * self.window_hops

    @property
    def slots_per_hop(self) -> int:
        """Video slots of a hop."""
        return self.frame_rate_hz * self.hop_ns // NS_PER_S

    @property
    def samples_per_hop(self) -> int:
        """Audio samples of a hop."""
        return self.sample_rate_hz * self.hop_ns // NS_PER_S

    def tick(self, number: int) -> Tick:
        """Tick `number`; the first windows begin before the origin, where there is no data."""
        end_ns = self.origin_ns + number * self.hop_ns
        return Tick(number, end_ns - self.hop_ns * self.window_hops, end_ns - self.hop_ns, end_ns)

    def closed_by(self, time_ns: int) -> int:
        """The number of the last tick that ends at or before `time_ns`."""
        return (time_ns - self.origin_ns) // self.hop_ns

    def slot_of(self, time_ns: int) -> int:
        """The video slot whose centre is nearest to `time_ns`, the later one of two."""
        return ((time_ns - self.origin_ns) * self.frame_rate_hz * 2 + NS_PER_S) // (2 * NS_PER_S)

    def slot_ns(self, slot: int) -> int:
        """The centre of a video slot, rounded down to a whole ns."""
        return self.origin_ns + slot * NS_PER_S // self.frame_rate_hz

    def sample_of(self, time_ns: int) -> int:
        """The audio sample whose start is nearest to `time_ns`, the later one of two."""
        return ((time_ns - self.origin_ns) * self.sample_rate_hz * 2 + NS_PER_S) // (2 * NS_PER_S)

    def sample_ns(self, sample: int) -> int:
        """The start of an audio sample, rounded down to a whole ns."""
        return self.origin_ns + sample * NS_PER_S // self.sample_rate_hz
