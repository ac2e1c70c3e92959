"""Fault 5: a network camera goes on sending, the same picture again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_pictures
from job_live import MjpegCamera

WRONG = {"vision_frozen", "vision_stale"}


def test_a_frozen_picture_is_told_within_two_seconds_and_not_used(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with (
        MjpegCamera(write_pictures(tmp_path / "pictures")) as camera,
        watched(tmp_path, "--camera", camera.url, "--mic", "none") as session,
    ):
        expect_state(session, "live", 30)
        frozen_ns = session.now_ns()
        camera.repeat()
        frozen = expect_state(session, "frozen", 10, frozen_ns)
        marked = session.expect(lambda one: "vision_frozen" in one["degraded"], 10, after_ns=frozen_ns)
        aged = session.expect(lambda one: "vision_stale" in one["degraded"], 10, after_ns=frozen_ns)
        thawed_ns = session.now_ns()
        camera.repeat()
        back = session.expect(lambda one: not WRONG & set(one["degraded"]), 10, after_ns=thawed_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    told_s = [seconds(frozen, frozen_ns), seconds(marked, frozen_ns)]
    record_property("fault_05", {"told_s": told_s, "back_s": seconds(back, thawed_ns)})
    assert max(told_s) <= 2.0 * slowdown()
    assert seconds(back, thawed_ns) <= 3.0 * slowdown()
    assert source(frozen.message)["counts"]["frozen_frames"] > 0
    assert aged.message["modalities"]["vision"]["age_ms"] > 600, "the picture is not taken for a new one"
