"""Shared and private bases: orthonormal, mutually orthogonal, and so after training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clcr.network.bases import LevelBases
from clcr.network.config import MODALITIES, ModelConfig
from clcr.network.streaming import frozen_bases
from clcr_factory import TINY, tiny_model
from close import assert_close

WIDTH, SHARED, PRIVATE = 24, 12, 6


def worst(matrix: Tensor, expected: Tensor) -> float:
    return float((matrix - expected).detach().abs().max())


def check_orthonormal(shared: Tensor, private: dict[str, Tensor], allowed: float) -> None:
    assert worst(shared.T @ shared, torch.eye(shared.shape[1])) < allowed
    for basis in private.values():
        assert worst(basis.T @ basis, torch.eye(basis.shape[1])) < allowed
        assert worst(shared.T @ basis, torch.zeros(shared.shape[1], basis.shape[1])) < allowed


def check_private_differ(private: dict[str, Tensor], least: float) -> None:
    projectors = [basis @ basis.T for basis in private.values()]
    for i, one in enumerate(projectors):
        for other in projectors[:i]:
            assert float((one - other).detach().norm()) > least


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(3, 20), st.data())
def test_fresh_bases_are_orthonormal_and_shared_is_orthogonal_to_private(
    seed: int, width: int, data: st.DataObject
) -> None:
    shared_rank = data.draw(st.integers(1, width - 2))
    private_rank = data.draw(st.integers(1, width - shared_rank - 1))
    torch.manual_seed(seed)
    shared, private = LevelBases(width, shared_rank, private_rank)()
    assert shared.shape == (width, shared_rank)
    assert {m: tuple(basis.shape) for m, basis in private.items()} == dict.fromkeys(MODALITIES, (width, private_rank))
    check_orthonormal(shared, private, 1e-5)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_shared_and_private_parts_of_a_token_are_orthogonal_and_shorter_than_it(seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        shared, private = LevelBases(WIDTH, SHARED, PRIVATE)()
    h = torch.randn(7, WIDTH)
    h_shared = h @ shared @ shared.T
    assert_close(h_shared.norm(dim=-1), (h @ shared).norm(dim=-1), atol=1e-4, rtol=1e-5)
    for basis in private.values():
        h_private = h @ basis @ basis.T
        assert float((h_shared * h_private).sum(-1).abs().max()) < 1e-4
        assert bool((h_shared.norm(dim=-1) ** 2 + h_private.norm(dim=-1) ** 2 <= h.norm(dim=-1) ** 2 + 1e-3).all())


def test_private_projectors_of_two_modalities_differ() -> None:
    torch.manual_seed(0)
    check_private_differ(LevelBases(WIDTH, SHARED, PRIVATE)()[1], 0.5)


def trained(steps: int, optimizer: str) -> LevelBases:
    """Bases after steps towards a random target, with weight decay on their generators."""
    torch.manual_seed(1)
    bases = LevelBases(WIDTH, SHARED, PRIVATE)
    target = torch.randn(WIDTH, SHARED + len(MODALITIES) * PRIVATE)
    made: torch.optim.Optimizer
    if optimizer == "adamw":
        made = torch.optim.AdamW(bases.parameters(), lr=2e-2, weight_decay=0.1)
    else:
        made = torch.optim.SGD(bases.parameters(), lr=5e-2, momentum=0.9, weight_decay=1e-1)
    for _ in range(steps):
        made.zero_grad()
        shared, private = bases()
        loss = (torch.cat([shared, *private.values()], 1) - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        made.step()
    return bases


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_bases_stay_orthonormal_over_100_steps_with_weight_decay(optimizer: str) -> None:
    """torch's map for rectangular matrices turned the basis into zeros at the first step of weight decay."""
    before, after = trained(0, optimizer)(), trained(100, optimizer)()
    check_orthonormal(after[0], after[1], 1e-5)
    check_private_differ(after[1], 0.5)
    assert worst(before[0], after[0]) > 0.05  # they did move
    assert all(worst(before[1][m], after[1][m]) > 0.05 for m in MODALITIES)


def test_frozen_bases_of_a_trained_level_are_the_bases_themselves() -> None:
    model = tiny_model()
    model.levels[0].bases = trained(20, "adamw")
    shared, private = frozen_bases(model, 0)
    expected_shared, expected_private = model.exchanges[0].bases()
    check_orthonormal(shared, private, 1e-6)
    assert worst(shared, expected_shared) < 1e-6
    assert all(worst(private[m], expected_private[m]) < 1e-6 for m in MODALITIES)


def test_ranks_that_would_make_all_private_projectors_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all private projectors are the same"):
        ModelConfig(width=24, shared_rank=16, private_rank=8)
    with pytest.raises(ValueError, match="is not a multiple of heads"):
        ModelConfig(width=24, shared_rank=10, private_rank=8, heads=4)
    assert TINY.private_rank < TINY.width - TINY.shared_rank
