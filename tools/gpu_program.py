"""A bundle as gpu_check.py needs it: engines, the program of a tick, the golden hops. Python 3.9 and numpy alone.

Names say how engines belong together: `X_in` of a level is `X_out` of the level before; a language output `Y_2` is
level 2's input `Y` (or `Y_h`); InterCAD's input `Z_2` is level 2's output `Z`; what several levels take under one name
is one tensor. Only what the golden file holds is known by name here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEVELS = (1, 2, 3)
CHAIN = ("level1", "level2", "level3", "intercad")
_NUMBERED = re.compile(r"(.+)_([123])")


@dataclass(frozen=True)
class Tensor:
    """What clcr_stream.manifest.TensorSpec is, without msgspec."""

    name: str
    dtype: str
    shape: Sequence[Any]


@dataclass(frozen=True)
class Spec:
    """What clcr_stream.manifest.EngineSpec is, without msgspec."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    state: Sequence[str]


@dataclass(frozen=True)
class Graph:
    """An engine whose bytes are what the manifest says."""

    onnx: bytes
    sha256: str
    spec: Spec


@dataclass(frozen=True)
class Call:
    """One engine run of a program."""

    engine: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Program:
    """What clcr_stream.backends.Program is."""

    calls: Sequence[Call]
    tensors: Mapping[str, Tensor]
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder."""

    manifest: Mapping[str, Any]
    graphs: Mapping[str, Graph]
    golden: Mapping[str, Any]
    id: str


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; SystemExit with one line when a file is not what manifest.json says."""
    try:
        raw = (folder / "manifest.json").read_bytes()
        manifest = json.loads(raw)
        graphs = {}
        for name, engine in manifest["engines"].items():
            data = (folder / engine["file"]).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest != manifest["files"][engine["file"]]["sha256"]:
                raise SystemExit(
                    f"gpu_check: {folder / engine['file']} is not what manifest.json says; export it again"
                )
            sides = [
                [Tensor(t["name"], t["dtype"], t["shape"]) for t in engine[side]] for side in ("inputs", "outputs")
            ]
            graphs[name] = Graph(data, digest, Spec(sides[0], sides[1], engine.get("state", [])))
        with np.load(folder / "golden.npz", allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"gpu_check: {folder} is no bundle ({error!r}); give --bundle DIR") from None
    return Bundle(manifest, graphs, golden, hashlib.sha256(raw).hexdigest())


def tick_program(specs: Mapping[str, Any]) -> Program:
    """Levels and InterCAD wired by name; outputs are what no engine consumes as `X_in`."""
    spoken = {match[1] for match in (_NUMBERED.fullmatch(t.name) for t in specs["language"].outputs) if match}
    tensors: dict[str, Tensor] = {}
    calls: list[Call] = []
    inputs: list[str] = []
    made: dict[str, str] = {}  # (tensor of the program) -> engine
    passed = set()
    for engine in CHAIN:
        level = int(engine[-1]) if engine != "intercad" else None
        spec, taken, given = specs[engine], {}, {}
        for tensor in (t for t in spec.inputs if t.name not in spec.state):
            name = _source(tensor.name, level, spoken, made)
            if name not in made and name not in inputs:
                inputs.append(name)
            if tensor.name.endswith("_in") and name in made:
                passed.add(name)
            tensors.setdefault(name, Tensor(name, tensor.dtype, list(tensor.shape)))
            taken[tensor.name] = name
        after = {f"{name}_next" for name in spec.state}
        for tensor in (t for t in spec.outputs if t.name not in after):
            name = tensor.name if level is None else f"{tensor.name}_{level}"
            given[tensor.name], made[name] = name, engine
            tensors[name] = Tensor(name, tensor.dtype, list(tensor.shape))
        calls.append(Call(engine, taken, given))
    outputs = [name for name in made if name not in passed]
    return Program(tuple(calls), tensors, tuple(inputs), tuple(outputs))


def _source(name: str, level: int | None, spoken: set[str], made: Mapping[str, str]) -> str:
    """The program's tensor behind an engine's input."""
    if level is None:
        return name if name in made else f"{name}_{LEVELS[-1]}"
    if name in spoken or name.removesuffix("_h") in spoken:
        return f"{name}_{level}"
    passed = f"{name.removesuffix('_in')}_out_{level - 1}"
    return passed if passed in made else name


def single_program(name: str, spec: Any) -> Program:
    """One stateless engine on its own."""
    tensors = {t.name: t for t in (*spec.inputs, *spec.outputs)}
    taken, given = [t.name for t in spec.inputs], [t.name for t in spec.outputs]
    call = Call(name, {n: n for n in taken}, {n: n for n in given})
    return Program((call,), tensors, tuple(taken), tuple(given))


def sinusoid(first: int, count: int, bundle: Bundle) -> Any:
    """Positions (count, width) of absolute steps, as the runtime computes them."""
    width, base = bundle.manifest["model"]["width"], bundle.manifest["model"]["position_base"]
    phase = np.arange(first, first + count, dtype=np.float64)[:, None] * base ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(phase), np.cos(phase)], axis=2).reshape(count, -1)[:, :width].astype(np.float32)


def language_inputs(bundle: Bundle, hop: int) -> dict[str, Any]:
    """What the language engine takes at a golden hop."""
    golden, tokens = bundle.golden, bundle.manifest["language"]["tokens"]
    given = {name: golden[name][hop] for name in ("token_ids", "token_valid")}
    given["position"] = sinusoid(int(golden["language_step"][hop]), tokens, bundle)
    return {t.name: given[t.name] for t in bundle.graphs["language"].spec.inputs}


def hop_inputs(bundle: Bundle, program: Program, words: Mapping[str, Any], hop: int) -> dict[str, Any]:
    """What a tick takes at a golden hop; `words` are the language engine's outputs for it, one stream."""
    golden, manifest = bundle.golden, bundle.manifest
    slots, tokens = manifest["vision"]["slots_per_hop"], manifest["acoustic"]["tokens_per_hop"]
    given = {
        "vision_in": golden["frames"][hop].astype(np.float32),
        "acoustic_in": golden["mel"][hop],
        "vision_position": sinusoid(hop * slots, slots, bundle),
        "acoustic_position": sinusoid(hop * tokens, tokens, bundle),
        "gamma": np.full(1, golden["gamma"], np.float32),
        "language_valid": golden["token_valid"][hop],
    }
    given.update({name: golden[name][hop] for name in ("vision_valid", "acoustic_valid")})
    given.update(words)
    for name, array in words.items():
        given[f"{name[:-2]}_h{name[-2:]}"] = array  # format 1 calls language_1 of the encoder language_h in level 1
    missing = [name for name in program.inputs if name not in given]
    if missing:
        raise SystemExit(f"gpu_check: the bundle's golden hops do not say {', '.join(missing)}; this tool is older")
    return {name: given[name] for name in program.inputs}


def expected(bundle: Bundle, program: Program, hop: int) -> Iterator[tuple[str, Any]]:
    """(output of the program, what the exporter recorded) at a golden hop."""
    for name, recorded in bundle.golden.items():
        match = re.fullmatch(r"level([123])_(.+)", name)
        output = f"{match[2]}_{match[1]}" if match else name
        if output in program.outputs:
            yield output, recorded[hop]
