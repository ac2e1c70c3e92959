"""The language encoder: early, middle and late layers of any BERT-family model kept in a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BERT_FAMILY = ("bert", "camembert", "data2vec-text", "electra", "roberta", "xlm-roberta")
MASKED = -1e4  # finite on purpose: engines in half precision must not see -inf


class LanguageEncoder(nn.Module):
    """Hidden states of a BERT-family backbone after each third of its layers (4, 8, 12 of 12; 2, 4, 6 of 6)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.embeddings: nn.Module = backbone.embeddings
        self.widen: nn.Module = getattr(backbone, "embeddings_project", nn.Identity())  # ELECTRA: embedding -> hidden
        self.layers: nn.ModuleList = backbone.encoder.layer
        self.backbone_config: dict[str, Any] = backbone.config.to_dict()
        count = len(self.layers)
        if count < 3:
            raise ValueError(f"the language encoder has {count} layers; three levels need at least 3")
        self.taps = tuple(round(count * third / 3) for third in (1, 2, 3))
        self.hidden = int(backbone.config.hidden_size)
        # RoBERTa counts positions from the one after the padding id, BERT from 0. Kept, as pruning renumbers that id.
        padding = backbone.embeddings.position_embeddings.padding_idx
        first_position = 0 if padding is None else int(padding) + 1
        self.first_position = int(self.backbone_config.setdefault("first_position", first_position))

    @classmethod
    def from_folder(cls, folder: Path, kept_ids: list[int] | None = None) -> LanguageEncoder:
        """Load a BERT-family folder (config.json and weights); `kept_ids` keeps only those rows of the vocabulary."""
        from transformers import AutoModel

        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder}: no config.json; give a folder of a BERT-family model")
        backbone = AutoModel.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32
        )
        if backbone.config.model_type not in BERT_FAMILY:
            allowed = ", ".join(BERT_FAMILY)
            kind = backbone.config.model_type
            raise ValueError(f"{folder}: {kind!r} is not a BERT-family encoder; allowed: {allowed}")
        if kept_ids is not None:
            old = backbone.embeddings.word_embeddings
            new = nn.Embedding(len(kept_ids), old.embedding_dim, padding_idx=0)
            new.weight.data.copy_(old.weight.data[kept_ids])
            backbone.embeddings.word_embeddings = new
            backbone.config.vocab_size = len(kept_ids)
            backbone.config.pad_token_id = 0
        return cls(backbone)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LanguageEncoder:
        """The same architecture with fresh weights: for tests, and as the shell into which a checkpoint is loaded."""
        from transformers import AutoConfig, AutoModel

        values = {key: value for key, value in config.items() if key != "transformers_version"}
        shell = AutoConfig.for_model(values.pop("model_type"), **values)
        return cls(AutoModel.from_config(shell, attn_implementation="eager"))

    def forward(self, token_ids: Tensor, valid: Tensor) -> list[Tensor]:
        """token_ids (B, N) integers, valid (B, N) -> three hidden states (B, N, hidden)."""
        position = torch.arange(int(token_ids.shape[1]), device=token_ids.device).unsqueeze(0) + self.first_position
        x = self.embeddings(input_ids=token_ids, token_type_ids=torch.zeros_like(token_ids), position_ids=position)
        x = self.widen(x)
        mask = ((1.0 - valid) * MASKED)[:, None, None, :].to(x.dtype)
        taps: list[Tensor] = []
        for index, layer in enumerate(self.layers, start=1):
            out = layer(x, attention_mask=mask)
            x = out[0] if isinstance(out, tuple) else out
            if index in self.taps:
                taps.append(x)
        return taps
