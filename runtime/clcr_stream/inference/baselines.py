"""A person's baseline in a bundle's engines: which state tensors it is, and what it holds.

Every level carries, of vision and of sound, the mean of the features of earlier hops and the number of steps that it is
made of (docs/model.md, 1.1). Empty at the start of a stream, and then without effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError
from clcr_stream.inference.program import LEVELS

if TYPE_CHECKING:
    from clcr_stream.bundle.manifest import EngineSpec, Manifest

CARRIERS = ("vision", "acoustic")  # the modalities that can have one
HORIZON_S = 60.0  # the engines forget what is older; a baseline of this age changes slowest


@dataclass(frozen=True, eq=False)
class Baseline:
    """What is usual for a face or a voice, at every level: the mean features, and how many steps they are made of."""

    mean: NDArray[np.float32]  # (levels, width)
    steps: NDArray[np.float32]  # (levels,), 0: nothing is known yet

    @property
    def age_steps(self) -> float:
        """The steps of the level that knows least."""
        return float(self.steps.min())


Baselines = Mapping[str, Baseline]  # by modality


@dataclass(frozen=True)
class BaselineStates:
    """The state tensors of one modality's baseline, by level, under the names of a runner (`engine/tensor`)."""

    means: tuple[str, ...]
    steps: tuple[str, ...]
    width: int
    steps_per_s: float

    @property
    def horizon_steps(self) -> float:
        """The most steps that the engines remember."""
        return HORIZON_S * self.steps_per_s

    def read(self, rows: Mapping[str, NDArray[np.float32]]) -> Baseline:
        """The baseline in a seat's rows; copies."""
        means, steps = [rows[name] for name in self.means], [rows[name] for name in self.steps]
        return Baseline(np.stack(means), np.concatenate(steps))

    def rows(self, baseline: Baseline) -> dict[str, NDArray[np.float32]]:
        """A seat's rows for a baseline."""
        means = {name: baseline.mean[index] for index, name in enumerate(self.means)}
        return means | {name: baseline.steps[index : index + 1] for index, name in enumerate(self.steps)}

    def empty(self) -> Baseline:
        """The baseline at the start of a stream."""
        return Baseline(np.zeros((len(self.means), self.width), np.float32), np.zeros(len(self.steps), np.float32))


def baseline_states(manifest: Manifest) -> dict[str, BaselineStates]:
    """By modality; {} for a bundle that keeps no baseline of a person."""
    found = {}
    hops_per_s = NS_PER_S / manifest.hop_ns
    steps_per_hop = {"vision": manifest.vision.slots_per_hop, "acoustic": manifest.acoustic.tokens_per_hop}
    engines = [f"level{level}" for level in LEVELS]
    shapes = [_state_shapes(manifest.engines[engine]) for engine in engines]
    for modality in CARRIERS:
        mean, steps = f"{modality}_baseline", f"{modality}_baseline_steps"
        widths = {shape.get(mean) for shape in shapes}
        (width,) = widths if len(widths) == 1 else (None,)
        if width is not None and len(width) == 1 and all(shape.get(steps) == (1,) for shape in shapes):
            found[modality] = BaselineStates(
                tuple(f"{engine}/{mean}" for engine in engines),
                tuple(f"{engine}/{steps}" for engine in engines),
                width[0],
                hops_per_s * steps_per_hop[modality],
            )
    return found


def check_baselines(baselines: Baselines, states: Mapping[str, BaselineStates], where: str) -> None:
    """ConfigError for baselines that are not the engines': another modality, another shape, not finite."""
    for modality, baseline in baselines.items():
        if modality not in states:
            kept = ", ".join(states) or "none"
            raise ConfigError(f"{where}: has a baseline of {modality}, the bundle keeps baselines of {kept}")
        expected = states[modality].empty()
        if baseline.mean.shape != expected.mean.shape or baseline.steps.shape != expected.steps.shape:
            raise ConfigError(
                f"{where}: the baseline of {modality} is {baseline.mean.shape} and {baseline.steps.shape}, "
                f"the bundle's is {expected.mean.shape} and {expected.steps.shape}"
            )
        if not (np.isfinite(baseline.mean).all() and np.isfinite(baseline.steps).all() and baseline.age_steps >= 0):
            raise ConfigError(f"{where}: the baseline of {modality} holds a number that is not finite or below 0")


def _state_shapes(spec: EngineSpec) -> dict[str, tuple[int, ...]]:
    """The shape of one stream's row of every state tensor."""
    state = set(spec.state)
    return {tensor.name: tuple(int(n) for n in tensor.shape[1:]) for tensor in spec.inputs if tensor.name in state}
