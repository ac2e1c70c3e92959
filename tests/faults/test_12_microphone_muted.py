"""Fault 12: a microphone is muted, its device goes on with digital zeros. Death: sources/test_virtual_microphone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crowd import slowdown
from faulty import expect_state, seconds, watched, write_room
from job_live import SoundServer, missing_sound

WHY_NOT = missing_sound()
pytestmark = [pytest.mark.device, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


def test_a_muted_microphone_is_told_within_half_a_second_and_a_pause_between_words_never(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    room = write_room(tmp_path / "room.wav")
    with SoundServer(tmp_path / "pulse") as server:
        player = server.play(room)
        with watched(tmp_path, "--camera", "none", "--mic", "default", extra=server.environment) as session:
            live = expect_state(session, "live", 30)
            session.expect(lambda one: one["seq"] >= 25, 30)  # 5 s with pauses
            spoken = [got.message for got in session.reader.received("prediction") if got.arrived_ns > live.arrived_ns]
            assert not any("acoustic_silent" in message["degraded"] for message in spoken)
            muted_ns = session.now_ns()
            player.kill()
            silent = expect_state(session, "silent", 10, muted_ns)
            marked = session.expect(lambda one: "acoustic_silent" in one["degraded"], 10, after_ns=muted_ns)
            session.expect(lambda one: one["degraded"] == ["no_input", "acoustic_silent"], 15, after_ns=muted_ns)
            played_ns = session.now_ns()
            server.play(room)
            back = expect_state(session, "live", 10, played_ns)
            code, _ = session.terminate()
    assert code == 0, session.stderr()
    told_s = [seconds(silent, muted_ns), seconds(marked, muted_ns)]
    record_property("fault_12", {"told_s": told_s, "back_s": seconds(back, played_ns)})
    assert max(told_s) <= 0.5 * slowdown()
    assert seconds(back, played_ns) <= 3.0 * slowdown()
