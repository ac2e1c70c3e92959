"""Training on made-up packs: resuming, stopping, schedules, who is left out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from clcr.training import checkpoint, start, train
from clcr.training.cli import train_main
from clcr.training.feed import Feed, hide
from clcr.training.optimisation import Average, build_optimizer, rate_factor
from clcr.training.plots import plot_curves
from clcr.training.recipe import Recipe, load_recipe
from clcr_stream.clock import VirtualClock
from clcr_stream.errors import ConfigError
from tiny_packs import write_packs

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
