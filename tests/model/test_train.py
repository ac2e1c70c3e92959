"""Training on made-up packs: resuming, stopping, schedules, who is left out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from clcr.training import checkpoint, loso, start, train
from clcr.training.cli import STOPPED_CODE, train_main
from clcr.training.feed import Feed, hide
from clcr.training.optimisation import Average, build_optimizer, rate_factor
from clcr.training.plots import plot_curves
from clcr.training.recipe import Recipe, load_recipe
from clcr_stream.clock import VirtualClock
from clcr_stream.errors import ConfigError
from tiny_packs import SPEAKERS, write_packs

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with packs. Curves, which cost more than these trainings, are drawn by the run of `finished` alone."""
    write_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "plot_curves", lambda *_: None)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(CONFIGS / "train_tiny.yaml")


def _changed(recipe: Recipe, **values: object) -> Recipe:
    return msgspec.structs.replace(recipe, **values)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    names = ("model", "optimizer", "ema", "loss")
    return {f"{n}.{k}": v for n in names for k, v in checkpoint.read_tensors(folder / f"{n}.safetensors").items()}


@contextmanager
def _in_a_folder_of_packs(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, pytest.MonkeyPatch]]:
    """As `working_folder`, for what several tests look at."""
    folder = factory.mktemp(name)
    write_packs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder, patch


def _curves_of_two_evaluations(log: Path, image: Path) -> None:
    """As the product draws them, but not twice."""
    if log.read_text(encoding="utf-8").count('"dev"') == 2:
        plot_curves(log, image)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    recipe = load_recipe(CONFIGS / "train_tiny.yaml")
    with _in_a_folder_of_packs(tmp_path_factory, "finished") as (folder, patch):
        patch.setattr(train, "plot_curves", _curves_of_two_evaluations)
        assert train.train(train.start_run(Path("run"), recipe, start.new_model(recipe))) == train.FINISHED
    return folder / "run"


def test_stopping_and_resuming_gives_the_same_bits_as_running_through(recipe: Recipe, finished: Path) -> None:
    parts = train.start_run(Path("parts"), recipe, start.new_model(recipe))
    assert train.train(parts, until_step=2) == train.STOPPED
    assert train.train(train.resume_run(Path("parts"), recipe)) == train.FINISHED
    expected, got = _state(finished / "last"), _state(Path("parts/last"))
    assert expected.keys() == got.keys()
    assert any(name.startswith("optimizer.") for name in expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name
    logs = [Path(run, "log.jsonl").read_text(encoding="utf-8").splitlines() for run in (finished, "parts")]
    without_time = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
    assert without_time[0] == without_time[1]


def test_a_run_writes_its_recipe_origin_metrics_curves_and_checkpoints(recipe: Recipe, finished: Path) -> None:
    assert load_recipe(finished / "recipe.yaml") == recipe
    assert checkpoint.read_json(finished / "run.json")["train_packs"] == ["clips", "faces", "texts"]
    assert checkpoint.read_json(finished / "metrics.json")["dev"].keys() == {
        "clips/V",
        "clips/A",
        "clips/VA",
        "texts/L",
    }
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("best", "final"):
        assert checkpoint.load_info(finished / name).provenance["step"] in (3, 6)
    final = checkpoint.load_checkpoint(finished / "final")
    averaged = checkpoint.read_tensors(finished / "last/ema.safetensors")
    assert all(torch.equal(value, averaged[name]) for name, value in final.state_dict().items())


def test_training_learns_what_the_packs_show(recipe: Recipe) -> None:
    """Steady steps: as many words as faces and sounds, no dropout, no part slower than the others."""
    faces, _, clips, texts = (msgspec.structs.replace(use, per_step=6) for use in recipe.train)
    recipe = _changed(
        recipe,
        train=(faces, clips, texts),
        model={**recipe.model, "dropout": 0.0},
        steps=36,
        eval_every_steps=36,
        log_every_steps=9,
        empty_share=0.0,
        augment={"gain_db": 0.0},
        learning_rate=8e-3,
        learning_rates={},
        ema_decay=0.8,
    )
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    train.calibrate(run)
    train.train(run)
    records = [json.loads(line) for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [record["task"] for record in records if "task" in record]
    assert losses[-1] < 0.75 * losses[0]
    assert run.progress.best_score > 0.5  # chance is about 0.17


class _Signalling(VirtualClock):
    """A clock whose third reading sends this process a SIGTERM: a stop in the middle of a run, without waiting."""

    readings = 0

    def now_ns(self) -> int:
        self.readings += 1
        if self.readings == 4:
            signal.raise_signal(signal.SIGTERM)
        return super().now_ns()


def test_sigterm_ends_the_step_saves_the_state_and_gives_the_signal_handlers_back(recipe: Recipe) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    run.clock = _Signalling()
    assert train.train(run) == train.STOPPED
    assert signal.getsignal(signal.SIGTERM) is before
    assert 0 < checkpoint.read_json(Path("run/last/state.json"))["step"] == run.progress.step < recipe.steps
    assert train.resume_run(Path("run"), recipe).progress == run.progress


def test_a_state_is_saved_every_checkpoint_minutes(recipe: Recipe) -> None:
    class Slow(VirtualClock):
        def now_ns(self) -> int:
            self._now_ns += 40_000_000_000
            return super().now_ns()

    saved: list[int] = []
    unwatched = msgspec.structs.replace(recipe.best, of=())
    recipe = _changed(recipe, checkpoint_minutes=1.0, best=unwatched)
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    run.clock = Slow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_state", lambda run: saved.append(run.progress.step))
        train.train(run)
    assert saved == [2, 4, 6, 6]


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe: Recipe) -> None:
    train.start_run(Path("run"), recipe, start.new_model(recipe))
    with pytest.raises(ConfigError, match="--resume"):
        train.start_run(Path("run"), recipe, start.new_model(recipe))


def test_resuming_without_a_state_says_what_is_missing(recipe: Recipe) -> None:
    train.start_run(Path("run"), recipe, start.new_model(recipe))
    with pytest.raises(checkpoint.CheckpointError, match="no such file"):
        train.resume_run(Path("run"), recipe)


def test_frozen_parts_stay_and_the_rest_moves(recipe: Recipe) -> None:
    model = start.new_model(recipe)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train.train(train.start_run(Path("run"), recipe, model), until_step=2)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert not any(name.startswith("language.embeddings") for name in moved)
    for part in ("vision.", "acoustic.", "language.layers", "intercad."):
        assert any(name.startswith(part) for name in moved), part


def test_every_parameter_has_the_rate_of_its_longest_prefix_and_bases_do_not_decay(recipe: Recipe) -> None:
    recipe = _changed(recipe, learning_rates={"vision.": 1e-4, "vision.project": 5e-5}, weight_decay=0.1)
    model = start.new_model(recipe)
    groups = build_optimizer(model, recipe).param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("language.embeddings"):
            assert id(parameter) not in found
            continue
        rate, decay = found[id(parameter)]
        project = name.startswith("vision.project")
        assert rate == (5e-5 if project else 1e-4 if name.startswith("vision.") else recipe.learning_rate), name
        assert decay == (0.0 if parameter.ndim < 2 or "parametrizations" in name else 0.1), name


def test_a_prefix_that_fits_no_parameter_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"'visoin\.'; parts of the model: acoustic"):
        build_optimizer(start.new_model(recipe), _changed(recipe, freeze=("visoin.",)))


def test_the_rate_warms_up_peaks_and_falls_to_its_last_share(recipe: Recipe) -> None:
    recipe = _changed(recipe, steps=100, warmup_steps=10, final_rate=0.1)
    factors = [rate_factor(step, recipe) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_the_average_of_equal_weights_is_those_weights_and_follows_a_change(recipe: Recipe) -> None:
    model = start.new_model(recipe)
    average = Average.of(model, 0.9)
    average.update(model, 1000)
    assert torch.equal(average.weights["intercad.anchors"], model.intercad.anchors)
    before = model.intercad.anchors.detach().clone()
    with torch.no_grad():
        model.intercad.anchors.add_(1.0)
    average.update(model, 1000)
    assert torch.allclose(average.weights["intercad.anchors"], before + 0.1)


def test_sgd_as_in_the_paper_trains_and_resumes(recipe: Recipe) -> None:
    recipe = _changed(recipe, optimizer="sgd", learning_rate=1e-3, learning_rates={}, ema_decay=0.0, steps=3)
    train.train(train.start_run(Path("run"), recipe, start.new_model(recipe)), until_step=2)
    assert train.train(train.resume_run(Path("run"), recipe)) == train.FINISHED


def test_a_gradient_that_is_not_finite_stops_training_before_the_weights_change(recipe: Recipe) -> None:
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    groups = Feed(recipe, run.model.config.labels).at(0)
    before = run.model.intercad.anchors.detach().clone()
    groups[1].batch.mel.fill_(float("nan"))
    with pytest.raises(train.TrainingError, match="step 0: the gradient is not finite"):
        train.train_step(run, groups)
    assert torch.equal(before, run.model.intercad.anchors)


def test_batches_depend_on_the_step_alone_and_come_in_order(recipe: Recipe) -> None:
    feed = Feed(recipe, start.new_model(recipe).config.labels)
    with feed.prefetching(2, 8) as steps:
        made = list(steps)
    assert len(made) == 6
    for step, groups in zip(range(2, 8), made, strict=True):
        for got, expected in zip(groups, feed.at(step), strict=True):
            assert torch.equal(got.labels, expected.labels)
            assert torch.equal(got.batch.frames, expected.batch.frames)
    assert sum(group.share for group in made[0]) == pytest.approx(1.0)
    assert [len(group.labels) for group in made[0]] == [6, 6, 3]


@pytest.mark.parametrize("left_out", ["s2", "clips/s2"])
def test_a_left_out_speaker_is_never_drawn(recipe: Recipe, left_out: str) -> None:
    feed = Feed(recipe, start.new_model(recipe).config.labels, (left_out,))
    drawn = {name: set(pack.speakers.tolist()) for m in feed.mixtures.values() for name, pack in m.packs.items()}
    assert drawn["clips"] == drawn["clips+VA"] == {"s1", "s3"}
    assert ("s2" in drawn["faces"]) == ("/" in left_out)


def test_leaving_out_an_unknown_speaker_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"--leave-out s9: no such speaker; the packs have clips/s1"):
        Feed(recipe, start.new_model(recipe).config.labels, ("s9",))


def test_hidden_samples_get_the_answer_of_an_empty_input_and_the_others_keep_theirs(recipe: Recipe) -> None:
    model = start.new_model(recipe).eval()
    batch = Feed(_changed(recipe, empty_share=0.0), model.config.labels).at(0)[1].batch
    rows = torch.tensor([True, False, True, False, False, False])
    hidden = hide(batch, rows)
    assert len(hidden.frames) == int(hidden.vision_valid.sum())
    with torch.no_grad():
        plain, masked = model(batch).logits, model(hidden).logits
    assert torch.allclose(masked[0], masked[2])
    assert torch.allclose(masked[~rows], plain[~rows], atol=1e-5)
    assert not torch.allclose(masked[0], plain[0], atol=1e-3)


def test_the_log_mel_normalisation_is_that_of_the_training_sounds(recipe: Recipe) -> None:
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    before = run.model.acoustic.get_buffer("mel_mean").clone()
    train.calibrate(run)
    assert not torch.equal(before, run.model.acoustic.get_buffer("mel_mean"))
    groups = Feed(recipe, run.model.config.labels).at(recipe.steps)
    mel = groups[1].batch.mel[groups[1].batch.acoustic_valid.bool().repeat_interleave(4, 1)]
    normal = (mel - run.model.acoustic.get_buffer("mel_mean")) / run.model.acoustic.get_buffer("mel_std")
    assert abs(float(normal.mean())) < 0.5
    assert 0.5 < float(normal.std()) < 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz: 3", "unknown field `stepz`"),
        ("steps: many", "Expected `int`"),
        ("steps: 0", "steps, eval_every_steps"),
        ("best: {of: [clips/L]}", "best.of 'clips/L' is not watched; allowed: clips/A"),
        ("train: []", "train needs at least one pack"),
        ("dev: [{pack: packs/clips, subsets: [AV]}]", "dev subset 'AV'"),
    ],
)
def test_a_wrong_recipe_is_refused_with_one_line(recipe: Recipe, change: str, message: str) -> None:
    path = Path("wrong.yaml")
    kept = (CONFIGS / "train_tiny.yaml").read_text(encoding="utf-8")
    key = change.partition(":")[0]
    lines, skipping = [], False
    for line in kept.splitlines():
        skipping = line.startswith(f"{key}:") or (skipping and line.startswith(" "))
        lines += [] if skipping else [line]
    path.write_text("\n".join([*lines, change]), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train_base.yaml", "train_films.yaml", "train_tiny.yaml", "train_voices.yaml"])
def test_every_shipped_recipe_is_valid(name: str) -> None:
    load_recipe(CONFIGS / name)


def test_the_command_trains_stops_with_its_code_and_reports_errors_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(CONFIGS / "train_tiny.yaml")
    assert train_main([config, "--run", "run", "--steps", "3"]) == 0
    assert "finished at step 3" in capsys.readouterr().out
    assert train_main([config, "--run", "tuned", "--init", "run/final", "--steps", "1"]) == 0
    assert train_main([config, "--run", "run"]) == ConfigError.exit_code
    assert train_main([config, "--run", "other", "--init", "nowhere"]) == checkpoint.CheckpointError.exit_code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clcr-train: ")]
    assert len(lines) == 2
    assert "no such file" in lines[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never saw the speakers of packs/clips."""
    with _in_a_folder_of_packs(tmp_path_factory, "base") as (folder, patch):
        patch.setattr(train, "plot_curves", lambda *_: None)
        return folder / _base(load_recipe(CONFIGS / "train_tiny.yaml"))


def _base(recipe: Recipe) -> Path:
    uses = tuple(use for use in recipe.train if use.pack != "packs/clips")
    dev = tuple(use for use in recipe.dev if use.pack != "packs/clips")
    recipe = _changed(recipe, train=uses, dev=dev, steps=1, best=msgspec.structs.replace(recipe.best, of=("texts/L",)))
    train.train(train.start_run(Path("base"), recipe, start.new_model(recipe)))
    return Path("base/final")


def test_leaving_one_speaker_out_scores_every_speaker_once_and_skips_finished_folds(recipe: Recipe, base: Path) -> None:
    recipe = _changed(recipe, steps=2)
    report = loso.leave_one_speaker_out(Path("loso"), recipe, base, (Path("packs/clips"),))
    assert report["complete"]
    assert tuple(report["folds"]) == SPEAKERS
    folds = [checkpoint.read_json(Path("loso", f"speaker_{speaker}.json")) for speaker in SPEAKERS]
    assert sorted(name for fold in folds for name in fold["ids"]) == sorted({n for f in folds for n in f["ids"]})
    assert report["pooled"]["VA"]["n"] == 36  # all clips with video and sound
    assert {"V", "A", "VA"} == report["pooled"].keys() == report["folds"]["s1"].keys()
    pooled = np.concatenate([np.argmax(fold["subsets"]["VA"]["logits"], 1) == fold["targets"] for fold in folds])
    assert report["pooled"]["VA"]["accuracy"]["value"] == pytest.approx(pooled.mean())
    stamps = [Path("loso", f"speaker_{speaker}.json").stat().st_mtime_ns for speaker in SPEAKERS]
    again = loso.leave_one_speaker_out(Path("loso"), recipe, base, (Path("packs/clips"),))
    assert again["pooled"] == report["pooled"]
    assert stamps == [Path("loso", f"speaker_{speaker}.json").stat().st_mtime_ns for speaker in SPEAKERS]
    assert "pooled VA" in loso.summary(again)


def test_a_fold_leaves_several_speakers_out_and_begins_where_the_recipe_does(recipe: Recipe) -> None:
    recipe = _changed(recipe, steps=1)
    seen: list[tuple[str, ...]] = []

    def watched(run: train.Run) -> str:
        seen.append(run.leave_out)
        return train.train(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loso, "train", watched)
        report = loso.leave_one_speaker_out(Path("loso"), recipe, None, (Path("packs/clips"),), 2)
    assert seen == [("clips/s1", "clips/s3"), ("clips/s2",)]
    assert report["complete"] and report["init"] is None and report["pooled"]["VA"]["n"] == 36
    with pytest.raises(ConfigError, match="--speakers-per-fold 3: clips has 3, so 1 to one less"):
        loso.leave_one_speaker_out(Path("loso"), recipe, None, (Path("packs/clips"),), 3)


def test_a_model_with_baselines_is_also_scored_after_20_s_of_the_left_out_speaker(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loso, "pack_speakers", lambda *_: SPEAKERS[:1])  # one fold: the test above runs them all
    recipe = _changed(recipe, steps=2, model=recipe.model | {"baseline": True})
    report = loso.leave_one_speaker_out(Path("loso"), recipe, _base(recipe), (Path("packs/clips"),))
    fold = checkpoint.read_json(Path("loso", f"speaker_{SPEAKERS[0]}.json"))
    assert fold["after_20_s"]["VA"]["logits"] != fold["subsets"]["VA"]["logits"]
    assert report["pooled_after_20_s"]["VA"]["n"] == report["pooled"]["VA"]["n"]
    assert "after 20 s VA" in loso.summary(report)


def test_the_folds_of_a_regression_are_scored_as_values(tmp_path: Path) -> None:
    targets = {"s1": [1.0, -2.0, 0.0], "s2": [3.0, -1.0, -0.5]}
    for speaker, wanted in targets.items():
        outputs = {
            "A": [[-value] for value in wanted],
            "L": [[value] for value in wanted],
            "AL": [[1.0] for _ in wanted],
        }
        subsets = {subset: {"logits": said, "unseen": 0, "mae": 0.5} for subset, said in outputs.items()}
        fold = {"speaker": speaker, "targets": wanted, "subsets": subsets, "seconds": 1.0}
        checkpoint.write_json(tmp_path / f"speaker_{speaker}.json", fold)
    report = loso.pooled(tmp_path, ("s1", "s2"), None)
    assert {name: scores["acc2"]["value"] for name, scores in report["pooled"].items()} == {
        "A": 0.0,
        "L": 1.0,
        "AL": 0.4,
    }
    assert report["pooled_by_speaker"]["L"]["corr"]["value"] == pytest.approx(1.0)
    assert report["fusion"]["AL"]["gain"]["best_branch"]["value"] == pytest.approx(-0.6)
    lines = loso.summary(report).splitlines()
    assert lines[0].split() == ["speaker", "A", "MAE", "L", "MAE", "AL", "MAE"]


def test_leaving_one_out_refuses_a_base_that_saw_the_speakers(recipe: Recipe, finished: Path) -> None:
    with pytest.raises(ConfigError, match="was trained on clips"):
        loso.leave_one_speaker_out(Path("loso"), recipe, finished / "final", (Path("packs/clips"),))


def test_a_fold_never_begins_with_a_face_network_that_saw_its_people(tmp_path: Path) -> None:
    def network(name: str, *people: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        checkpoint.write_json(tmp_path / name / "info.json", {"recipe": {}, "people": list(people)})
        return str(tmp_path / name)

    plain, films = network("plain"), network("films", "javased/01", "javased/02", "other/05")
    for vision in (None, plain):
        assert loso.face_network(vision, "javased_av_whisper", ("01", "05")) == vision
    assert loso.face_network(films, "javased_av_whisper", ("05", "06")) == films  # the 05 of another set
    with pytest.raises(ConfigError, match="films: was trained on faces of 01; make .*films_without_01_05 without"):
        loso.face_network(films, "javased_av_whisper", ("01", "05"))
    apart = network("films_without_01_05", "javased/02")
    assert loso.face_network(films, "javased_av_whisper", ("01", "05")) == apart
    network("films_without_01_05", "javased/01")
    with pytest.raises(ConfigError, match="films_without_01_05: was trained on faces of 01"):
        loso.face_network(films, "javased_av_whisper", ("01", "05"))


def test_folds_refuse_a_base_whose_face_network_saw_the_speakers(recipe: Recipe, base: Path) -> None:
    seen = {"train_packs": ["texts"], "faces_of": ["clips/s2"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "trainings_of", lambda _: [seen])
        with pytest.raises(ConfigError, match="its face network was trained on s2"):
            loso.leave_one_speaker_out(Path("loso"), recipe, base, (Path("packs/clips"),))


def test_what_a_model_was_trained_on_before_stays_known_and_counts(recipe: Recipe, finished: Path) -> None:
    words = _changed(recipe, train=())
    run = train.start_run(Path("later"), words, start.model_from(finished / "final", words), init=finished / "final")
    assert [one["train_packs"] for one in run.provenance["earlier"]] == [["clips", "faces", "texts"]]
    later = Path("later/final")
    info = checkpoint.CheckpointInfo(run.model.config.labels, run.provenance)
    checkpoint.save_checkpoint(later, run.model, Path(words.tokenizer), info)
    assert [one["train_packs"] for one in checkpoint.trainings_of(later)] == [["clips", "faces", "texts"], []]
    (Path("later") / "recipe.yaml").unlink()
    with pytest.raises(ConfigError, match="was trained on clips"):
        loso.leave_one_speaker_out(Path("loso"), recipe, later, (Path("packs/clips"),))


def test_a_fold_trains_without_its_speaker_and_the_stopped_one_reports_incomplete(recipe: Recipe, base: Path) -> None:
    seen: list[tuple[str, ...]] = []

    def stop(run: train.Run, until_step: int | None = None) -> str:
        seen.append(run.leave_out)
        return train.STOPPED

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loso, "train", stop)
        report = loso.leave_one_speaker_out(Path("loso"), recipe, base, (Path("packs/clips"),))
        code = train_main(
            [
                *(str(CONFIGS / "train_tiny.yaml"), "--run", "loso2", "--init", str(base)),
                *("--leave-one-speaker-out", "--pack", "packs/clips"),
            ]
        )
    assert seen == [("clips/s1",), ("clips/s1",)]
    assert report["complete"] is False
    assert code == STOPPED_CODE


def test_renewed_parameters_start_fresh_and_the_others_are_carried_over(recipe: Recipe, tmp_path: Path) -> None:
    model = start.new_model(recipe)
    with torch.no_grad():
        for parameter in model.intercad.parameters():
            parameter.fill_(7.0)
    info = checkpoint.CheckpointInfo(model.config.labels)
    checkpoint.save_checkpoint(tmp_path / "old", model, Path(recipe.tokenizer), info)
    renewed = start.model_from(tmp_path / "old", _changed(recipe, renew=("intercad.level_score.",)))
    level_score: Any = renewed.intercad.level_score[0]
    assert not torch.eq(level_score.weight, 7.0).any()
    assert torch.eq(renewed.intercad.anchors, 7.0).all()
    with pytest.raises(ConfigError, match="renew names no parameter: levle"):
        start.model_from(tmp_path / "old", _changed(recipe, renew=("levle",)))
