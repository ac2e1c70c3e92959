"""Bench bundles: models exported on the fly on any grid, kept in a cache folder and used again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.command import BenchError
from bench.machine import ROOT

SEED = 0
SAMPLE_RATE_HZ = 16000
CHECKPOINT = ROOT / "checkpoints/default"
# name -> settings of the model: what looks at a face, or what hears
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "default": {},
    "resnet18": {"vision_front_end": "resnet18"},
    "whisper": {"acoustic_encoder": "whisper", "mel_bands": 80},
    "person": {
        "vision_front_end": "grid",
        "vision_channels": (24, 32, 64, 128),
        "acoustic_encoder": "whisper",
        "mel_bands": 80,
        "baseline": True,
    },
}
_LAYERS, _HEADS, _HIDDEN = 3, 2, 128  # of the random language encoder, which no tick runs


@dataclass(frozen=True)
class Variant:
    """A grid and a front-end; steps per hop must come out whole."""

    front_end: str = "default"
    window_ms: int = 6000
    hop_ms: int = 200
    video_hz: int = 15
    sound_hz: int = 25

    def per_hop(self, rate_hz: int) -> int:
        """Steps of a rate in one hop; BenchError when they are not a whole number."""
        steps = Fraction(self.hop_ms * rate_hz, 1000)
        if steps.denominator != 1 or not steps or self.window_ms % self.hop_ms:
            raise BenchError(
                f"a hop of {self.hop_ms} ms does not hold whole steps of {rate_hz} Hz and {self.window_ms} ms"
            )
        return int(steps)

    @property
    def hops(self) -> int:
        return self.window_ms // self.hop_ms

    def grid(self) -> Any:
        """As the model's streaming modules take it."""
        from clcr.network.streaming import Grid

        slots, tokens = self.per_hop(self.video_hz), self.per_hop(self.sound_hz)
        return Grid(
            vision_slots=slots,
            vision_tokens=slots * self.hops,
            acoustic_slots=tokens,
            acoustic_tokens=tokens * self.hops,
        )


def random_model(front_end: str, tokenizer: Path) -> Any:
    """A model of the default sizes with seeded random weights."""
    import torch

    from clcr.network.config import ModelConfig
    from clcr.network.language import LanguageEncoder
    from clcr.network.model import CLCR
    from clcr_stream.frontends.text import Tokenizer

    torch.manual_seed(SEED)
    encoder = LanguageEncoder.from_config(
        {
            "model_type": "bert",
            "vocab_size": len(Tokenizer(tokenizer)),
            "hidden_size": _HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "intermediate_size": 4 * _HIDDEN,
            "max_position_embeddings": 160,
            "pad_token_id": 0,
        }
    )
    return CLCR(ModelConfig.from_dict(FRONT_ENDS[front_end]), encoder).eval()


def trained_model(bundle: Path, checkpoint: Path) -> tuple[Any, str] | None:
    """The model that the bundle was exported from and the name of its weights; None when `checkpoint` is not that."""
    weights = checkpoint / "model.safetensors"
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    known = manifest["provenance"].get("checkpoint", {}).get("sha256")
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != known:
        return None
    from clcr.training.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint), f"checkpoint {known[:16]}"


def exported(cache: Path, variant: Variant, tokenizer: Path, say: Callable[[str], None]) -> Path:
    """The bundle of a random model on the variant's grid, from the cache if it lies there."""
    folder = cache / f"bundle_{variant.front_end}_{key(asdict(variant))}"
    if not (folder / "manifest.json").is_file():
        say(f"exporting {variant} to {folder}")
        fresh = cache / f"fresh_{folder.name}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write_bundle(fresh, random_model(variant.front_end, tokenizer), variant, tokenizer)
        fresh.rename(folder)
    return folder


def key(settings: dict[str, Any]) -> str:
    """Names what an export depends on: its settings and the code of model, exporter and contract."""
    import clcr
    import clcr_export
    import clcr_stream

    digest = hashlib.sha256(json.dumps([settings, SEED], sort_keys=True).encode())
    for package, pattern in ((clcr, "**/*.py"), (clcr_export, "**/*.py"), (clcr_stream, "manifest.py")):
        for path in sorted(Path(str(package.__file__)).parent.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_bundle(folder: Path, model: Any, variant: Variant, tokenizer: Path) -> None:
    """Graphs, tokenizer and manifest of a model on the variant's grid; nothing is proved of them here."""
    from clcr_export.graphs import export_graph, streaming_modules
    from clcr_stream.bundle.manifest import write_manifest

    modules = streaming_modules(model, variant.grid())
    specs = {}
    for name, module in modules.items():
        graph = export_graph(name, module)
        specs[name] = graph.spec
        (folder / graph.spec.file).write_bytes(graph.data)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    write_manifest(folder, manifest_of(model, variant, specs, tokenizer))


def manifest_of(model: Any, variant: Variant, specs: dict[str, Any], tokenizer: Path) -> Any:
    """The manifest of a bench bundle, its files not yet listed."""
    from clcr_export.writer import speech_spec
    from clcr_stream.bundle import manifest as contract
    from clcr_stream.frontends.text import Tokenizer

    grid, config, words = variant.grid(), model.config, Tokenizer(tokenizer)
    mel = asdict(config.mel) | {"hop_samples": SAMPLE_RATE_HZ // (4 * variant.sound_hz)}
    return contract.Manifest(
        format=contract.FORMAT_VERSION,
        name=f"bench-{variant.front_end}",
        created_by="tools/bench",
        task="classification",
        labels=list(config.labels),
        hop_ns=variant.hop_ms * 1_000_000,
        window_hops=variant.hops,
        gamma=1.0,
        vision=contract.VisionSpec(
            rate_hz=variant.video_hz,
            slots_per_hop=grid.vision_slots,
            tokens=grid.vision_tokens,
            size_px=grid.size_px,
        ),
        acoustic=contract.AcousticSpec(
            samples_per_hop=4 * grid.acoustic_slots * mel["hop_samples"],
            mel_frames_per_hop=4 * grid.acoustic_slots,
            tokens_per_hop=grid.acoustic_slots,
            tokens=grid.acoustic_tokens,
            **mel,
            speech=speech_spec(config),
        ),
        language=contract.LanguageSpec(
            tokens=grid.language_tokens, pad_id=words.pad_id, cls_id=words.cls_id, sep_id=words.sep_id
        ),
        model=contract.ModelSpec(
            width=config.width,
            shared_rank=config.shared_rank,
            private_rank=config.private_rank,
            heads=config.heads,
            position_base=config.position_base,
        ),
        engines=specs,
        files={},
        provenance={"weights": f"random, seed {SEED}", "for": "benchmarks only"},
        intended_use=contract.IntendedUse(
            infers_emotion=False,
            context=["research"],
            notice="Random weights, for benchmarks; it says nothing of anybody.",
        ),
    )


@dataclass(frozen=True)
class Whole:
    """A model over its whole window with real left context: graphs, the PyTorch module, an example of its inputs."""

    onnx: bytes
    cached_onnx: bytes  # with the features of each frame in place of the frames
    faces_onnx: bytes  # which makes them
    module: Any
    example: dict[str, Any]


def recompute_graphs(cache: Path, model: Any, variant: Variant, weights: str, say: Callable[[str], None]) -> Whole:
    """The model as those who keep no state, or only the features of the frames, run it.

    `weights` names the model's weights in the cache.
    """
    import torch

    from clcr_export.recompute import Recompute, export_faces, export_recompute, receptive_field

    grid, context = variant.grid(), receptive_field(model)
    named = key({**asdict(variant), "weights": weights})

    def graph(name: str, export: Callable[[], Any]) -> bytes:
        path = cache / f"{name}_{variant.front_end}_{named}.onnx"
        if not path.is_file():
            say(f"exporting {name} of {variant} to {path}")
            cache.mkdir(parents=True, exist_ok=True)
            fresh = cache / f"fresh_{path.name}"
            fresh.write_bytes(export().data)
            fresh.rename(path)
        return path.read_bytes()

    module = Recompute(model, grid, context).eval()
    with torch.no_grad():
        return Whole(
            graph("recompute", lambda: export_recompute(model, grid, context)),
            graph("cached", lambda: export_recompute(model, grid, context, cached_faces=True)),
            graph("faces", lambda: export_faces(model, grid)),
            module,
            module.example(),
        )
