"""CLCR that hears through the speech encoder: streamed as offline, masked as removed, alone as in a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES
from clcr.network.model import CLCR, Outputs
from clcr.network.streaming import SPEECH_POSITION, Grid, StreamingLevel
from clcr_factory import (
    GRID,
    SPEECH,
    WINDOW_HOPS,
    Streamed,
    batch_of,
    changed,
    fixed_speech_model,
    fused,
    random_batch,
    random_sample,
    removed,
    row_of,
    speech_model,
    without,
)
from close import assert_close

checked = settings(deadline=None, max_examples=6)
seeds = st.integers(0, 10**6)
TOLERANCE = 1e-5


@torch.no_grad()
def run(model: CLCR, batch: Batch) -> Outputs:
    outputs: Outputs = model(batch)
    return outputs


@torch.no_grad()
def check_every_hop(model: CLCR, batch: Batch, grid: Grid = GRID) -> None:
    """The summaries, budgets and activations of every hop against the offline model on the prefix."""
    tokens = model.encode(batch)
    for end, hop in enumerate(Streamed(model, batch, grid).hops(), start=1):
        for out, expected in zip(hop, model.fuse(fused(model, tokens, end, grid)), strict=True):
            for name in ("shared", "private", "budget", "present"):
                assert_close(out[name], getattr(expected, name), atol=TOLERANCE, rtol=0, msg=name)
            for m in MODALITIES:
                known = expected.alpha[m]
                found = out[f"alpha_{m}"][:, -known.shape[1] :] if known.shape[1] else known
                assert_close(found, known, atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=3)
@given(seeds, st.floats(0.0, 1.0), st.integers(0, 400))
def test_every_hop_equals_the_offline_model_on_the_prefix(seed: int, coverage: float, first_hop: int) -> None:
    """Four streams, ten hops of a four-hop window that a layer sees three hops of; positions repeat in the second."""
    batch = random_batch(seed, samples=4, hops=10, coverage=coverage)
    steps = 5 * torch.tensor([first_hop, 296, first_hop + 143, 295 - first_hop % 9])
    check_every_hop(fixed_speech_model(seed % 3), changed(batch, acoustic_step=steps))


def test_the_full_context_wraps_and_still_equals_the_prefix() -> None:
    grid = Grid(language_tokens=6, size_px=8)
    check_every_hop(fixed_speech_model(speech_context=100), random_batch(5, samples=1, hops=34), grid=grid)


@settings(deadline=None, max_examples=2)
@given(seeds, st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=3, max_size=3))
def test_sound_that_comes_late_or_goes_missing_equals_the_prefix(seed: int, spans: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    samples = [random_sample(rng, hops=8) for _ in spans]
    for sample, (come, stay) in zip(samples, spans, strict=True):
        sample.acoustic_valid[: come * 5] = 0.0
        sample.acoustic_valid[(come + stay) * 5 :] = 0.0
    check_every_hop(fixed_speech_model(), batch_of(samples))


def test_with_a_person_s_baseline_every_hop_still_equals_the_prefix() -> None:
    check_every_hop(fixed_speech_model(baseline=True), random_batch(7, hops=9, coverage=0.7))


@checked
@given(seeds, st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=3, unique=True))
def test_a_masked_modality_equals_a_removed_one(seed: int, gone: list[str]) -> None:
    batch = random_batch(seed)
    masked, cut = run(fixed_speech_model(), without(batch, *gone)), run(fixed_speech_model(), removed(batch, *gone))
    assert_close(masked.logits, cut.logits, atol=TOLERANCE, rtol=0)
    assert_close(masked.beta, cut.beta, atol=TOLERANCE, rtol=0)


@checked
@given(seeds, st.floats(-1e4, 1e4))
def test_garbage_in_masked_sound_changes_no_answer(seed: int, garbage: float) -> None:
    batch = random_batch(seed, coverage=0.5)
    quiet = (batch.acoustic_valid == 0).repeat_interleave(4, 1).unsqueeze(-1)
    other = changed(batch, mel=torch.where(quiet, torch.tensor(garbage), batch.mel))
    assert torch.equal(run(fixed_speech_model(), batch).logits, run(fixed_speech_model(), other).logits)


@checked
@given(seeds, st.integers(1, 14))
def test_a_sample_alone_equals_itself_in_a_batch_and_filled_up_to_any_length(seed: int, more: int) -> None:
    """`more` tokens of padding: the last hop need not be whole."""
    batch = random_batch(seed, samples=3)
    padded = changed(
        batch,
        mel=torch.nn.functional.pad(batch.mel, (0, 0, 0, 4 * more)),
        acoustic_valid=torch.nn.functional.pad(batch.acoustic_valid, (0, more)),
    )
    together = run(fixed_speech_model(), padded)
    for row in range(3):
        alone = run(fixed_speech_model(), row_of(batch, row))
        assert_close(together.logits[row], alone.logits[0], atol=TOLERANCE, rtol=0)


def test_another_start_of_the_positions_gives_another_answer_and_a_whole_period_later_the_same() -> None:
    batch = random_batch(3)

    def at(step: int) -> Tensor:
        tokens = fixed_speech_model().encode(changed(batch, acoustic_step=torch.full((2,), step)))
        plain = fixed_speech_model(position="window").encode(batch)
        assert len(tokens) == len(plain)
        layers = fixed_speech_model().temporal_features(
            "acoustic", batch.mel, batch.acoustic_valid, torch.full((2,), step)
        )
        return layers[-1]

    assert torch.equal(at(0), at(750))  # 1,500 steps of 20 ms are 750 tokens
    assert not torch.allclose(at(0), at(5), atol=1e-3)


def test_every_weight_of_the_speech_encoder_has_a_gradient() -> None:
    model = speech_model()
    model(random_batch(1, samples=4, hops=6)).logits.square().sum().backward()
    speech = [(n, p) for n, p in model.named_parameters() if n.startswith(("acoustic.", "stages.acoustic."))]
    assert len(speech) == 4 + 3 * 12
    for name, parameter in speech:
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-7, name


def test_levels_of_sound_are_the_layers_and_have_no_temporal_network() -> None:
    engines = [StreamingLevel(fixed_speech_model(), level, GRID) for level in LEVELS]
    for engine in engines:
        assert {f"acoustic_{part}" for part in ("keys", "values", "heard")} <= set(engine.state_names)
        assert "acoustic_conv_1" not in engine.state_names and "vision_conv_1" in engine.state_names
        assert tuple(engine.example()) == engine.input_names
    shapes = [engine.example(2)["acoustic_in"].shape for engine in engines]
    assert shapes == [(2, 20, SPEECH.mel_bands), (2, 10, 12), (2, 10, 12)]
    assert [SPEECH_POSITION in engine.input_names for engine in engines] == [True, False, False]
    assert WINDOW_HOPS * 5 == GRID.acoustic_tokens


def test_a_grid_of_other_hops_is_refused() -> None:
    with pytest.raises(ValueError, match="works by hops of 5 tokens, not 10"):
        StreamingLevel(fixed_speech_model(), 1, replace(GRID, acoustic_slots=10, acoustic_tokens=40))
