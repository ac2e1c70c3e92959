"""A float32 graph in half precision: products in float16, what half would bend in float32, every Cast explicit.

TensorRT from 10 on takes the types as they stand (STRONGLY_TYPED), 8.x is told to keep them (FP16 with
OBEY_PRECISION_CONSTRAINTS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from clcr_export.graphs import HALF_STORAGE_ELEMENTS

PRODUCTS = ("Conv", "MatMul", "Gemm")
# They only move, add or scale: half when all that they are given is half. What meets a float32 tensor (a residual
# stream, a mask, a carried state) is float32; norms, softmax, sums, evidence, GELU and the projection always are.
FOLLOWERS = frozenset(
    "Add Concat Gather Identity MaxPool Mul Pad Relu Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
_PASSING = frozenset("Add Cast Div Mul Reshape Squeeze Transpose Unsqueeze".split())  # between scores and softmax


def to_half(data: bytes) -> bytes:
    """The graph with float16 products; names, shapes and types at the border stay."""
    proto = onnx.load_from_string(data)
    fold_norms(proto)
    writer = _Writer(proto, _half_tensors(proto))
    writer.write()
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def fold_norms(proto: onnx.ModelProto) -> None:
    """Fold a BatchNormalization into the bias-free Conv before it, so that no norm lies between two products."""
    graph = proto.graph
    weights = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or len(conv.input) != 2 or conv.input[1] not in weights:
            continue
        if sum(norm.input[0] in node.input for node in graph.node) != 1:
            continue
        gain, shift, mean, variance = (numpy_helper.to_array(weights[n]).astype(np.float64) for n in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gain / np.sqrt(variance + epsilon)
        kernel = numpy_helper.to_array(weights[conv.input[1]]) * scale.reshape(-1, 1, 1, 1)
        folded = {f"{norm.name}.weight": kernel, f"{norm.name}.bias": shift - mean * scale}
        graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in folded.items())
        conv.input[:] = [conv.input[0], *folded]
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    drop_unused(proto)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove weights and Constants that nothing reads."""
    graph = proto.graph
    needed = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in needed]
    kept = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def constants_of(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    """Weights and Constants by name."""
    found = {item.name: item for item in proto.graph.initializer}
    return found | {n.output[0]: n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant"}


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor."""
    inferred = shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {name: item.data_type for name, item in constants_of(proto).items()}


def rounded(data: bytes) -> bytes:
    """The same graph in float32 with every float16 tensor rounded where it arises: what half hardware computes.

    ONNX Runtime has no float16 products on a CPU. It runs them in float32 and takes the Casts around them out again, so
    that a half graph loses nothing there but digits of its weights (seen in 1.31). Here the rounding is left in: Casts
    to float16 and back, between operators that are float32.
    """
    proto = onnx.load_from_string(data)
    graph, types = proto.graph, types_of(proto)
    for item in graph.initializer:
        if item.data_type == TensorProto.FLOAT16:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float32), item.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        cast, halves = node.op_type == "Cast", [name for name in node.output if types[name] == TensorProto.FLOAT16]
        exact = {name: node.input[0] if cast else f"{name}.exact" for name in halves}
        if cast and types[node.output[0]] == TensorProto.FLOAT:
            nodes.append(helper.make_node("Identity", list(node.input), list(node.output), node.name))
        elif not (cast and halves):
            node.output[:] = [exact.get(name, name) for name in node.output]
            nodes.append(node)
        for name, source in exact.items():
            nodes.append(helper.make_node("Cast", [source], [f"{name}.short"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}.short"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString(deterministic=True))


def _half_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of the float tensors that become float16."""
    types, constants = types_of(proto), constants_of(proto)
    makers = {name: node for node in proto.graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    half: set[str] = set()
    for node in proto.graph.node:
        floats = [name for name in node.input if types.get(name) == TensorProto.FLOAT]
        computed = [name for name in floats if name not in constants]
        if node.op_type in PRODUCTS:
            wanted = _is_half_product(node, constants, makers, users)
        elif node.op_type == "Gather" and floats and not computed:
            wanted = bool(np.prod(constants[floats[0]].dims) >= HALF_STORAGE_ELEMENTS)
        else:
            wanted = node.op_type in FOLLOWERS and bool(computed) and half.issuperset(computed)
        if wanted:
            half.update(name for name in node.output if types.get(name) == TensorProto.FLOAT)
    return half


def _is_half_product(
    node: onnx.NodeProto,
    constants: Mapping[str, TensorProto],
    makers: Mapping[str, onnx.NodeProto],
    users: Mapping[str, list[onnx.NodeProto]],
) -> bool:
    """Products with weights and both products of attention are half.

    The projection's running sums (of a TopK) and the sums over a window's tokens (other products of computed tensors)
    are not: they add up to 150 terms of which a threshold, or a division, makes much of a small error.
    """
    left, right = (makers.get(name) for name in node.input[:2])
    if left is not None and left.op_type in ("TopK", "DequantizeLinear"):  # the latter is int8 already
        return False
    if node.input[1] in constants or (left is not None and left.op_type == "Softmax"):
        return True
    reached = [node.output[0]]
    while reached:
        for user in users.get(reached.pop(), []):
            if user.op_type == "Softmax":
                return right is None or right.op_type != "Softmax"
            if user.op_type in _PASSING:
                reached.append(user.output[0])
    return False


@dataclass
class _Writer:
    """Writes the Casts between what is half and what is not."""

    proto: onnx.ModelProto
    half: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    casts: set[str] = field(default_factory=set)

    def write(self) -> None:
        graph = self.proto.graph
        self.types, self.constants = types_of(self.proto), constants_of(self.proto)
        borders = {value.name for value in graph.output}
        for node in graph.node:
            wants_half = any(name in self.half for name in node.output)
            node.input[:] = [self._taken(name, wants_half) for name in node.input]
            outward = [name for name in node.output if name in self.half and name in borders]
            self.nodes.append(node)
            for name in outward:  # the border is float32; within the graph the half tensor goes on
                node.output[:] = [f"{name}.half" if n == name else n for n in node.output]
                self.nodes.append(
                    helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.up", to=TensorProto.FLOAT)
                )
                self.casts |= {f"{name}.half", name}
        del graph.node[:]
        graph.node.extend(self.nodes)
        drop_unused(self.proto)

    def _taken(self, name: str, wants_half: bool) -> str:
        """The name under which a node that is half, or is not, reads a tensor."""
        if self.types.get(name) != TensorProto.FLOAT or (name in self.half) == wants_half:
            inner = f"{name}.half"
            return inner if wants_half and inner in self.casts else name
        other = f"{name}.half" if wants_half else f"{name}.float"
        if not wants_half and f"{name}.half" in self.casts:
            return name  # a tensor of the border, whose Cast is there
        if other in self.casts:
            return other
        self.casts.add(other)
        if name in self.constants:
            short = numpy_helper.to_array(self.constants[name]).astype(np.float16)
            self.proto.graph.initializer.append(numpy_helper.from_array(short, other))
        else:
            kind = TensorProto.FLOAT16 if wants_half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [other], other, to=kind))
        return other
