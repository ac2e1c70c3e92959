"""A pretrained speech encoder that streams: the stem and first three layers of Whisper's encoder, run block by block.

A block is a hop: 5 acoustic tokens of 25 Hz, which are 10 encoder steps of 50 Hz. A step sees its whole block and
`speech_context` steps before it, whose keys and values are carried as explicit tensors; so running hop by hop equals
running over the whole prefix with a block-causal, banded mask. Layers 1, 2 and 3 are the shallow, mid and deep level
of sound, as early, middle and late layers of a BERT are those of language.

Weights: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision (Whisper tiny.en, MIT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import ModelConfig

BLOCK_TOKENS = 5
STEPS_PER_TOKEN = 2
MEL_PER_STEP = 2
BLOCK_STEPS = BLOCK_TOKENS * STEPS_PER_TOKEN
MASKED = -1e4  # finite on purpose: engines in half precision must not see -inf
_SCALE = 4.0 * math.log(10.0)  # Whisper's (log10 + 4) / 4, from natural logarithms


class SpeechStem(nn.Module):
    """Two causal convolutions of kernel 3, the second of stride 2, and positions: 2 log-mel frames -> one step.

    It equals Whisper's stem on a sound that is one mel frame (10 ms) late, so it does not look ahead. The convolutions
    are matrix products over three taps. State: the last two mel frames (B, 2, bands), normalised, and the last column
    of the first convolution (B, 1, width).
    """

    state_parts = ("mel", "stem")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.bands, self.width = config.mel_bands, config.speech_width
        self.first = nn.Linear(3 * config.mel_bands, self.width)
        self.second = nn.Linear(3 * self.width, self.width)

    def forward(
        self, mel: Tensor, valid: Tensor, position: Tensor, states: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """mel (B, 4T, bands), valid (B, T), position (B, 2T, width) -> steps (B, 2T, width) and the two next states."""
        x = (mel / _SCALE + 1.0) * repeated(valid, STEPS_PER_TOKEN * MEL_PER_STEP).unsqueeze(-1)
        x = torch.cat([states[0], x], 1)
        y = functional.gelu(self.first(_taps(x, 1)))  # (B, 4T, width)
        y = y * repeated(valid, STEPS_PER_TOKEN * MEL_PER_STEP).unsqueeze(-1)
        y = torch.cat([states[1].to(y.dtype), y], 1)
        z = functional.gelu(self.second(_taps(y, MEL_PER_STEP)))
        return z + position, [x[:, -2:], y[:, -1:]]

    def initial_state(self, streams: int) -> list[Tensor]:
        return [torch.zeros(streams, 2, self.bands), torch.zeros(streams, 1, self.width)]


class SpeechLayer(nn.Module):
    """One pre-norm layer: attention over the block and `speech_context` steps before it, then a feed-forward network.

    State: keys and values (B, heads, context, width / heads) and which of these steps were heard (B, context).
    """

    state_parts = ("keys", "values", "heard")
    mean: Tensor  # of a token, by column; set once from training data, for the constant part outweighs what varies
    deviation: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.speech_width
        self.width, self.heads, self.context = width, config.speech_heads, config.speech_context
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.inner_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.speech_inner)
        self.narrow = nn.Linear(config.speech_inner, width)
        self.dropout = nn.Dropout(config.speech_dropout)
        self.token_dropout = nn.Dropout(config.dropout)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x (B, 2T, width), valid (B, T), T a multiple of 5, and the three states -> x of the same shape and the next.

        The memory of a long prefix is quadratic in its length; a stream gives one block at a time.
        """
        heard = repeated(valid, STEPS_PER_TOKEN)
        y, following = self._attend(self.attention_norm(x), heard, states)
        x = x + self.dropout(y)
        return x + self.dropout(self.narrow(functional.gelu(self.widen(self.inner_norm(x))))), following

    def initial_state(self, streams: int) -> list[Tensor]:
        shape = (streams, self.heads, self.context, self.width // self.heads)
        return [torch.zeros(shape), torch.zeros(shape), torch.zeros(streams, self.context)]

    def tokens(self, steps: Tensor) -> Tensor:
        """Encoder steps (B, 2T, width) -> what CLCR reads (B, T, width): the mean of each pair, standardised."""
        count = int(steps.shape[1]) // STEPS_PER_TOKEN
        pairs = steps.reshape(-1, count, STEPS_PER_TOKEN, self.width).mean(2)
        return self.standard(pairs)

    def standard(self, pairs: Tensor) -> Tensor:
        """Means of pairs, standardised by the constants of the training data."""
        standard: Tensor = self.token_dropout((pairs - self.mean) / self.deviation)
        return standard

    def plain(self, tokens: Tensor) -> Tensor:
        """The means of pairs that were standardised."""
        return tokens * self.deviation + self.mean

    def _attend(self, y: Tensor, heard: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        steps, size = int(y.shape[1]), self.width // self.heads
        # A masked step is carried as zeros, so that the state does not depend on what lies in masked places.
        query, key, value = self.qkv(y).reshape(-1, steps, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        shown = heard[:, None, :, None].to(key.dtype)
        keys = torch.cat([states[0].to(key.dtype), key * shown], 2)
        values = torch.cat([states[1].to(value.dtype), value * shown], 2)
        known = torch.cat([states[2], heard], 1)
        mask = ((1.0 - known) * MASKED)[:, None, None, :]
        if steps > BLOCK_STEPS:
            mask = mask + self._band(steps).to(y.device)
        scores = (query * size**-0.5) @ keys.transpose(-1, -2)
        weights = torch.softmax(scores.float() + mask, -1).to(values.dtype)
        out = (weights @ values).transpose(1, 2).reshape(-1, steps, self.width)
        return self.out(out), [keys[:, :, -self.context :], values[:, :, -self.context :], known[:, -self.context :]]

    def _band(self, steps: int) -> Tensor:
        """(steps, context + steps): 0 where a step sees a key (its block and the context before that), else 2 * MASKED.

        Twice, so that a step that has heard nothing yet does not take what it will hear for what it has not heard.
        """
        first = np.arange(steps) // BLOCK_STEPS * BLOCK_STEPS  # of what a step sees, counted with the carried keys
        place = np.arange(self.context + steps)
        seen = (place >= first[:, None]) & (place < first[:, None] + self.context + BLOCK_STEPS)
        return torch.from_numpy(np.where(seen, 0.0, 2.0 * MASKED).astype(np.float32))


def repeated(valid: Tensor, times: int) -> Tensor:
    """(B, T) -> (B, times * T), each step `times` times in place (written so that it exports with fixed shapes)."""
    return torch.stack([valid] * times, -1).reshape(-1, times * int(valid.shape[1]))


def _taps(x: Tensor, stride: int) -> Tensor:
    """(B, n, c) -> (B, (n - 3) // stride + 1, 3 * c): the three inputs of each place of a convolution of kernel 3."""
    count = (int(x.shape[1]) - 3) // stride + 1
    places = stride * torch.arange(count).unsqueeze(1) + torch.arange(3)
    taken = x.index_select(1, places.reshape(-1).to(x.device))
    return taken.reshape(-1, count, 3 * int(x.shape[2]))
