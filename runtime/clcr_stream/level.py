"""One tick through the model: level 1 -> 2 -> 3 -> InterCAD; each engine carries its own state from hop to hop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.backends import Arrays, Backend, Engine
from clcr_stream.bundle import Bundle
from clcr_stream.clock import NS_PER_MS
from clcr_stream.language import LanguageTokens
from clcr_stream.manifest import MODALITIES
from clcr_stream.window import Chunk

F64 = NDArray[np.float64]
LEVELS = (1, 2, 3)
_HOP_INPUTS = ("vision_valid", "acoustic_valid", "vision_position", "acoustic_position")


@dataclass(frozen=True)
class LevelOutputs:
    """What one tick says; arrays are copies, modalities and levels in contract order."""

    output: F64  # probs [classes], or value [1] for a regression bundle
    omega: F64  # weights of the levels [3]
    beta: F64  # weights of the modalities [3]
    eta: F64  # gates of the modalities [3]
    active: F64  # share of the valid tokens with alpha > 0 [level, modality]
    mass: F64  # sum of alpha per valid token [level, modality]
    budget: F64  # B in tokens [level, modality]
    present: F64  # [modality]
    timing_ms: dict[str, float]


class Levels:
    """The four engines of a tick; `step` advances their state by one hop."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.backend = backend.name
        self._regression = bundle.manifest.task == "regression"
        manifest = bundle.manifest
        names = ("level1", "level2", "level3", "intercad")
        self._engines: dict[str, Engine] = {
            name: backend.load(name, bundle.engine_bytes(name), manifest.engines[name]) for name in names
        }
        self._gamma = np.zeros((1, 1), dtype=np.float32)

    def reset(self) -> None:
        """Zero the state of every level, as at stream start."""
        for engine in self._engines.values():
            engine.reset()

    def step(self, chunk: Chunk, language: LanguageTokens, gamma: float) -> LevelOutputs:
        """Run the hop's chunk through all levels; `gamma` scales the exchange budget (0 = no exchange)."""
        self._gamma[0, 0] = gamma
        timing_ms: dict[str, float] = {}
        pooled: dict[str, NDArray[Any]] = {}
        alphas, budgets = [], []
        tokens: dict[str, NDArray[Any]] = {
            "vision_in": chunk.inputs["vision_in"],
            "acoustic_in": chunk.inputs["acoustic_in"],
        }
        shared_inputs = {name: chunk.inputs[name] for name in _HOP_INPUTS} | {
            "language_valid": language.valid,
            "gamma": self._gamma,
        }
        outputs: Arrays = {}
        for level in LEVELS:
            inputs = shared_inputs | tokens | {"language_h": language.levels[level]}
            outputs = self._timed(f"level{level}", inputs, timing_ms)
            tokens = {"vision_in": outputs["vision_out"], "acoustic_in": outputs["acoustic_out"]}
            pooled[f"shared_{level}"], pooled[f"private_{level}"] = outputs["shared"], outputs["private"]
            alphas.append([np.array(outputs[f"alpha_{modality}"][0], dtype=np.float64) for modality in MODALITIES])
            budgets.append(np.array(outputs["budget"][0], dtype=np.float64))
        present = outputs["present"]
        head = self._timed("intercad", pooled | {"present": present}, timing_ms)
        counts = _valid_counts(chunk, language, [len(alpha) for alpha in alphas[0]])
        return LevelOutputs(
            output=_copy(head["value" if self._regression else "probs"]),
            omega=_copy(head["omega"]),
            beta=_copy(head["beta"]),
            eta=_copy(head["eta"]),
            active=np.array([[float((alpha > 0).sum()) for alpha in row] for row in alphas]) / counts,
            mass=np.array([[float(alpha.sum()) for alpha in row] for row in alphas]) / counts,
            budget=np.stack(budgets),
            present=_copy(present),
            timing_ms=timing_ms,
        )

    def _timed(self, name: str, inputs: Arrays, timing_ms: dict[str, float]) -> Arrays:
        start_ns = time.perf_counter_ns()
        outputs = self._engines[name].run(inputs)
        timing_ms[name] = (time.perf_counter_ns() - start_ns) / NS_PER_MS
        return outputs


def _valid_counts(chunk: Chunk, language: LanguageTokens, sizes: list[int]) -> F64:
    """Valid tokens per modality in the window, at least one so that a share of nothing is zero."""
    coverage = (chunk.vision.coverage, chunk.acoustic.coverage, language.coverage)
    counts: F64 = np.maximum(1.0, np.array([share * size for share, size in zip(coverage, sizes, strict=True)]))
    return counts


def _copy(array: NDArray[Any]) -> F64:
    copy: F64 = np.array(array[0], dtype=np.float64)
    return copy
