"""A tick's engines as ONE ONNX graph: the baseline that per-level engines have to beat.

    python tools/gpu/merge.py OUT.onnx [--bundle DIR]      for gpu_check.py --merged where onnx is not installed

States are named "engine/state"; program tensors keep their names. Needs onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from gpu.program import Call, Graph, Program, engine_spec, load_bundle, tensor_spec, tick_program

if TYPE_CHECKING:
    from clcr_stream.bundle.manifest import EngineSpec

NAME = "merged"


def merged_spec(specs: Mapping[str, Any], program: Program) -> EngineSpec:
    """Inputs, outputs and states of the merged engine."""
    states, inputs, outputs = [], [], []
    for call in program.calls:
        for tensor in specs[call.engine].inputs:
            if tensor.name in specs[call.engine].state:
                state = f"{call.engine}/{tensor.name}"
                states.append(state)
                inputs.append(tensor_spec(state, tensor.dtype, list(tensor.shape)))
                outputs.append(tensor_spec(f"{state}_next", tensor.dtype, list(tensor.shape)))
    inputs += [program.tensors[name] for name in program.inputs]
    outputs += [program.tensors[name] for name in program.outputs]
    return engine_spec(inputs, outputs, states)


def merged_program(program: Program) -> Program:
    """The program that runs the merged engine instead of the chain."""
    call = Call(NAME, {name: name for name in program.inputs}, {name: name for name in program.outputs})
    return Program((call,), program.tensors, program.inputs, program.outputs)


def merged_graph(specs: Mapping[str, Any], program: Program, data: bytes) -> Graph:
    """The bytes of a merged file with what they hold."""
    return Graph(data, hashlib.sha256(data).hexdigest(), merged_spec(specs, program))


def merge(graphs: Mapping[str, Any], program: Program) -> bytes:
    """The ONNX bytes of the merged graph; every inner name gets its engine in front."""
    import onnx
    from onnx import helper

    nodes, weights = [], []
    models = [(call, onnx.load_model_from_string(graphs[call.engine].onnx)) for call in program.calls]
    for call, model in models:
        wired = {**call.inputs, **call.outputs}
        for place, node in enumerate(model.graph.node):
            node.name = f"{call.engine}/{place}/{node.name}"
            for side in (node.input, node.output):
                side[:] = [wired.get(name, f"{call.engine}/{name}") if name else "" for name in side]
            nodes.append(node)
        for item in model.graph.initializer:
            item.name = f"{call.engine}/{item.name}"
            weights.append(item)
    spec = merged_spec({call.engine: graphs[call.engine].spec for call in program.calls}, program)
    kinds = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "int32": onnx.TensorProto.INT32}
    sides = [
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], list(t.shape)) for t in side]
        for side in (spec.inputs, spec.outputs)
    ]
    whole = helper.make_model(
        helper.make_graph(nodes, NAME, sides[0], sides[1], weights),
        opset_imports=list(models[-1][1].opset_import),
        ir_version=models[-1][1].ir_version,
    )
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the merged graph of a bundle; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", type=Path, default=root / "engines" / "default")
    given = parser.parse_args(arguments)
    bundle = load_bundle(given.bundle)
    program = tick_program({name: graph.spec for name, graph in bundle.graphs.items()})
    given.out.write_bytes(merge(bundle.graphs, program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
