"""IntraCED, the exchange inside one semantic level: evidence, budget, projection, cross-modal attention (CLCR 3.2).

A token is described once, when it arrives, by everything the exchange will ever need of it; `LevelExchange.fuse` then
works on a window of described tokens. Offline and streaming runs call the same two functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.bases import LevelBases
from clcr.network.config import MODALITIES, ModelConfig
from clcr.network.projection import project_budget

ALPHA_FLOOR = 1e-6
MASS_FLOOR = 1e-35  # of the probability that falls on valid tokens; an empty pool has none
LEAST_DEVIATION = 1e-3
LEAST_NOTICED = 8  # tokens
NOTICED = 0.02  # share of a batch in the running mean and deviation
SCORE_LIMIT = 70.0  # beyond it that probability may round to nothing: exp(-70) is 4e-31, beside 240 masked tokens 2e-33


@dataclass(frozen=True)
class Described:
    """Tokens of one modality as a window uses them. All is zero where masked, so zeros are an empty window."""

    qkv: Tensor  # (B, 3 * heads, T, r_s / heads): queries (already scaled), keys, values, by head
    marks: Tensor  # (B, 2, T): activation, validity
    pool: Tensor  # (B, rows, r_s + r_p): z and private coordinates; a row is a token, or the sum of a hop's tokens

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """qkv, marks, pool: the order in which the engines pass them."""
        return self.qkv, self.marks, self.pool

    @property
    def length(self) -> int:
        """Number of tokens."""
        return int(self.marks.shape[-1])

    def one_masked(self) -> Described:
        """One token that is not there: what an empty window is to the exchange."""
        rows, parts, size = len(self.qkv), self.qkv.shape[1], self.qkv.shape[3]
        pool = self.pool.new_zeros(rows, 1, self.pool.shape[2])
        return Described(self.qkv.new_zeros(rows, parts, 1, size), self.marks.new_zeros(rows, 2, 1), pool)

    def window(self, start: int, stop: int) -> Described:
        """Tokens [start, stop); only where each row of the pool is one token."""
        return Described(self.qkv[:, :, start:stop], self.marks[..., start:stop], self.pool[:, start:stop])


@dataclass
class LevelOutputs:
    """One level of a batch of windows. Dictionaries are keyed by modality, stacks are in the order of MODALITIES."""

    shared: Tensor  # (B, 3, width): s_l^m, zero where absent
    private: Tensor  # (B, 3, width): p_l^m, zero where absent
    present: Tensor  # (B, 3): 1 where the modality has a valid token
    budget: Tensor  # (B, 3): B_l^m
    alpha: dict[str, Tensor]  # (B, T)
    valid: dict[str, Tensor]  # (B, T)
    shared_tokens: dict[str, Tensor]  # (B, rows of the pool, r_s): z before the exchange
    private_tokens: dict[str, Tensor]  # (B, rows of the pool, r_p)


def plain_norm(x: Tensor) -> Tensor:
    """Layer norm without affine parameters: |x| = sqrt(width)."""
    return functional.layer_norm(x, (int(x.shape[-1]),), eps=1e-6)


class LevelExchange(nn.Module):
    """The weights and the equations of one level: bases, evidence, budget and attention."""

    evidence_mean: Tensor  # (3,), as MODALITIES
    evidence_deviation: Tensor  # (3,)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, rank = config.width, config.shared_rank
        self.bases = LevelBases(width, rank, config.private_rank)
        self.position_gain = nn.ParameterDict({m: nn.Parameter(torch.tensor(0.1)) for m in MODALITIES})
        self.evidence_slope = nn.ParameterDict(
            {m: nn.Parameter(torch.tensor(config.evidence_slope)) for m in MODALITIES}
        )
        self.evidence_threshold = nn.Parameter(torch.zeros(()))
        # Of e / sqrt(d) by modality, followed in training; at first of random tokens (e^2 / d is beta-distributed).
        deviation = ((1.0 - rank / width) / (width / 2 + 1)) ** 0.5 / 2
        self.register_buffer("evidence_mean", torch.full((len(MODALITIES),), (rank / width) ** 0.5))
        self.register_buffer("evidence_deviation", torch.full((len(MODALITIES),), deviation))
        self.budget_logit = nn.Parameter(torch.logit(torch.tensor(config.budget_init)))
        self.qkv = nn.ModuleDict({m: nn.Linear(rank, 3 * rank, bias=False) for m in MODALITIES})
        self.out = nn.Linear(rank, rank, bias=False)

    def matrices(self, shared: Tensor, private: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `describe` multiplies H by, per modality: [U_sh | U_pr,m | U_sh W_q / sqrt(r_s / heads) | U_sh W_kv]."""
        rank = self.config.shared_rank
        found: dict[str, Tensor] = {}
        for m in MODALITIES:
            q, kv = (shared @ self._qkv_weight(m).T.to(shared.dtype)).split([rank, 2 * rank], -1)
            found[m] = torch.cat([shared, private[m], q * (rank // self.config.heads) ** -0.5, kv], -1)
        return found

    def _qkv_weight(self, modality: str) -> Tensor:
        return cast(nn.Linear, self.qkv[modality]).weight

    def tokenise(self, modality: str, projected: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        """H = LN(Z W + Pos), zero where masked; `projected` is Z W (B, T, width)."""
        hidden = plain_norm(projected.float() + self.position_gain[modality] * position)
        return hidden * valid.unsqueeze(-1)

    def describe(self, modality: str, hidden: Tensor, valid: Tensor, matrix: Tensor) -> Described:
        """H (B, T, width), zero where masked, its mask and the modality's matrix -> described tokens.

        Evidence e = |h_sh| = |z| for z = h U_sh (the paper's norm). Activation sigmoid(slope * (x - tau)), e / sqrt(d)
        being x deviations from its mean in training: about the share of tokens with less evidence (docs/model.md, 1.3).
        """
        rank, heads, width = self.config.shared_rank, self.config.heads, self.config.width
        pool, qkv = (hidden @ matrix).split([int(matrix.shape[1]) - 3 * rank, 3 * rank], -1)
        evidence = torch.linalg.vector_norm(pool[..., :rank], dim=-1)
        place = MODALITIES.index(modality)
        if self.training:
            self._notice(place, evidence.detach()[valid > 0] / width**0.5)
        scale = self.evidence_slope[modality] / self.evidence_deviation[place]
        threshold = self.evidence_mean[place] + self.evidence_deviation[place] * self.evidence_threshold
        activation = torch.sigmoid(evidence * (scale / width**0.5) - scale * threshold) * valid
        steps = int(hidden.shape[1])
        rows = -1 if steps else int(hidden.shape[0])  # without a token, -1 cannot be inferred
        qkv = qkv.reshape(rows, steps, 3 * heads, rank // heads).transpose(1, 2)
        return Described(qkv, torch.cat([activation, valid], 1).reshape(rows, 2, steps), pool)

    @torch.no_grad()
    def _notice(self, place: int, evidence: Tensor) -> None:
        """Follow the mean and deviation of a modality's evidence."""
        if len(evidence) < LEAST_NOTICED:
            return
        # New tensors: the gradients of this step still need the old ones.
        self.evidence_mean, self.evidence_deviation = self.evidence_mean.clone(), self.evidence_deviation.clone()
        self.evidence_mean[place].lerp_(evidence.mean(), NOTICED)
        self.evidence_deviation[place].lerp_(evidence.std().clamp(min=LEAST_DEVIATION), NOTICED)

    def fuse(
        self, tokens: dict[str, Described], gamma: Tensor, bases: tuple[Tensor, dict[str, Tensor]]
    ) -> LevelOutputs:
        """Windows of described tokens {modality: ...} and gamma (B, 1) -> the level's outputs.

        Only means over the window leave a level, and they are linear in what is exchanged:
        mean_t(z_t + alpha_t W_o sum_j P_tj v_j) = mean z + W_o((alpha P) V) / T. No token's own share is formed.
        """
        rank, private_rank = self.config.shared_rank, self.config.private_rank
        windows = {m: t if t.length else t.one_masked() for m, t in tokens.items()}
        longest = max(t.length for t in windows.values())
        marks = torch.cat([_padded(t.marks, longest) for t in windows.values()], 1)
        marks = marks.reshape(-1, len(tokens), 2, longest)
        activation, valid = marks[:, :, 0], marks[:, :, 1]
        count = valid.sum(-1)
        budget = gamma * torch.sigmoid(self.budget_logit) * count
        shares = project_budget(activation, budget).reshape(-1, len(tokens) * longest)
        alpha = {m: shares[:, i * longest : i * longest + t.length] for i, (m, t) in enumerate(windows.items())}
        present = count.clamp(max=1.0)
        z, coordinates = torch.cat([t.pool.sum(1, keepdim=True) for t in windows.values()], 1).split(
            [rank, private_rank], -1
        )
        if self.config.intraced and len(tokens) > 1:
            z = z + self._exchange(windows, alpha, present)
        scale = 1.0 / count.clamp(min=1.0).unsqueeze(-1)
        shared_basis, private_basis = bases
        outwards = torch.stack([private_basis[m].T for m in tokens])  # (M, r_p, width)
        return LevelOutputs(
            shared=plain_norm(z * scale @ shared_basis.T),  # zero where absent: the norm of zero is zero
            private=plain_norm(((coordinates * scale).unsqueeze(2) @ outwards).squeeze(2)),
            present=present,
            budget=budget,
            alpha={m: alpha[m] if t.length else alpha[m][:, :0] for m, t in tokens.items()},
            valid={m: t.marks[:, 1] for m, t in tokens.items()},
            shared_tokens={m: t.pool[..., :rank] for m, t in tokens.items()},
            private_tokens={m: t.pool[..., rank:] for m, t in tokens.items()},
        )

    def _exchange(self, tokens: dict[str, Described], alpha: dict[str, Tensor], present: Tensor) -> Tensor:
        """What the tokens of each modality take from the others' in sum, through W_o (B, M, r_s)."""
        if self.training:  # most training samples have one modality only, and nothing to exchange
            rows = (present.sum(1) > 1).nonzero().squeeze(-1)
            result = present.new_zeros(len(present), len(tokens), self.config.shared_rank)
            if len(rows):
                tokens = {m: Described(*(part[rows] for part in t.parts())) for m, t in tokens.items()}
                alpha = {m: share[rows] for m, share in alpha.items()}
                result = result.index_copy(0, rows, self._received(tokens, alpha))
            return result
        return self._received(tokens, alpha)

    def _received(self, tokens: dict[str, Described], alpha: dict[str, Tensor]) -> Tensor:
        received = torch.cat([self.receive(m, tokens, alpha) for m in tokens], 2)  # (B, heads, M, size)
        taken: Tensor = self.out(received.transpose(1, 2).reshape(-1, len(tokens), self.config.shared_rank))
        return taken

    def receive(self, modality: str, tokens: dict[str, Described], alpha: dict[str, Tensor]) -> Tensor:
        """sum_t alpha_t P_t V of one modality over the pool of the others, before W_o (B, heads, 1, r_s / heads).

        A masked token has k = v = 0: it adds nothing to the sum, and what it takes of the softmax is divided out again
        (adding -1e4 to its scores is the same and passes once more over the largest tensor: 6 % of a level's time).
        """
        heads, own = self.config.heads, tokens[modality]
        others = {m: t for m, t in tokens.items() if m != modality}
        q = own.qkv[:, :heads]
        k, v = (torch.cat([t.qkv[:, i * heads : (i + 1) * heads] for t in others.values()], 2) for i in (1, 2))
        valid = torch.cat([t.marks[:, 1] for t in others.values()], 1).reshape(-1, 1, 1, int(k.shape[2]))
        scores = q @ k.transpose(-1, -2)
        if self.config.pool_gate == "log_alpha":
            scores = scores + torch.log(torch.cat([alpha[o] for o in others], 1) + ALPHA_FLOOR)[:, None, None, :]
        p = torch.softmax(scores, -1)
        mass = valid @ p.transpose(-1, -2)  # (B, heads, 1, T)
        weight = alpha[modality].reshape(-1, 1, 1, int(q.shape[2])) / mass.clamp(min=MASS_FLOOR)
        return weight @ p @ v

    @torch.no_grad()
    def largest_score(self) -> float:
        """No score q . k of attention is ever larger in size, as |h| <= sqrt(width)."""
        rank, size = self.config.shared_rank, self.config.shared_rank // self.config.heads
        weights = {m: self._qkv_weight(m).double().reshape(3, -1, size, rank) for m in MODALITIES}
        norms = [
            torch.linalg.matrix_norm(weights[a][0].transpose(-1, -2) @ weights[b][1], 2).max()
            for a in MODALITIES
            for b in MODALITIES
            if a != b
        ]
        return float(max(norms) * self.config.width / float(size) ** 0.5)


def _padded(x: Tensor, length: int) -> Tensor:
    """The last dimension filled up with zeros; one that is long enough costs no operation."""
    missing = length - int(x.shape[-1])
    return functional.pad(x, (0, missing)) if missing else x
