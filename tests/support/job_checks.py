"""What the wire of a watched session must hold, checked on what a reader got; each check returns its figures."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import NDArray

from job_process import NS_PER_S, ROOT, Message, Received

HOP_S = 0.2
KINDS = ("session", "prediction", "transcript", "status")
# What differs between two runs over one file: who published, when, and how long it took.
CLOCK_FIELDS = ("session", "published_ns", "latency_ms", "timing_ms")
# Times of capture: the same once counted from the session's origin.
ORIGIN_FIELDS = ("captured_ns", "window.start_ns", "window.end_ns")
Figures = dict[str, Any]


def validate(received: Iterable[Received]) -> Figures:
    """Every message against the schema of its kind; its topic names the same kind."""
    validators = {}
    for kind in KINDS:
        schema = json.loads((ROOT / f"docs/schema/{kind}.schema.json").read_text())
        validators[kind] = jsonschema.Draft202012Validator(schema)
    counts = dict.fromkeys(KINDS, 0)
    for got in received:
        kind = got.message["type"]
        assert got.topic.endswith(f"/{kind}"), got
        validators[kind].validate(got.message)
        counts[kind] += 1
    return {"messages": counts}


def check_order(received: Sequence[Received]) -> Figures:
    """One session message, all else of its session; each second a status; the goodbye last and its account true.

    A reader that joins a session that runs may see a prediction first: its subscription holds as soon as libzmq has it,
    and what is re-sent follows when the publisher has read of it.
    """
    (first,) = [index for index, got in enumerate(received) if got.message["type"] == "session"]
    session, last = received[first].message, received[-1].message
    assert first < 4, [got.topic for got in received[: first + 1]]
    assert {got.message["session"] for got in received} == {session["session"]}
    statuses = [got.message for got in received if got.message["type"] == "status"]
    assert [status["state"] for status in statuses].count("goodbye") == 1
    assert last["type"] == "status" and last["state"] == "goodbye", last
    gaps_s = [
        (after["published_ns"] - before["published_ns"]) / NS_PER_S for before, after in itertools.pairwise(statuses)
    ]
    assert max(gaps_s, default=1.0) < 1.5, gaps_s
    numbers = [got.message["seq"] for got in received if got.message["type"] == "prediction"]
    assert numbers == sorted(set(numbers))
    ticks = last["ticks"]
    assert ticks["published"] == len(numbers), "the reader missed a prediction"
    assert ticks["due"] == ticks["published"] + sum(ticks["skipped"].values()) == numbers[-1]
    return {"status_gap_s_max": round(max(gaps_s), 3) if gaps_s else None, "ticks": ticks, "first_seq": numbers[0]}


def check_pace(predictions: Sequence[Received], hop_s: float = HOP_S) -> Figures:
    """A prediction every hop of the clock, soon after what it is about; of a source that delivers."""
    steps_s = [
        (after.arrived_ns - before.arrived_ns) / NS_PER_S / (after.message["seq"] - before.message["seq"])
        for before, after in itertools.pairwise(predictions)
    ]
    assert abs(statistics.median(steps_s) - hop_s) < 0.25 * hop_s, steps_s
    latencies_ms = [got.message["latency_ms"] for got in predictions]
    for got in predictions:
        message = got.message
        assert message["latency_ms"] == (message["published_ns"] - message["captured_ns"]) / 1e6
        assert message["published_ns"] >= message["window"]["end_ns"] >= message["captured_ns"]
    assert statistics.median(latencies_ms) < 500 and min(latencies_ms) >= 0
    wire_ms = [(got.arrived_ns - got.message["published_ns"]) / 1e6 for got in predictions]
    return {
        "hop_s_median": round(statistics.median(steps_s), 4),
        "latency_ms": spread(latencies_ms),
        "publish_to_reader_ms": spread(wire_ms),
        "tick_ms": spread([got.message["timing_ms"]["total"] for got in predictions]),
    }


def check_numbers(messages: Sequence[Message]) -> Figures:
    """Shares sum to one, the window fills up hop by hop and stays full, and nobody's data is older than it can be."""
    sums, weights = [], []
    for message in messages:
        probabilities = list(message["probs"].values())
        assert all(0.0 <= p <= 1.0 for p in probabilities)
        likeliest = max(message["probs"], key=message["probs"].__getitem__)
        assert message["label"] == (None if "no_input" in message["degraded"] else likeliest)
        sums.append(abs(math.fsum(probabilities) - 1.0))
        weights.append(abs(math.fsum(message["levels"]["weights"]) - 1.0))
        filled = min(1.0, message["seq"] / 30)
        assert math.isclose(message["window"]["filled"], filled, abs_tol=1e-9)
        for part in message["modalities"].values():
            assert 0.0 <= part["coverage"] <= filled + 1e-9 or part is message["modalities"]["language"]
            assert part["present"] == (part["coverage"] > 0)
            assert 0.0 <= part["weight"] <= 1.0 + 1e-6 and 0.0 <= part["gate"] <= 1.0 + 1e-6
    assert max(sums) <= 1e-5 and max(weights) <= 1e-5, (max(sums), max(weights))
    return {"probs_sum_error_max": max(sums), "omega_sum_error_max": max(weights)}


def check_coverage(messages: Sequence[Message]) -> Figures:
    """Sound and picture fill the window hop by hop; what is missing of the picture was said to be without a face."""
    without_face = [message["seq"] for message in messages if "no_face" in message["degraded"]]
    for name, missing in (("acoustic", 0), ("vision", len(without_face))):
        # The last hop of a file may be half full.
        shares = [message["modalities"][name]["coverage"] for message in messages][:-1]
        assert shares == sorted(shares), (name, shares)
        first = missing if missing else 0
        assert all(share == 0.0 for share in shares[:first]), (name, shares)
        for number, share in enumerate(shares[first:], first + 1):
            assert share >= min(1.0, (number - first) / 30) - 0.01, (name, number, share)
    last = messages[-1]
    return {
        "coverage_first": {name: part["coverage"] for name, part in messages[0]["modalities"].items()},
        "coverage_last": {name: part["coverage"] for name, part in last["modalities"].items()},
        "hops_without_face": len(without_face),
        "degraded": sorted({reason for message in messages for reason in message["degraded"]}),
    }


def timeless(messages: Sequence[Message], origin_ns: int) -> dict[int, Message]:
    """Predictions by seq without CLOCK_FIELDS and with ORIGIN_FIELDS counted from the session's origin."""
    found = {}
    for message in messages:
        plain = {name: value for name, value in message.items() if name not in CLOCK_FIELDS}
        for path in ORIGIN_FIELDS:
            *parents, name = path.split(".")
            for parent in parents:
                plain[parent] = dict(plain[parent])
            place = plain[parents[0]] if parents else plain
            place[name] -= origin_ns
        found[message["seq"]] = plain
    return found


def of_kind(lines: Iterable[Message], kind: str) -> list[Message]:
    """The messages of one kind."""
    return [line for line in lines if line["type"] == kind]


def said(message: Message) -> dict[str, NDArray[np.float64]]:
    """The numbers that the model said, as job_recompute names them."""
    parts = message["modalities"].values()
    return {
        "output": np.array(list(message["probs"].values())),
        "omega": np.array(message["levels"]["weights"]),
        "beta": np.array([part["weight"] for part in parts]),
        "eta": np.array([part["gate"] for part in parts]),
        "mass": np.array(message["budget"]["mass"]),
        "active": np.array(message["budget"]["active"]),
    }


def largest_differences(
    messages: Sequence[Message], recomputed: Path, source: str, hops_late: int = 0
) -> dict[str, float]:
    """Over all predictions, by name: how far they are from what `source` (graphs or model) says of the same tick.

    `hops_late` compares with earlier ticks instead, as a control that a difference would be seen.
    """
    found: dict[str, float] = {}
    with np.load(recomputed, allow_pickle=False) as arrays:
        for message in messages[hops_late:]:
            for name, value in said(message).items():
                if f"{source}.{name}" in arrays:
                    wanted = arrays[f"{source}.{name}"][message["seq"] - 1 - hops_late]
                    assert value.shape == wanted.shape
                    found[name] = max(found.get(name, 0.0), float(np.abs(value - wanted).max()))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, rounded for a table."""
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "max": round(max(values), 3)}
