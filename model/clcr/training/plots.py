"""Pictures of a run and of an evaluation, drawn without a display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def plot_curves(log: Path, image: Path) -> None:
    """Losses and watched scores over the steps of a log.jsonl, as a PNG."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [record for record in records if "loss" in record]
    watched = [record for record in records if "dev" in record]
    figure, (left, right) = _figure(2, (12.0, 4.5))
    for name in ("loss", "task", "intra", "inter", "accuracy"):
        left.plot([r["step"] for r in losses if name in r], [r[name] for r in losses if name in r], label=name, lw=1)
    left.set(xlabel="step", title="training", ylim=(0, None))
    names = sorted({name for record in watched for name in record["dev"]})
    for name in names:
        points = [(record["step"], *_main_score(record["dev"][name])) for record in watched if name in record["dev"]]
        right.plot([p[0] for p in points], [p[2] for p in points], marker=".", label=f"{name} {points[-1][1]}")
    right.set(xlabel="step", title="development packs")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    _save(figure, image)


def plot_confusions(results: dict[str, Any], labels: tuple[str, ...], image: Path) -> None:
    """One confusion per subset of a pack: rows true, columns predicted, shares of the row with counts."""
    figure, panels = _figure(len(results), (4.0 * len(results), 4.2))
    for axes, (subset, scores) in zip(panels, results.items(), strict=True):
        counts = np.asarray(scores["confusion"], dtype=np.float64)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set(title=f"{subset}: macro-F1 {scores['macro_f1']['value']:.3f}, n {scores['n']}")
        axes.set_xticks(range(len(labels)), labels, rotation=60)
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=7, color=colour)
    _save(figure, image)


def plot_reliability(curves: dict[str, tuple[list[float], list[float]]], image: Path) -> None:
    """Accuracy against confidence in the ECE bins of each subset: {subset: (confidences, accuracies)}."""
    figure, (axes,) = _figure(1, (4.5, 4.2))
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for subset, (confidence, accuracy) in curves.items():
        axes.plot(confidence, accuracy, marker="o", label=subset)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    if curves:
        axes.legend(fontsize=8)
    _save(figure, image)


def _main_score(scores: dict[str, float]) -> tuple[str, float]:
    name = "macro_f1" if "macro_f1" in scores else "mae"
    return name, scores[name]


def _figure(columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    # The object interface with the Agg canvas touches no global state and needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _save(figure: Any, image: Path) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    fresh = image.with_name(f".{image.stem}.new.png")
    figure.savefig(fresh, dpi=110)
    fresh.replace(image)
