"""The adapter and the fake TensorRT against NVIDIA's real Python bindings of four releases.

The bindings come from PyPI (1.2 MB each) into the user's cache; three stub libraries built here stand in for TensorRT's
own, so everything that needs no GPU can be asked. Without gcc or a network the tests skip and say why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import fake_cuda
import fake_tensorrt

ROOT = Path(__file__).resolve().parents[2]
contract: Any = import_module("gpu.contract")
RELEASES = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu13-bindings==10.13.3.9.post1",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
CUDA = {"12": "cuda-bindings==12.9.4", "13": "cuda-bindings==13.5.0"}
STUBS = {
    "libnvinfer": "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "getBuilderPluginRegistry getPluginRegistry",
    "libnvonnxparser": "createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion",
    "libnvinfer_plugin": "initLibNvInferPlugins",
}
FAKES: dict[type, str] = {
    fake_tensorrt.Builder: "Builder",
    fake_tensorrt.Config: "IBuilderConfig",
    fake_tensorrt.Network: "INetworkDefinition",
    fake_tensorrt.Parser: "OnnxParser",
    fake_tensorrt.Profile: "IOptimizationProfile",
    fake_tensorrt.Runtime: "Runtime",
    fake_tensorrt.Engine: "ICudaEngine",
    fake_tensorrt.Context: "IExecutionContext",
    fake_tensorrt.Layer: "ILayer",
}


def unpacked(requirement: str) -> Path:
    """The wheel of a requirement, unpacked once into the user's cache; skips when it cannot be had."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clcr-stream-tests" / "wheels"
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = base / f"{requirement.replace('==', '-')}-{tag}"
    if not folder.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        target = base / f".{hashlib.sha256(os.urandom(8)).hexdigest()[:12]}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", str(target)]
        try:
            done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{requirement} did not arrive within 60 s")
        if done.returncode != 0:
            shutil.rmtree(target, ignore_errors=True)
            pytest.skip(f"{requirement} cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        wheel.unlink()
        target.replace(folder)
    return folder


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries with the sonames and symbols that the bindings of TensorRT 10 and 11 want."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("stubs")
    for library, symbols in STUBS.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in symbols.split()))
        for major in (10, 11):
            name = f"{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
            subprocess.run(command, check=True, timeout=60)
    return folder


def ask(release: str, stubs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """tools/gpu/contract.py with the real bindings of a release."""
    environment = {"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(unpacked(RELEASES[release]))}
    command = [sys.executable, str(ROOT / "tools/gpu/contract.py"), "--module", "tensorrt_bindings", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def members(stubs: Path) -> Callable[[str], dict[str, list[str]]]:
    """The members of every class of a release's real bindings, which are asked once."""

    @cache
    def of_release(release: str) -> dict[str, list[str]]:
        done = ask(release, stubs, "--dump")
        assert done.returncode == 0, done.stderr
        dump: dict[str, list[str]] = json.loads(done.stdout)
        return dump

    return of_release


@pytest.mark.parametrize("release", RELEASES)
def test_every_name_that_the_adapter_uses_is_in_the_real_bindings(release: str, stubs: Path) -> None:
    done = ask(release, stubs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TensorRT {release}." in done.stderr


@pytest.mark.parametrize("release", RELEASES)
def test_the_fake_has_no_name_that_the_real_bindings_lack(
    release: str, members: Callable[[str], dict[str, list[str]]]
) -> None:
    real = members(release)
    invented = [
        f"{name}.{member}"
        for name, invention in fake_tensorrt.names_of(int(release.split(".")[0])).items()
        for member in invention.__members__
        if member not in real[name]
    ]
    for fake, name in FAKES.items():
        invented += [f"{name}.{member}" for member in vars(fake) if member[0] != "_" and member not in real[name]]
    # With weak typing 11 lost what only weak typing needs; the adapter asks for it nowhere else.
    assert invented == (["ILayer.set_output_type"] if release == "11.4" else [])


@pytest.mark.parametrize(
    ("name", "releases"),
    [
        ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", {"10.3", "10.13", "10.16"}),
        ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", set(RELEASES)),
        ("BuilderFlag.OBEY_PRECISION_CONSTRAINTS", {"10.3", "10.13", "10.16"}),
        ("BuilderFlag.FP16", {"10.3", "10.13", "10.16"}),
        ("BuilderFlag.TF32", set(RELEASES)),
        ("TacticSource.CUBLAS", {"10.3", "10.13", "10.16"}),
        ("IProgressMonitor.step_complete", set(RELEASES)),
        ("IExecutionContext.execute_async_v3", set(RELEASES)),
        ("ICudaEngine.create_execution_context_without_device_memory", {"10.3", "10.13", "10.16"}),
    ],
)
def test_the_releases_differ_as_the_adapter_believes(
    name: str, releases: set[str], members: Callable[[str], dict[str, list[str]]]
) -> None:
    holder, _, member = name.partition(".")
    assert {release for release in RELEASES if member in members(release)[holder]} == releases


def test_the_look_up_finds_what_the_adapter_calls_and_misses_what_is_not_there() -> None:
    source = (contract.TENSORRT / "planner.py").read_text() + (contract.TENSORRT / "device_tick.py").read_text()
    used = set(contract.names_used(source, weakly_typed=True))
    assert {
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "ILayer.set_output_type",
        "OnnxParser.parse",
    } <= used
    assert "ILayer.set_output_type" not in set(contract.names_used(source, weakly_typed=False))
    module: Any = fake_tensorrt.make_tensorrt(fake_cuda.Machine())
    assert not contract.has_name(module, "BuilderFlag.NEVER") and contract.has_name(module, "BuilderFlag.TF32")


@pytest.mark.slow
@pytest.mark.parametrize("major", CUDA)
def test_every_cuda_function_of_a_capture_is_in_cuda_bindings(major: str) -> None:
    names = ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch", "cuGraphDestroy"]
    names += ["cuGraphExecDestroy", "CUstream", "CUstreamCaptureMode"]
    code = (
        "import cuda.bindings.driver as d, sys\n"
        f"missing = [name for name in {names!r} if not hasattr(d, name)]\n"
        "mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL\n"
        "assert 'flags' in d.cuGraphInstantiate.__doc__.splitlines()[0]\n"
        "d.CUstream(24301); sys.exit(repr(missing) if missing else 0)\n"
    )
    source = (contract.TENSORRT / "cuda.py").read_text()
    assert [name for name in names if name not in source] == []
    pathfinder = {"12": "cuda-pathfinder==1.3.3", "13": "cuda-pathfinder==1.4.2"}[major]
    first, second = unpacked(CUDA[major]), unpacked(pathfinder)
    # Both wheels fill the namespace package `cuda`, which spans two folders of the path.
    path = os.pathsep.join(map(str, (first, second)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
