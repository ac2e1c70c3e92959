"""From a device's own stamps to when its data were captured, by the host's monotonic clock.

What a live device brings arrives late, by a delay that varies. Its own stamps do not vary, but count from anywhere and
at a rate of their own. The least delayed data of the last seconds show where the two clocks stand to each other, those
of the last minutes how fast they drift apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.sources.base import Timing

BUCKET_NS = 4 * NS_PER_S  # the least delayed one of each counts
BUCKETS = 75  # 5 minutes, for the drift
NEAR = 5  # buckets for where the clocks stand; so many are needed before stamps are believed
MAX_DRIFT = 1e-3  # what runs faster or slower is no clock: pictures that are counted, at a rate that was guessed
SLEW = 0.01  # a second is corrected by 10 ms at most
AHEAD_NS = 100 * NS_PER_MS  # data cannot come before they were captured: by so much, the device's clock has jumped
BEHIND_NS = 500 * NS_PER_MS  # all data of a bucket are later by so much: it has jumped, or has paused
EARLY_NS = 500 * NS_PER_MS  # AHEAD_NS before much is known
HOST_NS = 500 * NS_PER_MS  # stamps that are never older, and never newer than now, are the host's own
DOUBT_NS = 10 * NS_PER_S  # a sender whose data are all older for so long has a wrong clock; before, they were held up
SOUND_SLACK_NS = 30 * NS_PER_MS  # a block, and what its thread is late: sound must be there when a tick takes it
LATENCIES = 101  # blocks of sound, 2 s: their median is taken


class CaptureClock:
    """Of one connection or device, for data in the order of their capture. The session's clock must be monotonic.

    Nothing is said to be captured after it arrived, nor more than `most_ns` before: ticks do not wait for longer.
    """

    def __init__(self, most_ns: int, host_stamps: bool = False) -> None:
        """`host_stamps`: the device may stamp with the host's own clock, as V4L2's drivers do."""
        self.jumps = 0
        self._most_ns = most_ns
        self._on_host = host_stamps
        self._delay_ns = 0.0  # of the newest data, smoothed
        self._subtracted_ns = 0.0
        self.restart()

    def restart(self) -> None:
        """The device was opened again: its clock may be another one."""
        self._buckets: deque[tuple[int, int]] = deque(maxlen=BUCKETS)  # when, and host minus device then
        self._open: tuple[int, int] | None = None
        self._open_since_ns = 0
        self._last_ns: dict[str, int] = {}
        self._drift = 0.0
        self._trusted = False
        self._offset_ns: float | None = None
        self._moved_ns = 0
        self._sender = _Sender()

    def place(
        self, device_ns: int, arrived_ns: int, what: str = "", most_ns: int | None = None, sent_ns: int | None = None
    ) -> int:
        """When what the device stamped `device_ns` was captured, ns of the host.

        Data of several kinds (`what`) that a device stamps with one clock come each in order, and the kind that is
        least delayed counts for all. `most_ns` in place of the clock's own. `sent_ns` is
        when the sender's wall clock says it was: believed until it says what cannot be.
        """
        most_ns = self._most_ns if most_ns is None else most_ns
        apart_ns = arrived_ns - device_ns
        self._on_host = self._on_host and 0 <= apart_ns <= HOST_NS
        if self._jumped(device_ns, arrived_ns, self._last_ns.get(what, device_ns)):
            self.jumps += 1
            self.restart()
        self._last_ns[what] = device_ns
        self._see(arrived_ns, apart_ns)
        captured_ns = device_ns if self._on_host else arrived_ns
        if sent_ns is not None and self._sender.is_right(sent_ns, arrived_ns):
            captured_ns = sent_ns
        elif self._trusted and not self._on_host:
            captured_ns = device_ns + round(self._moved_offset(arrived_ns))
        placed_ns = min(arrived_ns, max(arrived_ns - most_ns, captured_ns))
        self._delay_ns += 0.05 * (max(0, arrived_ns - captured_ns) - self._delay_ns)
        self._subtracted_ns += 0.05 * (arrived_ns - placed_ns - self._subtracted_ns)
        return placed_ns

    def timing(self) -> Timing:
        """What is known now."""
        on_host = self._on_host or self._sender.known
        known = on_host or self._trusted
        offset_ns = 0.0 if on_host else self._offset_ns
        return Timing(
            by="device" if known else "arrival",
            delay_ms=_ms(self._delay_ns) if known else None,
            subtracted_ms=_ms(self._subtracted_ns) if known else 0.0,
            offset_ms=_ms(offset_ns) if known and offset_ns is not None else None,
            skew_ppm=round(-1e6 * self._drift, 1) if self._trusted else None,
            jumps=self.jumps,
        )

    def _jumped(self, device_ns: int, arrived_ns: int, last_ns: int) -> bool:
        if not self._last_ns:
            return False
        least_ns = self._least(arrived_ns)
        ahead_ns = AHEAD_NS if self._trusted else EARLY_NS
        return device_ns < last_ns - AHEAD_NS or arrived_ns - device_ns < least_ns - ahead_ns

    def _see(self, arrived_ns: int, apart_ns: int) -> None:
        if self._open is None:
            self._open, self._open_since_ns = (arrived_ns, apart_ns), arrived_ns
        elif arrived_ns - self._open_since_ns >= BUCKET_NS:
            self._close(self._open)
            self._open, self._open_since_ns = (arrived_ns, apart_ns), arrived_ns
        elif apart_ns < self._open[1] + self._drift * (arrived_ns - self._open[0]):
            self._open = arrived_ns, apart_ns

    def _close(self, least: tuple[int, int]) -> None:
        at_ns, apart_ns = least
        if self._trusted and self._offset_ns is not None and apart_ns - self._least(at_ns, False) > BEHIND_NS:
            self.jumps += 1
            self.restart()
        self._buckets.append(least)
        if len(self._buckets) >= NEAR:
            self._drift = _theil_sen(self._buckets)
            self._trusted = abs(self._drift) <= MAX_DRIFT

    def _least(self, now_ns: int, with_open: bool = True) -> float:
        """Host minus device, of the least delayed data, as it is now by the drift."""
        near = [*self._buckets][-NEAR:]
        if with_open and self._open is not None:
            near.append(self._open)
        return min(apart_ns + self._drift * (now_ns - at_ns) for at_ns, apart_ns in near)

    def _moved_offset(self, now_ns: int) -> float:
        """Host minus device, moved no faster than SLEW towards what the data say."""
        wanted = self._least(now_ns)
        if self._offset_ns is None:
            self._offset_ns = wanted
        else:
            passed_ns = max(0, now_ns - self._moved_ns)
            drifted = self._offset_ns + self._drift * passed_ns
            limit = SLEW * passed_ns
            self._offset_ns = drifted + max(-limit, min(limit, wanted - drifted))
        self._moved_ns = now_ns
        return self._offset_ns


class _Sender:
    """Whether the wall clock of a sender can be right. Within HOST_NS it is not known better than that."""

    def __init__(self) -> None:
        self.known = False  # it is right, by what was seen
        self._possible = True
        self._fresh_ns: int | None = None

    def is_right(self, sent_ns: int, arrived_ns: int) -> bool:
        """Data came that it sent then. What is still to come proves it wrong for good."""
        self._possible = self._possible and sent_ns <= arrived_ns
        if arrived_ns - sent_ns <= HOST_NS:
            self._fresh_ns = arrived_ns
        self.known = self._possible and self._fresh_ns is not None and arrived_ns - self._fresh_ns <= DOUBT_NS
        return self.known


def _theil_sen(points: deque[tuple[int, int]]) -> float:
    """The median slope between all pairs: a few bad points do not move it."""
    first = points[0]
    at, apart = (np.array([point[axis] - first[axis] for point in points], np.float64) for axis in (0, 1))
    rows, columns = np.triu_indices(len(at), 1)
    return float(np.median((apart[columns] - apart[rows]) / (at[columns] - at[rows])))


class SoundLatency:
    """How long sound lies in a device's buffers before PortAudio hands it over, by PortAudio's own stamps."""

    def __init__(self, most_ns: int) -> None:
        """`most_ns` is how much of it is subtracted at most."""
        self._most_ns = most_ns
        self._seen: deque[float] = deque(maxlen=LATENCIES)
        self.known_ns: int | None = None

    def restart(self) -> None:
        """The device was opened again."""
        self._seen.clear()
        self.known_ns = None

    def see(self, stamps: Mapping[str, Any], block_s: float) -> int:
        """The stamps of a block of so many seconds; what is to be subtracted from its arrival, ns."""
        now_s, first_s = stamps.get("current_time", 0.0), stamps.get("input_buffer_adc_time", 0.0)
        late_s = now_s - first_s - block_s
        # A block whose last sample is said to be still to come: PulseAudio behind ALSA gives such stamps.
        if now_s > 0 and first_s > 0 and 0 <= late_s < 1.0:
            self._seen.append(late_s)
            self.known_ns = int(median(self._seen) * NS_PER_S)
        return 0 if self.known_ns is None else min(self._most_ns, self.known_ns)

    def timing(self, skew_ppm: float, gaps: int) -> Timing:
        """What is known now; `gaps` are the jumps of a clock that counts samples."""
        if self.known_ns is None:
            return Timing(skew_ppm=round(skew_ppm, 1), jumps=gaps)
        subtracted_ns = min(self._most_ns, self.known_ns)
        return Timing("device", _ms(self.known_ns), _ms(subtracted_ns), None, round(skew_ppm, 1), gaps)


def _ms(time_ns: float) -> float:
    return round(time_ns / NS_PER_MS, 1)
