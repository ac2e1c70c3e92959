"""The PyTorch part of gpu_check.py: the same ticks eagerly, captured in a CUDA graph, and through torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gpu.measure import Report, measure
from gpu.onnx_modules import Converter, TorchTick, unsupported
from gpu.program import Bundle, expected, hop_inputs, language_inputs, tick_program

LIMIT = 1e-3
STREAMS = (1, 64)


class Ticks:
    """A tick on `streams` streams with its copies in and out, as the TensorRT backend counts them."""

    def __init__(self, bundle: Bundle, streams: int, device: str) -> None:
        specs = {name: graph.spec for name, graph in bundle.graphs.items()}
        self.program = tick_program(specs)
        self._cuda = device == "cuda"
        self.model = TorchTick(bundle.graphs, self.program, streams).to(device)
        shapes = [[streams, *map(int, self.program.tensors[name].shape[1:])] for name in self.program.inputs]
        self.host = [torch.zeros(shape, pin_memory=self._cuda) for shape in shapes]
        self._inputs = [torch.zeros(shape, device=device) for shape in shapes]
        self._states = self.model.zeros(bundle.graphs, streams, device)
        self.step: Callable[..., Any] = self.model
        self._graph: Any = None
        outputs, _ = self.model(self._inputs, self._states)
        self.outputs = [torch.zeros(output.shape, pin_memory=self._cuda) for output in outputs]

    def compile(self) -> None:
        """From now on through torch.compile."""
        self.step = torch.compile(self.model, fullgraph=True, dynamic=False)

    def capture(self) -> None:
        """From now on as one CUDA graph of copies, engines and state."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._work()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._work()

    def compile_and_capture(self) -> None:
        """From now on as one CUDA graph of what torch.compile made."""
        self.compile()
        self.capture()

    def zero(self) -> None:
        """Stream start."""
        for state in self._states:
            state.zero_()

    def run(self) -> None:
        """One tick, finished when it returns."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self._work()
        if self._cuda:
            torch.cuda.synchronize()

    def _work(self) -> None:
        for target, source in zip(self._inputs, self.host, strict=True):
            target.copy_(source, non_blocking=True)
        outputs, after = self.step(self._inputs, self._states)
        for target, source in zip(self.outputs, outputs, strict=True):
            target.copy_(source, non_blocking=True)
        for target, source in zip(self._states, after, strict=True):  # last: an output may be a view of a state
            target.copy_(source)


def torch_section(
    bundle: Bundle, report: Report, seconds: float, streams: Sequence[int] = STREAMS, device: str = "cuda"
) -> None:
    """Parity and latency of the torch ticks on `device`; graphs and compilation on CUDA alone."""
    torch.backends.cudnn.allow_tf32 = False  # a float32 bundle means float32 here too
    torch.set_float32_matmul_precision("highest")
    missing = unsupported(bundle)
    if missing:
        report.not_done("torch", "; ".join(missing))
        return
    with torch.inference_mode():
        words = list(_words(bundle, device))
        for count in streams:
            for name, prepare in _modes(device):
                _one(bundle, report, words, (count, name, prepare, seconds, device))
    report.ratio("torch: CUDA graph against eager", "torch, 1 stream, eager", "torch, 1 stream, captured")
    compiled = "torch, 1 stream, compiled and captured"
    report.ratio("torch: compiled and captured against eager", "torch, 1 stream, eager", compiled)
    if device == "cuda":
        report.fact("torch: most device memory, MiB", round(torch.cuda.max_memory_allocated() / 2**20, 1))


def _modes(device: str) -> Iterator[tuple[str, Callable[[Ticks], None]]]:
    yield "eager", lambda ticks: None
    if device == "cuda":
        yield "captured", Ticks.capture
        yield "compiled", Ticks.compile
        yield "compiled and captured", Ticks.compile_and_capture


def _one(bundle: Bundle, report: Report, words: list[dict[str, Any]], what: tuple[Any, ...]) -> None:
    streams, name, prepare, seconds, device = what
    label = f"torch, {streams} stream{'s' if streams > 1 else ''}, {name}"
    try:
        ticks = Ticks(bundle, streams, device)
        prepare(ticks)
    except Exception as error:  # torch.compile and captures fail in many ways; the other modes still count
        text = str(error).strip().splitlines()[:1] or [type(error).__name__]
        report.not_done(label, text[0][:200])
        return
    ticks.zero()
    worst = 0.0
    for hop, said in enumerate(words):
        for place, array in enumerate(_ordered(bundle, ticks, said, hop)):
            ticks.host[place].copy_(torch.as_tensor(np.asarray(array)).expand(ticks.host[place].shape))
        ticks.run()
        found = dict(zip(ticks.program.outputs, ticks.outputs, strict=True))
        for output, recorded in expected(bundle, ticks.program, hop):
            worst = max(worst, float(np.abs(found[output].numpy() - recorded).max()))
    report.check(f"{label}: streamed outputs against the golden record", worst, LIMIT)
    report.latency(label, measure(ticks.run, seconds))


def _ordered(bundle: Bundle, ticks: Ticks, words: Mapping[str, Any], hop: int) -> list[Any]:
    given = hop_inputs(bundle, ticks.program, words, hop)
    return [given[name] for name in ticks.program.inputs]


def _words(bundle: Bundle, device: str) -> Iterator[dict[str, Any]]:
    """The language engine's outputs at every golden hop, from torch on the device."""
    engine = Converter(bundle.graphs["language"].onnx, 1).convert().to(device)
    spec = bundle.graphs["language"].spec
    for hop in range(len(bundle.golden["frames"])):
        given = language_inputs(bundle, hop)
        found = engine(*(torch.as_tensor(given[tensor.name])[None].to(device) for tensor in spec.inputs))
        names = [tensor.name for tensor in spec.outputs]
        yield {name: value[0].cpu().numpy() for name, value in zip(names, found, strict=True)}
