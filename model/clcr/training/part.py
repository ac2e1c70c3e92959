"""Trains one encoder for itself, before CLCR: steps, averaged weights, scores, and a state to go on from.

Every random choice of step k is drawn from (seed, k), so a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from clcr.network.config import EMOTIONS
from clcr.training import checkpoint, metrics
from clcr.training.optimisation import Average, Schedule, rate_factor, set_rates
from clcr.training.train import FINISHED, STOPPED, Progress, TrainingError, append_record, stop_signals, truncate_log
from clcr_stream.errors import ConfigError

_R = TypeVar("_R")
Scores = dict[str, dict[str, Any]]  # by set; each has macro_f1


class PartRecipe(Schedule, Protocol):
    """What the recipes of all parts have."""

    @property
    def best(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def eval_every_steps(self) -> int: ...
    @property
    def checkpoint_minutes(self) -> float: ...


def _no_more(_: Path, __: checkpoint.State) -> None:
    """Nothing beside the weights."""


@dataclass(frozen=True)
class Part:
    """What is trained: the loss of a step, the scores of averaged weights, and what to `write` beside those.

    origin: what info.json says besides: where the numbers come from.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    scores: Callable[[checkpoint.State], Scores]
    write: Callable[[Path, checkpoint.State], object] = _no_more
    origin: Mapping[str, Any] = field(default_factory=dict)


def read_recipe(path: Path, kind: type[_R], example: str) -> _R:
    """A recipe of this kind; raises ConfigError with the key that is wrong and a complete example."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), kind, strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; a complete one is {example}") from None
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; see {example}") from error


def check_best(best: str, names: Sequence[str]) -> None:
    """Raises ConfigError when `best` is none of the sets that are scored."""
    if best not in names:
        raise ConfigError(f"best {best!r} is not in dev; allowed: {', '.join(names)}")


def claim(folder: Path, recipe: PartRecipe, resume: bool) -> None:
    """Make the run's folder and write its recipe. Raises ConfigError where another run is."""
    if not resume and (folder / "recipe.json").exists():
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it or choose another --run")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(folder / "recipe.json", msgspec.to_builtins(recipe))


def score_answers(answer: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, macro-F1 and confusion of the emotions answered."""
    counts = metrics.confusion(labels, answer, len(EMOTIONS))
    return {
        "n": len(labels),
        "accuracy": round(float(metrics.accuracy(counts)), 4),
        "macro_f1": round(float(metrics.macro_f1(counts)), 4),
        "confusion": counts.tolist(),
    }


def train_part(folder: Path, recipe: PartRecipe, part: Part, resume: bool, until_step: int | None = None) -> str:
    """Train to the recipe's last step or until a signal; says which. Writes log.jsonl, best/, last/ and final/."""
    average, progress = Average.of(part.model, recipe.ema_decay), Progress()
    if resume:
        average, progress = _load_state(folder / "last", part, recipe)
        truncate_log(folder / "log.jsonl", progress.step)
    end, saved_s = min(recipe.steps, until_step or recipe.steps), time.monotonic()
    losses: list[float] = []
    with (
        stop_signals() as stopping,
        tqdm(total=recipe.steps, initial=progress.step, unit="step", mininterval=5.0) as bar,
    ):
        while progress.step < end and not stopping():
            losses.append(_step(part, recipe, progress.step))
            average.update(part.model, progress.step)
            progress = replace(progress, step=progress.step + 1)
            bar.update()
            if progress.step % recipe.eval_every_steps == 0 or progress.step == recipe.steps:
                scores = part.scores(average.weights)
                append_record(
                    folder / "log.jsonl", {"step": progress.step, "loss": float(np.mean(losses)), "dev": scores}
                )
                losses.clear()
                if scores[recipe.best]["macro_f1"] > progress.best_score:
                    progress = replace(progress, best_score=scores[recipe.best]["macro_f1"], best_step=progress.step)
                    _publish(folder / "best", average.weights, recipe, part, progress, scores)
            if time.monotonic() - saved_s > 60.0 * recipe.checkpoint_minutes:
                _save_state(folder / "last", part, average, progress)
                saved_s = time.monotonic()
    _save_state(folder / "last", part, average, progress)
    if progress.step < recipe.steps:
        return STOPPED
    _publish(folder / "final", average.weights, recipe, part, progress, part.scores(average.weights))
    return FINISHED


def _step(part: Part, recipe: PartRecipe, step: int) -> float:
    set_rates(part.optimizer, rate_factor(step, recipe))
    part.model.train()
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout
    loss = part.loss(step)
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"step {step}: the loss is not finite; lower learning_rate")
    part.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(part.model.parameters(), recipe.clip_norm)
    part.optimizer.step()
    return float(loss.detach())


def _publish(
    folder: Path, weights: checkpoint.State, recipe: PartRecipe, part: Part, progress: Progress, scores: Scores
) -> None:
    with checkpoint.replacing_folder(folder) as fresh:
        checkpoint.save_tensors(fresh / "model.safetensors", weights)
        info = {"recipe": msgspec.to_builtins(recipe), "step": progress.step, "dev": scores, **part.origin}
        checkpoint.write_json(fresh / "info.json", info)
        part.write(fresh, weights)


def _save_state(folder: Path, part: Part, average: Average, progress: Progress) -> None:
    with checkpoint.replacing_folder(folder) as fresh:
        checkpoint.save_tensors(fresh / "model.safetensors", part.model.state_dict())
        checkpoint.save_tensors(fresh / "ema.safetensors", average.weights)
        checkpoint.save_optimizer(fresh / "optimizer.safetensors", part.optimizer)
        checkpoint.write_json(fresh / "state.json", progress.__dict__)


def _load_state(folder: Path, part: Part, recipe: PartRecipe) -> tuple[Average, Progress]:
    checkpoint.recover(folder)
    checkpoint.load_weights(part.model, checkpoint.read_tensors(folder / "model.safetensors"), folder)
    checkpoint.load_optimizer(folder / "optimizer.safetensors", part.optimizer)
    average = Average(checkpoint.read_tensors(folder / "ema.safetensors"), recipe.ema_decay)
    return average, Progress(**checkpoint.read_json(folder / "state.json"))
