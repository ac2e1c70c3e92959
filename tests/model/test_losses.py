"""The regularisers of CLCR: what they measure, that they are bounded, and whom they push."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clcr.network.config import ModelConfig
from clcr.network.losses import EMA, SHRINKAGE, TotalLoss, token_correlation, whitened_correlation
from clcr.network.model import CLCR, Outputs
from clcr_factory import TINY, fixed_model, random_batch, tiny_model, without
from close import assert_close

checked = settings(deadline=None, max_examples=20)


def covariances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x) - 1
    return x.T @ x / n, x.T @ y / n, y.T @ y / n


def by_inverse_roots(xx: Tensor, xy: Tensor, yy: Tensor) -> float:
    """|Sxx^-1/2 Sxy Syy^-1/2|_F^2 / min(r), written as it stands, with the same shrinkage."""

    def inverse_root(s: np.ndarray) -> np.ndarray:
        s = (1 - SHRINKAGE) * s + SHRINKAGE * np.trace(s) / len(s) * np.eye(len(s))
        values, vectors = np.linalg.eigh(s)
        return np.asarray(vectors @ np.diag(values**-0.5) @ vectors.T)

    white = inverse_root(xx.numpy()) @ xy.numpy() @ inverse_root(yy.numpy())
    return float((white**2).sum() / min(xy.shape))


@checked
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_wcc_is_the_whitened_cross_correlation(seed: int, r: int, q: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, r, dtype=torch.float64, generator=generator)
    y = x @ torch.randn(r, q, dtype=torch.float64, generator=generator) * 0.5
    y = y + torch.randn(60, q, dtype=torch.float64, generator=generator)
    parts = covariances(x, y)
    assert float(whitened_correlation(*parts)) == pytest.approx(by_inverse_roots(*parts), rel=1e-9)


@checked
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_wcc_is_symmetric_ignores_rotation_and_scale_and_is_bounded(seed: int, r: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 80, r, dtype=torch.float64, generator=generator).unbind(0)
    y = y + x
    turn, _ = torch.linalg.qr(torch.randn(r, r, dtype=torch.float64, generator=generator))
    value = float(token_correlation(x, y))
    assert float(token_correlation(y, x)) == pytest.approx(value, rel=1e-9)
    assert float(token_correlation(3.0 * x @ turn + 5.0, y)) == pytest.approx(value, rel=1e-6)
    assert 0.0 <= value <= 1.0 / (1.0 - SHRINKAGE) ** 2


def test_copies_are_redundant_and_independent_samples_are_near_their_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2000, 8, generator=generator).unbind(0)
    assert float(token_correlation(x, x)) == pytest.approx(1.0, abs=0.02)
    assert float(token_correlation(x, y)) == pytest.approx(8 / 2000, rel=0.4)


def test_too_few_samples_say_nothing() -> None:
    """Independent data of N samples and rank r give about r / (N - 1): a value that says nothing is not a loss."""
    x = torch.randn(15, 4, requires_grad=True)
    value = token_correlation(x, torch.randn(15, 4))
    assert float(value.detach()) == 0.0
    assert not value.requires_grad
    assert float(token_correlation(torch.randn(16, 4), torch.randn(16, 4))) > 0.0


def test_a_large_batch_is_thinned_over_its_whole_length() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator)
    y = torch.cat([x[:2500], torch.randn(2500, 3, generator=generator)])
    assert 0.15 < float(token_correlation(x, y)) < 0.35  # the first half alone would give 1


def test_wcc_gradient_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20, 2, dtype=torch.float64, generator=generator).unbind(0)
    assert torch.autograd.gradcheck(token_correlation, (x.requires_grad_(), y.requires_grad_()), atol=1e-6)


def outputs_of(model: CLCR, seed: int = 0, hidden: tuple[str, ...] = ()) -> Outputs:
    result: Outputs = model(without(random_batch(seed, samples=8, hops=3), *hidden))
    return result


def loss_of(config: ModelConfig, outputs: Outputs, labels: Tensor | None = None) -> dict[str, Tensor]:
    labels = torch.arange(8) % 3 if labels is None else labels
    found: dict[str, Tensor] = TotalLoss(config).train()(outputs, labels)
    return found


def test_the_total_is_the_weighted_sum_of_its_parts() -> None:
    config = replace(TINY, lambda_intra=0.3, lambda_inter=0.7)
    parts = {name: float(value.detach()) for name, value in loss_of(config, outputs_of(tiny_model())).items()}
    assert parts["total"] == pytest.approx(parts["task"] + 0.3 * parts["intra"] + 0.7 * parts["inter"], rel=1e-6)
    assert parts["intra"] > 0
    assert parts["inter"] > 0


def test_without_regularisers_the_loss_is_the_task_alone() -> None:
    outputs = outputs_of(tiny_model())
    on, off = loss_of(TINY, outputs), loss_of(replace(TINY, regularisers=False), outputs)
    assert torch.equal(off["total"], off["task"])
    assert torch.equal(on["task"], off["task"])
    assert float(off["intra"]) == float(off["inter"]) == 0.0


def test_level_weights_on_agreeing_levels_cost_nothing() -> None:
    """L_mix by hand: sum over pairs of kappa omega omega', kappa = (1 - cos(g, g')) / 2."""
    outputs = outputs_of(tiny_model())
    total = TotalLoss(replace(TINY, lambda_mix=1.0))
    agreeing = replace(outputs, summaries=outputs.summaries[:, :1].expand(-1, 3, -1))
    mix = float((total.inter_level(outputs) - total.inter_level(agreeing)).detach())
    g, omega = (x.detach().double().numpy() for x in (outputs.summaries, outputs.omega))
    expected = 0.0
    for a in range(3):
        for b in range(3):
            cosine = (g[:, a] * g[:, b]).sum(-1) / np.linalg.norm(g[:, a], axis=-1) / np.linalg.norm(g[:, b], axis=-1)
            expected += float(((1 - cosine) / 2 * omega[:, a] * omega[:, b]).mean()) * (a != b)
    assert mix == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


def test_the_agreement_of_levels_gets_no_gradient_but_their_weights_do() -> None:
    outputs = outputs_of(tiny_model())
    summaries = outputs.summaries.detach().requires_grad_()
    omega = outputs.omega.detach().requires_grad_()
    TotalLoss(TINY).inter_level(replace(outputs, summaries=summaries, omega=omega)).backward()  # type: ignore[no-untyped-call]
    assert summaries.grad is None
    assert omega.grad is not None
    assert float(omega.grad.abs().sum()) > 0


def test_regularisers_reach_the_bases_and_never_the_heads() -> None:
    model = tiny_model().train()
    found = loss_of(TINY, outputs_of(model))
    (found["intra"] + found["inter"]).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any("bases" in name and float(g.abs().sum()) > 0 for name, g in gradients.items())
    assert not any(name.startswith("intercad.head") for name in gradients)


def test_running_covariances_move_in_training_only() -> None:
    outputs, labels = outputs_of(tiny_model()), torch.arange(8) % 3
    loss = TotalLoss(TINY)
    start = loss.covariances.clone()
    loss.eval()(outputs, labels)
    assert torch.equal(loss.covariances, start)
    loss.train()(outputs, labels)
    moved = (loss.covariances - EMA * start) / (1 - EMA)
    assert not loss.covariances.requires_grad
    level, both = outputs.levels[0], []
    for m in ("vision", "acoustic"):
        mask = level.valid[m].unsqueeze(-1)
        pooled = (level.private_tokens[m] * mask).sum(1) / mask.sum(1)
        both.append((pooled @ loss.sketch).detach().numpy())
    np.testing.assert_allclose(moved[0], np.cov(np.concatenate(both, 1), rowvar=False), atol=1e-4)
    for joint in moved:
        assert_close(joint, joint.T, atol=1e-5, rtol=0)
        assert joint.shape == (2 * TINY.private_rank, 2 * TINY.private_rank)


def test_a_pair_of_modalities_that_never_meet_has_no_cross_modal_term() -> None:
    loss = TotalLoss(TINY).train()
    start = loss.covariances.clone()
    found = loss(outputs_of(tiny_model(), hidden=("acoustic", "language")), torch.arange(8) % 3)
    assert torch.equal(loss.covariances, start)
    assert bool(torch.isfinite(found["total"]))


def test_unknown_labels_are_left_out_of_the_task() -> None:
    outputs = outputs_of(tiny_model())
    labels = torch.tensor([0, 1, 2, -1, -1, -1, -1, -1])
    known = replace(outputs, logits=outputs.logits[:3])
    expected = torch.nn.functional.cross_entropy(known.logits, labels[:3])
    assert_close(loss_of(TINY, outputs, labels)["task"], expected)


def test_a_batch_without_one_known_label_has_no_task_and_a_finite_gradient() -> None:
    model = tiny_model()
    found = loss_of(TINY, outputs_of(model), torch.full((8,), -1))
    assert float(found["task"].detach()) == 0.0
    found["total"].backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_class_weights_weigh_classes() -> None:
    outputs, labels = outputs_of(tiny_model()), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    weights = torch.tensor([1.0, 0.0, 0.0])
    found = TotalLoss(TINY, weights)(outputs, labels)["task"]
    expected = torch.nn.functional.cross_entropy(outputs.logits[labels == 0], labels[labels == 0])
    assert_close(found, expected)


def test_regression_is_the_mean_absolute_error() -> None:
    config = replace(TINY, task="regression")
    outputs = replace(outputs_of(tiny_model()), logits=torch.arange(8.0)[:, None])
    assert float(loss_of(config, outputs, torch.zeros(8))["task"]) == pytest.approx(3.5)


@checked
@given(st.integers(0, 10**6))
def test_every_part_is_finite_and_not_negative_for_any_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hidden = tuple(m for m in ("vision", "acoustic", "language") if rng.random() < 0.4)
    found = loss_of(TINY, outputs_of(fixed_model(), seed, hidden))
    assert all(bool(torch.isfinite(value)) and float(value.detach()) >= -1e-6 for value in found.values())
