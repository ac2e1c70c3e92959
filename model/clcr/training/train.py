"""The training loop: heterogeneous batches, watched on development packs, stoppable and resumable at any step.

Every random choice of step k is drawn from (seed, k): on a CPU a resumed run repeats an uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize
from tqdm import tqdm

from clcr.network.losses import UNLABELLED, TotalLoss
from clcr.network.model import CLCR
from clcr.training import checkpoint
from clcr.training.data.cache import Pack
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import Feed, Group, PackOpener, dev_pack
from clcr.training.optimisation import Average, build_optimizer, freeze_statistics, rate_factor, set_rates
from clcr.training.plots import plot_curves
from clcr.training.recipe import Recipe, recipe_to_yaml
from clcr.training.start import CALIBRATION_STEPS, calibrate_sound, model_from, new_model, sound_is_fresh
from clcr.training.stored import StoredPacks
from clcr_stream.clock import Clock, MonotonicClock
from clcr_stream.errors import ClcrError, ConfigError

FINISHED, STOPPED = "finished", "stopped"


class TrainingError(ClcrError):
    """Training cannot go on: a loss or gradient that is not finite."""

    exit_code = 8


@dataclass(frozen=True)
class Progress:
    """How far a run is; the whole of state.json. Random numbers need no state: they are drawn from (seed, step)."""

    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """A run folder and what trains in it; built by `start_run` or `resume_run`."""

    folder: Path
    recipe: Recipe
    model: CLCR
    loss: TotalLoss
    optimizer: torch.optim.Optimizer
    leave_out: tuple[str, ...] = ()
    average: Average | None = None
    progress: Progress = field(default_factory=Progress)
    provenance: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=MonotonicClock)

    def weights(self) -> checkpoint.State:
        """What is evaluated and published: the averaged weights where the recipe keeps them."""
        return self.average.weights if self.average is not None else self.model.state_dict()


def start_run(
    folder: Path, recipe: Recipe, model: CLCR, leave_out: tuple[str, ...] = (), init: Path | None = None
) -> Run:
    """Prepare a new run folder: the recipe, its provenance, an empty log. Raises ConfigError if it holds a run.

    init: the checkpoint that the model came from; what it was trained on stays known.
    """
    if (folder / "recipe.yaml").exists():
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it or choose another --run")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    provenance = describe_origin(recipe, leave_out)
    if init is not None:
        provenance["earlier"] = checkpoint.trainings_of(init)
    checkpoint.write_json(folder / "run.json", provenance)
    return _assemble(folder, recipe, model, leave_out, provenance)


def begin(folder: Path, recipe: Recipe, init: Path | None = None, leave_out: tuple[str, ...] = ()) -> Run:
    """A new run from a checkpoint, or from the recipe's encoders, whose sound gets its constants from the run's data.

    Raises ConfigError and CheckpointError.
    """
    model = new_model(recipe) if init is None else model_from(init, recipe)
    run = start_run(folder, recipe, model, leave_out, init)
    if sound_is_fresh(recipe, init):
        calibrate(run)
    return run


def resume_run(folder: Path, recipe: Recipe, leave_out: tuple[str, ...] = ()) -> Run:
    """Continue from the run's last training state. Raises CheckpointError when there is none."""
    last = folder / "last"
    checkpoint.recover(last)
    run = _assemble(
        folder, recipe, checkpoint.load_checkpoint(last), leave_out, checkpoint.read_json(folder / "run.json")
    )
    checkpoint.load_optimizer(last / "optimizer.safetensors", run.optimizer)
    checkpoint.load_weights(run.loss, checkpoint.read_tensors(last / "loss.safetensors"), last)
    if run.average is not None:
        run.average.weights = checkpoint.read_tensors(last / "ema.safetensors")
    run.progress = Progress(**checkpoint.read_json(last / "state.json"))
    truncate_log(folder / "log.jsonl", run.progress.step)
    return run


def calibrate(run: Run) -> None:
    """Fit the constants of a fresh acoustic encoder to the run's own training batches."""
    feed = _feed(run)
    calibrate_sound(run.model, (feed.at(run.recipe.steps + step) for step in range(CALIBRATION_STEPS)))
    if run.average is not None:
        run.average = Average.of(run.model, run.recipe.ema_decay)


def save_state(run: Run) -> None:
    """Replace `last/`: the raw weights, the optimizer, the average and the progress, all of one step."""
    with checkpoint.replacing_folder(run.folder / "last") as folder:
        checkpoint.write_model(folder, run.model, Path(run.recipe.tokenizer), _info(run))
        checkpoint.save_optimizer(folder / "optimizer.safetensors", run.optimizer)
        checkpoint.save_tensors(folder / "loss.safetensors", run.loss.state_dict())
        if run.average is not None:
            checkpoint.save_tensors(folder / "ema.safetensors", run.average.weights)
        checkpoint.write_json(folder / "state.json", run.progress.__dict__)


def train(run: Run, until_step: int | None = None) -> str:
    """Train to the recipe's last step; stop early after `until_step` or at SIGTERM/SIGINT. Says which it was.

    Every evaluation goes to log.jsonl, metrics.json and curves.png; the best weights to best/, the last to final/.
    """
    recipe = run.recipe
    end = min(recipe.steps, until_step or recipe.steps)
    started_ns, saved_ns = run.clock.now_ns(), run.clock.now_ns()
    before_seconds = run.progress.seconds
    window: list[dict[str, float]] = []
    feed = _feed(run, _opener(run, recipe.stored_versions))
    with (
        stop_signals() as stopping,
        feed.prefetching(run.progress.step, end) as batches,
        tqdm(total=recipe.steps, initial=run.progress.step, unit="step", mininterval=2.0) as bar,
    ):
        for groups in batches:
            window.append(train_step(run, groups))
            now_ns = run.clock.now_ns()
            run.progress = replace(
                run.progress, step=run.progress.step + 1, seconds=before_seconds + (now_ns - started_ns) / 1e9
            )
            bar.update()
            if run.progress.step % recipe.log_every_steps == 0:
                bar.set_postfix(loss=f"{_log_window(run, window):.3f}")
                window.clear()
            if run.progress.step % recipe.eval_every_steps == 0 or run.progress.step == recipe.steps:
                watch(run)
            if stopping():
                break
            if now_ns - saved_ns > recipe.checkpoint_minutes * 60e9:
                save_state(run)
                saved_ns = now_ns
    save_state(run)
    if run.progress.step < recipe.steps:
        return STOPPED
    checkpoint.save_checkpoint(run.folder / "final", run.model, Path(recipe.tokenizer), _info(run), run.weights())
    return FINISHED


def train_step(run: Run, groups: list[Group]) -> dict[str, float]:
    """One update of the weights; returns the loss terms, the gradient norm and the batch accuracy.

    The groups' losses are added by their share of the samples, so a step weighs every sample alike.
    """
    recipe, step = run.recipe, run.progress.step
    torch.manual_seed(recipe.seed * 1_000_003 + step)
    run.model.train()
    if recipe.freeze_statistics:
        freeze_statistics(run.model)
    set_rates(run.optimizer, rate_factor(step, recipe))
    run.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    # The orthogonal bases are computed once a step, not once a group and use.
    with parametrize.cached():
        for group in groups:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
                outputs = run.model(group.batch, history=group.history)
            terms = run.loss(outputs, group.labels)
            if run.model.config.task == "classification":
                right = outputs.logits.detach().argmax(1) == group.labels
                terms["accuracy"] = right.sum() / (group.labels != UNLABELLED).sum().clamp(min=1)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros(())) + group.share * term
        sums["total"].backward()
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip_norm)
    if not bool(torch.isfinite(norm)):
        raise TrainingError(
            f"step {step}: the gradient is not finite; lower learning_rate or set precision: fp32, then start again"
        )
    run.optimizer.step()
    if run.average is not None:
        run.average.update(run.model, step)
    return {**{name: float(value.detach()) for name, value in sums.items()}, "gradient_norm": float(norm)}


def watch(run: Run) -> None:
    """Score every development pack and subset, log it, keep the best weights, draw the curves."""
    if not run.recipe.best.of:
        return
    model = run.model
    raw = {name: value.clone() for name, value in model.state_dict().items()} if run.average is not None else None
    if run.average is not None:
        model.load_state_dict(run.average.weights)
    scores: dict[str, dict[str, float]] = {}
    open_pack = _opener(run, 0)
    for use in run.recipe.dev:
        pack = dev_pack(use, class_names(model), open_pack)
        for subset in use.subsets:
            result = evaluate_subset(model, pack, subset, run.recipe.eval_batch)
            scores[f"{Path(use.pack).name}/{subset}"] = result.brief()
    if raw is not None:
        model.load_state_dict(raw)
    score = float(np.mean([scores[name][run.recipe.best.metric] for name in run.recipe.best.of]))
    best = score > run.progress.best_score
    if best:
        run.progress = replace(run.progress, best_score=score, best_step=run.progress.step)
        info = _info(run)
        checkpoint.save_checkpoint(run.folder / "best", model, Path(run.recipe.tokenizer), info, run.weights())
    append_record(run.folder / "log.jsonl", {"step": run.progress.step, "dev": scores, "score": score, "best": best})
    checkpoint.write_json(run.folder / "metrics.json", {**run.progress.__dict__, "score": score, "dev": scores})
    plot_curves(run.folder / "log.jsonl", run.folder / "curves.png")


def class_names(model: CLCR) -> tuple[str, ...] | None:
    """The labels a pack is read with: the model's classes, None for regression."""
    return model.config.labels if model.config.task == "classification" else None


def describe_origin(recipe: Recipe, leave_out: tuple[str, ...]) -> dict[str, Any]:
    """Where a run's numbers come from: data, revision, versions, machine, speakers left out, faces seen before."""
    packs = [use.pack for use in recipe.train] + list(recipe.pairs.nothing if recipe.pairs is not None else ())
    return {
        "train_packs": sorted({Path(pack).name for pack in packs}),
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "leave_out": list(leave_out),
        **({"acoustic_weights": msgspec.to_builtins(recipe.acoustic)} if recipe.acoustic is not None else {}),
        **({"faces_of": checkpoint.people_of(Path(recipe.vision))} if recipe.vision is not None else {}),
    }


def _assemble(folder: Path, recipe: Recipe, model: CLCR, leave_out: tuple[str, ...], provenance: dict[str, Any]) -> Run:
    weights = None if recipe.class_weights is None else torch.tensor(recipe.class_weights)
    if weights is not None and len(weights) != len(model.config.labels):
        raise ConfigError(f"recipe: {len(weights)} class_weights for the labels {', '.join(model.config.labels)}")
    run = Run(folder, recipe, model, TotalLoss(model.config, weights), build_optimizer(model, recipe), leave_out)
    run.average = Average.of(model, recipe.ema_decay) if recipe.ema_decay > 0 else None
    run.provenance = provenance
    return run


def _opener(run: Run, versions: int) -> PackOpener:
    """Opens packs: with the frozen encoders' outputs in so many changed versions, where the recipe keeps those."""
    return StoredPacks(run.model, run.recipe, versions) if run.recipe.stored_versions else Pack


def _feed(run: Run, open_pack: PackOpener = Pack) -> Feed:
    return Feed(run.recipe, class_names(run.model), run.leave_out, run.model.config.mel, open_pack)


def _info(run: Run) -> checkpoint.CheckpointInfo:
    origin = {**run.provenance, "recipe": run.folder.name, "step": run.progress.step, "seconds": run.progress.seconds}
    return checkpoint.CheckpointInfo(run.model.config.labels, origin)


def _log_window(run: Run, window: list[dict[str, float]]) -> float:
    means = {name: float(np.mean([values[name] for values in window])) for name in window[0]}
    means["loss"] = means.pop("total")
    rate = run.optimizer.param_groups[-1]["lr"]
    append_record(
        run.folder / "log.jsonl", {"step": run.progress.step, "seconds": run.progress.seconds, "rate": rate, **means}
    )
    return means["loss"]


def append_record(log: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON to a run's log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def truncate_log(log: Path, step: int) -> None:
    """Drop what was logged after the state that is resumed; a torn last line counts as such."""
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    log.write_text("".join(kept), encoding="utf-8")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """While the block runs, SIGTERM and SIGINT only raise a flag, so that a step is finished and saved."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
