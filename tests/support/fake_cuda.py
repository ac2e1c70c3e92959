"""A driver and a TensorRT for tests: device memory is host memory, engines are ONNX Runtime, everything is checked.

What is enqueued on a stream runs only when somebody waits for it, so that reading too early reads old values. Device
memory is poisoned, bounded and counted. A call without the context on the calling thread's stack, a tensor that does
not begin at a multiple of 256, memory used after it was freed, a context changed after a capture: all raise `Misuse`.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the processes of a session have no use for it
    import pytest


class Misuse(BaseException):
    """The adapter did what a real driver would punish; no `except Exception` may swallow it."""


@dataclass
class Machine:
    """One fake GPU, its knobs for failures and what happened on it."""

    release: str = "10.13"
    gpu: str = "Fake GPU"
    driver: int = 13000
    devices: int = 1
    fail: dict[str, Any] = field(default_factory=dict)  # name of a call -> how it fails
    log: list[str] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    mapped: dict[int, PinnedBase] = field(default_factory=dict)  # host memory that the device sees
    streams: dict[int, Stream] = field(default_factory=dict)
    builds: int = 0
    seen: dict[str, Any] = field(default_factory=dict)
    local: threading.local = field(default_factory=threading.local)
    contexts: int = 0  # execution contexts made so far
    runs: list[dict[str, int]] = field(default_factory=list)  # addresses of every enqueued engine run

    def stack(self) -> list[Any]:
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        stack: list[Any] = self.local.stack
        return stack

    def need_context(self) -> None:
        if not self.stack():
            raise Misuse("no CUDA context is current on this thread")

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Device memory as an array; it must lie wholly inside one living block."""
        spaces = [(start, block.memory) for start, block in self.blocks.items()]
        spaces += [(start, block.memory) for start, block in self.mapped.items()]
        for start, memory in spaces:
            if start <= address and address + nbytes <= start + len(memory):
                return memory[address - start : address - start + nbytes]
        raise Misuse(f"{nbytes} bytes at {address:#x} are not inside living device memory")

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        self.need_context()
        return (1 << 30) - sum(len(block.memory) for block in self.blocks.values()), 1 << 30

    def failing(self, name: str) -> None:
        failure = self.fail.get(name)
        if isinstance(failure, Exception):
            raise failure


class Block:
    """Device memory, poisoned so that reading what nobody wrote shows."""

    def __init__(self, machine: Machine, nbytes: int) -> None:
        machine.need_context()
        machine.failing("mem_alloc")
        self._machine = machine
        raw = np.full(nbytes + 256, 0xCD, np.uint8)
        offset = -raw.ctypes.data % 256
        self.memory = raw[offset : offset + nbytes]
        self._address = int(self.memory.ctypes.data)
        machine.blocks[self._address] = self

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._machine.need_context()
        if self._machine.blocks.pop(self._address, None) is None:
            raise Misuse("device memory freed twice")


class PinnedBase:
    """The owner of one page-locked block; through `mapped` the device sees it at the same address."""

    def __init__(self, machine: Machine, nbytes: int, mapped: bool) -> None:
        raw = np.full(nbytes + 4096, 0xEE, np.uint8)
        offset = -raw.ctypes.data % 4096
        self.memory = raw[offset : offset + nbytes]
        self._machine = machine
        self._mapped = mapped

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.memory.__array_interface__

    def get_device_pointer(self) -> int:
        if not self._mapped:
            raise Misuse("this page-locked memory is not mapped")
        address = int(self.memory.ctypes.data)
        self._machine.mapped[address] = self
        return address


class Stream:
    """Work in order, done when somebody waits; or recorded, while a capture is on."""

    def __init__(self, machine: Machine, flags: int) -> None:
        machine.need_context()
        machine.seen["stream_flags"] = flags
        self.machine = machine
        self.handle = 0x5EED + len(machine.streams)
        machine.streams[self.handle] = self
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None

    def put(self, what: str, work: Callable[[], None]) -> None:
        self.machine.need_context()
        self.machine.log.append(what if self.captured is None else f"captured {what}")
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        self.machine.need_context()
        if self.captured is not None:
            raise Misuse("waiting for a stream inside a capture")
        self.machine.log.append("wait")
        work, self.queue = self.queue, []
        for item in work:
            item()


class Event:
    """A mark on the stream; its time is the number of the work item before it."""

    def __init__(self, machine: Machine, flags: int) -> None:
        machine.need_context()
        machine.seen["event_flags"] = flags
        self._machine = machine
        self._stream: Stream | None = None
        self._done_at: int | None = None

    def record(self, stream: Stream) -> Event:
        if stream.captured is not None:
            raise Misuse("a timing event inside a capture")
        self._stream = stream

        def mark() -> None:
            self._machine.seen["clock"] = self._done_at = self._machine.seen.get("clock", 0) + 1

        stream.put("event", mark)
        return self

    def synchronize(self) -> Event:
        assert self._stream is not None
        self._machine.failing("synchronize")
        self._stream.synchronize()
        return self

    def time_till(self, later: Event) -> float:
        if self._done_at is None or later._done_at is None:
            raise Misuse("a time was read before its event happened")
        return float(later._done_at - self._done_at)


def _copies(machine: Machine) -> dict[str, Any]:
    """The functions of `pycuda.driver` that make, move or fill memory."""

    def pagelocked_empty(shape: int, dtype: Any, mem_flags: int = 0) -> NDArray[np.uint8]:
        machine.need_context()
        return np.asarray(PinnedBase(machine, shape, mem_flags == 2))

    def htod(target: int, source: NDArray[Any], stream: Stream) -> None:
        if not source.flags.c_contiguous:
            raise Misuse("a copy from memory that is not contiguous")
        machine.failing("memcpy")
        machine.view(target, source.nbytes)
        stream.put("host to device", lambda: np.copyto(machine.view(target, source.nbytes), _bytes(source)))

    def dtoh(target: NDArray[Any], source: int, stream: Stream) -> None:
        if not target.flags.c_contiguous:
            raise Misuse("a copy to memory that is not contiguous")
        machine.view(source, target.nbytes)
        stream.put("device to host", lambda: np.copyto(_bytes(target), machine.view(source, target.nbytes)))

    def dtod(target: int, source: int, nbytes: int, stream: Stream) -> None:
        machine.view(target, nbytes), machine.view(source, nbytes)
        stream.put("on device", lambda: np.copyto(machine.view(target, nbytes), machine.view(source, nbytes)))

    def memset(address: int, value: int, nbytes: int, stream: Stream) -> None:
        if value:
            raise Misuse(f"memory is set to bytes of {value}; cleared state is zeros")
        stream.put("zero", lambda: machine.view(address, nbytes).fill(value))

    return {
        "mem_alloc": lambda nbytes: Block(machine, nbytes),
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": htod,
        "memcpy_dtoh_async": dtoh,
        "memcpy_dtod_async": dtod,
        "memset_d8_async": memset,
    }


def _driver(machine: Machine) -> types.ModuleType:
    """`pycuda.driver` as far as the adapter may use it."""
    module = types.ModuleType("pycuda.driver")

    class Context:
        def push(self) -> None:
            machine.stack().append(self)

        @staticmethod
        def pop() -> None:
            if not machine.stack():
                raise Misuse("popped an empty context stack")
            machine.stack().pop()

    class Device:
        def __init__(self, ordinal: int) -> None:
            machine.failing("Device")

        @staticmethod
        def count() -> int:
            return machine.devices

        def retain_primary_context(self) -> Context:
            return Context()

        def name(self) -> str:
            return machine.gpu

        def compute_capability(self) -> tuple[int, int]:
            return 9, 0

        def get_attribute(self, attribute: str) -> int:
            return {"sm": 132}[attribute]

    module.__dict__.update(
        init=lambda: machine.failing("init"),
        Context=Context,
        Device=Device,
        Stream=lambda flags=0: Stream(machine, flags),
        Event=lambda flags=0: Event(machine, flags),
        **_copies(machine),
        mem_get_info=machine.memory,
        get_driver_version=lambda: machine.driver,
        device_attribute=types.SimpleNamespace(MULTIPROCESSOR_COUNT="sm"),
        host_alloc_flags=types.SimpleNamespace(DEVICEMAP=2),
        event_flags=types.SimpleNamespace(BLOCKING_SYNC=1),
    )
    return module


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data))


@dataclass(frozen=True)
class Status:
    """A CUresult."""

    value: int
    name: str

    def __int__(self) -> int:
        return self.value


class Captures:
    """`cuda.bindings.driver`'s functions on the machine's stream; results are (status, ...) tuples."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _stream(self, handle: int) -> Stream:
        return self._machine.streams[handle]

    def _status(self, name: str) -> Status:
        failure = self._machine.fail.get(name)
        return Status(0, "CUDA_SUCCESS") if failure is None else Status(1, str(failure))

    def _count(self, key: str, change: int) -> tuple[Status]:
        self._machine.seen[key] = self._machine.seen.get(key, 0) + change
        return (Status(0, "CUDA_SUCCESS"),)

    def begin(self, handle: int, mode: str) -> tuple[Status]:
        stream, status = self._stream(handle), self._status("cuStreamBeginCapture")
        if mode != "thread local":
            raise Misuse("a capture that other threads can spoil")
        if stream.queue:
            raise Misuse("a capture began while work was waiting")
        if not int(status):
            stream.captured = []
        return (status,)

    def end(self, handle: int) -> tuple[Any, ...]:
        stream, status = self._stream(handle), self._status("cuStreamEndCapture")
        work, stream.captured = stream.captured, None
        if work is None:
            return Status(2, "CUDA_ERROR_ILLEGAL_STATE"), None
        if int(status):
            return status, None
        return *self._count("graphs", 1), work

    def instantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        status = self._status("cuGraphInstantiate")
        if int(status):
            return status, None
        return *self._count("executables", 1), list(graph)

    def launch(self, executable: list[Callable[[], None]], handle: int) -> tuple[Status]:
        def work() -> None:
            for item in executable:
                item()

        self._stream(handle).put("graph", work)
        return (self._status("cuGraphLaunch"),)


def _bindings(machine: Machine) -> types.ModuleType:
    """`cuda.bindings.driver` as far as the adapter may use it."""
    module, captures = types.ModuleType("cuda.bindings.driver"), Captures(machine)
    module.__dict__.update(
        CUstream=lambda handle: handle,
        CUstreamCaptureMode=types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local"),
        cuStreamBeginCapture=captures.begin,
        cuStreamEndCapture=captures.end,
        cuGraphInstantiate=captures.instantiate,
        cuGraphLaunch=captures.launch,
        cuGraphDestroy=lambda _: captures._count("graphs", -1),
        cuGraphExecDestroy=lambda _: captures._count("executables", -1),
    )
    return module


def install(machine: Machine, monkeypatch: pytest.MonkeyPatch, graphs: bool = True) -> None:
    """Put the fakes where the adapter imports from; without `graphs` cuda-bindings is not installed."""
    for name, module in modules_of(machine, graphs).items():
        monkeypatch.setitem(sys.modules, name, module)


def modules_of(machine: Machine, graphs: bool = True) -> dict[str, Any]:
    """What the adapter imports, by name."""
    from fake_tensorrt import make_tensorrt

    modules: dict[str, Any] = {
        "pycuda": types.ModuleType("pycuda"),
        "pycuda.driver": _driver(machine),
        "tensorrt": make_tensorrt(machine),
        "cuda.bindings.driver": _bindings(machine) if graphs else None,
        "cuda.cuda": None,
    }
    if graphs:
        modules |= {"cuda": types.ModuleType("cuda"), "cuda.bindings": types.ModuleType("cuda.bindings")}
    return modules
