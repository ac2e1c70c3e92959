"""Histories of people: who is in whose past while training, and before a clip that is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr.network.config import NEUTRAL
from clcr.network.losses import UNLABELLED
from clcr.network.model import Usual
from clcr.training import start, train
from clcr.training.cli import eval_main, train_main
from clcr.training.data.cache import Pack
from clcr.training.data.mixture import FewSpeakers, Mixture, neutral_clips, spread_over_speakers
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import Feed
from clcr.training.histories import LONGEST, companions, past_of_each
from clcr.training.recipe import Recipe, check_recipe, load_recipe
from clcr_stream.errors import ConfigError
from close import assert_close
from tiny_packs import write_packs

CONFIGS = Path(__file__).parents[2] / "configs"
SPEAKERS = np.array(["a", "a", "a", "b", "b", "", "", "c"])
TARGETS = np.array([0, 1, 2, 0, 3, 0, 0, 1])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_nobody_is_in_a_past_but_other_samples_of_the_same_speaker(seed: int) -> None:
    matrix = companions(SPEAKERS, TARGETS, 1.0, np.random.default_rng(seed)).numpy()
    rows, columns = np.nonzero(matrix)
    assert (SPEAKERS[rows] == SPEAKERS[columns]).all()
    assert (rows != columns).all()
    assert (SPEAKERS[rows] != "").all() and 7 not in rows
    assert matrix.min() >= 0.0 and matrix.max() <= LONGEST


def test_pasts_are_of_every_length_and_some_are_neutral_alone() -> None:
    speakers, targets = np.array(["a"] * 12), np.arange(12) % 6
    drawn = np.concatenate(
        [companions(speakers, targets, 0.8, np.random.default_rng(seed)).numpy() for seed in range(100)]
    )
    lengths = (drawn > 0).sum(1)
    assert set(lengths) == set(range(12))
    assert 0.17 < float((lengths == 0).mean()) < 0.27
    some = drawn[lengths > 1] > 0
    neutral = np.array([(targets[row] == NEUTRAL).all() for row in some])
    assert 0.02 < float(neutral.mean()) < 0.3


def test_without_a_share_nobody_has_a_past() -> None:
    assert not companions(SPEAKERS, TARGETS, 0.0, np.random.default_rng(1)).any()


def test_a_step_s_samples_come_out_of_a_few_speakers() -> None:
    speakers = np.repeat(np.array(["a", "b", "c", "d", "e"]), 10)
    rows = spread_over_speakers(speakers, np.full(50, 1 / 50), 12, 3, np.random.default_rng(1))
    names, counts = np.unique(speakers[rows], return_counts=True)
    assert len(rows) == len(set(rows)) == 12
    assert len(names) == 3 and set(counts) == {4}


def test_more_samples_than_a_speaker_has_are_drawn_again() -> None:
    rows = spread_over_speakers(np.array(["a", "a", "b"]), np.full(3, 1 / 3), 8, 2, np.random.default_rng(1))
    assert len(rows) == 8


def test_the_past_of_a_clip_is_as_long_as_asked_and_never_the_clip_itself() -> None:
    steps = torch.full((6, 2), 30.0)
    mean = torch.arange(6.0)[:, None, None, None].expand(6, 2, 3, 4).clone()
    usual = past_of_each(Usual(mean, steps), ["a", "a", "a", "a", "b", ""], (60.0, 500.0))
    assert usual.steps.tolist()[:4] == [[60.0, 90.0]] * 4
    for index in range(4):
        others = [value for value in range(4) if value != index]
        assert float(usual.mean[index, 1, 0, 0]) == pytest.approx(np.mean(others))
    assert not usual.steps[4:].any()
    kinds = past_of_each(Usual(mean, steps), ["a", "a", "a", "b", "", ""], (60.0, 60.0), usable=[True, False] * 3)
    assert kinds.steps[:4, 0].tolist() == [30.0, 60.0, 30.0, 0.0]
    assert kinds.mean[:3, 0, 0, 0].tolist() == [2.0, 1.0, 0.0]


def test_beside_a_speaker_s_samples_come_neutral_clips_of_the_same_speaker() -> None:
    class Voices(Pack):
        def __init__(self) -> None:
            self.name, self.classes, self.ids = "voices", 6, np.arange(48).astype(np.str_)
            self.speakers, self.targets = np.repeat(np.array(["a", "b", "c", "d"]), 12), np.arange(48) % 6

    voices = Voices()
    few = FewSpeakers(2, neutral=2)
    mixture = Mixture([voices], 7, speakers={"voices": few})
    for step in range(20):
        names, beside = mixture.speakers({"voices": 6}, step), mixture.beside({"voices": 6}, step)
        assert beside.tolist() == [False] * 6 + [True] * 4
        assert sorted(names[6:]) == sorted(np.repeat(np.unique(names[:6]), 2))
    rows = neutral_clips(voices, np.array(["c", "b"]), 2, np.random.default_rng(1))
    assert (voices.targets[rows] == NEUTRAL).all() and voices.speakers[rows].tolist() == ["c", "c", "b", "b"]
    assert len(neutral_clips(voices, np.array(["c"]), 9, np.random.default_rng(1))) == 2


# In a training run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> train.Run:
    """A run of `the_recipe` to its end."""
    folder = tmp_path_factory.mktemp("whole")
    write_packs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "plot_curves", lambda *_: None)
        run = train.start_run(Path("whole"), the_recipe(), start.new_model(the_recipe()))
        train.train(run)
    return run


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    write_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "plot_curves", lambda *_: None)
    return the_recipe()


def the_recipe() -> Recipe:
    whole = load_recipe(CONFIGS / "train_tiny.yaml")
    uses = tuple(msgspec.structs.replace(use, speakers=2, per_step=6) for use in whole.train[1:3])
    return msgspec.structs.replace(
        whole, train=uses, history=0.8, model={**whole.model, "baseline": True}, steps=3, eval_every_steps=3
    )


def test_a_run_with_histories_moves_the_baselines_and_resumes_to_the_same_weights(
    recipe: Recipe, whole: train.Run
) -> None:
    born = start.new_model(recipe)
    before = {name: value.clone() for name, value in born.state_dict().items() if "baselines" in name}
    after = whole.model.state_dict()
    moved = {name for name, value in before.items() if not value.equal(after[name])}
    assert {"baselines.vision.0.shift", "baselines.acoustic.2.log_prior"} <= moved
    train.train(train.start_run(Path("parts"), recipe, born), until_step=2)
    resumed = train.resume_run(Path("parts"), recipe)
    train.train(resumed)
    for name, value in whole.model.state_dict().items():
        assert_close(value, resumed.model.state_dict()[name], msg=name)


def test_the_speakers_of_a_step_are_those_of_its_samples(recipe: Recipe) -> None:
    feed = Feed(recipe, start.new_model(recipe).config.labels)
    (mixture,) = feed.mixtures.values()
    (group,) = feed.at(4)
    assert group.history is not None
    assert group.history.shape == (len(group.batch), len(group.batch))
    names = mixture.speakers(dict.fromkeys(mixture.packs, 6), 4)
    assert len(names) == len(group.batch)
    assert len(set(names)) <= 4  # two of each pack
    rows, columns = np.nonzero(group.history.numpy())
    assert (names[rows] == names[columns]).all()


def test_what_comes_beside_is_in_pasts_and_not_in_the_loss(recipe: Recipe) -> None:
    plain = Feed(recipe, start.new_model(recipe).config.labels)
    uses = tuple(msgspec.structs.replace(use, neutral=1) for use in recipe.train)
    feed = Feed(msgspec.structs.replace(recipe, train=uses), start.new_model(recipe).config.labels)
    unlabelled = in_pasts = 0
    for step in range(8):
        ((group,), (bare,)) = feed.at(step), plain.at(step)
        beside = (group.labels == UNLABELLED).numpy()
        assert len(group.batch) - beside.sum() == len(bare.batch) and group.share == bare.share == 1.0
        assert not (bare.labels == UNLABELLED).any()
        assert group.history is not None
        unlabelled += int(beside.sum())
        in_pasts += int((group.history.numpy()[~beside][:, beside] > 0).sum())
    assert unlabelled > 8 and in_pasts > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"speakers": None}, "neutral 1 needs speakers, and history above 0"), ({"neutral": -1}, "neutral -1 needs")],
)
def test_neutral_clips_without_speakers_are_refused(recipe: Recipe, changes: dict[str, Any], text: str) -> None:
    first, second = (msgspec.structs.replace(use, neutral=1) for use in recipe.train)
    uses = (msgspec.structs.replace(first, **changes), second)
    with pytest.raises(ConfigError, match=text):
        check_recipe(msgspec.structs.replace(recipe, train=uses), "r.yaml")


def test_a_history_changes_what_is_scored_and_needs_a_model_with_baselines(recipe: Recipe, whole: train.Run) -> None:
    pack = Pack(Path("packs/clips"), "train")
    cold, warm = (evaluate_subset(whole.model, pack, "VA", history_s=seconds).logits for seconds in (0.0, 20.0))
    assert cold.shape == warm.shape and not np.allclose(cold, warm)
    again = evaluate_subset(whole.model, pack, "VA", batch_size=5, history_s=20.0).logits
    np.testing.assert_allclose(warm, again, atol=1e-5)
    neutral = evaluate_subset(whole.model, pack, "VA", history_s=20.0, history_of="neutral").logits
    assert not np.allclose(neutral, warm) and not np.allclose(neutral, cold)
    with pytest.raises(ConfigError, match="--history-of bored: allowed are the model's labels: neutral, sad"):
        evaluate_subset(whole.model, pack, "VA", history_s=20.0, history_of="bored")
    plain = start.new_model(msgspec.structs.replace(recipe, model={**recipe.model, "baseline": False}))
    with pytest.raises(ConfigError, match="has no baselines"):
        evaluate_subset(plain, pack, "VA", history_s=20.0)


def test_the_commands_take_a_history(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(msgspec.json.encode(recipe).decode())
    assert train_main(["r.yaml", "--run", "run"]) == 0
    capsys.readouterr()
    arguments = ["run/final", "--pack", "packs/clips", "--subsets", "VA", "--history", "20", "--json", "out.json"]
    assert eval_main(arguments) == 0
    assert msgspec.json.decode(Path("out.json").read_bytes())["history_s"] == 20.0
    uses = tuple(msgspec.structs.replace(use, speakers=None) for use in recipe.train)
    without = msgspec.structs.replace(recipe, train=uses)
    Path("r.yaml").write_text(msgspec.json.encode(without).decode())
    assert train_main(["r.yaml", "--run", "other"]) == ConfigError.exit_code
    assert "history 0.8 needs speakers" in capsys.readouterr().err
