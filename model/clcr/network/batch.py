"""The tensors that go into CLCR: one heterogeneous batch, any subset of modalities present in each sample."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """B samples; a modality absent from every sample has zero tokens. Values in masked places are ignored.

    The frames are packed: only valid ones are stored, ordered by sample, then by time, so that the front-end never
    computes a padded frame. `*_step` is the absolute stream step of a sample's first token (random while training).
    """

    frames: Tensor  # uint8 (vision_valid.sum(), 3, size, size), RGB
    vision_valid: Tensor  # float32 (B, Tv), 0 or 1
    mel: Tensor  # float32 (B, 4 * Ta, bands), log-mel as clcr_stream.frontends.mel.log_mel gives it for config.mel
    acoustic_valid: Tensor  # float32 (B, Ta)
    token_ids: Tensor  # int64 (B, N)
    token_valid: Tensor  # float32 (B, N)
    vision_step: Tensor  # int64 (B,)
    acoustic_step: Tensor  # int64 (B,); the first step of a hop
    language_step: Tensor  # int64 (B,)
    # What frozen encoders made of frames and mel, in place of them (clcr.training.stored).
    face_features: Tensor | None = None  # float32 (vision_valid.sum(), width)
    sound_features: Tensor | None = None  # float32 (B, Ta, 3 levels, width of the acoustic encoder), not standardised

    def __len__(self) -> int:
        return int(self.vision_valid.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})
