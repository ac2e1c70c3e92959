"""A bundle's ONNX engines as PyTorch modules: the peer of gpu_check.py, and its work where TensorRT is missing.

Each graph becomes a torch.fx module for a fixed number of streams: shape arithmetic is folded, everything else is one
torch call per ONNX operator, so torch.compile sees the whole tick as one graph. Needs torch and onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from gpu.operators import CALLS, DTYPES, STATIC, Unsupported
from gpu.program import Bundle, Program


class Converter:
    """One ONNX graph for a fixed number of streams."""

    def __init__(self, data: bytes, streams: int) -> None:
        self._model = onnx.load_model_from_string(data)
        self._streams = streams
        self._constants = {item.name: numpy_helper.to_array(item) for item in self._model.graph.initializer}
        self._nodes: dict[str, fx.Node] = {}
        self._samples: dict[str, Tensor] = {}
        self._root = torch.nn.Module()
        self._graph = fx.Graph()

    def convert(self) -> fx.GraphModule:
        """A module: inputs by position in the graph's order, outputs as a tuple; Unsupported names the operator."""
        for value in self._model.graph.input:
            shape = [dim.dim_value or self._streams for dim in value.type.tensor_type.shape.dim]
            self._nodes[value.name] = self._graph.placeholder(_plain(value.name))
            self._samples[value.name] = torch.zeros(shape, dtype=DTYPES[value.type.tensor_type.elem_type])
        for node in self._model.graph.node:
            self._one(node)
        self._graph.output(tuple(self._node(value.name) for value in self._model.graph.output))
        self._graph.eliminate_dead_code()
        return fx.GraphModule(self._root, self._graph).eval()

    def _one(self, node: onnx.NodeProto) -> None:
        attributes = {item.name: _attribute(item) for item in node.attribute}
        if node.op_type == "Constant":
            self._constants[node.output[0]] = np.asarray(attributes["value"])
        elif node.op_type == "Shape":
            self._constants[node.output[0]] = np.array(self._sample(node.input[0]).shape, np.int64)
        elif all(name in self._constants or not name for name in node.input):
            self._fold(node)
        elif node.op_type not in CALLS:
            raise Unsupported(node.op_type)
        else:
            self._call(node, attributes)

    def _fold(self, node: onnx.NodeProto) -> None:
        from onnx.reference import ReferenceEvaluator

        feeds = {name: self._constants[name] for name in node.input if name}
        types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
        kinds = [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = helper.make_graph([node], "fold", kinds, outputs)
        opsets, version = list(self._model.opset_import), self._model.ir_version
        model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        for name, array in zip(node.output, ReferenceEvaluator(model).run(None, feeds), strict=True):
            self._constants[name] = np.asarray(array)

    def _call(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        call, static = CALLS[node.op_type], STATIC.get(node.op_type, ())
        arguments: list[Any] = []
        samples: list[Any] = []
        for place, name in enumerate(node.input):
            if not name:
                arguments.append(None)
                samples.append(None)
            elif place in static or (node.op_type == "Gather" and place == 1 and self._scalar(name)):
                if name not in self._constants:
                    raise Unsupported(f"{node.op_type} whose input {place} depends on data")
                arguments.append(self._constants[name].tolist())
                samples.append(arguments[-1])
            else:
                arguments.append(self._node(name))
                samples.append(self._sample(name))
        found = call(*samples, **attributes)
        made = self._graph.call_function(call, tuple(arguments), attributes)
        if len(node.output) == 1:
            self._nodes[node.output[0]], self._samples[node.output[0]] = made, found
            return
        for place, name in enumerate(node.output):
            self._nodes[name] = self._graph.call_function(_item, (made, place))
            self._samples[name] = found[place]

    def _scalar(self, name: str) -> bool:
        return name in self._constants and self._constants[name].ndim == 0

    def _node(self, name: str) -> fx.Node:
        if name not in self._nodes:
            buffer = f"c{len(self._nodes)}_{_plain(name)}"
            self._root.register_buffer(buffer, torch.as_tensor(self._constants[name].copy()))
            self._nodes[name] = self._graph.get_attr(buffer)
        return self._nodes[name]

    def _sample(self, name: str) -> Tensor:
        if name not in self._samples:
            self._samples[name] = torch.as_tensor(self._constants[name].copy())
        return self._samples[name]


def _item(values: Sequence[Tensor], place: int) -> Tensor:
    return values[place]


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _attribute(item: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(item)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


class TorchTick(torch.nn.Module):
    """A whole program on `streams` streams: (inputs, states) -> (outputs, next states), all in the program's order."""

    def __init__(self, graphs: Mapping[str, Any], program: Program, streams: int) -> None:
        super().__init__()
        self._program = program
        self._engines = torch.nn.ModuleDict()
        self._sides: dict[str, tuple[list[str], list[str]]] = {}
        self.states: list[tuple[str, str]] = []
        for call in program.calls:
            spec = graphs[call.engine].spec
            self._engines[call.engine] = Converter(graphs[call.engine].onnx, streams).convert()
            model = onnx.load_model_from_string(graphs[call.engine].onnx)
            sides = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
            self._sides[call.engine] = sides
            self.states += [(call.engine, name) for name in spec.state]

    def zeros(self, graphs: Mapping[str, Any], streams: int, device: Any) -> list[Tensor]:
        """Every state at stream start."""
        shapes = {(call.engine, t.name): t for call in self._program.calls for t in graphs[call.engine].spec.inputs}
        return [torch.zeros([streams, *shapes[state].shape[1:]], device=device) for state in self.states]

    def forward(self, inputs: list[Tensor], states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        values = dict(zip(self._program.inputs, inputs, strict=True))
        held = dict(zip(self.states, states, strict=True))
        after: dict[tuple[str, str], Tensor] = {}
        for call in self._program.calls:
            names_in, names_out = self._sides[call.engine]
            given = [values[call.inputs[n]] if n in call.inputs else held[call.engine, n] for n in names_in]
            found = dict(zip(names_out, self._engines[call.engine](*given), strict=True))
            values.update({tensor: found[name] for name, tensor in call.outputs.items()})
            after.update({key: found[f"{key[1]}_next"] for key in held if key[0] == call.engine})
        return [values[name] for name in self._program.outputs], [after[key] for key in self.states]


def unsupported(bundle: Bundle, streams: int = 1) -> list[str]:
    """One line per engine that does not convert."""
    lines = []
    for name, graph in bundle.graphs.items():
        try:
            Converter(graph.onnx, streams).convert()
        except Unsupported as error:
            lines.append(f"{name}: {error}")
    return lines
