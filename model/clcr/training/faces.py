"""Trains the face network for itself, on single faces with soft labels; CLCR begins with it (`vision` in a recipe).

Every random choice of step k is drawn from (seed, k), so a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from clcr.network.config import EMOTIONS
from clcr.network.encoders import GridResNet
from clcr.training import checkpoint, metrics
from clcr.training.data.face_augment import FaceAugment
from clcr.training.data.face_sets import FaceSet, load_face_set
from clcr.training.optimisation import Average, rate_factor, set_rates
from clcr.training.train import FINISHED, STOPPED, Progress, TrainingError, append_record, stop_signals, truncate_log
from clcr_stream.errors import ConfigError

CLEAR_VOTES = 6.0  # raters who agree: the faces whose label is beyond doubt
FACE_PX = 112


class FaceUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A face set and how many of its faces go into each step."""

    file: str
    per_step: int


class FaceRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a run depends on besides the data. Paths are from the working folder."""

    kind: Literal["faces"]
    train: tuple[FaceUse, ...]
    dev: tuple[str, ...]
    best: str  # the name of the set whose macro-F1 chooses best/
    steps: int
    init: str | None = None  # a folder with a trained face network and its head, to go on from
    channels: tuple[int, int, int, int] = (24, 32, 64, 128)
    width: int = 128
    dropout: float = 0.4
    seed: int = 1
    warmup_steps: int = 200
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    final_rate: float = 0.002
    clip_norm: float = 5.0
    balance: float = 0.3  # 0: faces evenly, 1: classes evenly
    ema_decay: float = 0.998
    augment: dict[str, Any] = {}  # fields of clcr.training.data.face_augment.FaceAugment
    eval_every_steps: int = 500
    checkpoint_minutes: float = 4.0


class FaceClassifier(nn.Module):
    """The front-end that CLCR will take over, and a head that only this training needs."""

    def __init__(self, recipe: FaceRecipe) -> None:
        super().__init__()
        self.vision = GridResNet(recipe.channels, recipe.width, recipe.dropout)
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(recipe.dropout), nn.Linear(recipe.width, len(EMOTIONS)))

    def forward(self, luminance: Tensor) -> Tensor:
        """(n, 1, 56, 56) in 0..255 -> (n, 6) scores."""
        return self.head(self.vision.describe(luminance))  # type: ignore[no-any-return]


class Faces:
    """The training batches of a recipe."""

    def __init__(self, recipe: FaceRecipe) -> None:
        self._recipe = recipe
        self._augment = FaceAugment(**recipe.augment)
        self._sets = [(load_face_set(Path(use.file), "train"), use.per_step) for use in recipe.train]
        self._chances = [_chances(faces, recipe.balance) for faces, _ in self._sets]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Luminance (n, 1, 56, 56) and the shares of the emotions (n, 6) of a step."""
        rng = np.random.default_rng((self._recipe.seed, step))
        pictures, shares = [], []
        for (faces, count), chances in zip(self._sets, self._chances, strict=True):
            rows = rng.choice(len(faces), count, p=chances)
            pictures.append(self._augment(faces.images[rows], rng))
            shares.append(torch.from_numpy(faces.shares[rows]))
        return torch.cat(pictures), torch.cat(shares)


def _chances(faces: FaceSet, balance: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    counts = np.bincount(faces.labels, minlength=len(EMOTIONS)).astype(np.float64)
    chances = counts[faces.labels] ** -balance
    return np.asarray(chances / chances.sum(), np.float64)


def load_face_recipe(path: Path) -> FaceRecipe:
    """Read a recipe; raises ConfigError with the key that is wrong."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), FaceRecipe, strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; a complete one is configs/faces.yaml") from None
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; see configs/faces.yaml") from error


def train_faces(folder: Path, recipe: FaceRecipe, resume: bool, until_step: int | None = None) -> str:
    """Train to the recipe's last step or until a signal; says which. Writes log.jsonl, best/, last/ and final/."""
    torch.manual_seed(recipe.seed)
    model = FaceClassifier(recipe)
    if recipe.init is not None and not resume:
        checkpoint.load_weights(
            model, checkpoint.read_tensors(Path(recipe.init) / "model.safetensors"), Path(recipe.init)
        )
    if min(recipe.channels) >= 8:  # a third faster; with 4 channels PyTorch 2.13 crashes in the backward pass
        nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(model, recipe)
    average, progress = Average.of(model, recipe.ema_decay), Progress()
    if resume:
        average, progress = _load_state(folder / "last", model, optimizer, recipe)
        truncate_log(folder / "log.jsonl", progress.step)
    elif (folder / "recipe.json").exists():
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it or choose another --run")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(folder / "recipe.json", msgspec.to_builtins(recipe))
    faces = Faces(recipe)
    dev = [load_face_set(Path(file), "dev") for file in recipe.dev]
    if recipe.best not in [one.name for one in dev]:
        raise ConfigError(f"best {recipe.best!r} is not in dev; allowed: {', '.join(one.name for one in dev)}")
    end, saved_s = min(recipe.steps, until_step or recipe.steps), time.monotonic()
    losses: list[float] = []
    with (
        stop_signals() as stopping,
        tqdm(total=recipe.steps, initial=progress.step, unit="step", mininterval=5.0) as bar,
    ):
        while progress.step < end and not stopping():
            losses.append(_step(model, optimizer, recipe, faces, progress.step))
            average.update(model, progress.step)
            progress = replace(progress, step=progress.step + 1)
            bar.update()
            if progress.step % recipe.eval_every_steps == 0 or progress.step == recipe.steps:
                scores = {one.name: score_faces(with_weights(recipe, average.weights), one) for one in dev}
                append_record(
                    folder / "log.jsonl", {"step": progress.step, "loss": float(np.mean(losses)), "dev": scores}
                )
                losses.clear()
                if scores[recipe.best]["macro_f1"] > progress.best_score:
                    progress = replace(progress, best_score=scores[recipe.best]["macro_f1"], best_step=progress.step)
                    _publish(folder / "best", average.weights, recipe, progress, scores)
            if time.monotonic() - saved_s > 60.0 * recipe.checkpoint_minutes:
                _save_state(folder / "last", model, optimizer, average, progress)
                saved_s = time.monotonic()
    _save_state(folder / "last", model, optimizer, average, progress)
    if progress.step < recipe.steps:
        return STOPPED
    scores = {one.name: score_faces(with_weights(recipe, average.weights), one) for one in dev}
    _publish(folder / "final", average.weights, recipe, progress, scores)
    return FINISHED


def _step(
    model: FaceClassifier, optimizer: torch.optim.Optimizer, recipe: FaceRecipe, faces: Faces, step: int
) -> float:
    set_rates(optimizer, rate_factor(step, recipe))
    pictures, shares = faces.at(step)
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout
    model.train()
    loss = functional.cross_entropy(model(pictures), shares)
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"step {step}: the loss is not finite; lower learning_rate")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _optimizer(model: nn.Module, recipe: FaceRecipe) -> torch.optim.Optimizer:
    """SGD; vectors and scalars are not decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    rate = recipe.learning_rate
    groups = [
        {"params": matrices, "lr": rate, "base_rate": rate, "weight_decay": recipe.weight_decay},
        {"params": others, "lr": rate, "base_rate": rate, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=True)


def with_weights(recipe: FaceRecipe, weights: checkpoint.State) -> FaceClassifier:
    """A classifier of the recipe with these weights, for evaluation."""
    model = FaceClassifier(recipe)
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def score_faces(model: FaceClassifier, faces: FaceSet, batch: int = 256) -> dict[str, Any]:
    """Accuracy and macro-F1 on a set; for one with raters also of its clear faces (`clear_...`).

    The faces go in as RGB at 112x112, as the runtime gives them.
    """
    answers = []
    for start in range(0, len(faces), batch):
        grey = torch.from_numpy(faces.images[start : start + batch]).float().unsqueeze(1)
        rgb = functional.interpolate(grey, size=(FACE_PX, FACE_PX), mode="bilinear").expand(-1, 3, -1, -1)
        answers.append(model.head(model.vision(rgb)).argmax(1).numpy())
    answer = np.concatenate(answers)
    top = faces.shares.max(1) * faces.votes
    scores = _scores(answer, faces.labels)
    clear = top >= CLEAR_VOTES
    if clear.any():
        scores |= {f"clear_{name}": value for name, value in _scores(answer[clear], faces.labels[clear]).items()}
    return scores


def _scores(answer: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, Any]:
    counts = metrics.confusion(labels, answer, len(EMOTIONS))
    return {
        "n": len(labels),
        "accuracy": round(float(metrics.accuracy(counts)), 4),
        "macro_f1": round(float(metrics.macro_f1(counts)), 4),
        "confusion": counts.tolist(),
    }


def _publish(
    folder: Path, weights: checkpoint.State, recipe: FaceRecipe, progress: Progress, scores: dict[str, Any]
) -> None:
    with checkpoint.replacing_folder(folder) as fresh:
        checkpoint.save_tensors(fresh / "model.safetensors", weights)
        info = {"recipe": msgspec.to_builtins(recipe), "step": progress.step, "dev": scores}
        checkpoint.write_json(fresh / "info.json", info)


def _save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average, progress: Progress
) -> None:
    with checkpoint.replacing_folder(folder) as fresh:
        checkpoint.save_tensors(fresh / "model.safetensors", model.state_dict())
        checkpoint.save_tensors(fresh / "ema.safetensors", average.weights)
        checkpoint.save_optimizer(fresh / "optimizer.safetensors", optimizer)
        checkpoint.write_json(fresh / "state.json", progress.__dict__)


def _load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: FaceRecipe
) -> tuple[Average, Progress]:
    checkpoint.recover(folder)
    checkpoint.load_weights(model, checkpoint.read_tensors(folder / "model.safetensors"), folder)
    checkpoint.load_optimizer(folder / "optimizer.safetensors", optimizer)
    average = Average(checkpoint.read_tensors(folder / "ema.safetensors"), recipe.ema_decay)
    return average, Progress(**checkpoint.read_json(folder / "state.json"))
