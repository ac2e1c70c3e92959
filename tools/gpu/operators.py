"""ONNX operators of opset 17 as torch calls, as far as this project's engines use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


class Unsupported(Exception):
    """An operator that has no line here."""


def _ints(given: Any) -> list[int]:
    """Plain ints: torch.compile would take what numpy makes of them for data."""
    return [int(item) for item in given] if isinstance(given, (list, tuple)) else [int(given)]


def _clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    return torch.clamp(x, None if low is None else float(low), None if high is None else float(high))


def _slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    first, last = _ints(starts), _ints(ends)
    over = list(range(len(first))) if axes is None else _ints(axes)
    stride = [1] * len(first) if steps is None else _ints(steps)
    index = [slice(None)] * x.ndim
    for place, axis in enumerate(over):
        index[axis] = slice(first[place], None if last[place] > 1 << 30 else last[place], stride[place])
    return x[tuple(index)]


def _gather(x: Tensor, indices: Any, axis: int = 0) -> Tensor:
    if not isinstance(indices, Tensor):
        return x.select(axis, int(indices))
    axis %= x.ndim
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return torch.index_select(x, axis, indices.reshape(-1)).reshape(shape)


def _reshape(x: Tensor, shape: Any, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(_ints(shape))])


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    rank = x.ndim + len(_ints(axes))
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _reduce(x: Tensor, axes: Any, keepdims: int, kind: str) -> Tensor:
    over = list(range(x.ndim)) if axes is None else _ints(axes)
    call: dict[str, Callable[..., Tensor]]
    call = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin, "l2": torch.linalg.vector_norm}
    reduced: Tensor = call[kind](x, dim=over, keepdim=bool(keepdims))
    return reduced


def _reducer(kind: str) -> Callable[..., Tensor]:
    def reduce(x: Tensor, given: Any = None, axes: Any = None, keepdims: int = 1) -> Tensor:
        return _reduce(x, given if given is not None else axes, keepdims, kind)

    return reduce


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **given: Any) -> Tensor:
    rank = x.ndim - 2
    pads = given.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:]:
        flat = [size for axis in reversed(range(rank)) for size in (pads[axis], pads[rank + axis])]
        x, pads = functional.pad(x, flat), [0] * 2 * rank
    call = {1: functional.conv1d, 2: functional.conv2d}[rank]
    ones = [1] * rank
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    return call(x, weight, bias, strides, pads[:rank], dilations, given.get("group", 1))


def _max_pool(x: Tensor, **given: Any) -> Tensor:
    rank = x.ndim - 2
    pads = given.get("pads", [0] * 2 * rank)
    call = {1: functional.max_pool1d, 2: functional.max_pool2d}[rank]
    return call(x, given["kernel_shape"], given.get("strides", [1] * rank), pads[:rank])


def _average_pool(x: Tensor, **given: Any) -> Tensor:
    rank = x.ndim - 2
    if any(given.get("pads", ())) or given.get("ceil_mode"):
        raise Unsupported("AveragePool with padding")  # what the border counts differs from torch's
    call = {1: functional.avg_pool1d, 2: functional.avg_pool2d}[rank]
    return call(x, given["kernel_shape"], given.get("strides", [1] * rank))


def _gemm(a: Tensor, b: Tensor, c: Any = None, alpha: float = 1.0, beta: float = 1.0, **given: int) -> Tensor:
    product = alpha * ((a.mT if given.get("transA") else a) @ (b.mT if given.get("transB") else b))
    return product if c is None else product + beta * c


def _layer_norm(x: Tensor, scale: Tensor, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Tensor:
    return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def _split(x: Tensor, sizes: Any = None, axis: int = 0) -> Sequence[Tensor]:
    return torch.split(x, _ints(sizes), axis)


def _pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant") -> Tensor:
    if mode != "constant":
        raise Unsupported(f"Pad {mode}")
    over = [axis % x.ndim for axis in (list(range(x.ndim)) if axes is None else _ints(axes))]
    sizes = {axis: (int(pads[place]), int(pads[place + len(over)])) for place, axis in enumerate(over)}
    flat = [size for axis in reversed(range(x.ndim)) for size in sizes.get(axis, (0, 0))]
    return functional.pad(x, flat, value=0.0 if value is None else float(value))


def _top_k(x: Tensor, k: Any, axis: int = -1, largest: int = 1, **given: int) -> tuple[Tensor, Tensor]:
    found = torch.topk(x, _ints(k)[0], axis, bool(largest), bool(given.get("sorted", 1)))
    return found.values, found.indices


def _batch_norm(x: Tensor, *given: Tensor, epsilon: float = 1e-5, **_: Any) -> Tensor:
    scale, bias, mean, variance = given
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _cast(x: Tensor, to: int) -> Tensor:
    return x.to(DTYPES[to])


def _expand(x: Tensor, shape: Any) -> Tensor:
    both = torch.broadcast_shapes(x.shape, tuple(_ints(shape)))  # type: ignore[no-untyped-call]
    return x.expand(both)


def _many(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def folded(first: Tensor, *rest: Tensor) -> Tensor:
        for item in rest:
            first = call(first, item)
        return first

    return folded


CALLS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": lambda a, b: a + b,
    "And": torch.logical_and,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "Div": lambda a, b: a / b,
    "Equal": lambda a, b: a == b,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Log": torch.log,
    "MatMul": lambda a, b: a @ b,
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _many(torch.minimum),
    "Mul": lambda a, b: a * b,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pad": _pad,
    "Pow": lambda a, b: a**b,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reducer("l2"),
    "ReduceMax": _reducer("max"),
    "ReduceMean": _reducer("mean"),
    "ReduceMin": _reducer("min"),
    "ReduceSum": _reducer("sum"),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": lambda a, b: a - b,
    "Tanh": torch.tanh,
    "TopK": _top_k,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}
# Inputs that say how and not what: they must be known when the graph is made.
STATIC = {
    **dict.fromkeys(("Clip", "Slice", "Pad"), (1, 2, 3, 4)),
    **dict.fromkeys(("TopK", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Split", "ReduceSum", "ReduceMax"), (1,)),
}
