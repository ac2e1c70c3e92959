"""The operators an engine may use: what TensorRT 8.5 to 11 and ONNX Runtime run alike (shared/design/engines.md)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from clcr_export.graphs import IR_VERSION, OPSET
from clcr_export.half import constants_of, types_of
from clcr_stream.bundle.manifest import STREAMS
from clcr_stream.errors import ClcrError

FORBIDDEN = {
    "Loop": "control flow does not run inside a CUDA graph",
    "If": "control flow does not run inside a CUDA graph",
    "Scan": "control flow does not run inside a CUDA graph",
    "GRU": "recurrent layers are not streamable here",
    "LSTM": "recurrent layers are not streamable here",
    "RNN": "recurrent layers are not streamable here",
    "NonZero": "its output shape depends on data",
    "Unique": "its output shape depends on data",
    "Compress": "its output shape depends on data",
    "CumSum": "TensorRT before 10.8 expands it into a loop",
    "Gelu": "opset 20; TensorRT 8 does not know it",
    "Attention": "opset 23; TensorRT 8 does not know it",
    "RMSNormalization": "opset 23; TensorRT 8 does not know it",
    "InstanceNormalization": "a plugin in TensorRT",
    "NonMaxSuppression": "its output shape depends on data",
    "RandomNormal": "an engine is a pure function",
    "RandomNormalLike": "an engine is a pure function",
    "RandomUniform": "an engine is a pure function",
    "RandomUniformLike": "an engine is a pure function",
    "Bernoulli": "an engine is a pure function",
    "Multinomial": "an engine is a pure function",
}
FLOAT32_ONLY = frozenset(
    "Clip Div Erf LayerNormalization Log ReduceL2 ReduceMax ReduceMean ReduceSum Sigmoid Softmax Sub TopK".split()
)
BORDER_DTYPES = {TensorProto.FLOAT: "float32", TensorProto.INT32: "int32"}
MAX_TOPK = 3840


class GraphError(ClcrError):
    """A graph uses something that one of the target engines cannot run."""

    exit_code = 8


def check_operators(name: str, proto: onnx.ModelProto) -> dict[str, int]:
    """Count of every operator used; GraphError for the first thing that a target engine would refuse or misread."""
    opsets = {item.domain: item.version for item in proto.opset_import}
    if opsets != {"": OPSET} or proto.ir_version != IR_VERSION:
        raise GraphError(f"{name}: opset {opsets}, IR {proto.ir_version}; engines are opset {OPSET}, IR {IR_VERSION}")
    if proto.functions:
        raise GraphError(f"{name}: defines function {proto.functions[0].name!r}; only standard operators are allowed")
    constants = {item.name: item for item in proto.graph.initializer}
    for item in proto.graph.initializer:
        _check_constant(f"{name}: weight {item.name!r}", item)
    for node in proto.graph.node:
        where = f"{name}: {node.op_type} node {node.name or node.output[0]!r}"
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _check_constant(where, attribute.t)
                constants[node.output[0]] = attribute.t
        _check_node(where, node, constants)
    for value in (*proto.graph.input, *proto.graph.output):
        _check_border(name, value)
    _check_types(name, proto)
    return dict(sorted(Counter(node.op_type for node in proto.graph.node).items()))


def _check_node(where: str, node: onnx.NodeProto, constants: dict[str, TensorProto]) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise GraphError(f"{where}: domain {node.domain!r}; only standard operators are allowed")
    if node.op_type in FORBIDDEN:
        raise GraphError(f"{where}: forbidden, {FORBIDDEN[node.op_type]}")
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise GraphError(f"{where}: has a graph inside; control flow does not run inside a CUDA graph")
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
            raise GraphError(f"{where}: casts to float64, which TensorRT does not compute")
    if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
        raise GraphError(f"{where}: axes as an input; TensorRT 8.5 and 8.6 ignore it and reduce over everything")
    if node.op_type == "TopK":
        count = constants.get(node.input[1])
        if count is None or not 0 < int(numpy_helper.to_array(count).reshape(-1)[0]) < MAX_TOPK:
            raise GraphError(f"{where}: K must be a constant below {MAX_TOPK}")


def _check_types(name: str, proto: onnx.ModelProto) -> None:
    """Where a graph holds half precision or int8: islands of float32 are float32, quantisation is symmetric."""
    used = {node.op_type for node in proto.graph.node} | {item.data_type for item in proto.graph.initializer}
    if not used & {"QuantizeLinear", "DequantizeLinear", TensorProto.FLOAT16}:
        return
    types, constants = types_of(proto), constants_of(proto)
    for node in proto.graph.node:
        where = f"{name}: {node.op_type} node {node.name or node.output[0]!r}"
        if node.op_type in FLOAT32_ONLY and any(types.get(item) == TensorProto.FLOAT16 for item in node.input):
            raise GraphError(f"{where}: reads float16; it is only exact enough in float32, put a Cast before it")
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        given = [constants.get(item) for item in (*node.input, "", "")[1:3]]
        scale, zero = (None if item is None else numpy_helper.to_array(item) for item in given)
        if scale is None or scale.dtype != np.float32 or not (scale > 0).all():
            raise GraphError(f"{where}: the scale must be a positive float32 constant")
        if zero is None or zero.dtype != np.int8 or zero.any():
            raise GraphError(f"{where}: the zero point must be a constant 0 of int8; TensorRT is symmetric")


def _check_constant(where: str, tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise GraphError(f"{where}: lies outside the file; an engine is one file")
    if tensor.data_type == TensorProto.DOUBLE:
        raise GraphError(f"{where}: is float64, which TensorRT does not compute")
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
        if not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise GraphError(
                f"{where}: holds a value that is not finite; masks are -1e4, half precision turns -inf to NaN"
            )


def _check_border(name: str, value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type not in BORDER_DTYPES:
        allowed = ", ".join(BORDER_DTYPES.values())
        raise GraphError(f"{name}: {value.name} is {TensorProto.DataType.Name(tensor.elem_type)}; allowed: {allowed}")
    first, rest = tensor.shape.dim[:1], tensor.shape.dim[1:]
    if [dim.dim_param for dim in first] != [STREAMS] or any(not dim.HasField("dim_value") for dim in rest):
        raise GraphError(f"{name}: {value.name} must be [{STREAMS}, fixed...]")
