"""Proves on an NVIDIA machine, with one command, what the CPU tests cannot: parity, latency, streams, a minute's load.

    python3 tools/gpu_check.py --json gpu.json                    TensorRT and PyTorch, whichever is installed
    python3 tools/gpu_check.py --quick --json gpu.json            the same with short measurements, fewer batches
    /opt/trt86/python tools/gpu_check.py --json gpu.json          with the folder of tools/gpu/offline_trt86.py
    python3 tools/gpu_check.py --only torch --streams 1,64

Needs Python 3.9 or later and numpy; TensorRT with pycuda, PyTorch with onnx, ONNX Runtime each add their part, and what
is missing is named. The JSON file is written after every step.
Exit code 0: every check passed and every latency is stable; 1: a check failed; 3: inconclusive (a latency whose last
three windows differ by more than 10 %, or nothing measured); 4: no NVIDIA GPU can be used here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))
QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,pstate"
)
MODULES = ("numpy", "tensorrt", "pycuda", "cuda.bindings", "torch", "onnx", "onnxruntime")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections that this machine can; returns the exit code."""
    given = _parse(arguments)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by ONNX Runtime when it is imported
    try:
        from gpu.measure import Report
        from gpu.program import load_bundle
    except ImportError as error:
        print(f"gpu_check: {error}; run `pip install numpy`", file=sys.stderr)
        return 4
    reasons = {"tensorrt": _why_no_tensorrt(), "torch": _why_no_torch()}
    reasons = {name: reason for name, reason in reasons.items() if given.only in (None, name)}
    if all(reasons.values()):
        said = "; ".join(f"{name}: {str(reason).removeprefix(f'{name}: ')}" for name, reason in reasons.items())
        print(f"gpu_check: no NVIDIA GPU can be used here ({said})", file=sys.stderr)
        return 4
    report = Report(given.json)
    report.found["environment"] = environment(sys.argv if arguments is None else list(arguments))
    for name, value in report.found["environment"].items():
        print(f"     {name}: {value}")
    bundle = load_bundle(given.bundle)
    report.fact("bundle", bundle.id)
    for name, section in (("tensorrt", _tensorrt), ("torch", _torch)):
        if name in reasons:
            _guarded(name, section, (bundle, report, given), reasons[name])
    report.found["environment"]["gpu after"] = _nvidia_smi()
    report.save()
    words = {0: "passed", 1: "FAILED", 3: "inconclusive"}
    print(f"gpu_check: {words[report.exit_code()]}")
    return report.exit_code()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "engines" / "default")
    parser.add_argument("--json", type=Path, help="write everything that was found here")
    parser.add_argument("--only", choices=("tensorrt", "torch"))
    parser.add_argument("--streams", type=_numbers, default=(1, 4, 16, 64, 256, 1024), help="batches, as 1,64,1024")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--sustained", type=float, default=60.0, help="length of the sustained run; 0 leaves it out")
    parser.add_argument("--budget", type=float, default=1500.0, help="after so many seconds no further batch is begun")
    parser.add_argument("--quick", action="store_true", help="--seconds 1 --sustained 10 --streams 1,64")
    parser.add_argument("--merged", type=Path, help="a file of tools/gpu/merge.py, where onnx is not installed")
    parser.add_argument("--cache", type=Path, help="folder for plans and their key; default: the user's own")
    given = parser.parse_args(arguments)
    if given.quick:
        given.seconds, given.sustained, given.streams = 1.0, 10.0, (1, 64)
    return given


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("streams are 1 or more")
    return numbers


def _guarded(name: str, section: Any, arguments: tuple[Any, ...], reason: str | None) -> None:
    """Run a section; what stops it is a failed check of the report and not the end of the other section."""
    report = arguments[1]
    if reason is not None:
        report.not_done(name, reason)
        return
    try:
        section(*arguments)
    except Exception as error:
        text = str(error).strip().splitlines()[:1] or [""]
        report.fact(f"{name}: stopped by {type(error).__name__}", text[0])
        report.check(f"{name}: the section ran to its end", 1.0, 0.0)


def _tensorrt(bundle: Any, report: Any, given: argparse.Namespace) -> None:
    from clcr_stream.inference.tensorrt import backend as module
    from clcr_stream.inference.tensorrt.plan_cache import PlanCache
    from gpu.trt import Lab, Plan, tensorrt_section

    cache = PlanCache(given.cache / "plans", given.cache / "key" / "plan.key") if given.cache else None
    plan = Plan(given.seconds, given.sustained, given.streams, given.budget, given.merged)
    tensorrt_section(Lab.of(bundle, module, cache, report, plan))


def _torch(bundle: Any, report: Any, given: argparse.Namespace) -> None:
    try:
        from gpu.ticks import torch_section
    except ImportError as error:
        report.not_done("torch", str(error))
        return
    torch_section(bundle, report, given.seconds)


def _why_no_tensorrt() -> str | None:
    from clcr_stream.inference.tensorrt.backend import why_unavailable

    return why_unavailable()


def _why_no_torch() -> str | None:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # native code fails to load in more ways than ImportError
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


def environment(command: Sequence[str]) -> dict[str, Any]:
    """What a figure has to be read with: machine, driver, clocks, power mode, versions, the command."""
    found: dict[str, Any] = {
        "command": " ".join(command),
        "python": sys.version.split()[0],
        "machine": f"{platform.machine()}, {platform.platform()}",
    }
    for name in MODULES:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "installed"))
        except Exception as error:  # see _why_no_torch
            found[name] = f"not usable ({type(error).__name__})"
    found["gpu"] = _nvidia_smi()
    for name, path in (("jetson", "/etc/nv_tegra_release"), ("model", "/proc/device-tree/model")):
        if Path(path).is_file():
            found[name] = Path(path).read_text(errors="replace").strip("\0\n ").splitlines()[0]
    if shutil.which("nvpmodel"):
        found["power mode"] = _said(["nvpmodel", "-q"])
    return found


def _nvidia_smi() -> dict[str, str] | str:
    said = _said(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"])
    values = said.splitlines()[0].split(", ") if said else []
    names = QUERY.split(",")
    return {name: values[place] for place, name in enumerate(names)} if len(values) == len(names) else said


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]}: {type(error).__name__}"
    return done.stdout.decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main())
