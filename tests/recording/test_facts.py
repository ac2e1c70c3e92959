"""What a report says of a session in plain terms: every reason in `degraded`, every number."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from clcr_stream import dashboard
from clcr_stream.bundle.manifest import MODALITIES, Manifest
from clcr_stream.recording import facts
from clcr_stream.recording.facts import MEANINGS
from clcr_stream.recording.numbers import MEASURES
from clcr_stream.recording.page import page
from clcr_stream.recording.poster import poster
from clcr_stream.recording.story import make_story
from clcr_stream.recording.table import columns
from clcr_stream.recording.table import rows as table
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.streams.person import CALIBRATING
from clcr_stream.streams.prediction import STALE_AFTER_MS, degraded_reasons
from clcr_stream.streams.required import REQUIRABLE
from clcr_stream.window.conditions import FINE, Condition
from clcr_stream.window.cutter import Chunk, Cutter, ModalityView
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from clcr_stream.wire import messages
from session_messages import prediction, session
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


def test_every_number_that_is_measured_has_a_name_and_a_unit_in_python_and_on_the_page_of_view() -> None:
    manifest = tiny_manifest()
    grid = TimeGrid.of(manifest, 0)
    chunk = Cutter(manifest, grid).cut(make_rings(grid, manifest.vision.size_px), grid.tick(1), rows(manifest))
    measured = {f"vision_{key}" for key in chunk.vision.numbers} | {f"acoustic_{key}" for key in chunk.acoustic.numbers}
    assert {measure.column for measure in MEASURES} == {"vision_quality", *measured}
    page = (Path(dashboard.__file__).parent / "page/panels.js").read_text()
    assert all(f'["{measure.key}", "{measure.short}", ' in page for measure in MEASURES)


def test_numbers_are_summed_up_with_their_range_in_the_page_the_picture_and_the_table() -> None:
    found = []
    for tick, level in enumerate((-30.0, None, -50.0), 1):
        one = prediction(tick, "sad")
        sound = msgspec.structs.replace(one.modalities.acoustic, quality=None, numbers={"level_dbfs": level})
        modalities = msgspec.structs.replace(one.modalities, acoustic=sound)
        found.append(msgspec.structs.replace(one, modalities=modalities))
    story = make_story([session(), *found], "talk", [])
    levels = story.seen().numbers["acoustic_level_dbfs"]
    assert (levels.mean, levels.low, levels.high) == (-40.0, -50.0, -30.0)
    assert ("level of the sound", "-40 dBFS", "-50 dBFS to -30 dBFS") in facts.numbers(story.seen())
    assert "<td>level of the sound</td><td>-40 dBFS</td><td>-50 dBFS to -30 dBFS</td>" in page(story, "x")
    assert ">level of the sound<" in poster(story, "x") and ">-40 dBFS<" in poster(story, "x")
    column = columns(story).index("acoustic_level_dbfs")
    assert [row[column] for row in table(story)] == [-30.0, None, -50.0]
    assert "acoustic_quality" not in columns(story) and "<th>quality</th>" not in page(story, "x")


def test_a_session_without_any_number_has_no_table_of_them() -> None:
    one = prediction(1, "sad")
    bare = {name: msgspec.structs.replace(getattr(one.modalities, name), quality=None) for name in MODALITIES}
    story = make_story([session(), msgspec.structs.replace(one, modalities=messages.Modalities(**bare))], "talk", [])
    assert "How good it was" not in page(story, "x") and "How good it was" not in poster(story, "x")


def rows(manifest: Manifest) -> dict[str, Any]:
    """What a cutter fills, empty."""
    inputs = {tensor.name: tensor.shape[1:] for tensor in manifest.engines["level1"].inputs}
    return {name: np.zeros([int(size) for size in shape], np.float32) for name, shape in inputs.items()}


def test_a_report_names_the_ages_from_which_on_data_are_stale() -> None:
    for modality, age_ms in STALE_AFTER_MS.items():
        assert f"older than {age_ms / 1000:g} s" in MEANINGS[f"{modality}_stale"]
