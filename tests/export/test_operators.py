"""The verifier of exported graphs: one bad graph per rule, each refused with the node's name; a good one passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clcr_export.operators import FORBIDDEN, MAX_TOPK, GraphError, check_operators

ENGINES = Path(__file__).resolve().parents[2] / "engines" / "default"


def graph(
    *nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = (), opset: int = 17, ir_version: int = 8
) -> onnx.ModelProto:
    """x [streams, 4] -> `nodes` -> y [streams, 4], with an honest Relu at both ends."""
    first, last = helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Relu", ["b"], ["y"])
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["streams", 4]) for name in ("x", "y")]
    middle = nodes or (helper.make_node("Sigmoid", ["a"], ["b"]),)
    body = helper.make_graph([first, *middle, last], "g", border[:1], border[1:], list(weights))
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def node(op_type: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs or ("a",), ["b"], name="culprit", **attributes)


def weight(value: Any, dtype: type[np.generic] = np.float32, name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def refusal(proto: onnx.ModelProto) -> str:
    """The one-line message with which the graph is refused."""
    with pytest.raises(GraphError) as caught:
        check_operators("level1", proto)
    message = str(caught.value)
    assert message.startswith("level1: ")
    assert "\n" not in message
    assert caught.value.exit_code == 8
    return message


def test_a_good_graph_passes_and_its_operators_are_counted() -> None:
    assert check_operators("level1", graph()) == {"Relu": 2, "Sigmoid": 1}


@pytest.mark.parametrize("op_type", sorted(FORBIDDEN))
def test_every_forbidden_operator_is_refused_by_name(op_type: str) -> None:
    message = refusal(graph(node(op_type)))
    assert op_type in message
    assert "'culprit'" in message
    assert FORBIDDEN[op_type] in message


def test_an_operator_without_a_name_is_named_by_its_output() -> None:
    assert "'b'" in refusal(graph(helper.make_node("NonZero", ["a"], ["b"])))


@pytest.mark.parametrize(
    ("op_type", "needed"),
    [("Loop", "CUDA graph"), ("Gelu", "TensorRT 8"), ("NonZero", "shape depends on data"), ("CumSum", "10.8")],
)
def test_a_refusal_says_why(op_type: str, needed: str) -> None:
    assert needed in refusal(graph(node(op_type)))


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"])
def test_a_reduction_with_its_axes_as_an_input_is_refused(op_type: str) -> None:
    message = refusal(graph(node(op_type, "a", "w"), weights=(weight([1], np.int64),)))
    assert "'culprit'" in message
    assert "axes as an input" in message


def test_a_reduction_with_its_axes_as_an_attribute_passes() -> None:
    assert check_operators("level1", graph(node("ReduceMean", axes=[1])))["ReduceMean"] == 1


def test_the_axes_of_a_sum_may_be_an_input() -> None:
    assert check_operators("level1", graph(node("ReduceSum", "a", "w"), weights=(weight([1], np.int64),)))


def test_a_topk_whose_count_is_computed_is_refused() -> None:
    assert "K must be a constant" in refusal(graph(node("TopK", "a", "computed")))


@pytest.mark.parametrize("count", [0, MAX_TOPK, MAX_TOPK + 1])
def test_a_topk_of_too_many_or_none_is_refused(count: int) -> None:
    message = refusal(graph(node("TopK", "a", "w"), weights=(weight([count], np.int64),)))
    assert "'culprit'" in message
    assert str(MAX_TOPK) in message


def test_a_topk_with_a_constant_count_passes_wherever_the_constant_lies() -> None:
    count = weight([MAX_TOPK - 1], np.int64)
    constant = helper.make_node("Constant", [], ["w"], value=count)
    for proto in (
        graph(node("TopK", "a", "w"), weights=(count,)),
        graph(constant, node("TopK", "a", "w")),
    ):
        assert check_operators("level1", proto)["TopK"] == 1


def test_an_operator_of_another_domain_is_refused() -> None:
    message = refusal(graph(node("FusedGelu", domain="com.microsoft")))
    assert "'culprit'" in message
    assert "com.microsoft" in message


def test_a_second_opset_is_refused() -> None:
    proto = graph()
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "com.microsoft" in refusal(proto)


@pytest.mark.parametrize("opset", [16, 18, 20])
def test_another_opset_is_refused(opset: int) -> None:
    assert f"{opset}" in refusal(graph(opset=opset))


def test_another_ir_version_is_refused() -> None:
    assert "IR 10" in refusal(graph(ir_version=10))


def test_a_graph_inside_an_operator_is_refused() -> None:
    inner = helper.make_graph([], "inner", [], [])
    assert "'culprit'" in refusal(graph(node("SequenceMap", body=inner)))


def test_a_function_of_its_own_is_refused() -> None:
    proto = graph()
    proto.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [], opset_imports=[helper.make_opsetid("", 17)])
    )
    assert "'Relu'" in refusal(proto)


def test_a_weight_outside_the_file_is_refused() -> None:
    outside = weight(np.zeros(4))
    outside.data_location = TensorProto.EXTERNAL
    assert "'w'" in refusal(graph(weights=(outside,)))


def test_a_constant_outside_the_file_is_refused() -> None:
    outside = weight(np.zeros(4))
    outside.data_location = TensorProto.EXTERNAL
    assert "'culprit'" in refusal(graph(helper.make_node("Constant", [], ["b"], name="culprit", value=outside)))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_that_is_not_finite_is_refused(value: float, dtype: type[np.generic]) -> None:
    assert "'w'" in refusal(graph(weights=(weight([0.0, value], dtype),)))


def test_an_infinite_mask_is_refused() -> None:
    mask = helper.make_node("Constant", [], ["b"], name="culprit", value=weight(-np.inf))
    assert "-1e4" in refusal(graph(mask))


def test_double_precision_is_refused() -> None:
    assert "float64" in refusal(graph(weights=(weight(np.zeros(4), np.float64),)))
    message = refusal(graph(node("Cast", to=TensorProto.DOUBLE)))
    assert "'culprit'" in message


def bordered(**changes: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        proto = graph()
        proto.graph.input[0].CopyFrom(
            helper.make_tensor_value_info(
                "x", changes.get("dtype", TensorProto.FLOAT), changes.get("shape", ["streams", 4])
            )
        )
        return proto

    return build


@pytest.mark.parametrize(
    "build",
    [
        bordered(shape=[1, 4]),
        bordered(shape=["batch", 4]),
        bordered(shape=["streams", "time"]),
        bordered(shape=["streams", None]),
        bordered(shape=[]),
    ],
)
def test_only_the_leading_dimension_may_be_symbolic(build: Callable[[], onnx.ModelProto]) -> None:
    assert refusal(build()) == "level1: x must be [streams, fixed...]"


@pytest.mark.parametrize("dtype", ["INT64", "BOOL", "DOUBLE", "FLOAT16", "UINT8", "STRING"])
def test_the_border_is_float32_and_int32(dtype: str) -> None:
    message = refusal(bordered(dtype=getattr(TensorProto, dtype))())
    assert message == f"level1: x is {dtype}; allowed: float32, int32"


def test_an_output_is_checked_as_an_input_is() -> None:
    proto = graph()
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, ["streams", 4]))
    assert refusal(proto) == "level1: y is INT64; allowed: float32, int32"


def test_an_int32_border_passes() -> None:
    assert check_operators("level1", bordered(dtype=TensorProto.INT32)())


@pytest.mark.skipif(not ENGINES.is_dir(), reason="no committed bundle")
@pytest.mark.parametrize("name", ["language", "level1", "level2", "level3", "intercad"])
def test_the_committed_engines_pass(name: str) -> None:
    counts = check_operators(name, onnx.load_from_string((ENGINES / f"{name}.onnx").read_bytes()))
    assert not set(counts) & set(FORBIDDEN)
    assert counts["MatMul"] > 0
