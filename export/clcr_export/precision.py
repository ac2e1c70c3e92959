"""Engines in float16 or int8, measured against the float32 engines; gates.py says what they may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.network.config import LEVELS
from clcr.network.model import CLCR
from clcr.network.streaming import PUBLIC_OUTPUTS, Grid
from clcr.training import metrics
from clcr.training.data.cache import Pack
from clcr_export.clips import answers, once_per_text, opened, scenario_of, thinned
from clcr_export.gates import LIMITS, PrecisionError, Report
from clcr_export.graphs import Graph, export_graph
from clcr_export.half import rounded, to_half
from clcr_export.macs import multiply_adds_by_type
from clcr_export.proof import Arrays, Chain, Run, Scenario, batch_difference, largest, sessions
from clcr_export.quantise import Ranges, prepared, quantisable, to_int8, watched
from clcr_stream.errors import ConfigError

MODES = ("fp32", "fp16", "int8")
RANGES = ("absmax", "percentile")
CALIBRATION_CLIPS = 64  # of each pack
HALF_ENGINES = ("intercad",)  # float16 in int8, too: 0.4 of 94 million multiply-adds, and every answer passes there
COMPARED = (*PUBLIC_OUTPUTS[2:], "probs", "omega", "beta", "eta")
CALIBRATION_SPLIT = "train"
Say = Callable[[str], None]
Graphs = Mapping[str, Graph]


@dataclass(frozen=True)
class Precision:
    """What `clcr-export` was asked for: the mode, the clips of the task gate, the clips that set int8's scales."""

    mode: str = "fp32"
    evaluate: tuple[Path, ...] = ()
    split: str = "dev"
    calibration: tuple[Path, ...] = ()
    ranges: str = "absmax"

    def check(self) -> None:
        """Raise ConfigError when something is missing, or given and not used."""
        if self.mode not in MODES or self.ranges not in RANGES:
            given = f"--precision {self.mode} --range {self.ranges}"
            raise ConfigError(f"{given}: allowed are {', '.join(MODES)} and {', '.join(RANGES)}")
        if self.mode == "fp32" and self.evaluate:
            raise ConfigError("--evaluate: float32 has no such gate; give --precision fp16 or int8 with it")
        if self.mode != "int8" and self.calibration:
            raise ConfigError(f"--calibration: {self.mode} has no scales to set; give --precision int8 with it")
        if self.mode != "fp32" and not self.evaluate:
            raise ConfigError(
                f"--precision {self.mode} needs --evaluate PACK: labelled clips on which macro-F1 may fall by at most "
                f"{LIMITS[self.mode].points} points; see docs/data.md"
            )
        if self.mode == "int8" and not self.calibration:
            raise ConfigError("--precision int8 needs --calibration MANIFEST.csv|PACK: clips that set the scales")


@dataclass(frozen=True)
class Difference:
    """Between an output and what it should be."""

    relative: float  # root mean square of the difference over that of what it should be
    largest: float  # absolute

    @classmethod
    def of(cls, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> Difference:
        """Of two arrays of one shape; infinite where a value is not finite."""
        apart = np.abs(found - wanted)
        if not np.isfinite(apart).all():
            return cls(float("inf"), float("inf"))
        size = float(np.sqrt(np.square(wanted).sum()))
        return cls(float(np.sqrt(np.square(apart).sum())) / (size or 1e-9), float(apart.max()))


@dataclass(frozen=True)
class Bench:
    """What the float32 engines say on the proof's scenario and on the clips, to compare others with."""

    model: CLCR
    grid: Grid
    exact: Graphs
    scenario: Scenario
    packs: Sequence[Pack]
    say: Say

    @cached_property
    def reference(self) -> list[dict[str, Arrays]]:
        """Every tick of the float32 chain."""
        return self._ticks(self.exact, None)

    @cached_property
    def answers(self) -> list[NDArray[np.float32]]:
        """By pack: probabilities (n, C) of the float32 chain at the end of every clip."""
        return self._answers(self.exact)

    def parity(self, graphs: Graphs, broken: tuple[str, str] | None = None) -> dict[str, Difference]:
        """How far `graphs` are from the float32 chain, by engine and output, over all ticks of the scenario."""
        ticks, found = self._ticks(graphs, broken), {}
        for engine in (*(f"level{level}" for level in LEVELS), "intercad"):
            for key in sorted(set(COMPARED) & set(self.reference[0][engine])):
                exact, low = ([tick[engine][key] for tick in run] for run in (self.reference, ticks))
                found[f"{engine}.{key}"] = Difference.of(np.array(low, np.float64), np.array(exact, np.float64))
        return found

    def task(self, graphs: Graphs, mode: str) -> dict[str, dict[str, Any]]:
        """By pack: macro-F1 of the float32 chain and of `graphs` on the same clips."""
        found = {}
        for pack, exact, low in zip(self.packs, self.answers, self._answers(graphs), strict=True):
            before, after = (macro_f1(probs, pack.targets) for probs in (exact, low))
            found[pack.name] = {
                "clips": len(pack),
                "macro_f1": {"fp32": before, mode: after},
                "drop_points": 100.0 * (before - after),
                "changed": int((low.argmax(1) != exact.argmax(1)).sum()),
                "largest_probability_difference": largest(np.abs(low - exact).max(1).tolist()),
            }
        return found

    def _answers(self, graphs: Graphs) -> list[NDArray[np.float32]]:
        run = sessions(graphs)
        return [answers(self.chain(graphs, run), pack, self.say) for pack in self.packs]

    def chain(self, graphs: Graphs, run: Run, broken: tuple[str, str] | None = None) -> Callable[[], Chain]:
        """Makes chains of `graphs` at a stream's start; the language engine runs once per text, as in the runtime."""
        remembering = once_per_text(run)
        return lambda: Chain(graphs, self.model, remembering, broken)

    def _ticks(self, graphs: Graphs, broken: tuple[str, str] | None) -> list[dict[str, Arrays]]:
        chain = self.chain(graphs, sessions(graphs), broken)()
        return [chain.tick(self.scenario, index) for index in range(self.scenario.hops)]


def macro_f1(probs: NDArray[np.float32], targets: NDArray[Any]) -> float:
    """Macro-F1 of the likeliest classes; an engine that says what is not a number is right about nothing."""
    if not np.isfinite(probs).all():
        return 0.0
    counts = metrics.confusion(targets.astype(np.int64), probs.argmax(1).astype(np.int64), probs.shape[1])
    return float(metrics.macro_f1(counts))


@contextmanager
def evaluation_packs(model: CLCR, choice: Precision, tokenizer: Path) -> Iterator[list[Pack]]:
    """The packs of the task gate, open. Raises ConfigError."""
    if model.config.task != "classification":
        raise ConfigError(f"--precision {choice.mode}: a {model.config.task} checkpoint has no macro-F1; export fp32")
    with ExitStack() as stack:
        yield [stack.enter_context(opened(path, choice.split, model, tokenizer)) for path in choice.evaluate]


def lower(bench: Bench, choice: Precision, tokenizer: Path) -> tuple[dict[str, Graph], Report]:
    """The engines in `choice.mode` and the report on them; PrecisionError when a gate is not passed."""
    full = {name: export_graph(name, graph.module) for name, graph in bench.exact.items()}
    calibration: dict[str, Any] = {}
    if choice.mode == "int8":
        full, calibration = quantised(bench, full, choice, tokenizer)
    low = _with_data(full, {name: to_half(graph.data) for name, graph in full.items()})
    measured = _with_data(low, {name: rounded(graph.data) for name, graph in low.items()})
    report = Report(
        mode=choice.mode,
        shares={name: _shares(graph.data) for name, graph in low.items()},
        bytes={name: len(graph.data) for name, graph in low.items()},
        limits=asdict(LIMITS[choice.mode]),
        calibration=calibration,
    )
    measure(bench, low, measured, report)
    if report.failures():
        blame(bench, measured, report)
        raise PrecisionError(report)
    return low, report


def measure(bench: Bench, low: Graphs, measured: Graphs, report: Report) -> None:
    """Fill in the report's figures: `low` is what is written, `measured` computes what its hardware will."""
    bench.say(f"{report.mode}: against the float32 chain")
    parity = bench.parity(measured)
    report.parity, report.largest = _relative(parity), {name: found.largest for name, found in parity.items()}
    report.written = _relative(bench.parity(low))
    run = sessions(measured)
    report.batched = {name: batch_difference(run, name, graph.module) for name, graph in low.items()}
    state = report.limits["broken_state"]
    for level in LEVELS:
        found = _relative(bench.parity(measured, (f"level{level}", state)))
        ratios = [worst / report.allowed(name) for name, worst in found.items() if report.allowed(name)]
        report.control[f"level{level}.{state} zeroed"] = largest(ratios)
    report.task = bench.task(measured, report.mode)


def blame(bench: Bench, measured: Graphs, report: Report) -> None:
    """Try each engine alone in the lower precision, the others in float32."""
    for name in measured:
        bench.say(f"{report.mode}: {name} alone")
        mixed = {**bench.exact, name: measured[name]}
        parity, task = _relative(bench.parity(mixed)), bench.task(mixed, report.mode)
        drops = {pack: scores["drop_points"] for pack, scores in task.items()}
        fails = report.over("parity", parity) + report.lost(task)
        report.alone[name] = {"fails": fails, "drop_points": drops, "parity": parity}


def quantised(
    bench: Bench, full: Graphs, choice: Precision, tokenizer: Path
) -> tuple[dict[str, Graph], dict[str, Any]]:
    """The float32 engines with their products of weights in int8, and what they were calibrated on."""
    ready = _with_data(full, {name: prepared(graph.data) for name, graph in full.items()})
    calibrated = {name: graph for name, graph in ready.items() if name not in HALF_ENGINES}
    ranges, clips = calibrate(bench, ready, choice, tokenizer)
    data = {name: graph.data for name, graph in ready.items()}
    data |= {n: to_int8(g.data, ranges[n].scales(choice.ranges)) for n, g in calibrated.items()}
    return _with_data(full, data), {"clips": clips, "split": CALIBRATION_SPLIT, "ranges": choice.ranges}


class _Watch:
    """Runs engines and notes how large what their products read becomes, where there is something to read."""

    def __init__(self, ready: Graphs) -> None:
        self.graphs = _with_data(ready, {name: watched(graph.data) for name, graph in ready.items()})
        self.ranges = {name: Ranges() for name in ready}
        self.seen: set[str] = set()
        self._wanted = {name: set(quantisable(graph.data).values()) for name, graph in ready.items()}
        self._run = sessions(self.graphs)

    def run(self, name: str, inputs: Arrays) -> Arrays:
        outputs = self._run(name, inputs)
        present = {key.partition("_")[0] for key, value in inputs.items() if key.endswith("_valid") and value.any()}
        if present:
            self.seen |= present
            self.ranges[name].observe({k: outputs[k] if k in outputs else inputs[k] for k in self._wanted[name]})
        return outputs


def calibrate(
    bench: Bench, ready: Graphs, choice: Precision, tokenizer: Path
) -> tuple[dict[str, Ranges], dict[str, int]]:
    """Stream clips of the training split through the float32 engines; ranges by engine, number of clips by pack.

    Raises ConfigError when a modality occurs in no clip: its scales would be guesses.
    """
    watch, used = _Watch(ready), {}
    chains = bench.chain(watch.graphs, watch.run)
    for source in choice.calibration:
        with opened(source, CALIBRATION_SPLIT, bench.model, tokenizer) as pack:
            rows = thinned(pack, CALIBRATION_CLIPS)
            used[pack.name] = len(rows)
            for row in rows:
                bench.say(f"calibrating: {pack.name}, clip {row + 1} of {len(pack)}")
                scenario, chain = scenario_of(pack.clip(row), bench.grid, bench.model.config.mel_bands), chains()
                for hop in range(scenario.hops):
                    chain.tick(scenario, hop)
    for name, inputs in {"vision": "vision", "acoustic": "acoustic", "token": "language"}.items():
        if name not in watch.seen:
            packs = ", ".join(used)
            raise ConfigError(f"--calibration {packs}: no clip has {inputs}; name one more pack, with {inputs} in it")
    return watch.ranges, used


def _relative(found: Mapping[str, Difference]) -> dict[str, float]:
    return {name: difference.relative for name, difference in found.items()}


def _with_data(graphs: Graphs, data: Mapping[str, bytes]) -> dict[str, Graph]:
    return {name: replace(graph, data=data[name]) for name, graph in graphs.items()}


def _shares(data: bytes) -> dict[str, float]:
    counts = multiply_adds_by_type(data)
    return {kind: count / sum(counts.values()) for kind, count in sorted(counts.items())}
