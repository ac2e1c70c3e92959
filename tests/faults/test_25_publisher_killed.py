"""Fault 25: the publisher is killed (SIGKILL) again and again, and another one takes its place; somebody joins late."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from bus_process import Process, undetected
from driving import socket_folder

KILLS = int(os.environ.get("CLCR_KILLS", "4"))  # 200 for docs/reliability.md
MOST_MESSAGES = 60  # that a reader is given before the publisher is killed


def session_of(number: int) -> str:
    return f"{number + 1:016x}"


def test_no_gap_goes_unnoticed_however_often_the_publisher_is_killed(
    record_property: Callable[[str, object], None],
) -> None:
    draw = random.Random(25)
    outages_ms = []
    with socket_folder() as folder:
        endpoint = f"ipc://{folder}/s"
        with Process("read", endpoint, "every") as every, Process("read", endpoint, "newest") as newest:
            every.first_line()
            newest.first_line()
            for number in range(KILLS + 1):
                with Process("publish", endpoint, session_of(number), 2) as publisher:
                    publisher.first_line()  # bound
                    first = [reader.wait_for(session_of(number)) for reader in (every, newest)]
                    outages_ms += [(got.arrived_ns - publisher.bound_ns) / 1e6 for got in first]
                    every.wait_lines(len(every.lines()) + draw.randrange(MOST_MESSAGES))
                    if number == KILLS:
                        with Process("read", endpoint, "every") as late:
                            joined = late.wait_lines(3)
            read = {"every": every.lines(), "newest": newest.lines()}
    for lines in (*read.values(), joined):
        assert not undetected(lines)
    sessions = [session_of(number) for number in range(KILLS + 1)]
    for lines in read.values():
        assert list(dict.fromkeys(line.session for line in lines)) == sessions, "each once, and none comes back"
        assert sum(line.new_session for line in lines) == KILLS
    record_property(
        "fault_25",
        {
            "kills": KILLS,
            "read": {name: len(lines) for name, lines in read.items()},
            "told_missing": {name: sum(line.missed for line in lines) for name, lines in read.items()},
            "bound_to_first_read_ms": [sorted(outages_ms)[len(outages_ms) // 2], max(outages_ms)],
        },
    )
