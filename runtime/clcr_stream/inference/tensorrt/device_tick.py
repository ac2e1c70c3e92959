"""A tick on the device: which engine's tensor lies where, what is enqueued in what order.

    host inputs -> device inputs -> engine 1 -> ... -> engine n -> device outputs -> host outputs
    state: buffer 0 and 1 (runs of all seats read one and write the other), compact buffers for runs of some seats
Python 3.9 and numpy alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from clcr_stream.errors import BackendError
from clcr_stream.inference.tensorrt.cuda import Arena, Cuda, Graph, Layout
from clcr_stream.inference.tensorrt.planner import MAX_CONTEXTS

if TYPE_CHECKING:
    from clcr_stream.inference.program import Program

MAX_PARTIAL_STEPS = MAX_CONTEXTS - 2  # kinds of partial runs kept ready; each holds a context per engine


@dataclass(frozen=True)
class Bound:
    """One engine run: where each of its tensors lies. States are named "engine/tensor"."""

    engine: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    state: Mapping[str, str]  # engine's tensor X -> name of the state
    shapes: Mapping[str, tuple[int, ...]]  # of one row of every input, state included


@dataclass(frozen=True)
class Wiring:
    """A program laid out in memory."""

    calls: tuple[Bound, ...]
    inputs: Layout
    outputs: Layout
    between: Layout  # what no host sees: from engine to engine, or read by nobody
    state: Layout
    seats: int

    @staticmethod
    def of(program: Program, specs: Mapping[str, Any], seats: int) -> Wiring:
        """Lay out `program` for `seats` streams; BackendError names a tensor that nobody makes or that does not fit."""
        computed = set(program.inputs)
        tensors = {name: (name, str(spec.dtype), row_shape(spec)) for name, spec in program.tensors.items()}
        calls: list[Bound] = []
        state, unread = [], []
        for call in program.calls:
            if any(call.engine == other.engine for other in calls):
                raise BackendError(f"{call.engine}: a program may run an engine once, it has state")
            spec = specs[call.engine]
            _check_call(call, spec, tensors, computed)
            computed.update(call.outputs.values())
            states = {name: f"{call.engine}/{name}" for name in spec.state}
            outputs = dict(call.outputs)
            for tensor in spec.outputs:
                if tensor.name not in {*outputs, *(f"{name}_next" for name in states)}:
                    outputs[tensor.name] = f"{call.engine}/{tensor.name}"  # TensorRT wants a place for it all the same
                    unread.append((outputs[tensor.name], str(tensor.dtype), row_shape(tensor)))
            for tensor in spec.inputs:
                if tensor.name in states:
                    state.append((states[tensor.name], str(tensor.dtype), row_shape(tensor)))
            shapes = {tensor.name: row_shape(tensor) for tensor in spec.inputs}
            calls.append(Bound(call.engine, dict(call.inputs), outputs, states, shapes))
        for name in program.outputs:
            if name not in computed or name in program.inputs:
                raise BackendError(f"program: output {name} is made by no engine")
        inner = [tensors[name] for name in sorted(computed - set(program.inputs) - set(program.outputs))]
        return Wiring(
            tuple(calls),
            Layout.of([tensors[name] for name in program.inputs], seats),
            Layout.of([tensors[name] for name in program.outputs], seats),
            Layout.of(inner + unread, seats),
            Layout.of(state, seats),
            seats,
        )

    @property
    def device_bytes(self) -> int:
        """Device memory of the tensors: inputs, outputs, what lies between, and four buffers of state (see `Tick`)."""
        return self.inputs.nbytes + self.outputs.nbytes + self.between.nbytes + 4 * self.state.nbytes


@dataclass
class Step:
    """One kind of run made ready: its seats, an execution context per engine, its CUDA graph once captured."""

    first: int
    count: int
    turn: int  # the state buffer that it reads; a run of all seats writes the other one
    full: bool
    profile: int  # the optimisation profile of its contexts, where a plan has one for each
    contexts: list[Any] = field(default_factory=list)
    graph: Graph | None = None


class Tick:
    """The device memory of a program and the steps over it; the caller has made the CUDA context current."""

    def __init__(self, cuda: Cuda, wiring: Wiring, engines: Mapping[str, Any], mapped: bool) -> None:
        self._cuda = cuda
        self._wiring = wiring
        self._engines = engines
        host_in = cuda.pinned(wiring.inputs.nbytes, mapped)
        host_out = cuda.pinned(wiring.outputs.nbytes, False)
        self._host = {"inputs": host_in, "outputs": host_out}
        self.host_inputs = wiring.inputs.views(host_in)
        self.host_outputs = wiring.outputs.views(host_out)
        self._mapped = cuda.device_address(host_in) if mapped else None
        self._events = [cuda.event() for _ in range(len(wiring.calls) + 1)]
        self._done: Any = cuda.event()
        layouts = {"inputs": wiring.inputs, "outputs": wiring.outputs, "between": wiring.between}
        layouts.update(dict.fromkeys(("state0", "state1", "before", "after"), wiring.state))
        self._arenas: dict[str, Arena] = {}
        self._steps: dict[tuple[int, int, int], Step] = {}
        try:
            for name, layout in layouts.items():
                self._arenas[name] = Arena(cuda, layout)
                cuda.zero(self._arenas[name].base, layout.nbytes)
        except BaseException:
            self.free()
            raise
        self._homes = {name: home for home in ("inputs", "outputs", "between") for name in layouts[home].slots}

    def step(self, first: int, count: int, turn: int) -> Step:
        """The step of this kind, made on first use; the oldest kind of partial run gives way."""
        key, full = (first, count, turn), count == self._wiring.seats
        if key not in self._steps:
            partial = [kind_of_step for kind_of_step, step in self._steps.items() if not step.full]
            if not full and len(partial) >= MAX_PARTIAL_STEPS:
                _free(self._steps.pop(partial[0]))
            profile = min(set(range(MAX_CONTEXTS)) - {step.profile for step in self._steps.values()})
            self._steps[key] = self._make(Step(first, count, turn, full, profile))
        return self._steps[key]

    def execute(self, step: Step) -> dict[str, float] | None:
        """Run and wait; ms per engine, or None when it ran as one graph."""
        if step.graph is not None:
            step.graph.launch()
        else:
            self.enqueue(step, self._events)
        self._done.record(self._cuda.stream)
        self._done.synchronize()
        if step.graph is not None:
            return None
        times = {}
        for index, call in enumerate(self._wiring.calls):
            times[call.engine] = float(self._events[index].time_till(self._events[index + 1]))
        return times

    def warm(self, step: Step) -> None:
        """The engines once, without keeping a state, so that a capture meets nothing that is set up lazily."""
        self._calls(step, None)
        self._cuda.stream.synchronize()

    def enqueue(self, step: Step, events: list[Any] | None) -> None:
        """The whole tick in order on the stream; `events` mark the border of every engine."""
        if not self._reads_host_memory(step):
            self._copy_inputs(step)
        if step.first > 0:
            self._gather(step)
        self._calls(step, events)
        if not step.full:
            self._scatter(step)
        self._copy_outputs(step)

    def clear(self, seat: int, turn: int) -> None:
        arena = self._arenas[f"state{turn}"]
        for name, slot in self._wiring.state.slots.items():
            self._cuda.zero(arena.address(name, seat), slot.row_bytes)

    def move(self, source: int, target: int, turn: int) -> None:
        for array in self.host_inputs.values():
            array[target] = array[source]
        arena = self._arenas[f"state{turn}"]
        for name, slot in self._wiring.state.slots.items():
            self._cuda.on_device(arena.address(name, target), arena.address(name, source), slot.row_bytes)

    def read_state(self, seat: int, names: Sequence[str], turn: int) -> dict[str, NDArray[Any]]:
        """Copies of a seat's rows, through page-locked memory: rare, so it is not kept."""
        layout, arena = self._rows_of(names), self._arenas[f"state{turn}"]
        views = layout.views(self._cuda.pinned(layout.nbytes, False))
        for name, view in views.items():
            self._cuda.to_host(view[0], arena.address(name, seat))
        self._cuda.stream.synchronize()
        return {name: view[0].copy() for name, view in views.items()}

    def write_state(self, seat: int, rows: Mapping[str, NDArray[Any]], turn: int) -> None:
        layout, arena = self._rows_of(tuple(rows)), self._arenas[f"state{turn}"]
        views = layout.views(self._cuda.pinned(layout.nbytes, False))
        for name, view in views.items():
            view[0] = rows[name]
            self._cuda.to_device(arena.address(name, seat), view[0])
        self._cuda.stream.synchronize()

    def _rows_of(self, names: Sequence[str]) -> Layout:
        """One seat's rows of these state tensors, side by side."""
        slots = self._wiring.state.slots
        return Layout.of([(name, slots[name].dtype, slots[name].shape) for name in names], 1)

    def free(self) -> None:
        """Everything on the device, graphs and contexts before the memory that they point at."""
        # After a fault on the device every call fails, these too; the fault itself is what the caller hears of.
        with contextlib.suppress(Exception):
            self._cuda.stream.synchronize()
        for step in self._steps.values():
            with contextlib.suppress(Exception):
                _free(step)
        self._steps.clear()
        self._engines = {}
        for arena in self._arenas.values():
            with contextlib.suppress(Exception):
                arena.free()
        self._arenas.clear()
        # pycuda frees what is dropped here while the context is current; later it would have to find its thread again.
        self._events.clear()
        self._done = None
        self._host.clear()
        self.host_inputs, self.host_outputs = {}, {}

    def _make(self, step: Step) -> Step:
        """Contexts of its own for a step: a captured graph keeps pointing at what its contexts were given."""
        before = "before" if step.first > 0 else f"state{step.turn}"
        after = f"state{step.turn ^ 1}" if step.full else "after"
        for call in self._wiring.calls:
            engine = self._engines[call.engine]
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(f"{call.engine}: TensorRT has no memory for another execution context")
            if engine.num_optimization_profiles > 1:
                chosen = context.set_optimization_profile_async(step.profile, self._cuda.handle)
                _must(chosen, call.engine, f"optimisation profile {step.profile}")
            addresses = {name: self._address(tensor, step) for name, tensor in {**call.inputs, **call.outputs}.items()}
            for name, full in call.state.items():
                addresses[name] = self._arenas[before].address(full)
                addresses[f"{name}_next"] = self._arenas[after].address(full)
            for name, shape in call.shapes.items():
                _must(context.set_input_shape(name, (step.count, *shape)), call.engine, f"shape of {name}")
            for name, address in addresses.items():
                _must(context.set_tensor_address(name, address), call.engine, f"address of {name}")
            step.contexts.append(context)
        return step

    def _address(self, tensor: str, step: Step) -> int:
        home = self._homes[tensor]
        if home == "inputs" and self._mapped is not None and self._reads_host_memory(step):
            return self._mapped + self._wiring.inputs.slots[tensor].offset
        return self._arenas[home].address(tensor)

    def _reads_host_memory(self, step: Step) -> bool:
        # Only from the first seat on: a later row need not lie where TensorRT allows a tensor to begin.
        return self._mapped is not None and step.first == 0

    def _calls(self, step: Step, events: list[Any] | None) -> None:
        stream = self._cuda.stream
        if events is not None:
            events[0].record(stream)
        for index, call in enumerate(self._wiring.calls):
            context = step.contexts[index]
            _must(context.execute_async_v3(self._cuda.handle), call.engine, "run")
            if events is not None:
                events[index + 1].record(stream)

    def _copy_inputs(self, step: Step) -> None:
        arena = self._arenas["inputs"]
        if step.full:
            self._cuda.to_device(arena.base, self._host["inputs"])
            return
        for name, array in self.host_inputs.items():
            self._cuda.to_device(arena.address(name), array[step.first : step.first + step.count])

    def _copy_outputs(self, step: Step) -> None:
        arena = self._arenas["outputs"]
        if step.full:
            self._cuda.to_host(self._host["outputs"], arena.base)
            return
        for name, array in self.host_outputs.items():
            self._cuda.to_host(array[step.first : step.first + step.count], arena.address(name))

    def _gather(self, step: Step) -> None:
        """The step's rows of every state to the front of a buffer, where a tensor may begin."""
        source, target = self._arenas[f"state{step.turn}"], self._arenas["before"]
        for name, slot in self._wiring.state.slots.items():
            self._cuda.on_device(target.address(name), source.address(name, step.first), step.count * slot.row_bytes)

    def _scatter(self, step: Step) -> None:
        """The new rows of every state back to their seats, in the buffer that was read."""
        source, target = self._arenas["after"], self._arenas[f"state{step.turn}"]
        for name, slot in self._wiring.state.slots.items():
            self._cuda.on_device(target.address(name, step.first), source.address(name), step.count * slot.row_bytes)


def row_shape(tensor: Any) -> tuple[int, ...]:
    """The shape of one stream's row of a tensor whose first dimension is the streams."""
    return tuple(int(size) for size in tensor.shape[1:])


def _check_call(call: Any, spec: Any, tensors: Mapping[str, Any], computed: set[str]) -> None:
    """Every tensor of the engine but its state is wired to a tensor of the program that fits and is there in time."""
    by_name = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    after = {f"{name}_next" for name in spec.state}
    expected = {tensor.name for tensor in spec.inputs} - set(spec.state)
    if set(call.inputs) != expected:
        raise BackendError(
            f"{call.engine}: inputs {sorted(set(call.inputs) ^ expected)} are not wired or not the engine's"
        )
    allowed = {tensor.name for tensor in spec.outputs} - after
    if not set(call.outputs) <= allowed:
        raise BackendError(f"{call.engine}: {sorted(set(call.outputs) - allowed)} are no outputs of the engine")
    for name, tensor in (*call.inputs.items(), *call.outputs.items()):
        if tensor not in tensors:
            raise BackendError(f"{call.engine}: {name} is wired to {tensor}, which the program does not have")
        if tensors[tensor][1:] != (str(by_name[name].dtype), row_shape(by_name[name])):
            raise BackendError(
                f"{call.engine}: {name} is {by_name[name].dtype} {list(by_name[name].shape)} in the engine, "
                f"{tensor} is {tensors[tensor][1]} {['streams', *tensors[tensor][2]]} in the program"
            )
    for tensor in call.inputs.values():
        if tensor not in computed:
            raise BackendError(f"{call.engine}: {tensor} is read before any engine made it")
    for tensor in call.outputs.values():
        if tensor in computed:
            raise BackendError(f"{call.engine}: {tensor} is made twice")


def _free(step: Step) -> None:
    if step.graph is not None:
        step.graph.free()
    step.graph = None
    step.contexts.clear()


def _must(done: bool, engine: str, what: str) -> None:
    if not done:
        raise BackendError(f"{engine}: TensorRT refused the {what}")
