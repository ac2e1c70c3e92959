"""Samples put together by label, photographs held as films, and what a fusion is worth beside its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr.network.config import EMOTIONS, NEUTRAL
from clcr.training.data.augment import Augment
from clcr.training.data.cache import Clip, Pack
from clcr.training.data.films import MOVES, filmed, held, is_photograph
from clcr.training.data.mixture import Mixture
from clcr.training.data.pairs import NOTHING, Emptied, PairedPack
from clcr.training.feed import Feed, paired
from clcr.training.fusion import against_parts, product_of_experts, values_against_parts
from clcr.training.recipe import PAIRS, Pairs, check_recipe, load_recipe
from clcr_stream.errors import ConfigError
from tiny_packs import write_packs

CONFIGS = Path(__file__).parents[2] / "configs"
SAMPLES = 12  # of each kind, labels in turn


class Kind(Pack):
    """Samples of one modality, encoded; every value of a sample is 100 * kind + its row."""

    def __init__(self, stored: str, kind: int, labels: int = 6, rows: int = SAMPLES) -> None:
        self.name, self.key, self.stored, self.kind = f"{stored}{kind}", f"{kind}", stored, kind
        self.targets = np.arange(rows, dtype=np.int64) % labels
        self.ids = np.array([f"{self.name}_{row}" for row in range(rows)])
        self.speakers = np.array(["someone"] * rows)
        self.classes = len(EMOTIONS)

    def having(self, name: str) -> NDArray[np.bool_]:
        return np.full(len(self), name == self.stored)

    def clip(self, index: int) -> Clip:
        value = 100 * self.kind + index
        seen, heard, read = (int(self.stored == name) for name in ("grey", "mel", "tokens"))
        return Clip(
            frames=np.full((seen, 4), value, np.float16),
            slots=np.ones(seen, np.bool_),
            mel=np.zeros((0, 8), np.float32),
            tokens=np.full(3 * read, value, np.int64),
            sound=np.full((20 * heard, 3, 2), value, np.float16),
        )

    def version(self, index: int, rng: np.random.Generator) -> Clip:
        clip = self.clip(index)
        return replace(clip, frames=clip.frames + np.float16(rng.choice([0.25, 0.5])))


FACES, VOICES, TEXTS = Kind("grey", 1), Kind("mel", 2), Kind("tokens", 3)
EMPTY = [Kind(stored, 9, labels=1) for stored in ("grey", "mel", "tokens")]


def sides(clip: Clip) -> dict[str, int]:
    """What a clip is made of: 100 * kind + row, by what is there."""
    found = {}
    if len(clip.frames):
        found["grey"] = int(clip.frames[0, 0])
    if clip.sound is not None and len(clip.sound):
        found["mel"] = int(clip.sound[0, 0, 0])
    if len(clip.tokens):
        found["tokens"] = int(clip.tokens[0])
    return found


def label_of(value: int) -> int:
    return value % 100 % 6


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_every_side_of_a_sample_has_its_label(seed: int) -> None:
    pack = PairedPack("p", [FACES, VOICES, TEXTS], 12, seed)
    rng = np.random.default_rng(seed)
    for index in (seed % 12, (seed + 5) % 12):
        for clip in (pack.clip(index), pack.version(index, rng)):
            assert {label_of(value) for value in sides(clip).values()} == {pack.targets[index]}


def test_a_sample_stays_the_same_and_its_versions_differ() -> None:
    pack = PairedPack("p", [FACES, VOICES, TEXTS], 12, 1)
    rng = np.random.default_rng(1)
    assert [sides(pack.clip(3)) for _ in range(5)] == [sides(pack.clip(3))] * 5
    assert len({tuple(sides(pack.version(3, rng)).items()) for _ in range(40)}) > 10
    assert set(sides(pack.clip(3))) == {"grey", "mel", "tokens"}


def test_training_sees_every_two_of_the_modalities_and_all_three() -> None:
    pack = PairedPack("p", [FACES, VOICES, TEXTS], 12, 1)
    rng = np.random.default_rng(1)
    shown = [tuple(sides(pack.version(0, rng))) for _ in range(400)]
    assert {len(kinds) for kinds in shown} == {2, 3}
    assert len(set(shown)) == 4
    assert min(shown.count(kinds) for kinds in set(shown)) > 60


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_one_side_always_has_the_label_whatever_the_others_say(seed: int) -> None:
    pack = PairedPack(
        "p", [FACES, VOICES, TEXTS], 12, seed, Emptied(neutral=0.5, nothing=EMPTY, nothing_p=0.3, alone_p=0.1)
    )
    rng = np.random.default_rng(seed)
    clip = pack.version(seed % 12, rng)
    values = list(sides(clip).values())
    if all(value >= 900 for value in values):  # nothing at all: one side, any label
        assert len(values) == 1
        return
    told = {label_of(value) for value in values if value < 900}
    assert pack.targets[seed % 12] in told
    assert told <= {int(pack.targets[seed % 12]), NEUTRAL}


def test_as_many_sides_are_neutral_or_nothing_as_was_asked() -> None:
    pack = PairedPack("p", [VOICES, TEXTS], 12, 1, Emptied(neutral=0.4, nothing=EMPTY, nothing_p=0.2, alone_p=0.3))
    rng = np.random.default_rng(1)
    anger = EMOTIONS.index("anger")
    clips = [sides(pack.version(anger, rng)) for _ in range(2000)]
    both = [list(found.values()) for found in clips if len(found) == 2]
    empty = np.mean([any(value >= 900 for value in values) for values in both])
    plain = np.mean([any(value < 900 and label_of(value) == NEUTRAL for value in values) for values in both])
    alone = np.mean([len(found) == 1 for found in clips])
    assert empty == pytest.approx(0.2, abs=0.04)
    assert plain == pytest.approx(0.8 * 0.4, abs=0.04)
    assert alone == pytest.approx(0.3, abs=0.04)


def test_a_corrupted_side_shows_nothing_and_the_others_stay() -> None:
    pack = PairedPack("p", [FACES, VOICES, TEXTS], 12, 1, Emptied(nothing=EMPTY[:2]))
    assert pack.nothing_for == ("vision", "acoustic")
    spoiled = pack.spoiled("acoustic")
    for index in range(12):
        before, after = sides(pack.clip(index)), sides(spoiled.clip(index))
        assert after["mel"] >= 900 > before["mel"]
        assert (after["grey"], after["tokens"]) == (before["grey"], before["tokens"])


def test_a_label_that_a_modality_does_not_have_comes_from_the_others() -> None:
    pack = PairedPack("p", [Kind("mel", 2, labels=5), TEXTS], 12, 1)
    assert set(sides(pack.clip(5))) == {"tokens"}
    assert set(sides(pack.clip(4))) == {"mel", "tokens"}


def test_a_label_that_one_modality_alone_has_is_always_shown_and_one_that_none_has_never() -> None:
    pack = PairedPack("p", [Kind("grey", 1, labels=5), Kind("mel", 2, labels=4), Kind("tokens", 3, labels=4)], 20, 1)
    assert set(pack.targets) == {0, 1, 2, 3, 4}
    rng = np.random.default_rng(1)
    assert all(set(sides(pack.version(4, rng))) == {"grey"} for _ in range(30))


def test_a_set_of_several_kinds_gives_each_modality_from_the_samples_that_have_it() -> None:
    class Mixed(Kind):
        def having(self, name: str) -> NDArray[np.bool_]:
            return (np.arange(len(self)) < 6) if name == "grey" else np.zeros(len(self), np.bool_)

    pack = PairedPack("p", [Mixed("grey", 1), TEXTS], 24, 1)
    assert {sides(pack.clip(index))["grey"] for index in range(24)} <= set(range(100, 106))


def test_pairs_of_one_modality_are_refused() -> None:
    with pytest.raises(ConfigError, match="two modalities"):
        PairedPack("p", [FACES, Kind("grey", 4)], 12, 1)


def test_values_go_together_by_the_nearest_whole_number() -> None:
    scale = np.array([-3.0, -1.4, -0.6, 0.0, 0.4, 0.5, 1.2, 2.6, 2.4, 3.0, 1.6, -2.5])
    voices, texts = Kind("mel", 2), Kind("tokens", 3)
    for side, values in ((voices, scale), (texts, scale[::-1])):
        side.classes, side.targets = 0, values.astype(np.float32)
    whole = {-3.0: {-3, -2.5}, -1.0: {-1.4, -0.6}, 0.0: {0.0, 0.4}, 1.0: {0.5, 1.2}, 2.0: {2.4, 1.6}, 3.0: {2.6, 3.0}}
    pack = PairedPack("p", [voices, texts], 60, 1)
    assert pack.classes == 0 and set(pack.targets.tolist()) == set(whole)
    rng = np.random.default_rng(1)
    for index, target in enumerate(pack.targets.tolist()):
        found = sides(pack.version(index, rng))
        heard, read = scale[found["mel"] - 200], scale[::-1][found["tokens"] - 300]
        assert {round(float(heard), 1), round(float(read), 1)} <= whole[target]
    plain = PairedPack("p", [voices, texts], 60, 1, Emptied(neutral=1.0))
    shown = [sides(plain.version(index, rng)) for index in range(60)]
    assert all({scale[one["mel"] - 200], scale[::-1][one["tokens"] - 300]} & {0.0, 0.4} for one in shown)


def test_a_photograph_beside_a_voice_is_held_as_long_as_the_voice() -> None:
    pack = PairedPack("p", [FACES, VOICES], 12, 1)
    rng = np.random.default_rng(1)
    clip, changed = pack.clip(2), [pack.version(2, rng) for _ in range(20)]
    assert {clip.hops, *(version.hops for version in changed)} == {4}  # 20 tokens of 40 ms
    assert len(clip.frames) == len(clip.slots) == 12 and clip.slots.all()
    assert len(np.unique(clip.frames)) == 1
    assert any(len(np.unique(version.frames)) == 2 for version in changed)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(0, 10**6))
def test_a_film_of_a_photograph_is_as_long_as_asked_and_moves_now_and_then(slots: int, seed: int) -> None:
    film = filmed(FACES, 3, slots, np.random.default_rng(seed))
    assert len(film.frames) == len(film.slots) == slots and film.slots.all()
    assert set(film.frames.astype(int).ravel()) == {103}
    changes = int((np.diff(film.frames[:, 0]) != 0).sum())
    assert changes <= slots // MOVES[0]


def test_photographs_are_told_from_films_and_sound() -> None:
    photograph = FACES.clip(0)
    assert is_photograph(photograph)
    assert not is_photograph(held([photograph], [2]))
    assert not is_photograph(VOICES.clip(0))
    assert not is_photograph(replace(photograph, frames=photograph.frames[:0], slots=np.zeros(1, np.bool_)))


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.35, 0.65), (1.0, 1.0, 1.0)])
def test_as_many_photographs_become_films_as_was_asked(share: float, low: float, high: float) -> None:
    mixture = Mixture([FACES], 1, 0.0, Augment(film_p=share, film_slots=(5, 9), token_dropout=0.0))
    lengths = np.concatenate([mixture.sample({"grey1": 20}, step)[0].vision_valid.sum(1) for step in range(10)])
    assert low <= float((lengths > 1).mean()) <= high
    assert set(lengths) <= {1.0, 5.0, 6.0, 7.0, 8.0, 9.0}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    write_packs(folder)
    return folder


def test_a_recipe_s_pairs_are_their_own_group_without_the_speakers_left_out(packs: Path) -> None:
    recipe = load_recipe(CONFIGS / "train_tiny.yaml")
    uses = tuple(msgspec.structs.replace(use, pack=str(packs / "packs" / Path(use.pack).name)) for use in recipe.train)
    recipe = msgspec.structs.replace(recipe, train=uses, pairs=Pairs(per_step=6))
    feed = Feed(recipe, EMOTIONS)
    groups = feed.at(0)
    assert len(groups) == len(feed.mixtures) and PAIRS in feed.mixtures
    several = groups[list(feed.mixtures).index(PAIRS)].batch
    kinds = (several.vision_valid.amax(1) > 0).int() + (several.acoustic_valid.amax(1) > 0).int()
    kinds += (several.token_valid.amax(1) > 0).int()
    assert len(several) == 6 and int(kinds.min()) >= 2
    assert sum(group.share for group in groups) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        Pairs(per_step=0),
        Pairs(per_step=2, neutral=1.5),
        Pairs(per_step=2, nothing_p=0.1),
        Pairs(per_step=2, nothing_alone_p=0.1),
        Pairs(per_step=2, nothing=("noises",), nothing_alone_p=-0.1),
    ],
)
def test_pairs_that_make_no_sense_are_refused(wrong: Pairs) -> None:
    recipe = msgspec.structs.replace(load_recipe(CONFIGS / "train_tiny.yaml"), pairs=wrong)
    with pytest.raises(ConfigError, match="pairs"):
        check_recipe(recipe, "recipe")


def test_a_group_of_one_s_own_may_not_be_called_pairs() -> None:
    recipe = load_recipe(CONFIGS / "train_tiny.yaml")
    uses = (msgspec.structs.replace(recipe.train[0], group=PAIRS), *recipe.train[1:])
    check_recipe(msgspec.structs.replace(recipe, train=uses), "recipe")
    with pytest.raises(ConfigError, match="rename it"):
        check_recipe(msgspec.structs.replace(recipe, train=uses, pairs=Pairs(per_step=2)), "recipe")


def test_what_shows_nothing_is_read_by_its_own_label() -> None:
    asked: list[tuple[Path, str, tuple[str, ...] | None]] = []

    def opened(folder: Path, split: str, labels: tuple[str, ...] | None) -> Pack:
        asked.append((folder, split, labels))
        return EMPTY[1]

    uses = Pairs(per_step=2, nothing=("noises",), nothing_alone_p=1.0)
    alone = paired(uses, [VOICES, TEXTS], 1, opened).version(0, np.random.default_rng(1))
    assert asked == [(Path("noises"), "train", (NOTHING,))]
    assert all(value >= 900 for value in sides(alone).values())


def certain(labels: NDArray[np.int64], wrong: NDArray[np.bool_], surety: float) -> NDArray[np.float64]:
    """Probabilities of three classes, `surety` on the label, or on the next one where it is wrong."""
    said = np.where(wrong, (labels + 1) % 3, labels)
    return np.full((len(labels), 3), (1 - surety) / 2) + np.eye(3)[said] * (surety - (1 - surety) / 2)


def test_a_fusion_is_compared_with_its_best_branch_their_mean_and_their_product() -> None:
    labels = np.arange(90) % 3
    first, second = labels * 0 + np.arange(90) % 10 < 4, labels * 0 + np.arange(90) % 10 >= 8
    branches = {"V": certain(labels, first, 0.6), "A": certain(labels, second, 0.9)}
    found = against_parts({**branches, "VA": certain(labels, np.zeros(90, bool), 0.9)}, labels)
    assert set(found) == {"VA"}
    scores = found["VA"]
    assert scores["fusion"] == pytest.approx(1.0)
    assert scores["branch"] == "A" and scores["best_branch"] == pytest.approx(0.8, abs=0.02)
    gain = scores["gain"]["best_branch"]
    assert gain["value"] == pytest.approx(1.0 - scores["best_branch"])
    assert 0.0 < gain["low"] < gain["value"] < gain["high"]
    worse = against_parts({**branches, "VA": certain(labels, first, 0.9)}, labels)["VA"]["gain"]["best_branch"]
    assert worse["high"] < 0.0


def test_a_fusion_whose_branches_were_not_scored_is_left_out() -> None:
    labels = np.arange(9) % 3
    everything = certain(labels, np.zeros(9, bool), 0.9)
    assert against_parts({"V": everything, "VAL": everything}, labels) == {}


def test_a_product_of_experts_multiplies_and_a_branch_without_an_opinion_changes_nothing() -> None:
    first = np.array([[0.7, 0.2, 0.1]])
    flat = np.full((1, 3), 1 / 3)
    np.testing.assert_allclose(product_of_experts([first, flat]), first, atol=1e-12)
    np.testing.assert_allclose(product_of_experts([first, first]), first**2 / (first**2).sum(), atol=1e-12)
    ruled_out = product_of_experts([np.array([[1.0, 0.0, 0.0]]), np.array([[0.1, 0.9, 0.0]])])
    assert ruled_out.argmax() == 0 and (ruled_out > 0).all()


def test_values_are_compared_by_their_sign_where_the_target_is_not_zero() -> None:
    targets = np.array([1.0, -1.0, 2.0, -2.0, 0.0, 0.0] * 10)
    right = np.sign(targets) + (targets == 0)
    heard, read = right.copy(), right.copy()
    heard[::3] *= -2.0  # the 1.0 and the -2.0 of each six: half of what counts
    read[::6] *= -3.0
    found = values_against_parts({"A": heard, "L": read, "AL": right, "VL": right}, targets)
    assert set(found) == {"AL"}
    scores = found["AL"]
    assert (scores["n"], scores["branch"], scores["fusion"]) == (40, "L", 1.0)
    assert scores["best_branch"] == pytest.approx(0.75)
    assert scores["average"] == pytest.approx(0.5)  # the wrong one is surer
    assert scores["gain"]["best_branch"]["value"] == pytest.approx(0.25)
    assert set(scores["gain"]) == {"best_branch", "average"}
