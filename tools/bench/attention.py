"""What grows with the window, told apart: counted in a graph, and timed in a profile of it.

A node is attention when one of its tensors has two different window lengths as dimensions (tokens by pool), and the
budget's projection when it sorts, or multiplies by the triangle of ones over the longest modality. What else touches a
whole window of picture or sound (state that moves up by a hop, sums over it) is linear.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ATTENTION, PROJECTION, LINEAR = "attention", "projection", "linear"
KINDS = (ATTENTION, PROJECTION, LINEAR)


@dataclass(frozen=True)
class Lengths:
    """Tokens of each modality in a window."""

    vision: int
    acoustic: int
    language: int

    @property
    def longest(self) -> int:
        return max(self.vision, self.acoustic, self.language)

    @property
    def all(self) -> frozenset[int]:
        """The modalities' tokens, and those of the pool of the others that each reads."""
        tokens = (self.vision, self.acoustic, self.language)
        return frozenset({*tokens, *(sum(tokens) - own for own in tokens)})

    @property
    def streamed(self) -> frozenset[int]:
        """Those that grow with the window; the tokens of language, whose number is fixed, are not among them."""
        return self.all - {self.language}


def kind_of(operator: str, shapes: Iterable[Sequence[int]], window: Lengths) -> str | None:
    """What a node with tensors of these shapes (streams first) is; None for the rest."""
    known = [list(shape) for shape in shapes]
    if operator == "TopK" or [window.longest] * 2 in known:
        return PROJECTION
    # Without the first dimension, so that no square weight of a width that is also a number of tokens is meant.
    pairs = [{size for size in shape[1:] if size in window.all} for shape in known]
    if any(len(found) > 1 for found in pairs):
        return ATTENTION
    return LINEAR if any(window.streamed & set(shape[1:]) for shape in known) else None


def counted(onnx_bytes: bytes, window: Lengths) -> dict[str, int]:
    """Multiply-adds of the graph's matrix products by kind, for one stream."""
    import onnx

    proto = onnx.load_from_string(onnx_bytes)
    for value in (*proto.graph.input, *proto.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        if dimension.dim_param:
            dimension.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _values(inferred)}
    shapes |= {n.output[0]: list(n.attribute[0].t.dims) for n in inferred.node if n.op_type == "Constant"}
    shapes |= {weight.name: list(weight.dims) for weight in inferred.initializer}
    found = dict.fromkeys(KINDS, 0)
    for node in inferred.node:
        if node.op_type != "MatMul":
            continue
        left, out = shapes[node.input[0]], shapes[node.output[0]]
        kind = kind_of(node.op_type, [shapes[name] for name in (*node.input, *node.output)], window)
        if kind is not None:
            found[kind] += int(np.prod(out)) * left[-1]
    return found


def _values(graph: Any) -> list[Any]:
    return [*graph.value_info, *graph.input, *graph.output]


def profiled(onnx_bytes: bytes, inputs: dict[str, Any], window: Lengths, runs: int) -> dict[str, float]:
    """Milliseconds per run of the graph's nodes by kind, and of all its nodes as "all", from ONNX Runtime's profile."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ort: Any = importlib.import_module("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = {**dict.fromkeys(KINDS, 0.0), "all": 0.0}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        args = event["args"]
        shapes = [
            shape
            for side in ("input_type_shape", "output_type_shape")
            for entry in args.get(side, [])
            for shape in entry.values()
        ]
        took_ms = event["dur"] / 1000 / runs
        kind = kind_of(args["op_name"], shapes, window)
        found["all"] += took_ms
        if kind is not None:
            found[kind] += took_ms
    return found
