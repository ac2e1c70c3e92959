"""CUDA as the TensorRT backend needs it: pycuda on the primary context, arenas of named tensors, CUDA graphs.

pycuda keeps a stack of contexts per thread and aborts the process when one is left on it at exit, so the context is
pushed for the length of a call and popped again. Python 3.9 and numpy alone; pycuda and cuda-bindings are imported when
a device is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import BackendError

ALIGNMENT = 256  # bytes; TensorRT wants every tensor's address at a multiple of it
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the legacy stream of other users (torch) does not order ours


def first_line(error: BaseException) -> str:
    """The first line of an error, or its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in an arena: `seats` rows of `row_bytes`, contiguous."""

    offset: int
    row_bytes: int
    shape: tuple[int, ...]  # of one row
    dtype: str


@dataclass(frozen=True)
class Layout:
    """Tensors side by side in one block of memory, each at a multiple of ALIGNMENT."""

    slots: Mapping[str, Slot]
    nbytes: int
    seats: int

    @staticmethod
    def of(tensors: Iterable[tuple[str, str, tuple[int, ...]]], seats: int) -> Layout:
        """Lay out (name, dtype, shape of a row) for `seats` rows each."""
        slots: dict[str, Slot] = {}
        offset = 0
        for name, dtype, shape in tensors:
            row_bytes = np.dtype(dtype).itemsize * math.prod(shape)
            slots[name] = Slot(offset, row_bytes, shape, dtype)
            offset += -(-max(1, row_bytes * seats) // ALIGNMENT) * ALIGNMENT
        return Layout(slots, max(ALIGNMENT, offset), seats)

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The tensors as arrays (seats, ...) over host memory in this layout."""
        found = {}
        for name, slot in self.slots.items():
            part = block[slot.offset : slot.offset + slot.row_bytes * self.seats]
            found[name] = part.view(slot.dtype).reshape(self.seats, *slot.shape)
        return found


class Arena:
    """A layout in device memory."""

    def __init__(self, cuda: Cuda, layout: Layout) -> None:
        self.layout = layout
        self._memory = cuda.driver.mem_alloc(layout.nbytes)
        self.base = int(self._memory)

    def address(self, name: str, row: int = 0) -> int:
        slot = self.layout.slots[name]
        return self.base + slot.offset + row * slot.row_bytes

    def free(self) -> None:
        self._memory.free()


class Cuda:
    """One device's primary context, the one that TensorRT and torch use too, and one stream in it."""

    def __init__(self, ordinal: int, blocking_wait: bool) -> None:
        try:
            self.driver: Any = importlib.import_module("pycuda.driver")
            self.driver.init()
            count = self.driver.Device.count()
            if not 0 <= ordinal < count:
                raise BackendError(f"tensorrt: GPU {ordinal} is not there; this machine has {count}")
            self.device: Any = self.driver.Device(ordinal)
            self._context: Any = self.device.retain_primary_context()
            with self.current():
                self.stream: Any = self.driver.Stream(NON_BLOCKING)
        except BackendError:
            raise
        except Exception as error:  # ImportError, and pycuda's own types without a common base that can be named here
            raise BackendError(f"tensorrt: CUDA cannot be used ({first_line(error)}); see docs/jetson.md") from error
        self.handle = int(self.stream.handle)
        self._wait_flags = int(self.driver.event_flags.BLOCKING_SYNC) if blocking_wait else 0

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's within the block, and off its stack after it."""
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def identity(self) -> dict[str, str]:
        """What a plan depends on, as text: GPU name, compute capability, number of SMs, driver."""
        attribute = self.driver.device_attribute.MULTIPROCESSOR_COUNT
        major, minor = self.device.compute_capability()
        return {
            "gpu": str(self.device.name()),
            "compute_capability": f"{major}.{minor}",
            "sm_count": str(self.device.get_attribute(attribute)),
            "driver": str(self.driver.get_driver_version()),
        }

    def memory_mib(self) -> tuple[float, float]:
        """(free, total) device memory in MiB, of all processes."""
        with self.current():
            free, total = self.driver.mem_get_info()
        return free / 2**20, total / 2**20

    def pinned(self, nbytes: int, mapped: bool) -> NDArray[np.uint8]:
        """Page-locked host memory, zeroed; `mapped` memory has an address on the device too."""
        flags = self.driver.host_alloc_flags.DEVICEMAP if mapped else 0
        block: NDArray[np.uint8] = self.driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        block.fill(0)
        return block

    def device_address(self, block: Any) -> int:
        """Where the device sees a mapped `pinned` block."""
        return int(block.base.get_device_pointer())

    def event(self) -> Any:
        """An event for timing; waiting for it sleeps or spins, as the device was opened."""
        return self.driver.Event(self._wait_flags)

    def zero(self, address: int, nbytes: int) -> None:
        self.driver.memset_d8_async(address, 0, nbytes, self.stream)

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        self.driver.memcpy_htod_async(address, source, self.stream)

    def to_host(self, target: NDArray[Any], address: int) -> None:
        self.driver.memcpy_dtoh_async(target, address, self.stream)

    def on_device(self, target: int, source: int, nbytes: int) -> None:
        self.driver.memcpy_dtod_async(target, source, nbytes, self.stream)


class Graphs:
    """Stream capture through cuda-bindings on a pycuda stream; BackendError when the package is not there."""

    def __init__(self, cuda: Cuda) -> None:
        self._driver = _bindings()
        self._stream = self._driver.CUstream(cuda.handle)

    def begin(self) -> None:
        # Thread-local: what another thread does with CUDA in the meantime (torch, a decoder) cannot spoil the capture.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)

    def end(self) -> Graph:
        """What was enqueued since `begin`, ready to be launched."""
        captured = self._call("cuStreamEndCapture", self._stream)
        try:
            executable = self._call("cuGraphInstantiate", captured, 0)
        finally:
            self._call("cuGraphDestroy", captured)
        return Graph(self, executable)

    def abandon(self) -> None:
        """Leave capture mode after a failure, whatever was captured; never raises."""
        found = self._driver.cuStreamEndCapture(self._stream)
        if len(found) > 1 and int(found[0]) == 0:
            self._driver.cuGraphDestroy(found[1])

    def launch(self, executable: Any) -> None:
        self._call("cuGraphLaunch", executable, self._stream)

    def destroy(self, executable: Any) -> None:
        self._call("cuGraphExecDestroy", executable)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, name)(*arguments)
        if int(status) != 0:
            raise BackendError(f"tensorrt: {name} failed with {getattr(status, 'name', status)}")
        return values[0] if values else None


class Graph:
    """An instantiated CUDA graph."""

    def __init__(self, graphs: Graphs, executable: Any) -> None:
        self._graphs = graphs
        self._executable = executable

    def launch(self) -> None:
        self._graphs.launch(self._executable)

    def free(self) -> None:
        self._graphs.destroy(self._executable)


def _bindings() -> Any:
    """cuda-bindings' driver API under its name of today (cuda-python 12.8 and later) or the one before."""
    reasons = []
    for name in ("cuda.bindings.driver", "cuda.cuda"):
        try:
            return importlib.import_module(name)
        except Exception as error:  # an import of native code fails with more than ImportError
            reasons.append(first_line(error))
    raise BackendError(f"tensorrt: no CUDA graphs: {reasons[0]}; run `pip install cuda-bindings`")
