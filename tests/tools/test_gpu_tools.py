"""tools/gpu_check.py and its parts on machines without a GPU: the whole run on the fake driver, every verdict."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import fake_cuda
from tiny_bundle import graph_bytes, tiny_manifest

ROOT = Path(__file__).resolve().parents[2]

gpu_measure: Any = import_module("gpu.measure")
gpu_program: Any = import_module("gpu.program")
gpu_merge: Any = import_module("gpu.merge")
gpu_trt: Any = import_module("gpu.trt")
WHOLE = gpu_program.load_bundle(ROOT / "engines/default")
# Four hops instead of twelve: the language engine is most of the time on a CPU.
BUNDLE = dataclasses.replace(
    WHOLE, golden={name: array[:4] if array.ndim else array for name, array in WHOLE.golden.items()}
)
QUICK = gpu_trt.Plan(seconds=0.01, sustained_s=0.01, streams=(1, 3))


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at how long a tick takes."""
    monkeypatch.setattr(gpu_measure, "WARM_UP_RUNS", 2)


def no_gpu_here() -> bool:
    from clcr_stream.inference.tensorrt.backend import why_unavailable

    torch = pytest.importorskip("torch")
    return why_unavailable() is not None and not torch.cuda.is_available()


def run_section(
    machine: fake_cuda.Machine, folder: Path, bundle: Any = BUNDLE, section: Any = gpu_trt.tensorrt_section
) -> Any:
    from clcr_stream.inference.tensorrt import backend as tensorrt
    from clcr_stream.inference.tensorrt.plan_cache import PlanCache

    report = gpu_measure.Report(folder / "gpu.json")
    cache = PlanCache(folder / "cache", folder / "key/plan.key")
    section(gpu_trt.Lab.of(bundle, tensorrt, cache, report, QUICK))
    assert machine.stack() == []
    return report


def test_without_a_gpu_it_is_one_line_and_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has loaded torch; tests/tools/test_tools.py starts the tool by its path."""
    if not no_gpu_here():
        pytest.skip("this machine has a GPU")
    assert import_module("gpu_check").main(["--json", str(tmp_path / "gpu.json")]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("gpu_check: no NVIDIA GPU can be used here (tensorrt: ")
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize("arguments", [["--streams", "0"], ["--streams", "x"], ["--only", "cuda"]])
def test_a_wrong_flag_is_told_what_is_allowed(arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "tools/gpu_check.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: argument" in done.stderr


def test_what_runs_on_the_gpu_machine_is_python_3_9_with_numpy_alone() -> None:
    inference = ROOT / "runtime/clcr_stream/inference"
    files = [inference / "program.py", *sorted((inference / "tensorrt").glob("*.py"))]
    files += [ROOT / "tools/gpu_check.py"]
    files += [ROOT / f"tools/gpu/{name}.py" for name in ("__init__", "contract", "measure", "merge", "program", "trt")]
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))
        assert "strict=True" not in path.read_text(encoding="utf-8"), f"{path.name}: zip has no strict in 3.9"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r})\n"
        "for name in ('msgspec', 'onnxruntime', 'onnx', 'torch', 'yaml', 'zmq', 'cv2', 'tensorrt'):\n"
        "    sys.modules[name] = None\n"
        "from gpu import contract\n"
        "from gpu import trt\n"
        "from clcr_stream.inference.tensorrt.backend import why_unavailable\n"
        "print(why_unavailable())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensorrt cannot be imported")


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tick takes a millisecond, for what runs hundreds of them."""
    pytest.importorskip("torch"), pytest.importorskip("onnx")
    from clcr_export.writer import ExportOptions, export_bundle
    from tiny_checkpoint import write_tiny_checkpoint
    from traced import exports_trace_once

    folder = tmp_path_factory.mktemp("small")
    write_tiny_checkpoint(folder / "checkpoint")
    with exports_trace_once(tmp_path_factory, proved=False):
        export_bundle(folder / "checkpoint", folder / "bundle", ExportOptions("small"), lambda _: None)
    return folder / "bundle"


def test_the_whole_tensorrt_part_runs_and_finds_parity(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = fake_cuda.Machine(release="10.13")
    fake_cuda.install(machine, monkeypatch)
    flags = ["--only", "tensorrt", "--seconds", "0.01", "--sustained", "0.01", "--streams", "1,3"]
    flags += ["--bundle", str(small_bundle)]
    code = import_module("gpu_check").main([*flags, "--cache", str(tmp_path), "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    checks = {check["name"]: check for check in found["checks"]}
    assert [name for name, check in checks.items() if not check["passed"]] == []
    for engine in ("level1", "level2", "level3", "intercad"):
        assert checks[f"tensorrt: {engine} against ONNX Runtime on the CPU"]["value"] < 1e-5
    assert checks["tensorrt: streamed probs against the golden record"]["value"] < 1e-4
    assert checks["tensorrt: merged engine against the golden record"]["value"] < 1e-4
    assert checks["tensorrt: streams of a batch agree whatever their neighbour does"]["value"] < 1e-4
    assert {"tensorrt, 1 stream", "tensorrt, 1 stream, enqueued", "tensorrt, 3 streams", "tensorrt, sustained"} <= set(
        found["latency_ms"]
    )
    assert "tensorrt: CUDA graph against enqueueing" in found["facts"]
    assert "tensorrt ahead of torch.compile" in found["not_done"]
    assert found["environment"]["tensorrt"] == "10.13"
    assert found["exit_code"] == code and code in (0, 3)  # milliseconds of measuring may well be unstable
    assert "FAIL" not in capsys.readouterr().out
    assert machine.stack() == [] and machine.blocks == {}


def test_an_engine_that_answers_otherwise_than_recorded_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = fake_cuda.Machine()
    fake_cuda.install(machine, monkeypatch)
    probs = BUNDLE.golden["probs"].copy()
    probs[-1, 0] += 0.01
    changed = dataclasses.replace(BUNDLE, golden={**BUNDLE.golden, "probs": probs})
    report = run_section(machine, tmp_path, changed, gpu_trt.parity_section)
    failed = [check["name"] for check in report.found["checks"] if not check["passed"]]
    assert "tensorrt: streamed probs against the golden record" in failed
    assert "tensorrt: streamed omega against the golden record" not in failed
    assert report.exit_code() == 1


def test_a_part_that_breaks_off_is_a_failed_check_and_leaves_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake_cuda.Machine(fail={"execute": "x"})
    fake_cuda.install(machine, monkeypatch)
    path = tmp_path / "gpu.json"
    code = import_module("gpu_check").main(["--only", "tensorrt", "--cache", str(tmp_path), "--json", str(path)])
    found = json.loads(path.read_text())
    assert code == found["exit_code"] == 1
    assert found["facts"]["tensorrt: stopped by BackendError"] == "language: TensorRT refused the run"


def test_the_torch_part_computes_the_golden_ticks(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    gpu_ticks = import_module("gpu.ticks")
    report = gpu_measure.Report(tmp_path / "gpu.json")
    precision = gpu_ticks.torch.get_float32_matmul_precision()
    try:
        gpu_ticks.torch_section(BUNDLE, report, 0.01, (1, 2), "cpu")
    finally:
        gpu_ticks.torch.set_float32_matmul_precision(precision)
    assert len(report.found["checks"]) == 2
    assert all(check["value"] < 1e-4 for check in report.found["checks"])


@pytest.mark.parametrize("engine", ["level1", "level2", "level3", "intercad", "language"])
@pytest.mark.parametrize("streams", [1, 3])
def test_an_engine_in_torch_is_the_engine_in_onnx_runtime(engine: str, streams: int) -> None:
    torch = pytest.importorskip("torch")
    gpu_torch = import_module("gpu.onnx_modules")
    manifest = tiny_manifest()
    data, generator = graph_bytes(manifest, engine), np.random.default_rng(1)
    session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = {
        tensor.name: (generator.random([streams, *map(int, tensor.shape[1:])]) * 3).astype(tensor.dtype)
        for tensor in manifest.engines[engine].inputs
    }
    module = gpu_torch.Converter(data, streams).convert()
    with torch.inference_mode():
        found = module(*(torch.as_tensor(feeds[value.name]) for value in session.get_inputs()))
    for got, wanted in zip(found, session.run(None, feeds), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_the_merged_graph_is_the_chain(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    graphs = {name: gpu_program.Graph(graph_bytes(manifest, name), "", spec) for name, spec in manifest.engines.items()}
    program = gpu_program.tick_program(manifest.engines)
    session: Any = onnxruntime.InferenceSession(gpu_merge.merge(graphs, program), providers=["CPUExecutionProvider"])
    spec = gpu_merge.merged_spec(manifest.engines, program)
    assert {value.name for value in session.get_inputs()} == {tensor.name for tensor in spec.inputs}
    bundle = dataclasses.replace(BUNDLE, graphs=graphs)
    chain, generator = gpu_trt.OrtChain(bundle, program), np.random.default_rng(2)
    state = {name: np.zeros([1, *t.shape[1:]], t.dtype) for t in spec.inputs for name in [t.name] if name in spec.state}
    for _ in range(3):
        given = {n: generator.random([1, *program.tensors[n].shape[1:]]).astype(np.float32) for n in program.inputs}
        names = [tensor.name for tensor in spec.outputs]
        found = dict(zip(names, session.run(names, given | state), strict=True))
        state = {name: found[f"{name}_next"] for name in spec.state}
        for name, array in chain.run(given).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_a_bundle_whose_engine_was_altered_is_refused(tmp_path: Path) -> None:
    for path in (ROOT / "engines/default").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / "level2.onnx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "level2.onnx").write_bytes(data)
    with pytest.raises(SystemExit, match=r"level2\.onnx is not what manifest.json says"):
        gpu_program.load_bundle(tmp_path)


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no bundle") as caught:
        gpu_program.load_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_statistics_are_those_of_the_samples() -> None:
    found = gpu_measure.statistics(list(range(1, 101)))
    assert (found["n"], found["mean"], found["median"], found["min"], found["max"]) == (100, 50.5, 50.5, 1, 100)
    assert (found["p90"], found["p95"], found["p99"]) == pytest.approx((90.1, 95.05, 99.01))


@pytest.mark.parametrize(
    ("medians", "verdict"), [([9, 1, 1.0, 1.05, 1.09], True), ([1, 1, 1.0, 1.05, 1.11], False), ([1, 1], False)]
)
def test_a_measurement_is_stable_when_its_last_three_windows_agree(medians: list[float], verdict: bool) -> None:
    assert gpu_measure.stable(medians) == verdict


@pytest.mark.parametrize(
    ("checks", "stable", "code"),
    [([0.5], [True], 0), ([0.5], [True, False], 3), ([0.5, 2.0], [False], 1), ([float("nan")], [True], 1), ([], [], 3)],
)
def test_the_exit_code_says_passed_failed_or_inconclusive(checks: list[float], stable: list[bool], code: int) -> None:
    report = gpu_measure.Report(None)
    for value in checks:
        report.check("a", value, 1.0)
    for place, steady in enumerate(stable):
        report.latency(str(place), {"median": 1.0, "p99": 1.0, "n": 1, "stable": steady})
    assert report.exit_code() == code


def test_a_ratio_needs_both_measurements_of_the_run() -> None:
    report = gpu_measure.Report(None)
    found = {"median": 3.0, "p99": 1.0, "n": 1, "stable": True}
    report.latency("slow", found)
    report.ratio("gain", "slow", "fast")
    assert "gain" in report.found["not_done"]
    report.latency("fast", found | {"median": 2.0})
    report.ratio("gain", "slow", "fast")
    assert report.found["facts"]["gain"] == 1.5


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder of the shape of the TensorRT bundle, packed in parts of 4 KiB."""
    tool = import_module("gpu.offline_trt86")
    monkeypatch.setattr(tool, "PART_BYTES", 4096)
    folder = tmp_path / "trt86"
    (folder / "site/tensorrt").mkdir(parents=True)
    noise = np.random.default_rng(1).bytes(10_000)
    (folder / "site/tensorrt/libnvinfer.so.8").write_bytes(noise)
    (folder / "site/tensorrt/libnvinfer_builder_resource.so.8.6.0").write_bytes(noise[::-1])
    (folder / "python").write_text(tool.LAUNCHER)
    (folder / "python").chmod(0o755)
    (folder / "link").symlink_to("python")
    tool.pack(folder, tmp_path / "parts", 0)
    return tmp_path


def unpack(packed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(packed / "parts/unpack.py"), str(packed / "out"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_bundle_s_parts_unpack_to_the_same_folder(packed: Path) -> None:
    parts = [path for path in (packed / "parts").iterdir() if ".xz." in path.name]
    assert len(parts) > 4 and max(path.stat().st_size for path in parts) <= 4096
    done = unpack(packed)
    assert done.returncode == 0, done.stderr
    for path in (path for path in (packed / "trt86").rglob("*") if path.is_file()):
        assert (packed / "out" / path.relative_to(packed / "trt86")).read_bytes() == path.read_bytes()
    assert os.access(packed / "out/python", os.X_OK)
    assert (packed / "out/link").is_symlink()


def test_without_the_builder_only_what_runs_plans_is_unpacked(packed: Path) -> None:
    assert unpack(packed, "--run-only").returncode == 0
    assert [path.name for path in (packed / "out/site/tensorrt").iterdir()] == ["libnvinfer.so.8"]


def test_a_damaged_part_is_named_before_its_bytes_are_used(packed: Path) -> None:
    part = packed / "parts/trt86-run.tar.xz.01"
    data = bytearray(part.read_bytes())
    data[7] ^= 1
    part.write_bytes(data)
    done = unpack(packed)
    assert done.returncode == 1
    assert "trt86-run.tar.xz.01 is damaged; carry it again" in done.stderr


def compiled_as_one_graph(model: Any) -> Any:
    """fullgraph: anything that dynamo cannot trace raises; the "eager" backend leaves the code generation out."""
    import torch

    return torch.compile(model, fullgraph=True, dynamic=False, backend="eager")


def test_torch_compile_takes_a_whole_tick_as_one_graph() -> None:
    """A tick of small engines; the next test compiles what stands in the default bundle's."""
    torch = pytest.importorskip("torch")
    gpu_ticks = import_module("gpu.ticks")
    manifest = tiny_manifest()
    graphs = {name: gpu_program.Graph(graph_bytes(manifest, name), "", spec) for name, spec in manifest.engines.items()}
    small = dataclasses.replace(BUNDLE, graphs=graphs)
    with torch.inference_mode():
        plain, traced = gpu_ticks.Ticks(small, 1, "cpu"), gpu_ticks.Ticks(small, 1, "cpu")
        traced.step = compiled_as_one_graph(traced.model)
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            for ours, theirs in zip(plain.host, traced.host, strict=True):
                theirs.copy_(ours.uniform_(generator=generator))
            plain.run(), traced.run()
            for ours, theirs in zip(plain.outputs, traced.outputs, strict=True):
                torch.testing.assert_close(ours, theirs)
    torch.compiler.reset()


def test_torch_compile_takes_every_operator_of_the_default_bundle_s_tick() -> None:
    """Level 1 and InterCAD: the other levels have no operator that level 1 has not, and compiling takes seconds."""
    torch = pytest.importorskip("torch")
    gpu_torch = import_module("gpu.onnx_modules")
    kinds = {
        name: {node.op_type for node in onnx.load_from_string(graph.onnx).graph.node}
        for name, graph in WHOLE.graphs.items()
    }
    assert kinds["level2"] | kinds["level3"] <= kinds["level1"]
    generator = torch.Generator().manual_seed(1)
    for name in ("level1", "intercad"):
        module = gpu_torch.Converter(WHOLE.graphs[name].onnx, 1).convert()
        specs = {tensor.name: tensor for tensor in WHOLE.graphs[name].spec.inputs}
        inputs = onnx.load_from_string(WHOLE.graphs[name].onnx).graph.input
        shapes = [[1, *map(int, specs[value.name].shape[1:])] for value in inputs]
        with torch.inference_mode():
            feeds = [torch.empty(shape).uniform_(generator=generator) for shape in shapes]
            for ours, theirs in zip(module(*feeds), compiled_as_one_graph(module)(*feeds), strict=True):
                torch.testing.assert_close(ours, theirs)
    torch.compiler.reset()
