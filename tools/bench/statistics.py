"""Percentiles of a measure, and the rule that says whether its run may be believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOWS = 6
JUDGED = 3
MAX_SPREAD = 0.10
KEPT_SAMPLES = 1000


def summarise(samples: Sequence[float], digits: int = 4) -> dict[str, float | int | None]:
    """n, p50, p90, p95, p99, max and mean of the samples; nulls where there are none."""
    if not len(samples):
        return {"n": 0, "p50": None, "p90": None, "p95": None, "p99": None, "max": None, "mean": None}
    values = np.asarray(samples, np.float64)
    found = dict(zip(("p50", "p90", "p95", "p99"), np.percentile(values, (50, 90, 95, 99)), strict=True))
    rounded = {name: round(float(value), digits) for name, value in found.items()}
    return {
        "n": len(values),
        **rounded,
        "max": round(float(values.max()), digits),
        "mean": round(values.mean(), digits),
    }


def median(samples: Sequence[float], digits: int = 4) -> float | None:
    """The median; None of nothing."""
    return round(float(np.median(samples)), digits) if len(samples) else None


def window_medians(samples: Sequence[float], windows: int = WINDOWS) -> list[float]:
    """Medians of `windows` consecutive parts of (nearly) equal length; [] when there are fewer samples than parts."""
    if len(samples) < windows:
        return []
    return [float(np.median(part)) for part in np.array_split(np.asarray(samples, np.float64), windows)]


def spread(medians: Sequence[float]) -> float:
    """How far the last JUDGED medians lie apart, as a share of the smallest; infinite when there are too few."""
    last = np.asarray(medians[-JUDGED:], np.float64)
    if len(last) < JUDGED or not np.isfinite(last).all() or last.min() <= 0:
        return float("inf")
    return float(last.max() / last.min() - 1.0)


def stable(samples: Sequence[float]) -> bool:
    """True when the medians of the run's last three windows differ by at most MAX_SPREAD."""
    return spread(window_medians(samples)) <= MAX_SPREAD


def measure(samples: Sequence[float]) -> dict[str, object]:
    """A measure as it is written: its summary, the windows' medians, whether they agree, and the samples themselves.

    Of more than KEPT_SAMPLES samples every second, third, ... is written; `n` says how many there were.
    """
    medians = [round(value, 4) for value in window_medians(samples)]
    found = spread(window_medians(samples))
    return {
        **summarise(samples),
        "window_medians": medians,
        "spread": round(found, 4) if np.isfinite(found) else None,
        "stable": found <= MAX_SPREAD,
        "samples": [round(float(value), 4) for value in samples[:: -(-len(samples) // KEPT_SAMPLES) or 1]],
    }
