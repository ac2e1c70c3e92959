"""What a tick costs and how old an answer is, measured on the product from outside; see --help."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.command import BenchError, Figures, Tool, main, number
from bench.machine import ROOT
from bench.ours import Ours, Playback, open_ours
from bench.picture import distribution
from bench.power import PowerMeter
from bench.product import NS_PER_S, Ended, Message, Product, engines_ms, read_messages
from bench.statistics import measure, median, summarise

EXAMPLES = """  tools/bench_latency.py                                 one minute each way, docs/benchmarks/latency.json
  tools/bench_latency.py --input rtsp://host/stream      with your own camera
  tools/bench_latency.py --seconds 300 --json here.json --png here.png"""
LIVE = "test://"
WARM_UP_TICKS = 10
COLD_STARTS, QUICK_COLD_STARTS = 5, 1
WAKES, QUICK_WAKES = 30, 1
STEADY_TICKS, QUICK_STEADY_TICKS = 4, 2
IDLE_S = 1.2
START_S = 60.0
SETTLE_MS = 60.0
# At the pace of the machine, times are those of the recording.
ONLY_PACED = ("capture_to_publish_ms", "cpu_s_per_stream_s", "main_thread_cpu_s_per_stream_s")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The tool's own flags."""
    parser.add_argument(
        "--input", default=LIVE, metavar="FILE|URL", help="what the paced run watches (default: test://, live)"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "cache/bench", metavar="DIR", help="for the rendered clip")


def figures(given: argparse.Namespace) -> Figures:
    """All of them."""
    with PowerMeter() as meter:
        paced = product_run(given, ["--input", given.input, "--pace", "real"])
    unpaced = product_run(given, ["--input", f"{LIVE}?seconds={given.seconds:g}", "--pace", "max"])
    ours, clip = open_ours(given.bundle, given.cache)
    return {
        "hop_ms": clip.hop_ns / 1e6,
        "paced": paced,
        "as_fast_as_possible": {name: value for name, value in unpaced.items() if name not in ONLY_PACED},
        "engines": engines(ours, clip, given),
        "cold_start": cold_starts(given, QUICK_COLD_STARTS if given.quick else COLD_STARTS),
        "power_and_clocks": meter.report(),
    }


def product_run(given: argparse.Namespace, source: Sequence[str]) -> dict[str, Any]:
    """One session of --seconds: stages, capture to publish, memory, CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        output = place / "out.jsonl"
        arguments = [*source, "--bundle", given.bundle, "--output", output, "--duration", given.seconds]
        arguments += ["--settle-ms", SETTLE_MS]
        with Product(place, [str(argument) for argument in arguments]) as product:
            ended = product.wait(START_S + 4 * given.seconds)
        predictions = read_messages(output, "prediction")
    if len(predictions) <= WARM_UP_TICKS // 2:
        raise BenchError(f"only {len(predictions)} predictions in {given.seconds:g} s; give more --seconds")
    first, kept = predictions[0], predictions[min(WARM_UP_TICKS, len(predictions) // 2) :]
    recorded = Path(source[1]).is_file()  # a recording has nothing to settle
    return {
        "source": source[1],
        "stages_ms": stages(kept),
        "total_ms": measure([prediction["timing_ms"]["total"] for prediction in kept]),
        "overhead_ms": summarise([p["timing_ms"]["total"] - engines_ms(p) for p in kept]),
        "capture_to_publish_ms": {
            **summarise([prediction["latency_ms"] for prediction in kept]),
            "of_which_settle_ms": 0.0 if recorded else SETTLE_MS,
        },
        "ticks": {name: ended.summary[name] for name in ("ticks", "published", "skipped")},
        "summary": {name: ended.summary[name] for name in ("tick_ms", "overhead_ms") if name in ended.summary},
        **resources(ended, int(first["published_ns"]), given.seconds),
    }


def stages(predictions: Sequence[Message]) -> dict[str, Any]:
    """Percentiles of every stage that a prediction's timing names, in the order in which they run."""
    names = [name for name in predictions[-1]["timing_ms"] if name not in ("total", "batch")]
    return {name: summarise([p["timing_ms"][name] for p in predictions if name in p["timing_ms"]]) for name in names}


def resources(ended: Ended, first_ns: int, stream_s: float) -> dict[str, Any]:
    """Memory, and CPU seconds per second of stream: of a paced run between its first prediction and its end."""
    seen = ended.steady(first_ns) or ended.usage
    wall_s = (seen[-1].at_ns - seen[0].at_ns) / NS_PER_S
    used_s, loop_s = seen[-1].cpu_s - seen[0].cpu_s, seen[-1].main_thread_cpu_s - seen[0].main_thread_cpu_s
    return {
        "memory_mb": {
            "peak": ended.summary["peak_rss_mb"],
            "steady": median([look.rss_mb for look in ended.usage[len(ended.usage) // 2 :]], 1),
        },
        "cpu_s_per_stream_s": round(used_s / wall_s, 4) if wall_s > 0 else None,
        "main_thread_cpu_s_per_stream_s": round(loop_s / wall_s, 4) if wall_s > 0 else None,
        "cpu_s_per_stream_s_with_start": round(ended.usage[-1].cpu_s / stream_s, 4),
    }


def cold_starts(given: argparse.Namespace, times: int) -> dict[str, Any]:
    """From spawning the command to its first published prediction; files are in the page cache."""
    found, inside = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            arguments = ["--input", LIVE, "--bundle", str(given.bundle), "--duration", "0.4"]
            with Product(place, [*arguments, "--output", str(place / "out.jsonl")]) as product:
                ended = product.wait(START_S)
            predictions = read_messages(place / "out.jsonl", "prediction")
        if not predictions:
            raise BenchError("a cold start gave no prediction in 0.4 s of stream; is the machine overloaded?")
        found.append((predictions[0]["published_ns"] - ended.spawned_ns) / NS_PER_S)
        inside.append(ended.summary["first_prediction_s"])
    return {"spawn_to_first_prediction_s": summarise(found), "inside_the_process_s": summarise(inside), "starts": times}


def engines(ours: Ours, clip: Playback, given: argparse.Namespace) -> dict[str, Any]:
    """The engines alone, in this process: without a pause, one tick a hop, and woken after IDLE_S of doing nothing."""
    pause = threading.Event()
    tick = 0

    def step() -> float:
        nonlocal tick
        tick += 1
        return ours.tick(clip.hop(tick))

    for _ in range(WARM_UP_TICKS):
        step()
    back_to_back = [step() for _ in range(int(given.seconds * (5 if given.quick else 20)))]
    woken: list[float] = []
    steady: list[float] = []
    wakes, ticks = (QUICK_WAKES, QUICK_STEADY_TICKS) if given.quick else (WAKES, STEADY_TICKS)
    for _ in range(wakes):
        pause.wait(IDLE_S)
        woken.append(step())
        for _ in range(ticks):
            pause.wait(clip.hop_ns / NS_PER_S)
            steady.append(step())
    return {
        "back_to_back_ms": measure(back_to_back),
        "paced_ms": measure(steady),
        "after_idle_ms": summarise(woken),
        "idle_s": IDLE_S,
    }


def table(found: Figures) -> list[list[str]]:
    """As text."""
    heads = ("p50", "p90", "p95", "p99", "max")
    paced, unpaced, alone = found["paced"], found["as_fast_as_possible"], found["engines"]
    rows = [["ms", *heads]]
    for title, run in (("paced", paced), ("no pause", unpaced)):
        measures = {**run["stages_ms"], "total": run["total_ms"], "not engines": run["overhead_ms"]}
        rows += [[f"{title}: {name}", *(number(values[h]) for h in heads)] for name, values in measures.items()]
    more = {
        "capture -> publish": paced["capture_to_publish_ms"],
        "engines, back to back": alone["back_to_back_ms"],
        "engines, one tick a hop": alone["paced_ms"],
        f"engines, after {alone['idle_s']} s idle": alone["after_idle_ms"],
    }
    rows += [[name, *(number(values[h]) for h in heads)] for name, values in more.items()]
    cold = found["cold_start"]["spawn_to_first_prediction_s"]
    rows += [
        ["spawn -> first prediction, s", *(number(cold[h]) for h in heads)],
        [""],
        [f"memory: steady {number(paced['memory_mb']['steady'])} MB, peak {number(paced['memory_mb']['peak'])} MB"],
        [f"CPU seconds per second of stream: {number(paced['cpu_s_per_stream_s'], 3)}"],
    ]
    for name in ("rapl", "nvml", "jtop", "clocks"):
        power = found["power_and_clocks"]
        rows.append([f"{name}: {power[name] if power[name] else 'null, ' + power['reasons'][name]}"])
    return rows


def draw(found: Figures, figure: Any) -> None:
    """Stages of a tick, and how totals are distributed."""
    stages_axes, spread_axes = figure.subplots(1, 2)
    left = {"paced": 0.0, "no pause": 0.0}
    runs = {"paced": found["paced"], "no pause": found["as_fast_as_possible"]}
    for name in found["paced"]["stages_ms"]:
        widths = [runs[title]["stages_ms"].get(name, {"p50": 0})["p50"] or 0 for title in runs]
        stages_axes.barh(list(runs), widths, left=list(left.values()), label=name)
        left = {title: left[title] + width for title, width in zip(left, widths, strict=True)}
    stages_axes.set_xlabel("ms, median")
    stages_axes.set_title("stages of a tick")
    figure.legend(*stages_axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize="small")
    measures = {
        "product, paced": found["paced"]["total_ms"]["samples"],
        "product, no pause": found["as_fast_as_possible"]["total_ms"]["samples"],
        "engines, paced": found["engines"]["paced_ms"]["samples"],
        "engines, back to back": found["engines"]["back_to_back_ms"]["samples"],
    }
    for name, samples in measures.items():
        distribution(spread_axes, samples, name)
    spread_axes.set_xlabel("ms")
    spread_axes.set_ylabel("share of ticks")
    spread_axes.set_title("total of a tick")
    spread_axes.legend(fontsize="small")


TOOL = Tool(
    name="latency",
    description="Cost of a tick by stage, age of an answer, cold start, wake from idle, memory, CPU time and power.",
    examples=EXAMPLES,
    seconds=60.0,
    quick_seconds=2.0,
    add_flags=add_flags,
    measure=figures,
    table=table,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(TOOL))
