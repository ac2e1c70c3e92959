"""The product on an exported tiny model, driven hop by hop, and how far it is from the model on the whole recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from clcr.network.config import MODALITIES
from clcr.network.model import CLCR, Tokens
from clcr_export.graphs import round_pretrained
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.inference.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeRunner
from clcr_stream.inference.program import Graph, Program, Runner
from clcr_stream.streams.person import Person
from clcr_stream.streams.session import Pipeline, open_pipeline, show_words, valid_tokens
from clcr_stream.window.grid import TimeGrid
from recordings import ORIGIN_NS, WINDOW_HOPS, Feeder, Recording, record, without
from streaming_reference import Offline
from tiny_checkpoint import write_tiny_checkpoint
from traced import exports_trace_once

TOLERANCE = 1e-4
KINDS = ("shared", "private")  # of a level's summaries
Said = dict[str, NDArray[Any]]


class WatchedBackend:
    """ONNX Runtime whose programs also show the summaries that a level passes to InterCAD."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self._backend = OnnxRuntimeBackend()
        self.runner: OnnxRuntimeRunner | None = None  # of the levels

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> OnnxRuntimeRunner:
        summaries = tuple(name for name in program.tensors if name.startswith(("shared_", "private_")))
        program = replace(program, outputs=(*program.outputs, *summaries))
        runner = self._backend.open(program, graphs, seats)
        if summaries:
            self.runner = runner
        return runner


@dataclass(frozen=True)
class Runtime:
    """The product's parts on an exported bundle, and the model that it was exported from."""

    bundle: Bundle
    model: CLCR
    backend: WatchedBackend
    levels: Levels
    encoder: Runner
    tokenizer: Tokenizer

    def pipeline(self, feeder: Feeder) -> Pipeline:
        """Everything that a hop goes through before the levels, at the start of a stream."""
        manifest, grid = self.bundle.manifest, TimeGrid.of(self.bundle.manifest, ORIGIN_NS)
        return replace(open_pipeline(manifest, grid.origin_ns, self.tokenizer, self.encoder), rings=feeder.rings)

    def offline(self, recording: Recording) -> Offline:
        return Offline(self.model, self.tokenizer, recording)

    def levels_said(self) -> Said:
        """Shared and private summaries of the last tick, (levels, modalities, width)."""
        assert self.backend.runner is not None
        said = self.backend.runner.outputs
        return {kind: np.stack([said[f"{kind}_{level}"][0].copy() for level in (1, 2, 3)]) for kind in KINDS}


@contextmanager
def opened_runtime(factory: pytest.TempPathFactory, name: str, **settings: object) -> Iterator[Runtime]:
    """A tiny model with `settings` changed, exported to a folder of that name and opened.

    The export's proof is made of the speech encoder alone: tests/export proves the model as it is and with baselines.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads than idle cores make the small products here ten times slower
    folder = factory.mktemp(name)
    model = write_tiny_checkpoint(folder / "checkpoint", **settings)  # type: ignore[arg-type]
    with exports_trace_once(factory, proved="acoustic_encoder" in settings):
        options = ExportOptions("tiny", proof_hops=6)
        export_bundle(folder / "checkpoint", folder / "bundle", options, lambda text: None)
    round_pretrained(model)  # as the bundle stores them
    bundle, backend = load_bundle(folder / "bundle"), WatchedBackend()
    levels, encoder = Levels(bundle, backend), open_encoder(bundle, backend)
    yield Runtime(bundle, model, backend, levels, encoder, Tokenizer(bundle.files["tokenizer.json"]))
    torch.set_num_threads(threads)


def stream(
    runtime: Runtime,
    recording: Recording,
    seed: int = 0,
    whole: bool = False,
    forget_after: int = 0,
    person: Person | None = None,
) -> list[Said]:
    """What the product says at every tick of the recording; after tick `forget_after` the levels lose their state."""
    feeder = Feeder(recording, seed, whole)
    pipeline = runtime.pipeline(feeder)
    ticks = []
    levels, seat = runtime.levels, runtime.levels.take()
    rows = levels.inputs(seat)
    rows["gamma"][0] = recording.gamma
    for number in range(recording.first_hop + 1, recording.first_hop + recording.hops + 1):
        tick = pipeline.grid.tick(number)
        feeder.fill(tick.end_ns)
        chunk = pipeline.cutter.cut(feeder.rings, tick, rows)
        language = pipeline.language.update(chunk.segments)
        show_words(language, rows)
        if person is not None:
            person.before(levels, seat, chunk)
        levels.run(seat, 1)
        if person is not None:
            person.after(levels, seat, number * runtime.bundle.manifest.hop_ns)
        out = levels.outputs(seat, valid_tokens(chunk, language, runtime.bundle.manifest))
        names = ("output", "omega", "beta", "eta", "mass", "budget", "present")
        ticks.append({name: getattr(out, name) for name in names} | runtime.levels_said())
        if number == forget_after:
            levels.clear(seat)
    if person is not None:
        person.leave(levels, seat)
    levels.leave(seat)
    return ticks


def difference(got: Said, wanted: Said) -> tuple[float, str]:
    """The worst of the compared outputs and its name; NaN counts as infinitely different."""
    found = {name: float(np.abs(got[name] - wanted[name]).max()) for name in got}
    return max((np.inf if np.isnan(value) else value, name) for name, value in found.items())


@parametrize.cached()
def worst_difference(runtime: Runtime, ticks: list[Said], recording: Recording) -> float:
    """The worst of all ticks against the model on the whole recording (causal: what comes later changes nothing)."""
    offline = runtime.offline(recording)
    encoded = offline.encode(recording.hops)
    return max(difference(said, offline.at(hops, encoded))[0] for hops, said in enumerate(ticks, 1))


PREFIX_HOPS = 4


@parametrize.cached()
def check_every_tick(runtime: Runtime, recording: Recording, seed: int) -> None:
    """Each tick of a recording in random pieces equals the model on the prefix until then.

    A prefix ends at every fourth tick, and at each of the first; the three before it are compared with its tokens too.
    """
    ticks, offline = stream(runtime, recording, seed), runtime.offline(recording)
    ends, encoded = 0, list[Tokens]()
    for hops, said in enumerate(ticks, 1):
        if hops > ends:
            ends = hops if hops <= PREFIX_HOPS else min(hops + PREFIX_HOPS - 1, recording.hops)
            encoded = offline.encode(ends)
        worst, name = difference(said, offline.at(hops, encoded))
        assert worst <= TOLERANCE, f"tick {hops}: {name} differs by {worst:.2e}"


def check_devices(runtime: Runtime, present: Sequence[str]) -> None:
    """A recording of these modalities alone equals the model on it."""
    recording = record(3, 14)
    for modality in set(MODALITIES) - set(present):
        recording = without(recording, modality)
    ticks = stream(runtime, recording)
    assert ticks[-1]["present"].tolist() == [float(modality in present) for modality in MODALITIES]
    assert worst_difference(runtime, ticks, recording) <= TOLERANCE


def check_all_at_once(runtime: Runtime, recording: Recording, seeds: Sequence[int]) -> None:
    """A recording pushed as a whole gives the identical numbers as in pieces."""
    whole = stream(runtime, recording, whole=True)
    for seed in seeds:
        for one, other in zip(whole, stream(runtime, recording, seed), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


@parametrize.cached()
def check_a_lost_state(runtime: Runtime, healing_hops: int) -> None:
    """A state that is forgotten after six hops shows at once, and has healed after a window and `healing_hops`."""
    recording = record(8, 6 + WINDOW_HOPS + healing_hops)
    offline = runtime.offline(recording)
    encoded = offline.encode(recording.hops)
    ticks = stream(runtime, recording, forget_after=6)
    worst = [difference(said, offline.at(hops, encoded))[0] for hops, said in enumerate(ticks, 1)]
    assert max(worst[:6]) <= TOLERANCE
    assert min(worst[6:20]) > TOLERANCE
    assert worst[-1] <= TOLERANCE
