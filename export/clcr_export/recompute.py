"""The same model without streaming: one graph that encodes a whole window anew, as a user without carried state would.

This is what the streaming engines are compared with, in ONNX Runtime and, as a plain module, in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clcr.network.config import LEVELS
from clcr.network.intraced import Described
from clcr.network.model import CLCR, Stage
from clcr.network.speech import BLOCK_STEPS, BLOCK_TOKENS, STEPS_PER_TOKEN, SpeechStem
from clcr.network.streaming import DESCRIBED, SPEECH_POSITION, STREAMED, Grid, StreamingInterCAD, StreamingLevel
from clcr_export.graphs import Graph, export_graph

WINDOW_INPUTS = ("frames", "mel", "vision_valid", "acoustic_valid", "vision_position", "acoustic_position")


def receptive_field(model: CLCR) -> int:
    """Steps before a token that its deepest features depend on: 28 for dilations 1, 2, 4."""
    return sum(4 * dilation for dilation in model.config.dilations)


def acoustic_field(model: CLCR) -> int:
    """Acoustic tokens before a token that its deepest features depend on; whole hops for the speech encoder.

    The stem needs one token more than the stages; a layer of the speech encoder sees whole blocks of its past.
    """
    if model.config.acoustic_encoder != "whisper":
        return receptive_field(model) + 1
    blocks = len(LEVELS) * -(-model.config.speech_context // BLOCK_STEPS) + 1
    return blocks * BLOCK_TOKENS


@dataclass(frozen=True)
class Steps:
    """How many steps Recompute is given, and how many of these are the window."""

    given: int
    window: int


class Recompute(nn.Module):
    """All three levels and InterCAD on one window, from pixels and log-mel; language comes described, as to the levels.

    With `left_context` = `receptive_field(model)` real steps before the window it computes what the streaming engines
    compute; with 0 the window's first steps see zeros instead of their past. Sound then begins as many tokens more (or
    less) before the window as `acoustic_field` says. Steps from before the stream are masked.
    """

    output_names: tuple[str, ...]

    def __init__(self, model: CLCR, grid: Grid, left_context: int) -> None:
        super().__init__()
        if left_context < 0:
            raise ValueError(
                f"left_context is {left_context}; allowed: 0 (not exact) to {receptive_field(model)} (exact)"
            )
        if model.config.baseline:
            raise ValueError("a model with baselines cannot be recomputed from its window: they are older than that")
        self.grid = grid
        self.vision_steps = Steps(grid.vision_tokens + left_context, grid.vision_tokens)
        sound = max(0, acoustic_field(model) - receptive_field(model) + left_context) if left_context else 0
        if model.config.acoustic_encoder == "whisper":
            sound = sound // BLOCK_TOKENS * BLOCK_TOKENS
        self.acoustic_steps = Steps(grid.acoustic_tokens + sound, grid.acoustic_tokens)
        self.levels = nn.ModuleList(StreamingLevel(model, level, grid) for level in LEVELS)
        self.vision, self.acoustic = model.vision, model.acoustic
        self.intercad = StreamingInterCAD(model)
        self.output_names = (*self.intercad.output_names, "present")
        self.width = model.config.width

    @property
    def input_names(self) -> tuple[str, ...]:
        words = (f"language_{part}_{level}" for level in LEVELS for part in DESCRIBED)
        position = (SPEECH_POSITION,) if self._level(1).speech else ()
        return (*WINDOW_INPUTS, *position, *words, "gamma")

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
        if self._level(1).speech:
            steps = STEPS_PER_TOKEN * acoustic.given
            inputs[SPEECH_POSITION] = torch.randn(streams, steps, self._level(1).acoustic_stage.width)
        for level in LEVELS:
            words = self._level(level).example(streams)
            inputs |= {f"language_{part}_{level}": words[f"language_{part}"] for part in DESCRIBED}
        return inputs | {"gamma": torch.ones(streams, 1)}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names`; probabilities (or value), omega, beta, eta, present."""
        given = dict(zip(self.input_names, inputs, strict=True))
        gamma = given["gamma"]
        valid = {m: given[f"{m}_valid"] for m in STREAMED}
        position = {m: given[f"{m}_position"] for m in STREAMED}
        start = {m: steps.given - steps.window for m, steps in zip(STREAMED, self._steps(), strict=True)}
        z = {"vision": self._pictures(given["frames"]) * valid["vision"].unsqueeze(-1)}
        z["acoustic"] = self._sound(given)
        summaries: list[Tensor] = []
        present = gamma
        for level in LEVELS:
            engine = self._level(level)
            windows: dict[str, Described] = {}
            for m in STREAMED:
                z[m] = _whole(engine.stage(m), z[m], valid[m])
                rate = STEPS_PER_TOKEN if engine.speech and m == "acoustic" else 1  # a number: the shapes follow
                features = engine.features(m, z[m][:, rate * start[m] :])
                windows[m] = engine.describe(m, features, position[m], valid[m][:, start[m] :])
            windows["language"] = Described(*(given[f"language_{part}_{level}"] for part in DESCRIBED))
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

    def _sound(self, given: dict[str, Tensor]) -> Tensor:
        mel, valid = given["mel"], given["acoustic_valid"]
        start = _fresh(mel, self.acoustic.initial_state(1))
        if isinstance(self.acoustic, SpeechStem):
            return cast(Tensor, self.acoustic(mel, valid, given[SPEECH_POSITION], start)[0])
        return cast(Tensor, self.acoustic(mel, valid, *start)[0])


def _whole(stage: Stage, z: Tensor, valid: Tensor) -> Tensor:
    following, _ = stage(z, valid, _fresh(z, stage.initial_state(1)))
    return cast(Tensor, following)


def _fresh(like: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """The states at a stream's start for as many streams as `like` has."""
    return [like.new_zeros(like.shape[0], *state.shape[1:]) for state in states]


def export_recompute(model: CLCR, grid: Grid, left_context: int) -> Graph:
    """`Recompute` as one ONNX graph."""
    return export_graph("recompute", Recompute(model, grid, left_context).eval())
