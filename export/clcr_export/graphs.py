"""One ONNX graph per engine, written so that every TensorRT from 8.5 on and ONNX Runtime read it (opset 17, IR 8)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from clcr.network.config import LEVELS
from clcr.network.model import CLCR
from clcr.network.streaming import Grid, StreamingInterCAD, StreamingLanguage, StreamingLevel
from clcr_stream.bundle.manifest import STREAMS, EngineSpec, TensorSpec

OPSET = 17
IR_VERSION = 8
HALF_STORAGE_ELEMENTS = 4096  # smaller constants gain nothing from being stored in half precision

_DTYPES: dict[torch.dtype, Literal["float32", "int32"]] = {torch.float32: "float32", torch.int32: "int32"}


@dataclass(frozen=True)
class Graph:
    """An exported engine: its ONNX bytes, its manifest entry and the PyTorch module it was traced from."""

    data: bytes
    spec: EngineSpec
    module: nn.Module


def streaming_modules(model: CLCR, grid: Grid) -> dict[str, nn.Module]:
    """The five engines of a model in evaluation mode, in the order in which a tick runs them."""
    modules: dict[str, nn.Module] = {"language": StreamingLanguage(model, grid)}
    modules |= {f"level{level}": StreamingLevel(model, level, grid) for level in LEVELS}
    modules["intercad"] = StreamingInterCAD(model)
    return {name: module.eval() for name, module in modules.items()}


def export_graph(name: str, module: Any, half_storage: bool | Literal["exact"] = False) -> Graph:
    """Trace one engine. `half_storage` keeps large weights as float16 in the file; the arithmetic stays float32.

    exact: only weights that float16 represents, which are those that `round_to_half` rounded.
    """
    example: dict[str, Tensor] = module.example()
    streams = {key: {0: STREAMS} for key in (*module.input_names, *module.output_names)}
    buffer: Any = io.BytesIO()  # written at once by the tracing exporter, whose signature names paths only
    with quiet_tracing(), torch.no_grad():
        outputs = module(*example.values())
        torch.onnx.export(
            module,
            tuple(example.values()),
            buffer,
            input_names=list(module.input_names),
            output_names=list(module.output_names),
            dynamic_axes=streams,
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    fold_shapes(proto)
    if half_storage:
        store_in_half(proto, exact_only=half_storage == "exact")
    tidy(proto, dict(zip(module.output_names, outputs, strict=True)))
    onnx.checker.check_model(proto, full_check=True)
    spec = EngineSpec(
        file=f"{name}.onnx",
        inputs=[tensor_spec(key, value) for key, value in example.items()],
        outputs=[tensor_spec(key, value) for key, value in zip(module.output_names, outputs, strict=True)],
        state=list(getattr(module, "state_names", ())),
    )
    return Graph(proto.SerializeToString(deterministic=True), spec, module)


def tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    """The manifest's entry of one tensor at the border; KeyError for a dtype other than float32 and int32."""
    return TensorSpec(name=name, dtype=_DTYPES[tensor.dtype], shape=[STREAMS, *tensor.shape[1:]])


def round_to_half(module: nn.Module) -> None:
    """Round the weights that `store_in_half` will shorten, so that PyTorch computes what the file holds."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() >= HALF_STORAGE_ELEMENTS:
                parameter.copy_(parameter.half().float())


def round_pretrained(model: CLCR) -> None:
    """Round the weights of the pretrained encoders, which the files hold in half precision."""
    parts = [model.language, model.project["language"]]
    if model.config.acoustic_encoder == "whisper":
        parts += [model.acoustic, model.stages["acoustic"]]
    for part in parts:
        round_to_half(part)


def store_in_half(proto: onnx.ModelProto, exact_only: bool = False) -> None:
    """Store large float32 weights as float16 followed by a Cast; a weight that would change is an error, or stays.

    Weights are the initializers; constants of the graph (the frozen bases, which rounding would bend) stay as they are.
    A table that is only gathered from is cast after the Gather, so that the runtime keeps it in half precision.
    """
    graph = proto.graph
    casts = []
    for index, weight in enumerate(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < HALF_STORAGE_ELEMENTS:
            continue
        full = numpy_helper.to_array(weight)
        half = full.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), full):
            if exact_only:
                continue
            raise ValueError(f"{weight.name}: not representable in float16; call round_to_half before tracing")
        users = [node for node in graph.node if weight.name in node.input]
        graph.initializer[index].CopyFrom(numpy_helper.from_array(half, weight.name))
        if len(users) == 1 and users[0].op_type == "Gather":
            output, raw = users[0].output[0], f"{users[0].output[0]}_half"
            users[0].output[0] = raw
            casts.append((users[0], helper.make_node("Cast", [raw], [output], to=TensorProto.FLOAT)))
        else:
            cast = f"{weight.name}_float"
            for node in users:
                node.input[:] = [cast if name == weight.name else name for name in node.input]
            casts.append((None, helper.make_node("Cast", [weight.name], [cast], to=TensorProto.FLOAT)))
    for after, cast_node in casts:
        graph.node.insert(0 if after is None else list(graph.node).index(after) + 1, cast_node)


def fold_shapes(proto: onnx.ModelProto) -> None:
    """Compute integers that follow from constants alone (the tracer's paddings): engines get them as constants."""
    graph = proto.graph
    known = {item.name: item for item in graph.initializer}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = node.attribute[0].t
        elif len(node.output) == 1 and all(name in known for name in node.input if name):
            given = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
            value = np.asarray(_run_node(node, given))
            if np.issubdtype(value.dtype, np.integer):
                known[node.output[0]] = numpy_helper.from_array(value, node.output[0])
                graph.initializer.append(known[node.output[0]])
                continue
        kept.append(node)
    needed = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in kept if node.op_type != "Constant" or node.output[0] in needed]
    used = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(used)


def _run_node(node: onnx.NodeProto, given: dict[str, Any]) -> Any:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    outputs: Any = ReferenceEvaluator(model).run(None, given)
    return outputs[0]


def tidy(proto: onnx.ModelProto, outputs: dict[str, Tensor]) -> None:
    """Drop what differs between two exports of the same weights, and state every output's shape."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    proto.graph.name = "clcr"
    proto.producer_version = ""
    proto.ir_version = IR_VERSION
    for value in proto.graph.output:
        dims = [STREAMS, *outputs[value.name].shape[1:]]
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, dims))


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """The tracer warns of its own age and of every Python number that becomes a constant: here all are meant to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
