"""CLCR as a whole: golden numbers of an independent reference, and the invariants of its equations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from clcr.network.batch import Batch
from clcr.network.config import MODALITIES, ModelConfig
from clcr.network.intraced import LevelExchange, LevelOutputs
from clcr.network.model import CLCR, Outputs, Tokens
from clcr_factory import TINY, batch_of, changed, fixed_model, random_batch, removed, row_of, tiny_model, without
from close import assert_close

SWITCHES = ("hierarchy", "intraced", "intercad", "level_order", "pool_gate", "position")
checked = settings(deadline=None, max_examples=15)
# Of larger batches: six windows cost hardly more than one.
fewer = settings(deadline=None, max_examples=5)
seeds = st.integers(0, 10**6)
gammas = st.floats(0.0, 2.0)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reference.GOLDEN.read_text(encoding="utf-8"))
    return found


def run_case(name: str, golden: dict[str, Any]) -> Outputs:
    case = reference.CASES[name]
    model = tiny_model(golden["weights_seed"], **{switch: getattr(case, switch) for switch in SWITCHES})
    with torch.no_grad():
        outputs: Outputs = model(
            batch_of([reference.seeded_sample(golden["sample_seed"], case.modalities)]), case.gamma
        )
    return outputs


@torch.no_grad()
def run(model: CLCR, batch: Batch, gamma: float = 1.0) -> Outputs:
    outputs: Outputs = model(batch, gamma)
    return outputs


def test_the_reference_still_gives_the_golden_numbers(golden: dict[str, Any]) -> None:
    found = reference.golden_numbers(golden["weights_seed"], golden["sample_seed"])
    assert found["cases"].keys() == golden["cases"].keys()
    for name, case in golden["cases"].items():
        for key in ("logits", "omega", "beta", "eta"):
            np.testing.assert_allclose(found["cases"][name][key], case[key], rtol=0, atol=1e-7, err_msg=f"{name} {key}")


@pytest.mark.parametrize("name", sorted(reference.CASES))
def test_the_model_gives_the_golden_numbers(name: str, golden: dict[str, Any]) -> None:
    outputs, expected = run_case(name, golden), golden["cases"][name]
    for key in ("logits", "omega", "beta", "eta"):
        np.testing.assert_allclose(getattr(outputs, key)[0], expected[key], rtol=0, atol=5e-6, err_msg=key)
    for level, numbers in zip(outputs.levels, expected["levels"], strict=True):
        np.testing.assert_allclose(level.budget[0], numbers["budget"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(level.shared[0, :, :4], numbers["s"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(level.private[0, :, :4], numbers["p"], rtol=0, atol=1e-5)
        for m in MODALITIES:
            np.testing.assert_allclose(level.alpha[m][0], numbers["alpha"][m], rtol=0, atol=5e-6)


@fewer
@given(seeds, gammas)
def test_alpha_is_in_the_budget_of_every_level_and_modality(seed: int, gamma: float) -> None:
    for level in run(fixed_model(), random_batch(seed, samples=6), gamma).levels:
        for index, m in enumerate(MODALITIES):
            alpha = level.alpha[m]
            assert bool(((alpha >= 0) & (alpha <= 1)).all())
            spent, budget = alpha.double().sum(-1), level.budget[:, index].double()
            rounding = alpha.shape[1] ** 2 * 2.0**-24  # of a sum of so many terms up to 1, in any order
            assert bool((spent <= budget + rounding).all())
            assert bool((alpha[level.valid[m] == 0] == 0).all())


@checked
@given(seeds, gammas)
def test_weights_of_levels_and_modalities_sum_to_one_and_gates_are_open_intervals(seed: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    hidden = [m for m in MODALITIES if rng.random() < 0.4]
    out = run(fixed_model(), without(random_batch(seed, coverage=0.6), *hidden), gamma)
    present = out.levels[0].present
    assert_close(out.omega.sum(-1), torch.ones(2), atol=1e-6, rtol=0)
    assert_close(out.beta.sum(-1), present.amax(-1), atol=1e-6, rtol=0)
    assert bool((out.beta[present == 0] == 0).all())
    assert bool((out.eta[present == 0] == 0).all())
    assert bool(((out.eta > 0) & (out.eta < 1))[present == 1].all())


@fewer
@given(seeds)
def test_the_active_rate_grows_with_gamma(seed: int) -> None:
    model, batch = fixed_model(), random_batch(seed, samples=6, hops=6)
    previous: list[LevelOutputs] | None = None
    with torch.no_grad():
        tokens = model.encode(batch)
    for gamma in (0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 3.0, 5.0):
        with torch.no_grad():
            levels = list(model.fuse(tokens, gamma))
        for before, after in zip(previous or levels, levels, strict=True):
            for m in MODALITIES:
                active = [(level.alpha[m] > 1e-6).sum(-1) for level in (before, after)]
                assert bool((active[0] <= active[1]).all())
                assert bool((before.alpha[m] <= after.alpha[m] + 1e-6).all())
        previous = levels


@fewer
@given(seeds)
def test_gamma_zero_is_the_model_without_exchange_bit_for_bit(seed: int) -> None:
    batch = random_batch(seed, samples=6)
    zero, off = run(fixed_model(), batch, 0.0), run(fixed_model(intraced=False), batch, 1.0)
    assert torch.equal(zero.logits, off.logits)
    for a, b in zip(zero.levels, off.levels, strict=True):
        assert torch.equal(a.shared, b.shared)
        assert torch.equal(a.private, b.private)
        assert all(float(alpha.max()) == 0.0 for alpha in a.alpha.values())


@fewer
@given(seeds)
def test_a_token_without_alpha_is_unchanged_whatever_the_others_hold(seed: int) -> None:
    """s of a window whose only token has alpha 0 is the norm of that token's own shared part; with alpha it is not."""
    model = fixed_model()
    with torch.no_grad():
        tokens = model.encode(random_batch(seed, samples=6, coverage=1.0))
        for exchange, level in zip(model.exchanges, tokens, strict=True):
            bases = exchange.bases()
            first = level["vision"].window(0, 1)
            own = first.pool[:, 0, : exchange.config.shared_rank].double() @ bases[0].double().T
            expected = torch.nn.functional.layer_norm(own, own.shape[-1:], eps=1e-6)
            louder = replace(level["acoustic"], qkv=7.0 * level["acoustic"].qkv)
            for others in (level, level | {"acoustic": louder}, {}):
                for activation, unchanged in ((0.0, True), (1.0, not others)):
                    marks = torch.tensor([activation, 1.0]).view(1, 2, 1).expand(6, 2, 1)
                    windows = others | {"vision": replace(first, marks=marks)}
                    out = exchange.fuse(windows, torch.ones(6, 1), bases)
                    assert (float(out.alpha["vision"].max()) == 0.0) == (activation == 0.0)
                    difference = float((out.shared[:, list(windows).index("vision")] - expected).abs().max())
                    assert (difference < 1e-5) == unchanged, difference


def leaves(model: CLCR, seed: int) -> list[Tokens]:
    with torch.no_grad():
        tokens = model.encode(random_batch(seed, coverage=1.0))
    for part in (part for level in tokens for described in level.values() for part in described.parts()):
        part.requires_grad_()
    return tokens


@fewer
@given(seeds)
def test_private_parts_know_nothing_of_other_modalities_nor_levels_of_each_other(seed: int) -> None:
    model = fixed_model()
    tokens = leaves(model, seed)
    outputs = model.fuse(tokens)
    for index, level in enumerate(outputs):
        for row, m in enumerate(MODALITIES):
            names = [(i, o) for i in range(3) for o in MODALITIES for _ in range(3)]
            flat = [part for i in range(3) for o in MODALITIES for part in tokens[i][o].parts()]
            for kind, value in (("private", level.private), ("shared", level.shared)):
                weights = torch.randn(value[:, row].shape)  # a plain sum of a layer norm is constant
                total = (value[:, row] * weights).sum()
                gradients = torch.autograd.grad(total, flat, retain_graph=True, allow_unused=True)
                sizes = dict.fromkeys(names, 0.0)
                for name, gradient in zip(names, gradients, strict=True):
                    sizes[name] += 0.0 if gradient is None else float(gradient.abs().sum())
                own = {(index, m)} if kind == "private" else {(index, o) for o in MODALITIES}
                assert all(size == 0.0 for name, size in sizes.items() if name not in own)
                assert all(sizes[name] > 0.0 for name in own)


@settings(deadline=None, max_examples=2)
@pytest.mark.parametrize("kept", MODALITIES)
@given(seed=seeds)
def test_a_private_summary_is_the_same_whatever_the_others_say(seed: int, kept: str) -> None:
    batch, other = (random_batch(number, samples=6) for number in (seed, seed + 1))
    fields = {"vision": ["frames", "vision_valid"], "acoustic": ["mel", "acoustic_valid"], "language": ["token_ids"]}
    swapped = {name: getattr(other, name) for m in MODALITIES if m != kept for name in fields[m]}
    one, two = (run(fixed_model(), b) for b in (batch, changed(batch, **swapped)))
    row = MODALITIES.index(kept)
    for a, b in zip(one.levels, two.levels, strict=True):
        assert_close(a.private[:, row], b.private[:, row], atol=1e-6, rtol=0)
        assert not torch.allclose(a.shared[:, row], b.shared[:, row], atol=1e-4)


@checked
@given(seeds, st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=3, unique=True))
def test_a_masked_modality_equals_a_removed_one(seed: int, gone: list[str]) -> None:
    batch = random_batch(seed)
    masked, cut = (run(fixed_model(), f(batch, *gone)) for f in (without, removed))
    for key in ("logits", "omega", "beta", "eta"):
        assert_close(getattr(masked, key), getattr(cut, key), atol=2e-6, rtol=0)
    for index, m in enumerate(MODALITIES):
        if m in gone:
            assert all(bool((level.shared[:, index] == 0).all()) for level in masked.levels)
            assert all(bool((level.private[:, index] == 0).all()) for level in masked.levels)


@fewer
@given(seeds, st.floats(-1e4, 1e4))
def test_finite_garbage_in_masked_slots_has_no_effect(seed: int, garbage: float) -> None:
    batch = random_batch(seed, samples=6, coverage=0.5)
    quiet = (batch.acoustic_valid == 0).repeat_interleave(4, 1).unsqueeze(-1)
    other = changed(
        batch,
        mel=torch.where(quiet, torch.tensor(garbage), batch.mel),
        token_ids=torch.where(batch.token_valid == 0, 19 - batch.token_ids, batch.token_ids),
    )
    one, two = run(fixed_model(), batch), run(fixed_model(), other)
    assert torch.equal(one.logits, two.logits)
    assert all(torch.equal(a.shared, b.shared) for a, b in zip(one.levels, two.levels, strict=True))


@fewer
@given(seeds)
def test_a_sample_alone_equals_itself_in_a_batch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = random_batch(seed, samples=4, coverage=float(rng.random()))
    together = run(fixed_model(), batch)
    for row in range(4):
        alone = run(fixed_model(), row_of(batch, row))
        assert_close(together.logits[row], alone.logits[0], atol=5e-6, rtol=0)


@checked
@given(seeds)
def test_hidden_tokens_have_the_length_that_evidence_is_measured_by(seed: int) -> None:
    exchange = fixed_model().exchanges[0]
    torch.manual_seed(seed)
    with torch.no_grad():
        hidden = exchange.tokenise(
            "vision", torch.randn(2, 4, TINY.width), torch.randn(2, 4, TINY.width), torch.ones(2, 4)
        )
    assert_close(hidden.norm(dim=-1), torch.full((2, 4), TINY.width**0.5), atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=2)
@given(seeds)
def test_gradients_of_a_level_equal_finite_differences(seed: int) -> None:
    """describe and fuse in float64, with respect to H of all modalities, gamma, the budget and the slopes."""
    torch.manual_seed(seed)
    config = ModelConfig(width=6, shared_rank=2, private_rank=2, heads=1, evidence_slope=0.2)
    exchange = LevelExchange(config).double().eval()
    shared, private = exchange.bases()
    bases = (shared.detach().double(), {m: basis.detach().double() for m, basis in private.items()})
    valid = {m: torch.ones(1, 3, dtype=torch.float64) for m in MODALITIES}
    parameters = [exchange.budget_logit, exchange.evidence_threshold, *exchange.qkv.parameters(), exchange.out.weight]

    def level(gamma: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        matrices = exchange.matrices(*bases)
        tokens = {m: exchange.describe(m, values[i], valid[m], matrices[m]) for i, m in enumerate(MODALITIES)}
        out = exchange.fuse(tokens, gamma, bases)
        return out.shared, out.private

    hidden = [torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True) for _ in MODALITIES]
    gamma = torch.full((1, 1), 0.9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: level(*x[:4]), (gamma, *hidden, *parameters), atol=1e-5, eps=1e-7)


def test_every_trained_weight_has_a_gradient() -> None:
    model = tiny_model()
    model(random_batch(1, samples=4, hops=6)).logits.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or float(p.grad.abs().max()) < 1e-5]
    assert silent == ["intercad.level_score.2.bias"]  # the same constant for every level: softmax ignores it


# The paper's ablations: each switch changes what it says and nothing else.


def levels_equal(a: Outputs, b: Outputs, field: str) -> bool:
    return all(torch.equal(getattr(x, field), getattr(y, field)) for x, y in zip(a.levels, b.levels, strict=True))


def alphas_equal(a: Outputs, b: Outputs) -> bool:
    return all(torch.equal(x.alpha[m], y.alpha[m]) for x, y in zip(a.levels, b.levels, strict=True) for m in MODALITIES)


def test_without_intraced_only_the_shared_summaries_change() -> None:
    batch = random_batch(4)
    full, off = run(fixed_model(), batch), run(fixed_model(intraced=False), batch)
    assert alphas_equal(full, off)
    assert levels_equal(full, off, "private")
    assert not torch.allclose(full.levels[0].shared, off.levels[0].shared, atol=1e-4)
    assert not torch.allclose(full.logits, off.logits, atol=1e-4)


def test_without_intercad_levels_and_modalities_are_plainly_averaged() -> None:
    batch = without(random_batch(4), "language")
    full, off = run(fixed_model(), batch), run(fixed_model(intercad=False), batch)
    assert levels_equal(full, off, "shared")
    assert levels_equal(full, off, "private")
    assert_close(off.omega, torch.full((2, 3), 1 / 3))
    assert_close(off.beta, torch.tensor([0.5, 0.5, 0.0]).expand(2, 3))
    assert torch.equal(off.eta, torch.tensor([1.0, 1.0, 0.0]).expand(2, 3))
    assert not torch.allclose(full.omega, off.omega, atol=1e-3)


def test_without_hierarchy_every_level_reads_the_deepest_features() -> None:
    batch = random_batch(4)
    full, off = run(fixed_model(), batch), run(fixed_model(hierarchy=False), batch)
    assert torch.equal(full.levels[2].shared, off.levels[2].shared)
    assert not torch.allclose(full.levels[0].shared, off.levels[0].shared, atol=1e-3)
    model = tiny_model(hierarchy=False)
    for m in MODALITIES:
        model.projections(m)[0].load_state_dict(model.projections(m)[2].state_dict())
    model.exchanges[0].load_state_dict(model.exchanges[2].state_dict())
    equal = run(model, batch)
    assert_close(equal.levels[0].shared, equal.levels[2].shared, atol=1e-6, rtol=0)


def test_full_mix_takes_the_pool_from_other_levels() -> None:
    batch = random_batch(4)
    full, mixed = run(fixed_model(), batch), run(fixed_model(level_order="shuffled"), batch)
    for index in range(3):
        assert torch.equal(mixed.levels[index].valid["vision"], full.levels[index].valid["vision"])
        for j, m in enumerate(MODALITIES):
            source = full.levels[(index + j) % 3]
            assert torch.equal(mixed.levels[index].shared_tokens[m], source.shared_tokens[m])
    assert torch.equal(mixed.levels[0].private[:, 0], full.levels[0].private[:, 0])
    assert not torch.allclose(mixed.levels[0].shared[:, 0], full.levels[0].shared[:, 0], atol=1e-4)


def test_the_pool_gate_changes_only_what_is_received() -> None:
    batch = random_batch(4)
    full, gated = run(fixed_model(), batch, 0.5), run(fixed_model(pool_gate="log_alpha"), batch, 0.5)
    assert alphas_equal(full, gated)
    assert levels_equal(full, gated, "private")
    assert not torch.allclose(full.levels[0].shared, gated.levels[0].shared, atol=1e-5)


def test_positions_of_the_window_forget_the_stream_and_absolute_ones_do_not() -> None:
    batch = random_batch(4)
    later = changed(batch, vision_step=batch.vision_step + 777)
    assert torch.equal(
        run(fixed_model(position="window"), batch).logits, run(fixed_model(position="window"), later).logits
    )
    assert not torch.allclose(run(fixed_model(), batch).logits, run(fixed_model(), later).logits, atol=1e-5)


def test_a_stream_that_starts_later_has_the_same_tokens_at_the_same_absolute_steps() -> None:
    model = tiny_model()
    whole = model.positions(torch.tensor([500_000_000]), 9)
    late = model.positions(torch.tensor([500_000_004]), 5)
    assert torch.equal(whole[:, 4:], late)


def test_regression_has_one_value_and_no_softmax() -> None:
    config = replace(TINY, task="regression")
    assert config.outputs == 1
    model = tiny_model()
    model.config = config
    outputs = run(model, random_batch(1))
    assert torch.equal(model.probabilities(outputs), outputs.logits)


def test_every_subset_of_modalities_has_its_own_temperature() -> None:
    model = tiny_model()
    model.temperature.values.copy_(torch.linspace(1.0, 2.4, 8))
    by_subset = model.temperature.by_subset()
    assert by_subset == pytest.approx(
        {"": 1.0, "L": 1.2, "A": 1.4, "AL": 1.6, "V": 1.8, "VL": 2.0, "VA": 2.2, "VAL": 2.4}
    )
    scores = torch.tensor([[1.0, 2.0, 4.0]]).expand(8, 3)
    present = torch.tensor([[m in subset for m in "VAL"] for subset in by_subset]).float()
    expected = torch.softmax(scores / torch.tensor(list(by_subset.values()))[:, None], -1)
    assert_close(model.temperature(scores, present), expected)


def test_probabilities_take_the_temperature_of_what_is_there() -> None:
    model = tiny_model()
    model.temperature.values.fill_(1.0)
    model.temperature.fit("V", 3.0)
    batch = batch_of([reference.seeded_sample(1, ("vision",)), reference.seeded_sample(1)])
    outputs = run(model, batch)
    expected = torch.softmax(outputs.logits / torch.tensor([[3.0], [1.0]]), -1)
    assert_close(model.probabilities(outputs), expected)


def test_a_configuration_comes_back_from_its_dictionary_and_unknown_settings_are_refused() -> None:
    stored = json.loads(json.dumps(TINY.to_dict()))
    assert ModelConfig.from_dict(stored) == TINY
    del stored["vision_front_end"]  # checkpoints from before there was a choice
    assert ModelConfig.from_dict(stored) == TINY
    with pytest.raises(ValueError, match=r"unknown model setting 'shared_ranks'; known: .*shared_rank"):
        ModelConfig.from_dict(stored | {"shared_ranks": 3})
