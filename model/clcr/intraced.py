"""IntraCED, the exchange inside one semantic level: evidence, budget, projection, cross-modal attention (CLCR 3.2).

A token is described once, when it arrives, by everything the exchange will ever need of it; `LevelExchange.fuse` then
works on a window of described tokens. Offline and streaming runs call the same two functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.bases import LevelBases
from clcr.config import MODALITIES, ModelConfig
from clcr.language import MASKED
from clcr.projection import project_budget

ALPHA_FLOOR = 1e-6


@dataclass
class LevelOutputs:
    """One level of a batch of windows. Dictionaries are keyed by modality, stacks are in the order of MODALITIES."""

    shared: Tensor  # (B, 3, width): s_l^m, zero where absent
    private: Tensor  # (B, 3, width): p_l^m, zero where absent
    present: Tensor  # (B, 3): 1 where the modality has a valid token
    budget: Tensor  # (B, 3): B_l^m
    alpha: dict[str, Tensor]  # (B, T)
    valid: dict[str, Tensor]  # (B, T)
    shared_tokens: dict[str, Tensor]  # (B, T, r_s): z before the exchange
    private_tokens: dict[str, Tensor]  # (B, T, r_p)


def plain_norm(x: Tensor) -> Tensor:
    """Layer norm without affine parameters: |x| = sqrt(width)."""
    return functional.layer_norm(x, (int(x.shape[-1]),), eps=1e-6)


class LevelExchange(nn.Module):
    """The weights and the equations of one level: bases, evidence, budget and attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, rank = config.width, config.shared_rank
        self.bases = LevelBases(width, rank, config.private_rank)
        self.position_gain = nn.ParameterDict({m: nn.Parameter(torch.tensor(0.1)) for m in MODALITIES})
        self.evidence_slope = nn.ParameterDict(
            {m: nn.Parameter(torch.tensor(config.evidence_slope)) for m in MODALITIES}
        )
        self.evidence_threshold = nn.Parameter(torch.tensor((rank / width) ** 0.5))
        self.budget_logit = nn.Parameter(torch.logit(torch.tensor(config.budget_init)))
        self.qkv = nn.ModuleDict({m: nn.Linear(rank, 3 * rank, bias=False) for m in MODALITIES})
        self.out = nn.Linear(rank, rank, bias=False)

    @property
    def token_width(self) -> int:
        """Floats that describe a token: z, q, k, v, private coordinates, activation, validity."""
        return 4 * self.config.shared_rank + self.config.private_rank + 2

    def tokenise(self, modality: str, projected: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        """H = LN(Z W + Pos), zero where masked; `projected` is Z W (B, T, width)."""
        hidden = plain_norm(projected.float() + self.position_gain[modality] * position)
        return hidden * valid.unsqueeze(-1)

    def describe(self, modality: str, hidden: Tensor, valid: Tensor, bases: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
        """H (B, T, width) and its mask -> described tokens (B, T, token_width), all zero where masked.

        Evidence e = |h_sh| = |z| for z = h U_sh (the paper's norm); activation sigmoid(slope * (e / sqrt(d) - tau)).
        """
        shared, private = bases
        z = hidden @ shared
        evidence = (z.square().sum(-1, keepdim=True) + 1e-12).sqrt() / self.config.width**0.5
        activation = torch.sigmoid(self.evidence_slope[modality] * (evidence - self.evidence_threshold))
        mask = valid.unsqueeze(-1)
        token = torch.cat([z, self.qkv[modality](z), hidden @ private[modality], activation], -1)
        return torch.cat([token * mask, mask], -1)

    def fuse(self, tokens: dict[str, Tensor], gamma: Tensor, bases: tuple[Tensor, dict[str, Tensor]]) -> LevelOutputs:
        """Windows of described tokens {modality: (B, T, token_width)} and gamma (B, 1) -> the level's outputs."""
        rank, private_rank = self.config.shared_rank, self.config.private_rank
        parts = {m: token.split([rank, rank, rank, rank, private_rank, 1, 1], -1) for m, token in tokens.items()}
        valid = {m: part[6].squeeze(-1) for m, part in parts.items()}
        share = torch.sigmoid(self.budget_logit)
        budget = {m: gamma.squeeze(-1) * share * valid[m].sum(-1) for m in tokens}
        alpha = {m: project_budget(part[5].squeeze(-1), budget[m]) for m, part in parts.items()}
        shared_basis, private_basis = bases
        shared, private, present = [], [], []
        for m, (z, q, *_, coordinates, _, mask) in parts.items():
            others = [o for o in tokens if o != m]
            exchanged = z
            if self.config.intraced and others:
                k, v = (torch.cat([parts[o][i] for o in others], 1) for i in (2, 3))
                pool = torch.cat([valid[o] for o in others], 1)
                bias = torch.cat([self._pool_bias(valid[o], alpha[o]) for o in others], 1)
                received = self._receive(q, k, v, bias, pool)
                exchanged = z + alpha[m].unsqueeze(-1) * received
            count = mask.sum(1)
            here = count.clamp(max=1.0)
            scale = here / count.clamp(min=1.0)
            shared.append(plain_norm((exchanged * mask).sum(1) * scale @ shared_basis.T) * here)
            private.append(plain_norm(coordinates.sum(1) * scale @ private_basis[m].T) * here)
            present.append(here)
        return LevelOutputs(
            shared=torch.stack(shared, 1),
            private=torch.stack(private, 1),
            present=torch.cat(present, 1),
            budget=torch.stack([budget[m] for m in tokens], 1),
            alpha=alpha,
            valid=valid,
            shared_tokens={m: part[0] for m, part in parts.items()},
            private_tokens={m: part[4] for m, part in parts.items()},
        )

    def _receive(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, pool: Tensor) -> Tensor:
        """What each token takes from the pool (B, T, r_s); nothing from an empty pool."""
        if not pool.shape[1] or not q.shape[1]:
            return torch.zeros_like(q)
        filled = pool.amax(-1)
        if not self.training:
            return self.out(self._attend(q, k, v, bias)) * filled[:, None, None]  # type: ignore[no-any-return]
        rows = filled.nonzero().squeeze(-1)  # most training samples have one modality only
        if not len(rows):
            return torch.zeros_like(q)
        taken = self.out(self._attend(q[rows], k[rows], v[rows], bias[rows]))
        return torch.zeros_like(q).index_copy(0, rows, taken)

    def _pool_bias(self, valid: Tensor, alpha: Tensor) -> Tensor:
        bias = (1.0 - valid) * MASKED
        return bias + torch.log(alpha + ALPHA_FLOOR) if self.config.pool_gate == "log_alpha" else bias

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Multi-head attention (B, T, r_s) over the joined pool of the other modalities, one softmax."""
        heads = self.config.heads
        size = self.config.shared_rank // heads
        steps = int(q.shape[1])
        q, k, v = (x.reshape(-1, int(x.shape[1]), heads, size).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) * size**-0.5 + bias[:, None, None, :]
        return (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(-1, steps, heads * size)
