"""The capped-simplex projection behind the exchange budget (CLCR, IntraCED)."""

from __future__ import annotations

import torch
from torch import Tensor


def project_budget(activation: Tensor, budget: Tensor) -> Tensor:
    """Project activations onto {0 <= a <= 1, sum(a) <= B}, exactly, in the Euclidean norm.

    activation: (..., N) in [0, 1], 0 where masked; budget: (...,) >= 0. Returns alpha (..., N).

    As activations never exceed 1, the upper bound is never active and the projection is max(y - lambda, 0) with one
    lambda >= 0. For the sorted y, lambda = max_k (sum of the k largest - B) / k, floored at 0 (the budget is slack):
    taking the maximum over every token's own k needs no sort and no iteration, so the same five operations train,
    export and run. Autograd gives the exact gradients: dy = g - mean(g over the active set), dB = mean(g over it).
    Cost: N^2 comparisons.
    """
    if not activation.shape[-1]:
        return activation
    at_least = (activation.unsqueeze(-2) >= activation.unsqueeze(-1)).to(activation.dtype)  # [i, j]: y_j >= y_i
    total = (at_least * activation.unsqueeze(-2)).sum(-1)
    threshold = (total - budget.unsqueeze(-1)) / at_least.sum(-1)
    alpha = torch.relu(activation - torch.relu(threshold.amax(-1, keepdim=True)))
    # Without a budget, rounding may leave 1e-7 to tied activations; then nothing at all may be exchanged.
    return alpha * (budget > 0).to(alpha.dtype).unsqueeze(-1)
