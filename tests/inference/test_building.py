"""TensorRT in the product: what `auto` takes, plans that are built beside a session, `clcr-stream build`, `doctor`.

On a fake driver (fake_cuda.py, fake_tensorrt.py), also in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_cuda
from clcr_stream.bundle.loader import Bundle, default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import Manifest
from clcr_stream.cli import doctor
from clcr_stream.cli.main import main
from clcr_stream.config import engine_options
from clcr_stream.config_tree import BuilderConfig, Config, ModelConfig, RunConfig, StreamEntry, TensorRTConfig
from clcr_stream.errors import BackendError
from clcr_stream.inference import building, engines
from clcr_stream.inference.choose import NOT_INSTALLED, WITHOUT_PLANS, choose_backend, open_backend
from clcr_stream.inference.engines import LoadedEngines, Say, load_engines, open_engines
from clcr_stream.inference.program import tick_program
from clcr_stream.inference.tensorrt.backend import TensorRTBackend
from clcr_stream.inference.tensorrt.device_tick import Wiring
from clcr_stream.inference.tensorrt.options import BUILD_FLAGS, BuildOptions
from driving import socket_folder
from media import eventually
from tiny_bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ["language", "level1", "level2", "level3", "intercad"]
SITE = """
import json, os, sys, threading
import fake_cuda, fake_tensorrt
if "FAKE_HANGS" in os.environ:
    def build(*_):
        threading.Event().wait()
    fake_tensorrt.Builder.build_serialized_network = build
sys.modules.update(fake_cuda.modules_of(fake_cuda.Machine(fail=json.loads(os.environ["FAKE_FAIL"]))))
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder))
    with socket_folder() as sockets:
        monkeypatch.setenv("XDG_RUNTIME_DIR", sockets)
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> fake_cuda.Machine:
    made = fake_cuda.Machine()
    fake_cuda.install(made, monkeypatch)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("building") / "bundle"
    write_bundle(place)
    return place


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


def config_of(folder: Path, backend: str = "auto", **tensorrt: Any) -> Config:
    return Config(model=ModelConfig(bundle=str(folder), backend=backend), tensorrt=TensorRTConfig(**tensorrt))


def opened(config: Config, say: Say = lambda _: None) -> LoadedEngines:
    return open_engines(engine_options(config), say=say)


def command_of(config: Config) -> list[str]:
    options = engine_options(config)
    return building.build_command(options.folder, options.seats, options.tensorrt)


def built(bundle: Bundle, seats: int = 1) -> list[building.Plan]:
    return list(building.build_plans(bundle, TensorRTBackend(), seats))


def test_where_there_is_no_tensorrt_auto_is_onnxruntime_and_not_a_line_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    said: list[str] = []
    loaded = opened(config_of(folder), say=said.append)
    assert (loaded.backend, loaded.backend_reason()) == ("onnxruntime", NOT_INSTALLED)
    assert said == [] and loaded.building is None
    loaded.close()


def test_where_there_is_no_tensorrt_auto_loads_nothing_of_it(folder: Path) -> None:
    code = (
        "import sys\nsys.modules['tensorrt'] = None\n"
        "from pathlib import Path\nfrom clcr_stream.inference.choose import EngineOptions\n"
        "from clcr_stream.inference.engines import open_engines\n"
        f"open_engines(EngineOptions(Path({str(folder)!r})))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('cuda', 'pycuda', 'tensorrt')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | paths())
    assert done.stdout.strip() == "['tensorrt']", done.stderr  # our own None


def paths(*more: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(map(str, (*more, ROOT / "tests/support", ROOT / "runtime")))}


@pytest.mark.parametrize(
    "body",
    [
        "raise ImportError('no libnvinfer')",
        "raise OSError('libnvinfer.so.10: cannot open shared object file')",
        "raise RuntimeError()",
        "raise SystemExit(3)",
        "class Odd(BaseException): ...\nraise Odd('two\\nlines')",
        "import nothing_of_that_name",
        "def",
        "",
    ],
)
def test_a_tensorrt_whose_import_raises_anything_at_all_is_a_reason_and_no_error(
    body: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "site/tensorrt").mkdir(parents=True)
    (tmp_path / "site/tensorrt/__init__.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    loaded = opened(config_of(folder))
    assert loaded.backend == "onnxruntime"
    reason = loaded.backend_reason()
    assert reason is not None and reason.startswith("tensorrt cannot be imported (") and "\n" not in reason
    with pytest.raises(BackendError, match="tensorrt cannot be imported"):
        opened(config_of(folder, "tensorrt"))
    loaded.close()
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(
    ("fail", "wanted"),
    [
        ({"init": OSError("no CUDA driver")}, r"CUDA cannot be used \(no CUDA driver\)"),
        ({"Device": RuntimeError("busy")}, r"CUDA cannot be used \(busy\)"),
    ],
)
def test_a_driver_that_does_not_work_is_a_reason_with_auto_and_an_error_by_name(
    fail: dict[str, Any], wanted: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(fake_cuda.Machine(fail=fail), monkeypatch)
    choice = choose_backend(engine_options(config_of(folder)), load_bundle(folder))
    assert choice.backend.name == "onnxruntime" and re.search(wanted, choice.reason or "")
    with pytest.raises(BackendError, match=wanted):
        open_backend("tensorrt")
    with pytest.raises(BackendError, match=wanted):
        opened(config_of(folder, "tensorrt"))


def test_a_run_takes_tensorrt_once_every_plan_is_in_the_cache(
    machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    config = config_of(folder)
    assert choose_backend(engine_options(config), bundle).unplanned == tuple(ENGINES)
    plans = built(bundle)
    assert [(plan.engine, plan.seats) for plan in plans] == [(engine, 1) for engine in ENGINES]
    assert machine.builds == 5
    loaded = opened(config)
    assert (loaded.levels.backend, loaded.backend) == ("tensorrt", "tensorrt")
    assert loaded.backend_reason() is None and loaded.building is None
    assert machine.builds == 5, "nothing is built at a start that finds its plans"
    loaded.close()
    assert machine.blocks == {}, "a run that has ended holds no device memory"


@pytest.mark.parametrize(
    "change",
    [{"builder": BuilderConfig(avgTiming="4")}, {"builder": BuilderConfig(noTF32="false")}],
)
def test_other_builder_options_are_other_plans(
    change: dict[str, Any], machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    built(bundle)
    assert choose_backend(engine_options(config_of(folder, **change)), bundle).unplanned == tuple(ENGINES)


def test_how_ticks_run_changes_no_plan_and_reaches_the_backend(
    machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    built(bundle)
    loaded = opened(config_of(folder, cuda_graph=False, blocking_wait=True, mapped_memory=True))
    assert loaded.levels.backend == "tensorrt"
    assert machine.seen["event_flags"] == 1 and machine.mapped
    assert set(loaded.levels.run(loaded.levels.take(), 1)) == {"level1", "level2", "level3", "intercad"}
    loaded.close()


def test_several_streams_need_plans_for_as_many_and_a_single_one_for_itself(folder: Path, bundle: Bundle) -> None:
    several = msgspec.structs.replace(
        config_of(folder), streams=(StreamEntry(name="a"), StreamEntry(name="b")), run=RunConfig(max_streams=3)
    )
    assert (engine_options(config_of(folder)).seats, engine_options(several).seats) == (1, 3)
    assert [seats for _, _, seats in building.needed(bundle, 3)] == [1, 3, 3, 3, 3]
    assert "--streams=3" in " ".join(command_of(several)).replace("--streams ", "--streams=")


@pytest.mark.parametrize("knob", ["deserialize", "context", "shape"])
def test_plans_that_do_not_start_give_way_to_onnxruntime_with_auto_and_are_an_error_by_name(
    knob: str, machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    built(bundle)
    machine.fail[knob] = "x"
    said: list[str] = []
    loaded = opened(config_of(folder), say=said.append)
    assert loaded.backend == loaded.levels.backend == "onnxruntime"
    assert "TensorRT" in (loaded.backend_reason() or "")
    assert len(said) == 1 and said[0].startswith("ONNX Runtime runs the engines, because ")
    assert machine.blocks == {}
    loaded.close()
    with pytest.raises(BackendError, match="TensorRT"):
        opened(config_of(folder, "tensorrt"))


def test_a_gpu_that_cannot_be_asked_what_it_is_is_a_reason_with_auto(
    machine: fake_cuda.Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise RuntimeError("cuDriverGetVersion failed: unknown error")

    monkeypatch.setattr(sys.modules["pycuda.driver"], "get_driver_version", fail)
    loaded = opened(config_of(folder))
    assert loaded.backend == "onnxruntime"
    assert "look at the GPU failed: cuDriverGetVersion failed" in (loaded.backend_reason() or "")
    loaded.close()


def test_a_cache_that_cannot_be_used_is_a_reason_with_auto_and_an_error_by_name(
    machine: fake_cuda.Machine, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "XDG_CACHE_HOME/clcr-stream").touch()
    loaded = opened(config_of(folder))
    assert loaded.backend == "onnxruntime" and "set XDG_CACHE_HOME" in (loaded.backend_reason() or "")
    loaded.close()
    with pytest.raises(BackendError, match="set XDG_CACHE_HOME"):
        opened(config_of(folder, "tensorrt"))


def test_an_engine_that_fails_to_open_leaves_none_of_the_others_open(
    machine: fake_cuda.Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(bundle)

    def fail(*_: object) -> None:
        raise BackendError("no levels")

    monkeypatch.setattr(engines, "Levels", fail)
    with pytest.raises(BackendError, match="no levels"):
        load_engines(bundle, TensorRTBackend(), 1)
    assert machine.blocks == {}


def test_build_says_what_it_did_and_finds_it_the_next_time(
    machine: fake_cuda.Machine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--bundle", str(folder), "--streams", "4"]) == 0
    shown = capsys.readouterr()
    *plans, memory = shown.out.splitlines()
    assert [line.split(":")[0] for line in plans] == ENGINES
    assert all(re.search(r": built in \d+\.\d s, \d+\.\d MB, layers fp16 25 %, fp32 75 %$", line) for line in plans)
    assert re.match(r"inputs, outputs and state of 4 streams take \d+\.\d MiB on the GPU, TensorRT's own", memory)
    assert shown.err.splitlines() == [f"{engine}: no plan was built yet; building" for engine in ENGINES]
    assert main(["build", "--bundle", str(folder), "--streams", "4"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("from cache") == 5 and shown.err == ""
    assert machine.builds == 5
    assert main(["build", "--bundle", str(folder), "--streams", "4", "--rebuild"]) == 0
    assert machine.builds == 10
    assert capsys.readouterr().out.count("built in") == 5


def test_build_shows_progress_in_place_on_a_terminal(
    machine: fake_cuda.Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")  # where nobody is logged in there is none
    assert main(["build", "--bundle", str(folder)]) == 0
    shown = capsys.readouterr().err
    for engine in ENGINES:
        assert f"\r\x1b[K{engine}: Building, step 1 of 2\r\x1b[K{engine}: Building, step 2 of 2\r\x1b[K" in shown
    assert "Tactics" not in shown
    assert shown.endswith("\r\x1b[K"), "the last step does not stay on the screen"


def test_build_gives_a_script_every_step_and_every_plan(
    machine: fake_cuda.Machine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--bundle", str(folder), "--json", "--useDLACore=0", "--memPoolSize=workspace:64"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["step", "step", "plan"] * 5
    assert lines[0] == {"type": "step", "engine": "language", "phase": "Building", "done": 1, "of": 2}
    plan = lines[2]
    assert (plan["engine"], plan["seats"], plan["reason"]) == ("language", 1, "no plan was built yet")
    assert plan["precision"] == {"fp16": 0.25, "fp32": 0.75} and plan["bytes"] > 0 and plan["seconds"] >= 0
    assert plan["dla_fallback"] == []


def test_a_plan_tells_a_person_what_fell_back_from_the_dla() -> None:
    plan = building.Plan(
        engine="level1",
        seats=1,
        reason=None,
        seconds=9.0,
        bytes=12_340_000,
        precision={"fp32": 1.0},
        dla_fallback=["softmax", "norm"],
    )
    assert plan.line() == "level1: from cache, 12.3 MB, layers fp32 100 %; 2 layers not on the DLA"


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--streams", "0"], 2, "--streams 0: allowed are 1..1024"),
        (["--streams", "many"], 2, "argument --streams: invalid int"),
        (["--fp16"], 2, "unrecognized arguments: --fp16"),
        (["--avgTiming", "often"], 2, "builder option avgTiming: 'often' is not a whole number"),
        (["--memPoolSize", "64"], 2, "builder option memPoolSize: '64' is not workspace:MIB"),
        (["--device", "-1"], 2, "tensorrt.device is -1"),
        (["--device", "7"], 5, "GPU 7 is not there; this machine has 1"),
        (["--bundle", "/nowhere"], 4, "/nowhere: cannot be opened as a folder"),
        (["--tacticSources", "CUBLAS"], 5, "'CUBLAS' is not +NAME or -NAME"),
    ],
)
def test_a_mistake_of_build_is_one_line_and_its_own_code(
    machine: fake_cuda.Machine,
    folder: Path,
    arguments: list[str],
    code: int,
    wanted: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", "--bundle", str(folder), *arguments]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("; building")]
    assert len(lines) == 1 and lines[0].startswith("clcr-stream: error: ") and wanted in lines[0]


def test_build_where_there_is_no_tensorrt_says_why_and_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", "--bundle", str(folder)]) == 5
    shown = capsys.readouterr().err
    assert shown.startswith("clcr-stream: error: tensorrt cannot be imported (") and shown.count("\n") == 1
    assert "use --backend onnxruntime, or see docs/jetson.md" in shown


def test_the_process_that_builds_takes_no_module_from_the_folder_it_is_started_in(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("clcr_stream", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of a stranger')")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([*command_of(config_of(folder)), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Build the TensorRT plans" in done.stdout


class Process:
    """`clcr-stream` in a process that has the fake GPU; so have its children."""

    def __init__(self, tmp_path: Path, folder: Path, fail: dict[str, str], hangs: bool = False) -> None:
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site/sitecustomize.py").write_text(SITE)
        self.environment = os.environ | paths(tmp_path / "site") | {"FAKE_FAIL": json.dumps(fail)}
        if hangs:
            self.environment["FAKE_HANGS"] = "1"
        self.command = [sys.executable, "-m", "clcr_stream", "--bundle", str(folder)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)

    def until(
        self, wanted: Callable[[dict[str, Any]], bool], *arguments: str
    ) -> tuple[dict[str, Any], list[dict[str, Any]], str, int]:
        """Run on live input until a message is `wanted`: that one, those before it, standard error, exit code."""
        command = [*self.command, "--camera", "none", "--mic", "test://", "--output", "-", *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            seen: list[dict[str, Any]] = []
            for line in process.stdout:
                seen.append(json.loads(line))
                if wanted(seen[-1]):
                    break
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=30)
        assert psutil.wait_procs(children, timeout=5)[1] == [], "the process that builds outlived the session"
        assert seen, told
        return seen[-1], seen, told, process.returncode


def test_onnxruntime_serves_while_plans_are_built_and_the_next_start_is_tensorrt(tmp_path: Path, folder: Path) -> None:
    process = Process(tmp_path, folder, {})
    last, seen, told, code = process.until(lambda message: message.get("backend_reason") == building.AT_NEXT_START)
    assert code == 0, told
    assert seen[0]["backend"] == last["backend"] == "onnxruntime"
    assert "TensorRT's plans are being built, which takes minutes; ONNX Runtime runs the engines meanwhile" in told
    for engine in ENGINES:
        assert re.search(rf"^{engine}: built in .* layers fp16 25 %", told, re.MULTILINE)
    assert building.AT_NEXT_START in told
    last, seen, told, code = process.until(lambda message: message["type"] == "status" and message["ticks"]["due"] > 0)
    assert code == 0, told
    assert (last["backend"], last["backend_reason"], seen[0]["backend"]) == ("tensorrt", None, "tensorrt")
    predictions = [message for message in seen if message["type"] == "prediction"]
    assert predictions and set(predictions[0]["timing_ms"]) == {"cut", "language", "tick", "batch", "total"}
    assert "being built" not in told


def test_plans_that_cannot_be_built_leave_the_session_alone_and_stand_in_its_status(
    tmp_path: Path, folder: Path
) -> None:
    process = Process(tmp_path, folder, {"build": "out of memory"})
    reason = "TensorRT's plans were not built: language: TensorRT cannot build the engine: out of memory"
    last, _, told, code = process.until(lambda message: "not built" in (message.get("backend_reason") or ""))
    assert (last["backend"], last["backend_reason"], code) == ("onnxruntime", reason, 0)
    assert last["state"] != "goodbye" and reason in told
    done = process.run("--backend", "tensorrt", "--input", "test://?seconds=1", "--pace", "max")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("clcr-stream: error: language: TensorRT cannot build the engine: ")


def test_tensorrt_by_name_is_built_first_and_then_runs(tmp_path: Path, folder: Path) -> None:
    process = Process(tmp_path, folder, {})
    run_it = ("--backend", "tensorrt", "--input", "test://?seconds=1", "--pace", "max", "--output", "-")
    done = process.run(*run_it)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["backend"] == "tensorrt"
    assert "are being built first, which takes minutes" in done.stderr and "level3: built in" in done.stderr
    again = process.run(*run_it)
    assert again.returncode == 0 and "being built" not in again.stderr and "built in" not in again.stderr


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_a_session_that_ends_takes_the_process_that_builds_with_it(backend: str, tmp_path: Path, folder: Path) -> None:
    process = Process(tmp_path, folder, {}, hangs=True)
    if backend == "auto":
        _, _, told, code = process.until(lambda message: message["type"] == "prediction")
        assert code == 0, told
        return
    command = [*process.command, "--backend", backend, "--input", "test://"]
    with subprocess.Popen(command, env=process.environment, stderr=subprocess.PIPE, text=True) as session:
        assert session.stderr is not None
        assert "being built first" in session.stderr.readline()
        session.send_signal(signal.SIGTERM)
        told = session.stderr.read()
    assert session.returncode == 5
    assert told.splitlines()[-1].startswith("clcr-stream: error: stopped while TensorRT's plans were being built")


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import os; os.abort()", r"the process that builds ended with code -6; run `clcr-stream build` \(no output\)"),
        ("print('odd'); raise SystemExit(3)", r"ended with code 3; run `clcr-stream build` \(odd\)"),
        ("raise SystemExit('clcr-stream: error: why')", r"^why$"),
    ],
)
def test_how_a_build_failed_is_one_line(code: str, wanted: str) -> None:
    said: list[str] = []
    with (
        building.Building([sys.executable, "-c", code], said.append) as built_beside,
        pytest.raises(BackendError, match=wanted) as caught,
    ):
        built_beside.wait(threading.Event())
    assert said == [f"TensorRT's plans were not built: {caught.value}"] == [built_beside.reason()]


def test_a_build_that_cannot_even_start_is_a_failure_and_no_error_of_the_session() -> None:
    said: list[str] = []
    with building.Building(["/nowhere/python"], said.append) as built_beside:
        with pytest.raises(BackendError, match="/nowhere/python cannot be started"):
            built_beside.wait(threading.Event())
    assert said == [built_beside.reason()]


def test_how_far_a_build_is_can_be_asked_at_any_time() -> None:
    step = msgspec.json.encode(building.Step(engine="level1", phase="Building", done=3, of=9)).decode()
    code = f"import sys; print({step!r}, flush=True); sys.stdin.read(); __import__('threading').Event().wait()"
    with building.Building([sys.executable, "-c", code], lambda _: None) as beside:
        assert eventually(lambda: "level1" in beside.reason(), 30)
        assert beside.reason() == "TensorRT's plans are being built: level1: Building, step 3 of 9"


def checks_of(folder: Path, backend: str = "auto") -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(config_of(folder, backend))}


def test_doctor_of_a_machine_without_a_gpu_finds_nothing_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(doctor, "NVIDIA_DEVICES", ())
    check = checks_of(folder)["tensorrt"]
    assert check.line() == "ok   tensorrt: not needed: no NVIDIA GPU here"
    monkeypatch.setattr(doctor, "NVIDIA_DEVICES", (folder,))
    check = checks_of(folder)["tensorrt"]
    assert check.line() == f"warn tensorrt: {NOT_INSTALLED}, but an NVIDIA GPU is here; see docs/gpu.md"


def test_doctor_says_whether_the_plans_are_built_and_builds_none(
    machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    checks = checks_of(folder)
    assert checks["tensorrt"].line() == f"warn tensorrt: {WITHOUT_PLANS}"
    assert checks["backend"].ok and checks["backend"].detail.startswith("onnxruntime")
    assert not checks_of(folder, "tensorrt")["backend"].ok and machine.builds == 0
    built(bundle)
    checks = checks_of(folder)
    assert checks["tensorrt"].line() == "ok   tensorrt: available, and all plans of this bundle are built"
    assert checks["backend"].ok and checks["backend"].detail.startswith("tensorrt")
    assert machine.blocks == {}


def test_doctor_names_what_keeps_tensorrt_from_starting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(fake_cuda.Machine(fail={"init": OSError("no CUDA driver")}), monkeypatch)
    checks = checks_of(folder)
    assert not checks["tensorrt"].ok and not checks["tensorrt"].required
    assert "no CUDA driver" in checks["tensorrt"].detail and checks["backend"].ok


def test_doctor_replays_the_golden_vectors_on_the_backend_that_a_run_would_take(machine: fake_cuda.Machine) -> None:
    shipped = default_bundle_folder()
    built(load_bundle(shipped))
    check = checks_of(shipped)["backend"]
    assert check.ok and check.detail.startswith("tensorrt: all engines run and repeat the bundle's 12 golden hops")


def test_the_configuration_has_every_option_of_the_builder_and_no_other() -> None:
    assert set(BuilderConfig.__struct_fields__) == set(BUILD_FLAGS)


@given(
    st.builds(
        BuildOptions,
        builder_optimization_level=st.none() | st.integers(0, 5),
        workspace_mib=st.none() | st.integers(1, 9999),
        tactic_sources=st.sampled_from(["", "-CUBLAS,+CUDNN"]),
        tf32=st.booleans(),
        use_dla_core=st.none() | st.integers(0, 3),
        allow_gpu_fallback=st.booleans(),
    )
)
def test_the_flags_of_builder_options_are_read_as_the_same_options(options: BuildOptions) -> None:
    assert BuildOptions.parse(options.flags()) == options


def test_the_extra_holds_what_the_backend_imports_beside_tensorrt() -> None:
    folder = ROOT / "runtime/clcr_stream/inference/tensorrt"
    code = "".join((folder / f"{name}.py").read_text() for name in ("cuda", "backend"))
    imported = set(re.findall(r'"((?:pycuda|cuda|tensorrt)[a-z.]*)"', code)) - {"tensorrt"}
    assert imported == {"pycuda.driver", "cuda.bindings.driver", "cuda.cuda"}
    (extra,) = re.findall(r"^tensorrt = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.findall(r'"([a-z-]+)', extra) == ["pycuda", "cuda-bindings"]


def device_mib(manifest: Manifest, seats: int) -> float:
    return Wiring.of(tick_program(manifest.engines), manifest.engines, seats).device_bytes / 2**20


def test_the_memory_of_a_seat_in_the_documents_is_what_is_allocated(
    machine: fake_cuda.Machine, folder: Path, bundle: Bundle
) -> None:
    shipped = load_bundle(default_bundle_folder()).manifest
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    one, many = (f"{device_mib(shipped, seats):.1f} MiB" for seats in (1, 32))
    assert f"{one} for one stream" in text and f"{many} for 32" in text
    runner = TensorRTBackend().open(
        tick_program(bundle.manifest.engines), {name: graph for name, graph, _ in building.needed(bundle, 3)}, 3
    )
    held = sum(len(block.memory) for block in machine.blocks.values())
    assert held == round(device_mib(bundle.manifest, 3) * 2**20)
    runner.close()
