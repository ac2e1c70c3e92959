"""CLCR: three levels, a budgeted exchange inside each, anchor-guided aggregation over them (arXiv 2602.19605)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clcr.network.baseline import BLOCK, TRUST_S, Baseline
from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES, ModelConfig
from clcr.network.encoders import AcousticStem, TemporalStage, vision_front_end
from clcr.network.intercad import Aggregate, InterCAD, Temperature
from clcr.network.intraced import Described, LevelExchange, LevelOutputs
from clcr.network.language import LanguageEncoder
from clcr.network.speech import BLOCK_TOKENS, STEPS_PER_TOKEN, SpeechLayer, SpeechStem
from clcr_stream.frontends.positions import sinusoid, speech_positions

SHORT = 8  # rows of at most this many steps (single images) are encoded apart from long ones

Tokens = dict[str, Described]
Stage = TemporalStage | SpeechLayer  # what makes a level's features out of those of the level before


@dataclass(frozen=True)
class Usual:
    """What is usual for the person of each sample, of vision and sound: a history, or what one sample adds to it."""

    mean: Tensor  # (B, 2, 3, width): by modality and level, of projected features
    steps: Tensor  # (B, 2): of how many steps; 0 where nothing is known


History = Usual | Tensor


@dataclass
class Outputs:
    """What CLCR exposes for a batch of windows."""

    logits: Tensor  # (B, C): class scores before softmax, or (B, 1) for regression
    omega: Tensor  # (B, 3): level weights
    beta: Tensor  # (B, 3): modality weights, zero where absent
    eta: Tensor  # (B, 3): private gates, zero where absent
    summaries: Tensor  # (B, 3, 2 * width): g_l
    levels: tuple[LevelOutputs, ...]
    usual: Usual | None = None  # of these samples alone, without gradients, where the model has baselines


class CLCR(nn.Module):
    """The whole model: `encode` describes every token of a prefix once; `fuse` and `aggregate` read a window."""

    def __init__(self, config: ModelConfig, language: LanguageEncoder) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.vision = vision_front_end(config)
        whisper = config.acoustic_encoder == "whisper"
        self.acoustic = SpeechStem(config) if whisper else AcousticStem(config)
        self.language = language
        vision = nn.ModuleList(temporal_stages(config))
        acoustic = [SpeechLayer(config) for _ in LEVELS] if whisper else temporal_stages(config)
        self.stages = nn.ModuleDict({"vision": vision, "acoustic": nn.ModuleList(acoustic)})
        inputs = {"vision": width, "acoustic": config.acoustic_width, "language": language.hidden}
        self.project = nn.ModuleDict(
            {m: nn.ModuleList(nn.Linear(inputs[m], width, bias=False) for _ in LEVELS) for m in MODALITIES}
        )
        if config.baseline:
            self.baselines = nn.ModuleDict(
                {m: nn.ModuleList(Baseline(width, block, TRUST_S[m]) for _ in LEVELS) for m, block in BLOCK.items()}
            )
        self.levels = nn.ModuleList(LevelExchange(config) for _ in LEVELS)
        self.intercad = InterCAD(config)
        self.temperature = Temperature()

    def forward(self, batch: Batch, gamma: float = 1.0, history: History | None = None) -> Outputs:
        """A batch in which every sample is one window (all its tokens are used), after what `history` says.

        While training, the history is made of the batch itself: a matrix (B, B) with a 1 where the sample of the row
        has that of the column in its past.
        """
        with parametrize.cached():  # each basis is computed once per step
            levels, usual = self._encode(batch, history)
            return replace(self.aggregate(self.fuse(levels, gamma)), usual=usual)

    @property
    def exchanges(self) -> list[LevelExchange]:
        """The three levels, shallow to deep."""
        return [cast(LevelExchange, level) for level in self.levels]

    def stages_of(self, modality: str) -> list[Stage]:
        """The three stages of vision or sound, shallow to deep."""
        return [cast(Stage, stage) for stage in cast(nn.ModuleList, self.stages[modality])]

    def projections(self, modality: str) -> list[nn.Linear]:
        """W_1, W_2, W_3 of a modality."""
        return [cast(nn.Linear, layer) for layer in cast(nn.ModuleList, self.project[modality])]

    def baselines_of(self, modality: str) -> list[Baseline]:
        """The baselines of vision or sound, shallow to deep; none where the model or the modality has none."""
        if not self.config.baseline or modality not in BLOCK:
            return []
        return [cast(Baseline, layer) for layer in cast(nn.ModuleList, self.baselines[modality])]

    def encode(self, batch: Batch, history: History | None = None) -> list[Tokens]:
        """Described tokens of the whole prefix, per level and modality."""
        return self._encode(batch, history)[0]

    def _encode(self, batch: Batch, history: History | None) -> tuple[list[Tokens], Usual | None]:
        """Described tokens, and what is usual in these samples."""
        hidden = {
            "vision": self.temporal_features("vision", self._frames(batch), batch.vision_valid),
            "acoustic": self._sound(batch),
            "language": self._language(batch),
        }
        valid = {"vision": batch.vision_valid, "acoustic": batch.acoustic_valid, "language": batch.token_valid}
        steps = {"vision": batch.vision_step, "acoustic": batch.acoustic_step, "language": batch.language_step}
        position = {m: self.positions(steps[m], valid[m].shape[1]) for m in MODALITIES}
        levels: list[Tokens] = []
        usual: dict[str, list[Tensor]] = {m: [] for m in BLOCK}
        for index, level in enumerate(self.exchanges):
            source = index if self.config.hierarchy else len(self.levels) - 1
            matrices = level.matrices(*level.bases())
            tokens: Tokens = {}
            for m in MODALITIES:
                projected = self.projections(m)[index](hidden[m][source])
                with torch.autocast("cpu", enabled=False):
                    features = projected.float()
                    if self.baselines_of(m):
                        mean = _masked_mean(features, valid[m])
                        usual[m].append(mean.detach())
                        past = self._past(m, index, mean, valid[m], history)
                        features = _unusual(self.baselines_of(m)[index], features, valid[m], past)
                    h = level.tokenise(m, features, position[m], valid[m])
                    tokens[m] = level.describe(m, h, valid[m], matrices[m])
            levels.append(tokens)
        if not self.config.baseline:
            return levels, None
        counts = torch.stack([valid[m].sum(1) for m in BLOCK], 1)
        return levels, Usual(torch.stack([torch.stack(means, 1) for means in usual.values()], 1), counts)

    def _past(
        self, modality: str, index: int, mean: Tensor, valid: Tensor, history: History | None
    ) -> tuple[Tensor, Tensor]:
        """The state (B, width) and (B, 1) with which the baselines of a level begin; `mean` is of these samples."""
        place = list(BLOCK).index(modality)
        if history is None:
            return torch.zeros_like(mean), mean.new_zeros(len(mean), 1)
        if isinstance(history, Usual):
            return history.mean[:, place, index], history.steps[:, place, None]
        share = history * valid.sum(1)
        steps = share.sum(1, keepdim=True)
        return share @ mean / steps.clamp(min=1.0), steps

    def fuse(self, levels: list[Tokens], gamma: float = 1.0) -> list[LevelOutputs]:
        """The exchange of each level over the given windows of described tokens."""
        if self.config.level_order == "shuffled":
            levels = [{m: levels[(i + j) % 3][m] for j, m in enumerate(MODALITIES)} for i in range(3)]
        outputs = []
        with torch.autocast("cpu", enabled=False):
            for level, tokens in zip(self.exchanges, levels, strict=True):
                marks = tokens["vision"].marks
                knob = torch.full((marks.shape[0], 1), gamma, device=marks.device)
                outputs.append(level.fuse(tokens, knob, level.bases()))
        return outputs

    def aggregate(self, levels: list[LevelOutputs]) -> Outputs:
        """InterCAD over the three levels."""
        with torch.autocast("cpu", enabled=False):
            shared = torch.stack([level.shared for level in levels], 1)
            private = torch.stack([level.private for level in levels], 1)
            found: Aggregate = self.intercad(shared, private, levels[0].present)
        return Outputs(found.scores, found.omega, found.beta, found.eta, found.summaries, tuple(levels))

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Calibrated class probabilities (B, C), or the values themselves for regression."""
        if self.config.task == "regression":
            return outputs.logits
        calibrated: Tensor = self.temperature(outputs.logits, outputs.levels[0].present)
        return calibrated

    def positions(self, first_step: Tensor, count: int) -> Tensor:
        """Sinusoid of the absolute steps (B,) .. (B,) + count: (B, count, width)."""
        start = first_step if self.config.position == "absolute" else torch.zeros_like(first_step)
        steps = (start[:, None] + torch.arange(count, device=start.device)).reshape(-1)
        table = sinusoid(steps.cpu().numpy().astype(np.int64), self.config.width, self.config.position_base)
        return torch.from_numpy(table).view(len(start), count, self.config.width).to(start.device)

    def _frames(self, batch: Batch) -> Tensor:
        """Front-end features of the packed frames, laid out as (B, Tv, width) with zeros where masked."""
        valid = batch.vision_valid
        if batch.face_features is not None:
            features = batch.face_features
        elif batch.frames.shape[0]:
            features = self.vision(batch.frames.float())
        else:
            return valid.new_zeros(*valid.shape, self.config.width)
        laid = torch.zeros(*valid.shape, self.config.width, dtype=features.dtype, device=features.device)
        return laid.masked_scatter(valid.bool().unsqueeze(-1), features)

    def _sound(self, batch: Batch) -> list[Tensor]:
        """Features of the sound by level (B, Ta, width of the acoustic encoder)."""
        if batch.sound_features is None:
            return self.temporal_features("acoustic", batch.mel, batch.acoustic_valid, batch.acoustic_step)
        levels = batch.sound_features.unbind(2)
        return [stage.standard(z) for stage, z in zip(self.stages_of("acoustic"), levels, strict=True)]

    def speech_positions(self, first_step: Tensor, count: int) -> Tensor:
        """Positions of the speech encoder's steps in `count` tokens from (B,) on: (B, 2 * count, speech_width)."""
        start = first_step if self.config.position == "absolute" else torch.zeros_like(first_step)
        steps = STEPS_PER_TOKEN * start[:, None] + torch.arange(STEPS_PER_TOKEN * count, device=start.device)
        table = speech_positions(steps.cpu().numpy().astype(np.int64), self.config.speech_width)
        return torch.from_numpy(table).to(start.device)

    def temporal_features(
        self, modality: str, x: Tensor, valid: Tensor, first_step: Tensor | None = None
    ) -> list[Tensor]:
        """Z_1, Z_2, Z_3 (B, T, width of the features); rows without a valid step cost nothing and stay zero.

        first_step (B,): the first token's absolute step, a multiple of 5 for the speech encoder, which works by hops.
        """
        rows, steps = valid.shape
        stages = self.stages_of(modality)
        whole = BLOCK_TOKENS if isinstance(stages[0], SpeechLayer) else 1
        if steps % whole:  # the last hop is filled up with masked tokens
            missing = whole - steps % whole
            x = nn.functional.pad(x, (0, 0, 0, x.shape[1] // steps * missing))
            padded = self.temporal_features(modality, x, nn.functional.pad(valid, (0, missing)), first_step)
            return [z[:, :steps] for z in padded]
        width = self.projections(modality)[0].in_features
        outputs = [valid.new_zeros(rows, steps, width) for _ in LEVELS]
        length = (valid * torch.arange(1, steps + 1, device=valid.device)).amax(1) if steps else valid.new_zeros(rows)
        first = torch.zeros_like(length, dtype=torch.long) if first_step is None else first_step
        for selected in ((length > 0) & (length <= SHORT), length > SHORT):
            index = selected.nonzero().squeeze(-1)
            if not len(index):
                continue
            span = -(-int(length[index].max()) // whole) * whole
            mask = valid[index, :span]
            z = x[index, : span * (x.shape[1] // steps)]
            if modality == "acoustic":
                z = self._stem(z, mask, first[index])
            for level, stage in enumerate(stages):
                z, _ = stage(z, mask, [state.to(z.device) for state in stage.initial_state(len(index))])
                tokens = nn.functional.pad(stage.tokens(z).float(), (0, 0, 0, steps - span))
                outputs[level] = outputs[level].index_copy(0, index, tokens)
        return outputs

    def _stem(self, mel: Tensor, valid: Tensor, first_step: Tensor) -> Tensor:
        """What the first acoustic stage reads, from the start of a stream."""
        start = [state.to(mel.device) for state in self.acoustic.initial_state(len(mel))]
        if isinstance(self.acoustic, SpeechStem):
            return cast(Tensor, self.acoustic(mel, valid, self.speech_positions(first_step, valid.shape[1]), start)[0])
        return cast(Tensor, self.acoustic(mel, valid, *start)[0])

    def _language(self, batch: Batch) -> list[Tensor]:
        """Early, middle and late hidden states (B, N, hidden); rows without a token stay zero."""
        valid = batch.token_valid
        index = valid.amax(1).nonzero().squeeze(-1) if valid.shape[1] else valid.new_zeros(0, dtype=torch.long)
        outputs = [valid.new_zeros(*valid.shape, self.language.hidden) for _ in LEVELS]
        if len(index):
            states = self.language(batch.token_ids[index], valid[index])
            outputs = [o.index_copy(0, index, s.float()) for o, s in zip(outputs, states, strict=True)]
        return outputs


def temporal_stages(config: ModelConfig) -> list[TemporalStage]:
    """Three stages of the temporal network, their dilations growing."""
    return [TemporalStage(config, dilation) for dilation in config.dilations]


def _masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """(B, T, width) and (B, T) -> (B, width): zeros where nothing is valid."""
    return (x * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1.0)


def _unusual(baseline: Baseline, x: Tensor, valid: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
    """Features (B, T, width) without what is usual for the person; the last hop is filled up with masked tokens."""
    missing = -x.shape[1] % baseline.block
    padded = nn.functional.pad(x, (0, 0, 0, missing))
    states = [past[0], past[1].clamp(max=baseline.horizon)]
    out: Tensor = baseline(padded, nn.functional.pad(valid, (0, missing)), states)[0]
    return out[:, : x.shape[1]]
