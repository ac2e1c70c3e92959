"""The losses of CLCR: task, intra-level and inter-level regularisers (CLCR 3.4; forms marked C in docs/model.md)."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import LEVELS, MODALITIES, ModelConfig
from clcr.network.intraced import LevelOutputs
from clcr.network.model import Outputs

SHRINKAGE = 0.05
SKETCH = 8  # rank of the cross-modal sketch: a batch holds few samples with two modalities
EMA = 0.9
UNLABELLED = -1  # a class that the loss takes no notice of
MAX_TOKENS = 2048


def whitened_correlation(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """wcc = |Sxx^-1/2 Sxy Syy^-1/2|_F^2 / min(r): 0 for uncorrelated, 1 for linearly redundant features."""
    left = torch.linalg.solve(_shrunk(xx), xy)
    right = torch.linalg.solve(_shrunk(yy), xy.T)
    correlation: Tensor = (left * right.T).sum() / min(xy.shape)
    return correlation


def _shrunk(covariance: Tensor) -> Tensor:
    rank = covariance.shape[0]
    scale = covariance.diagonal().mean().clamp(min=1e-6)
    eye = torch.eye(rank, device=covariance.device, dtype=covariance.dtype)
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * eye


def token_correlation(x: Tensor, y: Tensor) -> Tensor:
    """wcc over token samples x (N, r), y (N, q); 0 when there are fewer samples than twice the ranks."""
    if len(x) < 2 * (x.shape[1] + y.shape[1]):
        return x.new_zeros(())
    if len(x) > MAX_TOKENS:
        stride = len(x) // MAX_TOKENS
        x, y = x[::stride], y[::stride]
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x) - 1
    return whitened_correlation(x.T @ x / n, x.T @ y / n, y.T @ y / n)


class TotalLoss(nn.Module):
    """L = L_task + lambda_intra L_Intra + lambda_inter L_Inter, with the cross-modal running covariances."""

    class_weights: Tensor | None
    sketch: Tensor
    covariances: Tensor

    def __init__(self, config: ModelConfig, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights)
        generator = torch.Generator().manual_seed(0)
        rank = min(SKETCH, config.private_rank)
        sketch, _ = torch.linalg.qr(torch.randn(config.private_rank, rank, generator=generator))
        self.register_buffer("sketch", sketch)
        pairs = len(LEVELS) * len(list(combinations(MODALITIES, 2)))
        self.register_buffer("covariances", torch.eye(2 * rank).repeat(pairs, 1, 1))

    def forward(self, outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """labels: int64 (B,) classes, -1 where unknown; float (B,) for regression. Keys: total, task, intra, inter."""
        task = self._task(outputs.logits, labels)
        zero = task.new_zeros(())
        intra = inter = zero
        if self.config.regularisers:
            intra, inter = self._intra(outputs.levels), self.inter_level(outputs)
        total = task + self.config.lambda_intra * intra + self.config.lambda_inter * inter
        return {"total": total, "task": task, "intra": intra, "inter": inter}

    def _task(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.task == "regression":
            return functional.l1_loss(logits.squeeze(-1), labels)
        if not bool((labels >= 0).any()):
            return logits.sum() * 0.0  # the mean over no labels would be NaN
        return functional.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            ignore_index=UNLABELLED,
            label_smoothing=self.config.label_smoothing,
        )

    def _intra(self, levels: tuple[LevelOutputs, ...]) -> Tensor:
        """Private against private across modalities (pooled, sketched), private against shared within one (tokens)."""
        terms: list[Tensor] = []
        pair = 0
        for level in levels:
            for m in MODALITIES:
                mask = level.valid[m].bool()
                terms.append(token_correlation(level.private_tokens[m][mask], level.shared_tokens[m][mask]))
            for a, b in combinations(MODALITIES, 2):
                terms.append(self._across(level, a, b, pair))
                pair += 1
        return torch.stack(terms).mean()

    def _across(self, level: LevelOutputs, a: str, b: str, pair: int) -> Tensor:
        i, j = MODALITIES.index(a), MODALITIES.index(b)
        both = (level.present[:, i] * level.present[:, j]).bool()
        if int(both.sum()) < 2:
            return level.present.new_zeros(())
        pooled = torch.cat([self._pooled(level, m, both) @ self.sketch for m in (a, b)], 1)
        centred = pooled - pooled.mean(0)
        batch = centred.T @ centred / (len(centred) - 1)
        joint = EMA * self.covariances[pair] + (1 - EMA) * batch
        if self.training:
            self.covariances[pair] = joint.detach()
        rank = self.sketch.shape[1]
        return whitened_correlation(joint[:rank, :rank], joint[:rank, rank:], joint[rank:, rank:])

    @staticmethod
    def _pooled(level: LevelOutputs, modality: str, rows: Tensor) -> Tensor:
        mask = level.valid[modality][rows].unsqueeze(-1)
        return (level.private_tokens[modality][rows] * mask).sum(1) / mask.sum(1).clamp(min=1.0)

    def inter_level(self, outputs: Outputs) -> Tensor:
        """L_pr (cross-level private redundancy) + L_sp (cross-level leakage) + L_mix (levels that disagree)."""
        redundancy: list[Tensor] = []
        leakage: list[Tensor] = []
        for a, b in combinations(outputs.levels, 2):
            for m in MODALITIES:
                mask = a.valid[m].bool()
                redundancy.append(token_correlation(a.private_tokens[m][mask], b.private_tokens[m][mask]))
                leakage.append(token_correlation(a.private_tokens[m][mask], b.shared_tokens[m][mask]))
                leakage.append(token_correlation(b.private_tokens[m][mask], a.shared_tokens[m][mask]))
        g = functional.normalize(outputs.summaries.detach(), dim=-1)
        kappa = (1.0 - g @ g.transpose(1, 2)) / 2
        weights = outputs.omega.unsqueeze(2) * outputs.omega.unsqueeze(1)
        off_diagonal = 1.0 - torch.eye(len(LEVELS), device=weights.device)
        mix = (kappa * weights * off_diagonal).sum((1, 2)).mean()
        return torch.stack(redundancy).mean() + torch.stack(leakage).mean() + self.config.lambda_mix * mix
