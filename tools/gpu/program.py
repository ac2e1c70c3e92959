"""A bundle as gpu_check.py needs it: engines, the program of a tick, the golden hops. Python 3.9 and numpy alone.

How engines belong together is `clcr_stream.inference.program`'s to say, as in the product.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.inference import program
from clcr_stream.inference.program import Call, Graph, Program, single_program

if TYPE_CHECKING:
    from clcr_stream.bundle.manifest import EngineSpec, TensorSpec

__all__ = ["Bundle", "Call", "Graph", "Program", "engine_spec", "single_program", "tensor_spec"]


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: Sequence[Any]


@dataclass(frozen=True)
class _Spec:
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    state: Sequence[str]


def tensor_spec(name: str, dtype: str, shape: Sequence[Any]) -> TensorSpec:
    """The fields of the manifest's TensorSpec, without msgspec."""
    return cast("TensorSpec", _Tensor(name, dtype, shape))


def engine_spec(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: Sequence[str]) -> EngineSpec:
    """The fields of the manifest's EngineSpec that are read here, without msgspec."""
    return cast("EngineSpec", _Spec(inputs, outputs, state))


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
                [tensor_spec(t["name"], t["dtype"], t["shape"]) for t in engine[side]] for side in ("inputs", "outputs")
            ]
            graphs[name] = Graph(data, digest, engine_spec(sides[0], sides[1], engine.get("state", [])))
        with np.load(folder / "golden.npz", allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"gpu_check: {folder} is no bundle ({error!r}); give --bundle DIR") from None
    return Bundle(manifest, graphs, golden, hashlib.sha256(raw).hexdigest())


def tick_program(specs: Mapping[str, Any]) -> Program:
    """The product's program that also gives out what else the golden file may hold: all but features passed on."""
    wired = program.tick_program(specs)
    made = [name for call in wired.calls for name in call.outputs.values()]
    passed = {name for call in wired.calls for taken, name in call.inputs.items() if taken.endswith("_in")}
    return replace(wired, outputs=tuple(name for name in made if name not in passed))


def positions(first: int, count: int, bundle: Bundle) -> Any:
    """Positions (count, width) of absolute steps."""
    model = bundle.manifest["model"]
    return sinusoid(np.arange(first, first + count, dtype=np.int64), model["width"], model["position_base"])


def language_inputs(bundle: Bundle, hop: int) -> dict[str, Any]:
    """What the language engine takes at a golden hop."""
    golden, tokens = bundle.golden, bundle.manifest["language"]["tokens"]
    given = {name: golden[name][hop] for name in ("token_ids", "token_valid")}
    given["position"] = positions(int(golden["language_step"][hop]), tokens, bundle)
    return {t.name: given[t.name] for t in bundle.graphs["language"].spec.inputs}


def hop_inputs(bundle: Bundle, program: Program, words: Mapping[str, Any], hop: int) -> dict[str, Any]:
    """What a tick takes at a golden hop; `words` are the language engine's outputs for it, one stream."""
    golden, manifest = bundle.golden, bundle.manifest
    slots, tokens = manifest["vision"]["slots_per_hop"], manifest["acoustic"]["tokens_per_hop"]
    given = {
        "vision_in": golden["frames"][hop].astype(np.float32),
        "acoustic_in": golden["mel"][hop],
        "vision_position": positions(hop * slots, slots, bundle),
        "acoustic_position": positions(hop * tokens, tokens, bundle),
        "gamma": np.full(1, golden["gamma"], np.float32),
    }
    speech = manifest["acoustic"].get("speech")
    if speech is not None:
        steps = np.arange(hop * speech["steps_per_hop"], (hop + 1) * speech["steps_per_hop"], dtype=np.int64)
        given["speech_position"] = speech_positions(steps, speech["width"], speech["period_steps"])
    given.update({name: golden[name][hop] for name in ("vision_valid", "acoustic_valid")})
    given.update(words)
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
