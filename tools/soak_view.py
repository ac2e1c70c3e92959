"""`clcr-stream view` for an hour or two beside sessions that end and begin again, with pages that come and go.

    nice .venv/bin/python tools/soak.py --view 75

One page stays to the end and must be told of every prediction once `view` has found a session; another one comes for
some seconds, again and again. Ten minutes are kept, so memory is judged from the twelfth on: a line through what
follows may rise by 4 MB an hour, and descriptors and threads not at all. Exit code 1 when one of this does not hold.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.page import dashboard, need_websockets, opened
from bench.product import Product, read_messages

STREAM = "bench"  # as the endpoint of Product is called
FILLED_MIN = 12.0  # ten minutes are kept
JUDGED_MIN = 5.0  # at least so long after that
SESSION_S = (20.0, 300.0)
VISIT_S = (0.5, 20.0)
PERIOD_S = 5.0
MB_AN_HOUR = 4.0
START_S = 60.0
MISSES = 10  # predictions of each session, by the page that stays: those before `view` has found it


def visits(url: str, draw: random.Random, over: threading.Event, counted: list[int]) -> None:
    """A page that comes and goes until it is over."""
    while not over.is_set():
        with opened(url, STREAM) as page:
            over.wait(draw.uniform(*VISIT_S))
        counted.append(page.updates)


def sessions(place: Path, minutes: float, draw: random.Random) -> list[int]:
    """One session after the other on the same endpoint, for so long; how many predictions each published."""
    published: list[int] = []
    end_s = time.monotonic() + minutes * 60
    while (left_s := end_s - time.monotonic()) > 0:
        output = place / "out.jsonl"
        output.unlink(missing_ok=True)
        given = ["--input", "test://", "--pace", "real", "--stream", STREAM, "--output", str(output)]
        seconds = min(left_s + 1, draw.uniform(*SESSION_S))
        with Product(place, [*given, "--duration", f"{seconds:.1f}"]) as product:
            product.wait(START_S + 4 * seconds)
        published.append(len(read_messages(output, "prediction")))
    return published


def look(process: psutil.Process, since_s: float) -> dict[str, float]:
    """The process of `view` now."""
    return {
        "minute": round((time.monotonic() - since_s) / 60, 3),
        "rss_mb": round(process.memory_info().rss / 1e6, 3),
        "fds": process.num_fds(),
        "threads": process.num_threads(),
    }


def verdict(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What grows, from the twelfth minute on; nothing is said of a run that ended before."""
    kept = [sample for sample in samples if sample["minute"] >= FILLED_MIN]
    if not kept or kept[-1]["minute"] - kept[0]["minute"] < JUDGED_MIN:
        return {"mb_an_hour": None, "grows": []}
    minutes = np.array([sample["minute"] for sample in kept])
    slope, _ = np.polyfit(minutes - minutes[0], [sample["rss_mb"] for sample in kept], 1)
    third = len(kept) // 3  # the least of each third: pages come and go
    grows = [
        name
        for name in ("fds", "threads")
        if min(one[name] for one in kept[-third:]) > min(one[name] for one in kept[:third])
    ]
    if slope * 60 > MB_AN_HOUR:
        grows.append("rss_mb")
    return {"mb_an_hour": round(float(slope) * 60, 3), "grows": grows}


def run(minutes: float, seed: int, say: Callable[[str], object]) -> dict[str, Any]:
    """The soak's figures; `wrong` lists what did not hold."""
    need_websockets()
    samples: list[dict[str, float]] = []
    visited: list[int] = []
    over = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        endpoint = f"ipc://{name}/bench.sock"
        with dashboard(endpoint) as (process, url), opened(url, STREAM) as page:
            since_s, watched = time.monotonic(), psutil.Process(process.pid)
            visitor = threading.Thread(target=visits, args=(url, random.Random(seed), over, visited), daemon=True)
            visitor.start()

            def sample() -> None:
                while not over.wait(PERIOD_S):
                    samples.append(look(watched, since_s))
                    say(f"{samples[-1]}, {page.rows} predictions, {len(visited)} visits")

            sampler = threading.Thread(target=sample, daemon=True)
            sampler.start()
            try:
                published = sessions(Path(name), minutes, random.Random(seed + 1))
                time.sleep(1.0)  # what is on its way
            finally:
                over.set()
                visitor.join(START_S)
                sampler.join(START_S)
            cpu = watched.cpu_times()
            seconds = time.monotonic() - since_s
            samples.append(look(watched, since_s))
    judged = verdict(samples)
    wrong = [f"grows: {name}" for name in judged["grows"]]
    if not 0 <= sum(published) - page.rows <= MISSES * len(published):
        wrong.append(f"{len(published)} sessions published {sum(published)} predictions, the page got {page.rows}")
    if not visited or min(visited) == 0:
        wrong.append(f"{len(visited)} pages came and went, {visited.count(0)} of them were told nothing")
    return {
        "minutes": minutes,
        "seed": seed,
        "sessions": len(published),
        "predictions": sum(published),
        "page_predictions": page.rows,
        "visits": len(visited),
        "cpu_s_per_s": round((cpu.user + cpu.system) / seconds, 4),
        "last": samples[-1],
        **judged,
        "wrong": wrong,
        "samples": samples[:: max(1, len(samples) // 100)],
    }


def soak_view(minutes: float, seed: int, json_file: str | None) -> int:
    """Run, print the figures, write them; 1 when something did not hold."""
    result = run(minutes, seed, lambda text: print(text, file=sys.stderr))
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}))
    if json_file is not None:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["wrong"] else 0
