"""A person's baseline: empty at the start, a causal mean afterwards, what it takes out and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr.network.baseline import BLOCK, Baseline
from clcr.network.batch import Batch
from clcr.network.model import CLCR, Usual
from clcr.network.streaming import StreamingLevel
from clcr_factory import GRID, Streamed, changed, random_batch, tiny_model
from close import assert_close

checked = settings(deadline=None, max_examples=15)
WIDTH = 6


@pytest.fixture
def layer() -> Baseline:
    torch.manual_seed(1)
    made = Baseline(WIDTH, 3)
    with torch.no_grad():
        made.shift.copy_(torch.randn(WIDTH))
    return made


@torch.no_grad()
def test_the_first_hop_is_unchanged(layer: Baseline) -> None:
    x = torch.randn(2, 3, WIDTH)
    out, _ = layer(x, torch.ones(2, 3), layer.initial_state(2))
    assert torch.equal(out, x)


@checked
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
@torch.no_grad()
def test_the_state_is_the_mean_of_the_valid_steps_and_their_number(seed: int, coverage: float) -> None:
    layer, random = Baseline(WIDTH, 3), torch.Generator().manual_seed(seed)
    x = torch.randn(2, 12, WIDTH, generator=random)
    valid = (torch.rand(2, 12, generator=random) < coverage).float()
    _, (mean, count) = layer(x, valid, layer.initial_state(2))
    expected = (x * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
    assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(count, valid.sum(1, keepdim=True))


@torch.no_grad()
def test_a_hop_reads_the_hops_before_it_and_never_itself(layer: Baseline) -> None:
    x, valid = torch.randn(1, 9, WIDTH), torch.ones(1, 9)
    whole, _ = layer(x, valid, layer.initial_state(1))
    later = x.clone()
    later[:, 3:] += 5.0
    other, _ = layer(later, valid, layer.initial_state(1))
    assert torch.equal(whole[:, :3], other[:, :3])
    assert_close(other[:, 3:6] - whole[:, 3:6], torch.full((1, 3, WIDTH), 5.0))
    assert_close(
        whole[:, 3:6] - x[:, 3:6],
        (3 / (3 + layer.log_prior.exp()) * (layer.shift - x[:, :3].mean(1))).expand(3, -1)[None],
    )


@torch.no_grad()
def test_what_never_changes_about_a_person_is_gone_after_a_while(layer: Baseline) -> None:
    x, valid = torch.randn(1, 3 * 150, WIDTH), torch.ones(1, 3 * 150)
    plain, _ = layer(x, valid, layer.initial_state(1))
    another, _ = layer(x + 4.0, valid, layer.initial_state(1))
    apart = (another - plain).abs().amax(2)[0]
    assert float(apart[0]) == pytest.approx(4.0, abs=1e-5)
    assert float(apart[-1]) < 0.5


@torch.no_grad()
def test_no_baseline_counts_for_more_than_one_that_is_trusted() -> None:
    layer = Baseline(WIDTH, 5, trust_s=4.0)
    x, usual = torch.randn(1, 5, WIDTH), torch.randn(1, WIDTH)

    def taken_out(seconds: float) -> torch.Tensor:
        out, _ = layer(x, torch.ones(1, 5), [usual, torch.full((1, 1), 25 * seconds)])
        found: torch.Tensor = (x - out)[0, 0]
        return found

    assert_close(taken_out(4.0), usual[0] * 4 / (4 + 3))
    assert_close(taken_out(30.0), taken_out(4.0))
    assert_close(taken_out(1.0), usual[0] * 1 / (1 + 3))
    trusted = {m: layer.trust for m in ("vision", "acoustic") for layer in tiny_model(baseline=True).baselines_of(m)}
    assert trusted == {"vision": 900.0, "acoustic": 100.0}  # a minute of faces, four seconds of sound


@torch.no_grad()
def test_older_than_a_minute_fades(layer: Baseline) -> None:
    state = [torch.full((1, WIDTH), 8.0), torch.full((1, 1), layer.horizon)]
    _, (mean, count) = layer(torch.zeros(1, 3 * 600, WIDTH), torch.ones(1, 3 * 600), state)
    assert float(count) == layer.horizon == 900
    assert float(mean.abs().max()) < 8.0 * 0.2  # exp(-2) of it is left after two horizons


@torch.no_grad()
def test_masked_steps_leave_no_trace(layer: Baseline) -> None:
    x, valid = torch.randn(1, 6, WIDTH), torch.tensor([[1.0, 0, 1, 0, 0, 1]])
    garbage = x + (1 - valid).unsqueeze(-1) * 1e4
    out, state = layer(x, valid, layer.initial_state(1))
    other, same = layer(garbage, valid, layer.initial_state(1))
    for before, after in zip(state, same, strict=True):
        assert_close(before, after)
    assert_close(out[valid > 0], other[valid > 0])


# In the model


@pytest.fixture
def model() -> CLCR:
    made = tiny_model(baseline=True)
    with torch.no_grad():
        for m in BLOCK:
            for layer in made.baselines_of(m):
                layer.shift.copy_(torch.linspace(-1, 1, layer.width))
    return made


@torch.no_grad()
def test_without_a_past_a_clip_of_one_hop_is_answered_as_without_baselines(model: CLCR) -> None:
    batch = random_batch(3, hops=1)
    plain = tiny_model()
    assert_close(model(batch).logits, plain(batch).logits, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_history_of_no_steps_is_no_history(model: CLCR) -> None:
    batch = random_batch(3, hops=4)
    nothing = Usual(torch.randn(2, 2, 3, model.config.width), torch.zeros(2, 2))
    empty = replace(nothing, mean=torch.zeros_like(nothing.mean))
    assert torch.equal(model(batch, history=empty).logits, model(batch).logits)


@torch.no_grad()
def test_a_history_changes_the_answer_by_what_it_says_of_each_modality(model: CLCR) -> None:
    batch = random_batch(3, hops=4)
    mean = torch.randn(2, 2, 3, model.config.width)
    answers = [
        model(batch, history=Usual(mean, torch.tensor([steps, steps]))).logits
        for steps in ([0.0, 0.0], [90.0, 0.0], [0.0, 90.0])
    ]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    assert not torch.allclose(answers[1], answers[2])


@torch.no_grad()
def test_what_a_sample_adds_to_a_history_is_the_state_that_its_stream_leaves_behind(model: CLCR) -> None:
    batch = random_batch(5, hops=4)
    usual = model(batch).usual
    assert usual is not None
    streamed = Streamed(model, batch)
    list(streamed.hops())
    for index, state in enumerate(streamed.state):
        for place, m in enumerate(BLOCK):
            assert_close(usual.mean[:, place, index], state[f"{m}_baseline"], atol=1e-5, rtol=1e-4)
            assert torch.equal(usual.steps[:, place, None], state[f"{m}_baseline_steps"])
    assert tiny_model()(batch).usual is None


@torch.no_grad()
def test_a_history_made_of_the_batch_is_the_mean_of_the_samples_in_it(model: CLCR) -> None:
    batch = random_batch(6, samples=3, hops=3)
    usual = model(batch).usual
    assert usual is not None
    companions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    both = usual.mean[:2] * usual.steps[:2, :, None, None]
    mean = torch.stack([torch.zeros_like(both[0]), usual.mean[0], both.sum(0) / usual.steps[:2].sum(0)[:, None, None]])
    steps = torch.stack([torch.zeros(2), usual.steps[0], usual.steps[:2].sum(0)])
    by_hand = model(batch, history=Usual(mean, steps)).logits
    assert_close(model(batch, history=companions).logits, by_hand, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_samples_of_no_whole_hop_and_none_at_all_are_answered(model: CLCR) -> None:
    batch = random_batch(5, hops=2)
    cut = changed(batch, vision_valid=batch.vision_valid[:, :4])
    cut = replace(cut, frames=_frames(batch, 4))
    assert torch.isfinite(model(cut).logits).all()
    nothing = changed(batch, frames=batch.frames[:0], vision_valid=batch.vision_valid * 0)
    assert torch.isfinite(model(nothing).logits).all()


def _frames(batch: Batch, slots: int) -> torch.Tensor:
    """The packed frames of the first `slots` slots."""
    owner = batch.vision_valid.nonzero()
    return batch.frames[owner[:, 1] < slots]


def test_hops_of_another_length_are_refused(model: CLCR) -> None:
    with pytest.raises(ValueError, match="baselines work by hops"):
        StreamingLevel(model, 1, replace(GRID, vision_slots=2))
