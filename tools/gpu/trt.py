"""The TensorRT part of gpu_check.py: parity, streaming, latency, streams, merged engine. Python 3.9 and numpy alone."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clcr_stream.inference.tensorrt.options import BuildOptions, Options
from gpu import merge as gpu_merge
from gpu.measure import Report, measure
from gpu.program import Bundle, Program, expected, hop_inputs, language_inputs, single_program, tick_program

FLOAT32_LIMIT = 1e-3
BATCHED = 4  # seats of the check that streams in one batch are independent


@dataclass(frozen=True)
class Plan:
    """What to do and for how long."""

    seconds: float = 5.0
    sustained_s: float = 60.0
    streams: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    budget_s: float = 1800.0
    merged: Path | None = None


@dataclass(frozen=True)
class Lab:
    """A bundle, the backend's module and how to open it; `started_s` is when the run's budget began."""

    bundle: Bundle
    program: Program
    module: Any
    build: Any
    cache: Any
    report: Report
    plan: Plan
    started_s: float

    @staticmethod
    def of(bundle: Bundle, module: Any, cache: Any, report: Report, plan: Plan) -> Lab:
        """A lab over the bundle's tick."""
        specs = {name: graph.spec for name, graph in bundle.graphs.items()}
        # 8.x alone has these sources, and the offline bundle of 8.6 has only stubs behind them.
        build = BuildOptions(tactic_sources="-CUBLAS,-CUBLAS_LT,-CUDNN")
        return Lab(bundle, tick_program(specs), module, build, cache, report, plan, time.monotonic())

    def open(self, seats: int, program: Program | None = None, graphs: Any = None, **options: Any) -> Any:
        """A runner; plans are built or come from the cache."""
        chosen = Options(build=self.build, **options)
        backend = self.module.TensorRTBackend(chosen, self.cache, lambda text: print("    ", text, flush=True))
        return backend.open(program or self.program, graphs or self.bundle.graphs, seats)

    def out_of_time(self) -> bool:
        return time.monotonic() - self.started_s > self.plan.budget_s


def tensorrt_section(lab: Lab) -> None:
    """Everything about TensorRT, most important first."""
    words = parity_section(lab)
    _latency(lab)
    _variants(lab)
    _merged(lab, words)
    _streams(lab, words)
    _sustained(lab)
    _targets(lab)


def parity_section(lab: Lab) -> list[dict[str, Any]]:
    """What the engines answer; the language engine's outputs at every golden hop."""
    started = time.monotonic()
    words = list(_words(lab))
    runner = lab.open(1)
    seconds = round(time.monotonic() - started, 2)
    lab.report.fact("tensorrt: seconds until the first tick (building included)", seconds)
    lab.report.fact("tensorrt: CUDA graph captured", runner.captured)
    _parity(lab, runner, words)
    _against_onnxruntime(lab, runner, words)
    runner.close()
    return words


def _words(lab: Lab) -> Iterator[dict[str, Any]]:
    """The language engine's outputs at every golden hop, from TensorRT."""
    spec = lab.bundle.graphs["language"].spec
    runner = lab.open(1, single_program("language", spec))
    for hop in range(len(lab.bundle.golden["frames"])):
        for name, array in language_inputs(lab.bundle, hop).items():
            runner.inputs[name][0] = array
        runner.run(0, 1)
        yield {name: array[0].copy() for name, array in runner.outputs.items()}
    runner.close()


def _limit(bundle: Bundle) -> float:
    """Of a lower precision: twice what it moved any output by when it was exported; float32 notes nothing of that."""
    precision = bundle.manifest.get("provenance", {}).get("precision")
    return FLOAT32_LIMIT if precision is None else 2.0 * float(max(precision["largest"].values()))


def _feed(lab: Lab, runner: Any, words: Mapping[str, Any], hop: int, seats: range) -> None:
    for name, array in hop_inputs(lab.bundle, lab.program, words, hop).items():
        for seat in seats:
            runner.inputs[name][seat] = array


def _golden_difference(lab: Lab, runner: Any, words: list[dict[str, Any]], seat: int) -> dict[str, float]:
    """Largest difference to the exporter's record per output, over the golden hops from stream start."""
    runner.clear(seat)
    worst: dict[str, float] = {}
    for hop, said in enumerate(words):
        _feed(lab, runner, said, hop, range(seat, seat + 1))
        runner.run(seat, 1)
        for name, recorded in expected(lab.bundle, lab.program, hop):
            difference = float(np.abs(runner.outputs[name][seat] - recorded).max())
            worst[name] = max(worst.get(name, 0.0), difference) if difference == difference else float("nan")
    return worst


def _parity(lab: Lab, runner: Any, words: list[dict[str, Any]]) -> None:
    """The streamed hops against what the exporter recorded: PyTorch's whole-window answer is what it proved equal."""
    for name, worst in _golden_difference(lab, runner, words, 0).items():
        lab.report.check(f"tensorrt: streamed {name} against the golden record", worst, _limit(lab.bundle))


def _against_onnxruntime(lab: Lab, runner: Any, words: list[dict[str, Any]]) -> None:
    """Every output of every engine against ONNX Runtime on the CPU, state carried on both sides."""
    try:
        chain = OrtChain(lab.bundle, lab.program)
    except ImportError as error:
        lab.report.not_done("tensorrt: parity of every level against ONNX Runtime", str(error))
        return
    runner.clear(0)
    worst: dict[str, float] = {}
    makers = {tensor: call.engine for call in lab.program.calls for tensor in call.outputs.values()}
    for hop, said in enumerate(words):
        _feed(lab, runner, said, hop, range(1))
        runner.run(0, 1)
        for name, array in chain.run({name: runner.inputs[name][:1] for name in lab.program.inputs}).items():
            difference = float(np.abs(runner.outputs[name][:1] - array).max())
            worst[makers[name]] = max(worst.get(makers[name], 0.0), difference)
    for engine, difference in worst.items():
        lab.report.check(f"tensorrt: {engine} against ONNX Runtime on the CPU", difference, _limit(lab.bundle))


class OrtChain:
    """The program in plain ONNX Runtime sessions for one stream."""

    def __init__(self, bundle: Bundle, program: Program) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")  # its stubs do not export what it does
        self._program, self._bundle = program, bundle
        names, cpu = [call.engine for call in program.calls], ["CPUExecutionProvider"]
        self._sessions = {n: onnxruntime.InferenceSession(bundle.graphs[n].onnx, providers=cpu) for n in names}
        self._state: dict[tuple[str, str], Any] = {}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One hop: the program's outputs (1, ...)."""
        values = dict(inputs)
        for call in self._program.calls:
            spec = self._bundle.graphs[call.engine].spec
            feeds = {name: values[tensor] for name, tensor in call.inputs.items()}
            for tensor in spec.inputs:
                if tensor.name in spec.state:
                    zeros = np.zeros([1, *map(int, tensor.shape[1:])], tensor.dtype)
                    feeds[tensor.name] = self._state.get((call.engine, tensor.name), zeros)
            names = [tensor.name for tensor in spec.outputs]
            found = dict(zip(names, self._sessions[call.engine].run(names, feeds)))  # noqa: B905  Python 3.9
            self._state.update({(call.engine, name): found[f"{name}_next"] for name in spec.state})
            values.update({tensor: found[name] for name, tensor in call.outputs.items()})
        return {name: values[name] for name in self._program.outputs}


def _latency(lab: Lab) -> None:
    """One stream, back to back and paced at the hop."""
    runner = lab.open(1)
    hop_s = lab.bundle.manifest["hop_ns"] / 1e9
    lab.report.latency("tensorrt, 1 stream", measure(lambda: runner.run(0, 1), lab.plan.seconds))
    paced = measure(lambda: runner.run(0, 1), lab.plan.seconds, hop_s)
    lab.report.latency(f"tensorrt, 1 stream, one tick per {hop_s:g} s", paced)
    runner.close()


def _variants(lab: Lab) -> None:
    """What the options are worth: without a graph, waiting asleep, inputs read in host memory."""
    variants: tuple[tuple[str, dict[str, Any]], ...] = (
        ("enqueued", {"cuda_graph": False}),
        ("blocking wait", {"blocking_wait": True}),
        ("mapped inputs", {"mapped_memory": True}),
    )
    for name, options in variants:
        runner = lab.open(1, **options)
        lab.report.latency(f"tensorrt, 1 stream, {name}", measure(lambda: runner.run(0, 1), lab.plan.seconds))  # noqa: B023
        if not runner.captured:
            lab.report.fact(f"tensorrt: ms per engine ({name})", dict(runner.run(0, 1)))
        runner.close()
    lab.report.ratio("tensorrt: CUDA graph against enqueueing", "tensorrt, 1 stream, enqueued", "tensorrt, 1 stream")


def _merged(lab: Lab, words: list[dict[str, Any]]) -> None:
    """The baseline: all engines of a tick in one plan."""
    specs = {name: graph.spec for name, graph in lab.bundle.graphs.items()}
    try:
        given = lab.plan.merged
        data = given.read_bytes() if given else gpu_merge.merge(lab.bundle.graphs, lab.program)
    except (ImportError, OSError) as error:
        lab.report.not_done("tensorrt: one merged engine", f"{error}; make it with tools/gpu/merge.py, give --merged")
        return
    graph = gpu_merge.merged_graph(specs, lab.program, data)
    runner = lab.open(1, gpu_merge.merged_program(lab.program), {gpu_merge.NAME: graph})
    worst = max(_golden_difference(lab, runner, words, 0).values())
    lab.report.check("tensorrt: merged engine against the golden record", worst, _limit(lab.bundle))
    lab.report.latency("tensorrt, 1 stream, merged engine", measure(lambda: runner.run(0, 1), lab.plan.seconds))
    runner.close()
    merged = "tensorrt, 1 stream, merged engine"
    lab.report.ratio("tensorrt: merged engine against one per level", merged, "tensorrt, 1 stream")


def _streams(lab: Lab, words: list[dict[str, Any]]) -> None:
    """More and more streams in one batch; first that they do not feel each other."""
    runner = lab.open(BATCHED)
    alone = max(_golden_difference(lab, runner, words, 1).values())
    lab.report.check("tensorrt: one seat of several run alone, against the golden record", alone, _limit(lab.bundle))
    for seat in range(BATCHED):
        runner.clear(seat)
    worst = 0.0
    for hop, said in enumerate(words):
        _feed(lab, runner, said, hop, range(BATCHED))
        for array in runner.inputs.values():
            array[BATCHED - 1] = array[0] if hop % 2 else 0  # the last seat lives another life
        runner.run(0, BATCHED)
        recorded = dict(expected(lab.bundle, lab.program, hop))
        for name, array in recorded.items():
            worst = max(worst, float(np.abs(runner.outputs[name][: BATCHED - 1] - array).max()))
    lab.report.check("tensorrt: streams of a batch agree whatever their neighbour does", worst, _limit(lab.bundle))
    runner.close()
    free_before = lab.module.TensorRTBackend(lab.module.Options(build=lab.build), lab.cache).memory_mib()[0]
    for seats in lab.plan.streams:
        if lab.out_of_time():
            lab.report.not_done(f"tensorrt, {seats} streams", "the run's time is used up (--budget)")
            continue
        runner = lab.open(seats)
        call = lambda runner=runner, seats=seats: runner.run(0, seats)  # noqa: E731
        lab.report.latency(f"tensorrt, {seats} streams", measure(call, lab.plan.seconds))
        used = free_before - runner.memory_mib()[0]
        lab.report.fact(f"tensorrt: device memory of {seats} streams, MiB", round(used, 1))
        runner.close()


def _sustained(lab: Lab) -> None:
    """A minute back to back: the clocks settle, and memory stays what it was."""
    if lab.plan.sustained_s <= 0:
        lab.report.not_done("tensorrt, sustained", "--sustained 0")
        return
    runner = lab.open(1)
    before = runner.memory_mib()[0]
    lab.report.latency("tensorrt, sustained", measure(lambda: runner.run(0, 1), lab.plan.sustained_s))
    lab.report.check("tensorrt: device memory lost in the sustained run, MiB", before - runner.memory_mib()[0], 1.0)
    runner.close()


def _targets(lab: Lab) -> None:
    """What issue 4 asks of an H200, stated as met or missed; other GPUs are not measured by it."""
    latency = lab.report.found["latency_ms"]
    hop_ms = lab.bundle.manifest["hop_ns"] / 1e6
    kept = [int(n) for n in lab.plan.streams if latency.get(f"tensorrt, {n} streams", {}).get("p99", 1e9) <= hop_ms]
    lab.report.fact("tensorrt: most streams whose p99 is within the hop", max(kept, default=0))
    lab.report.fact("target p99 <= 2 ms at one stream", bool(latency["tensorrt, 1 stream"]["p99"] <= 2.0))
    lab.report.fact("target 1,000 real-time streams", max(kept, default=0) >= 1000)
    lab.report.ratio("tensorrt ahead of torch.compile", "torch, 1 stream, compiled and captured", "tensorrt, 1 stream")
