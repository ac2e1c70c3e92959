"""Fault 24: a fifth of the readers are stopped (SIGSTOP) for good, and one is woken again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict

from bus_process import Process, undetected
from driving import socket_folder

READERS, STOPPED = (
    int(text) for text in os.environ.get("CLCR_READERS", "6,2").split(",")
)  # 40,10 and 40,0 for docs/reliability.md
PERIOD_MS = float(os.environ.get("CLCR_PERIOD_MS", "5"))
MESSAGES = 600  # each reader: past the queues (64) of the stopped ones and their kernel's buffers
GROWTH_MB = 4.0  # 64 messages of 1.5 kB for each stopped reader, and what the kernel does not count


def test_stopped_readers_cost_the_others_nothing_and_read_on_with_their_gap_told(
    record_property: Callable[[str, object], None],
) -> None:
    with socket_folder() as folder, contextlib.ExitStack() as stack:
        publisher = stack.enter_context(Process("publish", f"ipc://{folder}/s", "a" * 16, PERIOD_MS))
        endpoint = publisher.first_line()
        readers = [stack.enter_context(Process("read", endpoint, "every")) for _ in range(READERS)]
        stopped = [stack.enter_context(Process("read", endpoint, "every")) for _ in range(STOPPED)]
        newest = stack.enter_context(Process("read", endpoint, "newest"))
        for process in (*readers, *stopped, newest):
            process.wait_lines(5)
        for process in (*stopped, newest):
            process.process.send_signal(signal.SIGSTOP)
        before_mb, begun = publisher.rss_mb(), [len(process.lines()) for process in readers]
        for process, count in zip(readers, begun, strict=True):
            process.wait_lines(count + MESSAGES)
        grown_mb = publisher.rss_mb() - before_mb
        old = newest.lines()[-1]
        newest.process.send_signal(signal.SIGCONT)
        woken = newest.wait_lines(len(newest.lines()) + 5)[-1]
        found = [process.lines() for process in readers]
        for process in stopped[:1]:
            process.process.send_signal(signal.SIGCONT)
            found.append(process.wait_lines(len(process.lines()) + 200))
        paced = publisher.end()
    lost = sum(line.missed for lines in found[:READERS] for line in lines)
    delays_ms = sorted((line.arrived_ns - line.published_ns) / 1e6 for lines in found[:READERS] for line in lines[5:])
    p99_ms = delays_ms[len(delays_ms) * 99 // 100]
    record_property("fault_24", {"p99_ms": p99_ms, "grown_mb": grown_mb, "lost": lost} | asdict(paced))
    assert not any(undetected(lines) for lines in found), "a gap was not told"
    assert woken.seq > old.seq + MESSAGES // 2, "the newest, not what waited"
    assert grown_mb < GROWTH_MB
    assert lost <= MESSAGES * READERS // 10, "on a busy machine some, and told; not for the sake of those that stopped"


def test_a_reader_that_was_stopped_is_given_a_new_message_first_and_its_gap() -> None:
    """It is cut off after 1.3 s, with what had come by then still waiting for it; on a busy machine once in five."""
    with socket_folder() as folder, Process("publish", f"ipc://{folder}/s", "a" * 16, 200.0) as publisher:
        with Process("read", publisher.first_line(), "newest") as reader:
            reader.wait_lines(5)
            ages_ms: list[float] = []
            while len(ages_ms) < 5 and not any(age_ms < 700 for age_ms in ages_ms):
                reader.process.send_signal(signal.SIGSTOP)
                threading.Event().wait(2.5)
                before = len(reader.lines())
                reader.process.send_signal(signal.SIGCONT)
                first = reader.wait_lines(before + 3)[before]
                ages_ms.append((first.arrived_ns - first.published_ns) / 1e6)
            assert not undetected(reader.lines()), "a gap was not told"
        assert any(age_ms < 700 for age_ms in ages_ms), ages_ms
