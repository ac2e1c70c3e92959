"""Clocks and the wake: a wait ends at its deadline or when somebody calls, and no call is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from clcr_stream.clock import IDLE_S, NS_PER_S, MonotonicClock, VirtualClock, Wake

LONG_S = 30.0


def waited_s(wake: Wake, timeout_s: float) -> float:
    begun_ns = time.monotonic_ns()
    wake.wait(timeout_s)
    return (time.monotonic_ns() - begun_ns) / NS_PER_S


def test_a_call_before_the_wait_is_not_lost_and_counts_once() -> None:
    with Wake() as wake:
        for _ in range(3):
            wake.set()
        assert waited_s(wake, LONG_S) < LONG_S / 2
        assert waited_s(wake, 0.05) >= 0.05


def test_more_calls_than_the_pipe_holds_do_not_block_and_are_forgotten_together() -> None:
    with Wake() as wake:
        for _ in range(100_000):
            wake.set()
        wake.wait(LONG_S)
        assert waited_s(wake, 0.05) >= 0.05


@pytest.mark.parametrize("timeout_s", [0.0, 0.0004, 0.0037, 0.05])
def test_without_a_call_a_wait_lasts_to_the_millisecond_and_not_longer_than_asked(timeout_s: float) -> None:
    with Wake() as wake:
        # It may end up to 1 ms early, for the caller to wait the rest; a loaded machine may wake it late.
        assert waited_s(wake, timeout_s) > timeout_s - 0.001


def test_a_signal_handler_ends_a_wait_of_the_thread_it_interrupts() -> None:
    with Wake() as wake:
        before = signal.signal(signal.SIGUSR1, lambda *_: wake.set())
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            timer.start()
            assert waited_s(wake, LONG_S) < LONG_S / 2
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)


def test_every_call_of_many_threads_is_followed_by_a_wait_that_ends() -> None:
    """Each thread asks and waits for the answer; an ask whose wake was lost would leave its thread waiting."""
    asked = [threading.Event() for _ in range(4)]
    answered = [threading.Event() for _ in range(4)]
    rounds, given = 300, [0] * 4
    failed: list[int] = []

    def ask(index: int, wake: Wake) -> None:
        for _ in range(rounds):
            asked[index].set()
            wake.set()
            if not answered[index].wait(LONG_S / 3):
                failed.append(index)
                return
            answered[index].clear()

    with Wake() as wake:
        threads = [threading.Thread(target=ask, args=(index, wake)) for index in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(12 * rounds):  # a call may also come after its question was seen
            if all(answer == rounds for answer in given):
                break
            wake.wait(LONG_S)
            for index in range(4):
                if asked[index].is_set():
                    asked[index].clear()
                    given[index] += 1
                    answered[index].set()
        for thread in threads:
            thread.join()
    assert (failed, given) == ([], [rounds] * 4)


def test_closing_twice_is_nothing_and_a_late_call_touches_no_other_file(tmp_path: Path) -> None:
    wake = Wake()
    wake.close()
    wake.close()
    with (tmp_path / "a").open("wb"), (tmp_path / "b").open("wb"):  # takes the numbers that were let go of
        wake.set()
    assert (tmp_path / "a").stat().st_size == (tmp_path / "b").stat().st_size == 0


def test_a_virtual_clock_jumps_to_a_known_time_and_waits_for_a_call_without_one() -> None:
    clock = VirtualClock(5)
    with Wake() as wake:
        clock.pause(700, wake)
        assert clock.now_ns() == 700
        clock.pause(600, wake)
        assert clock.now_ns() == 700
        wake.set()
        clock.pause(None, wake)
        assert clock.now_ns() == 700
        assert waited_s(wake, 0.0) < LONG_S  # the call was taken by the pause
        assert waited_s(wake, 0.02) >= 0.02


def test_a_pause_of_the_real_clock_ends_at_its_time_and_within_the_idle_limit() -> None:
    clock = MonotonicClock()
    with Wake() as wake:
        deadline_ns = clock.now_ns() + 20_000_000
        while clock.now_ns() < deadline_ns:
            clock.pause(deadline_ns, wake)
        begun_ns = clock.now_ns()
        clock.pause(begun_ns + 1_000_000, wake)
        assert (clock.now_ns() - begun_ns) / NS_PER_S < IDLE_S / 2, "one pause lasts to its time, not to the limit"
        begun_ns = clock.now_ns()
        clock.pause(None, wake)
        assert IDLE_S - 0.002 < (clock.now_ns() - begun_ns) / NS_PER_S < LONG_S
        wake.set()
        begun_ns = clock.now_ns()
        clock.pause(begun_ns + 200_000_000, wake)
        assert (clock.now_ns() - begun_ns) / NS_PER_S < 0.19
