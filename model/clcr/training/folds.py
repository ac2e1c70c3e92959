"""Cross-validation by people: the same training for each fold, scored on the speakers it never saw."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from clcr.network.config import ModelConfig
from clcr.network.model import CLCR
from clcr.training import checkpoint, metrics
from clcr.training.data.cache import Pack
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import possible_subsets, restrict, speakers_pack, thinned
from clcr.training.fusion import against_parts, fusion_table, values_against_parts
from clcr.training.metrics import Bootstrap
from clcr.training.recipe import Best, Recipe, load_recipe
from clcr.training.start import model_from
from clcr.training.stored import EncodedPack
from clcr.training.train import FINISHED, begin, class_names, resume_run, train
from clcr_stream.errors import ConfigError

SPLITS = ("train", "dev")
HISTORY_S = 20.0  # of the speaker's other clips come before a clip, for a model with baselines
PASTS = {"": 0.0, "_after_20_s": HISTORY_S}  # endings of the keys of scores
MOST_CLIPS = 300  # of a pack that a fold scores, taken evenly

Apart = Mapping[str, Sequence[str]]  # by pack the speakers of a fold


@dataclass(frozen=True)
class Folds:
    """How many folds, and the packs whose speakers they leave out; each of them is scored."""

    count: int
    packs: tuple[Path, ...]

    def parts(self, labels: tuple[str, ...] | None) -> list[Apart]:
        """By fold: every so-many-th speaker of each pack. Raises ConfigError for more folds than speakers."""
        speakers = {pack.name: _speakers(pack, labels) for pack in self.packs}
        for name, known in speakers.items():
            if not 2 <= self.count <= len(known):
                raise ConfigError(f"--folds {self.count}: {name} has {len(known)} speakers; give 2 to {len(known)}")
        return [{name: known[fold :: self.count] for name, known in speakers.items()} for fold in range(self.count)]


def cross_validate(folder: Path, recipe: Recipe, init: Path | None, folds: Folds) -> dict[str, Any]:
    """Run the folds that are not done yet; returns (and writes to FOLDER/folds.json) what is known so far.

    init: the checkpoint that each fold begins with; None: the recipe's own start.

    Nothing is chosen by looking at the left-out speakers: no development packs, the last weights, a fixed step count.
    A fold stopped by a signal goes on where it stopped. Raises ConfigError if `init` was trained on a pack, or the face
    network on the faces of a fold's speakers.
    """
    labels = class_labels(recipe, init)
    parts = folds.parts(labels)
    if init is not None:
        _check_unseen(init, folds, parts)
    recipe = fold_recipe(recipe, folds.packs)
    networks = [face_network(recipe.vision, apart) for apart in parts]
    complete = True
    for fold, (apart, network) in enumerate(zip(parts, networks, strict=True)):
        if not (folder / f"fold_{fold}.json").exists():
            begun = msgspec.structs.replace(recipe, vision=network)
            complete = run_fold(folder / f"fold_{fold}", begun, init, (folds.packs, apart))
            if not complete:
                break
    done = [checkpoint.read_json(path) for path in sorted(folder.glob("fold_*.json"))]
    report = {
        "labels": list(labels or ()),
        "complete": complete,
        "init": None if init is None else str(init),
        "steps": recipe.steps,
        "most_clips": MOST_CLIPS,
        "folds": [{"left_out": one["left_out"], "seconds": one["seconds"]} for one in done],
        "packs": {pack.name: pooled([one["packs"][pack.name] for one in done]) for pack in folds.packs if done},
    }
    checkpoint.write_json(folder / "folds.json", report)
    return report


def class_labels(recipe: Recipe, init: Path | None) -> tuple[str, ...] | None:
    """The labels that the folds' models will have; None for regression."""
    config = ModelConfig.from_dict(recipe.model) if init is None else model_from(init, recipe).config
    return config.labels if config.task == "classification" else None


def _check_unseen(init: Path, folds: Folds, parts: Sequence[Apart]) -> None:
    for seen in sorted({pack.name for pack in folds.packs} & trained_on(init)):
        raise ConfigError(f"{init}: was trained on {seen}; --init needs a checkpoint that never saw its speakers")
    for one in checkpoint.trainings_of(init):
        for apart in parts:
            if shown := _seen(one.get("faces_of", ()), apart):
                raise ConfigError(f"{init}: its face network was trained on {shown[0]}; --init needs one that was not")


def trained_on(init: Path) -> set[str]:
    """Names of the packs a checkpoint was trained on, from its provenance and from the recipe of its run folder."""
    names = {name for one in checkpoint.trainings_of(init) for name in one.get("train_packs", ())}
    beside = init.parent / "recipe.yaml"
    if beside.exists():
        names.update(Path(use.pack).name for use in load_recipe(beside).train)
    return names


def face_network(vision: str | None, apart: Apart) -> str | None:
    """The face network that a fold begins with: one beside the recipe's, VISION_without_01_06, or else the recipe's.

    The one beside it is named after the people of those packs whose faces it would have seen. Raises ConfigError when
    it was trained on faces of the fold.
    """
    if vision is None:
        return None
    candidates = [Path(f"{vision}_without_{'_'.join(people)}") for people in apart.values()]
    network = next((path for path in candidates if path.is_dir()), Path(vision))
    if seen := _seen(checkpoint.people_of(network), apart):
        raise ConfigError(
            f"{network}: was trained on faces of {seen[0]}; make {vision}_without_{seen[1]} without: docs/training.md"
        )
    return str(network)


def _seen(people: Sequence[str], apart: Apart) -> tuple[str, str] | None:
    """Who of a fold is among `people`, SET/NAME each, and the people of that pack; its name begins with the set's."""
    for name in people:
        faces, _, speaker = name.rpartition("/")
        for pack, speakers in apart.items():
            if speaker in speakers and f"{pack}_".startswith(f"{faces}_"):
                return name, "_".join(speakers)
    return None


def fold_recipe(recipe: Recipe, packs: Sequence[Path]) -> Recipe:
    """The recipe with every split of the packs to train on and nothing to watch. Raises ConfigError if it lacks one."""
    names = {pack.name for pack in packs}
    for lacking in sorted(names - {Path(use.pack).name for use in recipe.train}):
        raise ConfigError(f"recipe: does not train on {lacking}; use configs/train_base.yaml or another --pack")
    uses = tuple(
        msgspec.structs.replace(use, splits=SPLITS) if Path(use.pack).name in names else use for use in recipe.train
    )
    return msgspec.structs.replace(recipe, train=uses, dev=(), best=Best(of=()))


def run_fold(work: Path, recipe: Recipe, init: Path | None, left_out: tuple[Sequence[Path], Apart]) -> bool:
    """Train without some speakers of the packs, then score their clips; False when stopped early."""
    packs, apart = left_out
    names = tuple(f"{name}/{speaker}" for name, speakers in apart.items() for speaker in speakers)
    checkpoint.recover(work / "last")
    if (work / "last" / "state.json").exists():
        run = resume_run(work, recipe, names)
    else:
        shutil.rmtree(work, ignore_errors=True)
        run = begin(work, recipe, init, names)
    if train(run) != FINISHED:
        return False
    model = checkpoint.load_checkpoint(work / "final")
    fold = {
        "left_out": {name: list(speakers) for name, speakers in apart.items()},
        "packs": {pack.name: _scored(model, recipe, pack, apart[pack.name]) for pack in packs},
        "seconds": run.progress.seconds,
    }
    checkpoint.write_json(work.with_name(f"{work.name}.json"), fold)
    shutil.rmtree(work)  # 0.5 GB of weights a fold
    return True


def _scored(model: CLCR, recipe: Recipe, folder: Path, speakers: Sequence[str]) -> dict[str, Any]:
    """What the model says of some speakers' clips, by subset; with baselines also after HISTORY_S of their others."""
    clips = speakers_pack(folder, SPLITS, speakers, class_names(model))
    clips = thinned(restrict(clips, possible_subsets(clips)[-1]), MOST_CLIPS)  # the last one has the most modalities
    shown: Pack = EncodedPack(clips, model) if recipe.stored_versions else clips
    fold: dict[str, Any] = {
        "ids": [str(name) for name in clips.ids],
        "speakers": [str(name) for name in clips.speakers],
        "targets": clips.targets.tolist(),
    }
    for ending, history_s in PASTS.items():
        if model.config.baseline or not ending:
            said = {s: evaluate_subset(model, shown, s, history_s=history_s) for s in possible_subsets(clips)}
            fold[f"subsets{ending}"] = {
                subset: {"logits": one.logits.tolist(), "unseen": one.unseen} for subset, one in said.items()
            }
    return fold


def pooled(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one pack: the scores of all folds' clips together, intervals by clip and by speaker, and of each speaker."""
    speakers = [speaker for fold in folds for speaker in fold["speakers"]]
    targets = np.concatenate([np.asarray(fold["targets"]) for fold in folds])
    result: dict[str, Any] = {}
    for ending in PASTS:
        if not all(f"subsets{ending}" in fold for fold in folds):
            continue
        parts = [fold[f"subsets{ending}"] for fold in folds]
        logits = {s: np.concatenate([np.asarray(part[s]["logits"]) for part in parts]) for s in parts[0]}
        by_clip, by_speaker, fusion = _together(logits, targets, tuple(speakers))
        result |= {f"pooled{ending}": by_clip, f"pooled_by_speaker{ending}": by_speaker, f"fusion{ending}": fusion}
        result[f"speakers{ending}"] = {
            speaker: {s: metrics.brief(said[rows], targets[rows]) for s, said in logits.items()}
            for speaker in sorted(set(speakers))
            for rows in [np.flatnonzero(np.asarray(speakers) == speaker)]
        }
    result["unseen"] = {s: sum(fold["subsets"][s]["unseen"] for fold in folds) for s in folds[0]["subsets"]}
    return result


def _together(
    logits: Mapping[str, metrics.Floats], targets: NDArray[Any], groups: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Scores by subset, their intervals by speaker, the fusion beside its parts."""
    judge: Callable[..., dict[str, Any]]
    compare: Callable[..., dict[str, Any]]
    if next(iter(logits.values())).shape[1] == 1:
        answers = {subset: outputs[:, 0] for subset, outputs in logits.items()}
        judge, compare = metrics.regression_scores, values_against_parts
    else:
        answers = {subset: metrics.softmax(outputs) for subset, outputs in logits.items()}
        judge, compare = metrics.classification_scores, against_parts
    by_clip = {subset: judge(answer, targets) for subset, answer in answers.items()}
    scored = {subset: judge(answer, targets, Bootstrap(groups=groups)) for subset, answer in answers.items()}
    intervals = {s: {n: value for n, value in scores.items() if _is_interval(value)} for s, scores in scored.items()}
    return by_clip, intervals, compare(answers, targets)


def _is_interval(value: object) -> bool:
    return isinstance(value, dict) and "low" in value


def summary(report: Mapping[str, Any]) -> str:
    """The report as lines for a terminal."""
    names = {"macro-F1": "macro_f1", "accuracy": "accuracy"} if report["labels"] else metrics.REGRESSION
    lines, fusions = [], {}
    for pack, scores in report["packs"].items():
        for ending, history_s in PASTS.items():
            title = f"{pack} after {history_s:g} s" if ending else pack
            for subset, score in scores.get(f"pooled{ending}", {}).items():
                cells = ", ".join(f"{name} {metrics.cell(score[key])}" for name, key in names.items())
                lines.append(f"{title} {subset:<3} n {score['n']}: {cells}")
            fusions[title] = scores.get(f"fusion{ending}", {})
    return "\n".join(lines + fusion_table(fusions).splitlines())


def _speakers(pack: Path, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """The speakers of all splits, sorted."""
    return tuple(sorted({str(speaker) for split in SPLITS for speaker in Pack(pack, split, labels).speakers}))
