"""How the cost of a tick grows with window, hop and frame rate: ours and ONNX Runtime recomputing, point by point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.attention import KINDS, Lengths, counted, profiled
from bench.clip import random_clip
from bench.models import Variant, exported, random_model, recompute_graphs
from bench.ours import Ours, Playback, playback, spoken
from bench.peers import History, OnnxRecompute, Peer, Stage, Streaming
from bench.statistics import measure
from clcr_stream.bundle.loader import Bundle, load_bundle

SERIES: dict[str, tuple[Variant, ...]] = {
    "window_s": tuple(Variant(window_ms=ms) for ms in (2000, 6000, 15000, 30000)),
    # 10 and 20 steps a second, so that a hop of 100 ms holds whole ones.
    "hop_s": tuple(Variant(hop_ms=ms, video_hz=10, sound_hz=20) for ms in (100, 200, 500, 1000)),
    "video_hz": tuple(Variant(video_hz=hz) for hz in (5, 15, 30)),
}
QUICK_SERIES: dict[str, tuple[Variant, ...]] = {"window_s": SERIES["window_s"][:2]}
PROFILE_RUNS, QUICK_PROFILE_RUNS = 200, 5
CLIP_HOPS = 8
TIMES = ("ours, ms", "attention, ms", "projection, ms", "linear, ms", "the rest, ms", "recompute, ms")
COLUMNS = (*TIMES, "ratio", "theoretical", "Mmac increment", "of it attention", "Mmac recompute")
LEVELS = ("level1", "level2", "level3")

Say = Callable[[str], None]


def value_of(series: str, variant: Variant) -> float:
    """What changes along a series."""
    return {"window_s": variant.window_ms / 1000, "hop_s": variant.hop_ms / 1000, "video_hz": variant.video_hz}[series]


def sweep(cache: Path, tokenizer: Path, seconds: float, quick: bool, say: Say) -> dict[str, Any]:
    """All series; `seconds` per point."""
    runs = QUICK_PROFILE_RUNS if quick else PROFILE_RUNS
    found: dict[str, Any] = {}
    for series, variants in (QUICK_SERIES if quick else SERIES).items():
        found[series] = []
        for variant in variants:
            say(f"{series} {value_of(series, variant):g}")
            measured = point(cache, tokenizer, variant, seconds, runs, say)
            found[series].append({series: value_of(series, variant), **measured})
    return found


def point(
    cache: Path, tokenizer: Path, variant: Variant, seconds: float, profile_runs: int, say: Say
) -> dict[str, Any]:
    """One variant: both peers interleaved without a pause, and what grows with the window apart."""
    from clcr_export.macs import multiply_adds

    bundle = load_bundle(exported(cache, variant, tokenizer, say))
    model = random_model(variant.front_end, tokenizer)
    whole = recompute_graphs(cache, model, variant, "random", say)
    words = spoken(bundle)
    vision, acoustic = bundle.manifest.vision, bundle.manifest.acoustic
    noise = random_clip(CLIP_HOPS, vision.slots_per_hop, acoustic.tokens_per_hop, vision.size_px, acoustic.mel_bands)
    clip = playback(noise, bundle.manifest)
    ours = Ours(bundle, words)
    peers: dict[str, Peer] = {"onnxruntime_recompute": OnnxRecompute(whole.onnx), "ours": Streaming(ours)}
    stage = Stage(clip, History(whole.example, words, whole.module.state_names), peers)
    stage.warm_up()
    run = stage.run(seconds, paced=False)
    stage.check()
    window = Lengths(vision.tokens, acoustic.tokens, bundle.manifest.language.tokens)
    increment = sum(sum(multiply_adds(bundle.engine_bytes(name)).values()) for name in (*LEVELS, "intercad"))
    times: dict[str, Any] = {name: measure(run[name]) for name in peers}
    return {
        "variant": asdict(variant),
        "ours_ms": times["ours"],
        "onnxruntime_recompute_ms": times["onnxruntime_recompute"],
        "exact": stage.differences["ours"],
        "macs_increment": increment,
        "macs_recompute": sum(multiply_adds(whole.onnx).values()),
        **growing(bundle, clip, words, window, profile_runs, times["ours"]["p50"]),
    }


def growing(
    bundle: Bundle, clip: Playback, words: dict[str, Any], window: Lengths, runs: int, ours_ms: float
) -> dict[str, Any]:
    """The increment's multiply-adds and milliseconds of what grows with the window, and what is left without it."""
    macs, spent_ms = dict.fromkeys(KINDS, 0), dict.fromkeys((*KINDS, "all"), 0.0)
    for name in LEVELS:
        onnx = bundle.engine_bytes(name)
        for kind, number in counted(onnx, window).items():
            macs[kind] += number
        for kind, took_ms in profiled(onnx, level_inputs(bundle, name, clip, words), window, runs).items():
            spent_ms[kind] += took_ms
    apart_ms = {kind: round(spent_ms[kind], 4) for kind in KINDS}
    return {
        **{f"macs_{kind}": macs[kind] for kind in KINDS},
        **{f"{kind}_ms": apart_ms[kind] for kind in KINDS},
        "profile_all_ms": round(spent_ms["all"], 4),
        "rest_ms": round(ours_ms - sum(apart_ms.values()), 4),
    }


def level_inputs(bundle: Bundle, name: str, clip: Playback, words: dict[str, Any]) -> dict[str, Any]:
    """Inputs of one level for a profile: a hop, the words, and a window full of seeded noise."""
    rng = np.random.default_rng(0)
    hop = {key[:-2]: value for key, value in words.items() if key.endswith(name[-1])}
    if name == "level1":
        hop |= clip.hop(1)
    inputs = {}
    for tensor in bundle.manifest.engines[name].inputs:
        shape = [1, *(int(size) for size in tensor.shape[1:])]
        given = hop.get(tensor.name)
        inputs[tensor.name] = rng.random(shape, np.float32) if given is None else given.reshape(shape)
    return inputs


def table(series: dict[str, list[dict[str, Any]]], text: Callable[..., str]) -> list[list[str]]:
    """One block per series; `text` writes a number with so many digits."""
    titles = {"window_s": "window, s", "hop_s": "hop, s", "video_hz": "pictures per second"}
    rows: list[list[str]] = []
    for name, points in series.items():
        rows += [[""]] if rows else []
        rows.append([titles[name], *COLUMNS])
        for found in points:
            ours, whole = found["ours_ms"]["p50"], found["onnxruntime_recompute_ms"]["p50"]
            times = (ours, found["attention_ms"], found["projection_ms"], found["linear_ms"], found["rest_ms"], whole)
            macs = [found[key] / 1e6 for key in ("macs_increment", "macs_attention", "macs_recompute")]
            ratios = (whole / ours, found["macs_recompute"] / found["macs_increment"])
            rows.append(
                [f"{found[name]:g}", *(text(ms) for ms in times), *(text(r, 1) for r in ratios)]
                + [text(mac, 1) for mac in macs]
            )
    return rows


def draw(series: dict[str, list[dict[str, Any]]], figure: Any) -> None:
    """Milliseconds over what changes, one panel per series."""
    panels = figure.subplots(1, len(series), squeeze=False, sharey=True)[0]
    for axes, (name, points) in zip(panels, series.items(), strict=True):
        at = [found[name] for found in points]
        axes.plot(at, [found["onnxruntime_recompute_ms"]["p50"] for found in points], "o-", label="recompute")
        axes.plot(at, [found["ours_ms"]["p50"] for found in points], "o-", label="ours")
        axes.plot(at, [found["rest_ms"] for found in points], "o--", label="ours without what grows with the window")
        axes.set_xlabel({"window_s": "window, s", "hop_s": "hop, s", "video_hz": "pictures per second"}[name])
        axes.set_yscale("log")
    panels[0].set_ylabel("ms per tick, median")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize="small")
