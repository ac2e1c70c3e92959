"""The runtime, fed in pieces and hop by hop, computes what the trained model computes on the whole recording at once.

What runs is the product: rings, cutter, language stream, levels and ONNX Runtime on an exported bundle. What it is
compared with shares no code with it but the model, the mel front-end and the sinusoid: the grid, the visibility of
words and the order of tokens are written down a second time here, from ARCHITECTURE.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clcr.batch import Batch
from clcr.config import MODALITIES
from clcr.model import CLCR
from clcr_export.graphs import round_to_half
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream.backends import Arrays, Engine
from clcr_stream.backends.onnxruntime import OnnxRuntimeBackend
from clcr_stream.bundle import Bundle, EngineSpec, load_bundle
from clcr_stream.clock import NS_PER_S, VirtualClock
from clcr_stream.features import log_mel
from clcr_stream.language import LanguageStream
from clcr_stream.level import LevelOutputs, Levels
from clcr_stream.ring import AudioRing, VisionRing
from clcr_stream.text import Tokenizer
from clcr_stream.transcript import Segment, Transcript
from clcr_stream.window import Cutter, Grid, Rings
from tiny_bundle import WORDS
from tiny_checkpoint import write_tiny_checkpoint

TOLERANCE = 1e-4
HOP_NS, WINDOW_HOPS = 200_000_000, 30
SLOTS, SAMPLES, TOKENS, TEXT_TOKENS = 3, 3200, 5, 64
WINDOW_NS = WINDOW_HOPS * HOP_NS
ORIGIN_NS = 987_654_321_012
COMPARED = ("output", "omega", "beta", "eta", "mass", "budget", "present")


@dataclass(frozen=True)
class Frame:
    """A camera frame; `crop` None when it shows no face."""

    captured_ns: int
    crop: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Words:
    """A revision of a segment and when it becomes known."""

    segment: Segment
    arrived_ns: int


@dataclass(frozen=True)
class Recording:
    """What happens in front of the devices, times absolute; `present` says which samples the microphone delivers."""

    hops: int
    frames: list[Frame]
    samples: NDArray[np.float32]
    present: NDArray[np.bool_]
    words: list[Words]
    gamma: float = 1.0
    first_hop: int = 0  # hops of the session that lie before the recording


class Watched:
    """An engine that remembers its last outputs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.last: dict[str, NDArray[Any]] = {}

    def run(self, inputs: Arrays) -> Arrays:
        outputs = self._engine.run(inputs)
        self.last = {name: array.copy() for name, array in outputs.items()}
        return outputs

    def reset(self) -> None:
        self._engine.reset()


class WatchedBackend:
    """ONNX Runtime whose engines can be looked at."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self._backend = OnnxRuntimeBackend()
        self.engines: dict[str, Watched] = {}

    def load(self, name: str, onnx: bytes, spec: EngineSpec) -> Watched:
        self.engines[name] = Watched(self._backend.load(name, onnx, spec))
        return self.engines[name]


@dataclass
class Runtime:
    """The product's parts, loaded once; `stream` starts them afresh."""

    bundle: Bundle
    model: CLCR
    backend: WatchedBackend
    levels: Levels
    tokenizer: Tokenizer

    def language(self) -> LanguageStream:
        return LanguageStream(self.tokenizer, self.backend.engines["language"], self.bundle.manifest)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the runtime's own pools and a busy machine make more threads slower
    folder = tmp_path_factory.mktemp("stream")
    model = write_tiny_checkpoint(folder / "checkpoint")
    export_bundle(folder / "checkpoint", folder / "bundle", ExportOptions("tiny", proof_hops=10), lambda text: None)
    round_to_half(model.language)  # as the bundle stores them
    round_to_half(model.project["language"])
    bundle, backend = load_bundle(folder / "bundle"), WatchedBackend()
    levels = Levels(bundle, backend)
    backend.load("language", bundle.engine_bytes("language"), bundle.manifest.engines["language"])
    yield Runtime(bundle, model, backend, levels, Tokenizer(bundle.files["tokenizer.json"]))
    torch.set_num_threads(threads)


# --- what happens -----------------------------------------------------------------------------------------------------


def record(seed: int, hops: int, first_hop: int = 0) -> Recording:
    """A person who leaves the picture and comes back, a microphone with gaps, words that come late and are revised."""
    rng = np.random.default_rng(seed)
    start_ns = ORIGIN_NS + first_hop * HOP_NS
    end_ns = start_ns + hops * HOP_NS
    frames, time_ns = [], start_ns - 40_000_000
    away = sorted(rng.uniform(0, hops, 2) * HOP_NS + start_ns)
    while time_ns < end_ns:
        time_ns += int(rng.uniform(15e6, 90e6))  # 11 to 66 frames a second: empty slots and frames that share one
        if away[0] < time_ns < away[1]:
            continue
        coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        crop = coarse.repeat(16, 0).repeat(16, 1) if rng.random() > 0.1 else None
        frames.append(Frame(time_ns, crop))
    loudness = rng.uniform(-4, 0, hops).repeat(SAMPLES)
    samples = (rng.normal(0, 0.3, hops * SAMPLES) * 10**loudness).clip(-1, 1).astype(np.float32)
    present = np.ones(hops * SAMPLES, np.bool_)
    for _ in range(max(1, hops // 6)):
        at = int(rng.integers(0, len(present)))
        present[at : at + int(rng.integers(1, 9000))] = False
    return Recording(hops, frames, samples, present, speak(rng, start_ns, hops), first_hop=first_hop)


def speak(rng: np.random.Generator, start_ns: int, hops: int) -> list[Words]:
    """Segments of random length; some are revised while they are the newest, some later, some taken back."""
    found: list[Words] = []
    time_ns, end_ns = start_ns, start_ns + hops * HOP_NS
    while (time_ns := time_ns + int(rng.uniform(0.1, 1.5) * NS_PER_S)) < end_ns:
        stop_ns = time_ns + int(rng.uniform(0.2, 1.5) * NS_PER_S)
        arrived_ns, name = stop_ns, f"segment {len(found)}"
        for revision in range(int(rng.integers(1, 4))):
            arrived_ns += int(rng.exponential(0.6) * NS_PER_S)
            count = 0 if revision and rng.random() < 0.15 else int(rng.integers(1, 14))
            text = " ".join(rng.choice(WORDS, count)) if count else ""
            found.append(Words(Segment(name, time_ns, stop_ns, text, revision=revision), arrived_ns))
        time_ns = stop_ns
    return sorted(found, key=lambda words: words.arrived_ns)


def without(recording: Recording, modality: str) -> Recording:
    match modality:
        case "vision":
            return replace(recording, frames=[])
        case "acoustic":
            return replace(recording, present=np.zeros_like(recording.present))
        case _:
            return replace(recording, words=[])


# --- the product, fed in pieces ---------------------------------------------------------------------------------------


def audio_pieces(recording: Recording, rng: np.random.Generator, longest: int) -> list[tuple[int, int]]:
    """[start, stop) of pieces of random length that cover exactly the samples present."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], recording.present, [False]]).astype(np.int8)))
    pieces = []
    for start, stop in edges.reshape(-1, 2).tolist():
        while start < stop:
            end = min(stop, start + int(rng.integers(1, longest + 1)))
            pieces.append((start, end))
            start = end
    return pieces


class Feeder:
    """Pushes a recording into the rings in random pieces, audio out of order, no later than each tick needs it."""

    def __init__(self, recording: Recording, seed: int, ahead_hops: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.recording, self.ahead_ns = recording, int(ahead_hops * HOP_NS)
        longest = SAMPLES * recording.hops if ahead_hops > recording.hops else 9000
        self.pieces = audio_pieces(recording, self.rng, longest)
        self.frames, self.words = list(recording.frames), list(recording.words)
        self.first_sample = recording.first_hop * SAMPLES
        seconds = max(8.0, (recording.hops + 1) * 0.2)
        self.rings = Rings(
            VisionRing(ORIGIN_NS, slots=int(seconds * 15)), AudioRing(ORIGIN_NS, seconds=seconds), Transcript()
        )

    def fill(self, end_ns: int) -> None:
        """Push everything before `end_ns`, and some of what comes after it."""
        until_ns = end_ns + int(self.rng.uniform(0, 1) * self.ahead_ns) if self.ahead_ns < WINDOW_NS else self.ahead_ns
        until_ns = max(end_ns, until_ns if self.ahead_ns < WINDOW_NS else end_ns + self.ahead_ns)
        stop = (until_ns - ORIGIN_NS) * 16 // 1_000_000 - self.first_sample
        due = [piece for piece in self.pieces if piece[0] < stop]
        self.pieces = self.pieces[len(due) :]
        seen = [frame for frame in self.frames if frame.captured_ns < until_ns]
        self.frames = self.frames[len(seen) :]
        for index in self.rng.permutation(len(due) + len(seen)):
            if index < len(due):
                start, end = due[index]
                self.rings.acoustic.put(self.first_sample + start, self.recording.samples[start:end])
            else:
                self.offer(seen.pop(0))  # a camera delivers its frames in order
        heard = [words for words in self.words if words.arrived_ns <= until_ns]
        self.words = self.words[len(heard) :]
        for words in heard:
            self.rings.transcript.put(words.segment, words.arrived_ns)

    def offer(self, frame: Frame) -> None:
        if self.rings.vision.wants(frame.captured_ns):
            self.rings.vision.put(frame.captured_ns, frame.crop, 0.5, int(frame.crop is not None))


@dataclass(frozen=True)
class Tick:
    """What the runtime said at one tick."""

    outputs: LevelOutputs
    shared: NDArray[np.float32]  # (levels, modalities, width)
    private: NDArray[np.float32]


def stream(runtime: Runtime, recording: Recording, seed: int = 0, ahead_hops: float = 4.0) -> list[Tick]:
    """Every tick of the recording through the product."""
    runtime.levels.reset()
    grid, language = Grid(ORIGIN_NS, runtime.bundle.manifest), runtime.language()
    cutter, feeder = Cutter(runtime.bundle.manifest, grid), Feeder(recording, seed, ahead_hops)
    ticks = []
    for number in range(recording.first_hop + 1, recording.first_hop + recording.hops + 1):
        tick = grid.tick(number)
        feeder.fill(tick.end_ns)
        chunk = cutter.cut(feeder.rings, tick)
        outputs = runtime.levels.step(chunk, language.update(chunk.segments), recording.gamma)
        found = [
            np.stack([runtime.backend.engines[f"level{level}"].last[kind][0] for level in (1, 2, 3)])
            for kind in ("shared", "private")
        ]
        ticks.append(Tick(outputs, *found))
    return ticks


# --- the model, on the whole prefix -----------------------------------------------------------------------------------


class Offline:
    """The PyTorch model on a recording: sound and picture of a prefix at once, words as ARCHITECTURE.md orders them."""

    def __init__(self, runtime: Runtime, recording: Recording) -> None:
        self.model, self.tokenizer, self.recording = runtime.model, runtime.tokenizer, recording
        self.said: dict[str, tuple[str, int, list[int]]] = {}  # id -> text, first step, token ids
        self.next_step = 0
        hops, spec = recording.hops, runtime.bundle.manifest
        heard = np.where(recording.present, recording.samples, np.float32(0))
        self.mel = log_mel(np.concatenate([np.zeros(240, np.float32), heard]))
        self.acoustic_valid = recording.present.reshape(hops * TOKENS, -1).all(1).astype(np.float32)
        self.crops = np.zeros((hops * SLOTS, spec.vision.size_px, spec.vision.size_px, 3), np.uint8)
        self.vision_valid = np.zeros(hops * SLOTS, np.float32)
        taken: set[int] = set()
        for frame in recording.frames:
            # The slot whose centre k / 15 s is nearest, counted from the recording's first hop.
            slot = round((frame.captured_ns - ORIGIN_NS) * 15 / NS_PER_S) - recording.first_hop * SLOTS
            if slot in taken or not 0 <= slot < hops * SLOTS:
                continue
            taken.add(slot)
            if frame.crop is not None:
                self.crops[slot], self.vision_valid[slot] = frame.crop, 1.0

    @torch.no_grad()
    def encode(self, hops: int) -> list[dict[str, torch.Tensor]]:
        """Described tokens of sound and picture of the first `hops` hops."""
        seen = self.vision_valid[: hops * SLOTS]
        first = self.recording.first_hop
        none = torch.zeros(1, 0)
        batch = Batch(
            frames=torch.from_numpy(self.crops[: hops * SLOTS][seen > 0]).permute(0, 3, 1, 2),
            vision_valid=torch.from_numpy(seen)[None],
            mel=torch.from_numpy(self.mel[: hops * 4 * TOKENS])[None],
            acoustic_valid=torch.from_numpy(self.acoustic_valid[: hops * TOKENS])[None],
            token_ids=none.long(),
            token_valid=none,
            vision_step=torch.tensor([first * SLOTS]),
            acoustic_step=torch.tensor([first * TOKENS]),
            language_step=torch.zeros(1, dtype=torch.long),
        )
        return self.model.encode(batch)

    @torch.no_grad()
    def at(self, hops: int, encoded: list[dict[str, torch.Tensor]] | None = None) -> dict[str, NDArray[Any]]:
        """What the model says of the window that ends after `hops` hops; ticks must be asked for in order."""
        encoded = self.encode(hops) if encoded is None else encoded
        text = self.words_at(ORIGIN_NS + (self.recording.first_hop + hops) * HOP_NS)
        window = []
        for level, tokens in enumerate(encoded):
            begin = max(0, hops - WINDOW_HOPS)
            window.append(
                {
                    "vision": tokens["vision"][:, begin * SLOTS : hops * SLOTS],
                    "acoustic": tokens["acoustic"][:, begin * TOKENS : hops * TOKENS],
                    "language": text[level],
                }
            )
        out = self.model.aggregate(self.model.fuse(window, self.recording.gamma))
        counts = [[max(1.0, float(level.valid[m].sum())) for m in MODALITIES] for level in out.levels]
        mass = np.array([[float(level.alpha[m].sum()) for m in MODALITIES] for level in out.levels]) / counts
        return {
            "output": self.model.probabilities(out.logits)[0].numpy(),
            "omega": out.omega[0].numpy(),
            "beta": out.beta[0].numpy(),
            "eta": out.eta[0].numpy(),
            "mass": mass,
            "budget": np.stack([level.budget[0].numpy() for level in out.levels]),
            "present": out.levels[0].present[0].numpy(),
            "shared": np.stack([level.shared[0].numpy() for level in out.levels]),
            "private": np.stack([level.private[0].numpy() for level in out.levels]),
        }

    def words_at(self, end_ns: int) -> list[torch.Tensor]:
        """Per level the described last 64 tokens of the segments known at `end_ns` that overlap its window."""
        newest: dict[str, Segment] = {}
        for words in self.recording.words:  # in order of arrival
            known = newest.get(words.segment.id)
            if words.arrived_ns <= end_ns and (known is None or words.segment.revision > known.revision):
                newest[words.segment.id] = words.segment
        overlapping = [s for s in newest.values() if s.text and s.end_ns > end_ns - WINDOW_NS and s.start_ns < end_ns]
        overlapping.sort(key=lambda segment: segment.start_ns)
        for segment in overlapping:
            text, first_step, ids = self.said.get(segment.id, ("", -1, []))
            if text != segment.text:
                growing = first_step >= 0 and first_step + len(ids) == self.next_step
                ids = self.tokenizer.encode(segment.text, TEXT_TOKENS)
                first_step = first_step if growing else self.next_step
                self.said[segment.id] = (segment.text, first_step, ids)
                self.next_step = first_step + len(ids)
        self.said = {segment.id: self.said[segment.id] for segment in overlapping}
        parts = [self.describe(self.said[segment.id]) for segment in overlapping]
        empty = torch.zeros(1, 0, self.model.levels[0].token_width)
        return [torch.cat([empty, *(part[level] for part in parts)], 1)[:, -TEXT_TOKENS:] for level in range(3)]

    def describe(self, said: tuple[str, int, list[int]]) -> list[torch.Tensor]:
        _, first_step, ids = said
        none = torch.zeros(1, 0)
        batch = Batch(
            frames=torch.zeros(0, 3, 112, 112, dtype=torch.uint8),
            vision_valid=none,
            mel=torch.zeros(1, 0, 64),
            acoustic_valid=none,
            token_ids=torch.tensor([ids]),
            token_valid=torch.ones(1, len(ids)),
            vision_step=torch.zeros(1, dtype=torch.long),
            acoustic_step=torch.zeros(1, dtype=torch.long),
            language_step=torch.tensor([first_step]),
        )
        return [level["language"] for level in self.model.encode(batch)]


def largest_difference(tick: Tick, wanted: dict[str, NDArray[Any]]) -> tuple[float, str]:
    """The worst of all compared outputs and its name; NaN counts as infinitely different."""
    got = {name: getattr(tick.outputs, name) for name in COMPARED} | {"shared": tick.shared, "private": tick.private}
    found = {name: float(np.abs(got[name] - wanted[name]).max()) for name in wanted}
    return max((np.inf if np.isnan(value) else value, name) for name, value in found.items())


def assert_equal_at_every_tick(ticks: list[Tick], offline: Offline) -> None:
    whole = offline.encode(len(ticks))
    for hops, tick in enumerate(ticks, 1):
        worst, name = largest_difference(tick, offline.at(hops, whole))
        assert worst <= TOLERANCE, f"tick {hops}: {name} differs by {worst:.2e}"
