"""Cross-validation by people, on made-up packs: who is left out of what, what is scored, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from clcr.training import checkpoint, folds, start, train
from clcr.training.cli import STOPPED_CODE, train_main
from clcr.training.folds import Folds
from clcr.training.recipe import Recipe, load_recipe
from clcr_stream.errors import ConfigError
from tiny_packs import SPEAKERS, write_packs

TINY = Path(__file__).parents[2] / "configs/train_tiny.yaml"
CLIPS = (Path("packs/clips"),)
EACH = Folds(len(SPEAKERS), CLIPS)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "plot_curves", lambda *_: None)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return _changed(load_recipe(TINY), steps=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint that never saw the speakers of packs/clips."""
    folder = tmp_path_factory.mktemp("base")
    write_packs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "plot_curves", lambda *_: None)
        yield folder / _base(load_recipe(TINY))


def _base(recipe: Recipe, **changes: object) -> Path:
    uses = tuple(use for use in recipe.train if use.pack != "packs/clips")
    dev = tuple(use for use in recipe.dev if use.pack != "packs/clips")
    best = msgspec.structs.replace(recipe.best, of=("texts/L",))
    recipe = _changed(recipe, train=uses, dev=dev, steps=1, best=best, **changes)
    train.train(train.start_run(Path("base"), recipe, start.new_model(recipe)))
    return Path("base/final")


def _changed(recipe: Recipe, **values: object) -> Recipe:
    return msgspec.structs.replace(recipe, **values)


def _watched(monkeypatch: pytest.MonkeyPatch, outcome: str | None = None) -> list[tuple[str, ...]]:
    """Whom each training left out; with an outcome, nothing is trained."""
    seen: list[tuple[str, ...]] = []

    def watched(run: train.Run) -> str:
        seen.append(run.leave_out)
        return train.train(run) if outcome is None else outcome

    monkeypatch.setattr(folds, "train", watched)
    return seen


def test_every_speaker_is_scored_once_and_finished_folds_are_skipped(
    recipe: Recipe, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watched(monkeypatch)
    report = folds.cross_validate(Path("run"), recipe, base, EACH)
    assert seen == [("clips/s1",), ("clips/s2",), ("clips/s3",)]
    assert report["complete"] and [fold["left_out"] for fold in report["folds"]] == [{"clips": [s]} for s in SPEAKERS]
    done = [checkpoint.read_json(Path(f"run/fold_{fold}.json"))["packs"]["clips"] for fold in range(3)]
    names = [name for fold in done for name in fold["ids"]]
    assert len(names) == len(set(names)) == 36  # all clips with video and sound
    scores = report["packs"]["clips"]
    assert {"V", "A", "VA"} == scores["pooled"].keys() == scores["speakers"]["s1"].keys()
    right = np.concatenate([np.argmax(fold["subsets"]["VA"]["logits"], 1) == fold["targets"] for fold in done])
    assert scores["pooled"]["VA"]["accuracy"]["value"] == pytest.approx(right.mean())
    again = folds.cross_validate(Path("run"), recipe, base, EACH)
    assert len(seen) == 3 and again["packs"] == report["packs"]
    assert "clips VA  n 36: macro-F1" in folds.summary(again)


def test_a_fold_leaves_every_so_manyth_speaker_of_each_pack_out_and_scores_them_all(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watched(monkeypatch)
    report = folds.cross_validate(Path("run"), recipe, None, Folds(2, (*CLIPS, Path("packs/faces"))))
    people = sorted(name for names in seen for name in names)
    assert {"clips/s1", "clips/s3"} <= set(seen[0]) and "clips/s2" in seen[1]
    assert len(people) == len(set(people)) and any(name.startswith("faces/") for name in seen[0])
    assert report["complete"] and report["init"] is None
    assert report["packs"]["clips"]["pooled"]["VA"]["n"] == 36
    assert report["packs"]["faces"]["pooled"].keys() == {"V"}


@pytest.mark.parametrize("count", [1, 4])
def test_as_many_folds_as_speakers_at_most(recipe: Recipe, count: int) -> None:
    with pytest.raises(ConfigError, match=f"--folds {count}: clips has 3 speakers; give 2 to 3"):
        folds.cross_validate(Path("run"), recipe, None, Folds(count, CLIPS))


def test_no_more_clips_of_a_pack_are_scored_than_the_report_says(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "MOST_CLIPS", 5)
    report = folds.cross_validate(Path("run"), recipe, None, Folds(2, CLIPS))
    assert report["most_clips"] == 5 and report["packs"]["clips"]["pooled"]["VA"]["n"] == 10


def test_a_model_with_baselines_is_also_scored_after_20_s_of_the_left_out_speaker(recipe: Recipe) -> None:
    recipe = _changed(recipe, model=recipe.model | {"baseline": True})
    report = folds.cross_validate(Path("run"), recipe, _base(recipe), Folds(2, CLIPS))
    fold = checkpoint.read_json(Path("run/fold_0.json"))["packs"]["clips"]
    assert fold["subsets_after_20_s"]["VA"]["logits"] != fold["subsets"]["VA"]["logits"]
    scores = report["packs"]["clips"]
    assert scores["pooled_after_20_s"]["VA"]["n"] == scores["pooled"]["VA"]["n"] == 36
    assert "clips after 20 s VA" in folds.summary(report)


def test_the_folds_of_a_regression_are_scored_as_values() -> None:
    targets = {"s1": [1.0, -2.0, 0.0], "s2": [3.0, -1.0, -0.5]}
    done: list[dict[str, Any]] = []
    for speaker, wanted in targets.items():
        said = {"A": [[-value] for value in wanted], "L": [[value] for value in wanted], "AL": [[1.0] for _ in wanted]}
        subsets = {subset: {"logits": logits, "unseen": 1} for subset, logits in said.items()}
        done.append({"speakers": [speaker] * 3, "targets": wanted, "subsets": subsets})
    scores = folds.pooled(done)
    assert {name: one["acc2"]["value"] for name, one in scores["pooled"].items()} == {"A": 0.0, "L": 1.0, "AL": 0.4}
    assert scores["pooled_by_speaker"]["L"]["corr"]["value"] == pytest.approx(1.0)
    assert scores["fusion"]["AL"]["gain"]["best_branch"]["value"] == pytest.approx(-0.6)
    assert scores["speakers"]["s2"]["A"] == pytest.approx({"n": 3, "mae": 3.0, "corr": -1.0})
    assert scores["unseen"] == {"A": 2, "L": 2, "AL": 2}
    lines = folds.summary({"labels": [], "packs": {"texts": scores}}).splitlines()
    assert lines[0].startswith("texts A   n 6: ") and "MAE" in lines[0]


def test_a_base_that_saw_the_speakers_is_refused(recipe: Recipe) -> None:
    train.train(train.start_run(Path("seen"), recipe, start.new_model(recipe)))
    with pytest.raises(ConfigError, match="was trained on clips"):
        folds.cross_validate(Path("run"), recipe, Path("seen/final"), EACH)


def test_what_a_model_was_trained_on_before_stays_known_and_counts(recipe: Recipe) -> None:
    train.train(train.start_run(Path("seen"), recipe, start.new_model(recipe)))
    words = _changed(recipe, train=())
    run = train.start_run(Path("later"), words, start.model_from(Path("seen/final"), words), init=Path("seen/final"))
    assert [one["train_packs"] for one in run.provenance["earlier"]] == [["clips", "faces", "texts"]]
    later = Path("later/final")
    info = checkpoint.CheckpointInfo(run.model.config.labels, run.provenance)
    checkpoint.save_checkpoint(later, run.model, Path(words.tokenizer), info)
    assert [one["train_packs"] for one in checkpoint.trainings_of(later)] == [["clips", "faces", "texts"], []]
    (Path("later") / "recipe.yaml").unlink()
    with pytest.raises(ConfigError, match="was trained on clips"):
        folds.cross_validate(Path("run"), recipe, later, EACH)


def test_a_fold_never_begins_with_a_face_network_that_saw_its_people(tmp_path: Path) -> None:
    def network(name: str, *people: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        checkpoint.write_json(tmp_path / name / "info.json", {"recipe": {}, "people": list(people)})
        return str(tmp_path / name)

    first, second = ({"javased_av_whisper": names, "nemo_whisper": ["s01"]} for names in (["01", "05"], ["05", "06"]))
    plain, films = network("plain"), network("films", "javased/01", "javased/02", "other/05")
    for vision in (None, plain):
        assert folds.face_network(vision, first) == vision
    assert folds.face_network(films, second) == films  # the 05 of another set
    with pytest.raises(ConfigError, match=r"films: was trained on faces of javased/01; make .*films_without_01_05 "):
        folds.face_network(films, first)
    apart = network("films_without_01_05", "javased/02")
    assert folds.face_network(films, first) == apart
    network("films_without_01_05", "javased/01")
    with pytest.raises(ConfigError, match="films_without_01_05: was trained on faces of javased/01"):
        folds.face_network(films, first)


def test_a_base_whose_face_network_saw_the_speakers_is_refused(
    recipe: Recipe, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "trainings_of", lambda _: [{"train_packs": ["texts"], "faces_of": ["clips/s2"]}])
    with pytest.raises(ConfigError, match="its face network was trained on clips/s2"):
        folds.cross_validate(Path("run"), recipe, base, EACH)


def test_the_command_says_that_a_stopped_fold_is_incomplete(
    recipe: Recipe, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _watched(monkeypatch, train.STOPPED)
    report = folds.cross_validate(Path("run"), recipe, base, EACH)
    code = train_main([str(TINY), "--run", "other", "--init", str(base), "--folds", "3", "--pack", "packs/clips"])
    assert seen == [("clips/s1",), ("clips/s1",)]
    assert report["complete"] is False and report["packs"] == {}
    assert code == STOPPED_CODE
