"""The commands clcr-train and clcr-eval."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clcr_stream.errors import ClcrError, ConfigError, OutputError

_TRAIN_EXAMPLES = """examples:
  clcr-train configs/faces.yaml --run runs/faces
  clcr-train configs/faces_films.yaml --run runs/faces_without_01 --leave-out javased/01
  clcr-train configs/train_base.yaml --run runs/base
  clcr-train configs/train_base.yaml --run runs/base --resume
  clcr-train configs/train_films.yaml --run runs/films --init runs/base/final
  clcr-train configs/train_base.yaml --run runs/folds --folds 4
exit codes: 0 finished, 1 other error, 2 recipe or flag, 7 checkpoint, 8 diverged, 75 stopped by a signal
"""
_EVAL_EXAMPLES = """examples:
  clcr-eval runs/base/final --pack cache/packs/ravdess --json out.json
  clcr-eval runs/mean --pack cache/packs/javased_av_whisper --by-speaker --plots out/
  clcr-eval runs/mean --pack cache/packs/ravdess --fit-temperature
  clcr-eval --bundle engines/default --manifest my.csv --media-root /data --split test --json out.json
  clcr-eval --bundle engines/default --manifest a.csv b.csv --media-root /a /b --subsets V,A,VA --limit 200
  clcr-eval --bundle engines/default --manifest my.csv --media-root /data --by-time --joined 6 --people people.csv
exit codes: 0 done, 1 other error, 2 recipe, flag or manifest, 4 bundle, 5 backend, 7 checkpoint or output, 130 Ctrl-C
"""
Say = Callable[[str, bool], object]
_OF_A_CHECKPOINT = {
    "pack": None,
    "having": None,
    "batch": None,
    "threads": None,
    "pairs": None,
    "nothing": None,
    "fit_temperature": False,
}
_OF_A_BUNDLE = {
    "manifest": None,
    "media_root": None,
    "limit": None,
    "backend": None,
    "by_time": False,
    "joined": None,
    "people": None,
}
STOPPED_CODE = 75
INTERRUPTED_CODE = 130


def train_main(arguments: list[str] | None = None) -> int:
    """clcr-train: returns the exit code."""
    parser = _parser("clcr-train", "Train, resume or fine-tune a model from a recipe.", _TRAIN_EXAMPLES)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on from DIR/last")
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from these weights")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the recipe's steps")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="SPEAKER", help="never train on these people")
    parser.add_argument(
        "--folds", type=int, metavar="N", help="N trainings, each without every N-th speaker, scored on those"
    )
    parser.add_argument(
        "--pack",
        type=Path,
        nargs="+",
        default=[Path("cache/packs/javased_av_whisper"), Path("cache/packs/javased_audio_whisper")],
        metavar="DIR",
        help="with --folds: whose speakers are left out, and what is scored",
    )
    options = parser.parse_args(arguments)
    return _reporting("clcr-train", lambda: _train(options))


def eval_main(arguments: list[str] | None = None) -> int:
    """clcr-eval: returns the exit code."""
    parser = _parser("clcr-eval", "Score a checkpoint on prepared packs, or a bundle on manifests.", _EVAL_EXAMPLES)
    parser.add_argument("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT")
    parser.add_argument("--pack", type=Path, nargs="+", metavar="DIR", help="of a checkpoint: the prepared packs")
    _bundle_flags(parser)
    parser.add_argument("--split", default="dev", help="train, dev (default) or test")
    parser.add_argument("--subsets", default="all", help="all, or a list such as V,A,VA")
    parser.add_argument("--having", help="of a checkpoint: only clips recorded with all of these, such as VA")
    parser.add_argument(
        "--history",
        type=float,
        metavar="SECONDS",
        help="with baselines: so much of the speaker's other clips comes before each clip",
    )
    parser.add_argument(
        "--history-of", metavar="LABEL", help="with --history: only clips of that label, such as neutral"
    )
    parser.add_argument("--by-speaker", action="store_true", help="intervals resample speakers, not clips")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="confusions and reliability as PNG")
    parser.add_argument("--batch", type=int, metavar="N", help="of a checkpoint: clips in a batch (32)")
    parser.add_argument("--threads", type=int, metavar="N", help="of a checkpoint: CPU threads")
    parser.add_argument("--hold", type=float, metavar="SECONDS", help="show each photograph for so long")
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="of a checkpoint: N samples put together by label out of the packs, in place of these",
    )
    parser.add_argument("--nothing", type=Path, metavar="DIR", help="with --pairs: the pack of what shows nothing")
    parser.add_argument("--fit-temperature", action="store_true", help="fit on these packs, store, report nothing")
    options = parser.parse_args(arguments)

    def evaluated() -> int:
        if options.history_of is not None and options.history is None:
            raise ConfigError(f"--history-of {options.history_of} goes with --history SECONDS; add it")
        return _evaluate(options) if options.bundle is None else _score(options)

    return _reporting("clcr-eval", evaluated)


def _train(options: argparse.Namespace) -> int:
    import msgspec

    from clcr.training import train
    from clcr.training.recipe import check_recipe, load_recipe, recipe_kind

    _set_threads(options.threads)
    if (kind := recipe_kind(options.recipe)) in ("faces", "words"):
        return _train_part(options, kind)
    recipe = load_recipe(options.recipe)
    if options.steps is not None:
        recipe = msgspec.structs.replace(recipe, steps=options.steps)
        check_recipe(recipe, "--steps")
    left_out = tuple(options.leave_out)
    if options.folds is not None:
        from clcr.training import folds

        wanted = folds.Folds(options.folds, tuple(options.pack))
        report = folds.cross_validate(options.run, recipe, options.init, wanted)
        print(folds.summary(report))
        return 0 if report["complete"] else STOPPED_CODE
    if options.resume:
        run = train.resume_run(options.run, recipe, left_out)
    else:
        run = train.begin(options.run, recipe, options.init, left_out)
    outcome = train.train(run)
    print(f"{outcome} at step {run.progress.step}; best {run.progress.best_score:.3f} at step {run.progress.best_step}")
    return 0 if outcome == train.FINISHED else STOPPED_CODE


def _train_part(options: argparse.Namespace, kind: str) -> int:
    from clcr.training.train import FINISHED

    allowed = ("resume", "threads", "leave_out") if kind == "faces" else ("resume", "threads")
    for flag in ("init", "steps", "leave_out", "folds"):
        if getattr(options, flag) and flag not in allowed:
            raise ConfigError(f"{_flag(flag)} is not for a recipe of {kind}; allowed: {', '.join(map(_flag, allowed))}")
    if kind == "faces":
        import msgspec

        from clcr.training.faces import load_face_recipe, train_faces

        faces = load_face_recipe(options.recipe)
        if options.leave_out:
            faces = msgspec.structs.replace(faces, leave_out=tuple(options.leave_out))
        outcome = train_faces(options.run, faces, options.resume)
    else:
        from clcr.training.words import load_words_recipe, train_words

        outcome = train_words(options.run, load_words_recipe(options.recipe), options.resume)
    print(outcome)
    return 0 if outcome == FINISHED else STOPPED_CODE


def _bundle_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="score this bundle through the runtime, hop by hop")
    parser.add_argument(
        "--manifest", type=Path, nargs="+", action="extend", metavar="M.csv", help="of a bundle: one set each"
    )
    parser.add_argument(
        "--media-root",
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="where the media paths of the manifests begin: one for all, or one each",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="of a bundle: at most N clips a manifest, taken evenly")
    parser.add_argument("--backend", help="of a bundle: auto (default), onnxruntime or tensorrt")
    parser.add_argument(
        "--by-time", action="store_true", help="of a bundle: scores by the seconds heard and seen since a clip's begin"
    )
    parser.add_argument(
        "--joined",
        type=float,
        metavar="SECONDS",
        help="of a bundle: also each speaker's clips joined, so much of one emotion and then of another",
    )
    parser.add_argument(
        "--people", type=Path, metavar="P.csv", help="of a bundle: scores by groups of speakers (speaker,sex,...)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from clcr.training import report
    from clcr.training.checkpoint import load_checkpoint
    from clcr.training.fusion import fusion_table

    if options.checkpoint is None or options.pack is None:
        raise ConfigError("give CHECKPOINT and --pack, or --bundle, --manifest and --media-root; see clcr-eval --help")
    _refuse(options, _OF_A_BUNDLE, "--bundle")
    _set_threads(options.threads)
    model = load_checkpoint(options.checkpoint)
    request = report.Request(
        packs=tuple(options.pack),
        split=options.split,
        subsets=options.subsets,
        having=options.having,
        by_speaker=options.by_speaker,
        batch_size=options.batch or 32,
        history_s=options.history or 0.0,
        history_of=options.history_of,
        hold_s=options.hold or 0.0,
        pairs=options.pairs or 0,
        nothing=options.nothing,
    )
    if options.fit_temperature:
        print(report.calibrate_checkpoint(options.checkpoint, model, request))
        return 0
    results = report.evaluate(options.checkpoint, model, request, options.plots)
    print(report.table(results["packs"]))
    print(fusion_table(results["fusion"]), end="")
    if options.json is not None:
        _make_folder(options.json.parent)
        _write_json(options.json, results)
    return 0


def _score(options: argparse.Namespace) -> int:
    from clcr.scoring.bundle import BundleRequest, score_bundle
    from clcr.scoring.report import groups_table, table, times_table

    if options.checkpoint is not None:
        raise ConfigError(f"{options.checkpoint} and --bundle {options.bundle}: give one of them")
    _refuse(options, _OF_A_CHECKPOINT, "a checkpoint")
    if options.manifest is None or options.media_root is None:
        raise ConfigError("--bundle needs --manifest M.csv and --media-root DIR; docs/data.md describes a manifest")
    request = BundleRequest(
        bundle=options.bundle,
        manifests=tuple(options.manifest),
        media_roots=tuple(options.media_root),
        split=options.split,
        subsets=options.subsets,
        limit=options.limit,
        backend=options.backend or "auto",
        history_s=options.history or 0.0,
        history_of=options.history_of,
        hold_s=options.hold or 0.0,
        by_time=options.by_time,
        joined_s=options.joined or 0.0,
        people=options.people,
    )
    for path in (options.json, options.plots):
        if path is not None:
            _make_folder(path.parent if path == options.json else path)
    with _progress_line() as say:
        results = score_bundle(request, say, options.plots)
    print(table(results["sets"], options.by_speaker))
    print(times_table(results["sets"]) + groups_table(results["sets"]), end="")
    if options.json is not None:
        _write_json(options.json, results)
    return 0


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse(options: argparse.Namespace, defaults: Mapping[str, object], owner: str) -> None:
    """ConfigError for a flag that was given and belongs to the other way of scoring."""
    for name, default in defaults.items():
        if getattr(options, name) != default:
            raise ConfigError(f"{_flag(name)} goes with {owner} only; see clcr-eval --help")


@contextmanager
def _progress_line() -> Iterator[Say]:
    """Says how far it is on standard error: a line in place on a terminal, else one every 10 s."""
    terminal, told_s = sys.stderr.isatty(), time.monotonic()
    width = 0

    def say(text: str, last: bool) -> None:
        nonlocal told_s, width
        if terminal:
            print(f"\r{text:<{width}}", end="\n" if last else "", file=sys.stderr, flush=True)
            width = 0 if last else len(text)
        elif last or time.monotonic() - told_s >= 10.0:
            told_s = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if width:
            print(file=sys.stderr)


def _make_folder(folder: Path) -> None:
    """Before hours of work, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); give another place") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: cannot be written to; give another place")


def _write_json(path: Path, results: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another place") from error


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _reporting(name: str, command: Callable[[], int]) -> int:
    try:
        return command()
    except ClcrError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED_CODE


if __name__ == "__main__":
    sys.exit(train_main())
