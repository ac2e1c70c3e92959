"""INT8 as explicit, symmetric Q/DQ around the products with weights, calibrated on clips.

Zero points are 0, activations have one scale, weights one per output channel. Scales are constants of the graph: a
stream's answer depends neither on its chunks nor on its neighbours in a batch. Weights stay float32 in the file, as
TensorRT 8 takes no int8 weights; the plan that it builds holds them as int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clcr_export.half import constants_of, drop_unused, fold_norms
from clcr_export.proof import Arrays
from clcr_stream.errors import ConfigError

STEPS = 127  # symmetric: -127 .. 127, so that x and -x are equally exact
LEAST_CHANNELS = 4  # TensorRT packs int8 channels by four and has no int8 kernel for pictures of 3 or sound of 1
PERCENTILE = 99.99
_BINS_PER_OCTAVE = 32  # of the histogram behind the percentile: 2 % wide
_LOWEST_OCTAVE, _OCTAVES = -24, 48


@dataclass
class Ranges:
    """The sizes that tensors took on while clips were streamed; `observe` adds, `largest` and `percentile` read."""

    _peaks: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def observe(self, arrays: Arrays) -> None:
        """Count the values of float tensors {name: array}."""
        for name, array in arrays.items():
            sizes = np.abs(array).ravel()
            self._peaks[name] = max(self._peaks.get(name, 0.0), float(sizes.max()))
            octaves = np.log2(np.maximum(sizes, 2.0**_LOWEST_OCTAVE))
            bins = np.minimum((octaves - _LOWEST_OCTAVE) * _BINS_PER_OCTAVE, _OCTAVES * _BINS_PER_OCTAVE - 1)
            found = np.bincount(bins.astype(np.int64), minlength=_OCTAVES * _BINS_PER_OCTAVE)
            self._counts[name] = self._counts.get(name, 0) + found

    def scales(self, method: str) -> dict[str, float]:
        """The scale of each tensor: `absmax` or `percentile` (the size below which 99.99 % of the values lie) / 127."""
        if not self._peaks:
            raise ConfigError("no tensor was observed; --calibration needs clips with something in them")
        sizes = self._peaks if method == "absmax" else {name: self._percentile(name) for name in self._peaks}
        for name, size in sizes.items():
            if not np.isfinite(size):
                raise ConfigError(f"{name}: a value that is not finite while calibrating; look at the clips")
        return {name: (size or 1.0) / STEPS for name, size in sizes.items()}

    def _percentile(self, name: str) -> float:
        """The upper edge of the bin, never above the largest value; zeros count as values."""
        counts = self._counts[name].cumsum()
        place = int(np.searchsorted(counts, counts[-1] * PERCENTILE / 100))
        return min(self._peaks[name], float(2.0 ** (_LOWEST_OCTAVE + (place + 1) / _BINS_PER_OCTAVE)))


def prepared(data: bytes) -> bytes:
    """The float32 graph as it is quantised: norms folded into the convolutions before them."""
    proto = onnx.load_from_string(data)
    fold_norms(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def quantisable(data: bytes) -> dict[str, str]:
    """Name of each product that becomes int8 -> the tensor that it multiplies by its weights."""
    proto = onnx.load_from_string(data)
    constants = constants_of(proto)
    sorted_by = {name for node in proto.graph.node if node.op_type == "TopK" for name in node.output}
    found = {}
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in constants:
            continue
        if node.input[0] in constants or node.input[0] in sorted_by:
            continue
        dims = constants[node.input[1]].dims
        if (node.op_type == "Conv" and dims[1] < LEAST_CHANNELS) or (node.op_type != "Conv" and len(dims) != 2):
            continue
        found[node.name] = node.input[0]
    return found


def watched(data: bytes) -> bytes:
    """The same graph with what its products read as further outputs, for calibration."""
    proto = onnx.load_from_string(data)
    known = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name in sorted(set(quantisable(data).values()) - known):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString(deterministic=True))


def to_int8(data: bytes, scales: Mapping[str, float]) -> bytes:
    """The prepared graph with Q/DQ on both operands of each quantisable product; `scales` by the tensor's name."""
    proto = onnx.load_from_string(data)
    graph, constants, chosen = proto.graph, constants_of(proto), quantisable(data)
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), "zero_point"))
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if node.name in chosen:
            source, weight = node.input[:2]
            axis = 0 if node.op_type == "Conv" or _transposed(node) else 1
            if source not in done:
                scale = np.asarray(scales[source], np.float32)
                graph.initializer.append(numpy_helper.from_array(scale, f"{source}.scale"))
                nodes += _pair(source, "zero_point", None)
            if weight not in done:
                _add_weight_scale(graph, weight, numpy_helper.to_array(constants[weight]), axis)
                nodes += _pair(weight, f"{weight}.zero_point", axis)
            done |= {source, weight}
            node.input[0], node.input[1] = f"{source}.dequantised", f"{weight}.dequantised"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _add_weight_scale(graph: onnx.GraphProto, name: str, weight: NDArray[np.float32], axis: int) -> None:
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(others)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / np.float32(STEPS)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.zero_point"))


def _pair(name: str, zero_point: str, axis: int | None) -> list[onnx.NodeProto]:
    place: dict[str, Any] = {} if axis is None else {"axis": axis}
    constants = [f"{name}.scale", zero_point]
    short, back = f"{name}.quantised", f"{name}.dequantised"
    return [
        helper.make_node("QuantizeLinear", [name, *constants], [short], short, **place),
        helper.make_node("DequantizeLinear", [short, *constants], [back], back, **place),
    ]


def _transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
