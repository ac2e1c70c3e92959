"""Checkpoints: what is written is what is read, crashes leave a whole folder, damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clcr.network.config import ModelConfig
from clcr.network.intercad import Temperature
from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.training import checkpoint
from clcr.training.checkpoint import CheckpointError, CheckpointInfo

LANGUAGE = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}


def _model(seed: int = 0) -> CLCR:
    torch.manual_seed(seed)
    config = ModelConfig(labels=("no", "yes"), width=16, shared_rank=4, private_rank=2, heads=2, vision_channels=(4, 4))
    return CLCR(config, LanguageEncoder.from_config(LANGUAGE)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, CLCR]:
    (tmp_path / "tokenizer.json").write_text('{"words": []}', encoding="utf-8")
    model = _model()
    info = CheckpointInfo(("no", "yes"), {"note": "made for a test"})
    checkpoint.save_checkpoint(tmp_path / "kept", model, tmp_path / "tokenizer.json", info)
    return tmp_path / "kept", model


def test_a_checkpoint_gives_back_the_weights_the_settings_and_the_words(saved: tuple[Path, CLCR]) -> None:
    folder, model = saved
    loaded = checkpoint.load_checkpoint(folder)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert checkpoint.load_info(folder) == CheckpointInfo(("no", "yes"), {"note": "made for a test"})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") == '{"words": []}'


def test_the_bases_of_a_loaded_model_are_still_orthonormal(saved: tuple[Path, CLCR]) -> None:
    level: Any = checkpoint.load_checkpoint(saved[0]).levels[0]
    shared, private = level.bases()
    assert torch.allclose(shared.T @ shared, torch.eye(4), atol=1e-5)
    assert torch.allclose(shared.T @ private["vision"], torch.zeros(4, 2), atol=1e-5)


def test_other_weights_can_be_saved_in_the_models_place(saved: tuple[Path, CLCR], tmp_path: Path) -> None:
    other = _model(seed=1).state_dict()
    checkpoint.save_checkpoint(
        tmp_path / "other", saved[1], tmp_path / "tokenizer.json", CheckpointInfo(("no", "yes")), other
    )
    loaded = checkpoint.load_checkpoint(tmp_path / "other").state_dict()
    assert torch.equal(loaded["intercad.anchors"], other["intercad.anchors"])
    assert not torch.equal(loaded["intercad.anchors"], saved[1].state_dict()["intercad.anchors"])


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(saved: tuple[Path, CLCR], tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved[0].iterdir()}
    with pytest.raises(OSError, match="disk full"), checkpoint.replacing_folder(saved[0]) as fresh:
        (fresh / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")
    assert {path.name: path.read_bytes() for path in saved[0].iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "tokenizer.json"]


def test_a_crash_between_the_two_renames_is_undone_on_the_next_read(saved: tuple[Path, CLCR], tmp_path: Path) -> None:
    saved[0].rename(tmp_path / ".kept.old")
    assert checkpoint.load_info(saved[0]).labels == ("no", "yes")
    assert not (tmp_path / ".kept.old").exists()


def test_a_crash_after_both_renames_keeps_the_new_folder(saved: tuple[Path, CLCR], tmp_path: Path) -> None:
    (tmp_path / ".kept.old").mkdir()
    checkpoint.recover(saved[0])
    assert checkpoint.load_info(saved[0]).labels == ("no", "yes")
    assert not (tmp_path / ".kept.old").exists()


def test_a_missing_folder_another_format_and_broken_json_are_named(saved: tuple[Path, CLCR], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file; give a folder written by clcr-train"):
        checkpoint.load_checkpoint(tmp_path / "nowhere")
    config = json.loads((saved[0] / "config.json").read_text(encoding="utf-8"))
    (saved[0] / "config.json").write_text(json.dumps({**config, "format": 99}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="checkpoint format 99, this version reads 1"):
        checkpoint.load_checkpoint(saved[0])
    (saved[0] / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.load_checkpoint(saved[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("lacks", "lacks tensor 'temperature.values'"),
        ("extra", "unexpected tensor 'zzz'"),
        ("shape", r"has shape \(5,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved: tuple[Path, CLCR], damage: str, message: str) -> None:
    path = saved[0] / "model.safetensors"
    weights = load_file(path)
    if damage == "lacks":
        del weights["temperature.values"]
    else:
        weights["zzz" if damage == "extra" else "intercad.anchors"] = torch.zeros(5)
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_checkpoint(saved[0])


def test_a_cut_off_file_is_refused(saved: tuple[Path, CLCR]) -> None:
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load_checkpoint(saved[0])


def test_settings_that_describe_no_model_are_refused(saved: tuple[Path, CLCR]) -> None:
    config = json.loads((saved[0] / "config.json").read_text(encoding="utf-8"))
    config["model"]["wdith"] = 3
    (saved[0] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="wdith"):
        checkpoint.load_checkpoint(saved[0])


def test_a_stored_temperature_changes_the_probabilities_and_nothing_else(saved: tuple[Path, CLCR]) -> None:
    folder, model = saved
    fitted = Temperature()
    fitted.fit("VA", 2.0)
    checkpoint.store_temperatures(folder, fitted, {"fitted_on": ["voices:dev"]})
    loaded = checkpoint.load_checkpoint(folder)
    changed = [n for n, v in model.state_dict().items() if not torch.equal(v, loaded.state_dict()[n])]
    assert changed == ["temperature.values"]
    assert loaded.temperature.by_subset() == {**dict.fromkeys(model.temperature.by_subset(), 1.0), "VA": 2.0}
    logits, both = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert torch.allclose(loaded.temperature(logits, both), torch.softmax(logits / 2, -1))
    assert checkpoint.load_info(folder).provenance["temperature"]["fitted_on"] == ["voices:dev"]
    assert (folder / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimizer_goes_on_exactly_where_it_was_saved(kind: str, tmp_path: Path) -> None:
    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, 0.1) if kind == "adamw" else torch.optim.SGD(parameters, 0.1, momentum=0.9)

    def descend(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        parameter.square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    first = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([first])
    descend(first, optimizer)
    checkpoint.save_optimizer(tmp_path / "o.safetensors", optimizer)
    second = torch.nn.Parameter(first.detach().clone())
    restored = make([second])
    checkpoint.load_optimizer(tmp_path / "o.safetensors", restored)
    for _ in range(3):
        descend(first, optimizer)
        descend(second, restored)
    assert torch.equal(first, second)


def test_an_optimizer_of_another_recipe_is_refused(tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters)
    sum(parameters, torch.zeros(1)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    checkpoint.save_optimizer(tmp_path / "o.safetensors", optimizer)
    with pytest.raises(CheckpointError, match="holds parameter 1, the recipe trains 1"):
        checkpoint.load_optimizer(tmp_path / "o.safetensors", torch.optim.AdamW(parameters[:1]))
