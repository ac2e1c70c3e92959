"""Tiny CLCR models, batches and streams for the tests of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

import reference
from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES, ModelConfig
from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR, Tokens
from clcr.network.streaming import DESCRIBED, SPEECH_POSITION, Grid, StreamingLevel

TINY = ModelConfig(
    labels=("a", "b", "c"),
    width=reference.WIDTH,
    shared_rank=reference.SHARED,
    private_rank=reference.PRIVATE,
    heads=reference.HEADS,
    vision_channels=reference.VISION_CHANNELS,
    acoustic_channels=reference.ACOUSTIC_CHANNELS,
    mel_bands=reference.BANDS,
)
GRID = Grid(vision_tokens=12, acoustic_tokens=20, language_tokens=6, size_px=reference.SIZE_PX)
WINDOW_HOPS = 4
MASKS = {"vision": "vision_valid", "acoustic": "acoustic_valid", "language": "token_valid"}


class TableLanguage(LanguageEncoder):
    """A language encoder whose three hidden states are looked up: no context, no layers."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.hidden = reference.HIDDEN
        for level in range(3):
            self.register_buffer(f"table_{level}", torch.randn(reference.VOCABULARY, reference.HIDDEN))

    def forward(self, token_ids: Tensor, valid: Tensor) -> list[Tensor]:
        return [self.get_buffer(f"table_{level}")[token_ids.long()] for level in range(3)]


def tiny_model(seed: int = 0, **changes: Any) -> CLCR:
    """A tiny model in evaluation mode with the seeded weights of the reference."""
    model = CLCR(replace(TINY, **changes), TableLanguage())
    load_weights(model, reference.seeded_weights(seed))
    return model.eval()


SPEECH = replace(TINY, acoustic_encoder="whisper", speech_width=12, speech_heads=2, speech_inner=16, speech_context=30)


def speech_model(seed: int = 0, **changes: Any) -> CLCR:
    """A tiny model in evaluation mode with a seeded random speech encoder as its acoustic encoder."""
    torch.manual_seed(seed)
    model = CLCR(replace(SPEECH, **changes), TableLanguage())
    for layer in model.stages_of("acoustic"):
        layer.get_buffer("mean").uniform_(-0.5, 0.5)
        layer.get_buffer("deviation").uniform_(0.5, 1.5)
    return model.eval()


@lru_cache(maxsize=16)
def fixed_model(seed: int = 0, **changes: Any) -> CLCR:
    """As `tiny_model`, made once: for tests that leave it as it is. Making one costs as much as running it twice."""
    return _settled(tiny_model(seed, **changes))


@lru_cache(maxsize=16)
def fixed_speech_model(seed: int = 0, **changes: Any) -> CLCR:
    """As `speech_model`, made once: for tests that leave it as it is."""
    return _settled(speech_model(seed, **changes))


def _settled(model: CLCR) -> CLCR:
    """The model with its bases as plain weights: computing them anew is a third of running a tiny model."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model


def load_weights(model: CLCR, weights: reference.Weights) -> None:
    """Give a model every weight of the reference; orthogonal matrices through their parametrisation."""
    plain = {name: torch.from_numpy(value) for name, value in weights.items() if ".bases." not in name}
    missing, unexpected = model.load_state_dict(plain, strict=False)
    ours = ("parametrizations", "num_batches_tracked", "baselines.")  # of no reference
    strange = [name for name in missing if not any(part in name for part in ours)]
    if strange or unexpected:
        raise AssertionError(f"the reference and the model differ in weights: {strange or unexpected}")
    for name, value in weights.items():
        if ".bases." in name:
            model.get_submodule(name).weight = torch.from_numpy(value)


def batch_of(samples: list[reference.Sample]) -> Batch:
    """Samples of equal sizes as one batch."""
    frames = np.concatenate([s.frames[s.vision_valid > 0] for s in samples]).astype(np.uint8)

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(s, name) for s in samples]).astype(np.float32))

    steps = {m: torch.tensor([s.steps[m] for s in samples]) for m in MODALITIES}
    return Batch(
        frames=torch.from_numpy(frames),
        vision_valid=stacked("vision_valid"),
        mel=stacked("mel"),
        acoustic_valid=stacked("acoustic_valid"),
        token_ids=torch.from_numpy(np.stack([s.token_ids for s in samples])),
        token_valid=stacked("token_valid"),
        vision_step=steps["vision"],
        acoustic_step=steps["acoustic"],
        language_step=steps["language"],
    )


def random_sample(rng: np.random.Generator, hops: int, coverage: float = 0.8) -> reference.Sample:
    """A stream of `hops` hops in which each step is there with probability `coverage`; six words."""
    slots, sounds, words = 3 * hops, 5 * hops, GRID.language_tokens

    def mask(count: int) -> NDArray[np.float64]:
        return (rng.random(count) < coverage).astype(np.float64)

    return reference.Sample(
        frames=rng.integers(0, 256, (slots, 3, reference.SIZE_PX, reference.SIZE_PX)).astype(np.float64),
        vision_valid=mask(slots),
        mel=rng.standard_normal((4 * sounds, reference.BANDS)) * 2,
        acoustic_valid=mask(sounds),
        token_ids=rng.integers(0, reference.VOCABULARY, words),
        token_valid=mask(words),
        steps={"vision": 0, "acoustic": 0, "language": int(rng.integers(0, 50))},
    )


def random_batch(seed: int, samples: int = 2, hops: int = 3, coverage: float = 0.8) -> Batch:
    rng = np.random.default_rng(seed)
    return batch_of([random_sample(rng, hops, coverage) for _ in range(samples)])


def changed(batch: Batch, **values: Tensor) -> Batch:
    """The batch with some of its tensors replaced."""
    return Batch(**({field.name: getattr(batch, field.name) for field in fields(Batch)} | values))


def without(batch: Batch, *modalities: str) -> Batch:
    """The batch with modalities masked: their values stay where the batch stores them, but for the packed frames."""
    values = {MASKS[m]: torch.zeros_like(getattr(batch, MASKS[m])) for m in modalities}
    if "vision" in modalities:
        values["frames"] = batch.frames[:0]
    return changed(batch, **values)


def removed(batch: Batch, *modalities: str) -> Batch:
    """The batch with modalities of zero tokens, as Batch describes an absent one."""
    cut = {
        "vision": {"frames": batch.frames[:0], "vision_valid": batch.vision_valid[:, :0]},
        "acoustic": {"mel": batch.mel[:, :0], "acoustic_valid": batch.acoustic_valid[:, :0]},
        "language": {"token_ids": batch.token_ids[:, :0], "token_valid": batch.token_valid[:, :0]},
    }
    values: dict[str, Tensor] = {}
    for m in modalities:
        values |= cut[m]
    return changed(batch, **values)


def pieces(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Consecutive parts of a tensor."""
    starts = np.cumsum([0, *sizes])
    return [x.narrow(dim, int(start), size) for start, size in zip(starts, sizes, strict=False)]


def row_of(batch: Batch, row: int) -> Batch:
    """One sample of a batch."""
    frames = pieces(batch.frames, [int(count) for count in batch.vision_valid.sum(1)])[row]
    packed = ("frames", "face_features", "sound_features")
    values = {name: value[row : row + 1] for name, value in vars(batch).items() if name not in packed}
    return Batch(frames=frames, **values)


def fused(model: CLCR, tokens: list[Tokens], end_hop: int, grid: Grid = GRID) -> list[Tokens]:
    """The window that ends at a hop, cut out of the described tokens of a prefix."""
    spans = {
        "vision": (grid.vision_slots * end_hop, grid.vision_tokens),
        "acoustic": (grid.acoustic_slots * end_hop, grid.acoustic_tokens),
    }
    cut: list[Tokens] = []
    for level in tokens:
        window = {"language": level["language"]}
        for m, (end, length) in spans.items():
            window[m] = level[m].window(max(0, end - length), end)
        cut.append({m: window[m] for m in MODALITIES})
    return cut


@lru_cache(maxsize=8)
def _engines(model: CLCR, grid: Grid) -> list[StreamingLevel]:
    """The three engines of a model that stays as it is; they hold no state."""
    return [StreamingLevel(model, level, grid).eval() for level in LEVELS]


class Streamed:
    """A sample batch run hop by hop through the three engines, state carried by name as the runtime does."""

    def __init__(self, model: CLCR, batch: Batch, grid: Grid = GRID) -> None:
        self.grid, self.batch = grid, batch
        self.levels = _engines(model, grid)
        self.state = [level.initial_state(len(batch)) for level in self.levels]
        self.positions = {
            m: model.positions(getattr(batch, f"{m}_step"), batch_steps(batch, m)) for m in ("vision", "acoustic")
        }
        self.speech = model.config.acoustic_encoder == "whisper"
        self.speech_positions = model.speech_positions(batch.acoustic_step, batch_steps(batch, "acoustic"))
        with torch.no_grad():
            self.language = language_inputs(model, batch)
        self.frames = dense_frames(batch)

    def hops(self, gamma: float = 1.0) -> Iterator[list[dict[str, Tensor]]]:
        """The outputs of levels 1, 2 and 3, by name, of one hop after the other."""
        count = batch_steps(self.batch, "vision") // self.grid.vision_slots
        for hop in range(count):
            yield self.step(hop, gamma)

    @torch.no_grad()
    def step(self, hop: int, gamma: float = 1.0) -> list[dict[str, Tensor]]:
        batch, rows = self.batch, len(self.batch)
        v, a = (slice(n * hop, n * hop + n) for n in (self.grid.vision_slots, self.grid.acoustic_slots))
        given = {
            "vision_in": self.frames[:, v],
            "acoustic_in": batch.mel[:, 4 * a.start : 4 * a.stop],
            "vision_valid": batch.vision_valid[:, v],
            "acoustic_valid": batch.acoustic_valid[:, a],
            "vision_position": self.positions["vision"][:, v],
            "acoustic_position": self.positions["acoustic"][:, a],
            "gamma": torch.full((rows, 1), gamma),
        }
        if self.speech:
            given[SPEECH_POSITION] = self.speech_positions[:, 2 * a.start : 2 * a.stop]
        outputs = []
        for index, level in enumerate(self.levels):
            inputs = given | self.language[index] | self.state[index]
            out = dict(zip(level.output_names, level(*(inputs[name] for name in level.input_names)), strict=True))
            self.state[index] = {name: out[f"{name}_next"] for name in level.state_names}
            given |= {"vision_in": out["vision_out"], "acoustic_in": out["acoustic_out"]}
            outputs.append(out)
        return outputs


def batch_steps(batch: Batch, modality: str) -> int:
    return int(getattr(batch, MASKS[modality]).shape[1])


def dense_frames(batch: Batch) -> Tensor:
    """The packed frames laid out as the graphs take them: (B, Tv, 3, size, size), noise where masked."""
    size = batch.frames.shape[-1]
    laid = torch.rand(*batch.vision_valid.shape, 3, size, size) * 255
    laid[batch.vision_valid.bool()] = batch.frames.float()
    return laid


def language_inputs(model: CLCR, batch: Batch) -> list[dict[str, Tensor]]:
    """The described language tokens of levels 1, 2 and 3, under the names of the levels' inputs."""
    described = [level["language"].parts() for level in model.encode(batch)]
    return [dict(zip((f"language_{part}" for part in DESCRIBED), parts, strict=True)) for parts in described]
