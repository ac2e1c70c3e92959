"""The projection onto the budget: {0 <= a <= 1, sum a <= B}."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from clcr.network.projection import project_budget
from close import assert_close

unit = st.floats(0.0, 1.0, allow_subnormal=False)
activations = st.lists(unit, min_size=1, max_size=12).map(lambda y: torch.tensor(y, dtype=torch.float64))
tied = st.tuples(st.lists(unit, min_size=1, max_size=3), st.lists(st.integers(0, 2), min_size=1, max_size=12)).map(
    lambda pair: torch.tensor([pair[0][i % len(pair[0])] for i in pair[1]], dtype=torch.float64)
)
any_activations = activations | tied
shares = st.floats(0.0, 1.3)
checked = settings(deadline=None, max_examples=80)


def projected(y: Tensor, budget: float) -> Tensor:
    return project_budget(y, torch.tensor(budget, dtype=y.dtype))


@checked
@given(any_activations, shares)
def test_alpha_stays_in_the_capped_simplex(y: Tensor, share: float) -> None:
    budget = share * float(y.sum())
    alpha = projected(y, budget)
    assert float(alpha.min()) >= 0.0
    assert float(alpha.max()) <= 1.0
    assert float(alpha.sum()) <= budget + 1e-6


@checked
@given(any_activations, st.floats(0.0, 14.0))
def test_it_equals_bisection_on_the_multiplier(y: Tensor, budget: float) -> None:
    expected = reference.project(y.numpy(), budget)
    np.testing.assert_allclose(projected(y, budget).numpy(), expected, rtol=0, atol=1e-9)


@checked
@given(any_activations, st.floats(1e-3, 1.3))
def test_it_is_the_nearest_point_to_any_other_in_the_set(y: Tensor, share: float) -> None:
    """The variational inequality <y - alpha, c - alpha> <= 0, on the corners of the capped simplex."""
    budget = share * float(y.sum())
    alpha = projected(y, budget)
    for corner in torch.eye(len(y), dtype=y.dtype) * min(1.0, budget):
        assert float((y - alpha) @ (corner - alpha)) <= 1e-9
    assert float((y - alpha) @ (0.0 - alpha)) <= 1e-9


@checked
@given(any_activations, st.floats(0.0, 5.0))
def test_a_slack_budget_changes_nothing(y: Tensor, extra: float) -> None:
    assert torch.equal(projected(y, float(y.sum()) + 1e-9 + extra), y)
    assert torch.equal(projected(y, float(len(y)) + extra), y)


@checked
@given(any_activations, st.floats(0.05, 0.95))
def test_a_binding_budget_is_spent_and_takes_the_same_from_every_active_token(y: Tensor, share: float) -> None:
    budget = share * float(y.sum())
    alpha = projected(y, budget)
    assert float(alpha.sum()) == pytest.approx(budget, abs=1e-9)
    active = alpha > 1e-9
    if active.any():
        taken = (y - alpha)[active]
        assert float(taken.max() - taken.min()) < 1e-9
        assert bool((y[~active] <= taken.max() + 1e-9).all())


@checked
@given(any_activations, shares)
def test_the_order_follows_the_activations(y: Tensor, share: float) -> None:
    alpha = projected(y, share * float(y.sum()))
    order = y.argsort()
    assert bool((alpha[order].diff() >= 0).all())


@checked
@given(any_activations, shares)
def test_projecting_again_changes_nothing(y: Tensor, share: float) -> None:
    budget = share * float(y.sum())
    alpha = projected(y, budget)
    assert_close(projected(alpha, budget), alpha, atol=1e-9, rtol=0)


@checked
@given(any_activations, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_larger_budget_takes_nothing_away(y: Tensor, one: float, other: float) -> None:
    small, large = (projected(y, share * float(y.sum())) for share in sorted((one, other)))
    assert bool((large >= small - 1e-12).all())
    assert int((large > 1e-12).sum()) >= int((small > 1e-12).sum())


@checked
@given(any_activations)
def test_no_budget_leaves_nothing_bit_for_bit(y: Tensor) -> None:
    for values in (y, y.float()):
        assert torch.equal(projected(values, 0.0), torch.zeros_like(values))


@checked
@given(any_activations, shares, st.integers(1, 8))
def test_masked_tokens_take_no_part(y: Tensor, share: float, masked: int) -> None:
    budget = share * float(y.sum())
    padded = projected(torch.cat([y, torch.zeros(masked, dtype=y.dtype)]), budget)
    assert_close(padded[: len(y)], projected(y, budget), atol=1e-12, rtol=0)
    assert torch.equal(padded[len(y) :], torch.zeros(masked, dtype=y.dtype))


@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0, 2.0])
def test_one_token_gets_what_the_budget_allows(budget: float) -> None:
    assert float(projected(torch.tensor([0.8]), budget)) == pytest.approx(min(0.8, budget))


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_all_masked_and_no_tokens_at_all_give_nothing(budget: float) -> None:
    assert torch.equal(projected(torch.zeros(5), budget), torch.zeros(5))
    assert project_budget(torch.zeros(2, 0), torch.full((2,), budget)).shape == (2, 0)


def test_tied_tokens_share_the_budget_evenly() -> None:
    assert_close(projected(torch.full((6,), 0.7), 1.5), torch.full((6,), 0.25))


def test_rows_of_a_batch_are_projected_alone() -> None:
    y, budget = torch.rand(3, 2, 9), torch.rand(3, 2) * 4
    together = project_budget(y, budget)
    for i in range(3):
        for j in range(2):
            alone = project_budget(y[i, j], budget[i, j])
            assert_close(together[i, j], alone, atol=2e-6, rtol=0)  # a row is another product


def test_float32_keeps_a_full_window_within_its_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(200, 150, generator=generator)
    budget = torch.rand(200, generator=generator) * 60
    excess = project_budget(y, budget).double().sum(-1) - budget.double()
    rounding = 150 * 2.0**-24 * y.double().sum(-1)  # of a sum of 150 terms, in whichever order a CPU adds them
    assert bool((excess <= rounding).all())
    assert float((rounding / budget).median()) < 1e-4


def separated(y: Tensor, budget: float) -> bool:
    """Whether a step of 1e-6 crosses no kink: no ties, no token at its threshold, no budget at its edge."""
    alpha = projected(y, budget)
    multiplier = float((y - alpha).max()) if float(y.sum()) > budget else 0.0
    apart = np.diff(np.unique([*y.tolist(), multiplier, 0.0, 1.0]))
    distinct = len(set(y.tolist())) == len(y) and bool((apart > 1e-4).all())
    return distinct and abs(float(y.sum()) - budget) > 1e-3 and budget > 1e-3


@checked
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.05, 1.3))
def test_gradients_of_activation_and_budget_equal_finite_differences(seed: int, size: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(size, dtype=torch.float64, generator=generator)
    budget = share * float(y.sum())
    if not separated(y, budget):
        return
    inputs = (y.requires_grad_(), torch.tensor(budget, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(project_budget, inputs, eps=1e-6, atol=1e-6)


@checked
@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(0.1, 0.9))
def test_a_binding_budget_has_the_gradient_of_the_paper(seed: int, size: int, share: float) -> None:
    """dy = g - mean of g over the active tokens, 0 elsewhere; dB = that mean. Slack: dy = g, dB = 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(size, dtype=torch.float64, generator=generator)
    g = torch.randn(size, dtype=torch.float64, generator=generator)
    for budget, binding in ((share * float(y.sum()), True), (float(y.sum()) + 1.0, False)):
        if not separated(y, budget):
            return
        point, limit = y.clone().requires_grad_(), torch.tensor(budget, dtype=y.dtype, requires_grad=True)
        alpha = project_budget(point, limit)
        dy, db = torch.autograd.grad(alpha, (point, limit), g)
        active = (alpha > 0).double()
        mean = float((g * active).sum() / active.sum()) if binding else 0.0
        assert_close(dy, active * (g - mean), atol=1e-9, rtol=0)
        assert float(db) == pytest.approx(mean, abs=1e-9)
