"""InterCAD, the aggregation over levels: anchors weigh the levels, attention the modalities (CLCR 3.3)."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import LETTERS, LEVELS, MODALITIES, ModelConfig
from clcr.network.intraced import plain_norm
from clcr.network.language import MASKED

PRESENCE = tuple(product((0.0, 1.0), repeat=len(MODALITIES)))  # of each subset, 1 for the modalities that are there


class Aggregate(NamedTuple):
    """What InterCAD says of a batch; a tuple, so that a traced module may return it."""

    scores: Tensor  # (B, C): class scores before softmax, or (B, 1) for regression
    omega: Tensor  # (B, 3): level weights
    beta: Tensor  # (B, 3): modality weights, zero where absent
    eta: Tensor  # (B, 3): private gates, zero where absent
    summaries: Tensor  # (B, 3, 2 * width): g_l


class Temperature(nn.Module):
    """Calibrates scores: one temperature for each subset of modalities, fitted after training; at first all are 1."""

    values: Tensor  # (8,): of the subsets in the order of PRESENCE
    subsets: Tensor  # (8, 3): which modalities are in each

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(len(PRESENCE)))
        self.register_buffer("subsets", torch.tensor(PRESENCE), persistent=False)

    def forward(self, scores: Tensor, present: Tensor) -> Tensor:
        """Probabilities (B, C) of scores (B, C), with the modalities present (B, 3) of each."""
        return torch.softmax(scores / self.of(present), -1)

    def by_subset(self) -> dict[str, float]:
        """The temperatures by the letters of the modalities present, such as "VA"; "" for none."""
        names = ["".join(letter for letter, here in zip(LETTERS, row, strict=True) if here) for row in PRESENCE]
        return dict(zip(names, self.values.tolist(), strict=True))

    def fit(self, subset: str, value: float) -> None:
        """Set the temperature of a subset by its letters."""
        self.values[list(self.by_subset()).index(subset)] = value

    def of(self, present: Tensor) -> Tensor:
        """The temperature (B, 1) of each row: a product with the subset's row of ones, exact and without a look-up."""
        apart = (present.unsqueeze(1) - self.subsets).square().sum(-1)
        return torch.relu(1.0 - apart) @ self.values.unsqueeze(1)


class InterCAD(nn.Module):
    """shared, private (B, 3 levels, 3 modalities, width) and present (B, 3) -> Aggregate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.summary = nn.Linear(2 * width, width, bias=False)
        self.anchors = nn.Parameter(torch.randn(len(LEVELS), width))
        self.level_score = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.gate_vector = nn.Linear(width, 1, bias=False)
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, config.outputs)
        )

    def forward(self, shared: Tensor, private: Tensor, present: Tensor) -> Aggregate:
        here = present.unsqueeze(-1)
        count = present.sum(-1, keepdim=True).clamp(min=1.0)
        g = torch.cat([shared, private], -1).sum(2) / count.unsqueeze(-1)
        omega = self._level_weights(g)
        s = (omega[:, :, None, None] * shared).sum(1)
        p = (omega[:, :, None, None] * private).sum(1)
        if self.config.intercad:
            query = self.query(s.sum(1) / count)
            scores = (self.key(s) * query.unsqueeze(1)).sum(-1) * self.config.width**-0.5
            beta = torch.softmax(scores + (1.0 - present) * MASKED, -1) * present
            eta = torch.sigmoid(self.gate_vector(plain_norm(self.gate(p)))).squeeze(-1) * present
        else:
            beta, eta = present / count, present
        u = torch.cat([(beta.unsqueeze(-1) * s).sum(1), (eta.unsqueeze(-1) * p * here).sum(1)], -1)
        return Aggregate(self.head(u), omega, beta, eta, g)

    def _level_weights(self, g: Tensor) -> Tensor:
        if not self.config.intercad:
            return g.new_full(g.shape[:2], 1.0 / len(LEVELS))
        summary = self.summary(g)
        anchors = self.anchors.unsqueeze(0) + torch.zeros_like(summary)
        logits = self.level_score(torch.cat([summary, anchors, summary * anchors], -1)).squeeze(-1)
        return functional.softmax(logits, -1)
