"""From a source's samples to the acoustic ring, with what is wrong with the sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.base import Sinks
from clcr_stream.window.conditions import FINE, SILENT_CODED_NS, SILENT_NS, Condition, SoundWatch


class SoundFeeder:
    """Puts samples into the ring and listens whether they can be anything.

    Of a `microphone` digital silence is a fault, soon, and no sound; recorded and coded sound has pauses without any
    noise, so it may be silent for longer, and its silence counts as heard.
    """

    def __init__(self, sinks: Sinks, microphone: bool = False) -> None:
        self._ring = sinks.rings.acoustic
        self._grid = sinks.grid
        self._microphone = microphone
        patience_ns = SILENT_NS if microphone else SILENT_CODED_NS
        self._watch = SoundWatch(sinks.grid.sample_rate_hz, patience_ns)
        self.condition: Condition = FINE

    def put(self, first: int, samples: NDArray[np.float32]) -> None:
        """Samples [first, first + n) on the grid, float32."""
        self.condition = self._watch.hear(samples)
        end = first + len(samples)
        self._ring.conditions.put(self._grid.sample_ns(end), self.condition)
        if self._microphone and self.condition == "silent":
            self._ring.reach(end)
        else:
            self._ring.put(first, samples)

    def reset(self) -> None:
        """The next sound has nothing to do with the last one."""
        self._watch.reset()
