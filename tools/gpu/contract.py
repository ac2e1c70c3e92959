"""Does this TensorRT have every name that the backend uses? One line per name that it has not.

    python tools/gpu/contract.py [--module tensorrt] [--dump]

Needs no GPU: names are read from the adapter's own source (runtime/clcr_stream/inference/tensorrt) and
looked up in the classes. The parts of the adapter that only derive something from names are run as well. Python 3.9.
Exit code 0: all there; 1: findings on stdout; 4: TensorRT cannot be imported.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TENSORRT = Path(__file__).resolve().parents[2] / "runtime/clcr_stream/inference/tensorrt"
# A variable of the adapter's source -> the class behind it.
VARIABLES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "loaded": "ICudaEngine",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
}
CALLED = ("EngineInspector.get_engine_information", "ITimingCache.serialize", "ParserError.desc", "ILogger.log")
LATER = {"max_aux_streams": "8.6", "builder_optimization_level": "8.6", "progress_monitor": "10.0"}


def names_used(source: str, weakly_typed: bool) -> Iterator[str]:
    """`Class.member` and `Enum.MEMBER` as a source file uses them; `_constrain` runs with weak typing only."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_constrain" and not weakly_typed:
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node in skipped:
            continue
        path = ast.unparse(node).removeprefix("self._")
        if path.startswith("trt.") and path.count(".") <= 2:
            yield path.removeprefix("trt.")
        elif isinstance(node.value, ast.Name) and node.value.id in VARIABLES:
            yield f"{VARIABLES[node.value.id]}.{node.attr}"


def findings(trt: Any) -> list[str]:
    """What this TensorRT lacks or does otherwise than the adapter expects."""
    from clcr_stream.inference.tensorrt import planner

    weakly_typed = planner.precision_mode(trt) == "precision constraints"
    used = set(CALLED)
    if weakly_typed:
        used.update(f"BuilderFlag.{name}" for name in ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"))
    for name in ("planner", "device_tick", "backend"):
        used.update(names_used((TENSORRT / f"{name}.py").read_text(encoding="utf-8"), weakly_typed))
    lines = [f"{name}: not in TensorRT {trt.__version__}" for name in sorted(used) if not has_name(trt, name)]
    return lines + list(_derived(trt, planner))


def driver_findings(driver: Any) -> list[str]:
    """Names of pycuda.driver that cuda.py uses and that are not there; importing pycuda.driver needs a libcuda."""
    tree = ast.parse((TENSORRT / "cuda.py").read_text(encoding="utf-8"))
    paths = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {path.split("driver.", 1)[1] for path in paths if path.startswith(("self.driver.", "cuda.driver."))}
    used |= {"Context.push", "Device.retain_primary_context", "Stream.handle", "Stream.synchronize", "Event.record"}
    used |= {"Event.synchronize", "Event.time_till", "DeviceAllocation.free", "PagelockedHostAllocation"}
    used |= {"Device.compute_capability", "Device.get_attribute", "Device.name"}
    return [f"pycuda.driver.{name} is missing" for name in sorted(used) if not has_name(driver, name)]


def has_name(trt: Any, path: str) -> bool:
    """Whether the release has what `path` names, or need not, because the adapter asks first."""
    if path.startswith("TacticSource.") or path.rpartition(".")[2] in LATER:
        return True  # asked for with hasattr before it is used
    found = trt
    for part in path.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def _derived(trt: Any, planner: Any) -> Iterator[str]:
    """Run what needs no GPU: flags, masks, subclasses that TensorRT calls back."""
    creation = trt.NetworkDefinitionCreationFlag
    known = (getattr(creation, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    bits = [1 << int(flag) for flag in known if flag is not None]
    if planner.network_flags(trt) != sum(bits) or not bits:
        yield f"network flags are {planner.network_flags(trt):#b}"
    log = planner.make_log(trt)
    log.log(trt.ILogger.WARNING, "a warning")
    log.log(trt.ILogger.ERROR, "an error\nmore")
    if log.reason() != "an error":
        yield f"the log kept {log.reason()!r}"
    if planner.tactic_mask(trt, 0b111111, "-CUBLAS,-CUBLAS_LT,-CUDNN") & sum(
        1 << int(getattr(trt.TacticSource, name))
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN")
        if hasattr(trt.TacticSource, name)
    ):
        yield "tactic sources that were taken away are still in the mask"
    from clcr_stream.inference.tensorrt import options

    told: list[tuple[str, str, int, int]] = []
    monitor = planner.Planner(trt, options.BuildOptions(), lambda *step: told.append(step)).monitor("level1")
    if (monitor is None) == hasattr(trt, "IProgressMonitor"):
        yield "the progress monitor does not follow IProgressMonitor"
    if monitor is not None:
        monitor.phase_start("outer", None, 2)
        monitor.phase_start("inner", "outer", 9)
        if not monitor.step_complete("outer", 0) or not monitor.step_complete("inner", 3):
            yield "the progress monitor would cancel the build"
        if told != [("level1", "outer", 1, 2)]:
            yield f"the progress monitor told {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look the names up; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="tensorrt", help="tensorrt_bindings for the bare bindings of PyPI")
    parser.add_argument("--dump", action="store_true", help="print every class with its members as JSON instead")
    given = parser.parse_args(arguments)
    try:
        trt = importlib.import_module(given.module)
    except Exception as error:  # native code: OSError and worse
        print(f"contract: {given.module} cannot be imported ({error})", file=sys.stderr)
        return 4
    if given.dump:
        print(json.dumps({name: dir(value) for name, value in vars(trt).items() if isinstance(value, type)}))
        return 0
    lines = findings(trt)
    for line in lines:
        print(line)
    print(f"TensorRT {trt.__version__}, Python {sys.version.split()[0]}: {len(lines)} findings", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
