"""Int8 engines in ONNX Runtime: exact products on every CPU, and a golden check that allows for their rounding."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clcr_stream.bundle.loader import Bundle, default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import EngineSpec, TensorSpec
from clcr_stream.errors import BackendError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.golden import GOLDEN_NAME, INT8_TOLERANCE, replay_golden
from clcr_stream.inference.onnxruntime import saturates_int8
from clcr_stream.inference.program import Graph, single_program

WIDTH = 64
FLAGS = "processor\t: 0\nmodel name\t: a CPU\nflags\t\t: fpu sse4_2 avx2"


def int8_product() -> bytes:
    """x [streams, 64] -> Q/DQ -> MatMul with weights of +-127 steps -> y: the largest sums that int8 can make."""
    steps = np.where(np.arange(WIDTH * WIDTH).reshape(WIDTH, WIDTH) % 64 < 32, 127, -127).astype(np.int8)
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["streams", WIDTH]) for name in "xy"]
    constants = [
        numpy_helper.from_array(np.array(0.01, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(steps, "steps"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", border[:1], border[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def test_the_largest_int8_sums_do_not_saturate_on_this_cpu() -> None:
    x, y = (TensorSpec(name=name, dtype="float32", shape=["streams", WIDTH]) for name in "xy")
    spec = EngineSpec(file="one.onnx", inputs=[x], outputs=[y], state=[])
    runner = open_backend("onnxruntime").open(single_program("one", spec), {"one": Graph(int8_product(), "0", spec)}, 1)
    runner.inputs["x"][0] = 1.27
    runner.run(0, 1)
    signs = np.where(np.arange(WIDTH) % 64 < 32, 1.0, -1.0)
    np.testing.assert_allclose(runner.outputs["y"][0], signs * WIDTH * 1.27 * 1.27, rtol=1e-5)


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", FLAGS, True),
        ("x86_64", f"{FLAGS} avx512_vnni", False),
        ("AMD64", f"{FLAGS} avx_vnni", False),
        ("x86_64", f"{FLAGS}\nbugs\t: avx512_vnni", True),
        ("x86_64", "", True),
        ("aarch64", "Features\t: fp asimd", False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(machine: str, cpuinfo: str, expected: bool) -> None:
    assert saturates_int8(machine, cpuinfo) is expected


@cache
def shipped() -> Bundle:
    return load_bundle(default_bundle_folder())


def with_golden_off_by(difference: float, provenance: dict[str, Any]) -> Bundle:
    """The shipped bundle with three golden hops, a value of them changed, and other words about its origin."""
    bundle = shipped()
    with np.load(io.BytesIO(bundle.files[GOLDEN_NAME]), allow_pickle=False) as archive:
        golden = {name: archive[name][:3] if archive[name].ndim else archive[name] for name in archive.files}
    golden["beta"] = golden["beta"] + np.float32(difference)
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    manifest = msgspec.structs.replace(bundle.manifest, provenance=bundle.manifest.provenance | provenance)
    return replace(bundle, manifest=manifest, files=bundle.files | {GOLDEN_NAME: buffer.getvalue()})


def test_the_golden_check_allows_an_int8_bundle_its_rounding_and_no_other_bundle() -> None:
    int8: dict[str, Any] = {"precision": {"mode": "int8"}}
    backend = open_backend("onnxruntime")
    assert replay_golden(with_golden_off_by(0.9 * INT8_TOLERANCE, int8), backend) is not None
    for bundle in (
        with_golden_off_by(1.1 * INT8_TOLERANCE, int8),
        with_golden_off_by(0.9 * INT8_TOLERANCE, {"precision": {"mode": "fp16"}}),
        with_golden_off_by(0.9 * INT8_TOLERANCE, {}),
    ):
        with pytest.raises(BackendError, match="beta of hop 1 differs"):
            replay_golden(bundle, backend)
