"""The language encoder trained for itself: its sets of texts, what a step reads, and how CLCR begins with it."""

from __future__ import annotations

import json
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from clcr.network.config import EMOTIONS
from clcr.training import checkpoint, words
from clcr.training.cli import train_main
from clcr.training.data.text_sets import Text, load_text_set, save_text_set
from clcr.training.recipe import Language
from clcr.training.start import language_encoder
from clcr_stream.errors import ConfigError
from close import assert_close
from part_runs import check_that_resuming_goes_on

CONFIGS = Path(__file__).parents[2] / "configs"
TELLING = ("table", "tears", "party", "suddenly", "ghost", "shouting")  # one word for each emotion
FILLING = ("the", "a", "we", "then", "again", "so")
FINE = ("calm", "grief", "joy", "awe", "dread", "rage")


def text_set(path: Path, seed: int, fine: bool, count: int = 120) -> None:
    """Texts that one of their words tells; every fourth has no emotion of the six alone."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        label = number % len(EMOTIONS)
        said = [*rng.choice(FILLING, int(rng.integers(1, 6))).tolist(), TELLING[label]]
        rng.shuffle(said)
        names = (FINE[label],) if number % 4 else (FINE[label], FINE[(label + 1) % 6])
        split = "dev" if number % 5 == 0 else "train"
        alone = EMOTIONS[label] if number % 4 or not fine else None
        texts.append(Text(" ".join(said), split, alone, names if fine else None))
    save_text_set(path, texts)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> words.WordsRecipe:
    vocabulary = {word: number for number, word in enumerate(("[PAD]", *TELLING, *FILLING))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text_set(tmp_path / "comments.jsonl", 1, fine=True)
    text_set(tmp_path / "scenes.jsonl", 2, fine=False)
    monkeypatch.chdir(tmp_path)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    config = {"model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 16, **sizes}
    return words.WordsRecipe(
        kind="words",
        language=Language(config=config),
        tokenizer="tokenizer.json",
        train=(words.TextUse("comments.jsonl", 12, "comments"), words.TextUse("scenes.jsonl", 6, "scenes")),
        dev=(words.TextScore("comments.jsonl", "comments"), words.TextScore("scenes.jsonl", "scenes")),
        best="comments",
        steps=6,
        freeze_embeddings=False,
        warmup_steps=2,
        learning_rate=1e-2,
        head_rate=1e-2,
        ema_decay=0.9,
        eval_every_steps=3,
    )


def test_a_run_learns_and_its_encoder_is_one_that_a_recipe_begins_with(recipe: words.WordsRecipe) -> None:
    recipe = msgspec.structs.replace(recipe, steps=200, eval_every_steps=200)
    assert words.train_words(Path("run"), recipe, resume=False) == "finished"
    scores = checkpoint.read_json(Path("run/final/info.json"))["dev"]
    assert scores["comments"]["n"] == 18 and scores["scenes"]["n"] == 24, "those with one emotion alone"
    assert min(scores[name]["accuracy"] for name in ("comments", "scenes")) > 0.7  # chance: .17
    encoder = language_encoder(Language(folder="run/final/encoder"))
    trained = checkpoint.read_tensors(Path("run/final/model.safetensors"))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, trained[f"encoder.{name}"]), name


def test_stopping_and_resuming_goes_the_way_of_a_run_that_did_not_stop(recipe: words.WordsRecipe) -> None:
    check_that_resuming_goes_on(words.train_words, recipe)


def test_frozen_embeddings_stay_and_everything_else_learns(recipe: words.WordsRecipe) -> None:
    recipe = msgspec.structs.replace(recipe, freeze_embeddings=True)
    torch.manual_seed(recipe.seed)
    before = words.TextClassifier(recipe, len(FINE)).state_dict()
    words.train_words(Path("run"), recipe, resume=False)
    after = checkpoint.read_tensors(Path("run/last/model.safetensors"))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("encoder.embeddings."), name


def test_a_step_has_its_share_of_each_set_and_texts_of_about_one_length(recipe: words.WordsRecipe) -> None:
    sets = [words.Tokens([[1] * n for n in range(1, 51)], np.zeros(50, np.int64), np.zeros((50, 1), np.float32))] * 2
    drawn = words.Texts(recipe, sets)
    steps = [drawn.at(step) for step in range(words.BLOCK_STEPS)]
    assert all(len(rows) == 18 for rows in steps)
    counts = np.bincount([which for rows in steps for which, _ in rows])
    assert counts.tolist() == [12 * words.BLOCK_STEPS, 6 * words.BLOCK_STEPS]
    assert max(max(row for _, row in rows) - min(row for _, row in rows) for rows in steps) < 20
    assert words.Texts(recipe, sets).at(5) == steps[5], "whatever came before"
    assert drawn.at(words.BLOCK_STEPS) not in steps


def test_padding_changes_no_score(recipe: words.WordsRecipe) -> None:
    model = words.TextClassifier(recipe, 1).eval()
    alone, beside = model(*words.padded([[1, 2]])), model(*words.padded([[1, 2], [3, 4, 5, 6]]))
    assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-4)


def test_rare_emotions_weigh_more_and_texts_without_one_do_not_count(recipe: words.WordsRecipe) -> None:
    labels = np.array([0] * 16 + [1] * 4 + [-1] * 9 + [2, 3, 4, 5])
    tokens = words.Tokens([[1]] * len(labels), labels, np.zeros((len(labels), 1), np.float32))
    weights = words.rarity_of([tokens], 0.5)
    assert_close(weights / weights[2], torch.tensor([0.25, 0.5, 1.0, 1.0, 1.0, 1.0]), atol=1e-6, rtol=1e-5)
    assert float(weights.mean()) == pytest.approx(1.0)


def test_the_command_trains_and_refuses_what_is_not_for_words(
    recipe: words.WordsRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.yaml").write_text(json.dumps(msgspec.to_builtins(recipe)))
    assert train_main(["words.yaml", "--run", "run"]) == 0
    assert capsys.readouterr().out == "finished\n"
    assert train_main(["words.yaml", "--run", "other", "--steps", "3"]) == ConfigError.exit_code
    assert "--steps is not for a recipe of words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": "nothing"}, "'nothing' is not in dev; allowed: comments, scenes"),
        ({"dev": [{"file": "comments.jsonl", "head": "other"}]}, "no set of train has the head 'other'"),
        ({"dev": [{"file": "gone.jsonl", "head": "scenes"}], "best": "gone"}, "text_sets.py"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_wrong_recipe_is_one_line(recipe: words.WordsRecipe, change: dict[str, Any], message: str) -> None:
    Path("words.yaml").write_text(json.dumps(msgspec.to_builtins(recipe) | change))
    with pytest.raises(ConfigError, match=message):
        words.train_words(Path("run"), words.load_words_recipe(Path("words.yaml")), resume=False)


def test_the_shipped_recipe_is_whole_and_a_missing_one_is_told() -> None:
    assert words.load_words_recipe(CONFIGS / "words.yaml").best == "goemotions"
    with pytest.raises(ConfigError, match=r"configs/words.yaml"):
        words.load_words_recipe(Path("none.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text":"a","split":"train","label":"bored"}\n', "label 'bored' is not known; allowed: neutral"),
        (b'{"text":"a"}\n', "no text set"),
        (b"\xff\xfe{", "no text set"),
        (b'{"text":"a","split":"dev"}\n', "no text in split 'train'; allowed: dev"),
    ],
)
def test_a_file_that_is_no_text_set_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "one.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_text_set(tmp_path / "one.jsonl", "train")


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_the_development_sets_have_the_rows_of_the_manifests_and_every_finer_label(tmp_path: Path) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/data/text_sets.py"))
    assert tool["main"](["--data", str(SHARED), "--out", str(tmp_path)]) == 0
    train, dev = (load_text_set(tmp_path / "goemotions.jsonl", split) for split in ("train", "dev"))
    assert (len(train), len(dev), len(train.fine_names)) == (43410, 5426, 28)
    assert sum(text.label is not None for text in dev.texts) == 2895
    assert len(load_text_set(tmp_path / "goemotions_spoken.jsonl", "dev")) == 2895
    nothing = load_text_set(tmp_path / "nothing.jsonl", "dev")
    fillers: tuple[str, ...] = import_module("data.nothing").FILLERS
    known = {word for said in (*(text.text for text in dev.texts), *fillers) for word in said.split()}
    assert {text.fine for text in nothing.texts} == {("nothing",)} and {text.label for text in nothing.texts} == {None}
    assert {word for text in nothing.texts for word in text.text.split()} <= known
    assert len({text.text for text in load_text_set(tmp_path / "nothing.jsonl", "train").texts}) > 15_000
