"""The levels: what one passes to the next, what a tick reports, and state that belongs to one stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clcr_stream.backends import Arrays, open_backend
from clcr_stream.backends.null import NullEngine
from clcr_stream.bundle import Bundle, load_bundle
from clcr_stream.language import LanguageTokens
from clcr_stream.level import Levels
from clcr_stream.manifest import EngineSpec
from clcr_stream.prediction import why_invalid
from clcr_stream.window import Chunk, Grid, ModalityView, _allocate
from tiny_bundle import tiny_manifest, write_bundle

MANIFEST = tiny_manifest()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    write_bundle(folder)
    return load_bundle(folder)


def make_chunk(number: int = 1, coverage: float = 0.5) -> Chunk:
    view = ModalityView(coverage, None, 0, 0.0, 1)
    inputs = _allocate(MANIFEST)
    inputs["acoustic_valid"][:] = 1.0
    inputs["vision_in"][:] = number
    return Chunk(Grid(0, MANIFEST).tick(number), inputs, view, view, [])


def no_language() -> LanguageTokens:
    limit, width = MANIFEST.language.tokens, MANIFEST.model.width
    levels = {level: np.zeros((1, limit, width), np.float32) for level in (1, 2, 3)}
    return LanguageTokens(levels, np.zeros((1, limit), np.float32), 0.0, None, 0)


class Recorder(NullEngine):
    """A null engine that fills its outputs with its own number and remembers what it was given."""

    def __init__(self, name: str, spec: EngineSpec, log: dict[str, dict[str, NDArray[Any]]]) -> None:
        super().__init__(name, spec)
        self._log = log
        self._mark = float({"level1": 1, "level2": 2, "level3": 3}.get(name, 4))

    def run(self, inputs: Arrays) -> Arrays:
        self._log[self._name] = {name: array.copy() for name, array in inputs.items()}
        outputs = super().run(inputs)
        for name, array in outputs.items():
            if name not in ("probs", "omega", "beta"):
                array[:] = self._mark
        return outputs


class RecordingBackend:
    name = "recording"

    def __init__(self) -> None:
        self.log: dict[str, dict[str, NDArray[Any]]] = {}

    def load(self, name: str, onnx: bytes, spec: EngineSpec) -> Recorder:
        return Recorder(name, spec, self.log)


def test_each_level_gets_the_features_of_the_one_before_and_its_own_language(bundle: Bundle) -> None:
    backend = RecordingBackend()
    language = no_language()
    for level, array in language.levels.items():
        array[:] = 10 * level
    Levels(bundle, backend).step(make_chunk(7), language, gamma=0.25)
    assert (backend.log["level1"]["vision_in"] == 7).all()
    for level in (2, 3):
        assert (backend.log[f"level{level}"]["vision_in"] == level - 1).all()
        assert (backend.log[f"level{level}"]["acoustic_in"] == level - 1).all()
    for level in (1, 2, 3):
        assert (backend.log[f"level{level}"]["language_h"] == 10 * level).all()
        assert (backend.log[f"level{level}"]["gamma"] == 0.25).all()
        assert (backend.log["intercad"][f"shared_{level}"] == level).all()
        assert (backend.log["intercad"][f"private_{level}"] == level).all()


def test_a_tick_reports_shares_of_the_valid_tokens(bundle: Bundle) -> None:
    outputs = Levels(bundle, RecordingBackend()).step(make_chunk(coverage=0.5), no_language(), gamma=1.0)
    # Every alpha is its level's number: twice as many tokens as are valid, each of that mass.
    np.testing.assert_allclose(outputs.active[:, :2], 2.0)
    np.testing.assert_allclose(outputs.mass[:, 0], [2.0, 4.0, 6.0])
    np.testing.assert_allclose(outputs.budget, [[1.0] * 3, [2.0] * 3, [3.0] * 3])
    assert list(outputs.timing_ms) == ["level1", "level2", "level3", "intercad"]


def test_state_is_carried_from_tick_to_tick_and_forgotten_by_reset(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"))
    run = [levels.step(make_chunk(), no_language(), 1.0).output for _ in range(3)]
    assert not np.array_equal(run[0], run[1])
    levels.reset()
    again = [levels.step(make_chunk(), no_language(), 1.0).output for _ in range(3)]
    np.testing.assert_array_equal(run, again)


def test_two_streams_do_not_share_state(bundle: Bundle) -> None:
    first, second = (Levels(bundle, open_backend("onnxruntime")) for _ in range(2))
    start = first.step(make_chunk(), no_language(), 1.0).output
    first.step(make_chunk(), no_language(), 1.0)
    np.testing.assert_array_equal(second.step(make_chunk(), no_language(), 1.0).output, start)


def test_reported_arrays_are_not_overwritten_by_the_next_tick(bundle: Bundle) -> None:
    levels = Levels(bundle, open_backend("onnxruntime"))
    outputs = levels.step(make_chunk(), no_language(), 1.0)
    before = outputs.output.copy()
    levels.step(make_chunk(), no_language(), 1.0)
    np.testing.assert_array_equal(outputs.output, before)


def test_a_regression_bundle_reports_its_value(tmp_path: Path) -> None:
    write_bundle(tmp_path / "r", task="regression")
    levels = Levels(load_bundle(tmp_path / "r"), open_backend("onnxruntime"))
    outputs = levels.step(make_chunk(), no_language(), 1.0)
    assert outputs.output.shape == (1,)
    assert why_invalid(outputs, classification=False) is None
