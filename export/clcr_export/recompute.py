"""The same model without streaming: one graph that encodes a whole window anew, as a user without carried state would.

This is what the streaming engines are compared with, in ONNX Runtime and, as a plain module, in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clcr.network.config import LEVELS
from clcr.network.encoders import TemporalStage
from clcr.network.intraced import Described
from clcr.network.model import CLCR
from clcr.network.streaming import DESCRIBED, STREAMED, Grid, StreamingInterCAD, StreamingLevel
from clcr_export.graphs import Graph, export_graph

WINDOW_INPUTS = ("frames", "mel", "vision_valid", "acoustic_valid", "vision_position", "acoustic_position")


def receptive_field(model: CLCR) -> int:
    """Steps before a token that its deepest features depend on: 28 for dilations 1, 2, 4."""
    return sum(4 * dilation for dilation in model.config.dilations)


@dataclass(frozen=True)
class Steps:
    """How many steps Recompute is given, and how many of these are the window."""

    given: int
    window: int


class Recompute(nn.Module):
    """All three levels and InterCAD on one window, from pixels and log-mel; language comes described, as to the levels.

    With `left_context` = `receptive_field(model)` real steps before the window it computes what the streaming engines
    compute; with 0 the window's first steps see zeros instead of their past. The acoustic stem needs one token more.
    Steps from before the stream are masked.
    """

    output_names: tuple[str, ...]

    def __init__(self, model: CLCR, grid: Grid, left_context: int) -> None:
        super().__init__()
        if left_context < 0:
            raise ValueError(
                f"left_context is {left_context}; allowed: 0 (not exact) to {receptive_field(model)} (exact)"
            )
        self.grid = grid
        self.vision_steps = Steps(grid.vision_tokens + left_context, grid.vision_tokens)
        self.acoustic_steps = Steps(grid.acoustic_tokens + left_context + (left_context > 0), grid.acoustic_tokens)
        self.levels = nn.ModuleList(StreamingLevel(model, level, grid) for level in LEVELS)
        self.vision, self.acoustic = model.vision, model.acoustic
        self.intercad = StreamingInterCAD(model)
        self.output_names = (*self.intercad.output_names, "present")
        self.width = model.config.width

    @property
    def input_names(self) -> tuple[str, ...]:
        words = (f"language_{part}_{level}" for level in LEVELS for part in DESCRIBED)
        return (*WINDOW_INPUTS, *words, "gamma")

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and dtypes: everything valid."""
        grid, vision, acoustic = self.grid, self.vision_steps, self.acoustic_steps
        inputs = {
            "frames": torch.rand(streams, vision.given, 3, grid.size_px, grid.size_px) * 255.0,
            "mel": torch.randn(streams, 4 * acoustic.given, self.acoustic.bands) - 6.0,
            "vision_valid": torch.ones(streams, vision.given),
            "acoustic_valid": torch.ones(streams, acoustic.given),
            "vision_position": torch.randn(streams, vision.window, self.width),
            "acoustic_position": torch.randn(streams, acoustic.window, self.width),
        }
        for level in LEVELS:
            words = self._level(level).example(streams)
            inputs |= {f"language_{part}_{level}": words[f"language_{part}"] for part in DESCRIBED}
        return inputs | {"gamma": torch.ones(streams, 1)}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names`; probabilities (or value), omega, beta, eta, present."""
        frames, mel, vision_valid, acoustic_valid, vision_position, acoustic_position, *words, gamma = inputs
        valid = {"vision": vision_valid, "acoustic": acoustic_valid}
        position = {"vision": vision_position, "acoustic": acoustic_position}
        start = {m: steps.given - steps.window for m, steps in zip(STREAMED, self._steps(), strict=True)}
        z = {"vision": self._pictures(frames) * vision_valid.unsqueeze(-1)}
        z["acoustic"] = self.acoustic(mel, acoustic_valid, *self._stem_start(mel))[0]
        summaries: list[Tensor] = []
        present = gamma
        for level in LEVELS:
            engine = self._level(level)
            windows: dict[str, Described] = {}
            for m in STREAMED:
                z[m] = _whole(engine.stage(m), z[m], valid[m])
                windows[m] = engine.describe(m, z[m][:, start[m] :], position[m], valid[m][:, start[m] :])
            windows["language"] = Described(*words[3 * (level - 1) : 3 * level])
            out = engine.fuse(windows, gamma)
            summaries += [out.shared, out.private]
            present = out.present
        return (*self.intercad(*summaries, present), present)

    def _steps(self) -> tuple[Steps, Steps]:
        return self.vision_steps, self.acoustic_steps

    def _level(self, level: int) -> StreamingLevel:
        return cast(StreamingLevel, self.levels[level - 1])

    def _pictures(self, frames: Tensor) -> Tensor:
        size = self.grid.size_px
        features: Tensor = self.vision(frames.reshape(-1, 3, size, size))
        return features.reshape(-1, self.vision_steps.given, self.width)

    def _stem_start(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        rows, bands, channels = mel.shape[0], self.acoustic.bands, self.acoustic.first_channels
        return mel.new_zeros(rows, 1, bands), mel.new_zeros(rows, channels, 1, bands // 2)


def _whole(stage: TemporalStage, z: Tensor, valid: Tensor) -> Tensor:
    start = [z.new_zeros(z.shape[0], 2 * stage.dilation, z.shape[2]) for _ in stage.convs]
    following, _ = stage(z, valid, start)
    return cast(Tensor, following)


def export_recompute(model: CLCR, grid: Grid, left_context: int) -> Graph:
    """`Recompute` as one ONNX graph."""
    return export_graph("recompute", Recompute(model, grid, left_context).eval())
