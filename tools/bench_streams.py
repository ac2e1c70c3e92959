"""How many real-time streams one process carries; see --help."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.command import Figures, Tool, UsageError, main, number
from bench.product import Message, Overdue, Product, read_messages
from bench.statistics import measure, summarise

EXAMPLES = """  tools/bench_streams.py                               both sources, batched and not, streams.json
  tools/bench_streams.py --source sound --max-streams 32
  tools/bench_streams.py --mode batched --seconds 60"""
SOURCES = {
    "test": {"input": "test://"},  # the whole product: a picture drawn, its face searched, sound, words
    "sound": {"camera": "none", "mic": "test://"},  # no picture to draw or search; the engines do all their work
}
MODES = ("batched", "unbatched")
SETTLE_MS = 60.0
WARM_UP_TICKS = 10
START_S = 60.0
DRAWN_PICTURES = 30
DEFAULT_SEATS = 32  # of the product; more only where a probe needs them


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The tool's own flags."""
    parser.add_argument("--source", choices=(*SOURCES, "both"), default="both", help="what each stream watches")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both", help="one engine call for all, or one each")
    parser.add_argument("--max-streams", type=int, metavar="N", help="stop searching there (default: 128)")


def figures(given: argparse.Namespace) -> Figures:
    """The largest passing number of streams per source and mode, and every probe that led there."""
    most = given.max_streams if given.max_streams is not None else 2 if given.quick else 128
    if not 1 <= most <= 4096:
        raise UsageError(f"--max-streams {most}: allowed is 1..4096")
    sources = list(SOURCES) if given.source == "both" and not given.quick else [given.source]
    modes = list(MODES) if given.mode == "both" and not given.quick else [given.mode]
    if given.quick:
        sources, modes = [s.replace("both", "sound") for s in sources], [m.replace("both", "batched") for m in modes]
    hop_ms = json.loads((given.bundle / "manifest.json").read_text(encoding="utf-8"))["hop_ns"] / 1e6
    found: dict[str, Any] = {}
    for source in sources:
        found[source] = {mode: searched(given, source, mode, most) for mode in modes}
    return {
        "hop_ms": hop_ms,
        "settle_ms": SETTLE_MS,
        "warm_up_ticks": WARM_UP_TICKS,
        "drawing_cpu_ms_per_picture": drawing_ms(),
        "sources": found,
    }


def drawing_ms() -> float:
    """CPU time that test:// takes to draw a picture, which a camera's stream would not have."""
    from clcr_stream.sources.synthetic.person import Person, PersonOptions

    person = Person(PersonOptions(), 16_000)
    person.picture(0.0)
    start_ns = time.process_time_ns()
    for index in range(DRAWN_PICTURES):
        person.picture(index / 15)
    return round((time.process_time_ns() - start_ns) / 1e6 / DRAWN_PICTURES, 3)


def searched(given: argparse.Namespace, source: str, mode: str, most: int) -> dict[str, Any]:
    """One source and mode."""
    probes: list[dict[str, Any]] = []

    def passes(streams: int) -> bool:
        probes.append(probe(given, source, mode, streams))
        print(f"{source}, {mode}: {streams} streams: {probes[-1]['verdict']}", file=sys.stderr)
        return bool(probes[-1]["passed"])

    largest = largest_passing(passes, most)
    best = next((p for p in reversed(probes) if p["streams"] == largest), None)
    since_due = None if best is None else measure(best["since_due"])
    for one in probes:
        del one["since_due"]
    return {
        "streams": largest,
        "at_the_search_s_end": largest == most,
        "since_due_ms": since_due,
        "memory_per_added_stream_mb": slope([(p["streams"], p["rss_mb"]) for p in probes if p["rss_mb"] is not None]),
        "probes": probes,
    }


def largest_passing(passes: Callable[[int], bool], most: int) -> int:
    """The largest number in 1..most for which `passes` holds, taken to be monotone; 0 when 1 fails.

    Doubles until one fails, then bisects; asks for each number once.
    """
    good, tried = 0, 1
    while passes(tried):
        good = tried
        if good == most:
            return good
        tried = min(2 * tried, most)
    bad = tried
    while bad - good > 1:
        middle = (good + bad) // 2
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good


def probe(given: argparse.Namespace, source: str, mode: str, streams: int) -> dict[str, Any]:
    """Run `streams` streams in one process for --seconds and judge them."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        outputs = [place / f"s{index}.jsonl" for index in range(streams)]
        config = place / "streams.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(configuration(given, source, mode, outputs)), encoding="utf-8")
        with Product(place, ["--config", str(config)]) as product:
            try:
                ended = product.wait(START_S + 4 * given.seconds)
            except Overdue as error:
                return {"streams": streams, "passed": False, "verdict": str(error), "since_due": [], "rss_mb": None}
        predictions = [read_messages(output, "prediction") for output in outputs]
    hop_ms = json.loads((given.bundle / "manifest.json").read_text(encoding="utf-8"))["hop_ns"] / 1e6
    judged = judge(predictions, int(given.seconds * 1000 / hop_ms), hop_ms)
    steady = [look.rss_mb for look in ended.usage[len(ended.usage) // 2 :]]
    busy = ended.usage[-1].cpu_s - ended.usage[len(ended.usage) // 2].cpu_s
    wall_s = (ended.usage[-1].at_ns - ended.usage[len(ended.usage) // 2].at_ns) / 1e9
    return {
        "streams": streams,
        **judged,
        "rss_mb": round(float(np.median(steady)), 1),
        "cpu_s_per_stream_s": round(busy / wall_s / streams, 4) if wall_s > 0 else None,
    }


def configuration(given: argparse.Namespace, source: str, mode: str, outputs: list[Path]) -> dict[str, Any]:
    """The configuration of a probe."""
    seats = max(DEFAULT_SEATS, len(outputs))
    run: dict[str, Any] = {"duration_s": given.seconds, "settle_ms": SETTLE_MS, "max_streams": seats}
    # Batched is the product's own default.
    run |= {"max_batch": 1} if mode == "unbatched" else {}
    return {
        "model": {"bundle": str(given.bundle.resolve())},
        "run": run,
        "streams": [
            {
                "name": output.stem,
                "sources": SOURCES[source],
                "output": str(output),
                "bind": f"ipc://{output.with_suffix('.sock')}",
            }
            for output in outputs
        ],
    }


def judge(predictions: list[list[Message]], due: int, hop_ms: float) -> dict[str, Any]:
    """Passed when every stream published every tick that was due and the p99 since due is at most a hop.

    A tick is due when its window has ended and settled. The first WARM_UP_TICKS, during which sources open, are left
    out of both.
    """
    wanted = set(range(WARM_UP_TICKS + 1, due + 1)) if due > 2 * WARM_UP_TICKS else set(range(due // 2 + 1, due + 1))
    missed, late = 0, []
    for stream in predictions:
        kept = [prediction for prediction in stream if prediction["seq"] in wanted]
        missed += len(wanted) - len(kept)
        late += [(p["published_ns"], (p["published_ns"] - p["window"]["end_ns"]) / 1e6 - SETTLE_MS) for p in kept]
    since_due = [value for _, value in sorted(late)]
    found = summarise(since_due)
    p99 = found["p99"]
    passed = not missed and p99 is not None and p99 <= hop_ms
    return {
        "passed": passed,
        "verdict": f"{'passed' if passed else 'failed'}: p99 {number(p99, 1)} ms since due, {missed} ticks missed",
        "missed": missed,
        "due": len(wanted) * len(predictions),
        "since_due_ms": found,
        "since_due": since_due,
        "batch": batch_sizes(predictions),
    }


def batch_sizes(predictions: list[list[Message]]) -> dict[str, float | int | None]:
    """How many streams shared an engine call, over all ticks."""
    return summarise([p["timing_ms"]["batch"] for stream in predictions for p in stream if "batch" in p["timing_ms"]])


def slope(points: list[tuple[int, float]]) -> float | None:
    """Least-squares MB per stream; None with fewer than two different numbers of streams."""
    if len({streams for streams, _ in points}) < 2:
        return None
    streams, memory = np.array(points, np.float64).T
    centred = streams - streams.mean()
    return round(float(centred @ (memory - memory.mean()) / (centred @ centred)), 2)


def table(found: Figures) -> list[list[str]]:
    """As text."""
    rows = [["source, mode", "streams", "p50 since due", "p99 since due", "MB per stream"]]
    for source, modes in found["sources"].items():
        for mode, result in modes.items():
            late = result["since_due_ms"] or {"p50": None, "p99": None}
            more = "+" if result["at_the_search_s_end"] else ""
            cells = [f"{result['streams']}{more}", number(late["p50"], 1), number(late["p99"], 1)]
            rows.append([f"{source}, {mode}", *cells, number(result["memory_per_added_stream_mb"])])
    drawing = number(found["drawing_cpu_ms_per_picture"])
    return [*rows, [f"of each picture of test://, {drawing} ms of CPU are the drawing, which a camera would not need"]]


def draw(found: Figures, figure: Any) -> None:
    """p99 since due and memory over the number of streams."""
    late_axes, memory_axes = figure.subplots(1, 2)
    for source, modes in found["sources"].items():
        for mode, result in modes.items():
            probes = sorted((p for p in result["probes"] if p["rss_mb"] is not None), key=lambda p: p["streams"])
            streams = [p["streams"] for p in probes]
            late_axes.plot(streams, [p["since_due_ms"]["p99"] for p in probes], "o-", label=f"{source}, {mode}")
            memory_axes.plot(streams, [p["rss_mb"] for p in probes], "o-", label=f"{source}, {mode}")
    late_axes.axhline(found["hop_ms"], color="black", linewidth=1, linestyle="--", label="hop")
    late_axes.set_yscale("log")
    late_axes.set_ylabel("p99 since due, ms")
    memory_axes.set_ylabel("resident memory, MB")
    for axes in (late_axes, memory_axes):
        axes.set_xlabel("streams")
        axes.legend(fontsize="small")


TOOL = Tool(
    name="streams",
    description="The largest number of real-time streams of one process: every tick published, p99 within a hop.",
    examples=EXAMPLES,
    seconds=15.0,
    quick_seconds=3.0,
    add_flags=add_flags,
    measure=figures,
    table=table,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(TOOL))
