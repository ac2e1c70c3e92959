"""The part of TensorRT's Python API that the adapter uses, for three generations of it, over ONNX Runtime.

A "plan" is the ONNX file behind a header that names release and GPU; an engine reads and writes the memory whose
addresses it was given. What a generation does not have is absent here too: test_tensorrt_contract.py holds this file
against the real bindings.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import types
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from fake_cuda import Machine, Misuse

if TYPE_CHECKING:
    import onnx

MAGIC = b"FAKEPLAN"
DTYPES = {1: ("FLOAT", np.float32), 6: ("INT32", np.int32), 10: ("HALF", np.float16)}
KINDS = {"tensor(float)": 1, "tensor(int32)": 6, "tensor(float16)": 10}  # as ONNX Runtime calls them


def make_tensorrt(machine: Machine) -> types.ModuleType:
    """A module `tensorrt` of `machine.release`: 8.6, 10.13 or 11.4."""
    if "import tensorrt" in machine.fail:
        return None  # type: ignore[return-value]  # makes the import fail
    module = types.ModuleType("tensorrt")
    major = int(machine.release.split(".")[0])
    module.__dict__.update(names_of(major))
    if machine.release == "8.5":
        module.__dict__["PreviewFeature"] = enum.IntEnum("PreviewFeature", ["FASTER_DYNAMIC_SHAPES_0805"])
    module.__dict__.update(
        __version__=machine.release,
        ILogger=Logger,
        Builder=lambda log: Builder(machine, module, log),
        OnnxParser=lambda network, log: Parser(machine, network),
        Runtime=lambda log: Runtime(machine, module, log),
    )
    if major >= 10:
        module.__dict__["IProgressMonitor"] = type("IProgressMonitor", (), {})
    return module


def names_of(major: int) -> dict[str, Any]:
    """The enumerations, as the generation has them."""
    flags = ["DEBUG", "GPU_FALLBACK", "TF32"]
    creation, tactics = ["EXPLICIT_BATCH"], ["CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS"]
    if major < 11:
        flags += ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    if major >= 10:
        creation = ["EXPLICIT_BATCH", "STRONGLY_TYPED"] if major == 10 else ["STRONGLY_TYPED"]
    if major >= 11:
        tactics = ["EDGE_MASK_CONVOLUTIONS"]
    texts = {
        "BuilderFlag": flags,
        "NetworkDefinitionCreationFlag": creation,
        "TacticSource": tactics,
        "PreviewFeature": ["PROFILE_SHARING_0806"] if major < 11 else ["ALIASED_PLUGIN_IO_10_03"],
        "DataType": ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "INT64"],
        "TensorIOMode": ["NONE", "INPUT", "OUTPUT"],
        "ProfilingVerbosity": ["LAYER_NAMES_ONLY", "NONE", "DETAILED"],
        "LayerInformationFormat": ["ONELINE", "JSON"],
        "MemoryPoolType": ["WORKSPACE"],
        "DeviceType": ["GPU", "DLA"],
        "LayerType": ["CONSTANT", "SHAPE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "MATRIX_MULTIPLY"],
    }
    return {name: enum.IntEnum(name, members, start=0) for name, members in texts.items()}


class Logger:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class Layer:
    def __init__(self, module: Any, node: onnx.NodeProto, kind: int) -> None:
        self.name = node.name or node.op_type
        kinds = {"Cast": "CAST", "Constant": "CONSTANT", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE"}
        self.type = module.LayerType[kinds.get(node.op_type, "MATRIX_MULTIPLY")]
        self.num_outputs = len(node.output)
        self.precision: Any = None
        self.output_types: dict[int, Any] = {}
        self._dtype = module.DataType[DTYPES.get(kind, ("INT64",))[0]]

    def get_output(self, index: int) -> Any:
        return types.SimpleNamespace(dtype=self._dtype)

    def set_output_type(self, index: int, kind: Any) -> None:
        self.output_types[index] = kind


class Network:
    def __init__(self, module: Any) -> None:
        self.module = module
        self.onnx = b""
        self.layers: list[Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


class Parser:
    def __init__(self, machine: Machine, network: Network) -> None:
        self._machine, self._network = machine, network
        self.num_errors = 0

    def parse(self, data: bytes) -> bool:
        import onnx  # a session that finds its plans does without

        try:
            model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data))
        except Exception:  # protobuf's own decode error
            self.num_errors = 1
            return False
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
        module = self._network.module
        self._network.layers = [Layer(module, node, kinds.get(node.output[0], 1)) for node in model.graph.node]
        self._network.onnx = data
        return True

    def get_error(self, index: int) -> Any:
        return types.SimpleNamespace(desc=lambda: "the bytes are no model")


class Config:
    def __init__(self, machine: Machine, module: Any) -> None:
        self.set: set[Any] = {module.BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.pools: dict[Any, int] = {}
        self.tactics = (1 << len(module.TacticSource)) - 1
        self.max_aux_streams = self.avg_timing_iterations = 1
        if machine.release != "8.5":
            self.builder_optimization_level = 3
        machine.seen["config"] = self
        self.shared = module.__version__.split(".")[0] != "8"
        self._machine = machine

    def set_flag(self, flag: Any) -> None:
        self.set.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.set.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profiles.append(profile)

    def get_preview_feature(self, feature: Any) -> bool:
        return bool(self.shared)

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        self.shared = on

    def set_memory_pool_limit(self, pool: Any, nbytes: int) -> None:
        self.pools[pool] = nbytes

    def get_tactic_sources(self) -> int:
        return self.tactics

    def set_tactic_sources(self, mask: int) -> None:
        self.tactics = mask

    def create_timing_cache(self, data: bytes) -> Any:
        self._machine.seen["timing in"] = data
        return types.SimpleNamespace(serialize=lambda: data + b"t")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        accepted = "timing" not in self._machine.fail or self._machine.seen["timing in"] == b""
        if accepted:
            self._cache = cache
        return accepted

    def get_timing_cache(self) -> Any:
        return self._cache

    def can_run_on_DLA(self, layer: Layer) -> bool:
        return bool(layer.type.name == "MATRIX_MULTIPLY")


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]) -> None:
        self.shapes[name] = (low, best, high)


class Builder:
    def __init__(self, machine: Machine, module: Any, log: Any) -> None:
        machine.need_context()
        self._machine, self._module, self._log = machine, module, log

    def create_network(self, flags: int) -> Network:
        wanted = sum(1 << int(flag) for flag in self._module.NetworkDefinitionCreationFlag)
        if flags != wanted:
            raise Misuse(f"network flags {flags:#b}, this release wants {wanted:#b}")
        network = Network(self._module)
        self._machine.seen["network"] = network
        return network

    def create_builder_config(self) -> Config:
        return Config(self._machine, self._module)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self._machine.builds += 1
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Tactics", "Building", 9)
            monitor.step_complete("Tactics", 0)
            monitor.step_complete("Building", 0)
            monitor.step_complete("Building", 1)
            monitor.phase_finish("Building")
        if "build" in self._machine.fail:
            self._log.log(Logger.ERROR, "an earlier complaint")
            self._log.log(Logger.ERROR, f"{self._machine.fail['build']}\nsecond line")
            return None
        known = {
            "release": self._machine.release,
            "profile": config.profiles[0].shapes,
            "profiles": len(config.profiles),
            "shared": config.shared,
        }
        head = json.dumps(known).encode()
        return MAGIC + len(head).to_bytes(4, "little") + head + network.onnx


class Runtime:
    def __init__(self, machine: Machine, module: Any, log: Any) -> None:
        machine.need_context()
        self._machine, self._module, self._log = machine, module, log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self._machine.need_context()
        self._machine.seen["deserialised"] = self._machine.seen.get("deserialised", 0) + 1
        if not plan.startswith(MAGIC):
            raise Misuse("bytes that are no plan of ours reached TensorRT")
        size = int.from_bytes(plan[8:12], "little")
        head = json.loads(plan[12 : 12 + size])
        if head["release"] != self._machine.release or "deserialize" in self._machine.fail:
            self._log.log(Logger.ERROR, "the plan is of another release")
            return None
        return Engine(self._machine, self._module, head, plan[12 + size :])


@lru_cache(maxsize=64)
def opened(graph: bytes) -> tuple[Any, dict[str, tuple[str, Any, list[int]]]]:
    """A session, which holds no state, and the border of its graph: opened once, as that takes up to 200 ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tensors: dict[str, tuple[str, Any, list[int]]] = {}
    for mode, values in (("INPUT", session.get_inputs()), ("OUTPUT", session.get_outputs())):
        for value in values:
            shape = [size if isinstance(size, int) else -1 for size in value.shape]
            tensors[value.name] = (mode, DTYPES[KINDS[value.type]], shape)
    return session, tensors


class Engine:
    def __init__(self, machine: Machine, module: Any, head: dict[str, Any], graph: bytes) -> None:
        self.machine, self.module, self.profile = machine, module, head["profile"]
        self.num_optimization_profiles = head["profiles"]
        self.shared = head["shared"]
        self.alive: weakref.WeakSet[Context] = weakref.WeakSet()
        self.session, self.tensors = opened(graph)
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode[self.tensors[name][0]]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.module.DataType[self.tensors[name][1][0]]

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.tensors[name][2]

    def create_execution_context(self) -> Context | None:
        self.machine.need_context()
        return None if "context" in self.machine.fail else Context(self)

    def create_engine_inspector(self) -> Any:
        layers = [{"Name": "a", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]} for _ in range(3)]
        layers.append(
            {"Name": "b", "Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}
        )
        text = json.dumps({"Layers": layers})
        return types.SimpleNamespace(get_engine_information=lambda layout: text)


class Context:
    """Holds shapes and addresses; a run takes them as they are when it is enqueued."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.captured = False
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.chosen = 0
        engine.alive.add(self)
        engine.machine.contexts += 1

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        self._unless_captured()
        self.chosen = index
        return bool(0 <= index < self.engine.num_optimization_profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._unless_captured()
        if not self.engine.shared and any(c.chosen == self.chosen for c in self.engine.alive if c is not self):
            return False  # "Profile 0 has been chosen by another IExecutionContext"
        low, _, high = self.engine.profile[name]
        fits = all(low[axis] <= size <= high[axis] for axis, size in enumerate(shape))
        self.shapes[name] = shape
        return fits and "shape" not in self.engine.machine.fail

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._unless_captured()
        if address % 256:
            raise Misuse(f"{name} does not begin at a multiple of 256")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        machine = self.engine.machine
        stream = machine.streams[handle]
        if set(self.addresses) != set(self.engine.tensors) or set(self.shapes) != set(self.engine.profile):
            raise Misuse("an engine was run with a tensor or a shape missing")
        if "execute" in machine.fail or (stream.captured is not None and "execute in capture" in machine.fail):
            return False
        self.captured |= stream.captured is not None
        given = dict(self.addresses)
        machine.runs.append(given)
        stream.put("engine", lambda: self._compute(given))
        return True

    def _compute(self, addresses: dict[str, int]) -> None:
        feeds = {name: self._array(name, addresses[name], shape) for name, shape in self.shapes.items()}
        names = [name for name, (mode, *_) in self.engine.tensors.items() if mode == "OUTPUT"]
        inputs = {name: array.copy() for name, array in feeds.items()}
        for name, array in zip(names, self.engine.session.run(names, inputs), strict=True):
            self._array(name, addresses[name], array.shape)[...] = array

    def _array(self, name: str, address: int, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(self.engine.tensors[name][1][1])
        nbytes = math.prod(shape) * dtype.itemsize
        self.engine.machine.view(address, nbytes)
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), dtype).reshape(shape)

    def _unless_captured(self) -> None:
        if self.captured:
            raise Misuse("a context was changed after its capture")
