"""What moves the weights: parameter groups by name, the warm-up and cosine schedule, averaged weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from clcr.training.recipe import Recipe
from clcr_stream.errors import ConfigError


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD with one group per (learning rate, decayed or not); frozen parameters are left out for good.

    No decay on vectors, scalars and generators of orthogonal bases. Raises ConfigError for a prefix that fits nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in (*recipe.freeze, *recipe.learning_rates):
        if not any(name.startswith(prefix) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ConfigError(f"recipe: no parameter starts with {prefix!r}; parts of the model: {', '.join(parts)}")
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        frozen = name.startswith(recipe.freeze) if recipe.freeze else False
        parameter.requires_grad_(not frozen)
        if not frozen:
            decay = recipe.weight_decay if parameter.ndim > 1 and "parametrizations" not in name else 0.0
            groups.setdefault((_rate_of(name, recipe), decay), []).append(parameter)
    arguments = [
        {"params": parameters, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if not arguments:
        raise ConfigError("recipe: freeze leaves nothing to train; remove a prefix from it")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(arguments, momentum=recipe.momentum)
    return torch.optim.AdamW(arguments, betas=(0.9, 0.99), fused=True)


class Schedule(Protocol):
    """The part of a recipe that says how the learning rate changes."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def final_rate(self) -> float: ...


def rate_factor(step: int, recipe: Schedule) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine down to `final_rate`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


@dataclass
class Average:
    """An exponential moving average of every floating tensor of a model; counts and the like are copied.

    The decay grows from 0 as (1 + step) / (10 + step), so that early averages forget the initial weights.
    """

    weights: dict[str, Tensor]
    decay: float

    @classmethod
    def of(cls, model: nn.Module, decay: float) -> Average:
        return cls({name: value.detach().clone() for name, value in model.state_dict().items()}, decay)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's present weights; `step` counts from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        floating: list[Tensor] = []
        present: list[Tensor] = []
        for name, value in model.state_dict().items():
            own = self.weights[name]
            if own.is_floating_point():
                floating.append(own)
                present.append(value)
            else:
                own.copy_(value)
        torch._foreach_lerp_(floating, present, share)


def freeze_statistics(model: nn.Module) -> None:
    """Keep batch-norm layers on their stored statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _rate_of(name: str, recipe: Recipe) -> float:
    fitting = [prefix for prefix in recipe.learning_rates if name.startswith(prefix)]
    return recipe.learning_rates[max(fitting, key=len)] if fitting else recipe.learning_rate
