"""Multiply-adds of a graph, counted from its nodes: Conv, MatMul and Gemm, the products that hardware is rated by."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import onnx
from onnx import shape_inference

from clcr_stream.errors import ClcrError
from clcr_stream.manifest import STREAMS

Shapes = dict[str, list[int]]


class UncountableError(ClcrError):
    """A product's shapes do not follow from the graph, or it is one that nobody here counts."""

    exit_code = 8


def multiply_adds(graph: bytes, streams: int = 1) -> dict[str, int]:
    """Multiply-adds of one run for `streams` streams, by operator; operators that do not occur are absent.

    Elementwise work, sums, norms, softmax and sorting are not in it. Raises UncountableError.
    """
    proto = onnx.load_from_string(graph)
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == STREAMS:
                dim.dim_value = streams
    shapes = _shapes(shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    found: dict[str, int] = {}
    for node in proto.graph.node:
        if node.op_type in ("ConvTranspose", "Einsum"):
            raise UncountableError(f"{node.op_type} node {node.name!r}: not counted; countable: {', '.join(_COUNTED)}")
        if node.op_type in _COUNTED:
            try:
                count = _COUNTED[node.op_type](node, shapes)
            except KeyError as error:
                raise UncountableError(f"{node.op_type} node {node.name!r}: shape of {error} is unknown") from error
            found[node.op_type] = found.get(node.op_type, 0) + count
    return found


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every output element is a sum over the kernel and the inputs of its group, padding included."""
    _, *kernel = shapes[node.input[1]]
    return prod(shapes[node.output[0]]) * prod(kernel)


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


_COUNTED: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {"Conv": _conv, "MatMul": _matmul, "Gemm": _gemm}


def _shapes(proto: onnx.ModelProto) -> Shapes:
    """Every tensor whose shape is fully known."""
    known: Shapes = {weight.name: list(weight.dims) for weight in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = list(node.attribute[0].t.dims)
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = [dim.dim_value for dim in dims]
    return known
