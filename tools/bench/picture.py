"""What the benchmarks' pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distribution(axes: Any, samples: Sequence[float], label: str) -> None:
    """The share of the samples that are at most so large, over a logarithmic axis."""
    shares = [index / len(samples) for index in range(1, len(samples) + 1)]
    axes.plot(sorted(samples), shares, label=label)
    axes.set_xscale("log")
