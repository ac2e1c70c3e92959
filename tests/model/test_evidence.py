"""The evidence of tokens is spread by what training shows, whatever the modality's features are like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clcr.network.config import MODALITIES, ModelConfig
from clcr.network.intraced import LevelExchange, plain_norm

CONFIG = ModelConfig()
TOKENS = 200


def hidden_tokens(exchange: LevelExchange, share: float, seed: int) -> Tensor:
    """(2, TOKENS, width): tokens with more (share > 1) or less of their length in the shared subspace, each its own."""
    shared, _ = exchange.bases()
    rng = torch.Generator().manual_seed(seed)
    h = torch.randn(2, TOKENS, CONFIG.width, generator=rng)
    return plain_norm(h + (share - 1.0) * h @ shared @ shared.T).detach()


@torch.no_grad()
def described(exchange: LevelExchange, modality: str, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Activation and alpha (2, TOKENS) of a modality beside another one."""
    matrices = exchange.matrices(*exchange.bases())
    valid = torch.ones(hidden.shape[:2])
    tokens = {m: exchange.describe(m, hidden, valid, matrices[m]) for m in MODALITIES}
    alpha = exchange.fuse(tokens, torch.ones(2, 1), exchange.bases()).alpha
    return tokens[modality].marks[:, 0], alpha[modality]


@pytest.mark.parametrize(("modality", "share"), [("vision", 2.5), ("acoustic", 1.0), ("language", 0.4)])
def test_after_training_the_activation_is_spread_and_the_paper_s_share_takes_part(modality: str, share: float) -> None:
    torch.manual_seed(1)
    exchange = LevelExchange(CONFIG)
    hidden = hidden_tokens(exchange, share, 1)
    exchange.eval()
    before, _ = described(exchange, modality, hidden)
    exchange.train()
    matrices = exchange.matrices(*exchange.bases())
    with torch.no_grad():
        for _ in range(300):
            exchange.describe(modality, hidden, torch.ones(2, TOKENS), matrices[modality])
    exchange.eval()
    activation, alpha = described(exchange, modality, hidden)
    if share != 1.0:
        assert float(before.std()) < 0.1  # all of them at 0, or at 1: the evidence says nothing
    assert float(activation.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(activation.std()) == pytest.approx(12**-0.5, abs=0.05)  # as uniform on 0..1
    assert float((alpha > 0).float().mean()) == pytest.approx(0.68, abs=0.06)


def test_outside_of_training_nothing_is_followed() -> None:
    exchange = LevelExchange(CONFIG).eval()
    before = exchange.evidence_mean.clone(), exchange.evidence_deviation.clone()
    described(exchange, "vision", hidden_tokens(exchange, 2.5, 1))
    assert torch.equal(before[0], exchange.evidence_mean) and torch.equal(before[1], exchange.evidence_deviation)


def test_masked_and_few_tokens_are_not_followed() -> None:
    exchange = LevelExchange(CONFIG).train()
    before = exchange.evidence_mean.clone()
    hidden = hidden_tokens(exchange, 2.5, 1)
    with torch.no_grad():
        matrices = exchange.matrices(*exchange.bases())
        exchange.describe("vision", hidden, torch.zeros(hidden.shape[:2]), matrices["vision"])
        exchange.describe("vision", hidden[:1, :3], torch.ones(1, 3), matrices["vision"])
    assert torch.equal(before, exchange.evidence_mean)


def test_random_tokens_have_the_evidence_that_a_level_begins_with() -> None:
    torch.manual_seed(1)
    exchange = LevelExchange(CONFIG)
    shared = exchange.bases()[0].detach()
    evidence = (plain_norm(torch.randn(20_000, CONFIG.width)) @ shared).norm(dim=-1) / CONFIG.width**0.5
    assert float(evidence.mean()) == pytest.approx(float(exchange.evidence_mean[0]), abs=0.005)
    assert float(evidence.std()) == pytest.approx(float(exchange.evidence_deviation[0]), rel=0.03)
