"""The capped-simplex projection behind the exchange budget (CLCR, IntraCED)."""

from __future__ import annotations

import torch
from torch import Tensor


def project_budget(activation: Tensor, budget: Tensor) -> Tensor:
    """Project activations onto {0 <= a <= 1, sum(a) <= B}, exactly, in the Euclidean norm.

    activation: (..., N) in [0, 1], 0 where masked; budget: (...,) >= 0. Returns alpha (..., N).

    As activations never exceed 1, the upper bound is never active and the projection is max(y - lambda, 0) with one
    lambda = max_k (sum of the k largest - B) / k, floored at 0 (the budget is slack). One sort, one product with a
    triangle of ones, no iteration; zeros at the end change nothing, so rows of different lengths are padded. Autograd
    gives the exact gradients: dy = g - mean(g over the active set), dB = mean(g over it).
    """
    count = int(activation.shape[-1])
    if not count:
        return activation
    largest, _ = torch.topk(activation, count, -1)
    places = torch.arange(1, count + 1, dtype=activation.dtype, device=activation.device)
    upper = (places.unsqueeze(1) <= places).to(activation.dtype)
    threshold = (largest @ upper - budget.unsqueeze(-1)) * (1.0 / places)
    alpha = torch.relu(activation - torch.relu(threshold.amax(-1, keepdim=True)))
    # Without a budget, rounding may leave 1e-7 to tied activations; then nothing at all may be exchanged.
    return alpha * torch.sign(budget).unsqueeze(-1)
