"""The face network: what it reads of a face, how it is trained for itself, and how CLCR begins with it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from clcr.network.config import EMOTIONS, ModelConfig
from clcr.network.encoders import GridResNet
from clcr.training import checkpoint, faces, start, train
from clcr.training.cli import STOPPED_CODE, train_main
from clcr.training.data.face_augment import FaceAugment
from clcr.training.data.face_sets import load_face_set, save_face_set
from clcr.training.recipe import Recipe, load_recipe
from clcr_stream.errors import ConfigError
from close import assert_close
from part_runs import check_that_resuming_goes_on
from tiny_packs import write_packs

CONFIGS = Path(__file__).parents[2] / "configs"


def network() -> GridResNet:
    torch.manual_seed(1)
    return GridResNet((4, 6, 8, 8), 16, 0.0).eval()


def pictures(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(2)) * 200.0


def test_grey_pictures_give_the_same_as_their_luminance_in_colour() -> None:
    frames = pictures()
    luminance = (frames * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    grey = luminance.expand(-1, 3, -1, -1)
    assert_close(network()(frames), network()(grey), atol=1e-4, rtol=1e-4)


def test_light_and_contrast_change_nothing() -> None:
    frames = pictures()
    assert_close(network()(frames), network()(frames * 0.5 + 60.0), atol=2e-2, rtol=2e-2)


def test_a_flat_picture_gives_finite_features() -> None:
    assert torch.isfinite(network()(torch.full((1, 3, 112, 112), 30.0))).all()


@torch.no_grad()
def test_the_same_parts_at_other_places_are_told_apart_better_than_by_a_mean_over_the_picture() -> None:
    frames = torch.full((2, 3, 112, 112), 100.0)
    frames[0, :, 10:30, 10:30] = 220.0
    frames[1, :, 80:100, 80:100] = 220.0
    grid, mean = network(), network()
    cells = mean.project.weight.view(16, 8, 9)
    mean.project.weight.copy_(cells.mean(2, keepdim=True).expand_as(cells).reshape(16, 72))
    apart = [float((first - second).norm()) for first, second in (grid(frames), mean(frames))]
    assert apart[0] > 2.0 * apart[1]


def test_a_face_costs_what_the_configuration_s_comment_says() -> None:
    net = GridResNet((24, 32, 64, 128), 128, 0.0)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 112, 112))
    assert 30e6 < counter.get_total_flops() / 2 < 40e6


@pytest.mark.parametrize("channels", [(16, 24, 48, 96, 128), (8, 8)])
def test_a_grid_front_end_with_another_number_of_channels_is_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="grid has four"):
        ModelConfig(vision_front_end="grid", vision_channels=channels)


# Faces of a camera out of faces of the web


def test_without_any_change_a_face_is_only_scaled() -> None:
    nothing = FaceAugment(
        flip_p=0, shift=0, zoom=0, stretch=0, rotate_deg=0, gain=0, gamma=0, slope=0,
        coarse_p=0, blur_p=0, noise=0, jpeg_p=0, cover_p=0,
    )  # fmt: skip
    images = np.tile(np.linspace(20, 220, 56).astype(np.uint8), (2, 56, 1))
    changed = nothing(images, np.random.default_rng(1))
    assert changed.shape == (2, 1, 56, 56)
    np.testing.assert_allclose(changed[:, 0].numpy(), images, atol=1.0)


@pytest.mark.parametrize("side", [48, 96])
def test_changed_faces_stay_pictures_and_are_drawn_from_the_generator_alone(side: int) -> None:
    images = np.random.default_rng(3).integers(0, 256, (40, side, side), np.uint8)
    first, again, other = (FaceAugment()(images, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert float(first.min()) >= 0.0 and float(first.max()) <= 255.0
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Training


def face_set(path: Path, seed: int, count: int = 60, people: NDArray[np.str_] | None = None) -> None:
    """Faces whose label is the height of a bright stripe; the raters of a third of them do not agree."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(EMOTIONS)
    images = rng.integers(60, 80, (count, 48, 48)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 7 * label : 10 + 7 * label] = 220
    shares: NDArray[np.float32] = np.eye(len(EMOTIONS), dtype=np.float32)[labels]
    shares[::3] = 0.5 * shares[::3] + 0.5 / len(EMOTIONS)
    split = np.where(np.arange(count) % 5 == 0, "dev", "train")
    save_face_set(path, images, shares, np.full(count, 10.0, np.float32), split, people)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> faces.FaceRecipe:
    face_set(tmp_path / "one.npz", 1)
    face_set(tmp_path / "two.npz", 2)
    monkeypatch.chdir(tmp_path)
    return faces.FaceRecipe(
        kind="faces",
        train=(faces.FaceUse("one.npz", 18), faces.FaceUse("two.npz", 6)),
        dev=("one.npz", "two.npz"),
        best="one",
        steps=6,
        channels=(4, 6, 8, 8),
        width=16,
        dropout=0.1,
        warmup_steps=2,
        learning_rate=0.05,
        ema_decay=0.9,
        eval_every_steps=3,
    )


def test_a_run_learns_and_publishes_its_scores(recipe: faces.FaceRecipe) -> None:
    recipe = msgspec.structs.replace(recipe, steps=60, eval_every_steps=60, augment={"cover_p": 0.0, "coarse_p": 0.0})
    assert faces.train_faces(Path("run"), recipe, resume=False) == "finished"
    scores = checkpoint.read_json(Path("run/final/info.json"))["dev"]["one"]
    assert scores["n"] == 12 and scores["accuracy"] > 0.6  # chance: .17
    assert scores["clear_n"] == 8  # ten raters, of whom at least six agree


def test_stopping_and_resuming_goes_the_way_of_a_run_that_did_not_stop(recipe: faces.FaceRecipe) -> None:
    check_that_resuming_goes_on(faces.train_faces, recipe)


def test_what_was_logged_after_the_state_that_is_resumed_is_not_logged_twice(recipe: faces.FaceRecipe) -> None:
    faces.train_faces(Path("run"), recipe, resume=False, until_step=2)
    log = Path("run/log.jsonl")
    log.write_text('{"step": 1}\n{"step": 3}\n')  # the process was killed after an evaluation at step 3
    faces.train_faces(Path("run"), recipe, resume=True)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 3, 6]


def test_people_who_are_left_out_are_not_trained_on_and_are_the_ones_scored(
    recipe: faces.FaceRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    face_set(Path("films.npz"), 3, people=np.array(["s1", "s2", "s3"] * 20))
    with_films = msgspec.structs.replace(
        recipe, train=(*recipe.train, faces.FaceUse("films.npz", 6)), dev=("one.npz", "films.npz")
    )
    Path("films.yaml").write_text(json.dumps(msgspec.to_builtins(with_films)))
    assert train_main(["films.yaml", "--run", "run", "--leave-out", "films/s2"]) == 0
    info = checkpoint.read_json(Path("run/final/info.json"))
    assert info["people"] == ["films/s1", "films/s3"] and info["recipe"]["leave_out"] == ["films/s2"]
    assert info["dev"]["films"]["n"] == 20 and info["dev"]["one"]["n"] == 12
    apart = load_face_set(Path("films.npz"), "train", ("films/s2",))
    assert set(apart.people) == {"films/s1", "films/s3"} and len(apart) == 40
    assert train_main(["films.yaml", "--run", "other", "--leave-out", "s2"]) == ConfigError.exit_code
    assert "--leave-out s2: nobody's name; the sets have films/s1, films/s2, films/s3" in capsys.readouterr().err


def test_a_mean_of_face_networks_knows_the_people_of_both(recipe: faces.FaceRecipe) -> None:
    face_set(Path("films.npz"), 3, people=np.array(["s1", "s2", "s3"] * 20))
    with_films = msgspec.structs.replace(recipe, steps=1, train=(faces.FaceUse("films.npz", 6),))
    faces.train_faces(Path("plain"), msgspec.structs.replace(recipe, steps=1), resume=False)
    faces.train_faces(Path("films"), with_films, resume=False)
    average = runpy.run_path(str(CONFIGS.parent / "tools/data/average.py"))["average"]
    average(Path("plain/final"), Path("films/final"), Path("mean"))
    assert checkpoint.people_of(Path("mean")) == ["films/s1", "films/s2", "films/s3"]


def test_clcr_begins_with_a_trained_face_network(recipe: faces.FaceRecipe, tmp_path: Path) -> None:
    faces.train_faces(Path("run"), recipe, resume=False)
    write_packs(tmp_path)
    whole = clcr_recipe(width=16, shared_rank=8, private_rank=4, vision_channels=[4, 6, 8, 8])
    model = start.new_model(whole)
    trained = checkpoint.read_tensors(Path("run/final/model.safetensors"))
    for name, tensor in model.vision.state_dict().items():
        assert torch.equal(tensor, trained[f"vision.{name}"]), name


def test_a_checkpoint_goes_on_with_another_face_network(recipe: faces.FaceRecipe, tmp_path: Path) -> None:
    faces.train_faces(Path("run"), recipe, resume=False)
    write_packs(tmp_path)
    whole = clcr_recipe(width=16, shared_rank=8, private_rank=4, vision_channels=[4, 6, 8, 8])
    other = msgspec.structs.replace(whole, vision=None)
    begun = train.start_run(Path("begun"), msgspec.structs.replace(other, steps=1), start.new_model(other))
    train.train(begun)
    model, before = start.model_from(Path("begun/final"), whole), start.model_from(Path("begun/final"), other)
    trained = checkpoint.read_tensors(Path("run/final/model.safetensors"))
    for name, tensor in model.state_dict().items():
        expected = trained[name] if name.startswith("vision.") else before.state_dict()[name]
        assert torch.equal(tensor, expected), name


def clcr_recipe(**model: Any) -> Recipe:
    whole = load_recipe(CONFIGS / "train_tiny.yaml")
    settings = {**whole.model, "vision_front_end": "grid", **model}
    return msgspec.structs.replace(whole, vision="run/final", model=settings)


def test_a_face_network_of_other_channels_is_refused_with_those_to_set(
    recipe: faces.FaceRecipe, tmp_path: Path
) -> None:
    faces.train_faces(Path("run"), recipe, resume=False)
    with pytest.raises(ConfigError, match=r"channels \[4, 6, 8, 8\]; set model.vision_front_end"):
        start.new_model(clcr_recipe(vision_channels=[8, 8, 8, 8]))


def test_the_command_trains_a_face_network_and_refuses_what_is_not_for_one(
    recipe: faces.FaceRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("faces.yaml").write_text(json.dumps(msgspec.to_builtins(recipe)))
    assert train_main(["faces.yaml", "--run", "run"]) == 0
    assert capsys.readouterr().out == "finished\n"
    assert train_main(["faces.yaml", "--run", "run"]) == ConfigError.exit_code
    assert "add --resume" in capsys.readouterr().err
    assert train_main(["faces.yaml", "--run", "other", "--steps", "3"]) == ConfigError.exit_code
    assert "--steps is not for a recipe of faces" in capsys.readouterr().err
    assert STOPPED_CODE == 75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, r"`\$.steps`"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_wrong_key_of_a_recipe_is_named(recipe: faces.FaceRecipe, change: dict[str, Any], message: str) -> None:
    Path("faces.yaml").write_text(json.dumps(msgspec.to_builtins(recipe) | change))
    with pytest.raises(ConfigError, match=message):
        faces.load_face_recipe(Path("faces.yaml"))


def test_the_shipped_recipe_is_whole() -> None:
    assert faces.load_face_recipe(CONFIGS / "faces.yaml").best == "ferplus"
    assert faces.load_face_recipe(CONFIGS / "faces_films.yaml").init == "checkpoints/faces"


def test_a_file_that_is_no_face_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"face_sets.py"):
        load_face_set(tmp_path / "none.npz", "train")
    np.savez(tmp_path / "other.npz", images=np.zeros(1))
    with pytest.raises(ConfigError, match="lacks 'shares'"):
        load_face_set(tmp_path / "other.npz", "train")
    face_set(tmp_path / "set.npz", 1)
    with pytest.raises(ConfigError, match="split 'test'"):
        load_face_set(tmp_path / "set.npz", "test")


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_the_development_sets_are_written_with_their_splits(tmp_path: Path) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/data/face_sets.py"))
    assert tool["main"](["--data", str(SHARED), "--out", str(tmp_path), "--sets", "ferplus", "ckplus"]) == 0
    train, dev = (load_face_set(tmp_path / "ferplus.npz", split) for split in ("train", "dev"))
    assert (len(train), len(dev)) == (26845, 1371)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in dev.images}
    np.testing.assert_allclose(train.shares.sum(1), 1.0, atol=1e-5)
    assert float(train.votes.min()) == 5.0
    assert len(load_face_set(tmp_path / "ckplus.npz", "dev")) == 75


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_faces_of_films_are_those_that_the_runtime_crops(tmp_path: Path) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools/data/face_sets.py"))
    (tmp_path / "javased").mkdir()
    (tmp_path / "javased/av").symlink_to(SHARED / "javased/av")
    head, *rows = (SHARED / "javased/labels.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    films = [row for row in rows if ",av," in row and ",dev" in row][:2]
    (tmp_path / "javased/labels.csv").write_text("".join([head, *films]), encoding="utf-8")
    assert tool["main"](["--data", str(tmp_path), "--out", str(tmp_path), "--sets", "javased"]) == 0
    faces = load_face_set(tmp_path / "javased.npz", "dev")  # films of about 3.3 s, a picture every 0.2 s
    assert 20 < len(faces) < 40 and faces.images.shape[1:] == (112, 112)
