"""What words, a recording, readers, `top` and `view` cost the ticks of a session beside them; see --help."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bus import Readers
from bench.command import BenchError, Figures, Tool, UsageError, main, number
from bench.page import dashboard, need_websockets, opened
from bench.picture import distribution
from bench.product import Message, Product, ended, environment, read_messages, usage
from bench.statistics import measure

EXAMPLES = """  tools/bench_beside.py                              all cases, three rounds, docs/benchmarks/beside.json
  tools/bench_beside.py --cases words,record --rounds 5
  tools/bench_beside.py --cases words,readers --readers 200"""
STREAM = "bench"
SETTLE_MS = 60.0
WARM_UP_TICKS = 10
START_S = 60.0
BEGINS_S = 2.0  # before the CPU time of what is beside is counted
SPOKEN, SILENT = "test://", "test://?transcript=0"


@dataclass(frozen=True)
class Beside:
    """What goes on beside the session of a case, given its folder and endpoint; `pid` of what has a cost of its own."""

    start: Callable[[argparse.Namespace, Path, str], AbstractContextManager[int | None]]
    what: str
    against: str = "words"
    source: str = SPOKEN
    arguments: tuple[str, ...] = ()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The tool's own flags."""
    parser.add_argument("--cases", metavar="NAME,...", help=f"out of {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each case runs, in turns (default: 3)")
    parser.add_argument("--readers", type=int, default=50, metavar="N", help="processes of that case (default: 50)")


def figures(given: argparse.Namespace) -> Figures:
    """Every case in turns, so that a machine that grows slower does so for all."""
    names = given.cases.split(",") if given.cases else ["alone", "words"] if given.quick else list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise UsageError(f"--cases {unknown[0]!r} is not known; allowed are {', '.join(CASES)}")
    rounds = given.rounds if given.rounds is not None else 1 if given.quick else 3
    if not 1 <= rounds <= 100 or not 1 <= given.readers <= 500:
        raise UsageError(f"--rounds {rounds}, --readers {given.readers}: allowed are 1..100 and 1..500")
    if "view" in names:
        need_websockets()
    looks: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            looks[name].append(look(given, CASES[name]))
            tick = sorted(looks[name][-1]["tick_ms"])
            print(f"round {turn + 1}, {name}: tick p50 {tick[len(tick) // 2]:.1f} ms", file=sys.stderr)
    return {"settle_ms": SETTLE_MS, "rounds": rounds, "readers": given.readers, "cases": summed(looks)}


def look(given: argparse.Namespace, case: Beside) -> dict[str, Any]:
    """One session: its ticks, how late they were, and CPU seconds a second of it and of what ran beside it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        output = place / "out.jsonl"
        arguments = ["--input", case.source, "--pace", "real", "--bundle", str(given.bundle), "--stream", STREAM]
        arguments += ["--duration", str(given.seconds), "--settle-ms", str(SETTLE_MS), "--output", str(output)]
        product = Product(place, [*arguments, *(one.format(place=place) for one in case.arguments)])
        with case.start(given, place, product.endpoint) as pid, product:
            going = product.watch(min(BEGINS_S, given.seconds / 2))
            before = usage(pid) if pid is not None and going else None
            product.watch(given.seconds * 0.6)
            after = usage(pid) if pid is not None else None
            ended = product.wait(START_S + 4 * given.seconds)
        kept = read_messages(output, "prediction")[WARM_UP_TICKS if given.seconds > 5 else 0 :]
    if not kept:
        raise BenchError("a session published nothing; is the machine far too slow?")
    own = ended.usage[len(ended.usage) // 4 :]
    return {
        "tick_ms": [float(one["timing_ms"]["total"]) for one in kept],
        "since_due_ms": [since_due_ms(one) for one in kept],
        "cpu_s_per_s": share(own[0], own[-1]),
        "beside_cpu_s_per_s": share(before, after),
    }


def since_due_ms(prediction: Message) -> float:
    """From the moment when a tick was due, its window's end and the settle time, to publication."""
    return float(prediction["published_ns"] - prediction["window"]["end_ns"]) / 1e6 - SETTLE_MS


def share(before: Any, after: Any) -> float | None:
    """CPU seconds a second between two looks at a process."""
    if before is None or after is None or after.at_ns <= before.at_ns:
        return None
    return float((after.cpu_s - before.cpu_s) / ((after.at_ns - before.at_ns) / 1e9))


def summed(looks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """All rounds of each case, and its figures over those of the case that it is compared with."""
    cases: dict[str, Any] = {}
    for name, seen in looks.items():
        cases[name] = {
            "tick_ms": measure([value for one in seen for value in one["tick_ms"]]),
            "since_due_ms": measure([value for one in seen for value in one["since_due_ms"]]),
            "cpu_s_per_s": mean([one["cpu_s_per_s"] for one in seen]),
            "beside_cpu_s_per_s": mean([one["beside_cpu_s_per_s"] for one in seen]),
        }
    for name, found in cases.items():
        other = cases.get(CASES[name].against)
        if other is not None and other is not found:
            found["against"] = CASES[name].against
            found["tick_p99_ratio"] = round(found["tick_ms"]["p99"] / other["tick_ms"]["p99"], 3)
            found["cpu_s_per_s_more"] = difference(found["cpu_s_per_s"], other["cpu_s_per_s"])
    return cases


def mean(values: list[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def difference(value: float | None, other: float | None) -> float | None:
    """Of two that may be missing."""
    return None if value is None or other is None else round(value - other, 4)


@contextmanager
def nothing(given: argparse.Namespace, place: Path, endpoint: str) -> Iterator[int | None]:
    """Nothing beside the session."""
    yield None


@contextmanager
def readers(given: argparse.Namespace, place: Path, endpoint: str) -> Iterator[int | None]:
    """Processes that read every prediction, and one that stops."""
    with Readers(place, endpoint, STREAM, given.readers):
        yield None


@contextmanager
def top(given: argparse.Namespace, place: Path, endpoint: str) -> Iterator[int | None]:
    """`clcr-stream top` on a terminal of 40 rows that is read."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "clcr_stream", "top", endpoint]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment(), "TERM": "xterm", "LINES": "40"}
    )
    os.close(theirs)
    with ended(process), _read_away(ours):
        yield process.pid


@contextmanager
def view(given: argparse.Namespace, place: Path, endpoint: str) -> Iterator[int | None]:
    """`clcr-stream view` with one page that reads."""
    with dashboard(endpoint) as (process, url), opened(url, STREAM) as page:
        yield process.pid
    if page.updates < WARM_UP_TICKS:
        raise BenchError(f"the page of clcr-stream view got {page.updates} messages; it did not watch the session")


@contextmanager
def _read_away(descriptor: int) -> Iterator[None]:
    """Meanwhile somebody reads the terminal, or it would fill."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 65536):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(descriptor)


RECORDED = ("--record", "{place}/session.mcap", "--record-media")
CASES: dict[str, Beside] = {
    "alone": Beside(nothing, "picture and sound alone", against="alone", source=SILENT),
    "words": Beside(nothing, "words as well", against="alone"),
    "record": Beside(nothing, "words, recorded with media", arguments=RECORDED),
    "readers": Beside(readers, "words, many readers and one that stopped"),
    "top": Beside(top, "words, watched with `top`"),
    "view": Beside(view, "words, a page of `view` open"),
}


def table(found: Figures) -> list[list[str]]:
    """As text."""
    heads = ["tick p50, ms", "tick p99", "since due p99", "p99 over", "CPU s/s", "more", "beside it"]
    rows = [["a session with", *heads]]
    for name, case in found["cases"].items():
        what = CASES[name].what.replace("many", str(found["readers"]))
        tick, due = case["tick_ms"], case["since_due_ms"]
        ratio = f"{case['against']} {case['tick_p99_ratio']:.2f}" if "against" in case else "-"
        cpu = [number(case.get(key), 3) for key in ("cpu_s_per_s", "cpu_s_per_s_more", "beside_cpu_s_per_s")]
        rows.append([what, number(tick["p50"], 1), number(tick["p99"], 1), number(due["p99"], 1), ratio, *cpu])
    return rows


def draw(found: Figures, figure: Any) -> None:
    """How long ticks took, as the share of ticks that took at most so long."""
    axes = figure.subplots()
    for name, case in found["cases"].items():
        distribution(axes, case["tick_ms"]["samples"], name)
    axes.set_xlabel("tick, ms")
    axes.legend(fontsize="small")


TOOL = Tool(
    name="beside",
    description="What words, a recording with media, readers, `top` and `view` cost the ticks of a session of test://.",
    examples=EXAMPLES,
    seconds=25.0,
    quick_seconds=3.0,
    add_flags=add_flags,
    measure=figures,
    table=table,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(TOOL))
