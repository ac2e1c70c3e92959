"""Evaluation by subset of modalities on made-up packs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from clcr.network.model import CLCR
from clcr.training import calibration, checkpoint, metrics, report, start
from clcr.training.cli import eval_main
from clcr.training.data.cache import Pack
from clcr.training.data.films import HeldPack
from clcr.training.evaluate import Predictions, empty_batch, evaluate_subset
from clcr.training.feed import Selected, possible_subsets, restrict, speakers_pack
from clcr.training.recipe import SUBSETS, load_recipe
from clcr.training.report import Request
from clcr_stream.errors import ConfigError
from tiny_packs import write_packs

CONFIGS = Path(__file__).parents[2] / "configs"
CLIPS, TEXTS, FACES = Path("packs/clips"), Path("packs/texts"), Path("packs/faces")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model() -> CLCR:
    made = start.new_model(load_recipe(CONFIGS / "train_tiny.yaml")).eval()
    info = checkpoint.CheckpointInfo(made.config.labels)
    checkpoint.save_checkpoint(Path("kept"), made, Path("packs/tokenizer.json"), info)
    return made


def test_only_subsets_that_were_recorded_are_scored() -> None:
    assert possible_subsets(Pack(CLIPS, "train")) == ("V", "A", "VA")
    assert possible_subsets(Pack(TEXTS, "train")) == ("L",)


def test_a_restriction_keeps_exactly_the_clips_with_those_modalities() -> None:
    pack = Pack(CLIPS, "train")
    both = restrict(pack, "VA")
    assert 0 < len(both) < len(pack)
    assert all(name.startswith("clip") for name in both.ids)
    with pytest.raises(ConfigError, match="no clip was recorded with VAL"):
        restrict(pack, "VAL")


def test_predictions_keep_the_packs_order_and_do_not_depend_on_the_batch_size(model: CLCR) -> None:
    pack = restrict(Pack(CLIPS, "train"), "VA")
    ones, sevens = (evaluate_subset(model, pack, "VA", size) for size in (1, 7))
    assert np.allclose(ones.logits, sevens.logits, atol=1e-5)
    backwards = Selected("clips", [(pack, np.arange(len(pack))[::-1])])
    assert np.allclose(evaluate_subset(model, backwards, "VA", 7).logits[::-1], sevens.logits, atol=1e-5)
    assert sevens.ids == tuple(pack.ids)
    assert (sevens.targets == pack.targets).all()


def test_a_subset_shows_nothing_of_the_other_modalities(model: CLCR) -> None:
    pack = restrict(Pack(CLIPS, "train"), "VA")
    only = evaluate_subset(model, pack, "V")
    both = evaluate_subset(model, pack, "VA")
    assert only.exchange["participation"][0].keys() == {"vision"}
    assert both.exchange["participation"][0].keys() == {"vision", "acoustic"}
    assert only.exchange["beta"]["vision"] == pytest.approx(1.0)
    assert sum(both.exchange["beta"].values()) == pytest.approx(1.0)
    assert not np.allclose(only.logits, both.logits)


def test_a_clip_in_which_nothing_was_found_is_scored_with_the_prior(model: CLCR) -> None:
    pack = Pack(CLIPS, "train")
    predicted = evaluate_subset(model, pack, "V")
    lost = np.array([name.startswith("sound") for name in pack.ids])
    assert predicted.unseen == lost.sum() > 0
    with torch.no_grad():
        prior = model(empty_batch(model)).logits.double().numpy()
    assert np.allclose(predicted.logits[lost], prior)
    assert len(predicted.targets) == len(pack)


def test_the_exchange_statistics_are_shares_and_weights(model: CLCR) -> None:
    exchange = evaluate_subset(model, restrict(Pack(CLIPS, "train"), "VA"), "VA").exchange
    assert len(exchange["participation"]) == len(exchange["mass"]) == 3
    for active, mass in zip(exchange["participation"], exchange["mass"], strict=True):
        for modality in active:
            assert 0 < mass[modality] <= active[modality] <= 1
    assert sum(exchange["omega"]) == pytest.approx(1.0)
    assert all(0 < value < 1 for value in exchange["eta"].values())


def test_participation_follows_from_alpha_by_its_definition(model: CLCR) -> None:
    from clcr.training.data.mixture import evaluation_batches

    pack = restrict(Pack(CLIPS, "dev"), "VA")
    batch, _, _ = next(evaluation_batches(pack, len(pack), ("vision", "acoustic")))
    with torch.no_grad():
        level = model(batch).levels[1]
    alpha, valid = level.alpha["acoustic"], level.valid["acoustic"]
    expected = float(((alpha > 0) & (valid > 0)).sum() / valid.sum())
    exchange = evaluate_subset(model, pack, "VA").exchange
    assert exchange["participation"][1]["acoustic"] == pytest.approx(expected)
    assert exchange["mass"][1]["acoustic"] == pytest.approx(float((alpha * valid).sum() / valid.sum()))


def test_speakers_are_joined_over_splits() -> None:
    pack = speakers_pack(CLIPS, ("train", "dev"), ("s2",), load_labels())
    assert set(pack.speakers) == {"s2"}
    assert len(pack) == 18
    with pytest.raises(ConfigError, match="nothing by s9; its speakers: s1, s2, s3"):
        speakers_pack(CLIPS, ("train", "dev"), ("s9",), load_labels())


def load_labels() -> tuple[str, ...]:
    return start.new_model(load_recipe(CONFIGS / "train_tiny.yaml")).config.labels


def test_the_report_names_every_pack_and_subset_with_intervals(model: CLCR) -> None:
    results = report.evaluate(Path("kept"), model, Request((CLIPS, TEXTS), "train", by_speaker=True), Path("plots"))
    assert results["packs"].keys() == {"clips/V", "clips/A", "clips/VA", "texts/L"}
    for scores in results["packs"].values():
        for name in ("accuracy", "macro_f1", "ece"):
            assert scores[name]["low"] - 1e-9 <= scores[name]["value"] <= scores[name]["high"] + 1e-9  # rounding
        assert np.sum(scores["confusion"]) == scores["n"]
        assert scores["interval"]["unit"] == "group"
    assert Path("plots/clips/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert Path("plots/texts/reliability.png").exists()
    text = report.table(results["packs"])
    assert len(text.splitlines()) == 5
    assert f"{results['packs']['clips/VA']['macro_f1']['value']:.3f}" in text


def test_temperatures_are_stored_by_subset_and_people_they_were_fitted_on_have_those_of_others(model: CLCR) -> None:
    message = report.calibrate_checkpoint(Path("kept"), model, Request((CLIPS,), "train", pairs=12))
    fitted = checkpoint.load_checkpoint(Path("kept"))
    by_subset = fitted.temperature.by_subset()
    assert all(f"{subset} {by_subset[subset]:.3f} (n" in message for subset in ("V", "A", "VA"))
    assert all(by_subset[subset] != 1.0 for subset in ("V", "A", "VA"))
    assert by_subset["L"] == by_subset["VAL"] == by_subset[""] == 1.0
    origin = checkpoint.load_info(Path("kept")).provenance["temperature"]
    assert origin["fitted_on"] == ["clips:train", "pairs:train"]
    origin["values"]["VA"] |= {"first_half": 2.0, "second_half": 3.0}
    checkpoint.store_temperatures(Path("kept"), fitted.temperature, origin)
    there = report.evaluate(Path("kept"), fitted, Request((CLIPS,), "train"))["packs"]["clips/VA"]
    elsewhere = report.evaluate(Path("kept"), fitted, Request((CLIPS,), "dev"))["packs"]["clips/VA"]
    assert 2.0 <= there["temperature"] <= 3.0 < by_subset["VA"]
    assert elsewhere["temperature"] == pytest.approx(by_subset["VA"])


def predicted(rng: np.random.Generator, stretch: Mapping[str, float], clips: int = 400) -> Predictions:
    """Answers of a model that is too sure of each speaker by that factor."""
    speakers = np.repeat(list(stretch), clips)
    logits = rng.normal(size=(len(speakers), 3)) * 2
    labels = np.array([rng.choice(3, p=row) for row in metrics.softmax(logits)])
    logits = logits * np.array([stretch[speaker] for speaker in speakers])[:, None]
    ids = tuple(f"{row}" for row in range(len(speakers)))
    return Predictions(logits, labels, ids, tuple(speakers.tolist()), 0, {}, np.ones((len(speakers), 1)))


def test_nobody_is_judged_with_a_temperature_fitted_on_themselves() -> None:
    speakers = [str(number) for number in range(8)]
    first = calibration.in_first_half(predicted(np.random.default_rng(1), dict.fromkeys(speakers, 1.0), 1))
    assert 0 < first.sum() < 8
    stretch = {speaker: 2.0 if early else 4.0 for speaker, early in zip(speakers, first, strict=True)}
    answers = predicted(np.random.default_rng(2), stretch)
    fitted = calibration.fit({"voices": answers})
    assert (fitted.first_half, fitted.second_half) == pytest.approx((4.0, 2.0), rel=0.1)
    assert fitted.first_half > fitted.value > fitted.second_half
    judged = fitted.judged(answers).temperature[::400, 0]
    assert judged == pytest.approx(np.where(first, fitted.first_half, fitted.second_half))


def test_a_large_set_counts_no_more_than_500_clips_and_one_person_has_no_other_half() -> None:
    rng = np.random.default_rng(3)
    sets = {"large": predicted(rng, {"a": 1.0}, 5000), "small": predicted(rng, {"b": 3.0}, 500)}
    alike = {"large": predicted(rng, {"a": 1.0}, 500), "small": sets["small"]}
    assert calibration.fit(sets).value == pytest.approx(calibration.fit(alike).value, rel=0.1)
    assert calibration.fit(sets).value > 1.3
    alone = calibration.fit({"small": sets["small"]})
    assert alone.value == pytest.approx(3.0, rel=0.15)
    assert alone.first_half == alone.second_half == alone.value


def test_few_clips_make_an_ece_even_where_the_model_is_calibrated() -> None:
    rng = np.random.default_rng(4)
    probs = metrics.softmax(rng.normal(size=(20_000, 6)))
    labels = np.array([rng.choice(6, p=row) for row in probs])
    assert metrics.ece_by_chance(probs) < 0.02
    measured = [
        metrics.expected_calibration_error(probs[start : start + 50], labels[start : start + 50])
        for start in range(0, 20_000, 50)
    ]
    assert metrics.ece_by_chance(probs[:50]) == pytest.approx(np.mean(measured), abs=0.03)
    assert metrics.ece_by_chance(probs[:50]) > 0.08


def test_the_command_writes_json_prints_a_table_and_refuses_unknown_subsets(
    model: CLCR, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["kept", "--pack", "packs/clips", "--split", "train", "--having", "VA"]
    assert eval_main([*arguments, "--subsets", "V,VA", "--json", "out/scores.json"]) == 0
    assert "clips/VA" in capsys.readouterr().out
    written = json.loads(Path("out/scores.json").read_text(encoding="utf-8"))
    assert written["packs"].keys() == {"clips/V", "clips/VA"}
    assert written["packs"]["clips/V"]["n"] == written["packs"]["clips/VA"]["n"]
    assert eval_main([*arguments, "--subsets", "AV"]) == ConfigError.exit_code
    assert eval_main(["kept", "--pack", "packs/nothing"]) == ConfigError.exit_code
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "clcr-eval: subset 'AV'; allowed: all, or a list of V, A, L, VA, VL, AL, VAL"
    assert "no prepared pack" in errors[1]


@pytest.fixture
def nothing(working_folder: Path) -> Path:
    """A pack of what shows nothing: the faces and sounds of the made-up packs under that label."""
    folder = working_folder / "packs" / "none"
    shutil.copytree(working_folder / CLIPS, folder)
    with np.load(folder / "items.npz") as archive:
        items = {name: archive[name] for name in archive.files}
    items["label"] = np.array(["nothing"] * len(items["id"]))
    arrays: dict[str, Any] = items
    np.savez(folder / "items.npz", **arrays)
    return folder


def test_pairs_are_scored_beside_their_branches_and_with_a_corrupted_modality(
    model: CLCR, nothing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = ["packs/faces", "packs/clips", "packs/texts"]
    arguments = ["kept", "--pack", *packs, "--split", "train", "--nothing", str(nothing)]
    assert eval_main([*arguments, "--pairs", "12", "--json", "pairs.json"]) == 0
    printed = capsys.readouterr().out
    written = json.loads(Path("pairs.json").read_text(encoding="utf-8"))
    assert {f"pairs/{subset}" for subset in SUBSETS} == written["packs"].keys()
    assert {written["packs"][f"pairs/{subset}"]["n"] for subset in SUBSETS} == {12}
    beside = written["fusion"]["pairs"]
    assert beside.keys() == {"VA", "VL", "AL", "VAL"}
    for subset, scores in beside.items():
        best = max(written["packs"][f"pairs/{letter}"]["macro_f1"]["value"] for letter in subset)
        assert scores["best_branch"] == pytest.approx(best)
        assert scores["fusion"] == pytest.approx(written["packs"][f"pairs/{subset}"]["macro_f1"]["value"])
        for name, gain in scores["gain"].items():
            assert gain["value"] == pytest.approx(scores["fusion"] - scores[name])
            assert gain["low"] <= gain["value"] + 1e-9 and gain["value"] <= gain["high"] + 1e-9
    corrupted = written["fusion"]["corrupted"]
    assert {name for name in corrupted if name.endswith("A")} == {"VA without A", "AL without A", "VAL without A"}
    assert not [name for name in corrupted if name.endswith("without L")]  # nothing shows no words
    assert corrupted["VA without A"]["absent"] == pytest.approx(written["packs"]["pairs/V"]["macro_f1"]["value"])
    assert all(0 <= value <= 1 for scores in corrupted.values() for value in (*scores["beta"], *scores["eta"]))
    assert "pairs VAL" in printed and "VAL without V" in printed


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nothing", "packs/clips"],
        ["--pairs", "-3"],
        ["--pairs", "6", "--having", "VA"],
        ["--hold", "-1"],
        ["--hold", "nan"],
    ],
)
def test_flags_of_pairs_that_make_no_sense_are_one_line(
    model: CLCR, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert eval_main(["kept", "--pack", "packs/clips", *wrong]) == ConfigError.exit_code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_photograph_held_for_seconds_is_scored_as_the_film_it_is(model: CLCR) -> None:
    films = report.evaluate(Path("kept"), model, Request((FACES,), "train", hold_s=0.4))
    held = evaluate_subset(model, HeldPack(Pack(FACES, "train"), 6), "V")
    assert films["hold_s"] == 0.4
    assert films["packs"]["faces/V"]["macro_f1"]["value"] == pytest.approx(held.brief()["macro_f1"])
    once = evaluate_subset(model, Pack(FACES, "train"), "V")
    assert np.abs(held.logits - once.logits).max() > 1e-3


def test_a_regression_is_reported_by_its_values_and_against_its_branches() -> None:
    clips = Path("values/clips")
    shutil.copytree(CLIPS, clips)
    with np.load(clips / "items.npz") as archive:
        items = {name: archive[name] for name in archive.files}
    items["label"] = np.array([f"{number % 7 - 3}" for number in range(len(items["label"]))])
    np.savez(clips / "items.npz", **items)
    recipe = load_recipe(CONFIGS / "train_tiny.yaml")
    made = start.new_model(msgspec.structs.replace(recipe, model={**recipe.model, "task": "regression"})).eval()
    checkpoint.save_checkpoint(Path("kept"), made, Path("packs/tokenizer.json"), checkpoint.CheckpointInfo(()))
    results = report.evaluate(Path("kept"), made, Request((clips,), "train"), Path("plots"))
    assert results["labels"] == [] and not Path("plots").exists()
    assert {"acc2", "acc7", "mae", "corr"} <= results["packs"]["clips/VA"].keys()
    assert set(results["fusion"]["clips"]["VA"]["gain"]) == {"best_branch", "average"}
    head, *rows = report.table(results["packs"]).splitlines()
    assert head.split()[4:8] == ["Acc-2", "Acc-7", "MAE", "Corr"] and len(rows) == 3
    with pytest.raises(ConfigError, match="a regression model has no temperature"):
        report.calibrate_checkpoint(Path("kept"), made, Request((clips,), "train"))
