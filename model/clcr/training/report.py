"""The evaluation of a checkpoint as one JSON document and pictures, and the fitting of its temperature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clcr.network.model import CLCR
from clcr.training import metrics, plots
from clcr.training.checkpoint import load_info, store_temperature
from clcr.training.data.cache import Pack
from clcr.training.evaluate import Predictions, evaluate_subset
from clcr.training.feed import possible_subsets, restrict
from clcr.training.recipe import SUBSETS
from clcr.training.train import class_names
from clcr_stream.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """What to score: prepared packs, their split, which subsets ("all" or "V,A,VA"), and how intervals are drawn."""

    packs: tuple[Path, ...]
    split: str = "dev"
    subsets: str = "all"
    having: str | None = None
    by_speaker: bool = False
    batch_size: int = 32
    history_s: float = 0.0
    history_of: str | None = None


def evaluate(checkpoint: Path, model: CLCR, request: Request, pictures: Path | None = None) -> dict[str, Any]:
    """Score every pack and subset; `packs` of the result is keyed by "pack/subset". Raises ConfigError.

    Each subset is scored on the clips recorded with all of its modalities. The stored temperature is applied, except to
    a pack and split it was fitted on: there calibration is reported without it.
    """
    provenance = load_info(checkpoint).provenance
    stored = float(model.get_buffer("temperature"))
    fitted_on = set(provenance.get("temperature", {}).get("fitted_on", ()))
    results: dict[str, Any] = {}
    for folder in request.packs:
        temperature = 1.0 if _source(folder, request.split) in fitted_on else stored
        predictions = _predict(model, folder, request)
        for subset, predicted in predictions.items():
            scores = {"temperature": temperature, **predicted.scores(temperature, request.by_speaker)}
            results[f"{folder.name}/{subset}"] = scores
        if pictures is not None and model.config.task == "classification":
            _draw(pictures / folder.name, model.config.labels, predictions, results, temperature)
    return {
        "checkpoint": str(checkpoint),
        "labels": list(model.config.labels),
        "split": request.split,
        "history_s": request.history_s,
        "history_of": request.history_of,
        "stored_temperature": stored,
        "packs": results,
        "provenance": provenance,
    }


def calibrate_checkpoint(checkpoint: Path, model: CLCR, request: Request) -> str:
    """Fit one temperature on all subsets of the packs together, store it in the checkpoint, say what it was."""
    if model.config.task != "classification":
        raise ConfigError(f"{checkpoint}: a regression model has no temperature; leave --fit-temperature out")
    parts = [part for folder in request.packs for part in _predict(model, folder, request).values()]
    logits = np.concatenate([part.logits for part in parts])
    targets = np.concatenate([part.targets.astype(np.int64) for part in parts])
    temperature = metrics.fit_temperature(logits, targets)
    sources = sorted({_source(folder, request.split) for folder in request.packs})
    store_temperature(checkpoint, temperature, {"fitted_on": sources, "n": len(targets)})
    before = float(metrics.expected_calibration_error(metrics.softmax(logits), targets))
    return f"temperature {temperature:.3f} fitted on {', '.join(sources)} (ECE there without it {before:.3f}); stored"


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results {pack/subset: scores} as lines for a terminal."""
    lines = [f"{'pack / subset':<26}{'n':>6}  {'accuracy':<22}{'macro-F1':<22}{'ECE':<8}active share by level"]
    for name, scores in results.items():
        levels = scores["exchange"]["participation"]
        shares = " ".join(f"{np.mean(list(level.values())):.2f}" for level in levels if level)
        if "mae" in scores:
            cells = f"MAE {_cell(scores['mae']):<24}Acc-2 {_cell(scores['acc2']):<24}"
        else:
            cells = f"{_cell(scores['accuracy']):<22}{_cell(scores['macro_f1']):<22}{scores['ece']['value']:<8.3f}"
        lines.append(f"{name:<26}{scores['n']:>6}  {cells}{shares}")
    return "\n".join(lines)


def _predict(model: CLCR, folder: Path, request: Request) -> dict[str, Predictions]:
    pack = Pack(folder, request.split, class_names(model))
    if request.having is not None:
        _check_subset(request.having)
        pack = restrict(pack, request.having)
    wanted = possible_subsets(pack) if request.subsets == "all" else tuple(request.subsets.split(","))
    for subset in wanted:
        _check_subset(subset)
    return {
        subset: evaluate_subset(
            model, restrict(pack, subset), subset, request.batch_size, request.history_s, request.history_of
        )
        for subset in wanted
    }


def _check_subset(subset: str) -> None:
    if subset not in SUBSETS:
        raise ConfigError(f"subset {subset!r}; allowed: all, or a list of {', '.join(SUBSETS)}")


def _draw(
    folder: Path,
    labels: tuple[str, ...],
    predictions: dict[str, Predictions],
    results: dict[str, Any],
    temperature: float,
) -> None:
    scores = {subset: results[f"{folder.name}/{subset}"] for subset in predictions}
    plots.plot_confusions(scores, labels, folder / "confusion.png")
    curves = {
        subset: metrics.reliability(metrics.softmax(predicted.logits, temperature), predicted.targets)
        for subset, predicted in predictions.items()
    }
    plots.plot_reliability(curves, folder / "reliability.png")


def _source(folder: Path, split: str) -> str:
    return f"{folder.name}:{split}"


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
