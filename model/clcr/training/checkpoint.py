"""Checkpoints: folders of safetensors and JSON, replaced atomically; never pickle.

A checkpoint      model.safetensors, config.json, tokenizer.json           what export and evaluation read
A training state  the same and optimizer.safetensors, ema.safetensors (optional), state.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clcr.network.config import ModelConfig
from clcr.network.intercad import Temperature
from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr_stream.errors import ClcrError

FORMAT = 1
State = dict[str, Tensor]


class CheckpointError(ClcrError):
    """A checkpoint folder is missing, of another format, or its weights do not fit its configuration."""

    exit_code = 7


@dataclass(frozen=True)
class CheckpointInfo:
    """What config.json holds besides the settings of the model and its language encoder."""

    labels: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder` and puts it in its place when the block ends without an error.

    A crash leaves either the old or the new content under `folder`, or (between two renames) the old one under
    `.NAME.old`, which `recover` brings back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _sibling(folder, "new"), _sibling(folder, "old")
    recover(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for path in (*fresh.iterdir(), fresh):
        _flush(path)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Undo a replacement that a crash cut between its two renames; harmless otherwise."""
    old = _sibling(folder, "old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)


def save_checkpoint(
    folder: Path, model: CLCR, tokenizer: Path, info: CheckpointInfo, weights: State | None = None
) -> None:
    """Replace `folder` by a checkpoint of `model` (or of `weights`, e.g. an average, in the model's place)."""
    with replacing_folder(folder) as fresh:
        write_model(fresh, model, tokenizer, info, weights)


def write_model(folder: Path, model: CLCR, tokenizer: Path, info: CheckpointInfo, weights: State | None = None) -> None:
    """Write the three files of a checkpoint into an existing folder."""
    save_tensors(folder / "model.safetensors", weights if weights is not None else model.state_dict())
    config = {
        "format": FORMAT,
        "labels": list(info.labels),
        "model": model.config.to_dict(),
        "language": model.language.backbone_config,
        "provenance": info.provenance,
    }
    write_json(folder / "config.json", config)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")


def load_checkpoint(folder: Path) -> CLCR:
    """The model of a checkpoint, in evaluation mode, on the CPU. Raises CheckpointError."""
    config = _read_config(folder)
    try:
        model = CLCR(ModelConfig.from_dict(config["model"]), LanguageEncoder.from_config(config["language"]))
        load_weights(model, read_tensors(folder / "model.safetensors"), folder)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: config.json does not describe a CLCR model ({error!r}); save it again"
        ) from error
    return model.eval()


def load_info(folder: Path) -> CheckpointInfo:
    """Labels and provenance of a checkpoint."""
    config = _read_config(folder)
    return CheckpointInfo(tuple(config["labels"]), dict(config["provenance"]))


def trainings_of(folder: Path) -> list[dict[str, Any]]:
    """Packs, speakers left out, people of the face network and steps of each training behind a checkpoint, in order."""
    provenance = load_info(folder).provenance
    last = {name: provenance[name] for name in ("train_packs", "leave_out", "faces_of", "step") if name in provenance}
    return [*provenance.get("earlier", ()), *([last] if last else [])]


def people_of(network: Path) -> list[str]:
    """Whose faces a face network was trained on, as far as its sets say: SET/NAME. Raises CheckpointError."""
    return [str(name) for name in read_json(network / "info.json").get("people", ())]


def store_temperatures(folder: Path, temperatures: Temperature, origin: dict[str, Any]) -> None:
    """Write fitted temperatures into a checkpoint's weights, and what they were fitted on into its provenance."""
    config, weights = _read_config(folder), read_tensors(folder / "model.safetensors")
    config["provenance"] = {**config["provenance"], "temperature": origin}
    weights["temperature.values"] = temperatures.values
    with replacing_folder(folder) as fresh:
        save_tensors(fresh / "model.safetensors", weights)
        write_json(fresh / "config.json", config)
        for kept in folder.iterdir():
            if not (fresh / kept.name).exists():
                shutil.copyfile(kept, fresh / kept.name)


def save_tensors(path: Path, tensors: State) -> None:
    """Write tensors as safetensors, whatever storage they share."""
    # safetensors refuses views and shared storage.
    save_file({name: value.detach().to("cpu").clone().contiguous() for name, value in tensors.items()}, path)


def load_weights(model: nn.Module, weights: State, source: Path) -> None:
    """Load exactly the model's tensors; says the first name that is missing, unexpected or of another shape."""
    own = model.state_dict()
    for name in sorted(set(own) ^ set(weights)):
        problem = "lacks" if name in own else "has an unexpected"
        raise CheckpointError(f"{source}: {problem} tensor {name!r}; it was saved from another model version")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(weights[name].shape)}, the model wants {tuple(tensor.shape)}"
            )
    model.load_state_dict(weights)


def save_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's per-parameter tensors as `index.name`; groups and rates come from the recipe, not from here."""
    state = optimizer.state_dict()["state"]
    tensors = {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}
    save_tensors(path, {name: value for name, value in tensors.items() if isinstance(value, Tensor)})


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore what `save_optimizer` wrote; the optimizer must have been built from the same recipe."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in read_tensors(path).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if state and max(state) >= count:
        raise CheckpointError(
            f"{path}: holds parameter {max(state)}, the recipe trains {count}; resume with its own recipe"
        )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def read_tensors(path: Path) -> State:
    """A safetensors file on the CPU. Raises CheckpointError when it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a folder written by clcr-train")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy the checkpoint again") from error


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically: a reader sees the old or the new file, never a part."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _flush(fresh)
    fresh.replace(path)


def read_json(path: Path) -> Any:
    """A JSON file. Raises CheckpointError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give a folder written by clcr-train") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); copy the checkpoint again") from error


def _read_config(folder: Path) -> dict[str, Any]:
    recover(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        given = config.get("format") if isinstance(config, dict) else None
        raise CheckpointError(
            f"{folder}: checkpoint format {given!r}, this version reads {FORMAT}; train or convert it again"
        )
    return config


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
