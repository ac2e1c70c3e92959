"""tools/data/average.py: the mean of two checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.training import faces
from clcr.training.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    load_checkpoint,
    read_json,
    replacing_folder,
    save_checkpoint,
    save_tensors,
    trainings_of,
    write_json,
)
from clcr.training.start import face_channels, face_weights
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


def test_weights_are_the_mean_and_both_trainings_stay_known(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 1, ["voices"]), saved(tmp_path / "other", 2, ["faces"])
    average.average(one, other, tmp_path / "mean")
    found, first, second = (load_checkpoint(path).state_dict() for path in (tmp_path / "mean", one, other))
    for name, value in found.items():
        mean = (first[name] + second[name]) / 2 if value.is_floating_point() else second[name]
        torch.testing.assert_close(value, mean)
    assert [training["train_packs"] for training in trainings_of(tmp_path / "mean")] == [["voices"], ["faces"]]


def test_two_models_that_differ_are_refused_in_one_line(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 1, []), saved(tmp_path / "other", 2, [], mel_bands=16)
    with pytest.raises(CheckpointError, match="differ in shape"):
        average.average(one, other, tmp_path / "mean")
    done = subprocess.run([sys.executable, TOOL, one, other, tmp_path / "mean"], capture_output=True, text=True)
    assert done.returncode == 7 and done.stderr.count("\n") == 1 and not (tmp_path / "mean").exists()


def test_two_face_networks_have_a_mean_that_a_recipe_can_begin_with(tmp_path: Path) -> None:
    recipe = faces.FaceRecipe(kind="faces", train=(), dev=(), best="", steps=1, channels=(4, 4, 4, 4), width=8)
    folders = [tmp_path / name for name in ("one", "other", "mean")]
    for seed, folder in enumerate(folders[:2]):
        torch.manual_seed(seed)
        with replacing_folder(folder) as fresh:
            save_tensors(fresh / "model.safetensors", faces.FaceClassifier(recipe).state_dict())
            write_json(fresh / "info.json", {"recipe": msgspec.to_builtins(recipe), "step": 1, "dev": {"score": 0.5}})
    average.average(*folders)
    one, other, mean = (face_weights(folder) for folder in folders)
    for name, value in mean.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2 if value.is_floating_point() else other[name])
    assert face_channels(folders[2]) == (4, 4, 4, 4)
    assert "dev" not in read_json(folders[2] / "info.json")  # scores of neither
