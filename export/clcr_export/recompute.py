"""The same model without streaming: one graph that encodes a whole window anew, as a user without carried state would.

This is what the streaming engines are compared with, in ONNX Runtime and, as a plain module, in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clcr.network.baseline import Baseline
from clcr.network.config import LEVELS
from clcr.network.intraced import Described
from clcr.network.model import CLCR, Stage
from clcr.network.speech import BLOCK_STEPS, BLOCK_TOKENS, STEPS_PER_TOKEN, SpeechStem
from clcr.network.streaming import DESCRIBED, SPEECH_POSITION, STREAMED, Grid, StreamingInterCAD, StreamingLevel
from clcr_export.graphs import Graph, export_graph

WINDOW_INPUTS = ("frames", "mel", "vision_valid", "acoustic_valid", "vision_position", "acoustic_position")
FACE_FEATURES = "face_features"


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

    cached_faces: `face_features`, as `Faces` makes them frame by frame, come in place of the frames. A model with
    baselines is given those of before the window, and gives those of before the next one (`state_names`).
    """

    output_names: tuple[str, ...]

    def __init__(self, model: CLCR, grid: Grid, left_context: int, cached_faces: bool = False) -> None:
        super().__init__()
        if left_context < 0:
            raise ValueError(
                f"left_context is {left_context}; allowed: 0 (not exact) to {receptive_field(model)} (exact)"
            )
        self.grid, self.cached_faces = grid, cached_faces
        self.vision_steps = Steps(grid.vision_tokens + left_context, grid.vision_tokens)
        sound = max(0, acoustic_field(model) - receptive_field(model) + left_context) if left_context else 0
        if model.config.acoustic_encoder == "whisper":
            sound = sound // BLOCK_TOKENS * BLOCK_TOKENS
        self.acoustic_steps = Steps(grid.acoustic_tokens + sound, grid.acoustic_tokens)
        self.levels = nn.ModuleList(StreamingLevel(model, level, grid) for level in LEVELS)
        self.vision, self.acoustic = model.vision, model.acoustic
        self.intercad = StreamingInterCAD(model)
        self.width = model.config.width
        parts = Baseline.state_parts if model.config.baseline else ()
        self.state_names = tuple(f"{m}_{part}_{level}" for level in LEVELS for m in STREAMED for part in parts)
        following = (f"{name}_next" for name in self.state_names)
        self.output_names = (*self.intercad.output_names, "present", *following)
        hops = torch.arange(grid.vision_tokens // grid.vision_slots)
        self.register_buffer("earlier", (hops[:, None] < hops).float(), persistent=False)  # [j, h]: j comes before h

    @property
    def input_names(self) -> tuple[str, ...]:
        words = (f"language_{part}_{level}" for level in LEVELS for part in DESCRIBED)
        position = (SPEECH_POSITION,) if self._level(1).speech else ()
        seen = (FACE_FEATURES, *WINDOW_INPUTS[1:]) if self.cached_faces else WINDOW_INPUTS
        return (*seen, *position, *words, "gamma", *self.state_names)

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and dtypes: everything valid."""
        grid, vision, acoustic = self.grid, self.vision_steps, self.acoustic_steps
        frames = torch.rand(streams, vision.given, 3, grid.size_px, grid.size_px) * 255.0
        inputs = {
            **({FACE_FEATURES: torch.randn(streams, vision.given, self.width)} if self.cached_faces else {}),
            **({} if self.cached_faces else {"frames": frames}),
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
        state = {name: torch.zeros(streams, 1 if "steps" in name else self.width) for name in self.state_names}
        return inputs | {"gamma": torch.ones(streams, 1)} | state

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names`; probabilities (or value), omega, beta, eta, present."""
        given = dict(zip(self.input_names, inputs, strict=True))
        gamma = given["gamma"]
        valid = {m: given[f"{m}_valid"] for m in STREAMED}
        position = {m: given[f"{m}_position"] for m in STREAMED}
        start = {m: steps.given - steps.window for m, steps in zip(STREAMED, self._steps(), strict=True)}
        pictures = given[FACE_FEATURES] if self.cached_faces else self._pictures(given["frames"])
        z = {"vision": pictures * valid["vision"].unsqueeze(-1)}
        z["acoustic"] = self._sound(given)
        summaries: list[Tensor] = []
        present = gamma
        following: list[Tensor] = []
        for level in LEVELS:
            engine = self._level(level)
            windows: dict[str, Described] = {}
            for m in STREAMED:
                z[m] = _whole(engine.stage(m), z[m], valid[m])
                rate = STEPS_PER_TOKEN if engine.speech and m == "acoustic" else 1  # a number: the shapes follow
                features = engine.features(m, z[m][:, rate * start[m] :])
                if self.state_names:
                    states = [given[f"{m}_{part}_{level}"] for part in Baseline.state_parts]
                    features, *after = self._unusual(engine.baselines[m], features, valid[m][:, start[m] :], states)
                    following += after
                windows[m] = engine.describe(m, features, position[m], valid[m][:, start[m] :])
            windows["language"] = Described(*(given[f"language_{part}_{level}"] for part in DESCRIBED))
            out = engine.fuse(windows, gamma)
            summaries += [out.shared, out.private]
            present = out.present
        return (*self.intercad(*summaries, present), present, *following)

    def _steps(self) -> tuple[Steps, Steps]:
        return self.vision_steps, self.acoustic_steps

    def _level(self, level: int) -> StreamingLevel:
        return cast(StreamingLevel, self.levels[level - 1])

    def _unusual(self, layer: nn.Module, x: Tensor, valid: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the layer gives hop by hop over a window, all hops at once; and its state after the first hop.

        The mean before hop h is the mean before the window, faded by what came since, and the sums of the hops between:
        u_h = P_h (u_0 + sum over j < h of s_j / (n_j P_(j+1))), P_h being the product of the fadings before h.
        """
        baseline = cast(Baseline, layer)
        usual, count = states
        earlier = self.get_buffer("earlier")
        shape = (-1, len(earlier), baseline.block)
        new = valid.reshape(shape).sum(2)  # (S, hops), as all below
        sums = (x * valid.unsqueeze(-1)).reshape(*shape, self.width).sum(2)  # (S, hops, width)
        before = (count + new @ earlier).clamp(max=baseline.horizon)
        total = (before + new).clamp(min=1.0)
        kept = 1.0 - before.clamp(max=1.0) * new / total  # nothing fades before the first step
        faded = (kept.log() @ earlier).exp()
        shares = sums / (total * faded * kept).unsqueeze(-1)
        means = faded.unsqueeze(-1) * (usual.unsqueeze(1) + earlier.t() @ shares)
        change = (baseline.weight(before).unsqueeze(-1) * (baseline.shift - means)).unsqueeze(2)
        out = (x.reshape(*shape, self.width) + change).reshape(-1, len(earlier) * baseline.block, self.width)
        return out, means[:, 1], before[:, 1:2]

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


class Faces(nn.Module):
    """The features of a hop's frames, which nothing before or after them changes: what a careful user keeps."""

    input_names = ("frames",)
    output_names = (FACE_FEATURES,)

    def __init__(self, model: CLCR, grid: Grid) -> None:
        super().__init__()
        self.vision, self.grid, self.width = model.vision, grid, model.config.width

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        return {"frames": torch.rand(streams, self.grid.vision_slots, 3, self.grid.size_px, self.grid.size_px) * 255.0}

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        features: Tensor = self.vision(frames.reshape(-1, 3, self.grid.size_px, self.grid.size_px))
        return (features.reshape(-1, self.grid.vision_slots, self.width),)


def _whole(stage: Stage, z: Tensor, valid: Tensor) -> Tensor:
    following, _ = stage(z, valid, _fresh(z, stage.initial_state(1)))
    return cast(Tensor, following)


def _fresh(like: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """The states at a stream's start for as many streams as `like` has."""
    return [like.new_zeros(like.shape[0], *state.shape[1:]) for state in states]


def export_recompute(model: CLCR, grid: Grid, left_context: int, cached_faces: bool = False) -> Graph:
    """`Recompute` as one ONNX graph."""
    return export_graph("recompute", Recompute(model, grid, left_context, cached_faces).eval())


def export_faces(model: CLCR, grid: Grid) -> Graph:
    """`Faces` as one ONNX graph."""
    return export_graph("faces", Faces(model, grid).eval())
