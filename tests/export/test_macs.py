"""Multiply-adds of a graph against counts made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clcr.network.config import ModelConfig
from clcr.network.streaming import Grid
from clcr_export.graphs import export_graph, streaming_modules
from clcr_export.macs import UncountableError, multiply_adds
from tiny_checkpoint import CONFIG, tiny_model


def graph_of(nodes: list[Any], inputs: dict[str, list[Any]], weights: dict[str, tuple[int, ...]]) -> bytes:
    """A graph whose output is the last node's; float32 throughout."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    constants = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    output = onnx.ValueInfoProto(name=nodes[-1].output[0])
    graph = helper.make_graph(nodes, "g", values, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_a_convolution_counts_its_kernel_for_every_output_element() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    data = graph_of([node], {"x": ["streams", 3, 8, 10]}, {"w": (5, 3, 3, 3)})
    assert multiply_adds(data) == {"Conv": 5 * 4 * 5 * 3 * 9}
    assert multiply_adds(data, streams=7) == {"Conv": 7 * 5 * 4 * 5 * 3 * 9}


def test_a_grouped_convolution_counts_its_own_group_only() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4)
    data = graph_of([node], {"x": ["streams", 8, 6]}, {"w": (12, 2, 3)})
    assert multiply_adds(data) == {"Conv": 12 * 4 * 2 * 3}


def test_products_of_stacks_of_matrices_are_broadcast() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    data = graph_of([node], {"x": ["streams", 4, 6, 10]}, {"w": (4, 10, 3)})
    assert multiply_adds(data, 2) == {"MatMul": 2 * 4 * 6 * 10 * 3}


@pytest.mark.parametrize(("transposed", "shape"), [(0, [6, 10]), (1, [10, 6])])
def test_a_gemm_counts_its_inner_dimension_either_way_round(transposed: int, shape: list[Any]) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=transposed)
    assert multiply_adds(graph_of([node], {"x": shape}, {"w": (10, 3)})) == {"Gemm": 6 * 10 * 3}


def test_a_chain_adds_up_and_other_operators_count_nothing() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["u"]),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("MatMul", ["v", "b"], ["y"]),
    ]
    data = graph_of(nodes, {"x": ["streams", 2, 4]}, {"a": (4, 5), "b": (5, 7)})
    assert multiply_adds(data, 3) == {"MatMul": 3 * 2 * (4 * 5 + 5 * 7)}


def test_what_cannot_be_counted_is_an_error_and_not_a_smaller_number() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="late")
    with pytest.raises(UncountableError, match="MatMul node 'late'"):
        multiply_adds(graph_of([product], {"x": ["frames", 4]}, {"w": (4, 5)}))
    other = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up")
    with pytest.raises(UncountableError, match="ConvTranspose node 'up': not counted"):
        multiply_adds(graph_of([other], {"x": ["streams", 4, 6]}, {"w": (4, 2, 3)}))


def attention(config: ModelConfig, tokens: tuple[int, ...]) -> int:
    """Of each modality over the others: scores, mass on valid tokens, alpha P, (alpha P) V."""
    size, total = config.shared_rank // config.heads, 0
    for count in tokens:
        pool = sum(tokens) - count
        total += config.heads * (count * pool * size + 2 * count * pool + pool * size)
    return total


def test_a_level_costs_what_its_parts_cost() -> None:
    grid = Grid()
    module: Any = streaming_modules(tiny_model(), grid)["level2"]
    width, rank, private_rank = CONFIG.width, CONFIG.shared_rank, CONFIG.private_rank
    new = grid.vision_slots + grid.acoustic_slots
    convolutions = new * 2 * 3 * width * width
    token = new * (width * width + width * (4 * rank + private_rank))
    projection = 3 * grid.acoustic_tokens**2
    summaries = 3 * (rank * rank + rank * width + private_rank * width)
    exchange = attention(CONFIG, (grid.vision_tokens, grid.acoustic_tokens, grid.language_tokens))
    found = multiply_adds(export_graph("level2", module).data)
    assert sum(found.values()) == convolutions + token + projection + summaries + exchange
