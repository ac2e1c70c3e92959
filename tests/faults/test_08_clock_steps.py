"""Fault 8: somebody sets the wall clock an hour forward, then two hours back, while a session runs."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faulty import expect_state, watched
from job_process import NS_PER_S

HOUR_S = 3600
# What the C library says of the wall clock, moved by the seconds that a file holds; all other clocks stay.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static int64_t step(void) {
    static volatile int64_t *seconds;
    if (!seconds) seconds = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("CLCR_TEST_STEP"), O_RDONLY), 0);
    return *seconds;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += step();
    return done;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
def test_steps_of_the_wall_clock_lose_nothing_and_change_no_age(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    step = tmp_path / "step"
    step.write_bytes(struct.pack("<q", 0))
    (tmp_path / "shim.c").write_text(SHIM)
    library = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "shim.c", "-ldl"], check=True)
    extra = {"LD_PRELOAD": str(library), "CLCR_TEST_STEP": str(step)}
    told: list[int] = []

    def set_clock(hours: int) -> None:
        with step.open("r+b") as file:
            file.write(struct.pack("<q", hours * HOUR_S))
        told.append(_wall_clock(extra))

    arguments = ("--camera", "none", "--mic", "test://", "--transcript", "none")
    with watched(tmp_path, *arguments, extra=extra) as session:
        expect_state(session, "live", 30)
        told.append(_wall_clock(extra))
        for hours in (1, -1):
            set_clock(hours)
            stepped_ns = session.now_ns()
            session.expect(lambda one: True, 10, after_ns=stepped_ns + 2 * NS_PER_S)
        code, _ = session.terminate()
        predictions = session.reader.received("prediction")
        statuses = session.reader.received("status")
    assert code == 0, session.stderr()
    assert told[1] - told[0] >= HOUR_S and told[2] - told[1] <= -2 * HOUR_S + 60, (
        "the session's libraries saw the steps"
    )
    numbers = [got.message["seq"] for got in predictions]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "nothing is lost or said twice"
    ages_ms = [(got.arrived_ns - got.message["window"]["end_ns"]) / 1e6 for got in predictions]
    record_property("fault_08", {"predictions": len(numbers), "oldest_ms": max(ages_ms)})
    assert 0 < min(ages_ms) and max(ages_ms) < 2000, "ages are those of the monotonic clock"
    ends_ns = [got.message["window"]["end_ns"] for got in predictions]
    assert {later - former for former, later in itertools.pairwise(ends_ns)} == {NS_PER_S // 5}
    assert len({got.message["boot_id"] for got in predictions}) == 1
    entered = statuses[-1].message["sources"][0]["entered"]
    assert not {"lost", "reconnecting"} & set(entered), f"no source noticed: {entered}"


def _wall_clock(extra: dict[str, str]) -> int:
    """What a program of the session's surroundings takes for the time, s."""
    shown = subprocess.run(
        [sys.executable, "-c", "import time; print(int(time.time()))"],
        env=os.environ | extra,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(shown.stdout)
