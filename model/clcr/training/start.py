"""The model a run begins with: fresh with a pretrained language encoder, or from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch

from clcr.network.batch import Batch
from clcr.network.config import ModelConfig
from clcr.network.language import LanguageEncoder
from clcr.network.model import CLCR
from clcr.network.speech import SpeechLayer, SpeechStem
from clcr.training import checkpoint
from clcr.training.checkpoint import CheckpointError, load_checkpoint, load_weights
from clcr.training.feed import Group
from clcr.training.pretrained import load_layer, load_stem, read_ctranslate2, whisper_file
from clcr.training.recipe import Acoustic, Language, Recipe
from clcr_stream.errors import ConfigError

CALIBRATION_STEPS = 8


def new_model(recipe: Recipe) -> CLCR:
    """A model with random weights and the recipe's language encoder. Raises ConfigError."""
    torch.manual_seed(recipe.seed)
    try:
        model = CLCR(ModelConfig.from_dict(recipe.model), language_encoder(recipe.language))
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"recipe: {error}") from error
    _take_speech_encoder(model, recipe)
    if recipe.vision is not None:
        take_face_network(model, Path(recipe.vision))
    return model


def _take_speech_encoder(model: CLCR, recipe: Recipe) -> None:
    """Begin with Whisper's weights where the acoustic encoder is Whisper's. Raises ConfigError."""
    if not isinstance(model.acoustic, SpeechStem):
        if recipe.acoustic is not None:
            raise ConfigError("recipe: acoustic is given, but model.acoustic_encoder is stem; set it to whisper")
        return
    source = recipe.acoustic or Acoustic()
    variables = read_ctranslate2(whisper_file(source.package, source.folder))
    load_stem(model.acoustic, variables)
    for index, layer in enumerate(model.stages_of("acoustic")):
        load_layer(cast(SpeechLayer, layer), variables, index)


def sound_is_fresh(recipe: Recipe, init: Path | None) -> bool:
    """Whether the run's acoustic encoder begins untrained by us, so that its constants are still to be fitted."""
    return init is None or "acoustic.first.weight".startswith(recipe.renew)


def take_face_network(model: CLCR, folder: Path) -> None:
    """Begin with the weights of a trained face network. Raises ConfigError when they are of another shape."""
    channels = face_channels(folder)
    config = model.config
    if config.vision_front_end != "grid" or config.vision_channels != channels:
        raise ConfigError(
            f"recipe: vision {folder} has channels {list(channels)}; set model.vision_front_end to grid and "
            f"model.vision_channels to these (given: {config.vision_front_end}, {list(config.vision_channels)})"
        )
    load_weights(model.vision, face_weights(folder), folder)


def face_weights(folder: Path) -> checkpoint.State:
    """The front-end's weights of a published face network. Raises CheckpointError."""
    weights = checkpoint.read_tensors(folder / "model.safetensors")
    return {name.removeprefix("vision."): value for name, value in weights.items() if name.startswith("vision.")}


def face_channels(folder: Path) -> tuple[int, ...]:
    """The channels of a published face network. Raises CheckpointError."""
    return tuple(checkpoint.read_json(folder / "info.json")["recipe"]["channels"])


def model_from(folder: Path, recipe: Recipe) -> CLCR:
    """A checkpoint's model with the recipe's changes to its settings; sizes and labels must stay."""
    torch.manual_seed(recipe.seed)
    model = load_checkpoint(folder)
    changes = ModelConfig.from_dict(recipe.model)
    model.config = replace(model.config, **{name: getattr(changes, name) for name in recipe.model})
    fresh = CLCR(model.config, LanguageEncoder.from_config(model.language.backbone_config))
    own, carried = (
        {name: value for name, value in weights.items() if not name.startswith(recipe.renew)}
        for weights in (fresh.state_dict(), model.state_dict())
    )
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in carried.items()}:
        raise CheckpointError(
            f"{folder}: the recipe's model settings change the shape of its weights; leave them out, or name under "
            "renew what is to start fresh"
        )
    if recipe.renew and len(carried) == len(model.state_dict()):
        raise ConfigError(f"recipe: renew names no parameter: {', '.join(recipe.renew)}")
    fresh.load_state_dict(carried, strict=False)
    if sound_is_fresh(recipe, folder):
        _take_speech_encoder(fresh, recipe)
    if recipe.vision is not None:
        take_face_network(fresh, Path(recipe.vision))
    return fresh


def language_encoder(source: Language) -> LanguageEncoder:
    """A BERT-family encoder from a folder, from an installed package's model/ folder, or fresh from a config."""
    given = [name for name in ("folder", "package", "config") if getattr(source, name) is not None]
    if len(given) != 1:
        raise ConfigError(f"recipe: language has {given or 'nothing'}; give exactly one of folder, package, config")
    if source.config is not None:
        return LanguageEncoder.from_config(source.config)
    if source.folder is not None:
        folder = Path(source.folder)
    else:
        spec = find_spec(str(source.package))
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"recipe: language package {source.package!r} is not installed; pip install it first")
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    kept = None if source.kept_ids is None else json.loads(Path(source.kept_ids).read_text(encoding="utf-8"))
    return LanguageEncoder.from_folder(folder, kept)


def calibrate_sound(model: CLCR, steps: Iterable[list[Group]]) -> None:
    """Set the constants of the acoustic encoder to what some training batches with sound show: mean and deviation.

    Of the log-mel by band, or of the speech encoder's tokens by level and column.
    """
    if isinstance(model.acoustic, SpeechStem):
        _calibrate_layers(model, (group.batch for groups in steps for group in groups))
    else:
        _calibrate_mel(model, steps)


@torch.no_grad()
def _calibrate_layers(model: CLCR, batches: Iterable[Batch]) -> None:
    layers = [cast(SpeechLayer, layer) for layer in model.stages_of("acoustic")]
    found: list[list[torch.Tensor]] = [[] for _ in layers]
    for layer in layers:
        layer.mean.zero_()
        layer.deviation.fill_(1.0)
    training = model.training
    model.eval()
    for batch in batches:
        heard = batch.acoustic_valid.bool()
        tokens = model.temporal_features("acoustic", batch.mel, batch.acoustic_valid, batch.acoustic_step)
        for rows, values in zip(found, tokens, strict=True):
            rows.append(values[heard])
    model.train(training)
    for layer, rows in zip(layers, found, strict=True):
        values = torch.cat(rows) if rows else torch.zeros(0)
        if len(values) > 1:
            layer.mean.copy_(values.mean(0))
            layer.deviation.copy_(values.std(0).clamp(min=1e-3))


def _calibrate_mel(model: CLCR, steps: Iterable[list[Group]]) -> None:
    rows = []
    for groups in steps:
        for group in groups:
            frames = group.batch.acoustic_valid.bool().repeat_interleave(4, 1)
            rows.append(group.batch.mel[frames])
    mel = torch.cat(rows) if rows else torch.zeros(0)
    if len(mel) > 1:
        model.acoustic.get_buffer("mel_mean").copy_(mel.mean(0))
        model.acoustic.get_buffer("mel_std").copy_(mel.std(0).clamp(min=0.1))
