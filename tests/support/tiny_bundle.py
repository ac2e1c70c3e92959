"""A small bundle for tests: real ONNX graphs of the contract, whose outputs depend on inputs and carried state."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clcr_stream.bundle.manifest import (
    ENGINES,
    STREAMS,
    AcousticSpec,
    EngineSpec,
    IntendedUse,
    LanguageSpec,
    Manifest,
    ModelSpec,
    TensorSpec,
    VisionSpec,
    contract,
    write_manifest,
)

LABELS = ["neutral", "sad", "happy", "surprise", "fear", "anger"]
STATE = "hop_count"
WORDS = ["hello", "there", "good", "morning", "i", "am", "so", "glad", "to", "see", "you", "a", "b", "c", "d", "e"]


def tiny_manifest(task: str = "classification", sample_rate_hz: int = 16_000) -> Manifest:
    """The default grid (0.2 s hops, 30 of them) with a narrow model and small crops; sound at another rate if asked."""
    window_samples = sample_rate_hz // 40
    manifest = Manifest(
        format=2,
        name="tiny",
        created_by="tests",
        task="classification" if task == "classification" else "regression",
        labels=LABELS if task == "classification" else [],
        hop_ns=200_000_000,
        window_hops=30,
        gamma=1.0,
        vision=VisionSpec(rate_hz=15, slots_per_hop=3, tokens=90, size_px=32),
        acoustic=AcousticSpec(
            sample_rate_hz=sample_rate_hz,
            samples_per_hop=sample_rate_hz // 5,
            mel_frames_per_hop=20,
            mel_bands=64,
            tokens_per_hop=5,
            tokens=150,
            fft_samples=1 << (window_samples - 1).bit_length(),
            window_samples=window_samples,
            hop_samples=sample_rate_hz // 100,
            low_hz=50.0,
            high_hz=min(7600.0, 0.475 * sample_rate_hz),
            log_floor=1e-6,
        ),
        language=LanguageSpec(tokens=16, pad_id=0, cls_id=2, sep_id=3),
        model=ModelSpec(width=8, shared_rank=4, private_rank=2, heads=2, position_base=10000.0),
        engines={},
        files={},
        provenance={"made_by": "tests/support/tiny_bundle.py"},
        intended_use=IntendedUse(infers_emotion=True, context=["research"], notice="A test."),
    )
    return _with_engines(manifest)


def write_bundle(folder: Path, task: str = "classification", sample_rate_hz: int = 16_000) -> Manifest:
    """Write the whole bundle into `folder` (made if absent); the manifest without its files."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = tiny_manifest(task, sample_rate_hz)
    for name in ENGINES:
        (folder / f"{name}.onnx").write_bytes(graph_bytes(manifest, name))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_tree()))
    (folder / "LICENSES.txt").write_text("Test data, no rights.\n")
    write_manifest(folder, manifest)
    return manifest


def graph_bytes(manifest: Manifest, name: str) -> bytes:
    """An engine whose outputs follow its masks and the number of hops seen since the last reset; each is made once."""
    return _graph_bytes(msgspec.json.encode(manifest.engines[name]), name)


@cache
def _graph_bytes(encoded: bytes, name: str) -> bytes:
    spec = msgspec.json.decode(encoded, type=EngineSpec)
    nodes, constants = [], []

    def constant(label: str, value: object, dtype: type[np.generic] = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), label))
        return label

    driver = {"language": "token_valid", "intercad": "present"}.get(name, "acoustic_valid")
    nodes.append(helper.make_node("ReduceMean", [driver], ["mean"], axes=[1], keepdims=1))
    signal = "mean"
    if spec.state:
        nodes.append(helper.make_node("Add", [STATE, constant("one", [[1.0]])], [f"{STATE}_next"]))
        nodes.append(helper.make_node("Mul", [STATE, constant("scale", [[0.01]])], ["scaled"]))
        nodes.append(helper.make_node("Add", ["mean", "scaled"], ["signal"]))
        signal = "signal"
    if name == "intercad":
        nodes.append(helper.make_node("ReduceMean", ["shared_3"], ["deep"], axes=[1, 2], keepdims=0))
        nodes.append(helper.make_node("Unsqueeze", ["deep", constant("axis", [1], np.int64)], ["deep_column"]))
        nodes.append(helper.make_node("Add", ["mean", "deep_column"], ["signal"]))
        signal = "signal"
    for index, tensor in enumerate(spec.outputs):
        if tensor.name == f"{STATE}_next":
            continue
        sizes = [int(size) for size in tensor.shape[1:]]
        target = constant(f"shape_{index}", [-1] + [1] * len(sizes), np.int64)
        nodes.append(helper.make_node("Reshape", [signal, target], [f"signal_{index}"]))
        ramp = np.linspace(0.0, 1.0, int(np.prod(sizes)), dtype=np.float32).reshape(1, *sizes)
        share = tensor.name in ("probs", "omega", "beta")
        raw = f"raw_{index}" if share else tensor.name
        nodes.append(helper.make_node("Mul", [f"signal_{index}", constant(f"ramp_{index}", ramp)], [raw]))
        if share:
            nodes.append(helper.make_node("Softmax", [raw], [tensor.name], axis=1))
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    ins = [helper.make_tensor_value_info(tensor.name, types[tensor.dtype], tensor.shape) for tensor in spec.inputs]
    outs = [helper.make_tensor_value_info(tensor.name, types[tensor.dtype], tensor.shape) for tensor in spec.outputs]
    graph = helper.make_graph(nodes, name, ins, outs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _with_engines(manifest: Manifest) -> Manifest:
    engines = {}
    for name in ENGINES:
        inputs, outputs = contract(manifest, name)
        state = [STATE] if name.startswith("level") else []
        ins = [
            TensorSpec(name=key, dtype=_dtype(dtype), shape=[STREAMS, *shape]) for key, (dtype, shape) in inputs.items()
        ]
        outs = [
            TensorSpec(name=key, dtype=_dtype(dtype), shape=[STREAMS, *shape])
            for key, (dtype, shape) in outputs.items()
        ]
        for key in state:
            ins.append(TensorSpec(name=key, dtype="float32", shape=[STREAMS, 1]))
            outs.append(TensorSpec(name=f"{key}_next", dtype="float32", shape=[STREAMS, 1]))
        engines[name] = EngineSpec(file=f"{name}.onnx", inputs=ins, outputs=outs, state=state)
    return msgspec.structs.replace(manifest, engines=engines)


def _dtype(name: str) -> Literal["float32", "int32"]:
    return "int32" if name == "int32" else "float32"


def tokenizer_tree() -> dict[str, object]:
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
