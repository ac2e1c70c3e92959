"""A checkpoint as it ships: smaller, and the same weights that an export of the original computes with."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, save_checkpoint
from clcr_export.graphs import round_to_half
from clcr_factory import SPEECH
from tiny_tokenizer import tokenizer_json

BERT = {
    "model_type": "bert",
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
ship_checkpoint: Any = import_module("data.ship_checkpoint")


def test_what_ships_is_smaller_and_loads_as_an_export_rounds_the_original(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    config = replace(SPEECH, speech_width=48, speech_heads=2, speech_inner=96)  # large enough to be stored in half
    model, source, target = CLCR(config, LanguageEncoder.from_config(BERT)), tmp_path / "trained", tmp_path / "shipped"
    save_checkpoint(source, model, tmp_path / "tokenizer.json", CheckpointInfo(model.config.labels, {"step": 7}))
    ship_checkpoint.ship(source, target)
    assert (target / "model.safetensors").stat().st_size < (source / "model.safetensors").stat().st_size
    for part in (model.language, model.project["language"], model.acoustic, model.stages["acoustic"]):
        round_to_half(part)
    shipped = load_checkpoint(target).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in model.state_dict().items())
    assert (target / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_folder_without_a_checkpoint_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        ship_checkpoint.ship(tmp_path, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
