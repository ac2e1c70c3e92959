"""Encoders: causal, chunk by chunk equal to the whole, blind to what is masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clcr.network.config import ModelConfig
from clcr.network.encoders import AcousticStem, CausalConv, TemporalStage, VisionFrontEnd, vision_front_end
from clcr_factory import TINY, changed, fixed_model, pieces, random_batch, tiny_model
from close import assert_close

checked = settings(deadline=None, max_examples=15)
cuts = st.lists(st.integers(1, 5), min_size=1, max_size=8)
seeds = st.integers(0, 10**6)

# A chunked run of one encoder: (chunks of steps) -> output of the whole prefix.
Runner = Callable[[list[int]], Tensor]


def stage_runner(seed: int, steps: int, dilation: int) -> Runner:
    torch.manual_seed(seed)
    stage = TemporalStage(TINY, dilation).eval()
    x, valid = torch.randn(2, steps, TINY.width), (torch.rand(2, steps) < 0.7).float()

    def run(chunks: list[int]) -> Tensor:
        state, outputs = stage.initial_state(2), []
        for part, mask in zip(pieces(x, chunks, 1), pieces(valid, chunks, 1), strict=True):
            z, state = stage(part, mask, state)
            outputs.append(z)
        return torch.cat(outputs, 1)

    return run


def stem_runner(seed: int, steps: int) -> Runner:
    torch.manual_seed(seed)
    stem = AcousticStem(TINY).eval()
    mel, valid = torch.randn(2, 4 * steps, TINY.mel_bands) * 3, (torch.rand(2, steps) < 0.7).float()

    def run(chunks: list[int]) -> Tensor:
        state, outputs = stem.initial_state(2), []
        for part, mask in zip(pieces(mel, [4 * c for c in chunks], 1), pieces(valid, chunks, 1), strict=True):
            z, *state = stem(part, mask, *state)
            outputs.append(z)
        return torch.cat(outputs, 1)

    return run


@checked
@given(seeds, cuts, st.sampled_from((1, 2, 4)))
@torch.no_grad()
def test_a_stage_run_in_random_chunks_equals_the_whole(seed: int, chunks: list[int], dilation: int) -> None:
    run = stage_runner(seed, sum(chunks), dilation)
    assert_close(run(chunks), run([sum(chunks)]), atol=1e-5, rtol=0)


@checked
@given(seeds, cuts)
@torch.no_grad()
def test_the_acoustic_stem_run_in_random_chunks_equals_the_whole(seed: int, chunks: list[int]) -> None:
    run = stem_runner(seed, sum(chunks))
    assert_close(run(chunks), run([sum(chunks)]), atol=1e-5, rtol=0)


@checked
@given(seeds, st.sampled_from((1, 2, 4)))
@torch.no_grad()
def test_the_convolution_by_taps_equals_a_dilated_convolution(seed: int, dilation: int) -> None:
    torch.manual_seed(seed)
    conv = CausalConv(6, dilation)
    x = torch.randn(2, 11, 6)
    kernel = conv.taps.weight.view(6, 3, 6).transpose(1, 2)
    padded = nn.functional.pad(x.transpose(1, 2), (2 * dilation, 0))
    expected = nn.functional.conv1d(padded, kernel, conv.taps.bias, dilation=dilation).transpose(1, 2)
    found, state = conv(x, torch.zeros(2, 2 * dilation, 6))
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(state, x[:, -2 * dilation :])


def reach(dilation: int) -> list[int]:
    """How many steps later an output still depends on an input step."""
    torch.manual_seed(0)
    stage = TemporalStage(TINY, dilation).eval()
    x = torch.randn(1, 24, TINY.width, requires_grad=True)
    z, _ = stage(x, torch.ones(1, 24), stage.initial_state(1))
    (gradient,) = torch.autograd.grad(z[0, 20].sum(), x)
    return [20 - int(step) for step in gradient[0].abs().sum(-1).nonzero().squeeze(-1)]


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_stage_sees_four_dilations_back_and_nothing_ahead(dilation: int) -> None:
    assert sorted(reach(dilation)) == list(range(0, 4 * dilation + 1, dilation))


def test_the_receptive_field_grows_with_every_stage() -> None:
    dilations = ModelConfig().dilations
    fields = [1 + sum(4 * d for d in dilations[: level + 1]) for level in range(3)]
    assert fields == [5, 13, 29]
    model = tiny_model()
    for level, field in enumerate(fields):
        x = torch.randn(1, 40, TINY.width, requires_grad=True)
        z = model.temporal_features("vision", x, torch.ones(1, 40))[level]
        (gradient,) = torch.autograd.grad(z[0, 39].sum(), x)
        assert int(gradient[0].abs().sum(-1).nonzero().min()) == 40 - field


@checked
@given(seeds, st.integers(1, 8))
@torch.no_grad()
def test_future_input_never_changes_a_past_token(seed: int, from_hop: int) -> None:
    model, batch = fixed_model(), random_batch(seed, hops=9)
    noise = torch.randn(batch.mel[:, 20 * from_hop :].shape) * 5
    future_mel = torch.cat([batch.mel[:, : 20 * from_hop], noise], 1)
    later = batch.acoustic_valid.clone()
    later[:, 5 * from_hop :] = 1.0 - later[:, 5 * from_hop :]
    rows = torch.nonzero(batch.vision_valid)[:, 1] >= 3 * from_hop
    frames = batch.frames.clone()
    frames[rows] = 255 - frames[rows]
    other = changed(batch, mel=future_mel, acoustic_valid=later, frames=frames)
    for before, after in zip(model.encode(batch), model.encode(other), strict=True):
        for m, steps in (("vision", 3), ("acoustic", 5)):
            stop = steps * from_hop
            parts = (tokens[m].window(0, stop).parts() for tokens in (before, after))
            for one, another in zip(*parts, strict=True):
                assert_close(one, another, atol=1e-5, rtol=0)


@checked
@given(seeds)
@torch.no_grad()
def test_a_masked_step_counts_as_zero_padding(seed: int) -> None:
    """A stream that begins with masked steps is the stream that begins after them."""
    torch.manual_seed(seed)
    stage, stem = TemporalStage(TINY, 2).eval(), AcousticStem(TINY).eval()
    x, mel = torch.randn(1, 9, TINY.width), torch.randn(1, 36, TINY.mel_bands)
    valid = torch.ones(1, 9)
    valid[:, :4] = 0
    whole, _ = stage(x, valid, stage.initial_state(1))
    late, _ = stage(x[:, 4:], valid[:, 4:], stage.initial_state(1))
    assert_close(whole[:, 4:], late, atol=1e-6, rtol=0)
    whole = stem(mel, valid, *stem.initial_state(1))[0]
    late = stem(mel[:, 16:], valid[:, 4:], *stem.initial_state(1))[0]
    assert_close(whole[:, 4:], late, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_frame_has_the_same_features_in_any_company() -> None:
    torch.manual_seed(0)
    vision = VisionFrontEnd(TINY).eval()
    frames = torch.rand(5, 3, 8, 8) * 255
    together = vision(frames)
    for index in range(5):
        assert_close(together[index], vision(frames[index : index + 1])[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_short_and_long_rows_of_a_batch_are_encoded_as_if_alone() -> None:
    """Rows of up to 8 steps are encoded apart from long ones; which rows share a batch must not matter."""
    model, batch = tiny_model(), random_batch(3, samples=4, hops=6)
    acoustic = batch.acoustic_valid.clone()
    acoustic[1, 4:], acoustic[2] = 0.0, 0.0
    batch = changed(batch, acoustic_valid=acoustic)
    together = model.temporal_features("acoustic", batch.mel, acoustic)
    for row in range(4):
        alone = model.temporal_features("acoustic", batch.mel[row : row + 1], acoustic[row : row + 1])
        mask = acoustic[row, :, None]
        for one, other in zip(together, alone, strict=True):
            assert_close(one[row] * mask, other[0] * mask, atol=1e-5, rtol=0)


def test_mel_normalisation_is_stored_with_the_weights() -> None:
    stem = AcousticStem(TINY)
    names = {name for name, _ in stem.named_buffers()}
    assert names == {"mel_mean", "mel_std"}
    np.testing.assert_array_equal(stem.initial_state(3)[0].numpy(), np.zeros((3, 1, TINY.mel_bands)))


def resnet_multiply_adds() -> int:
    """Of one 112x112 frame, by hand: stem to 56, pool to 28, stages at 28, 14, 7 and 4 pixels, linear."""
    total = 3 * 49 * 64 * 56**2 + 4 * 9 * 64 * 64 * 28**2
    for inputs, outputs, pixels in ((64, 128, 14), (128, 256, 7), (256, 512, 4)):
        total += (9 * inputs * outputs + inputs * outputs + 3 * 9 * outputs * outputs) * pixels**2
    return total + 512 * ModelConfig().width


def test_the_resnet_has_the_layers_of_resnet18() -> None:
    front_end = vision_front_end(replace(ModelConfig(), vision_front_end="resnet18")).eval()
    without_classifier = 11_176_512  # parameters of ResNet-18 (He et al. 2016) up to its classifier
    linear = 512 * ModelConfig().width + ModelConfig().width
    assert sum(p.numel() for p in front_end.parameters()) == without_classifier + linear
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found = front_end(torch.rand(1, 3, 112, 112) * 255)
    assert found.shape == (1, ModelConfig().width)
    assert counter.get_total_flops() == 2 * resnet_multiply_adds() == 2 * 484_913_152


def test_the_resnet_learns_and_is_the_same_frame_by_frame() -> None:
    torch.manual_seed(0)
    front_end = vision_front_end(replace(TINY, vision_front_end="resnet18"))
    front_end(torch.rand(4, 3, 32, 32) * 255).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in front_end.parameters())
    front_end.eval()
    frames = torch.rand(3, 3, 32, 32) * 255
    with torch.no_grad():
        together = front_end(frames)
        for index in range(3):
            assert_close(together[index], front_end(frames[index : index + 1])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["small", "resnet18"])
def test_pixels_are_scaled_to_plus_minus_two(kind: Literal["small", "resnet18"]) -> None:
    """The scale is taken out of the first convolution's weights, not out of the pixels."""
    torch.manual_seed(0)
    front_end = vision_front_end(replace(TINY, vision_front_end=kind)).eval()
    frames = torch.rand(2, 3, 16, 16) * 255
    x = front_end.stem_norm(front_end.stem((frames - 127.5) / 64.0)).relu()
    if kind == "resnet18":
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    expected = front_end.project(front_end.blocks(x).mean((2, 3)))
    assert_close(front_end(frames), expected, atol=1e-5, rtol=1e-5)
