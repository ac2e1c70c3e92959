"""Backends: the graph must be what the manifest says, state is carried without copies, and null keeps the shapes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import clcr_stream
import tiny_bundle
from clcr_stream.backends import Arrays, allocate, open_backend
from clcr_stream.errors import BackendError
from tiny_bundle import STATE, graph_bytes, tiny_manifest

MANIFEST = tiny_manifest()


def random_inputs(engine: str, seed: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    spec = MANIFEST.engines[engine]
    return {
        tensor.name: random.random(allocate(tensor).shape).astype(tensor.dtype)
        for tensor in spec.inputs
        if tensor.name not in spec.state
    }


def copies(outputs: Arrays) -> dict[str, NDArray[Any]]:
    return {name: array.copy() for name, array in outputs.items()}


def test_carried_state_equals_a_plain_session_that_is_fed_its_own_state() -> None:
    spec, graph = MANIFEST.engines["level1"], graph_bytes(MANIFEST, "level1")
    engine = open_backend("onnxruntime").load("level1", graph, spec)
    plain: Any = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    state = np.zeros((1, 1), np.float32)
    for tick in range(7):
        inputs = random_inputs("level1", tick)
        got = engine.run(inputs)
        names = [*got, f"{STATE}_next"]
        wanted = dict(zip(names, plain.run(names, inputs | {STATE: state}), strict=True))
        state = wanted.pop(f"{STATE}_next")
        assert state[0, 0] == tick + 1
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_reset_is_a_fresh_start_whichever_buffer_is_in_turn(steps: int) -> None:
    engine = open_backend("auto").load("level1", graph_bytes(MANIFEST, "level1"), MANIFEST.engines["level1"])
    inputs = random_inputs("level1", 1)
    first = copies(engine.run(inputs))
    for _ in range(steps):
        engine.run(inputs)
    assert not np.array_equal(engine.run(inputs)["shared"], first["shared"])
    engine.reset()
    np.testing.assert_array_equal(engine.run(inputs)["shared"], first["shared"])


def test_warming_up_leaves_no_trace_in_the_state() -> None:
    engine = open_backend("auto").load("level1", graph_bytes(MANIFEST, "level1"), MANIFEST.engines["level1"])
    inputs = random_inputs("level1", 1)
    np.testing.assert_allclose(engine.run(inputs)["budget"][0, -1], inputs["acoustic_valid"].mean(), rtol=1e-6)


def test_an_engine_leaves_the_thread_s_small_numbers_alone() -> None:
    """Flush-to-zero, once set by a session, would stay with the thread that made it or ran it (docs/LOG.md)."""
    kept: list[float] = []

    def use_an_engine() -> None:
        engine = open_backend("auto").load("level1", graph_bytes(MANIFEST, "level1"), MANIFEST.engines["level1"])
        engine.run(random_inputs("level1", 1))
        kept.append(float(np.full(1, 1e-38, np.float32)[0] * np.float32(1e-2)))

    thread = threading.Thread(target=use_an_engine)  # a leak must not outlive this test
    thread.start()
    thread.join()
    assert kept[0] > 0


def test_outputs_are_the_same_memory_at_every_run() -> None:
    engine = open_backend("auto").load("level1", graph_bytes(MANIFEST, "level1"), MANIFEST.engines["level1"])
    first = {name: array.ctypes.data for name, array in engine.run(random_inputs("level1", 1)).items()}
    second = {name: array.ctypes.data for name, array in engine.run(random_inputs("level1", 2)).items()}
    assert first == second


@pytest.mark.parametrize("backend", ["onnxruntime", "null"])
def test_a_missing_or_misshapen_input_is_named(backend: str) -> None:
    engine = open_backend(backend).load("level1", graph_bytes(MANIFEST, "level1"), MANIFEST.engines["level1"])
    inputs = random_inputs("level1", 1)
    with pytest.raises(BackendError, match="gamma has shape None"):
        engine.run({name: array for name, array in inputs.items() if name != "gamma"})
    with pytest.raises(BackendError, match=r"vision_valid has shape \(1, 4\)"):
        engine.run(inputs | {"vision_valid": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize("name", list(MANIFEST.engines))
def test_null_gives_every_output_in_its_shape_and_shares_that_sum_to_one(name: str) -> None:
    spec = MANIFEST.engines[name]
    outputs = open_backend("null").load(name, b"", spec).run(random_inputs(name, 0))
    state_next = {f"{state}_next" for state in spec.state}
    assert {key: array.shape for key, array in outputs.items()} == {
        tensor.name: allocate(tensor).shape for tensor in spec.outputs if tensor.name not in state_next
    }
    for share in {"probs", "omega", "beta"} & set(outputs):
        assert outputs[share].sum() == pytest.approx(1.0)


def test_bytes_that_are_no_graph_are_one_line() -> None:
    with pytest.raises(BackendError, match="level1: onnxruntime cannot load the graph") as caught:
        open_backend("auto").load("level1", b"not an onnx file", MANIFEST.engines["level1"])
    assert "\n" not in str(caught.value)


def test_a_graph_with_other_tensors_than_the_manifest_is_refused() -> None:
    with pytest.raises(BackendError, match="graph and manifest differ in tensors"):
        open_backend("auto").load("level1", graph_bytes(MANIFEST, "level2"), MANIFEST.engines["intercad"])


def test_a_graph_with_other_shapes_than_the_manifest_is_refused() -> None:
    with pytest.raises(BackendError, match="tensor vision_in is"):
        open_backend("auto").load("level1", graph_bytes(MANIFEST, "level2"), MANIFEST.engines["level1"])


def test_a_graph_with_another_dtype_than_the_manifest_is_refused() -> None:
    spec = MANIFEST.engines["level2"]
    inputs = [msgspec.structs.replace(tensor, dtype="int32") for tensor in spec.inputs]
    with pytest.raises(BackendError, match="in the manifest"):
        open_backend("auto").load(
            "level2", graph_bytes(MANIFEST, "level2"), msgspec.structs.replace(spec, inputs=inputs)
        )


def test_a_graph_that_wants_external_data_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load_model_from_string(graph_bytes(MANIFEST, "level2"))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("ramp"))
    (tmp_path / "weights").write_bytes(tensor.raw_data)
    set_external_data(tensor, location=str(tmp_path / "weights"), offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    with pytest.raises(BackendError, match="level2: onnxruntime cannot load"):
        open_backend("auto").load("level2", model.SerializeToString(), MANIFEST.engines["level2"])


def test_an_unknown_backend_is_told_what_is_allowed() -> None:
    with pytest.raises(BackendError, match="allowed: auto, onnxruntime, null"):
        open_backend("tensorflow")


def test_onnx_runtime_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    """Since 1.29 its Linux wheels keep a device id and a queue of events for Microsoft under the user's folders."""
    code = (
        "from clcr_stream.backends import open_backend\n"
        "from tiny_bundle import graph_bytes, tiny_manifest\n"
        "manifest = tiny_manifest()\n"
        "graph = graph_bytes(manifest, 'intercad')\n"
        "open_backend('auto').load('intercad', graph, manifest.engines['intercad'])\n"
    )
    # It also keeps silent where one of these is set, which a user's machine has not.
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("ORT_")}
    private = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
    folders = (Path(tiny_bundle.__file__).parent, Path(clcr_stream.__file__).parents[1])
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run([sys.executable, "-c", code], env=kept | private | {"PYTHONPATH": path}, timeout=60)
    assert done.returncode == 0
    assert list(tmp_path.rglob("*")) == []
