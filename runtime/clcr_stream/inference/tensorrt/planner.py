"""From a verified ONNX graph to a TensorRT plan, on the machine that will run it; TensorRT 8.5 to 11 alike.

What a release has is asked with getattr, never by comparing version numbers: EXPLICIT_BATCH is required by 8.x and gone
in 11, STRONGLY_TYPED came with 10, precision flags left with 11. Python 3.9, no numpy.
"""

from __future__ import annotations

import collections
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clcr_stream.errors import BackendError
from clcr_stream.inference.tensorrt.options import BuildOptions

Progress = Callable[[str, str, int, int], None]  # (engine, phase, steps done, steps of the phase)
MIB = 1 << 20
MAX_CONTEXTS = 6  # of one engine: two for runs of all seats, four for kinds of partial runs
_QUANTISERS = ("QUANTIZE", "DEQUANTIZE")
_UNTYPED = ("CONSTANT", "SHAPE", "CAST", "IDENTITY", *_QUANTISERS)  # their type is their meaning
_FORMATS = re.compile(r"\b(FP32|FP16|BF16|FP8|INT8|INT32|INT64|BOOL|FLOAT|HALF)\b", re.IGNORECASE)
_SAME = {"FLOAT": "FP32", "HALF": "FP16"}


def make_log(trt: Any) -> Any:
    """A TensorRT logger that keeps the last errors and is silent otherwise."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base comes from the imported module
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: collections.deque[str] = collections.deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message.strip())

        def reason(self) -> str:
            """The first line of the last error."""
            return self.errors[-1].splitlines()[0][:300] if self.errors else "TensorRT gave no reason"

    return Log()


def precision_mode(trt: Any) -> str:
    """How the ONNX file's types are enforced here: part of a plan's key."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None) is not None
    return "strongly typed" if typed else "precision constraints"


@dataclass(frozen=True)
class Job:
    """One engine to be built: its name, ONNX bytes, input shapes without the streams, and the most streams at once."""

    engine: str
    onnx: bytes
    inputs: Mapping[str, tuple[int, ...]]
    seats: int


@dataclass(frozen=True)
class Built:
    """A plan, the builder's timing cache after it, and what is known of the plan."""

    plan: bytes
    timing: bytes
    about: dict[str, Any]


class Planner:
    """Builds plans with one release of TensorRT."""

    def __init__(self, trt: Any, options: BuildOptions, progress: Progress | None) -> None:
        self._trt = trt
        self._options = options
        self._progress = progress
        self._log = make_log(trt)

    def build(self, job: Job, timing: bytes) -> Built:
        """The plan of `job`, using and extending the timing cache `timing`; BackendError with TensorRT's reason."""
        trt, started = self._trt, time.monotonic()
        builder = trt.Builder(self._log)
        network, parser = self._parse(builder, job)
        config = builder.create_builder_config()
        for _ in range(_profiles(trt, config)):
            profile = builder.create_optimization_profile()
            for name, shape in job.inputs.items():
                profile.set_shape(name, (1, *shape), (job.seats, *shape), (job.seats, *shape))
            config.add_optimization_profile(profile)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows no types
        fell_back = self._configure(config, network)
        # TensorRT itself may refuse a cache (None or False) that our key fields did not tell apart: an empty one then.
        if not config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        monitor = self.monitor(job.engine)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(f"{job.engine}: TensorRT cannot build the engine: {self._log.reason()}")
        data = bytes(plan)
        about = {
            "seconds": round(time.monotonic() - started, 3),
            "precision": self.precision_shares(data, job.engine),
            "dla_fallback": fell_back,
        }
        del parser  # it owns the weights that the network points at, until here
        return Built(data, bytes(config.get_timing_cache().serialize()), about)

    def precision_shares(self, plan: bytes, engine: str) -> dict[str, float]:
        """Share of the layers by the type of their first output, as the engine inspector tells it."""
        trt = self._trt
        loaded = trt.Runtime(self._log).deserialize_cuda_engine(plan)
        if loaded is None:
            raise BackendError(f"{engine}: TensorRT cannot load its own plan: {self._log.reason()}")
        text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return shares(text)

    def _parse(self, builder: Any, job: Job) -> tuple[Any, Any]:
        trt = self._trt
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(job.onnx):
            reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise BackendError(f"{job.engine}: TensorRT cannot read the graph: {(reasons or [self._log.reason()])[0]}")
        return network, parser

    def _configure(self, config: Any, network: Any) -> list[str]:
        """Apply the options; the layers that cannot run on the DLA, where one is asked for."""
        trt, options = self._trt, self._options
        for attribute, value, name in (
            ("builder_optimization_level", options.builder_optimization_level, "builderOptimizationLevel"),
            ("avg_timing_iterations", options.avg_timing, "avgTiming"),
            ("max_aux_streams", options.max_aux_streams, "maxAuxStreams"),
        ):
            if value is not None:
                if not hasattr(config, attribute):
                    raise BackendError(f"builder option {name}: TensorRT {trt.__version__} does not have it")
                setattr(config, attribute, value)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
        if options.tactic_sources:
            config.set_tactic_sources(tactic_mask(trt, config.get_tactic_sources(), options.tactic_sources))
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        if precision_mode(trt) == "precision constraints":
            _constrain(trt, config, network)
        return self._use_dla(config, network) if options.use_dla_core is not None else []

    def _use_dla(self, config: Any, network: Any) -> list[str]:
        trt = self._trt
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = self._options.use_dla_core
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        fell_back = [str(layer.name) for layer in layers if not config.can_run_on_DLA(layer)]
        if self._options.allow_gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        elif fell_back:
            raise BackendError(f"{len(fell_back)} of {len(layers)} layers cannot run on the DLA; set allowGPUFallback")
        return fell_back

    def monitor(self, engine: str) -> Any:
        """TensorRT's view of the progress handed on, where the release has one (10 and later)."""
        base: Any = getattr(self._trt, "IProgressMonitor", None)
        if base is None or self._progress is None:
            return None
        tell: Progress = self._progress

        class Monitor(base):  # type: ignore[misc]  # the base comes from the imported module
            def __init__(self) -> None:
                base.__init__(self)  # not super(): pybind11 asks for the direct call
                self.steps: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                if not parent_phase:
                    self.steps[phase_name] = num_steps

            def step_complete(self, phase_name: str, step: int) -> bool:
                if phase_name in self.steps:
                    tell(engine, phase_name, step + 1, self.steps[phase_name])
                return True

            def phase_finish(self, phase_name: str) -> None:
                self.steps.pop(phase_name, None)

        return Monitor()


def shares(text: str) -> dict[str, float]:
    """Share of the layers per type in an inspector's JSON; "unknown" where it names no type."""
    layers = json.loads(text).get("Layers", [])
    counts: collections.Counter[str] = collections.Counter()
    for information in layers:
        outputs = information.get("Outputs", []) if isinstance(information, dict) else []
        formats = _FORMATS.findall(json.dumps(outputs[0])) if outputs else []
        kind = formats[-1].upper() if formats else "UNKNOWN"
        counts[_SAME.get(kind, kind).lower()] += 1
    return {kind: round(count / len(layers), 4) for kind, count in sorted(counts.items())}


def tactic_mask(trt: Any, mask: int, text: str) -> int:
    """`mask` with sources added (+NAME) and taken away (-NAME); what a release no longer has may be taken away."""
    for part in (part.strip() for part in text.split(",")):
        source = getattr(trt.TacticSource, part[1:], None)
        if part[:1] not in ("+", "-") or (source is None and part[0] == "+"):
            raise BackendError(f"builder option tacticSources: {part!r} is not +NAME or -NAME of this TensorRT")
        if source is not None:
            bit = 1 << int(source)
            mask = mask | bit if part[0] == "+" else mask & ~bit
    return int(mask)


def _profiles(trt: Any, config: Any) -> int:
    """How many equal profiles a plan needs, so that every execution context may have one.

    Contexts share a profile from TensorRT 10 on, in 8.6 when told so, and not at all in 8.5.
    """
    sharing = getattr(trt.PreviewFeature, "PROFILE_SHARING_0806", None)
    if sharing is not None:
        if not config.get_preview_feature(sharing):
            config.set_preview_feature(sharing, True)
        return 1
    return 1 if precision_mode(trt) == "strongly typed" else MAX_CONTEXTS


def network_flags(trt: Any) -> int:
    creation = trt.NetworkDefinitionCreationFlag
    flags: Iterable[Any] = (getattr(creation, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    return sum(1 << int(flag) for flag in flags if flag is not None)


def _constrain(trt: Any, config: Any, network: Any) -> None:
    """Without strong typing: the lower precisions that the file holds are allowed, and every layer keeps the file's.

    A file of float32 alone needs nothing: without a flag nothing lower is tried.
    """
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = [[layer.get_output(index).dtype for index in range(layer.num_outputs)] for layer in layers]
    quantised = any(layer.type.name in _QUANTISERS for layer in layers)
    lower = ["FP16"] if any(trt.DataType.HALF in dtypes for dtypes in kinds) else []
    lower += ["INT8"] if quantised or any(trt.DataType.INT8 in dtypes for dtypes in kinds) else []
    if not lower:
        return
    for place, layer in enumerate(layers):
        dtypes = kinds[place]
        if layer.type.name in _UNTYPED or not dtypes or any(kind not in floats for kind in dtypes):
            continue
        layer.precision = trt.DataType.HALF if trt.DataType.HALF in dtypes else trt.DataType.FLOAT
        for index, kind in enumerate(dtypes):
            layer.set_output_type(index, kind)
    for flag in (*lower, "OBEY_PRECISION_CONSTRAINTS"):
        config.set_flag(getattr(trt.BuilderFlag, flag))
