"""TensorRT on an NVIDIA GPU: the engines of a tick as plans built here, one CUDA graph per tick where that is possible.

State stays on the device in two buffers: a run of all seats reads one and writes the other. The output of one engine is
the input of the next, in place. Runs in Python 3.9 with numpy alone (plus tensorrt and pycuda), so that it can be
proved with TensorRT 8.6; what comes in is therefore typed by names that are never imported at run time.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from clcr_stream.errors import BackendError
from clcr_stream.inference.tensorrt.cuda import Cuda, Graphs, first_line
from clcr_stream.inference.tensorrt.device_tick import Step, Tick, Wiring, row_shape
from clcr_stream.inference.tensorrt.options import Options
from clcr_stream.inference.tensorrt.plan_cache import Entry, PlanCache, default_folders
from clcr_stream.inference.tensorrt.planner import Job, Planner, Progress, make_log, precision_mode

if TYPE_CHECKING:
    from clcr_stream.inference.program import Graph, Program

_LOG = logging.getLogger(__name__)
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32"}
_HINT = "use --backend onnxruntime, or see docs/jetson.md"


def why_unavailable() -> str | None:
    """Why this machine cannot run TensorRT, in one line; None when it can (nothing is built or kept)."""
    try:
        _tensorrt()
        Cuda(0, blocking_wait=False)
    except BackendError as error:
        return str(error)
    return None


class TensorRTBackend:
    """Opens programs on one GPU; plans come from the user's cache or are built, which takes minutes.

    `say` hears in one line what is built and why; `progress` hears TensorRT's own steps. BackendError when TensorRT or
    CUDA cannot be used here.
    """

    name = "tensorrt"

    def __init__(
        self,
        options: Options | None = None,
        cache: PlanCache | None = None,
        say: Callable[[str], None] = _LOG.info,
        progress: Progress | None = None,
    ) -> None:
        self._options = options or Options()
        self._trt = _tensorrt()
        self.cuda = Cuda(self._options.device, self._options.blocking_wait)
        self._cache = cache or PlanCache(*default_folders())
        self._say = say
        self._planner = Planner(self._trt, self._options.build, progress)

    def plan(self, engine: str, graph: Graph, seats: int) -> Entry:
        """The plan of `graph` for up to `seats` streams, from the cache or built now and kept.

        May run on a thread of its own while another backend serves; `open` then finds the plan in the cache.
        """
        state_and_inputs = {tensor.name: row_shape(tensor) for tensor in graph.spec.inputs}
        job = Job(engine, graph.onnx, state_and_inputs, seats)
        machine = self._machine()

        def make() -> tuple[bytes, Mapping[str, Any]]:
            with self.cuda.current(), _as_backend_error("build"):
                built = self._planner.build(job, self._cache.load("timing", machine) or b"")
            self._cache.store("timing", machine, built.timing)
            return built.plan, built.about

        name = _entry_name(engine, graph, seats)
        say = self._say
        return self._cache.fetch(name, self._key(graph, seats), make, lambda text: say(text.replace(name, engine, 1)))

    def planned(self, engine: str, graph: Graph, seats: int) -> bool:
        """Whether the plan of `graph` is in the cache and can be used; nothing is built."""
        return self._cache.load(_entry_name(engine, graph, seats), self._key(graph, seats)) is not None

    def forget(self, engine: str, graph: Graph, seats: int) -> None:
        """Have `plan` build it anew."""
        self._cache.forget(_entry_name(engine, graph, seats))

    def open(self, program: Program, graphs: Mapping[str, Graph], seats: int) -> TensorRTRunner:
        """A runner of `program` for `seats` streams, warmed up, its state zero; BackendError says what does not fit."""
        if seats < 1:
            raise BackendError(f"tensorrt: {seats} seats were asked for, at least 1 is needed")
        names = sorted({call.engine for call in program.calls})
        plans = {name: self.plan(name, graphs[name], seats).data for name in names}
        log = make_log(self._trt)
        # A stream of its own: another runner's work, on whichever thread, cannot end up in this one's capture.
        cuda = Cuda(self._options.device, self._options.blocking_wait)
        with cuda.current(), _as_backend_error("start"):
            runtime = self._trt.Runtime(log)
            engines = {}
            for name, plan in plans.items():
                engines[name] = runtime.deserialize_cuda_engine(plan)
                if engines[name] is None:
                    raise BackendError(f"{name}: TensorRT cannot load the plan: {log.reason()}; {_HINT}")
                _check_io(engines[name], graphs[name].spec, name)
            wiring = Wiring.of(program, {name: graphs[name].spec for name in names}, seats)
            return TensorRTRunner(cuda, wiring, engines, self._options)

    def memory_mib(self) -> tuple[float, float]:
        """(free, total) memory of the GPU in MiB."""
        return self.cuda.memory_mib()

    def _key(self, graph: Graph, seats: int) -> dict[str, str]:
        return self._machine() | {
            "onnx": graph.sha256,
            "profile": f"1..{seats}",
            "precision": precision_mode(self._trt),
            "options": self._options.build.text(),
        }

    def _machine(self) -> dict[str, str]:
        with _as_backend_error("look at the GPU"):
            return {"tensorrt": str(self._trt.__version__), **self.cuda.identity()}


class TensorRTRunner:
    """One program on the device; used by one thread at a time.

    A run of all seats is the fast path: the state buffers swap and nothing else moves. A run of some seats copies their
    state into a compact buffer and back, on the device. Every kind of run is captured once as a CUDA graph.
    """

    def __init__(self, cuda: Cuda, wiring: Wiring, engines: Mapping[str, Any], options: Options) -> None:
        self.seats = wiring.seats
        self._cuda = cuda
        self._graphs = _graphs(cuda) if options.cuda_graph else None
        self._tick: Tick | None = Tick(cuda, wiring, engines, options.mapped_memory)
        self._turn = 0
        self.inputs: Mapping[str, NDArray[Any]] = self._tick.host_inputs
        self.outputs: Mapping[str, NDArray[Any]] = self._tick.host_outputs
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def stream_handle(self) -> int:
        """The CUDA stream of this runner, which is no other runner's."""
        return self._cuda.handle

    @property
    def captured(self) -> bool:
        """Whether a tick runs as one CUDA graph."""
        return self._graphs is not None

    def run(self, first: int, count: int) -> Mapping[str, float]:
        """Seats [first, first + count) advance by one hop; {"tick": ms} as a graph, else ms per engine."""
        if not (0 <= first and 1 <= count and first + count <= self.seats):
            raise BackendError(f"tensorrt: seats {first}..{first + count - 1} were run, there are 0..{self.seats - 1}")
        tick = self._open()
        with self._cuda.current(), _as_backend_error("run"):
            step = tick.step(first, count, self._turn)
            if step.graph is None:
                self._capture(tick, step)
            start_ns = time.perf_counter_ns()
            timing_ms = tick.execute(step)
            if step.full:
                self._turn ^= 1
        return {"tick": (time.perf_counter_ns() - start_ns) / 1e6} if timing_ms is None else timing_ms

    def clear(self, seat: int) -> None:
        """The state of `seat` becomes zeros, as at stream start."""
        tick = self._open()
        with self._cuda.current(), _as_backend_error("clear"):
            tick.clear(self._seat(seat), self._turn)

    def move(self, source: int, target: int) -> None:
        """The inputs and the state of seat `source` are copied to seat `target`."""
        tick = self._open()
        with self._cuda.current(), _as_backend_error("move"):
            tick.move(self._seat(source), self._seat(target), self._turn)

    def read_state(self, seat: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Copies of the rows of state tensors "engine/tensor"; waits for the device."""
        tick = self._open()
        with self._cuda.current(), _as_backend_error("read the state"):
            return tick.read_state(self._seat(seat), names, self._turn)

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]]) -> None:
        """Set the rows of state tensors "engine/tensor"; waits for the device."""
        tick = self._open()
        with self._cuda.current(), _as_backend_error("write the state"):
            tick.write_state(self._seat(seat), rows, self._turn)

    def memory_mib(self) -> tuple[float, float]:
        """(free, total) memory of the GPU in MiB."""
        return self._cuda.memory_mib()

    def close(self) -> None:
        """Free the device's memory; `inputs` and `outputs` must not be used any more. A second close does nothing."""
        tick, self._tick = self._tick, None
        self.inputs = self.outputs = {}
        if tick is not None:
            with self._cuda.current():
                tick.free()
                self._cuda.stream = None

    def _open(self) -> Tick:
        if self._tick is None:
            raise BackendError("tensorrt: the runner is closed")
        return self._tick

    def _seat(self, seat: int) -> int:
        if not 0 <= seat < self.seats:
            raise BackendError(f"tensorrt: seat {seat} does not exist, there are 0..{self.seats - 1}")
        return seat

    def _warm_up(self) -> None:
        """Both full runs once, captured where that works; what they left in the state is zeroed."""
        tick = self._open()
        with self._cuda.current(), _as_backend_error("first run"):
            for turn in (0, 1):
                step = tick.step(0, self.seats, turn)
                self._capture(tick, step)
                tick.execute(step)
            for seat in range(self.seats):
                tick.clear(seat, self._turn)
            self._cuda.stream.synchronize()
            for array in tick.host_outputs.values():
                array.fill(0)

    def _capture(self, tick: Tick, step: Step) -> None:
        """Give the step its CUDA graph; on failure warn once and go on with plain enqueueing."""
        graphs = self._graphs
        if graphs is None:
            return
        tick.warm(step)
        try:
            graphs.begin()
            try:
                tick.enqueue(step, None)
                step.graph = graphs.end()
            except BaseException:
                graphs.abandon()
                raise
        except Exception as error:  # pycuda's errors and TensorRT's refusal; without a graph the tick still runs
            self._graphs = None
            _LOG.warning("tensorrt: no CUDA graph, every tick is enqueued call by call: %s", first_line(error))


class _as_backend_error:
    """Errors of pycuda inside the block leave it as BackendError with their first line."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, BackendError):
            raise BackendError(f"tensorrt: {self._what} failed: {first_line(error)}; {_HINT}") from error


def _entry_name(engine: str, graph: Graph, seats: int) -> str:
    # The request names the entry, the machine is compared field by field: a new driver replaces the old plan.
    return f"{engine}-{graph.sha256[:16]}-{seats}"


def _tensorrt() -> Any:
    try:
        module: Any = importlib.import_module("tensorrt")
        if not hasattr(module, "Builder"):  # any folder of that name is a package too
            raise ImportError("the package tensorrt is not NVIDIA's")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # missing libraries raise OSError and worse from the package's own initialisation
        raise BackendError(f"tensorrt cannot be imported ({first_line(error)}); {_HINT}") from error
    return module


def _graphs(cuda: Cuda) -> Graphs | None:
    try:
        return Graphs(cuda)
    except BackendError as error:
        _LOG.warning("%s", error)
        return None


def _check_io(engine: Any, spec: Any, name: str) -> None:
    """The plan's tensors must be the manifest's, whoever built it."""
    actual = {}
    for index in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(tensor).name
        shape = tuple(engine.get_tensor_shape(tensor))[1:]
        actual[str(tensor)] = (engine.get_tensor_mode(tensor).name, _DTYPES.get(dtype, dtype), shape)
    expected = {tensor.name: ("INPUT", str(tensor.dtype), row_shape(tensor)) for tensor in spec.inputs}
    expected.update({tensor.name: ("OUTPUT", str(tensor.dtype), row_shape(tensor)) for tensor in spec.outputs})
    for tensor in sorted({*actual, *expected}):
        if actual.get(tensor) != expected.get(tensor):
            raise BackendError(
                f"{name}: tensor {tensor} is {actual.get(tensor)} in the plan, {expected.get(tensor)} in the manifest; "
                "export again with `clcr-export`"
            )
