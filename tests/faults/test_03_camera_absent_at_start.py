"""Fault 3: there is no camera at the start, and one appears later."""

from __future__ import annotations

from pathlib import Path

from faulty import expect_state, free_port, seconds, source, watched, write_pictures
from job_live import MjpegCamera


def test_an_absent_camera_is_told_waited_for_and_taken_within_five_seconds(tmp_path: Path) -> None:
    port = free_port()
    with watched(tmp_path, "--camera", f"http://127.0.0.1:{port}/", "--mic", "none") as session:
        absent = expect_state(session, "absent", 30)
        assert "does not answer" in source(absent.message)["reason"]
        assert "camera_" not in str(absent.message["degraded"]) and "network_absent" in absent.message["degraded"]
        first = session.expect(lambda one: True, 10)
        assert first.message["label"] is None, "nothing is seen, so nothing is said"
        with MjpegCamera(write_pictures(tmp_path / "pictures"), port=port):
            begun_ns = session.now_ns()
            live = expect_state(session, "live", 20, begun_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert seconds(live, begun_ns) <= 5.5
    assert source(live.message)["entered"] == {"starting": 1, "absent": 1, "live": 1}
