"""One tick through the model, for every stream that is due: level 1 -> 2 -> 3 -> InterCAD in one call each.

A stream has a seat, its row in every buffer. Seats stay dense, so that the streams of a batch lie side by side and
nothing is gathered: taking a seat away moves the last one into its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.loader import Bundle
from clcr_stream.bundle.manifest import MODALITIES
from clcr_stream.errors import BackendError
from clcr_stream.inference.baselines import Baseline, Baselines, BaselineStates, baseline_states
from clcr_stream.inference.program import LEVELS, TICK_ENGINES, Backend, Graph, Runner, single_program, tick_program

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class LevelOutputs:
    """What one tick says of one stream; arrays are copies, modalities and levels in contract order."""

    output: F64  # probs [classes], or value [1] for a regression bundle
    omega: F64  # weights of the levels [3]
    beta: F64  # weights of the modalities [3]
    eta: F64  # gates of the modalities [3]
    active: F64  # share of the valid tokens with alpha > 0 [level, modality]
    mass: F64  # sum of alpha per valid token [level, modality]
    budget: F64  # B in tokens [level, modality]
    present: F64  # [modality]
    alpha: tuple[F64, ...] = field(default=())  # of each token: [tokens] by level, then modality


class Levels:
    """The engines of a tick for up to `seats` streams; `run` advances the state of some of them by one hop."""

    def __init__(self, bundle: Bundle, backend: Backend, seats: int = 1) -> None:
        self.backend = backend.name
        self.seats = seats
        self.taken = 0
        manifest = bundle.manifest
        graphs = {name: graph_of(bundle, name) for name in TICK_ENGINES}
        self._runner: Runner = backend.open(tick_program(manifest.engines), graphs, seats)
        self._baselines = baseline_states(manifest)
        self._score = "value" if manifest.task == "regression" else "probs"
        tokens = (manifest.vision.tokens, manifest.acoustic.tokens, manifest.language.tokens)
        self._edges = np.cumsum([0, *(tokens * len(LEVELS))])[:-1]
        self._alphas = [self._runner.outputs[f"alpha_{m}_{level}"] for level in LEVELS for m in MODALITIES]
        self._budgets = [self._runner.outputs[f"budget_{level}"] for level in LEVELS]
        self._rows: dict[int, dict[str, NDArray[Any]]] = {}  # views, made once per seat

    def take(self) -> int:
        """A seat at stream start. BackendError when all are taken."""
        if self.taken == self.seats:
            raise BackendError(f"all {self.seats} seats are taken; raise run.max_streams")
        seat = self.taken
        self.taken += 1
        for array in self._runner.inputs.values():
            array[seat] = 0
        self.clear(seat)
        return seat

    def leave(self, seat: int) -> int:
        """Give a seat back; the seat whose stream has moved into it, `seat` itself when none had to."""
        last = self.taken - 1
        if seat != last:
            self._runner.move(last, seat)
        self.taken = last
        return last

    def clear(self, seat: int) -> None:
        """Zero the state of a seat, as at stream start."""
        self._runner.clear(seat)

    @property
    def baseline_states(self) -> Mapping[str, BaselineStates]:
        """The state tensors of a person's baseline, by modality; {} where the bundle keeps none."""
        return self._baselines

    def baselines(self, seat: int) -> dict[str, Baseline]:
        """What is usual for the person of a seat, by modality; copies."""
        names = [name for states in self._baselines.values() for name in (*states.means, *states.steps)]
        rows = self._runner.read_state(seat, names) if names else {}
        return {modality: states.read(rows) for modality, states in self._baselines.items()}

    def set_baselines(self, seat: int, baselines: Baselines) -> None:
        """Set those of some modalities; the others, and all else that a seat remembers, stay as they are."""
        for modality, baseline in baselines.items():
            self._runner.write_state(seat, self._baselines[modality].rows(baseline))

    def clear_baseline(self, seat: int, modality: str) -> None:
        """The baseline of a modality as at stream start."""
        self.set_baselines(seat, {modality: self._baselines[modality].empty()})

    def inputs(self, seat: int) -> dict[str, NDArray[Any]]:
        """The rows to fill before a run, by name; those of the language end in _1, _2, _3 for the level."""
        rows = self._rows.get(seat)
        if rows is None:
            rows = self._rows[seat] = {name: array[seat] for name, array in self._runner.inputs.items()}
        return rows

    def run(self, first: int, count: int) -> Mapping[str, float]:
        """Take seats [first, first + count) through all levels; the time of each engine, ms."""
        return self._runner.run(first, count)

    def outputs(self, seat: int, valid: F64) -> LevelOutputs:
        """What the last run said of a seat; `valid` are the window's valid tokens [modality]."""
        said = self._runner.outputs
        alpha = np.concatenate([array[seat] for array in self._alphas], dtype=np.float64)
        each = tuple(np.split(alpha, self._edges[1:]))
        counts = np.maximum(1.0, valid)
        shape = (len(LEVELS), len(MODALITIES))
        return LevelOutputs(
            output=_copy(said[self._score][seat]),
            omega=_copy(said["omega"][seat]),
            beta=_copy(said["beta"][seat]),
            eta=_copy(said["eta"][seat]),
            active=np.add.reduceat(alpha > 0, self._edges, dtype=np.float64).reshape(shape) / counts,
            mass=np.add.reduceat(alpha, self._edges).reshape(shape) / counts,
            budget=np.stack([array[seat] for array in self._budgets], dtype=np.float64),
            present=_copy(said["present"][seat]),
            alpha=each,
        )

    def close(self) -> None:
        """Let go of the engines."""
        self._runner.close()


def graph_of(bundle: Bundle, name: str) -> Graph:
    """A verified engine of a bundle."""
    spec = bundle.manifest.engines[name]
    return Graph(bundle.engine_bytes(name), bundle.manifest.files[spec.file].sha256, spec)


def open_encoder(bundle: Bundle, backend: Backend) -> Runner:
    """The language engine as a program of its own: it runs when a text changes, not at every tick."""
    graph = graph_of(bundle, "language")
    return backend.open(single_program("language", graph.spec), {"language": graph}, 1)


def _copy(row: NDArray[Any]) -> F64:
    return row.astype(np.float64)
