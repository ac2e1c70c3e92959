"""Every size and switch of a CLCR model, stored beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from clcr_stream.frontends.mel import DEFAULT_MEL, SPEECH_MEL, MelSpec

MODALITIES = ("vision", "acoustic", "language")
LETTERS = dict(zip("VAL", MODALITIES, strict=True))  # by which subsets are named, such as "VA"
LEVELS = (1, 2, 3)
EMOTIONS = ("neutral", "sad", "happy", "surprise", "fear", "anger")
NEUTRAL = EMOTIONS.index("neutral")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes (docs/model.md says which are the paper's and which our choice) and the paper's ablations as switches."""

    labels: tuple[str, ...] = EMOTIONS
    task: Literal["classification", "regression"] = "classification"
    width: int = 128
    shared_rank: int = 64
    private_rank: int = 32
    heads: int = 4
    vision_front_end: Literal["small", "grid", "resnet18"] = "small"  # resnet18: the paper's, 19 times the work
    vision_channels: tuple[int, ...] = (16, 24, 48, 96, 128)  # of small; of grid: four, such as (24, 32, 64, 128)
    acoustic_channels: tuple[int, int] = (16, 32)
    mel_bands: int = 64
    acoustic_encoder: Literal["stem", "whisper"] = "stem"  # whisper: a pretrained one, docs/model.md; 80 mel bands
    speech_width: int = 384  # of whisper, as the next four
    speech_heads: int = 6
    speech_inner: int = 1536
    speech_dropout: float = 0.0  # inside the layers, which were pretrained without any: 0.1 costs .18 macro-F1
    speech_context: int = 100  # steps of 20 ms that a block sees of its past
    dilations: tuple[int, int, int] = (1, 2, 4)
    baseline: bool = False  # what is usual for the person is taken out of the features of vision and sound
    dropout: float = 0.1
    position: Literal["absolute", "window"] = "absolute"
    position_base: float = 10000.0
    evidence_slope: float = 1.7  # per deviation of the evidence: then the activation is about uniform on 0..1
    budget_init: float = 0.23
    pool_gate: Literal["none", "log_alpha"] = "none"
    lambda_intra: float = 0.1
    lambda_inter: float = 0.1
    lambda_mix: float = 0.01  # of L_mix inside L_Inter; at 1 the level weights collapse onto one level (docs/LOG.md)
    label_smoothing: float = 0.0
    # Ablations of the paper's table: each False (or "shuffled") removes one part.
    hierarchy: bool = True  # False: every level reads the deepest features
    intraced: bool = True  # False: no exchange between modalities
    intercad: bool = True  # False: plain means over levels and modalities
    regularisers: bool = True  # False: task loss only
    level_order: Literal["aligned", "shuffled"] = "aligned"  # shuffled: Full Mix, the pool comes from another level

    def __post_init__(self) -> None:
        if not 0 < self.private_rank < self.width - self.shared_rank:
            raise ValueError(
                f"private_rank {self.private_rank} must be in 1..{self.width - self.shared_rank - 1}: "
                "with shared_rank + private_rank = width all private projectors are the same"
            )
        if self.vision_front_end == "grid" and len(self.vision_channels) != 4:
            raise ValueError(f"vision_channels {list(self.vision_channels)}: grid has four, such as 24, 32, 64, 128")
        if self.shared_rank % self.heads:
            raise ValueError(f"shared_rank {self.shared_rank} is not a multiple of heads {self.heads}")
        if self.speech_width % self.speech_heads or self.speech_context < 1:
            raise ValueError(
                f"speech_width {self.speech_width}, speech_heads {self.speech_heads}, speech_context "
                f"{self.speech_context}: the width must be a multiple of the heads, the context at least 1"
            )

    @property
    def outputs(self) -> int:
        """Number of scores: one per label, or one value for regression."""
        return len(self.labels) if self.task == "classification" else 1

    @property
    def acoustic_width(self) -> int:
        """Width of the features of sound at every level, before the projection."""
        return self.speech_width if self.acoustic_encoder == "whisper" else self.width

    @property
    def mel(self) -> MelSpec:
        """The log-mel that the acoustic encoder hears."""
        base = SPEECH_MEL if self.acoustic_encoder == "whisper" else DEFAULT_MEL
        return replace(base, mel_bands=self.mel_bands)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown model setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)
