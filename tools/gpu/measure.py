"""Latency as gpu_check.py reports it, and the report itself. Python 3.9 and numpy alone.

Latency is what trtexec calls so: copy in + compute + copy out, on the host's clock. A measurement is valid only if the
medians of its last three windows agree within 10 %; otherwise it is kept and called inconclusive.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_RUNS = 20
WINDOWS = 6
AGREEMENT = 0.10


def statistics(samples_ms: Any) -> dict[str, float]:
    """N, mean, median, extremes and percentiles of a list of ms."""
    values = np.asarray(samples_ms, np.float64)
    found = {"n": float(len(values)), "mean": float(values.mean()), "median": float(np.median(values))}
    found.update({"min": float(values.min()), "max": float(values.max())})
    found.update({f"p{p}": float(np.percentile(values, p)) for p in (90, 95, 99)})
    return {name: round(value, 4) for name, value in found.items()}


def windows(samples_ms: Any, count: int = WINDOWS) -> list[float]:
    """Medians of `count` windows of equal size, in time order."""
    parts = np.array_split(np.asarray(samples_ms, np.float64), count)
    return [round(float(np.median(part)), 4) for part in parts if len(part)]


def stable(medians: list[float]) -> bool:
    """Whether the last three windows agree within AGREEMENT of their smallest."""
    last = medians[-3:]
    return len(last) == 3 and max(last) - min(last) <= AGREEMENT * min(last)


def measure(call: Callable[[], object], seconds: float, period_s: float = 0.0) -> dict[str, Any]:
    """Latency of `call` over `seconds`, back to back or once per `period_s`."""
    for _ in range(WARM_UP_RUNS if period_s == 0 else 3):
        call()
    samples: list[float] = []
    due = started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(samples) < 3 * WINDOWS:
        if period_s:
            due += period_s
            time.sleep(max(0.0, due - time.perf_counter()))
        before = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - before) / 1e6)
    medians = windows(samples)
    return {**statistics(samples), "windows": medians, "stable": stable(medians), "paced_s": period_s}


class Report:
    """What was found so far; written after every step, so that a run that is cut off leaves what it has."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.found: dict[str, Any] = {"environment": {}, "checks": [], "latency_ms": {}, "facts": {}, "not_done": {}}

    def check(self, name: str, value: float, limit: float) -> None:
        """A number that must not be over its limit; NaN is over every limit."""
        passed = bool(value <= limit)
        self.found["checks"].append({"name": name, "value": float(value), "limit": limit, "passed": passed})
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {value:.2e} (at most {limit:.0e})", flush=True)
        self.save()

    def latency(self, name: str, found: Mapping[str, Any]) -> None:
        self.found["latency_ms"][name] = dict(found)
        note = "" if found["stable"] else "   not stable"
        figures = f"median {found['median']:.3f} ms, p99 {found['p99']:.3f} ms, n {found['n']:.0f}"
        print(f"     {name}: {figures}{note}", flush=True)
        self.save()

    def fact(self, name: str, value: Any) -> None:
        self.found["facts"][name] = value
        print(f"     {name}: {value}", flush=True)
        self.save()

    def not_done(self, name: str, reason: str) -> None:
        self.found["not_done"][name] = reason
        print(f"--   {name}: not done: {reason}", flush=True)
        self.save()

    def ratio(self, name: str, slower: str, faster: str) -> None:
        """Median of one measurement over that of another, where both were made in this run."""
        latency = self.found["latency_ms"]
        if slower in latency and faster in latency:
            self.fact(name, round(latency[slower]["median"] / latency[faster]["median"], 3))
        else:
            self.not_done(name, f"needs both {slower} and {faster} in one run")

    def exit_code(self) -> int:
        """0: every check passed and every measurement is stable; 1: a check failed; 3: inconclusive."""
        if not all(check["passed"] for check in self.found["checks"]):
            return 1
        steady = all(found["stable"] for found in self.found["latency_ms"].values())
        return 0 if steady and self.found["checks"] and self.found["latency_ms"] else 3

    def save(self) -> None:
        if self._path is not None:
            text = json.dumps({**self.found, "exit_code": self.exit_code()}, indent=1, default=str)
            self._path.write_text(text + "\n", encoding="utf-8")
