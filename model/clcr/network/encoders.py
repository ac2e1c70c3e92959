"""Causal, streamable encoders: per-frame front-ends and the three-stage temporal network.

Every temporal operation reads only the past and carries its left context as an explicit tensor, so that running on
chunks equals running on the whole prefix. A masked step contributes exactly what zero padding does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import ModelConfig
from clcr.network.speech import repeated

LEAST_CONTRAST = 4.0  # grey levels: a flat picture is not blown up to noise


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a strided shortcut (frozen statistics when evaluated)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return functional.relu(y + self.shortcut_norm(self.shortcut(x)))


class PlainBlock(nn.Module):
    """ResNet-18's basic block of stride 1: the shortcut is the input itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + x)


def vision_front_end(config: ModelConfig) -> VisionFrontEnd | GridResNet | ResNet18:
    """The front-end that the configuration names."""
    match config.vision_front_end:
        case "resnet18":
            return ResNet18(config)
        case "grid":
            return GridResNet(config.vision_channels, config.width, config.dropout)
        case _:
            return VisionFrontEnd(config)


class VisionFrontEnd(nn.Module):
    """A small ResNet on face crops: (N, 3, 112, 112) RGB in 0..255 -> (N, width); 25 million multiply-adds a frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.vision_channels
        self.stem = nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(channels)))
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(channels[-1], config.width)

    def forward(self, frames: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(_first_convolution(self.stem, frames)))
        pooled: Tensor = self.blocks(x).mean((2, 3))
        return self.project(self.dropout(pooled))  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """The paper's front-end: (N, 3, 112, 112) RGB in 0..255 -> (N, width); 485 million multiply-adds a frame.

    7x7 convolution and 3x3 max pool of stride 2 each, 2-2-2-2 basic blocks of 64, 128, 256 and 512 channels, mean over
    the image, linear. Trained from scratch, as in the paper.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        widening = (block for a, b in pairwise((64, 128, 256, 512)) for block in (ResidualBlock(a, b), PlainBlock(b)))
        self.blocks = nn.Sequential(PlainBlock(64), PlainBlock(64), *widening)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(512, config.width)

    def forward(self, frames: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(_first_convolution(self.stem, frames)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        pooled: Tensor = self.blocks(x).mean((2, 3))
        return self.project(self.dropout(pooled))  # type: ignore[no-any-return]


class GridResNet(nn.Module):
    """A small ResNet on the face's light and shade: (N, 3, 112, 112) RGB in 0..255 -> (N, width).

    Luminance at 56x56, each face normalised by its own mean and deviation; a 3x3 convolution and three residual blocks
    of stride 2, pooled on a 3x3 grid, so that the places of mouth, eyes and brows stay apart.
    """

    luma: Tensor

    def __init__(self, channels: Sequence[int], width: int, dropout: float) -> None:
        super().__init__()
        # Rec. 601 luminance of each 2x2 square, as one convolution
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1).repeat(1, 1, 2, 2) / 4)
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(channels)))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(9 * channels[-1], width)

    def forward(self, frames: Tensor) -> Tensor:
        return self.describe(functional.conv2d(frames, self.luma, stride=2))

    def describe(self, luminance: Tensor) -> Tensor:
        """(N, 1, 56, 56) in 0..255 -> (N, width)."""
        centred = luminance - luminance.mean((2, 3), keepdim=True)
        deviation = (centred.square().mean((2, 3), keepdim=True) + LEAST_CONTRAST**2).sqrt()
        x = self.blocks(functional.relu(self.stem_norm(self.stem(centred / deviation))))
        pooled = functional.avg_pool2d(x, 3, stride=2)  # 7x7 -> 3x3
        return self.project(self.dropout(pooled.reshape(-1, self.project.in_features)))  # type: ignore[no-any-return]


def _first_convolution(stem: nn.Conv2d, frames: Tensor) -> Tensor:
    """Pixels to -2..2 and through `stem`; the weights are divided, as dividing pixels is 2 % of level 1's time."""
    return functional.conv2d(frames - 127.5, stem.weight / 64.0, stride=stem.stride, padding=stem.padding)


class AcousticStem(nn.Module):
    """Two causal strided convolutions over (time, band): 4 log-mel frames -> one token of `width`.

    State: the last mel frame (B, 1, bands) and the last column of the first convolution (B, C1, 1, bands / 2).
    """

    state_parts = ("mel", "stem")
    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first, second = config.acoustic_channels
        self.bands = config.mel_bands
        self.first_channels = first
        self.register_buffer("mel_mean", torch.full((config.mel_bands,), -7.0))
        self.register_buffer("mel_std", torch.full((config.mel_bands,), 4.5))
        self.first = nn.Conv2d(1, first, 3, stride=2, padding=(0, 1))
        self.second = nn.Conv2d(first, second, 3, stride=2, padding=(0, 1))
        self.project = nn.Linear(second * config.mel_bands // 4, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, mel: Tensor, valid: Tensor, mel_state: Tensor, stem_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mel (B, 4T, bands), valid (B, T) -> tokens (B, T, width) and the two next states."""
        x = (mel - self.mel_mean) / self.mel_std * repeated(valid, 4).unsqueeze(-1)
        x = torch.cat([mel_state, x], 1)
        y = functional.gelu(self.first(x.unsqueeze(1)))  # (B, C1, 2T, bands / 2)
        y = y * repeated(valid, 2)[:, None, :, None]
        y = torch.cat([stem_state.to(y.dtype), y], 2)
        z = functional.gelu(self.second(y)).transpose(1, 2)  # (B, T, C2, bands / 4)
        z = self.project(self.dropout(z.reshape(-1, int(valid.shape[1]), self.project.in_features)))
        return z, x[:, -1:], y[:, :, -1:]

    def initial_state(self, streams: int) -> tuple[Tensor, Tensor]:
        return (
            torch.zeros(streams, 1, self.bands),
            torch.zeros(streams, self.first_channels, 1, self.bands // 2),
        )


class CausalConv(nn.Module):
    """Kernel-3 dilated causal convolution over (B, T, width), written as one matrix product over three taps.

    State: the last 2 * dilation input steps (B, 2 * dilation, width).
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.taps = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = int(x.shape[1])
        extended = torch.cat([state.to(x.dtype), x], 1)
        places = torch.arange(steps).unsqueeze(1) + self.dilation * torch.arange(3)
        taps = extended.index_select(1, places.reshape(-1).to(x.device))  # one Gather: slices cost a node each
        return self.taps(taps.reshape(-1, steps, 3 * int(x.shape[2]))), extended[:, -2 * self.dilation :]


class TemporalStage(nn.Module):
    """One stage of the temporal network: two residual causal convolutions of one dilation, pre-norm, GELU."""

    state_parts = ("conv_1", "conv_2")

    def __init__(self, config: ModelConfig, dilation: int) -> None:
        super().__init__()
        self.dilation, self.width = dilation, config.width
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.convs = nn.ModuleList(CausalConv(config.width, dilation) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x (B, T, width), valid (B, T), a state (B, 2 * dilation, width) per convolution -> Z and the next states."""
        mask, following = valid.unsqueeze(-1), []
        for norm, conv, state in zip(self.norms, self.convs, states, strict=True):
            y, after = conv(functional.gelu(norm(x)) * mask, state)
            x = x + self.dropout(y)
            following.append(after)
        return x, following

    def initial_state(self, streams: int) -> list[Tensor]:
        return [torch.zeros(streams, 2 * self.dilation, self.width) for _ in self.convs]

    def tokens(self, z: Tensor) -> Tensor:
        """What the level reads: the features themselves."""
        return z

    def standard(self, tokens: Tensor) -> Tensor:
        """Nothing is standardised here."""
        return tokens

    plain = standard
