"""What a report says of a session in plain terms: the meaning of every reason in `degraded`."""

from __future__ import annotations

import itertools
from typing import get_args

from clcr_stream.recording.facts import MEANINGS
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.streams.person import CALIBRATING
from clcr_stream.streams.prediction import STALE_AFTER_MS, degraded_reasons
from clcr_stream.streams.required import REQUIRABLE
from clcr_stream.window.conditions import FINE, Condition
from clcr_stream.window.cutter import Chunk, ModalityView
from clcr_stream.window.grid import TimeGrid
from tiny_bundle import tiny_manifest

TICK = TimeGrid.of(tiny_manifest(), 0).tick(7)
PICTURES: tuple[Condition, ...] = (FINE, "frozen", "dark", "covered")
SOUND: tuple[Condition, ...] = (FINE, "silent", "clipping", "noisy")


def views(conditions: tuple[Condition, ...]) -> list[ModalityView]:
    """A modality in every way in which it can be in a window."""
    found = itertools.product((0.0, 0.5), (None, 10.0, 5000.0), (0, 3), conditions)
    return [ModalityView(coverage, None, None, age_ms, seen, condition) for coverage, age_ms, seen, condition in found]


def every_reason() -> set[str]:
    reasons = {CALIBRATING, *(f"{modality}_required" for modality in REQUIRABLE)}
    for vision, acoustic, coverage in itertools.product(views(PICTURES), views(SOUND), (0.0, 0.5)):
        words = LanguageTokens(levels={}, revision=0, coverage=coverage, newest_ns=None, ran=0)
        reasons.update(degraded_reasons(Chunk(TICK, vision, acoustic, []), words))
    return reasons


def test_a_report_explains_every_reason_that_the_runtime_can_give_and_no_other() -> None:
    assert {*PICTURES, *SOUND} == set(get_args(Condition))
    assert set(MEANINGS) == every_reason()


def test_a_report_names_the_ages_from_which_on_data_are_stale() -> None:
    for modality, age_ms in STALE_AFTER_MS.items():
        assert f"older than {age_ms / 1000:g} s" in MEANINGS[f"{modality}_stale"]
