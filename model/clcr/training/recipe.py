"""The recipe of a training run: one YAML file, typed, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from clcr.network.config import LETTERS, MODALITIES
from clcr_stream.errors import ConfigError

PAIRS = "pairs"  # the name of the samples that are put together by label, and of their group
SUBSETS = ("V", "A", "L", "VA", "VL", "AL", "VAL")


class TrainPack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prepared pack to learn from and how many of its items go into each step."""

    pack: str
    per_step: int
    splits: tuple[str, ...] = ("train",)
    having: str | None = None  # only clips recorded with all of these, such as "VA"
    group: str | None = None  # packs of one group go through the model in one batch
    speakers: int | None = None  # draw a step's items out of so many speakers, for `history`
    neutral: int = 0  # and so many neutral items of each beside them, which only the pasts of the others hold


class Pairs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples that are put together by label out of the train packs: a face, a voice and words of different people."""

    per_step: int
    neutral: float = 0.0  # share of the sides beside the one that has the label that are neutral
    nothing: tuple[str, ...] = ()  # packs of what shows nothing: noise, blurred faces, words at random
    nothing_p: float = 0.0  # share of the sides beside the one that has the label that show nothing
    nothing_alone_p: float = 0.0  # share of the samples in which one modality shows nothing and the others are absent


class DevPack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prepared pack to watch: `subsets` of modalities such as "VA"; at most `limit` items, taken evenly."""

    pack: str
    subsets: tuple[str, ...]
    split: str = "dev"
    limit: int | None = None
    having: str | None = None  # only clips recorded with all of these, such as "VA"


class Best(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The number that chooses the best checkpoint: the mean of `metric` over "pack/subset" names."""

    of: tuple[str, ...]
    metric: Literal["macro_f1", "accuracy", "corr"] = "macro_f1"  # corr: of a regression


class Language(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a fresh model's language encoder comes from: a BERT-family folder, or a small `config` without weights."""

    folder: str | None = None
    package: str | None = None  # an installed package whose model/ folder is the BERT-family folder
    kept_ids: str | None = None
    config: dict[str, Any] | None = None


class Acoustic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights of acoustic_encoder whisper come from: a folder with model.bin, or an installed package."""

    folder: str | None = None
    package: str | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a run depends on besides the data and an --init checkpoint. Paths are from the working folder."""

    train: tuple[TrainPack, ...]
    dev: tuple[DevPack, ...]
    best: Best
    tokenizer: str
    steps: int
    language: Language = Language()
    acoustic: Acoustic | None = None  # for a fresh acoustic_encoder whisper, and with --init for one under renew
    vision: str | None = None  # a folder with a trained face network, for vision_front_end grid; goes before --init's
    pairs: Pairs | None = None
    model: dict[
        str, Any
    ] = {}  # fields of clcr.network.config.ModelConfig, label_smoothing among them; with --init: changes to it
    seed: int = 1
    warmup_steps: int = 100
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    learning_rates: dict[str, float] = {}  # by parameter-name prefix; the longest that fits wins
    freeze: tuple[str, ...] = ()  # parameter-name prefixes
    stored_versions: int = 0  # changed versions of each clip of which the frozen encoders' outputs are kept on disk
    renew: tuple[str, ...] = ()  # parameter-name prefixes that --init does not carry over: they start fresh
    freeze_statistics: bool = False  # keep batch-norm statistics, for small fine-tuning sets
    final_rate: float = 0.02  # share of the learning rate left at the end of the cosine
    weight_decay: float = 0.02
    momentum: float = 0.9  # sgd only
    clip_norm: float = 5.0
    ema_decay: float = 0.0  # 0: no averaged weights
    precision: Literal["fp32", "bf16"] = "bf16"
    class_weights: tuple[float, ...] | None = None
    modality_dropout: float = 0.15
    history: float = 0.0  # share of the samples shown with a past of their speaker; needs model.baseline
    balance: float = 0.5  # 0: samples evenly, 1: classes evenly
    augment: dict[str, Any] = {}  # fields of clcr.training.data.augment.Augment
    empty_share: float = 0.02  # share of samples shown with every modality absent, so that no input gives the prior
    eval_every_steps: int = 500
    log_every_steps: int = 20
    checkpoint_minutes: float = 5.0
    eval_batch: int = 32


def recipe_kind(path: Path) -> str:
    """What a recipe trains: "faces", "words" or "clcr"; a file that cannot be read is left to `load_recipe`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return "clcr"
    return str(values.get("kind", "clcr")) if isinstance(values, dict) else "clcr"


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises ConfigError with the path of the offending key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = msgspec.convert(values, Recipe, strict=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; complete ones are in configs/train_*.yaml") from None
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; see configs/train_base.yaml") from error
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: Recipe, name: str) -> None:
    """Raises ConfigError for values that parse but make no sense together."""
    for dev in recipe.dev:
        for subset in dev.subsets:
            if subset not in SUBSETS or dev.having not in (None, *SUBSETS):
                raise ConfigError(f"{name}: dev subset {subset!r} having {dev.having!r}; allowed: {', '.join(SUBSETS)}")
    for use in recipe.train:
        if use.having not in (None, *SUBSETS):
            raise ConfigError(f"{name}: train pack having {use.having!r}; allowed: {', '.join(SUBSETS)}")
    watched = {f"{Path(dev.pack).name}/{subset}" for dev in recipe.dev for subset in dev.subsets}
    for wanted in recipe.best.of:
        if wanted not in watched:
            raise ConfigError(f"{name}: best.of {wanted!r} is not watched; allowed: {', '.join(sorted(watched))}")
    if not recipe.train or min(use.per_step for use in recipe.train) < 1:
        raise ConfigError(f"{name}: train needs at least one pack, each with per_step of 1 or more")
    if recipe.history > 0 and not any(use.speakers for use in recipe.train):
        raise ConfigError(f"{name}: history {recipe.history} needs speakers in a train pack, such as speakers: 4")
    for use in recipe.train:
        if use.neutral and (use.neutral < 0 or not use.speakers or not recipe.history):
            raise ConfigError(f"{name}: {use.pack}: neutral {use.neutral} needs speakers, and history above 0")
    pairs = recipe.pairs
    if pairs is not None:
        shares = {"neutral": pairs.neutral, "nothing_p": pairs.nothing_p, "nothing_alone_p": pairs.nothing_alone_p}
        if pairs.per_step < 1 or not all(0.0 <= share <= 1.0 for share in shares.values()):
            raise ConfigError(f"{name}: pairs need per_step of 1 or more, and {', '.join(shares)} from 0 to 1")
        if any((use.group or Path(use.pack).name) == PAIRS for use in recipe.train):
            raise ConfigError(f"{name}: a train pack or group is called {PAIRS}, as that of the pairs is; rename it")
        if (pairs.nothing_p or pairs.nothing_alone_p) and not pairs.nothing:
            raise ConfigError(f"{name}: pairs: nothing_p and nothing_alone_p above 0 need packs under nothing")
    if recipe.steps < 1 or recipe.eval_every_steps < 1 or recipe.log_every_steps < 1:
        raise ConfigError(f"{name}: steps, eval_every_steps and log_every_steps must be 1 or more")


def subset_modalities(subset: str) -> tuple[str, ...]:
    """The modalities of a subset such as "VA", in the model's order."""
    named = {LETTERS[letter] for letter in subset}
    return tuple(modality for modality in MODALITIES if modality in named)


def recipe_to_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults written out, for the run folder."""
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, allow_unicode=True)
