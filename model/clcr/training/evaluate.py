"""Evaluation: every subset of modalities the data allow, scores with intervals, and what the exchange did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from clcr.network.baseline import BLOCK, HOP_S
from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES
from clcr.network.model import CLCR, Outputs, Usual
from clcr.training import metrics
from clcr.training.data.cache import Pack
from clcr.training.data.mixture import evaluation_batches
from clcr.training.histories import past_of_each
from clcr.training.metrics import Bootstrap, Floats
from clcr.training.recipe import subset_modalities
from clcr_stream.errors import ConfigError


@dataclass(frozen=True)
class Predictions:
    """What a model said about a pack, in the pack's order."""

    logits: Floats  # (n, C), or (n, 1) for regression
    targets: NDArray[Any]  # (n,) class indices or values
    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    unseen: int  # clips in which nothing of the subset was found (no face, say): scored with the model's prior
    exchange: dict[str, Any]
    temperature: Floats  # (n, 1): of each clip, the model's for the modalities that it shows

    def probabilities(self) -> Floats:
        """(n, C), calibrated."""
        return metrics.softmax(self.logits, self.temperature)

    def brief(self) -> dict[str, float]:
        """The point estimates only, for a training log."""
        return metrics.brief(self.logits, self.targets)

    def scores(self, by_speaker: bool = False) -> dict[str, Any]:
        """Every score with its interval, and the exchange's statistics; plain JSON values."""
        bootstrap = Bootstrap(groups=self.speakers if by_speaker else None)
        if self.logits.shape[1] == 1:
            scored = metrics.regression_scores(self.logits[:, 0], self.targets.astype(np.float64), bootstrap)
        else:
            scored = metrics.classification_scores(self.probabilities(), self.targets.astype(np.int64), bootstrap)
        return {**scored, "unseen": self.unseen, "exchange": self.exchange}


class ExchangeTally:
    """Sums of the exchange's statistics over batches."""

    def __init__(self) -> None:
        shape = (len(LEVELS), len(MODALITIES))
        self.tokens, self.active, self.mass = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.omega, self.beta, self.eta = np.zeros(len(LEVELS)), np.zeros(len(MODALITIES)), np.zeros(len(MODALITIES))
        self.present, self.samples = np.zeros(len(MODALITIES)), 0

    def add(self, outputs: Outputs) -> None:
        """Count one batch."""
        for row, level in enumerate(outputs.levels):
            for column, modality in enumerate(MODALITIES):
                alpha, valid = level.alpha[modality], level.valid[modality]
                self.tokens[row, column] += float(valid.sum())
                self.active[row, column] += float(((alpha > 0) * valid).sum())
                self.mass[row, column] += float((alpha * valid).sum())
        self.omega += outputs.omega.double().sum(0).numpy()
        self.beta += outputs.beta.double().sum(0).numpy()
        self.eta += outputs.eta.double().sum(0).numpy()
        self.present += outputs.levels[0].present.double().sum(0).numpy()
        self.samples += len(outputs.omega)

    def report(self) -> dict[str, Any]:
        """Per level and modality the share of valid tokens with alpha > 0 (participation) and sum(alpha) / T (mass).

        None for a modality that never occurred. omega and beta are means over samples, eta over samples with it.
        """
        seen = [column for column in range(len(MODALITIES)) if self.tokens[0, column] > 0]
        names = [MODALITIES[column] for column in seen]

        def per_level(values: Floats) -> list[dict[str, float]]:
            shares = values[:, seen] / self.tokens[:, seen]
            return [dict(zip(names, (float(share) for share in row), strict=True)) for row in shares]

        eta = self.eta[seen] / np.maximum(self.present[seen], 1)
        return {
            "participation": per_level(self.active),
            "mass": per_level(self.mass),
            "omega": (self.omega / max(self.samples, 1)).tolist(),
            "beta": dict(zip(names, (self.beta[seen] / max(self.samples, 1)).tolist(), strict=True)),
            "eta": dict(zip(names, eta.tolist(), strict=True)),
        }


@torch.no_grad()
def evaluate_subset(
    model: CLCR,
    pack: Pack,
    subset: str,
    batch_size: int = 32,
    history_s: float = 0.0,
    history_of: str | None = None,
) -> Predictions:
    """Run a pack through the model in float32 with only the modalities of `subset`, such as "VA".

    history_s: how much of its speaker's other clips comes before each clip, for a model with baselines; history_of: of
    those with this label alone. Raises ConfigError when the sound was prepared for another acoustic encoder, the model
    has no baselines, or there is no such label.
    """
    model.eval()
    pack.check_mel(model.config.mel)
    past = None
    if history_s > 0:
        if not model.config.baseline:
            raise ConfigError(f"a history of {history_s:g} s was given, but the model has no baselines; leave it out")
        rates = tuple(history_s / HOP_S * block for block in BLOCK.values())
        usable = None if history_of is None else (pack.targets == _class_of(history_of, model)).tolist()
        usual = _usual(model, pack, subset, batch_size)
        past = past_of_each(usual, pack.speakers.tolist(), (rates[0], rates[1]), usable=usable)
    tally, logits = ExchangeTally(), np.zeros((len(pack), model.config.outputs))
    seen, present = np.zeros(len(pack), bool), torch.zeros(len(pack), len(MODALITIES))
    with parametrize.cached():
        for batch, _, rows in evaluation_batches(pack, batch_size, subset_modalities(subset)):
            known = None if past is None else Usual(past.mean[rows], past.steps[rows])
            outputs = model(batch, history=known)
            logits[rows] = outputs.logits.double().numpy()
            seen[rows], present[rows] = True, outputs.levels[0].present
            tally.add(outputs)
        if not seen.all():
            logits[~seen] = model(empty_batch(model)).logits.double().numpy()
    return Predictions(
        logits=logits,
        targets=pack.targets,
        ids=tuple(str(name) for name in pack.ids),
        speakers=tuple(str(name) for name in pack.speakers),
        unseen=int((~seen).sum()),
        exchange=tally.report(),
        temperature=model.temperature.of(present).double().numpy(),
    )


def _class_of(label: str, model: CLCR) -> int:
    labels = model.config.labels
    if label not in labels:
        raise ConfigError(f"--history-of {label}: allowed are the model's labels: {', '.join(labels) or 'none'}")
    return labels.index(label)


def _usual(model: CLCR, pack: Pack, subset: str, batch_size: int) -> Usual:
    """What is usual in each clip of a pack alone; nothing in clips that show nothing of the subset."""
    width = model.config.width
    all_of_them = Usual(torch.zeros(len(pack), len(BLOCK), len(LEVELS), width), torch.zeros(len(pack), len(BLOCK)))
    with parametrize.cached():
        for batch, _, rows in evaluation_batches(pack, batch_size, subset_modalities(subset)):
            usual = model(batch).usual
            assert usual is not None
            all_of_them.mean[rows], all_of_them.steps[rows] = usual.mean, usual.steps
    return all_of_them


def empty_batch(model: CLCR) -> Batch:
    """One sample in which every modality is absent; the model's answer to it is its prior."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(
        frames=torch.zeros(0, 3, 112, 112, dtype=torch.uint8),
        vision_valid=torch.zeros(1, 1),
        mel=torch.zeros(1, 4, model.config.mel_bands),
        acoustic_valid=torch.zeros(1, 1),
        token_ids=torch.zeros(1, 1, dtype=torch.int64),
        token_valid=torch.zeros(1, 1),
        vision_step=zero,
        acoustic_step=zero,
        language_step=zero,
    )
