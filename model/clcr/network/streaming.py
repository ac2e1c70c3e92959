"""CLCR as pure functions with explicit state: what the exporter writes, one module per engine (ARCHITECTURE.md, 3).

`StreamingLevel` consumes the new frames of one hop and the carried state, and returns the features for the next level,
the next state and the level's summary of its window. It calls the very functions of the offline model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clcr.network.baseline import BLOCK, Baseline
from clcr.network.config import LEVELS, MODALITIES
from clcr.network.intercad import Aggregate, InterCAD
from clcr.network.intraced import SCORE_LIMIT, Described, LevelOutputs
from clcr.network.model import CLCR, Stage
from clcr.network.speech import BLOCK_TOKENS, STEPS_PER_TOKEN, SpeechStem

PUBLIC_OUTPUTS = (
    "vision_out",
    "acoustic_out",
    "shared",
    "private",
    "alpha_vision",
    "alpha_acoustic",
    "alpha_language",
    "budget",
    "present",
)
LEVEL_INPUTS = (
    "vision_in",
    "acoustic_in",
    "vision_valid",
    "acoustic_valid",
    "vision_position",
    "acoustic_position",
    "language_qkv",
    "language_marks",
    "language_pool",
    "gamma",
)  # the carried state follows
STREAMED = ("vision", "acoustic")
DESCRIBED = ("qkv", "marks", "pool")
SPEECH_POSITION = "speech_position"  # a further input of level 1 where the acoustic encoder is pretrained


@dataclass(frozen=True)
class Grid:
    """How many steps a hop and a window hold."""

    vision_slots: int = 3
    vision_tokens: int = 90
    acoustic_slots: int = 5
    acoustic_tokens: int = 150
    language_tokens: int = 64
    size_px: int = 112


class StreamingLevel(nn.Module):
    """Level 1, 2 or 3 of a trained model over one hop. Bases are computed once, in float64, and frozen."""

    shared_basis: Tensor

    def __init__(self, model: CLCR, level: int, grid: Grid) -> None:
        super().__init__()
        if model.config.position != "absolute" or model.config.level_order != "aligned" or not model.config.hierarchy:
            raise ValueError("only position=absolute, level_order=aligned, hierarchy=true can run incrementally")
        index = level - 1
        if model.exchanges[index].largest_score() > SCORE_LIMIT:
            raise ValueError(
                f"level {level}: scores of attention may reach {model.exchanges[index].largest_score():.0f}; "
                f"engines are exact up to {SCORE_LIMIT:.0f}"
            )
        self.level, self.grid = level, grid
        self.exchange = model.exchanges[index]
        self.vision_stage, self.acoustic_stage = (model.stages_of(m)[index] for m in STREAMED)
        self.vision_project, self.acoustic_project = (model.projections(m)[index] for m in ("vision", "acoustic"))
        self.width = model.config.width
        self.baselines = nn.ModuleDict({m: model.baselines_of(m)[index] for m in STREAMED if model.baselines_of(m)})
        self.speech = model.config.acoustic_encoder == "whisper"
        slots = {"vision": grid.vision_slots, "acoustic": grid.acoustic_slots}
        if self.baselines and slots != BLOCK:
            raise ValueError(f"baselines work by hops of {BLOCK} tokens, not {slots}")
        if self.speech and grid.acoustic_slots != BLOCK_TOKENS:
            raise ValueError(f"the speech encoder works by hops of {BLOCK_TOKENS} tokens, not {grid.acoustic_slots}")
        if level == 1:
            self.vision, self.acoustic = model.vision, model.acoustic
        shared, private = frozen_bases(model, index)
        matrices = self.exchange.matrices(shared, private)
        self.register_buffer("shared_basis", shared.float(), persistent=False)
        for m in MODALITIES:
            self.register_buffer(f"private_basis_{m}", private[m].float(), persistent=False)
        for m in STREAMED:  # language comes described
            self.register_buffer(f"matrix_{m}", matrices[m].detach().float(), persistent=False)

    @property
    def state_names(self) -> tuple[str, ...]:
        stem = tuple(f"acoustic_{part}" for part in self.acoustic.state_parts) if self.level == 1 else ()
        return (*stem, *(f"{m}_{part}" for m in STREAMED for part in (*self._parts(m), *DESCRIBED)))

    @property
    def input_names(self) -> tuple[str, ...]:
        position = (SPEECH_POSITION,) if self.speech and self.level == 1 else ()
        return (*LEVEL_INPUTS, *position, *self.state_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return (*PUBLIC_OUTPUTS, *(f"{name}_next" for name in self.state_names))

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and dtypes: everything valid, state at the stream's start."""
        grid, width = self.grid, self.width
        first = self.level == 1
        sound = (STEPS_PER_TOKEN * grid.acoustic_slots, self.acoustic_stage.width)  # features of the level before
        sound = sound if self.speech else (grid.acoustic_slots, width)
        frames = torch.rand(streams, grid.vision_slots, 3, grid.size_px, grid.size_px) * 255.0
        inputs = {
            "vision_in": frames if first else torch.randn(streams, grid.vision_slots, width),
            "acoustic_in": torch.randn(streams, 4 * grid.acoustic_slots, self.acoustic.bands) - 6.0
            if first
            else torch.randn(streams, *sound),
            "vision_valid": torch.ones(streams, grid.vision_slots),
            "acoustic_valid": torch.ones(streams, grid.acoustic_slots),
            "vision_position": torch.randn(streams, grid.vision_slots, width),
            "acoustic_position": torch.randn(streams, grid.acoustic_slots, width),
            **self._words(streams),
            "gamma": torch.ones(streams, 1),
        }
        if first and self.speech:
            inputs[SPEECH_POSITION] = torch.randn(streams, *sound)
        return inputs | self.initial_state(streams)

    def initial_state(self, streams: int = 1) -> dict[str, Tensor]:
        grid = self.grid
        state: dict[str, Tensor] = {}
        if self.level == 1:
            state |= self._named("acoustic", self.acoustic.state_parts, self.acoustic.initial_state(streams))
        for m, tokens, slots in (
            ("vision", grid.vision_tokens, grid.vision_slots),
            ("acoustic", grid.acoustic_tokens, grid.acoustic_slots),
        ):
            stage = self.stage(m)
            state |= self._named(m, stage.state_parts, stage.initial_state(streams))
            if m in self.baselines:
                state |= self._named(m, Baseline.state_parts, self._baseline(m).initial_state(streams))
            state |= self._empty(m, streams, tokens, tokens // slots)
        return state

    def _words(self, streams: int) -> dict[str, Tensor]:
        """Valid described tokens of language, at random."""
        empty = self._empty("language", streams, self.grid.language_tokens, self.grid.language_tokens)
        words = {name: torch.randn_like(value) for name, value in empty.items()}
        activation = torch.rand(streams, 1, self.grid.language_tokens)
        return words | {"language_marks": torch.cat([activation, torch.ones_like(activation)], 1)}

    def _empty(self, modality: str, streams: int, tokens: int, rows: int) -> dict[str, Tensor]:
        config = self.exchange.config
        return {
            f"{modality}_qkv": torch.zeros(streams, 3 * config.heads, tokens, config.shared_rank // config.heads),
            f"{modality}_marks": torch.zeros(streams, 2, tokens),
            f"{modality}_pool": torch.zeros(streams, rows, config.shared_rank + config.private_rank),
        }

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names`, outputs in the order of `output_names`."""
        given = dict(zip(self.input_names, inputs, strict=True))
        valid = {m: given[f"{m}_valid"] for m in STREAMED}
        z = {m: given[f"{m}_in"] for m in STREAMED}
        state: dict[str, Tensor] = {}
        if self.level == 1:
            z["vision"] = self._front_end(given["vision_in"], valid["vision"])
            z["acoustic"], following = self._stem(given)
            state |= self._named("acoustic", self.acoustic.state_parts, following)
        windows: dict[str, Described] = {}
        for m in STREAMED:
            stage = self.stage(m)
            z[m], following = stage(z[m], valid[m], [given[f"{m}_{part}"] for part in stage.state_parts])
            state |= self._named(m, stage.state_parts, following)
            features = self.features(m, z[m])
            if m in self.baselines:
                states = [given[f"{m}_{part}"] for part in Baseline.state_parts]
                features, following = self._baseline(m)(features, valid[m], states)
                state |= self._named(m, Baseline.state_parts, following)
            new = self.describe(m, features, given[f"{m}_position"], valid[m])
            steps = new.length
            windows[m] = Described(
                torch.cat([given[f"{m}_qkv"][:, :, steps:], new.qkv], 2),
                torch.cat([given[f"{m}_marks"][..., steps:], new.marks], 2),
                torch.cat([given[f"{m}_pool"][:, 1:], new.pool.sum(1, keepdim=True)], 1),
            )
            state |= self._named(m, DESCRIBED, windows[m].parts())
        windows["language"] = Described(*(given[f"language_{part}"] for part in DESCRIBED))
        out = self.fuse(windows, given["gamma"])
        public = (z["vision"], z["acoustic"], out.shared, out.private, *out.alpha.values(), out.budget, out.present)
        return (*public, *(state[name] for name in self.state_names))

    @staticmethod
    def _named(modality: str, parts: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip((f"{modality}_{part}" for part in parts), tensors, strict=True))

    def _stem(self, given: dict[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """What the first acoustic stage reads, and the stem's next states."""
        mel, valid = given["acoustic_in"], given["acoustic_valid"]
        states = [given[f"acoustic_{part}"] for part in self.acoustic.state_parts]
        if isinstance(self.acoustic, SpeechStem):
            return self.acoustic(mel, valid, given[SPEECH_POSITION], states)  # type: ignore[no-any-return]
        z, *following = self.acoustic(mel, valid, *states)
        return z, following

    def stage(self, modality: str) -> Stage:
        """What makes this level's features of vision or sound out of those of the level before."""
        return self.vision_stage if modality == "vision" else self.acoustic_stage

    def _parts(self, modality: str) -> tuple[str, ...]:
        """The names of what is carried of a modality, before its described tokens."""
        return (*self.stage(modality).state_parts, *(Baseline.state_parts if modality in self.baselines else ()))

    def _baseline(self, modality: str) -> Baseline:
        return cast(Baseline, self.baselines[modality])

    def features(self, modality: str, z: Tensor) -> Tensor:
        """Features of this level, as its stage gives them -> one projected row a token (B, T, width)."""
        project = self.vision_project if modality == "vision" else self.acoustic_project
        return project(self.stage(modality).tokens(z))  # type: ignore[no-any-return]

    def describe(self, modality: str, features: Tensor, position: Tensor, valid: Tensor) -> Described:
        """Projected features -> described tokens."""
        hidden = self.exchange.tokenise(modality, features, position, valid)
        return self.exchange.describe(modality, hidden, valid, self.get_buffer(f"matrix_{modality}"))

    def fuse(self, windows: dict[str, Described], gamma: Tensor) -> LevelOutputs:
        """The exchange over described windows, with the frozen bases."""
        private = {m: self.get_buffer(f"private_basis_{m}") for m in MODALITIES}
        return self.exchange.fuse(windows, gamma, (self.shared_basis, private))

    def _front_end(self, frames: Tensor, valid: Tensor) -> Tensor:
        grid = self.grid
        features = self.vision(frames.reshape(-1, 3, grid.size_px, grid.size_px))
        laid: Tensor = features.reshape(-1, grid.vision_slots, self.width) * valid.unsqueeze(-1)
        return laid


class StreamingLanguage(nn.Module):
    """The language encoder and all that the levels' windows need of its tokens (ARCHITECTURE.md, 3).

    Tokens are described here, once per change of a segment, and not by the levels at every tick.
    """

    input_names = ("token_ids", "token_valid", "position")
    output_names = tuple(f"language_{part}_{level}" for level in LEVELS for part in DESCRIBED)

    def __init__(self, model: CLCR, grid: Grid) -> None:
        super().__init__()
        self.grid, self.width = grid, model.config.width
        self.language, self.project, self.levels = model.language, model.project["language"], model.levels
        self._pairs = list(zip(model.exchanges, model.projections("language"), strict=True))  # views of the above
        for level, exchange in zip(LEVELS, model.exchanges, strict=True):
            matrix = exchange.matrices(*frozen_bases(model, level - 1))["language"]
            self.register_buffer(f"matrix_{level}", matrix.detach().float(), persistent=False)

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        tokens = self.grid.language_tokens
        return {
            "token_ids": torch.ones(streams, tokens, dtype=torch.int32),
            "token_valid": torch.ones(streams, tokens),
            "position": torch.randn(streams, tokens, self.width),
        }

    def forward(self, token_ids: Tensor, token_valid: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for index, z in enumerate(self.language(token_ids, token_valid)):
            level, project = self._pairs[index]
            h = level.tokenise("language", project(z), position, token_valid)
            matrix = self.get_buffer(f"matrix_{index + 1}")
            outputs += level.describe("language", h, token_valid, matrix).parts()
        return tuple(outputs)


class StreamingInterCAD(nn.Module):
    """InterCAD on the levels' summaries: probabilities (or the value), omega, beta, eta."""

    input_names = (*(f"{kind}_{level}" for level in LEVELS for kind in ("shared", "private")), "present")

    def __init__(self, model: CLCR) -> None:
        super().__init__()
        self.intercad: InterCAD = model.intercad
        self.config = model.config
        self.temperature = model.temperature

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("value" if self.config.task == "regression" else "probs", "omega", "beta", "eta")

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        shape = (streams, len(MODALITIES), self.config.width)
        inputs = {name: torch.randn(shape) for name in self.input_names if name != "present"}
        return inputs | {"present": torch.ones(streams, len(MODALITIES))}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shared, private = torch.stack(inputs[0:6:2], 1), torch.stack(inputs[1:6:2], 1)
        found: Aggregate = self.intercad(shared, private, inputs[6])
        scores = found.scores
        if self.config.task == "classification":
            scores = self.temperature(scores, inputs[6])
        return scores, found.omega, found.beta, found.eta


@torch.no_grad()
def frozen_bases(model: CLCR, index: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A level's bases as plain float64 matrices, re-orthonormalised."""
    shared, private = model.exchanges[index].bases()
    frame, triangle = torch.linalg.qr(shared.double())
    frame = frame * triangle.diagonal().sign()
    result: dict[str, Tensor] = {}
    for m, basis in private.items():
        outside = basis.double() - frame @ (frame.T @ basis.double())
        q, r = torch.linalg.qr(outside)
        result[m] = q * r.diagonal().sign()
    return frame, result
