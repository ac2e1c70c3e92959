"""Proof that the exported engines compute what the trained model computes, tick by tick.

The reference is the offline model on the whole prefix, cut to the window: the engines are chained with their carried
state over a scenario in which every modality comes, goes and has holes. A negative control breaks the chain on purpose;
a comparison that would not notice is worth nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES
from clcr.network.model import CLCR, Outputs, Tokens
from clcr.network.streaming import DESCRIBED, SPEECH_POSITION, Grid
from clcr_export.graphs import Graph
from clcr_stream.errors import ClcrError

TOLERANCE = 1e-4
COMPARISONS = ("step", "chained", "masked", "batched")
MASKED_HOPS = 3
Arrays = dict[str, NDArray[Any]]
Run = Callable[[str, Arrays], Arrays]


class ParityError(ClcrError):
    """The engines do not compute what the model computes; no bundle is written."""

    exit_code = 9


@dataclass(frozen=True)
class Scenario:
    """What arrives in each hop; hop n is index n - 1 of every array."""

    frames: NDArray[np.uint8]  # (hops, slots, 3, size, size)
    vision_valid: NDArray[np.float32]  # (hops, slots)
    mel: NDArray[np.float32]  # (hops, 4 * tokens, bands)
    acoustic_valid: NDArray[np.float32]  # (hops, tokens)
    token_ids: NDArray[np.int32]  # (hops, language tokens)
    token_valid: NDArray[np.float32]  # (hops, language tokens)
    language_step: NDArray[np.int64]  # (hops,)
    gamma: float = 1.0

    @property
    def hops(self) -> int:
        return len(self.frames)


@dataclass
class Proof:
    """Largest absolute differences found, by engine and output, and what the negative control gave."""

    ticks: int
    tolerance: float = TOLERANCE
    step: dict[str, float] = field(default_factory=dict)  # one call of one engine against its PyTorch module
    chained: dict[str, float] = field(default_factory=dict)  # the chain against the offline model on the prefix
    masked: dict[str, float] = field(default_factory=dict)  # the same for each set of modalities that are ever present
    batched: dict[str, float] = field(default_factory=dict)  # a stream among three against the stream alone
    control: dict[str, float] = field(default_factory=dict)  # chains broken on purpose: must exceed the tolerance

    def check(self) -> None:
        """Raise ParityError for the first figure on the wrong side of the tolerance."""
        if not (self.step and self.chained and self.masked and self.batched and self.control):
            raise ParityError(f"{self.ticks} ticks: nothing was compared; give more hops")
        for kind in COMPARISONS:
            for name, worst in getattr(self, kind).items():
                if not worst <= self.tolerance:
                    raise ParityError(
                        f"{kind} {name}: differs by {worst:.2e}, {self.tolerance:.0e} is allowed; no bundle written"
                    )
        for name, difference in self.control.items():
            if not difference > self.tolerance:
                raise ParityError(
                    f"negative control {name!r} went unnoticed ({difference:.2e}); the comparison proves nothing"
                )


def make_scenario(model: CLCR, grid: Grid, hops: int, seed: int = 0) -> Scenario:
    """Random input with holes: vision leaves for a third of the time, sound has gaps, text arrives late and changes."""
    rng = np.random.default_rng(seed)
    size, bands = grid.size_px, model.config.mel_bands
    coarse = rng.integers(0, 256, (hops, grid.vision_slots, 3, 8, 8), dtype=np.uint8)
    frames = coarse.repeat(-(-size // 8), -2).repeat(-(-size // 8), -1)[..., :size, :size]
    vision = (rng.random((hops, grid.vision_slots)) > 0.15).astype(np.float32)
    vision[hops // 3 : 2 * hops // 3] = 0.0
    acoustic = (rng.random((hops, grid.acoustic_slots)) > 0.05).astype(np.float32)
    acoustic[hops // 2 : hops // 2 + 3] = 0.0
    mel = rng.normal(-6.0, 3.0, (hops, 4 * grid.acoustic_slots, bands)).astype(np.float32)
    ids = rng.integers(1, vocabulary_size(model), (hops, grid.language_tokens)).astype(np.int32)
    valid = np.zeros((hops, grid.language_tokens), np.float32)
    changes = sorted({hops // 5, hops // 2, hops - 2})
    for start, stop in zip(changes, [*changes[1:], hops], strict=True):
        ids[start:stop] = ids[start]
        valid[start:stop, : int(rng.integers(3, grid.language_tokens + 1))] = 1.0
    step = np.zeros(hops, np.int64)
    return Scenario(np.ascontiguousarray(frames), vision, mel, acoustic, ids, valid, step)


def vocabulary_size(model: CLCR) -> int:
    """Number of token ids that the language encoder knows."""
    embeddings: Any = model.language.embeddings
    return int(embeddings.word_embeddings.num_embeddings)


def only(scenario: Scenario, modalities: Sequence[str]) -> Scenario:
    """The same scenario in which every other modality is absent throughout."""
    return replace(
        scenario,
        vision_valid=scenario.vision_valid * ("vision" in modalities),
        acoustic_valid=scenario.acoustic_valid * ("acoustic" in modalities),
        token_valid=scenario.token_valid * ("language" in modalities),
    )


def largest(values: Iterable[float]) -> float:
    """The largest of the differences; infinite when one of them is not a number, which `max` would pass over."""
    found = list(values)
    return float("inf") if any(value != value for value in found) else max(found)


@lru_cache(maxsize=32)
def _opened(data: bytes) -> Any:
    """An engine that runs, and holds no state: one for all comparisons, because opening it takes 20 to 200 ms."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or importing it writes a device id and events to disk
    onnxruntime: Any = importlib.import_module("onnxruntime")  # its stubs do not export what it does
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(data, options)


def sessions(graphs: Mapping[str, Graph]) -> Run:
    """ONNX Runtime on the exported bytes, one thread each; int8 in float32, so that every CPU gives the same figures.

    ONNX Runtime's own int8 kernels saturate on x86 CPUs without VNNI: they would measure the CPU and not the graph.
    """
    loaded = {name: _opened(graph.data) for name, graph in graphs.items()}

    def run(name: str, inputs: Arrays) -> Arrays:
        session = loaded[name]
        wanted = {item.name for item in session.get_inputs()}
        outputs = [item.name for item in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, {k: v for k, v in inputs.items() if k in wanted}), strict=True))

    return run


class Chain:
    """The engines in the order of a tick with their carried state; `break_state` zeroes one state tensor each tick."""

    def __init__(
        self, graphs: Mapping[str, Graph], model: CLCR, run: Run, break_state: tuple[str, str] | None = None
    ) -> None:
        self.model = model
        self._run, self._broken = run, break_state
        self._state: dict[str, Arrays] = {}
        for level in LEVELS:
            module: Any = graphs[f"level{level}"].module
            self._state[f"level{level}"] = {name: value.numpy() for name, value in module.initial_state().items()}

    def tick(self, scenario: Scenario, index: int) -> dict[str, Arrays]:
        """Hop `index` (from 0): every engine's outputs."""
        text = self._run("language", language_inputs(self.model, scenario, index))
        inputs = hop_inputs(self.model, scenario, index)
        outputs: dict[str, Arrays] = {"language": text}
        summaries: Arrays = {}
        for level in LEVELS:
            name = f"level{level}"
            state = self._state[name]
            if self._broken and self._broken[0] == name:
                state[self._broken[1]] = np.zeros_like(state[self._broken[1]])
            out = self._run(name, inputs | state | words_of(text, level))
            self._state[name] = {key: out[f"{key}_next"] for key in state}
            inputs |= {"vision_in": out["vision_out"], "acoustic_in": out["acoustic_out"]}
            summaries |= {
                f"shared_{level}": out["shared"],
                f"private_{level}": out["private"],
                "present": out["present"],
            }
            outputs[name] = out
        outputs["intercad"] = self._run("intercad", summaries)
        return outputs


def hop_inputs(model: CLCR, scenario: Scenario, index: int) -> Arrays:
    """What one hop brings, in the graphs' shapes for one stream."""
    vision, acoustic = scenario.vision_valid.shape[1], scenario.acoustic_valid.shape[1]
    given = {
        "vision_in": scenario.frames[index : index + 1].astype(np.float32),
        "acoustic_in": scenario.mel[index : index + 1],
        "vision_valid": scenario.vision_valid[index : index + 1],
        "acoustic_valid": scenario.acoustic_valid[index : index + 1],
        "vision_position": model.positions(torch.tensor([index * vision]), vision).numpy(),
        "acoustic_position": model.positions(torch.tensor([index * acoustic]), acoustic).numpy(),
        "gamma": np.full((1, 1), scenario.gamma, np.float32),
    }
    if model.config.acoustic_encoder == "whisper":
        given[SPEECH_POSITION] = model.speech_positions(torch.tensor([index * acoustic]), acoustic).numpy()
    return given


def words_of(text: Arrays, level: int) -> Arrays:
    """The language engine's outputs of one level under the names of that level's inputs."""
    return {f"language_{part}": text[f"language_{part}_{level}"] for part in DESCRIBED}


def language_inputs(model: CLCR, scenario: Scenario, index: int) -> Arrays:
    step = torch.tensor([scenario.language_step[index]])
    return {
        "token_ids": scenario.token_ids[index : index + 1],
        "token_valid": scenario.token_valid[index : index + 1],
        "position": model.positions(step, scenario.token_ids.shape[1]).numpy(),
    }


class Offline:
    """The offline model over a scenario, cut to the window that ends with a hop.

    The recording is encoded once for each text and not once a hop. An offline model that looked ahead would be found
    all the same: the engines cannot.
    """

    def __init__(self, model: CLCR, grid: Grid, scenario: Scenario) -> None:
        self._model, self._scenario = model, scenario
        self._a_hop = {"vision": grid.vision_slots, "acoustic": grid.acoustic_slots}
        self._keep = dict(
            zip(MODALITIES, (grid.vision_tokens, grid.acoustic_tokens, grid.language_tokens), strict=True)
        )
        self._encoded: dict[tuple[bytes, bytes, int], list[Tokens]] = {}

    @torch.no_grad()
    def __call__(self, hops: int) -> Outputs:
        """What it says after the first `hops` hops."""
        window = []
        for level in self._levels(hops - 1):
            ends = {m: hops * self._a_hop[m] if m in self._a_hop else tokens.length for m, tokens in level.items()}
            window.append({m: level[m].window(max(0, end - self._keep[m]), end) for m, end in ends.items()})
        return self._model.aggregate(self._model.fuse(window, self._scenario.gamma))

    def _levels(self, index: int) -> list[Tokens]:
        """The whole recording beside the text of hop `index`."""
        given = self._scenario
        ids, valid, step = given.token_ids[index], given.token_valid[index], int(given.language_step[index])
        key = (ids.tobytes(), valid.tobytes(), step)
        if key not in self._encoded:
            vision = torch.from_numpy(given.vision_valid).reshape(1, -1)
            acoustic = torch.from_numpy(given.acoustic_valid).reshape(1, -1)
            frames = torch.from_numpy(given.frames).flatten(0, 1)[vision[0].bool()]
            mel = torch.from_numpy(given.mel).reshape(1, -1, given.mel.shape[-1])
            text = torch.from_numpy(ids).long()[None], torch.from_numpy(valid)[None]
            zero = torch.zeros(1, dtype=torch.long)
            batch = Batch(frames, vision, mel, acoustic, *text, zero, zero, torch.tensor([step]))
            self._encoded[key] = self._model.encode(batch)
        return self._encoded[key]


def differences(model: CLCR, outputs: dict[str, Arrays], reference: Outputs) -> dict[str, float]:
    """Largest absolute difference of each compared output of one tick."""
    head = outputs["intercad"]
    scores = "probs" if "probs" in head else "value"
    wanted = {
        f"intercad.{scores}": (head[scores], model.probabilities(reference)),
        "intercad.omega": (head["omega"], reference.omega),
        "intercad.beta": (head["beta"], reference.beta),
        "intercad.eta": (head["eta"], reference.eta),
    }
    for level, expected in zip(LEVELS, reference.levels, strict=True):
        out = outputs[f"level{level}"]
        for key in ("shared", "private", "present", "budget"):
            wanted[f"level{level}.{key}"] = (out[key], getattr(expected, key))
        for m in MODALITIES:
            alpha = expected.alpha[m]
            wanted[f"level{level}.alpha_{m}"] = (out[f"alpha_{m}"][:, -alpha.shape[1] :], alpha)
    return {key: float(np.abs(got - want.numpy()).max()) for key, (got, want) in wanted.items()}


@parametrize.cached()  # each basis is computed once, as the weights stay
def prove(
    model: CLCR, grid: Grid, graphs: Mapping[str, Graph], hops: int = 40, progress: Callable[[str], None] | None = None
) -> Proof:
    """Compare every engine alone, all of them chained over `hops` ticks, batched, and broken on purpose."""
    say = progress or (lambda _: None)
    run, proof = sessions(graphs), Proof(ticks=hops)
    for name, graph in graphs.items():
        say(f"{name}: one call against PyTorch")
        proof.step[name] = _step_difference(run, name, graph.module, streams=1)
        proof.batched[name] = batch_difference(run, name, graph.module)
    scenario = make_scenario(model, grid, hops)
    chain, offline = Chain(graphs, model, run), Offline(model, grid, scenario)
    states = ("vision_conv_1", "acoustic_keys") if model.config.acoustic_encoder == "whisper" else ("vision_conv_1",)
    broken = {
        f"level{level}.{state} zeroed": Chain(graphs, model, run, (f"level{level}", state))
        for level in LEVELS
        for state in states
    }
    for index in range(hops):
        say(f"chain: tick {index + 1} of {hops} against the offline model")
        reference = offline(index + 1)
        for key, value in differences(model, chain.tick(scenario, index), reference).items():
            proof.chained[key] = largest((proof.chained.get(key, 0.0), value))
        for name, other in broken.items():
            found = largest(differences(model, other.tick(scenario, index), reference).values())
            proof.control[name] = largest((proof.control.get(name, 0.0), found))
    full = make_scenario(model, grid, MASKED_HOPS, seed=2)
    full = replace(full, token_valid=full.token_valid.max(0, keepdims=True).repeat(MASKED_HOPS, 0))
    for present in (c for size in (1, 2, 3) for c in combinations(MODALITIES, size)):
        say(f"only {' and '.join(present)}")
        proof.masked["+".join(present)] = _masked_difference(Chain(graphs, model, run), grid, only(full, present))
    return proof


def _masked_difference(chain: Chain, grid: Grid, scenario: Scenario) -> float:
    found, offline = 0.0, Offline(chain.model, grid, scenario)
    for index in range(scenario.hops):
        reference = offline(index + 1)
        found = largest((found, *differences(chain.model, chain.tick(scenario, index), reference).values()))
    return found


@torch.no_grad()
def _step_difference(run: Run, name: str, module: Any, streams: int) -> float:
    example = module.example(streams)
    expected = module(*example.values())
    got = run(name, {key: value.numpy() for key, value in example.items()})
    return largest(
        float(np.abs(got[key] - want.numpy()).max()) for key, want in zip(module.output_names, expected, strict=True)
    )


def batch_difference(run: Run, name: str, module: Any) -> float:
    """Stream 1 of a batch of three against the same stream alone."""
    batch = {key: value.numpy() for key, value in module.example(3).items()}
    together = run(name, batch)
    alone = run(name, {key: value[1:2].copy() for key, value in batch.items()})
    return largest(float(np.abs(together[key][1:2] - alone[key]).max()) for key in alone)
