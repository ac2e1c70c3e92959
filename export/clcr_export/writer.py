"""Writes a bundle: graphs, tokenizer, golden vectors, licences and manifest, put in place by one rename."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from clcr.network.config import ModelConfig
from clcr.network.model import CLCR
from clcr.network.speech import BLOCK_STEPS
from clcr.network.streaming import Grid, StreamingLevel
from clcr.training.checkpoint import CheckpointError, load_checkpoint, load_info, replacing_folder
from clcr_export import __version__
from clcr_export.gates import Report
from clcr_export.graphs import Graph, export_graph, round_pretrained, streaming_modules
from clcr_export.operators import check_operators
from clcr_export.precision import Bench, Precision, evaluation_packs, lower
from clcr_export.proof import Chain, Proof, make_scenario, prove, sessions, vocabulary_size
from clcr_stream.bundle.loader import load_bundle
from clcr_stream.bundle.manifest import (
    FORMAT_VERSION,
    AcousticSpec,
    IntendedUse,
    LanguageSpec,
    Manifest,
    ModelSpec,
    SpeechSpec,
    VisionSpec,
    write_manifest,
)
from clcr_stream.frontends.positions import SPEECH_PERIOD
from clcr_stream.frontends.text import Tokenizer

HOP_NS = 200_000_000
WINDOW_HOPS = Grid().vision_tokens // Grid().vision_slots  # of training: 6 s
GOLDEN_TICKS = 12
CONTEXTS = ["research", "assistive", "consumer"]
NOTICE = (
    "This system estimates an expressed emotion from face, voice and words. Inform every person it observes. In the "
    "EU, inferring emotions at work or in education from biometric data is prohibited except for medical or safety "
    "reasons."
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What `clcr-export` may choose: the bundle's name, the proof's length, the licence text, precision, the window."""

    name: str
    proof_hops: int = 40
    licences: Path | None = None
    precision: Precision = field(default_factory=Precision)
    window_hops: int = WINDOW_HOPS

    @property
    def grid(self) -> Grid:
        """The steps of a hop and of the window."""
        plain = Grid()
        return replace(
            plain,
            vision_tokens=plain.vision_slots * self.window_hops,
            acoustic_tokens=plain.acoustic_slots * self.window_hops,
        )


@dataclass(frozen=True)
class Engines:
    """What is about to be written: graphs, the operators of each, and what was proved of them."""

    graphs: Mapping[str, Graph]
    operators: dict[str, dict[str, int]]
    proof: Proof
    precision: Report | None = None  # None in float32


def export_bundle(checkpoint: Path, target: Path, options: ExportOptions, say: Say) -> Engines:
    """Checkpoint folder -> proved bundle at `target`.

    Raises GraphError, ParityError, CheckpointError, ConfigError or BundleError; then whatever lay at `target` lies
    there still.
    """
    options.precision.check()
    with reproducible():
        return _export(checkpoint, target, options, say)


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread and one seed, so that two exports agree to the byte, the figures of the proof included."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def _export(checkpoint: Path, target: Path, options: ExportOptions, say: Say) -> Engines:
    grid = options.grid
    model = load_checkpoint(checkpoint)
    tokenizer = checkpoint / "tokenizer.json"
    check_tokenizer(tokenizer, vocabulary_size(model))
    round_pretrained(model)  # PyTorch must compute with what the files will hold
    modules = _modules(checkpoint, model, grid)
    if options.precision.mode == "fp32":
        engines = _proved(model, modules, options, say)
    else:  # the packs first: what is wrong with them is said before the minutes of tracing and proving
        with evaluation_packs(model, options.precision, tokenizer) as packs:
            exact = _proved(model, modules, options, say)
            scenario = make_scenario(model, grid, options.proof_hops)
            bench = Bench(model, grid, exact.graphs, scenario, packs, say)
            graphs, report = lower(bench, options.precision, tokenizer)
        engines = Engines(graphs, _operators(graphs), exact.proof, report)
    with replacing_folder(target) as folder:
        say("writing")
        for graph in engines.graphs.values():
            (folder / graph.spec.file).write_bytes(graph.data)
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        (folder / "LICENSES.txt").write_bytes(licence_text(model.config, options))
        write_golden(folder / "golden.npz", model, grid, engines.graphs)
        origin = provenance(checkpoint, model.temperature.by_subset(), engines)
        write_manifest(folder, build_manifest(model, grid, engines.graphs, options, origin))
        load_bundle(folder)  # what we wrote is what the runtime accepts
    return engines


def licence_text(config: ModelConfig, options: ExportOptions) -> bytes:
    """The option's licences; then that of the pretrained speech encoder where the model has one."""
    text = options.licences.read_bytes() if options.licences else b"See docs/model_card.md of clcr-stream.\n"
    if config.acoustic_encoder == "whisper":
        text += Path(__file__).with_name("whisper_licence.txt").read_bytes()
    return text


def _proved(model: CLCR, modules: Mapping[str, nn.Module], options: ExportOptions, say: Say) -> Engines:
    """The engines in float32, equal to the model."""
    graphs: dict[str, Graph] = {}
    for name, module in modules.items():
        say(f"{name}: exporting")
        speech = model.config.acoustic_encoder == "whisper" and isinstance(module, StreamingLevel)
        graphs[name] = export_graph(name, module, half_storage="exact" if speech else name == "language")
    operators = _operators(graphs)
    proof = prove(model, options.grid, graphs, options.proof_hops, say)
    proof.check()
    return Engines(graphs, operators, proof)


def _operators(graphs: Mapping[str, Graph]) -> dict[str, dict[str, int]]:
    return {name: check_operators(name, onnx.load_from_string(graph.data)) for name, graph in graphs.items()}


def check_tokenizer(path: Path, known_ids: int) -> None:
    """Raise CheckpointError when a text could get a token id that the language encoder does not know."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a folder written by clcr-train")
    if len(Tokenizer(path)) > known_ids:
        raise CheckpointError(
            f"{path}: has {len(Tokenizer(path))} ids, the checkpoint's language encoder knows {known_ids}; "
            "copy the tokenizer.json of the same training run"
        )


def _modules(checkpoint: Path, model: CLCR, grid: Grid) -> dict[str, nn.Module]:
    try:
        return streaming_modules(model, grid)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}; this ablation can be evaluated but not streamed") from error


def build_manifest(
    model: CLCR, grid: Grid, graphs: Mapping[str, Graph], options: ExportOptions, origin: dict[str, Any]
) -> Manifest:
    """The manifest without its `files`, which `write_manifest` fills in."""
    mel = model.config.mel
    hops = grid.vision_tokens // grid.vision_slots
    tokenizer = Tokenizer(Path(origin["checkpoint"]["path"]) / "tokenizer.json")
    config = model.config
    return Manifest(
        format=FORMAT_VERSION,
        name=options.name,
        created_by=f"clcr-export {__version__}",
        task=config.task,
        labels=list(config.labels) if config.task == "classification" else [],
        hop_ns=HOP_NS,
        window_hops=hops,
        gamma=1.0,
        vision=VisionSpec(
            rate_hz=grid.vision_slots * 1_000_000_000 // HOP_NS,
            slots_per_hop=grid.vision_slots,
            tokens=grid.vision_tokens,
            size_px=grid.size_px,
        ),
        acoustic=AcousticSpec(
            samples_per_hop=4 * grid.acoustic_slots * mel.hop_samples,
            mel_frames_per_hop=4 * grid.acoustic_slots,
            tokens_per_hop=grid.acoustic_slots,
            tokens=grid.acoustic_tokens,
            **asdict(mel),
            speech=speech_spec(config),
        ),
        language=LanguageSpec(
            tokens=grid.language_tokens, pad_id=tokenizer.pad_id, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id
        ),
        model=ModelSpec(
            width=config.width,
            shared_rank=config.shared_rank,
            private_rank=config.private_rank,
            heads=config.heads,
            position_base=config.position_base,
        ),
        engines={name: graph.spec for name, graph in graphs.items()},
        files={},
        provenance=origin | {"checkpoint": {k: v for k, v in origin["checkpoint"].items() if k != "path"}},
        intended_use=IntendedUse(infers_emotion=config.task == "classification", context=CONTEXTS, notice=NOTICE),
    )


def speech_spec(config: ModelConfig) -> SpeechSpec | None:
    """What the manifest says of the speech encoder; None where sound has its own stem."""
    if config.acoustic_encoder != "whisper":
        return None
    return SpeechSpec(steps_per_hop=BLOCK_STEPS, width=config.speech_width, period_steps=SPEECH_PERIOD)


def provenance(checkpoint: Path, temperature: dict[str, float], engines: Engines) -> dict[str, Any]:
    """Where the weights come from and what was proved of the graphs; without `precision` they are float32."""
    weights = (checkpoint / "model.safetensors").read_bytes()
    info = load_info(checkpoint)
    return {
        "checkpoint": {
            "path": str(checkpoint),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "temperature": temperature,
            **info.provenance,
        },
        "export": {"torch": str(torch.__version__), "onnx": onnx.__version__, "operators": engines.operators},
        "proof": asdict(engines.proof),
        **({"precision": engines.precision.plain()} if engines.precision else {}),
    }


def write_golden(path: Path, model: CLCR, grid: Grid, graphs: Mapping[str, Graph]) -> None:
    """Inputs of a few hops and the outputs of every tick, for a check on the machine that will run the bundle."""
    scenario = make_scenario(model, grid, GOLDEN_TICKS, seed=1)
    chain = Chain(graphs, model, sessions(graphs))
    ticks = [chain.tick(scenario, index) for index in range(scenario.hops)]
    arrays: dict[str, Any] = {
        "frames": scenario.frames,
        "vision_valid": scenario.vision_valid,
        "mel": scenario.mel,
        "acoustic_valid": scenario.acoustic_valid,
        "token_ids": scenario.token_ids,
        "token_valid": scenario.token_valid,
        "language_step": scenario.language_step,
        "gamma": np.float32(scenario.gamma),
    }
    for key in graphs["intercad"].module.output_names:  # type: ignore[union-attr]
        arrays[key] = np.concatenate([tick["intercad"][key] for tick in ticks])
    for level in (1, 2, 3):
        for key in ("shared", "private", "budget"):
            arrays[f"level{level}_{key}"] = np.concatenate([tick[f"level{level}"][key] for tick in ticks])
    np.savez_compressed(path, **arrays)
