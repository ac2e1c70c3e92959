"""Those who are compared: the product's levels, and the same model recomputing its whole window at every tick."""

from __future__ import annotations

import importlib
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.command import BenchError
from bench.ours import Arrays, Ours, Playback

NS_PER_S = 1_000_000_000
WARM_UP_CALLS = 3
TOLERANCE = 1e-4
MAX_SHARE = 0.01  # of how far the answers move over the run: with random weights they move little
FACE_FEATURES = "face_features"
_HOP_NAMES = {"frames": "vision_in", "mel": "acoustic_in"}


class Peer(Protocol):
    """One way of answering a tick; `probs` is its last answer."""

    probs: NDArray[np.float64]

    def answer(self, number: int, hop: Arrays, window: Arrays) -> float:
        """Milliseconds for tick `number`, of which `hop` is what is new and `window` all there is."""


class Streaming:
    """Ours."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self.probs: NDArray[np.float64] = np.zeros(0)

    def answer(self, number: int, hop: Arrays, window: Arrays) -> float:
        took_ms = self._ours.tick(hop)
        self.probs = self._ours.probs
        return took_ms


class OnnxRecompute:
    """The whole window as one graph in ONNX Runtime, one thread; what it says for the next window is handed back."""

    def __init__(self, onnx: bytes) -> None:
        self._session = _session(onnx)
        outputs = {output.name for output in self._session.get_outputs()}
        shapes = {one.name: one.shape for one in self._session.get_inputs()}
        self._names = [name for name in shapes if f"{name}_next" not in outputs]
        self._state: Arrays = {
            name: np.zeros((1, *shape[1:]), np.float32) for name, shape in shapes.items() if name not in self._names
        }
        score = next(name for name in ("probs", "value") if name in outputs)
        self._outputs = [score, *(f"{name}_next" for name in self._state)]
        self.probs: NDArray[np.float64] = np.zeros(0)

    def answer(self, number: int, hop: Arrays, window: Arrays) -> float:
        start_ns = time.perf_counter_ns()
        self.recompute(window)
        return (time.perf_counter_ns() - start_ns) / 1e6

    def recompute(self, window: Arrays) -> None:
        """Answer a window."""
        feeds = {name: window[name] for name in self._names}
        probs, *following = self._session.run(self._outputs, feeds | self._state)
        self._state = dict(zip(self._state, following, strict=True))
        self.probs = probs[0].astype(np.float64)


class OnnxCachedFaces(OnnxRecompute):
    """What a careful engineer writes: the features of each frame are kept, all that comes after them is recomputed."""

    def __init__(self, faces: bytes, recompute: bytes) -> None:
        super().__init__(recompute)
        self._faces = _session(faces)
        (shape,) = (one.shape for one in self._session.get_inputs() if one.name == FACE_FEATURES)
        self._features = np.zeros((1, *shape[1:]), np.float32)

    def answer(self, number: int, hop: Arrays, window: Arrays) -> float:
        start_ns = time.perf_counter_ns()
        (new,) = self._faces.run([FACE_FEATURES], {"frames": hop["vision_in"]})
        count = new.shape[1]
        self._features[:, :-count] = self._features[:, count:]
        self._features[:, -count:] = new
        self.recompute(window | {FACE_FEATURES: self._features})
        return (time.perf_counter_ns() - start_ns) / 1e6


def _session(onnx: bytes) -> Any:
    """A graph in ONNX Runtime on one thread."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


class TorchRecompute:
    """The whole window as one PyTorch module, eager or compiled, one thread."""

    def __init__(self, module: Any, compile_it: bool) -> None:
        import torch

        torch.set_num_threads(1)
        self._names = tuple(module.input_names)
        self._first = {name: value for name, value in module.example().items() if name in module.state_names}
        outputs = tuple(module.output_names)
        self._following = [outputs.index(f"{name}_next") for name in self._first]
        self._score = outputs.index("probs" if "probs" in outputs else "value")
        self._run = torch.compile(module) if compile_it else module
        self.begin()
        self.probs: NDArray[np.float64] = np.zeros(0)

    def begin(self) -> None:
        """What is carried from window to window, as at the stream's start."""
        self._state = dict(self._first)

    def answer(self, number: int, hop: Arrays, window: Arrays) -> float:
        import torch

        inputs = [self._state[name] if name in self._state else torch.from_numpy(window[name]) for name in self._names]
        start_ns = time.perf_counter_ns()
        with torch.inference_mode():
            outputs = self._run(*inputs)
        took_ns = time.perf_counter_ns() - start_ns
        self._state = {name: outputs[place] for name, place in zip(self._first, self._following, strict=True)}
        self.probs = outputs[self._score][0].numpy().astype(np.float64)
        return took_ns / 1e6


class History:
    """The inputs of a recompute: the newest steps of everything that hops bring, zeros before the stream's start.

    `carried` are the inputs of `example` that a peer keeps itself.
    """

    def __init__(self, example: Mapping[str, Any], words: Arrays, carried: Sequence[str] = ()) -> None:
        self.window: Arrays = {}
        self._sources: dict[str, str] = {}
        for name, value in example.items():
            if name in carried:
                continue
            shape = tuple(int(size) for size in value.shape)
            if name in words:
                if words[name].size != np.prod(shape):
                    raise BenchError(f"recompute: {name} is {shape}, the language engine gives {words[name].shape}")
                self.window[name] = np.ascontiguousarray(words[name], np.float32).reshape(shape)
            else:
                self.window[name] = np.zeros(shape, np.float32)
                self._sources[name] = _HOP_NAMES.get(name, name)

    def push(self, hop: Arrays) -> None:
        """Append a hop and let go of the oldest steps."""
        for name, source in self._sources.items():
            if source not in hop:
                raise BenchError(f"recompute: input {name} is neither of a hop ({', '.join(hop)}) nor of the words")
            buffer, new = self.window[name], hop[source]
            if name == "gamma":
                np.copyto(buffer, new)
                continue
            count = new.shape[1]
            buffer[:, :-count] = buffer[:, count:]
            buffer[:, -count:] = new


class Stage:
    """The clip, its history, and the peers that all see the very same arrays."""

    def __init__(self, clip: Playback, history: History, peers: Mapping[str, Peer]) -> None:
        self.peers = peers
        self.differences: dict[str, float] = dict.fromkeys(peers, 0.0)
        self.ticks = 0
        self._lowest: NDArray[np.float64] = np.array(np.inf)  # per class once there is an answer
        self._highest: NDArray[np.float64] = np.array(-np.inf)
        self._clip, self._history = clip, history
        self._pause = threading.Event()

    def warm_up(self, calls: int = WARM_UP_CALLS) -> None:
        """A few ticks that are compared but not timed."""
        for _ in range(calls):
            self._tick(paced=False)

    def run(self, seconds: float, paced: bool) -> dict[str, list[float]]:
        """Tick for so long: each call begins on the grid of hops, or at once, in an order that rotates.

        Returns each peer's times, ms; at least one tick is made.
        """
        times: dict[str, list[float]] = {name: [] for name in self.peers}
        end_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while True:
            for name, took_ms in self._tick(paced).items():
                times[name].append(took_ms)
            if time.monotonic_ns() >= end_ns:
                return times

    def _tick(self, paced: bool) -> dict[str, float]:
        took_ms: dict[str, float] = {}
        self.ticks += 1
        hop = self._clip.hop(self.ticks)
        self._history.push(hop)
        for name in rotated(list(self.peers), self.ticks):
            if paced:
                now_ns, hop_ns = time.monotonic_ns(), self._clip.hop_ns
                self._pause.wait((hop_ns - now_ns % hop_ns) / NS_PER_S)
            took_ms[name] = self.peers[name].answer(self.ticks, hop, self._history.window)
        reference = next(iter(self.peers.values())).probs
        self._lowest, self._highest = np.minimum(self._lowest, reference), np.maximum(self._highest, reference)
        for name, peer in self.peers.items():
            # Unlike max, np.maximum keeps a difference that is not a number.
            largest = np.maximum(self.differences[name], np.abs(peer.probs - reference).max())
            self.differences[name] = float(largest)
        return took_ms

    @property
    def moved(self) -> float:
        """How far the first peer's most changing probability moved over the run."""
        return float(np.max(self._highest - self._lowest))

    def check(self) -> None:
        """BenchError when a peer's answer was not that of the first one: then the times say nothing."""
        allowed = min(TOLERANCE, MAX_SHARE * self.moved)
        if not allowed > 0:
            raise BenchError("refused: the answers never change, so that they agree proves nothing; give another clip")
        for name, difference in self.differences.items():
            if not difference <= allowed:
                raise BenchError(
                    f"refused: {name} differs from {next(iter(self.peers))} by {difference:.1e} in a probability, "
                    f"{allowed:.0e} is allowed; they do not compute the same"
                )


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names, beginning with another one each time."""
    by %= len(names)
    return [*names[by:], *names[:by]]


def compiled(module: Any, clip: Playback, history: History) -> tuple[TorchRecompute | None, str | None]:
    """The compiled module after a first call, or None and why it could not be compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of its own parts
        try:
            peer = TorchRecompute(module, compile_it=True)
            peer.answer(1, clip.hop(1), history.window)
            peer.begin()
        except Exception as error:  # whatever the compiler, gcc or the loader raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return None, f"{type(error).__name__}: {lines[0][:200]}"
    return peer, None
