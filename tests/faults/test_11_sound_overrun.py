"""Fault 11: sound is lost in the middle: a sound server stands still, blocks of a file are missing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from crowd import slowdown
from faulty import expect_state, watched, write_room
from job_live import SoundServer, missing_sound
from job_process import environment, finish
from recorded_media import RATE_HZ, Kept, read_kept
from tiny_bundle import write_bundle

STANDS_S = 0.4  # less than the microphone is opened again after
LOST_FROM, LOST_TO = 24, 41  # blocks of 1,000 samples
SIZE_PX = 112


def gaps(kept: Kept) -> list[tuple[int, int]]:
    """Samples [start, stop) that are missing between sound."""
    edges = np.flatnonzero(np.diff(kept.present.astype(np.int8))) + 1
    if len(edges) and kept.present[edges[0]]:
        edges = edges[1:]  # it begins with silence before the first sound
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=False)]


def test_sound_that_is_missing_in_a_file_is_a_gap_of_exactly_its_samples_and_what_follows_is_in_its_place(
    tmp_path: Path,
) -> None:
    samples = (np.sin(np.arange(80_000) / 7) * np.linspace(3000, 16_000, 80_000)).astype(np.int16)
    container: Any
    with av.open(str(tmp_path / "lost.mkv"), "w") as container:
        audio: Any = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for number in range(80):
            if LOST_FROM <= number < LOST_TO:
                continue
            block = av.AudioFrame.from_ndarray(samples[None, number * 1000 :][:, :1000], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE_HZ, number * 1000, Fraction(1, RATE_HZ)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    write_bundle(tmp_path / "bundle")
    environment(tmp_path)
    fixed = ("--bundle", tmp_path / "bundle", "--backend", "null", "--transcript", "none", "--pace", "max")
    finish(tmp_path, *fixed, "--input", tmp_path / "lost.mkv", "--record-media", "--record", tmp_path / "kept.mcap")
    kept = read_kept(tmp_path / "kept.mcap", SIZE_PX)
    ((start, stop),) = gaps(kept)
    assert (start, stop) == pytest.approx((LOST_FROM * 1000, LOST_TO * 1000), abs=16), "stamps are whole ms"
    truth = samples.astype(np.float32) / 32768
    assert np.abs(kept.samples[:start] - truth[:start]).max() < 1e-3
    after = np.arange(stop + 32, 79_000)
    errors = [np.abs(kept.samples[after] - truth[after + shift]).max() for shift in range(-16, 17)]
    assert min(errors) < 1e-3


WHY_NOT = missing_sound()


@pytest.mark.device
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_sound_server_that_stands_still_leaves_a_gap_of_that_length(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with SoundServer(tmp_path / "pulse") as server:
        server.play(write_room(tmp_path / "room.wav"))
        given = ("--camera", "none", "--mic", "default", "--record-media", "--record", str(tmp_path / "kept.mcap"))
        with watched(tmp_path, *given, extra=server.environment) as session:
            expect_state(session, "live", 30)
            session.expect(lambda one: one["modalities"]["acoustic"]["coverage"] > 0.4, 20)
            stopped_ns = session.now_ns()
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(STANDS_S)  # the fault's own length, not a wait for something
            os.kill(server.pid, signal.SIGCONT)
            went_on_ns = session.now_ns()
            session.expect(lambda one: True, 10, after_ns=went_on_ns + 3 * 10**9)
            code, _ = session.terminate()
    assert code == 0, session.stderr()
    kept = read_kept(tmp_path / "kept.mcap", SIZE_PX)
    lost = [(stop - start) / RATE_HZ for start, stop in gaps(kept)]
    stood_s = (went_on_ns - stopped_ns) / 1e9
    record_property("fault_11", {"stood_s": stood_s, "gaps_s": lost})
    assert max(lost) == pytest.approx(stood_s, abs=0.1 * slowdown()), "the gap is as long as nothing was heard"
    assert kept.present[-RATE_HZ // 2 :].any(), "and sound is heard again"
