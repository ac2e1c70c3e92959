"""What frozen encoders make of packs, stored: the same answers, encoded once, anew when anything changes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from clcr.training import start, train
from clcr.training.data.cache import Pack
from clcr.training.evaluate import evaluate_subset
from clcr.training.recipe import Acoustic, Recipe, load_recipe
from clcr.training.stored import ENCODERS, StoredPacks
from clcr_stream.errors import ConfigError
from tiny_packs import WHISPER, write_speech_packs
from whisper_file import WIDTHS

CONFIGS = Path(__file__).parents[2] / "configs"
CLIPS = Path("packs/clips")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_speech_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "plot_curves", lambda *_: None)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    plain = load_recipe(CONFIGS / "train_tiny.yaml")
    return msgspec.structs.replace(
        plain,
        model=plain.model | WHISPER,
        acoustic=Acoustic(folder="whisper"),
        learning_rates={},
        freeze=("language.embeddings", *ENCODERS),
        freeze_statistics=True,
        stored_versions=2,
    )


def _written(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.glob("packs/*.stored/*/*/*.npy"))}


@pytest.mark.parametrize("subset", ["V", "A", "VA"])
def test_a_stored_pack_gets_the_answers_of_the_pack_itself(recipe: Recipe, subset: str) -> None:
    model = start.new_model(recipe)
    labels = model.config.labels
    plain = evaluate_subset(model, Pack(CLIPS, "dev", labels), subset)
    stored = evaluate_subset(model, StoredPacks(model, recipe, 0)(CLIPS, "dev", labels), subset)
    assert stored.ids == plain.ids and stored.unseen == plain.unseen
    np.testing.assert_allclose(stored.logits, plain.logits, atol=2e-2 * np.abs(plain.logits).max())


def test_a_run_on_stored_versions_trains_watches_and_encodes_nothing_twice(
    recipe: Recipe, working_folder: Path
) -> None:
    first = train.start_run(Path("run"), recipe, start.new_model(recipe))
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    assert train.train(first) == train.FINISHED
    after = first.model.state_dict()
    assert not torch.equal(after["project.acoustic.0.weight"], before["project.acoustic.0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith(ENCODERS))
    written = _written(working_folder)
    assert sum("clips.stored/train" in name for name in written) == 2 * 3  # faces and sounds of versions 0, 1, 2
    assert train.train(train.start_run(Path("again"), recipe, start.new_model(recipe))) == train.FINISHED
    assert _written(working_folder) == written


def test_other_encoder_weights_or_changes_are_encoded_anew(recipe: Recipe, working_folder: Path) -> None:
    model = start.new_model(recipe)
    StoredPacks(model, recipe, 0)(CLIPS, "dev", model.config.labels)
    count = len(_written(working_folder))
    with torch.no_grad():
        next(model.vision.parameters()).add_(0.1)
    StoredPacks(model, recipe, 0)(CLIPS, "dev", model.config.labels)
    assert len(_written(working_folder)) == 2 * count
    gentler = msgspec.structs.replace(recipe, augment={"gain_db": 1.0})
    StoredPacks(model, gentler, 0)(CLIPS, "dev", model.config.labels)
    assert len(_written(working_folder)) == 3 * count


def test_faces_outlive_another_encoder_of_sound(recipe: Recipe, working_folder: Path) -> None:
    model = start.new_model(recipe)
    StoredPacks(model, recipe, 0)(Path("packs/faces"), "train", model.config.labels)
    written = _written(working_folder)
    with torch.no_grad():
        next(model.acoustic.parameters()).add_(0.1)
    StoredPacks(model, recipe, 0)(Path("packs/faces"), "train", model.config.labels)
    assert written and _written(working_folder) == written


def test_a_zero_s_sign_is_no_change(recipe: Recipe, working_folder: Path) -> None:
    model = start.new_model(recipe)
    weight = next(model.vision.parameters())
    with torch.no_grad():
        weight.view(-1)[0] = -0.0
    StoredPacks(model, recipe, 0)(CLIPS, "dev", model.config.labels)
    written = _written(working_folder)
    with torch.no_grad():
        weight.view(-1)[0] = 0.0  # as an average of the weights has it
    StoredPacks(model, recipe, 0)(CLIPS, "dev", model.config.labels)
    assert _written(working_folder) == written


def test_training_draws_the_changed_versions_and_evaluation_the_clip_itself(recipe: Recipe) -> None:
    model = start.new_model(recipe)
    pack = StoredPacks(model, recipe, 2)(CLIPS, "train", model.config.labels)
    clip = pack.clip(0)
    assert clip.sound is not None and clip.sound.shape[1:] == (3, WIDTHS.width)
    rng = np.random.default_rng(0)
    drawn = [pack.version(0, rng).sound for _ in range(20)]
    sums = {float(np.abs(sound.astype(np.float32)).sum()) for sound in drawn if sound is not None}
    assert len(sums) == 2 and float(np.abs(clip.sound.astype(np.float32)).sum()) not in sums


@pytest.mark.parametrize("lacking", ENCODERS)
def test_encoders_that_still_learn_are_refused(recipe: Recipe, lacking: str) -> None:
    kept = tuple(part for part in recipe.freeze if part != lacking)
    with pytest.raises(ConfigError, match="needs frozen encoders"):
        StoredPacks(start.new_model(recipe), msgspec.structs.replace(recipe, freeze=kept), 1)
    with pytest.raises(ConfigError, match="freeze_statistics"):
        StoredPacks(start.new_model(recipe), msgspec.structs.replace(recipe, freeze_statistics=False), 1)
