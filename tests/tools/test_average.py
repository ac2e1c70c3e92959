"""tools/data/average.py: the mean of two checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, save_checkpoint, trainings_of
from clcr_factory import TINY
from tiny_tokenizer import tokenizer_json

average: Any = import_module("data.average")
BERT = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
}
TOOL = Path(__file__).resolve().parents[2] / "tools/data/average.py"


def saved(folder: Path, seed: int, packs: list[str], **changes: Any) -> Path:
    (folder.parent / "tokenizer.json").write_bytes(tokenizer_json())
    torch.manual_seed(seed)
    model = CLCR(replace(TINY, **changes), LanguageEncoder.from_config(BERT))
    info = CheckpointInfo(model.config.labels, {"train_packs": packs, "step": seed})
    save_checkpoint(folder, model, folder.parent / "tokenizer.json", info)
    return folder


def test_weights_are_the_mean_but_for_those_that_are_kept_and_both_trainings_stay_known(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 1, ["voices"]), saved(tmp_path / "other", 2, ["faces"])
    average.average(one, other, tmp_path / "mean", ("intercad.",))
    found, first, second = (load_checkpoint(path).state_dict() for path in (tmp_path / "mean", one, other))
    for name, value in found.items():
        kept = name.startswith("intercad.") or not value.is_floating_point()
        torch.testing.assert_close(value, first[name] if kept else (first[name] + second[name]) / 2)
    assert any(name.startswith("intercad.") for name in found)
    assert [training["train_packs"] for training in trainings_of(tmp_path / "mean")] == [["voices"], ["faces"]]


def test_two_models_that_differ_are_refused_in_one_line(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 1, []), saved(tmp_path / "other", 2, [], mel_bands=16)
    with pytest.raises(CheckpointError, match="differ in shape"):
        average.average(one, other, tmp_path / "mean")
    done = subprocess.run([sys.executable, TOOL, one, other, tmp_path / "mean"], capture_output=True, text=True)
    assert done.returncode == 7 and done.stderr.count("\n") == 1 and not (tmp_path / "mean").exists()
