"""Fault 14: a sound device without a clock gives sound thousands of times faster than time passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from crowd import slowdown
from faulty import source, watched
from job_live import missing_sound
from job_process import NS_PER_S

WHY_NOT = missing_sound()
pytestmark = [pytest.mark.device, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


def test_a_flood_of_sound_takes_neither_the_processor_nor_memory_and_time_stays_the_hosts(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "asound.conf").write_text(
        'pcm.!default { type null hint { show on description "flood" } }\nctl.!default { type hw card 0 }\n'
    )
    extra = {"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}
    with watched(tmp_path, "--camera", "none", "--mic", "default", extra=extra) as session:
        session.expect(lambda one: source(one)["counts"].get("held_back", 0) > 50, 30, "status")
        process = psutil.Process(session.process.pid)
        used, begun_ns = process.cpu_times(), session.now_ns()
        memory = process.memory_info().rss
        session.expect(lambda one: True, 10, after_ns=begun_ns + 3 * NS_PER_S)
        now, end_ns = process.cpu_times(), session.now_ns()
        share = (now.user + now.system - used.user - used.system) * NS_PER_S / (end_ns - begun_ns)
        grown_mb = (process.memory_info().rss - memory) / 1e6
        heard = session.expect(lambda one: one["modalities"]["acoustic"]["coverage"] > 0.3, 30)
        code, seconds = session.terminate()
        received = session.reader.received("prediction")
    assert code == 0, session.stderr()
    record_property("fault_14", {"cores": share, "grown_mb": grown_mb, "ended_s": seconds})
    assert share < 0.4 and grown_mb < 5, "it took a whole core"
    assert seconds < 4.0 * slowdown(), "PortAudio stops when its device lets it"
    numbers = [got.message["seq"] for got in received]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert heard.message["window"]["end_ns"] <= heard.arrived_ns, "what was given too early is not of the future"
    assert len(session.stderr().splitlines()) < 30
