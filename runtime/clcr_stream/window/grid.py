"""The time grid of a session: its ticks, on the host's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

from clcr_stream.bundle.manifest import Manifest


@dataclass(frozen=True)
class Tick:
    """Hop `number` (1, 2, ...) closes the window [start_ns, end_ns) and adds the data of [hop_start_ns, end_ns)."""

    number: int
    start_ns: int
    hop_start_ns: int
    end_ns: int


class Grid:
    """The ticks of a session: absolute from `origin_ns`, never accumulated."""

    def __init__(self, origin_ns: int, manifest: Manifest) -> None:
        self.origin_ns = origin_ns
        self.hop_ns = manifest.hop_ns
        self.window_ns = manifest.hop_ns * manifest.window_hops

    def tick(self, number: int) -> Tick:
        """Tick `number`; the first windows begin before the origin, where there is no data."""
        end_ns = self.origin_ns + number * self.hop_ns
        return Tick(number, end_ns - self.window_ns, end_ns - self.hop_ns, end_ns)

    def closed_by(self, time_ns: int) -> int:
        """The number of the last tick that ends at or before `time_ns`."""
        return (time_ns - self.origin_ns) // self.hop_ns
