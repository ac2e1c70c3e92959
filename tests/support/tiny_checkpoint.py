"""A narrow CLCR with random weights as a checkpoint folder: all an exporter needs, small enough to prove often."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from clcr.network.config import ModelConfig
from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.training.checkpoint import CheckpointInfo, save_checkpoint
from tiny_bundle import WORDS, tokenizer_tree

SPECIAL_TOKENS = 4
VOCABULARY = SPECIAL_TOKENS + len(WORDS)
CONFIG = ModelConfig(
    width=32,
    shared_rank=16,
    private_rank=8,
    heads=2,
    vision_channels=(4, 4, 8, 8, 8),
    acoustic_channels=(2, 4),
)


def tiny_model(config: ModelConfig = CONFIG, seed: int = 0) -> CLCR:
    """A seeded model in evaluation mode whose batch statistics and temperature are not the ones it was born with."""
    torch.manual_seed(seed)
    encoder = LanguageEncoder.from_config(
        {
            "model_type": "bert",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 160,
            "pad_token_id": 0,
        }
    )
    model = CLCR(config, encoder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        model.temperature.values.copy_(torch.linspace(1.2, 1.9, 8))
    return model.eval()


def write_tiny_checkpoint(folder: Path, seed: int = 0, like: CLCR | None = None, **settings: object) -> CLCR:
    """Save `tiny_model` (with `settings` changed in its configuration) as a checkpoint folder; returns the model.

    With the weights of `like` where it has them: engines that the settings leave alone need not be traced anew.
    """
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    model = tiny_model(config, seed)
    if like is not None:
        own = model.state_dict()
        carried = {name: value for name, value in like.state_dict().items() if own[name].shape == value.shape}
        model.load_state_dict(carried, strict=False)
    tokenizer = folder.parent / f"{folder.name}.tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_text(json.dumps(tokenizer_tree()))
    save_checkpoint(folder, model, tokenizer, CheckpointInfo(config.labels, {"made_by": "tests"}))
    return model
