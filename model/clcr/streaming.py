"""CLCR as pure functions with explicit state: what the exporter writes, one module per engine (ARCHITECTURE.md, 3).

`StreamingLevel` consumes the new frames of one hop and the carried state, and returns the features for the next level,
the next state and the level's summary of its window. It calls the very functions of the offline model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clcr.config import LEVELS, MODALITIES
from clcr.encoders import TemporalStage
from clcr.intercad import InterCAD
from clcr.model import CLCR

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
        self.level, self.grid = level, grid
        self.exchange = model.exchanges[index]
        self.vision_stage, self.acoustic_stage = (model.temporal(m)[index] for m in ("vision", "acoustic"))
        self.vision_project, self.acoustic_project = (model.projections(m)[index] for m in ("vision", "acoustic"))
        self.width = model.config.width
        if level == 1:
            self.vision, self.acoustic = model.vision, model.acoustic
        shared, private = frozen_bases(model, index)
        self.register_buffer("shared_basis", shared, persistent=False)
        for m in MODALITIES:
            self.register_buffer(f"private_basis_{m}", private[m], persistent=False)

    @property
    def state_names(self) -> tuple[str, ...]:
        stem = ("acoustic_mel", "acoustic_stem") if self.level == 1 else ()
        return (*stem, "vision_conv", "acoustic_conv", "vision_tokens", "acoustic_tokens")

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self.example())

    @property
    def output_names(self) -> tuple[str, ...]:
        return (*PUBLIC_OUTPUTS, *(f"{name}_next" for name in self.state_names))

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and dtypes: everything valid, state at the stream's start."""
        grid, width = self.grid, self.width
        first = self.level == 1
        frames = torch.rand(streams, grid.vision_slots, 3, grid.size_px, grid.size_px) * 255.0
        inputs = {
            "vision_in": frames if first else torch.randn(streams, grid.vision_slots, width),
            "acoustic_in": torch.randn(streams, 4 * grid.acoustic_slots, self.acoustic.bands) - 6.0
            if first
            else torch.randn(streams, grid.acoustic_slots, width),
            "vision_valid": torch.ones(streams, grid.vision_slots),
            "acoustic_valid": torch.ones(streams, grid.acoustic_slots),
            "vision_position": torch.randn(streams, grid.vision_slots, width),
            "acoustic_position": torch.randn(streams, grid.acoustic_slots, width),
            "language_h": torch.randn(streams, grid.language_tokens, width),
            "language_valid": torch.ones(streams, grid.language_tokens),
            "gamma": torch.ones(streams, 1),
        }
        return inputs | self.initial_state(streams)

    def initial_state(self, streams: int = 1) -> dict[str, Tensor]:
        grid, tokens = self.grid, self.exchange.token_width
        state: dict[str, Tensor] = {}
        if self.level == 1:
            state["acoustic_mel"], state["acoustic_stem"] = self.acoustic.initial_state(streams)
        for m in ("vision", "acoustic"):
            state[f"{m}_conv"] = self._stage(m).initial_state(streams, self.width)
        state["vision_tokens"] = torch.zeros(streams, grid.vision_tokens, tokens)
        state["acoustic_tokens"] = torch.zeros(streams, grid.acoustic_tokens, tokens)
        return state

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names`, outputs in the order of `output_names`."""
        given = dict(zip(self._ordered_names(), inputs, strict=True))
        valid = {m: given[f"{m}_valid"] for m in MODALITIES}
        bases = (self.shared_basis, {m: getattr(self, f"private_basis_{m}") for m in MODALITIES})
        z = {"vision": given["vision_in"], "acoustic": given["acoustic_in"]}
        state: dict[str, Tensor] = {}
        if self.level == 1:
            z["vision"] = self._front_end(given["vision_in"], valid["vision"])
            z["acoustic"], state["acoustic_mel"], state["acoustic_stem"] = self.acoustic(
                given["acoustic_in"], valid["acoustic"], given["acoustic_mel"], given["acoustic_stem"]
            )
        windows: dict[str, Tensor] = {}
        for m in ("vision", "acoustic"):
            z[m], state[f"{m}_conv"] = self._stage(m)(z[m], valid[m], given[f"{m}_conv"])
            h = self.exchange.tokenise(m, self._project(m)(z[m]), given[f"{m}_position"], valid[m])
            new = self.exchange.describe(m, h, valid[m], bases)
            kept = given[f"{m}_tokens"][:, new.shape[1] :]
            windows[m] = state[f"{m}_tokens"] = torch.cat([kept, new], 1)
        masked = given["language_h"] * valid["language"].unsqueeze(-1)
        windows["language"] = self.exchange.describe("language", masked, valid["language"], bases)
        out = self.exchange.fuse(windows, given["gamma"], bases)
        public = (z["vision"], z["acoustic"], out.shared, out.private, *out.alpha.values(), out.budget, out.present)
        return (*public, *(state[name] for name in self.state_names))

    def _stage(self, modality: str) -> TemporalStage:
        return self.vision_stage if modality == "vision" else self.acoustic_stage

    def _project(self, modality: str) -> nn.Linear:
        return self.vision_project if modality == "vision" else self.acoustic_project

    def _ordered_names(self) -> Sequence[str]:
        fixed = ("vision_in", "acoustic_in", "vision_valid", "acoustic_valid", "vision_position", "acoustic_position")
        return (*fixed, "language_h", "language_valid", "gamma", *self.state_names)

    def _front_end(self, frames: Tensor, valid: Tensor) -> Tensor:
        grid = self.grid
        features = self.vision(frames.reshape(-1, 3, grid.size_px, grid.size_px))
        laid: Tensor = features.reshape(-1, grid.vision_slots, self.width) * valid.unsqueeze(-1)
        return laid


class StreamingLanguage(nn.Module):
    """The language encoder with the three projections: (token_ids, token_valid, position) -> H_1, H_2, H_3."""

    input_names = ("token_ids", "token_valid", "position")
    output_names = tuple(f"language_{level}" for level in LEVELS)

    def __init__(self, model: CLCR, grid: Grid) -> None:
        super().__init__()
        self.grid, self.width = grid, model.config.width
        self.language, self.project, self.levels = model.language, model.project["language"], model.levels
        self._pairs = list(zip(model.exchanges, model.projections("language"), strict=True))  # views of the above

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        tokens = self.grid.language_tokens
        return {
            "token_ids": torch.ones(streams, tokens, dtype=torch.int32),
            "token_valid": torch.ones(streams, tokens),
            "position": torch.randn(streams, tokens, self.width),
        }

    def forward(self, token_ids: Tensor, token_valid: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        hidden = self.language(token_ids, token_valid)
        return tuple(
            level.tokenise("language", project(z), position, token_valid)
            for (level, project), z in zip(self._pairs, hidden, strict=True)
        )


class StreamingInterCAD(nn.Module):
    """InterCAD on the levels' summaries: probabilities (or the value), omega, beta, eta."""

    input_names = (*(f"{kind}_{level}" for level in LEVELS for kind in ("shared", "private")), "present")

    temperature: Tensor

    def __init__(self, model: CLCR) -> None:
        super().__init__()
        self.intercad: InterCAD = model.intercad
        self.config = model.config
        self.register_buffer("temperature", model.temperature.detach().clone(), persistent=False)

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("value" if self.config.task == "regression" else "probs", "omega", "beta", "eta")

    def example(self, streams: int = 1) -> dict[str, Tensor]:
        shape = (streams, len(MODALITIES), self.config.width)
        inputs = {name: torch.randn(shape) for name in self.input_names if name != "present"}
        return inputs | {"present": torch.ones(streams, len(MODALITIES))}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shared, private = torch.stack(inputs[0:6:2], 1), torch.stack(inputs[1:6:2], 1)
        scores, omega, beta, eta, _ = self.intercad(shared, private, inputs[6])
        if self.config.task == "classification":
            scores = torch.softmax(scores / self.temperature, -1)
        return scores, omega, beta, eta


@torch.no_grad()
def frozen_bases(model: CLCR, index: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A level's bases as plain float32 matrices, re-orthonormalised in float64."""
    shared, private = model.exchanges[index].bases()
    frame, triangle = torch.linalg.qr(shared.double())
    frame = frame * triangle.diagonal().sign()
    result: dict[str, Tensor] = {}
    for m, basis in private.items():
        outside = basis.double() - frame @ (frame.T @ basis.double())
        q, r = torch.linalg.qr(outside)
        result[m] = (q * r.diagonal().sign()).float()
    return frame.float(), result
