"""Multiply-adds of a graph, counted from its nodes: Conv, MatMul and Gemm, the products that hardware is rated by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import onnx
from onnx import TensorProto, shape_inference

from clcr_stream.bundle.manifest import STREAMS
from clcr_stream.errors import ClcrError

Shapes = dict[str, list[int]]

_TYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


class UncountableError(ClcrError):
    """A product's shapes do not follow from the graph, or it is one that nobody here counts."""

    exit_code = 8


def multiply_adds(graph: bytes, streams: int = 1) -> dict[str, int]:
    """Multiply-adds of one run for `streams` streams, by operator; operators that do not occur are absent.

    Elementwise work, sums, norms, softmax and sorting are not in it. Raises UncountableError.
    """
    found: dict[str, int] = {}
    for node, count in _products(_with_shapes(graph, streams)):
        found[node.op_type] = found.get(node.op_type, 0) + count
    return found


def multiply_adds_by_type(graph: bytes, streams: int = 1) -> dict[str, int]:
    """The same work by the type of its operands: float32, float16, or int8 where both come from a DequantizeLinear.

    Raises UncountableError, also for a product of two types.
    """
    proto = _with_shapes(graph, streams)
    types = {item.name: item.data_type for item in proto.graph.initializer}
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    types |= {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {n.output[0]: n.attribute[0].t.data_type for n in proto.graph.node if n.op_type == "Constant"}
    restored = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, int] = {}
    for node, count in _products(proto):
        kinds = {"int8" if name in restored else _TYPES.get(types.get(name, 0), "unknown") for name in node.input[:2]}
        if len(kinds) != 1 or "unknown" in kinds:
            raise UncountableError(f"{node.op_type} node {node.name!r}: operands are {', '.join(sorted(kinds))}")
        kind = kinds.pop()
        found[kind] = found.get(kind, 0) + count
    return found


def _with_shapes(graph: bytes, streams: int) -> onnx.ModelProto:
    proto = onnx.load_from_string(graph)
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == STREAMS:
                dim.dim_value = streams
    return shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def _products(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    shapes = _shapes(proto)
    for node in proto.graph.node:
        if node.op_type in ("ConvTranspose", "Einsum"):
            raise UncountableError(f"{node.op_type} node {node.name!r}: not counted; countable: {', '.join(_COUNTED)}")
        if node.op_type in _COUNTED:
            try:
                yield node, _COUNTED[node.op_type](node, shapes)
            except KeyError as error:
                raise UncountableError(f"{node.op_type} node {node.name!r}: shape of {error} is unknown") from error


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
