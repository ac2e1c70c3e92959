"""The evaluation of a checkpoint as one JSON document and pictures, and the fitting of its temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clcr.network.baseline import HOP_S
from clcr.network.config import LETTERS
from clcr.network.model import CLCR
from clcr.training import calibration, metrics, plots
from clcr.training.calibration import Fitted
from clcr.training.checkpoint import load_info, store_temperatures
from clcr.training.data.cache import SLOTS_PER_HOP, Pack
from clcr.training.data.films import HeldPack
from clcr.training.data.pairs import NOTHING, Emptied, PairedPack
from clcr.training.evaluate import Predictions, evaluate_subset
from clcr.training.feed import possible_subsets, restrict
from clcr.training.fusion import against_parts, values_against_parts
from clcr.training.recipe import PAIRS, SUBSETS
from clcr.training.stored import EncodedPack
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
    hold_s: float = 0.0  # a photograph is shown for so long; 0: for one video slot
    pairs: int = 0  # in place of the packs, so many samples put together by label out of them
    nothing: Path | None = None  # the pack of what shows nothing, for pairs of which one modality is corrupted


def evaluate(checkpoint: Path, model: CLCR, request: Request, pictures: Path | None = None) -> dict[str, Any]:
    """Score every pack and subset; `packs` of the result is keyed by "pack/subset". Raises ConfigError.

    Each subset is scored on the clips recorded with all of its modalities. The stored temperatures are applied, except
    to packs and splits they were fitted on: there each half of the people has those fitted on the other half.
    """
    provenance = load_info(checkpoint).provenance
    fitted = _fitted(provenance)
    results: dict[str, Any] = {}
    fusion: dict[str, Any] = {}
    for pack in _packs(model, request):
        predictions = _predict(model, pack, request)
        if f"{pack.name}:{request.split}" in provenance.get("temperature", {}).get("fitted_on", ()):
            predictions = {s: fitted[s].judged(p) if s in fitted else p for s, p in predictions.items()}
        for subset, predicted in predictions.items():
            scores = {"temperature": float(predicted.temperature.mean()), **predicted.scores(request.by_speaker)}
            results[f"{pack.name}/{subset}"] = scores
        fusion[pack.name] = _against_parts(predictions, request.by_speaker)
        if pictures is not None and model.config.task == "classification":
            _draw(pictures / pack.name, model.config.labels, predictions, results)
        if isinstance(pack, PairedPack) and request.nothing is not None:
            fusion["corrupted"] = _corrupted(model, pack, request, predictions)
    return {
        "checkpoint": str(checkpoint),
        "labels": list(class_names(model) or ()),
        "split": request.split,
        "history_s": request.history_s,
        "history_of": request.history_of,
        "hold_s": request.hold_s,
        "stored_temperature": model.temperature.by_subset(),
        "packs": results,
        "fusion": {name: gains for name, gains in fusion.items() if gains},
        "provenance": provenance,
    }


def calibrate_checkpoint(checkpoint: Path, model: CLCR, request: Request) -> str:
    """Fit a temperature for each subset over all the packs, store them in the checkpoint, say what they are."""
    if model.config.task != "classification":
        raise ConfigError(f"{checkpoint}: a regression model has no temperature; leave --fit-temperature out")
    packs = _packs(model, replace(request, pairs=0))
    if request.pairs:
        packs.append(_paired(model, packs, request))
    predicted = {pack.name: _predict(model, pack, request) for pack in packs}
    fitted: dict[str, Fitted] = {}
    said: list[str] = []
    for subset in SUBSETS:
        sets = {name: by_subset[subset] for name, by_subset in predicted.items() if subset in by_subset}
        if sets:
            fitted[subset] = calibration.fit(sets)
            model.temperature.fit(subset, fitted[subset].value)
            clips = sum(len(one.targets) for one in sets.values())
            said.append(f"{subset} {fitted[subset].value:.3f} (n {clips}, {_before_and_after(sets, fitted[subset])})")
    sources = sorted(f"{name}:{request.split}" for name in predicted)
    origin = {"fitted_on": sources, "values": {subset: asdict(one) for subset, one in fitted.items()}}
    store_temperatures(checkpoint, model.temperature, origin)
    return f"temperatures fitted on {', '.join(sources)}, stored: {'; '.join(said)}"


def _fitted(provenance: dict[str, Any]) -> dict[str, Fitted]:
    """What a checkpoint says of its temperatures, by subset."""
    return {subset: Fitted(**values) for subset, values in provenance.get("temperature", {}).get("values", {}).items()}


def _before_and_after(sets: Mapping[str, Predictions], fitted: Fitted) -> str:
    """The mean ECE of the sets with a temperature of 1, and with that fitted on other people."""
    before = [replace(one, temperature=np.ones_like(one.temperature)) for one in sets.values()]
    after = [fitted.judged(one) for one in sets.values()]
    means = [np.mean([one.scores()["ece"]["value"] for one in judged]) for judged in (before, after)]
    return f"mean ECE {means[0]:.3f}, with that of other people {means[1]:.3f}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results {pack/subset: scores} as lines for a terminal."""
    values = any("mae" in scores for scores in results.values())
    columns = [f"{name:<22}" for name in (metrics.REGRESSION if values else ("accuracy", "macro-F1"))]
    head = "".join(columns) + ("" if values else f"{'ECE':<8}")
    lines = [f"{'pack / subset':<26}{'n':>6}  {head}active share by level"]
    for name, scores in results.items():
        levels = scores["exchange"]["participation"]
        shares = " ".join(f"{np.mean(list(level.values())):.2f}" for level in levels if level)
        if "mae" in scores:
            cells = "".join(f"{metrics.cell(scores[key]):<22}" for key in metrics.REGRESSION.values())
        else:
            right, f1 = metrics.cell(scores["accuracy"]), metrics.cell(scores["macro_f1"])
            cells = f"{right:<22}{f1:<22}{scores['ece']['value']:<8.3f}"
        lines.append(f"{name:<26}{scores['n']:>6}  {cells}{shares}")
    return "\n".join(lines)


def _packs(model: CLCR, request: Request) -> list[Pack]:
    if request.having is not None:
        _check_subset(request.having)
    if not 0 <= request.hold_s < math.inf:
        raise ConfigError(f"--hold is {request.hold_s}; allowed are seconds above 0")
    packs: list[Pack] = [Pack(folder, request.split, class_names(model)) for folder in request.packs]
    if request.pairs or request.nothing is not None:
        return [_paired(model, packs, request)]
    if request.hold_s:
        packs = [
            HeldPack(pack, max(1, round(request.hold_s / HOP_S * SLOTS_PER_HOP))) for pack in _encoded(model, packs)
        ]
    return packs if request.having is None else [restrict(pack, request.having) for pack in packs]


def _paired(model: CLCR, packs: list[Pack], request: Request) -> PairedPack:
    """The samples put together out of the packs."""
    if request.pairs < 1 or request.having is not None or request.hold_s:
        raise ConfigError(
            f"--pairs is {request.pairs}; allowed is 1 or more, --nothing goes with it, --having and --hold do not"
        )
    nothing: list[Pack] = [] if request.nothing is None else [Pack(request.nothing, request.split, (NOTHING,))]
    emptied = Emptied(nothing=_encoded(model, nothing))
    return PairedPack(PAIRS, _encoded(model, packs), request.pairs, 0, emptied)


def _encoded(model: CLCR, packs: list[Pack]) -> list[Pack]:
    """The packs, their clips encoded once for all evaluations; what a stem makes of sound is not stored."""
    return [EncodedPack(pack, model) for pack in packs] if model.config.acoustic_encoder == "whisper" else packs


def _predict(model: CLCR, pack: Pack, request: Request) -> dict[str, Predictions]:
    wanted = possible_subsets(pack) if request.subsets == "all" else tuple(request.subsets.split(","))
    for subset in wanted:
        _check_subset(subset)
    return {
        subset: evaluate_subset(
            model, restrict(pack, subset), subset, request.batch_size, request.history_s, request.history_of
        )
        for subset in wanted
    }


def _against_parts(predictions: Mapping[str, Predictions], by_speaker: bool) -> dict[str, Any]:
    """Every fusion beside its branches, over the samples that all subsets have."""
    common = set.intersection(*(set(predicted.ids) for predicted in predictions.values()))
    rows = {s: [i for i, name in enumerate(predicted.ids) if name in common] for s, predicted in predictions.items()}
    if not common:
        return {}
    first, kept = next((predictions[s], rows[s]) for s in predictions)
    groups = tuple(first.speakers[i] for i in kept) if by_speaker else None
    bootstrap = metrics.Bootstrap(groups=groups)
    if first.logits.shape[1] == 1:
        values = {s: predicted.logits[rows[s], 0] for s, predicted in predictions.items()}
        return values_against_parts(values, first.targets[kept].astype(np.float64), bootstrap)
    probabilities = {s: predicted.probabilities()[rows[s]] for s, predicted in predictions.items()}
    return against_parts(probabilities, first.targets[kept].astype(np.int64), bootstrap)


def _corrupted(
    model: CLCR, pack: PairedPack, request: Request, whole: dict[str, Predictions]
) -> dict[str, dict[str, Any]]:
    """What it costs when one modality of several shows nothing, against having it not at all; beta and eta of it."""
    found: dict[str, dict[str, Any]] = {}
    for letter, modality in LETTERS.items():
        if modality not in pack.nothing_for:
            continue
        spoiled = pack.spoiled(modality)
        for subset in [s for s in whole if letter in s and len(s) > 1 and s.replace(letter, "") in whole]:
            predicted = evaluate_subset(model, spoiled, subset, request.batch_size)
            before, after = whole[subset].exchange, predicted.exchange
            found[f"{subset} without {letter}"] = {
                "corrupted": predicted.brief()["macro_f1"],
                "absent": whole[subset.replace(letter, "")].brief()["macro_f1"],
                "beta": [before["beta"][modality], after["beta"][modality]],
                "eta": [before["eta"][modality], after["eta"][modality]],
            }
    return found


def _check_subset(subset: str) -> None:
    if subset not in SUBSETS:
        raise ConfigError(f"subset {subset!r}; allowed: all, or a list of {', '.join(SUBSETS)}")


def _draw(folder: Path, labels: tuple[str, ...], predictions: dict[str, Predictions], results: dict[str, Any]) -> None:
    scores = {subset: results[f"{folder.name}/{subset}"] for subset in predictions}
    plots.plot_confusions(scores, labels, folder / "confusion.png")
    curves = {
        subset: metrics.reliability(predicted.probabilities(), predicted.targets)
        for subset, predicted in predictions.items()
    }
    plots.plot_reliability(curves, folder / "reliability.png")
