"""A tick against recomputing its window, on the same clip with the same weights; see --help."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import sweep
from bench.clip import Clip
from bench.command import Figures, Tool, UsageError, main, number
from bench.machine import ROOT
from bench.models import CHECKPOINT, FRONT_ENDS, Variant, Whole, exported, random_model, recompute_graphs, trained_model
from bench.ours import Ours, clip_for, playback, spoken
from bench.peers import History, OnnxCachedFaces, OnnxRecompute, Peer, Stage, Streaming, TorchRecompute, compiled
from bench.picture import distribution
from bench.statistics import measure, summarise
from clcr_stream.bundle.loader import Bundle, load_bundle

EXAMPLES = """  tools/bench_peers.py                              the shipped bundle, docs/benchmarks/peers.json
  tools/bench_peers.py --front-end resnet18         the paper's front-end, random weights
  tools/bench_peers.py --front-end whisper          the pretrained speech encoder, random weights
  tools/bench_peers.py --front-end person           grid faces, that speech encoder and baselines, random weights
  tools/bench_peers.py --sweep --seconds 10         growth with window, hop and frame rate, 10 s a point
  tools/bench_peers.py --no-compile --seconds 30 --json fast.json"""
PEERS = ("ours", "onnxruntime_cached_faces", "onnxruntime_recompute", "torch_eager", "torch_compile")
SWEEP_SECONDS = 15.0
UNPACED_SHARE = 0.25  # of --seconds, after the paced run, without waiting between calls
MAC_ENGINES = ("level1", "level2", "level3", "intercad")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The tool's own flags."""
    parser.add_argument(
        "--front-end", choices=tuple(FRONT_ENDS), default="default", help="what looks at a face, or hears: whisper"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=CHECKPOINT,
        metavar="DIR",
        help="that the bundle comes from (checkpoints/default)",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="instead: growth with window, hop and frame rate (--seconds a point, default 15)",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (--quick does)")
    parser.add_argument("--cache", type=Path, default=ROOT / "cache/bench", metavar="DIR", help="for what is exported")


def result_name(given: argparse.Namespace) -> str:
    """Which of the committed files this run writes."""
    return "sweep" if given.sweep else "peers" if given.front_end == "default" else f"peers_{given.front_end}"


def figures(given: argparse.Namespace) -> Figures:
    """The comparison, or the sweep."""
    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        raise UsageError(f"{missing[0]} is not installed; run `pip install 'clcr-stream[export,bench]'`")
    tokenizer = given.bundle / "tokenizer.json"
    if given.sweep:
        if given.front_end != "default":
            raise UsageError("--sweep is made with the default front-end; leave --front-end out")
        # The default is that of the comparison; each point of the sweep takes less.
        seconds = SWEEP_SECONDS if given.seconds == TOOL.seconds else given.seconds
        return {"seconds_per_point": seconds, "series": sweep.sweep(given.cache, tokenizer, seconds, given.quick, say)}
    from clcr_export.recompute import receptive_field

    model, folder, origin = model_and_bundle(given, tokenizer)
    bundle = load_bundle(folder)
    whole = recompute_graphs(given.cache, model, Variant(given.front_end), origin, say)
    clip = clip_for(bundle.manifest, given.cache)
    words = spoken(bundle)
    peers: dict[str, Peer] = {
        "onnxruntime_recompute": OnnxRecompute(whole.onnx),
        "ours": Streaming(Ours(bundle, words)),
        "onnxruntime_cached_faces": OnnxCachedFaces(whole.faces_onnx, whole.cached_onnx),
        "torch_eager": TorchRecompute(whole.module, compile_it=False),
    }
    history = History(whole.example, words, whole.module.state_names)
    reason: str | None = "left out by --no-compile or --quick"
    if not (given.no_compile or given.quick):
        say("compiling")
        with_compile, reason = compiled(whole.module, playback(clip, bundle.manifest), history)
        peers |= {} if with_compile is None else {"torch_compile": with_compile}
    stage = Stage(playback(clip, bundle.manifest), history, peers)
    stage.warm_up()
    paced = stage.run(given.seconds, paced=True)
    unpaced = stage.run(UNPACED_SHARE * given.seconds, paced=False)
    stage.check()
    return compared(stage, paced, bundle, whole) | {
        "torch_compile_reason": reason,
        "ticks": stage.ticks,
        "back_to_back_ms": {name: summarise(times) for name, times in unpaced.items()},
        "front_end": front_end(given.front_end, bundle),
        "left_context": receptive_field(model),
        "weights": origin,
        "clip": about_clip(clip),
    }


def model_and_bundle(given: argparse.Namespace, tokenizer: Path) -> tuple[Any, Path, str]:
    """The model in PyTorch, the bundle of the same weights, and where the weights come from."""
    if given.front_end == "default":
        trained = trained_model(given.bundle, given.checkpoint)
        if trained is not None:
            return trained[0], given.bundle, trained[1]
        say(f"{given.checkpoint} is not what the bundle was exported from: taking seeded random weights")
    variant = Variant(given.front_end)
    folder = exported(given.cache, variant, tokenizer, say)
    return random_model(given.front_end, tokenizer), folder, "random, seed 0"


def compared(stage: Stage, paced: dict[str, list[float]], bundle: Bundle, whole: Whole) -> Figures:
    """What issue and README quote: medians at the tick's pace, multiply-adds, and their ratios."""
    from clcr_export.macs import multiply_adds

    macs = {name: multiply_adds(bundle.engine_bytes(name)) for name in MAC_ENGINES}
    increment = sum(sum(found.values()) for found in macs.values())
    recompute, cached = multiply_adds(whole.onnx), [multiply_adds(whole.faces_onnx), multiply_adds(whole.cached_onnx)]
    times = {name: measure(paced[name]) if name in paced else None for name in PEERS}
    medians: dict[str, Any] = {
        f"{name}_ms_p50": None if found is None else found["p50"] for name, found in times.items()
    }
    ours, recomputed = medians["ours_ms_p50"], medians["onnxruntime_recompute_ms_p50"]
    theoretical, ratio = sum(recompute.values()) / increment, recomputed / ours
    return {
        **medians,
        "macs_increment": increment,
        "macs_recompute": sum(recompute.values()),
        "macs_cached_faces": sum(summed(cached).values()),
        "theoretical_ratio": round(theoretical, 3),
        "measured_ratio": round(ratio, 3),
        "share_of_theoretical": round(ratio / theoretical, 4),
        "exact": stage.differences["ours"],
        "probs_moved": stage.moved,
        "differences_from_onnxruntime_recompute": stage.differences,
        "threads": 1,
        "macs_by_engine": {name: sum(found.values()) for name, found in macs.items()},
        "macs_by_operator": {"increment": summed(list(macs.values())), "recompute": recompute},
        "peers_ms": {name: found for name, found in times.items() if found is not None},
    }


def summed(counts: list[dict[str, int]]) -> dict[str, int]:
    """Multiply-adds by operator over several graphs."""
    return {op: sum(found.get(op, 0) for found in counts) for op in sorted({op for found in counts for op in found})}


def front_end(name: str, bundle: Bundle) -> dict[str, Any]:
    """Which front-end, and its size: the multiply-adds of its convolutions for one picture."""
    import onnx

    from clcr_export.macs import multiply_adds

    manifest = bundle.manifest
    data = bundle.engine_bytes("level1")
    parameters = sum(
        int(weight.dims[0]) * int(weight.dims[1]) * int(weight.dims[2]) * int(weight.dims[3])
        for weight in onnx.load_from_string(data).graph.initializer
        if len(weight.dims) == 4
    )
    return {
        "name": name,
        "picture_px": manifest.vision.size_px,
        "pictures_per_hop": manifest.vision.slots_per_hop,
        "convolution_macs_per_hop": multiply_adds(data)["Conv"],
        "convolution_parameters": parameters,
    }


def about_clip(clip: Clip) -> dict[str, Any]:
    """What everybody saw and heard."""
    return {"name": clip.name, "hops": clip.hops, "vision_valid": round(float(clip.vision_valid.mean()), 4)}


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr)


def table(found: Figures) -> list[list[str]]:
    """As text."""
    if "series" in found:
        return sweep.table(found["series"], number)
    heads = ("p50", "p90", "p95", "p99", "max")
    rows = [["ms per tick", *heads, "times ours"]]
    for name in PEERS:
        times = found["peers_ms"].get(name)
        if times is None and name != "torch_compile":
            continue  # a run of before there was this peer
        if times is None:
            rows.append([name, *("-" for _ in heads), "-"])
            continue
        rows.append([name, *(number(times[h]) for h in heads), number(times["p50"] / found["ours_ms_p50"], 1)])
    for name, times in found["back_to_back_ms"].items():
        ratio = number(times["p50"] / found["back_to_back_ms"]["ours"]["p50"], 1)
        rows.append([f"{name}, back to back", *(number(times[h]) for h in heads), ratio])
    size = found["front_end"]
    rows += [
        [""],
        ["multiply-adds per tick", "increment", "recompute", "ratio", "measured ratio", "share of theoretical"],
        [
            "millions",
            number(found["macs_increment"] / 1e6, 1),
            number(found["macs_recompute"] / 1e6, 1),
            number(found["theoretical_ratio"], 1),
            number(found["measured_ratio"], 1),
            f"{100 * found['share_of_theoretical']:.0f} %",
        ],
        [""],
        [
            f"front-end {size['name']}: {size['convolution_macs_per_hop'] / 1e6:.1f} million multiply-adds in the "
            f"convolutions of a hop of {size['pictures_per_hop']} pictures of {size['picture_px']} px; "
            f"weights: {found['weights']}; left context {found['left_context']} steps; {found['threads']} thread each"
        ],
        [
            f"clip {found['clip']['name']}; largest difference of a probability between ours and the ONNX recompute "
            f"{found['exact']:.1e}, which moved by up to {found['probs_moved']:.1e} over {found['ticks']} ticks"
        ],
    ]
    if found["torch_compile_ms_p50"] is None:
        rows.append([f"torch.compile: null, {found['torch_compile_reason']}"])
    return rows


def draw(found: Figures, figure: Any) -> None:
    """How the times are distributed, or the sweep."""
    if "series" in found:
        sweep.draw(found["series"], figure)
        return
    axes = figure.subplots()
    for name, times in found["peers_ms"].items():
        distribution(axes, times["samples"], f"{name}, median {times['p50']:.1f} ms")
    axes.set_xlabel("ms per tick")
    axes.set_ylabel("share of ticks")
    axes.set_title(f"front-end {found['front_end']['name']}, one thread each")
    axes.legend(fontsize="small")


TOOL = Tool(
    name="peers",
    description="Our tick against recomputing its window in PyTorch, torch.compile and ONNX Runtime (also with the "
    "features of each face kept), interleaved.",
    examples=EXAMPLES,
    seconds=240.0,
    quick_seconds=2.0,
    add_flags=add_flags,
    measure=figures,
    table=table,
    draw=draw,
    result=result_name,
)

if __name__ == "__main__":
    sys.exit(main(TOOL))
