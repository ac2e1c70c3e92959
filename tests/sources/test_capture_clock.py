"""Stamps of devices on the host's clock: a day of drift, delays with a heavy tail, clocks that jump or are none."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.sources.capture_clock import BUCKET_NS, NEAR, CaptureClock, SoundLatency
from clcr_stream.sources.sender_clock import SenderClock

MOST_NS = 100 * NS_PER_MS
LEAST_NS = 37 * NS_PER_MS  # what even the fastest picture takes
ZERO_NS = 12_345 * NS_PER_S
KNOWN_S = (NEAR + 2) * BUCKET_NS // NS_PER_S  # until stamps are believed


@dataclass(frozen=True)
class Device:
    """A camera whose clock is off by `ppm` and by `offset_ns`, and jumps by `jump_ns` in the middle."""

    seconds: int
    rate_hz: float = 3.0
    ppm: float = 0.0
    offset_ns: int = 0
    jump_ns: int = 0
    seed: int = 0
    even: bool = False  # delays of 0 to 80 ms, each as likely, in place of few long ones

    def frames(self) -> Iterator[tuple[int, int, int]]:
        """Captured (host's clock), stamped (the device's), arrived (host's); in order, as TCP brings them."""
        random = np.random.default_rng(self.seed)
        count = int(self.seconds * self.rate_hz)
        tail = np.minimum(80.0, random.pareto(1.5, count) * 6.0)  # ms: median 3.5, p90 22, p99 80
        delays = (random.uniform(0.0, 80.0, count) if self.even else tail) * NS_PER_MS
        newest_ns = 0
        for number, delay_ns in enumerate(delays.tolist()):
            true_ns = int(number * NS_PER_S / self.rate_hz)
            jump_ns = self.jump_ns if true_ns >= self.seconds * NS_PER_S // 2 else 0
            stamp_ns = self.offset_ns + jump_ns + int(true_ns * (1 + self.ppm * 1e-6))
            newest_ns = max(newest_ns, ZERO_NS + true_ns + LEAST_NS + int(delay_ns))
            yield ZERO_NS + true_ns, stamp_ns, newest_ns


def errors_ms(device: Device, clock: CaptureClock) -> np.ndarray:
    """Placed minus captured and the least delay, of every frame."""
    placed = [clock.place(stamp, arrived) - captured - LEAST_NS for captured, stamp, arrived in device.frames()]
    return np.array(placed) / NS_PER_MS


@pytest.mark.parametrize(("ppm", "jump_s", "even"), [(200, 2, False), (-200, -2, True)])
def test_a_day_of_drift_and_a_jump_of_two_seconds_leave_pictures_where_they_were_taken(
    ppm: int, jump_s: int, even: bool, record_property: Callable[[str, object], None]
) -> None:
    clock = CaptureClock(MOST_NS)
    device = Device(24 * 3600, ppm=ppm, offset_ns=-(10**15), jump_ns=jump_s * NS_PER_S, even=even)
    errors = np.abs(errors_ms(device, clock))
    uncorrected = np.array([arrived - captured - LEAST_NS for captured, _, arrived in device.frames()]) / NS_PER_MS
    p99, worst = float(np.percentile(errors, 99)), float(errors.max())
    record_property("capture_clock", {"ppm": ppm, "p99_ms": p99, "worst_ms": worst, "jumps": clock.jumps})
    assert p99 <= 10 and np.percentile(uncorrected, 99) > 50, "times of arrival are not good enough"
    assert clock.jumps == 1
    timing = clock.timing()
    assert timing.by == "device" and timing.skew_ppm == pytest.approx(ppm, abs=20)


@settings(max_examples=25, deadline=None)
@given(
    ppm=st.floats(-500, 500),
    offset_ns=st.integers(-(2**60), 2**60),
    rate_hz=st.sampled_from([5.0, 15.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_whatever_the_offset_and_the_rate_pictures_are_placed_within_ten_ms_once_the_clock_is_known(
    ppm: float, offset_ns: int, rate_hz: float, seed: int
) -> None:
    clock = CaptureClock(MOST_NS)
    errors = errors_ms(Device(90, rate_hz, ppm, offset_ns, seed=seed), clock)
    assert np.percentile(np.abs(errors[int(KNOWN_S * rate_hz) :]), 99) <= 10
    assert clock.jumps == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**10), 10**10), st.integers(0, 10**9)), min_size=1, max_size=300))
def test_whatever_a_device_stamps_nothing_is_placed_after_its_arrival_or_longer_before_than_ticks_wait(
    steps: list[tuple[int, int]],
) -> None:
    for host_stamps in (False, True):
        clock, stamp_ns, arrived_ns = CaptureClock(MOST_NS, host_stamps), 0, ZERO_NS
        for stamped, passed in steps:
            stamp_ns, arrived_ns = stamp_ns + stamped, arrived_ns + passed
            assert arrived_ns - MOST_NS <= clock.place(stamp_ns, arrived_ns) <= arrived_ns


def test_pictures_that_are_only_counted_are_no_clock_and_placed_at_their_arrival() -> None:
    clock = CaptureClock(MOST_NS)
    placed = [
        (clock.place(number * NS_PER_S // 25, arrived), arrived)  # FFmpeg supposes 25 pictures a second
        for number, (_, _, arrived) in enumerate(Device(60, 15.0).frames())
    ]
    assert all(captured == arrived for captured, arrived in placed)
    assert clock.timing().by == "arrival" and clock.jumps == 0


def test_a_driver_that_stamps_by_the_hosts_clock_is_believed_at_once() -> None:
    clock = CaptureClock(MOST_NS, host_stamps=True)
    for captured, _, arrived in Device(4, 15.0).frames():
        assert clock.place(captured, arrived) == max(captured, arrived - MOST_NS)
    timing = clock.timing()
    assert timing.by == "device" and timing.offset_ms == 0.0
    assert timing.delay_ms is not None and timing.delay_ms > 20


def test_a_driver_whose_monotonic_clock_is_29_s_off_is_fitted_like_any_other() -> None:
    clock = CaptureClock(MOST_NS, host_stamps=True)
    device = Device(60, 15.0, offset_ns=ZERO_NS - 29 * NS_PER_S)
    errors = errors_ms(device, clock)
    assert np.percentile(np.abs(errors[15 * KNOWN_S :]), 99) <= 10
    assert clock.timing().offset_ms == pytest.approx(29_000 + LEAST_NS / NS_PER_MS, abs=5)


def test_a_stall_and_its_burst_are_late_and_no_jump() -> None:
    clock = CaptureClock(MOST_NS)
    placed = []
    for captured, stamp, arrived in Device(60, 15.0, offset_ns=99).frames():
        stalled = 40 * NS_PER_S <= captured - ZERO_NS < 43 * NS_PER_S
        arrives = max(arrived, ZERO_NS + 43 * NS_PER_S) if stalled else arrived
        placed.append((clock.place(stamp, arrives) - captured - LEAST_NS) / NS_PER_MS)
    after = np.abs(placed[15 * 44 :])
    assert clock.jumps == 0 and np.percentile(after, 99) <= 10


def test_a_device_that_pauses_without_telling_its_clock_is_fitted_anew() -> None:
    clock = CaptureClock(MOST_NS)
    for _, stamp, arrived in Device(40, 15.0, offset_ns=7).frames():
        clock.place(stamp, arrived)
    pause_ns = 60 * NS_PER_S
    errors = []
    for captured, stamp, arrived in Device(60, 15.0, offset_ns=7 + 40 * NS_PER_S).frames():
        true_ns = captured + 40 * NS_PER_S + pause_ns
        errors.append((clock.place(stamp, arrived + 40 * NS_PER_S + pause_ns) - true_ns - LEAST_NS) / NS_PER_MS)
    assert clock.jumps == 1
    assert np.percentile(np.abs(errors[15 * (KNOWN_S + 4) :]), 99) <= 10


def placed_by_sender(clock: CaptureClock, device: Device, wrong_ns: int) -> np.ndarray:
    """Placed minus captured, ms, of frames whose sender says when it captured them by a clock that is so wrong."""
    placed = [
        clock.place(stamp, arrived, sent_ns=captured + wrong_ns) - captured
        for captured, stamp, arrived in device.frames()
    ]
    return np.array(placed) / NS_PER_MS


def test_a_sender_that_says_when_it_captured_is_believed_at_once_and_nothing_of_the_way_is_left() -> None:
    clock = CaptureClock(200 * NS_PER_MS)
    errors = placed_by_sender(clock, Device(4, 15.0, offset_ns=77), 0)
    assert np.abs(errors).max() == 0
    timing = clock.timing()
    assert timing.by == "device" and timing.offset_ms == 0.0 and timing.skew_ppm is None


@pytest.mark.parametrize("wrong_s", [3600, -3600, 0.2, -2])
def test_a_sender_whose_wall_clock_is_wrong_is_fitted_like_any_other(wrong_s: float) -> None:
    clock = CaptureClock(MOST_NS)
    errors = placed_by_sender(clock, Device(60, 15.0, offset_ns=77), int(wrong_s * NS_PER_S))
    assert errors.min() >= 0, "never before they were captured"
    assert np.percentile(np.abs(errors[15 * KNOWN_S :] - LEAST_NS / NS_PER_MS), 99) <= 10
    assert clock.timing().by == "device"


def test_what_was_held_up_for_a_second_is_no_reason_to_doubt_its_sender_but_a_clock_set_back_is() -> None:
    clock = CaptureClock(MOST_NS)
    for number in range(45):
        at_ns = ZERO_NS + number * NS_PER_S
        late_ns = 1500 * NS_PER_MS if number == 10 else 40 * NS_PER_MS
        set_back_ns = 60 * NS_PER_S if number >= 20 else 0
        placed_ns = clock.place(at_ns, at_ns + late_ns, sent_ns=at_ns - set_back_ns)
        if number < 20 and number != 10:
            assert placed_ns == at_ns
        assert at_ns + late_ns - MOST_NS <= placed_ns <= at_ns + late_ns
        if number == 11:
            assert clock.timing().offset_ms == 0.0
    assert clock.timing().offset_ms != 0.0


class Packet:
    """As PyAV's, with what FFmpeg adds once a sender has told its wall clock."""

    stream_index, time_base = 1, Fraction(1, 90_000)

    def __init__(self, pts: int | None, wall_us: int | None) -> None:
        self.pts, self._wall_us = pts, wall_us

    def has_sidedata(self, kind: str) -> bool:
        return kind == "prft" and self._wall_us is not None

    def get_sidedata(self, _kind: str) -> bytes:
        return struct.pack("<qi4x", self._wall_us, 24)


def test_a_packets_wall_clock_gives_the_time_of_what_is_decoded_later() -> None:
    sender, second = SenderClock(), Fraction(1)
    sender.see(Packet(90_000, None), ZERO_NS)
    sender.see(Packet(None, 5), ZERO_NS)
    sender.see(SimpleNamespace(pts=90_000, time_base=Packet.time_base), ZERO_NS)  # PyAV 12
    assert sender.captured_ns(1, second) is None
    wall_us = time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000 - 70_000
    sender.see(Packet(90_000, wall_us), ZERO_NS)
    at_ns = sender.captured_ns(1, second * 3 / 2)
    assert at_ns is not None and sender.captured_ns(2, second) is None
    asked_later_ns = ZERO_NS + 430 * NS_PER_MS - at_ns  # how long this test took until it asked for the time
    assert 0 <= asked_later_ns < 10 * NS_PER_S


def test_what_a_sound_cards_buffers_hold_is_known_and_at_most_the_limit_is_subtracted() -> None:
    latency = SoundLatency(most_ns=30 * NS_PER_MS)
    assert latency.see({}, 0.02) == 0 and latency.timing(0.0, 0).by == "arrival"
    assert latency.see({"current_time": 0.0, "input_buffer_adc_time": 0.0}, 0.02) == 0
    for late_s in (0.011, 0.013, 0.012, 0.2, 0.012):
        subtracted = latency.see({"current_time": 100.0, "input_buffer_adc_time": 100.0 - 0.02 - late_s}, 0.02)
    assert subtracted == pytest.approx(12 * NS_PER_MS, abs=1000), "one late callback changes nothing"
    latency.restart()
    assert latency.see({"current_time": 100.0, "input_buffer_adc_time": 99.88}, 0.02) == 30 * NS_PER_MS
    timing = latency.timing(0.0, 0)
    assert timing.delay_ms == pytest.approx(100, abs=0.1) and timing.subtracted_ms == 30.0
