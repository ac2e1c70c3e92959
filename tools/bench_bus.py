"""From capture to the hands of a reader in another process, with 1, 10 and 50 of them; see --help."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.bus import SETTLE_MS, SLOW_MS, Readers, delivery
from bench.command import BenchError, Figures, Tool, UsageError, main, number
from bench.picture import distribution
from bench.product import NS_PER_S, Product, usage
from bench.statistics import measure, summarise

EXAMPLES = """  tools/bench_bus.py                             1, 10 and 50 readers, docs/benchmarks/bus.json
  tools/bench_bus.py --readers 1,100 --seconds 60 --json bus.json
  tools/bench_bus.py --rate-hz 1000"""
STREAM = "bench"
WARM_UP = 5  # of each reader: connections are made while these are sent
STOPPED_SHARE = 0.7  # of a case, after which the stopped reader is woken
START_S = 60.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The tool's own flags."""
    parser.add_argument("--readers", metavar="N,N", help="subscriber processes of each case (default: 1,10,50)")
    parser.add_argument("--rate-hz", type=float, default=200.0, help="of the publisher without a model (default: 200)")


def figures(given: argparse.Namespace) -> Figures:
    """Each number of readers with the product (5 Hz) and with its Publisher alone at a high rate."""
    text = given.readers or ("2" if given.quick else "1,10,50")
    counts = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if not all(0 < count <= 500 for count in counts):
        raise UsageError(f"--readers {text}: allowed are numbers of 1..500, separated by commas")
    if not 1 <= given.rate_hz <= 10000:
        raise UsageError(f"--rate-hz {given.rate_hz:g}: allowed is 1..10000")
    product, publisher = [], []
    for count in counts:
        case, line = with_product(given, count)
        product.append(case)
        publisher.append(with_publisher(given, count, line))
    return {"clcr_stream": product, "publisher": publisher, "rate_hz": given.rate_hz, "warm_up": WARM_UP}


def with_product(given: argparse.Namespace, count: int) -> tuple[dict[str, Any], bytes]:
    """The case, and one prediction as it was written: the other case sends the like of it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        output = place / "out.jsonl"
        # One second more, for the connections and the first predictions.
        arguments = ["--camera", "test://", "--mic", "test://", "--bundle", str(given.bundle), "--stream", STREAM]
        arguments += ["--duration", str(given.seconds + 1.0), "--output", str(output), "--settle-ms", str(SETTLE_MS)]
        product = Product(place, arguments)
        with Readers(place, product.endpoint, STREAM, count) as readers, product:
            readers.wait_stopped()
            product.watch(STOPPED_SHARE * given.seconds)
            woken = readers.wake()
            ended = product.wait(START_S + 4 * given.seconds)
            arrivals = readers.finish(START_S)
            slow = readers.slow_ages_ms()
        line = next(line for line in output.read_bytes().splitlines() if b'"type":"prediction"' in line)
    rss = [look.rss_mb for look in ended.usage[len(ended.usage) // 2 :]]
    memory = {"first": round(rss[0], 1), "last": round(rss[-1], 1), "peak": ended.summary["peak_rss_mb"]}
    return case_of(count, delivery(arrivals, WARM_UP), woken, slow) | {"publisher_rss_mb": memory}, line


def with_publisher(given: argparse.Namespace, count: int, line: bytes) -> dict[str, Any]:
    """A Publisher of this process that sends the prediction `line` again and again, `rate_hz` times a second."""
    from clcr_stream.wire.messages import decode

    message: Any = decode(line)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        endpoint = f"ipc://{place}/bench.sock"
        with Readers(place, endpoint, STREAM, count) as readers:
            sender = Sender(endpoint, message, given.rate_hz)
            with sender:
                sender.send_until(readers.has_stopped)
                before = usage(sender.pid)
                sender.send_for(STOPPED_SHARE * given.seconds)
                woken = sender.send_while(readers.wake)
                sender.send_for((1 - STOPPED_SHARE) * given.seconds)
                after = usage(sender.pid)
            arrivals = readers.finish(START_S)
            slow = readers.slow_ages_ms()
    assert before is not None and after is not None
    memory = {"first": round(before.rss_mb, 1), "last": round(after.rss_mb, 1), "peak": round(after.peak_rss_mb, 1)}
    case = case_of(count, delivery(arrivals, WARM_UP), woken, slow)
    del case["capture_to_receive_ms"], case["own_ms"]  # nothing was captured
    return case | {"sent": sender.sent, "dropped_before_the_socket": sender.dropped, "publisher_rss_mb": memory}


class Sender:
    """A Publisher and the pace at which it is fed."""

    def __init__(self, endpoint: str, message: Any, rate_hz: float) -> None:
        self.pid = os.getpid()
        self.sent = 0
        self.dropped = 0
        self._endpoint, self._message = endpoint, message
        self._period_ns = int(NS_PER_S / rate_hz)
        self._pause = threading.Event()

    def __enter__(self) -> Sender:
        from clcr_stream.wire.publisher import Publisher, PublishOptions

        self._next_ns = time.monotonic_ns()
        self._publisher = Publisher(PublishOptions(stream=STREAM, endpoint=self._endpoint), self._status)
        return self

    def __exit__(self, *_: object) -> None:
        self.dropped = self._publisher.dropped
        self._publisher.close()

    def send_for(self, seconds: float) -> None:
        """Send at the pace for so long."""
        end_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        self.send_until(lambda: time.monotonic_ns() >= end_ns)

    def send_until(self, holds: Callable[[], bool]) -> None:
        """Send at the pace until something holds."""
        while not holds():
            self._send()

    def send_while(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Send at the pace while `work` runs on another thread; its result."""
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(work()), name="bench-work", daemon=True)
        thread.start()
        self.send_until(lambda: not thread.is_alive())
        if not found:
            raise BenchError("the reader that was stopped did not come back; see the traceback above")
        return found[0]

    def _send(self) -> None:
        import msgspec

        self._pause.wait(max(0, self._next_ns - time.monotonic_ns()) / NS_PER_S)
        self._next_ns = max(self._next_ns + self._period_ns, time.monotonic_ns() - NS_PER_S)
        self.sent += 1
        now_ns = time.monotonic_ns()
        changes = {"stream": STREAM, "seq": self.sent, "published_ns": now_ns, "captured_ns": now_ns}
        self._publisher.publish(msgspec.structs.replace(self._message, **changes))

    def _status(self) -> Any:
        from clcr_stream.wire import messages

        return messages.Status(
            stream=STREAM,
            session=self._message.session,
            seq=0,
            boot_id="",
            published_ns=time.monotonic_ns(),
            state="running",
            uptime_s=0.0,
            sources=(),
            ticks=messages.Ticks(due=self.sent, published=self.sent, skipped={}),
            latency_ms=messages.Latency(),
        )


def case_of(count: int, found: dict[str, Any], woken: dict[str, Any], slow: list[float]) -> dict[str, Any]:
    """One number of readers, as it is written; `slow` are the ages that the slow reader was given."""
    return {
        "readers": count,
        "stopped_readers": 1,
        "publish_to_receive_ms": measure(found["publish_to_receive_ms"]),
        "capture_to_receive_ms": summarise(found["capture_to_receive_ms"]),
        "own_ms": summarise(found["own_ms"]),
        "received": found["received"],
        "lost": found["lost"],
        "repeated": found["repeated"],
        "woken_reader": woken,
        "slow_reader_age_ms": summarise(slow),
    }


def table(found: Figures) -> list[list[str]]:
    """As text."""
    heads = ("p50", "p90", "p95", "p99", "max")
    rows = [["publish -> receive, ms", *heads, "lost", "of", "RSS, MB", "woken: first read is old", "and fresh after"]]
    titles = (("clcr-stream", "clcr_stream"), (f"{found['rate_hz']:g} Hz", "publisher"))
    for title, key in titles:
        for case in found[key]:
            delay = case["publish_to_receive_ms"]
            rows.append(
                [
                    f"{title}, {case['readers']} readers + 1 stopped",
                    *(number(delay[head]) for head in heads),
                    str(case["lost"]),
                    str(case["received"] + case["lost"]),
                    number(case["publisher_rss_mb"]["last"], 1),
                    number(case["woken_reader"]["first_age_ms"], 0),
                    number(case["woken_reader"]["fresh_after_ms"], 0),
                ]
            )
    for title, key in (
        ("capture -> receive, ms", "capture_to_receive_ms"),
        ("window's end -> receive, without settling and engines, ms", "own_ms"),
    ):
        rows += [[""], [title, *heads]]
        for case in found["clcr_stream"]:
            ages = [number(case[key][head]) for head in heads]
            rows.append([f"clcr-stream, {case['readers']} readers + 1 stopped", *ages])
    cases = [(title, case) for title, key in titles for case in found[key] if "slow_reader_age_ms" in case]
    if cases:
        rows += [[""], [f"age at a reader with the client that needs {SLOW_MS} ms a message, ms", *heads]]
    for title, case in cases:
        ages = [number(case["slow_reader_age_ms"][head]) for head in heads]
        rows.append([f"{title}, beside {case['readers']} readers", *ages])
    return rows


def draw(found: Figures, figure: Any) -> None:
    """How long a message travels, as the share of messages that have arrived."""
    for axes, (title, key) in zip(
        figure.subplots(1, 2, sharey=True),
        (("clcr-stream, 5 Hz", "clcr_stream"), (f"publisher, {found['rate_hz']:g} Hz", "publisher")),
        strict=True,
    ):
        for case in found[key]:
            label = f"{case['readers']} readers + 1 stopped"
            distribution(axes, case["publish_to_receive_ms"]["samples"], label)
        axes.set_title(title)
        axes.set_xlabel("publish -> receive, ms")
        axes.legend(fontsize="small")


TOOL = Tool(
    name="bus",
    description="Capture -> publish -> receive in another process, with many readers of which one is stopped.",
    examples=EXAMPLES,
    seconds=30.0,
    quick_seconds=3.0,
    add_flags=add_flags,
    measure=figures,
    table=table,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(TOOL))
