"""Leave one speaker out, or a few: the same training for each fold, scored on the speakers it never saw."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from clcr.network.config import ModelConfig
from clcr.network.model import CLCR
from clcr.training import checkpoint, metrics
from clcr.training.data.cache import Pack
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import possible_subsets, restrict, speakers_pack
from clcr.training.fusion import against_parts, fusion_table, values_against_parts
from clcr.training.metrics import Bootstrap
from clcr.training.recipe import Best, Recipe, load_recipe
from clcr.training.start import model_from
from clcr.training.train import FINISHED, begin, class_names, resume_run, train
from clcr_stream.errors import ConfigError

SPLITS = ("train", "dev")
HISTORY_S = 20.0  # of the speaker's other clips come before a clip, for a model with baselines
AFTER = "after_20_s"  # the key of those scores


def leave_one_speaker_out(
    folder: Path, recipe: Recipe, init: Path | None, packs: tuple[Path, ...], per_fold: int = 1
) -> dict[str, Any]:
    """Run the folds that are not done yet; returns (and writes to FOLDER/loso.json) what is known so far.

    init: the checkpoint that each fold begins with; None: the recipe's own start.
    packs: the one that is scored, then others that hold the same speakers; a fold's speakers are left out of all.

    Nothing is chosen by looking at the left-out speakers: no development packs, the last weights, a fixed step count.
    A fold stopped by a signal goes on where it stopped. Raises ConfigError if `init` was trained on the pack, or the
    face network on the faces of a fold's speakers.
    """
    for seen in sorted({pack.name for pack in packs} & (trained_on(init) if init is not None else set())):
        raise ConfigError(f"{init}: was trained on {seen}; --init needs a checkpoint that never saw its speakers")
    labels = class_labels(recipe, init)
    speakers = pack_speakers(packs[0], labels)
    for one in checkpoint.trainings_of(init) if init is not None else ():
        if shown := _seen(one.get("faces_of", ()), packs[0].name, speakers):
            raise ConfigError(f"{init}: its face network was trained on {shown[0]}; --init needs one that never saw it")
    if not 1 <= per_fold <= max(1, len(speakers) - 1):
        raise ConfigError(f"--speakers-per-fold {per_fold}: {packs[0].name} has {len(speakers)}, so 1 to one less")
    recipe = fold_recipe(recipe, packs)
    complete = True
    count = -(-len(speakers) // per_fold)
    folds = [speakers[first::count] for first in range(count)]
    networks = [face_network(recipe.vision, packs[0].name, fold) for fold in folds]
    for fold, network in zip(folds, networks, strict=True):
        if not all((folder / f"speaker_{speaker}.json").exists() for speaker in fold):
            complete = run_fold(folder, msgspec.structs.replace(recipe, vision=network), init, (packs, fold))
            if not complete:
                break
    report = pooled(folder, speakers, labels)
    began = None if init is None else str(init)
    report.update({"complete": complete, "init": began, "pack": packs[0].name, "steps": recipe.steps})
    report["speakers_per_fold"] = per_fold
    checkpoint.write_json(folder / "loso.json", report)
    return report


def class_labels(recipe: Recipe, init: Path | None) -> tuple[str, ...] | None:
    """The labels that the folds' models will have; None for regression."""
    config = ModelConfig.from_dict(recipe.model) if init is None else model_from(init, recipe).config
    return config.labels if config.task == "classification" else None


def trained_on(init: Path) -> set[str]:
    """Names of the packs a checkpoint was trained on, from its provenance and from the recipe of its run folder."""
    names = {name for one in checkpoint.trainings_of(init) for name in one.get("train_packs", ())}
    beside = init.parent / "recipe.yaml"
    if beside.exists():
        names.update(Path(use.pack).name for use in load_recipe(beside).train)
    return names


def face_network(vision: str | None, pack: str, fold: Sequence[str]) -> str | None:
    """The face network that a fold begins with: one beside the recipe's, VISION_without_01_06, or else the recipe's.

    Raises ConfigError when it was trained on faces of the fold.
    """
    if vision is None:
        return None
    apart = Path(f"{vision}_without_{'_'.join(fold)}")
    network = apart if apart.is_dir() else Path(vision)
    if seen := _seen(checkpoint.people_of(network), pack, fold):
        raise ConfigError(f"{network}: was trained on faces of {seen[0]}; make {apart} without: docs/training.md")
    return str(network)


def _seen(people: Sequence[str], pack: str, speakers: Sequence[str]) -> list[str]:
    """Those speakers of a pack who are among `people`, SET/NAME each; a pack's name begins with that of its set."""
    names = [name.rpartition("/") for name in people]
    return [speaker for faces, _, speaker in names if speaker in speakers and f"{pack}_".startswith(f"{faces}_")]


def fold_recipe(recipe: Recipe, packs: tuple[Path, ...]) -> Recipe:
    """The recipe with every split of the packs to train on and nothing to watch. Raises ConfigError if it lacks one."""
    names = {pack.name for pack in packs}
    for lacking in sorted(names - {Path(use.pack).name for use in recipe.train}):
        raise ConfigError(f"recipe: does not train on {lacking}; use configs/train_base.yaml or another --pack")
    uses = tuple(
        msgspec.structs.replace(use, splits=SPLITS) if Path(use.pack).name in names else use for use in recipe.train
    )
    return msgspec.structs.replace(recipe, train=uses, dev=(), best=Best(of=()))


def run_fold(folder: Path, recipe: Recipe, init: Path | None, left_out: tuple[tuple[Path, ...], Sequence[str]]) -> bool:
    """Train without some speakers of the packs, score their clips with all modalities; False when stopped early."""
    packs, speakers = left_out
    names = tuple(f"{pack.name}/{speaker}" for speaker in speakers for pack in packs)
    work = folder / f"without_{'_'.join(speakers)}"
    checkpoint.recover(work / "last")
    if (work / "last" / "state.json").exists():
        run = resume_run(work, recipe, names)
    else:
        shutil.rmtree(work, ignore_errors=True)
        run = begin(work, recipe, init, names)
    if train(run) != FINISHED:
        return False
    model = checkpoint.load_checkpoint(work / "final")
    for speaker in speakers:
        clips = speakers_pack(packs[0], SPLITS, (speaker,), class_names(model))
        clips = restrict(clips, possible_subsets(clips)[-1])  # the last one has the most modalities
        fold = {
            "speaker": speaker,
            "ids": [str(name) for name in clips.ids],
            "targets": clips.targets.tolist(),
            "subsets": _scored(model, clips),
            **({AFTER: _scored(model, clips, HISTORY_S)} if model.config.baseline else {}),
            "seconds": run.progress.seconds / len(speakers),
        }
        checkpoint.write_json(folder / f"speaker_{speaker}.json", fold)
    shutil.rmtree(work)  # 0.5 GB of weights a fold
    return True


def _scored(model: CLCR, clips: Pack, history_s: float = 0.0) -> dict[str, Any]:
    """What the model says of a speaker's clips, by subset; each clip after `history_s` of the others."""
    subsets: dict[str, Any] = {}
    for subset in possible_subsets(clips):
        predicted = evaluate_subset(model, clips, subset, history_s=history_s)
        subsets[subset] = {"logits": predicted.logits.tolist(), "unseen": predicted.unseen, **predicted.brief()}
    return subsets


def pooled(folder: Path, speakers: tuple[str, ...], labels: tuple[str, ...] | None) -> dict[str, Any]:
    """Per-fold scores and the scores of all finished folds' clips together, intervals by clip and by speaker."""
    paths = {speaker: folder / f"speaker_{speaker}.json" for speaker in speakers}
    folds = [checkpoint.read_json(path) for path in paths.values() if path.exists()]
    result: dict[str, Any] = {
        "labels": list(labels or ()),
        "folds": {
            fold["speaker"]: {
                subset: {name: value for name, value in scores.items() if name != "logits"}
                for subset, scores in fold["subsets"].items()
            }
            for fold in folds
        },
        "pooled": {},
        "pooled_by_speaker": {},
        "seconds": sum(fold["seconds"] for fold in folds),
    }
    if not folds:
        return result
    for key, ending in (("subsets", ""), (AFTER, f"_{AFTER}")):
        if all(key in fold for fold in folds):
            by_clip, by_speaker, fusion = _together(folds, key)
            result |= {f"pooled{ending}": by_clip, f"pooled_by_speaker{ending}": by_speaker, f"fusion{ending}": fusion}
    return result


def _together(folds: list[dict[str, Any]], key: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Scores over the clips of all folds by subset, intervals by clip and by speaker; the fusion beside its parts."""
    groups = tuple(fold["speaker"] for fold in folds for _ in fold["targets"])
    said = {
        subset: np.concatenate([np.asarray(fold[key][subset]["logits"]) for fold in folds]) for subset in folds[0][key]
    }
    targets = np.concatenate([np.asarray(fold["targets"]) for fold in folds])
    judge: Callable[..., dict[str, Any]]
    compare: Callable[..., dict[str, Any]]
    if next(iter(said.values())).shape[1] == 1:
        answers = {subset: outputs[:, 0] for subset, outputs in said.items()}
        judge, compare = metrics.regression_scores, values_against_parts
    else:
        answers = {subset: metrics.softmax(outputs) for subset, outputs in said.items()}
        judge, compare = metrics.classification_scores, against_parts
    by_clip = {subset: judge(answer, targets) for subset, answer in answers.items()}
    scored = {subset: judge(answer, targets, Bootstrap(groups=groups)) for subset, answer in answers.items()}
    intervals = {s: {n: value for n, value in scores.items() if _is_interval(value)} for s, scores in scored.items()}
    return by_clip, intervals, compare(answers, targets)


def _is_interval(value: object) -> bool:
    return isinstance(value, dict) and "low" in value


def summary(report: dict[str, Any]) -> str:
    """The report as lines for a terminal."""
    names = {"macro-F1": "macro_f1", "accuracy": "accuracy"} if report["labels"] else metrics.REGRESSION
    heading, first = ("macro-F1", "macro_f1") if report["labels"] else ("MAE", "mae")
    subsets = tuple(report["pooled"])
    lines = [f"{'speaker':<10}" + "".join(f"{subset} {heading:<14}" for subset in subsets)]
    for speaker, scores in report["folds"].items():
        lines.append(f"{speaker:<10}" + "".join(f"{scores[subset][first]:<16.3f}" for subset in subsets))
    rows = [("pooled", subset, scores) for subset, scores in report["pooled"].items()]
    rows += [(f"after {HISTORY_S:g} s", subset, scores) for subset, scores in report.get(f"pooled_{AFTER}", {}).items()]
    for title, subset, scores in rows:
        cells = ", ".join(f"{name} {metrics.cell(scores[key])}" for name, key in names.items())
        lines.append(f"{title} {subset:<3} n {scores['n']}: {cells}")
    fusion = {"pooled": report.get("fusion", {}), f"after {HISTORY_S:g} s": report.get(f"fusion_{AFTER}", {})}
    return "\n".join(lines + fusion_table(fusion).splitlines())


def pack_speakers(pack: Path, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """The speakers of all splits, sorted."""
    return tuple(sorted({str(speaker) for split in SPLITS for speaker in Pack(pack, split, labels).speakers}))
