"""A person's baseline: what is usual for this face or voice is taken out of the features before anything is compared.

The state of a track: a slow causal mean of the features of earlier hops, and of how many steps it is made. It is empty
at the start of a stream, and then changes nothing. Ours, not the paper's (docs/model.md, 1.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCK = {"vision": 3, "acoustic": 5}  # tokens of a hop
HORIZON_S = 60.0  # older than about a minute fades
PRIOR_S = 3.0  # at the start of training: a baseline of this age counts half
# No baseline counts for more than one of this age. A voice is taken for known after seconds: with all of the mean taken
# out, a past that is neutral, or anger alone, cost more than it gave (docs/LOG.md).
TRUST_S = {"vision": 60.0, "acoustic": 4.0}
HOP_S = 0.2


class Baseline(nn.Module):
    """x - w b + w c for a hop's features x (B, T, width), where b is the mean of the hops before and c is learned.

    The weight w = n / (n + prior) grows with the number n of steps that b is made of, up to those of `trust_s`; the
    prior is learned. State: b (B, width) and n (B, 1), at most a minute's. A masked step counts for nothing.
    """

    state_parts = ("baseline", "baseline_steps")

    def __init__(self, width: int, block: int, trust_s: float = HORIZON_S) -> None:
        super().__init__()
        self.width, self.block = width, block
        self.horizon, self.trust = HORIZON_S / HOP_S * block, trust_s / HOP_S * block
        self.log_prior = nn.Parameter(torch.tensor(math.log(PRIOR_S / HOP_S * block)))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x (B, T, width), valid (B, T), T whole hops, and the state -> the same shape and the next state."""
        steps = int(x.shape[1])
        if steps == self.block:
            return self._hop(x, valid, states)
        hops = []
        for start in range(0, steps, self.block):
            hop = slice(start, start + self.block)
            out, states = self._hop(x[:, hop], valid[:, hop], states)
            hops.append(out)
        return torch.cat(hops, 1) if hops else x, list(states)

    def weight(self, count: Tensor) -> Tensor:
        """w of a mean of `count` steps."""
        trusted = count.clamp(max=self.trust)
        return trusted / (trusted + self.log_prior.exp())

    def initial_state(self, streams: int) -> list[Tensor]:
        return [torch.zeros(streams, self.width), torch.zeros(streams, 1)]

    def _hop(self, x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        usual, count = states
        out = x + (self.weight(count) * (self.shift - usual)).unsqueeze(1)
        total = count + valid.sum(1, keepdim=True)
        change = ((x - usual.unsqueeze(1)) * valid.unsqueeze(-1)).sum(1)
        return out, [usual + change / total.clamp(min=1.0), total.clamp(max=self.horizon)]
