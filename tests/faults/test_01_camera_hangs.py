"""Fault 1: a camera stops sending without closing its connection, and goes on later."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from crowd import slowdown
from faulty import expect_state, seconds, watched, write_pictures
from job_live import MjpegCamera

CYCLES = int(os.environ.get("CLCR_CYCLES", "3"))  # 100 for docs/reliability.md


def test_a_camera_that_hangs_is_told_within_a_second_and_back_within_three(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told, back = [], []
    with (
        MjpegCamera(write_pictures(tmp_path / "pictures")) as camera,
        watched(tmp_path, "--camera", camera.url, "--mic", "none") as session,
    ):
        expect_state(session, "live", 30)
        for cycle in range(CYCLES):
            frozen_ns = session.now_ns()
            camera.freeze()
            stale = expect_state(session, "stale lost", 10, frozen_ns)
            told.append(seconds(stale, frozen_ns))
            assert stale.message["sources"][0]["since_ns"] >= frozen_ns, "the state says since when"
            degraded = session.expect(lambda one: "vision_stale" in one["degraded"], 10, after_ns=frozen_ns)
            told.append(seconds(degraded, frozen_ns))
            if cycle % 2:  # for so long that the connection is given up
                expect_state(session, "reconnecting", 20, frozen_ns)
            thawed_ns = session.now_ns()
            camera.thaw()
            back.append(seconds(expect_state(session, "live", 20, thawed_ns), thawed_ns))
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    record_property("fault_01", {"told_s": told, "back_s": back})
    assert max(told) <= 1.0 * slowdown() and max(back) <= 3.0 * slowdown()
