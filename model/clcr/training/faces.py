"""Trains the face network for itself, on single faces with soft labels; CLCR begins with it (`vision` in a recipe).

Every random choice of step k is drawn from (seed, k), so a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import EMOTIONS
from clcr.network.encoders import GridResNet
from clcr.training import checkpoint
from clcr.training.data.face_augment import FaceAugment
from clcr.training.data.face_sets import FaceSet, load_face_set
from clcr.training.part import Part, Scores, check_best, claim, read_recipe, score_answers, train_part
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
    leave_out: tuple[str, ...] = ()  # people (SET/NAME) kept apart: their set's `dev`, and nowhere trained on
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
        self._sets = [(load_face_set(Path(use.file), "train", recipe.leave_out), use.per_step) for use in recipe.train]
        self._chances = [_chances(faces, recipe.balance) for faces, _ in self._sets]

    @property
    def people(self) -> list[str]:
        """Those whose faces are trained on, as far as the sets say: SET/NAME."""
        return sorted({str(name) for faces, _ in self._sets for name in faces.people if name})

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
    return read_recipe(path, FaceRecipe, "configs/faces.yaml")


def train_faces(folder: Path, recipe: FaceRecipe, resume: bool, until_step: int | None = None) -> str:
    """Train to the recipe's last step or until a signal; says which. Writes log.jsonl, best/, last/ and final/."""
    torch.manual_seed(recipe.seed)
    model = FaceClassifier(recipe)
    check_best(recipe.best, [Path(file).stem for file in recipe.dev])
    if recipe.init is not None and not resume:
        checkpoint.load_weights(
            model, checkpoint.read_tensors(Path(recipe.init) / "model.safetensors"), Path(recipe.init)
        )
    if min(recipe.channels) >= 8:  # a third faster; with 4 channels PyTorch 2.13 crashes in the backward pass
        nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    faces = Faces(recipe)
    dev = [load_face_set(Path(file), "dev", recipe.leave_out) for file in recipe.dev]
    known = {str(name) for one in dev for name in one.people if name} | set(faces.people)
    for name in recipe.leave_out:
        if name not in known:
            raise ConfigError(f"--leave-out {name}: nobody's name; the sets have {', '.join(sorted(known)) or 'none'}")
    claim(folder, recipe, resume)

    def loss(step: int) -> Tensor:
        pictures, shares = faces.at(step)
        return functional.cross_entropy(model(pictures), shares)

    def scores(weights: checkpoint.State) -> Scores:
        return {one.name: score_faces(with_weights(recipe, weights), one) for one in dev}

    part = Part(model, _optimizer(model, recipe), loss, scores, origin={"people": faces.people})
    return train_part(folder, recipe, part, resume, until_step)


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
    scores = score_answers(answer, faces.labels)
    clear = top >= CLEAR_VOTES
    if clear.any():
        scores |= {f"clear_{name}": value for name, value in score_answers(answer[clear], faces.labels[clear]).items()}
    return scores
