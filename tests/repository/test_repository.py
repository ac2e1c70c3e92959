"""The repository's outside: wheel, commands, scripts, documents and what they promise."""

from __future__ import annotations

import ast
import configparser
import email
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tiny_bundle import write_bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS_WITH_OPTIONS = ("clcr-stream", "clcr-export", "clcr-train", "clcr-eval")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository with no stdin; the caller looks at the exit code."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def project() -> dict[str, object]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(table, dict)
    return table


def core_dependencies() -> list[str]:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    return [re.split(r"[<>=!~\[; ]", line)[0] for line in dependencies]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built once from the working tree without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it, this environment's dependencies beside it, and torch made absent."""
    folder = tmp_path_factory.mktemp("venv")
    made = run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    pip = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    put = run(sys.executable, *pip)
    assert put.returncode == 0, put.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(str(Path(pytest.__file__).parent.parent) + "\n", encoding="utf-8")
    # A None in sys.modules makes every `import torch` fail as if it were not installed.
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n", encoding="utf-8")
    return folder


def test_the_wheel_holds_the_three_packages_and_the_default_bundle_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"clcr", "clcr_export", "clcr_stream"}
    bundle = {p.name for p in (ROOT / "engines/default").iterdir()}
    assert "manifest.json" in bundle
    assert {f"clcr_stream/engines/default/{name}" for name in bundle} <= set(names)
    for package in ("clcr", "clcr_export", "clcr_stream"):
        assert f"{package}/py.typed" in names
    page = {path.name for path in (ROOT / "runtime/clcr_stream/dashboard/page").iterdir()}
    assert "index.html" in page
    assert {f"clcr_stream/dashboard/page/{name}" for name in page} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".mp4", ".wav", ".opus"))]


def test_the_wheel_s_core_dependencies_bring_no_torch(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    required = re.findall(r"^Requires-Dist: (.+)$", archive.read(name).decode(), re.MULTILINE)
    core = [line for line in required if "extra ==" not in line]
    assert len(core) == len(core_dependencies())
    assert not [line for line in core if re.match(r"(torch|transformers|onnx\b(?!runtime)|nvidia|pycuda)", line)]


def test_the_wheel_says_that_its_weights_have_other_terms_than_its_code(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-Research-Only-Weights"
    folder = name.replace("METADATA", "licenses/")
    terms = [archive.read(folder + file).decode() for file in metadata.get_all("License-File", [])]
    assert any("Apache License" in text for text in terms)
    assert any("research and personal evaluation only" in text for text in terms)


def test_every_console_script_of_the_wheel_points_at_a_function(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(name).decode())
    scripts = dict(parser["console_scripts"])
    assert set(scripts) == set(COMMANDS_WITH_OPTIONS)
    for target in scripts.values():
        module, function = target.split(":")
        path = module.replace(".", "/") + ".py"
        assert path in archive.namelist(), target
        assert re.search(rf"^def {function}\(", archive.read(path).decode(), re.MULTILINE), target


@pytest.mark.slow
def test_the_installed_wheel_predicts_with_its_own_bundle_where_torch_is_absent(installed: Path) -> None:
    command = str(installed / "bin" / "clcr-stream")
    done = run(command, "--input", "test://?seconds=1&fps=15", "--pace", "max", "--json", "--quiet", PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["published"] == 5
    where = run(
        str(installed / "bin" / "python"), "-c", "import clcr_stream; print(clcr_stream.__file__)", PYTHONPATH=""
    )
    assert where.stdout.startswith(str(installed)), "the test looked at the checkout, not at the wheel"


def test_importing_the_runtime_takes_under_half_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); import clcr_stream, clcr_stream.errors; "
        "print(time.process_time() - start); "
        "print(sorted({'torch', 'cv2', 'av', 'onnxruntime', 'pyaudio', 'transformers'} & set(sys.modules)))"
    )
    seconds, loaded = [], ""
    for _ in range(3):
        first, loaded = run(sys.executable, "-c", code, PYTHONPATH=str(ROOT / "runtime")).stdout.splitlines()
        seconds.append(float(first))
        assert loaded == "[]"
    assert min(seconds) < 0.5


def test_no_cuda_distribution_is_installed() -> None:
    names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
    assert not [name for name in names if name.startswith("nvidia-")]


def test_the_guide_states_for_every_core_dependency_where_its_aarch64_wheel_comes_from() -> None:
    guide = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([A-Za-z0-9_-]+)` \|.*aarch64", guide, re.MULTILINE))
    assert rows == set(core_dependencies())


def test_the_picture_in_the_readme_is_of_the_shipped_bundle() -> None:
    manifest = (ROOT / "engines/default/manifest.json").read_bytes()
    picture = (ROOT / "docs/pictures/session.svg").read_text("utf-8")
    assert "](docs/pictures/session.svg)" in (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r">model default \(([0-9a-f]{12})\)", picture)
    assert shown is not None and shown[1] == hashlib.sha256(manifest).hexdigest()[:12], "run tools/docs/picture.py"


def literal_texts(folder: Path) -> list[str]:
    """Every string of the code under a folder, its parts joined, with … for what is filled in at run time."""
    texts = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_every_message_in_the_troubleshooting_table_is_one_that_the_code_has() -> None:
    guide = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    table = guide.split("## Troubleshooting")[1].split("| what you see |")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) > 15
    texts = literal_texts(ROOT / "runtime/clcr_stream")
    for message in messages:
        pattern = ".*?".join(re.escape(part) for part in message.split("…"))
        assert any(re.search(pattern, text, re.DOTALL) for text in texts), message


def test_the_python_that_the_documents_show_reads_a_running_session(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "XDG_RUNTIME_DIR": str(tmp_path)}
    write_bundle(tmp_path / "bundle")  # the readers are looked at, so the engines are small
    command = [sys.executable, "-m", "clcr_stream", "--input", "test://?fps=5", "--quiet", "--output", "-"]
    command += ["--bundle", str(tmp_path / "bundle")]
    session = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        assert session.stdout is not None
        session.stdout.readline()  # the session message: the endpoint is bound
        for path in (ROOT / "README.md", ROOT / "docs/guide.md"):
            blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
            (code,) = (block for block in blocks if "sys.argv[1]" in block or "Subscriber(" in block)
            reader = [sys.executable, "-u", "-c", code, f"ipc://{tmp_path}/clcr-stream/default.sock"]
            with subprocess.Popen(reader, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                line = process.stdout.readline()
                process.kill()
            shown = r"(\d+ ([a-z]+ 0\.\d|None None)|(Prediction|Transcript) \d+ )"
            assert re.match(shown, line), f"{path.name}: {line!r}"
    finally:
        session.terminate()
        assert session.stdout is not None
        session.stdout.close()
        assert session.wait(timeout=10) == 0


def shell_lines(path: Path) -> Iterator[list[str]]:
    """The commands in a document's `sh` blocks, without prompts' output, comments and continuation lines' breaks."""
    for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_path_and_command_a_document_shows_exists(path: Path) -> None:
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    for words in shell_lines(path):
        for word in words:
            name = word.removeprefix("./").removeprefix(".venv/bin/")
            if name.startswith("clcr-"):
                assert name in scripts, f"{path.name}: {name}"
            elif re.match(r"(scripts|tools|examples|configs|docs|engines|tests|\.ci)/", name):
                assert (ROOT / name).exists(), f"{path.name}: {name}"


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "ARCHITECTURE.md"], ids=lambda p: p.name)
def test_every_relative_link_of_a_document_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", ["scripts/demo", "scripts/test", "scripts/check", ".ci/run"])
def test_a_script_is_executable_and_valid_bash(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert run("bash", "-n", name).returncode == 0


@pytest.mark.parametrize("folder", ["runtime/clcr_stream", "model/clcr", "export/clcr_export"])
def test_the_architecture_has_one_line_for_each_module_and_none_for_another(folder: str) -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split(f"### {folder}/\n", 1)[1].split("\n### ")[0]
    listed = re.findall(r"^    (\S+\.py) +\S", section, re.MULTILINE)
    modules = [path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")]
    wanted = [name for name in modules if not name.endswith("__init__.py")]
    assert sorted(listed) == sorted(wanted)


def fake_commands(folder: Path, commands: dict[str, str]) -> str:
    """Put shell scripts in front of the real commands; returns the PATH to use."""
    for name, body in commands.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_without_root_a_missing_system_package_is_one_line_to_run(tmp_path: Path) -> None:
    commands = {"id": "echo 1000", "dpkg-query": "exit 1", "apt-get": f"touch {tmp_path}/called"}
    path = fake_commands(tmp_path, commands)
    done = run("bash", "-c", "source scripts/lib.sh; need_packages one two; echo reached", PATH=path)
    assert done.returncode == 1
    assert "reached" not in done.stdout
    line = "sudo apt-get update && sudo apt-get install -y --no-install-recommends one two"
    assert done.stderr.splitlines()[-1] == line
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [
        (["torch", "sympy"], "torch==2.13.0"),
        (["torch", "nvidia-nccl-cu13"], "--index-url https://download.pytorch.org/whl/cpu"),
    ],
)
def test_torch_comes_from_the_cpu_index_exactly_when_pip_would_bring_cuda(
    tmp_path: Path, resolved: list[str], expected: str
) -> None:
    report = {"install": [{"metadata": {"name": name}} for name in resolved]}
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    body = f"""
if [[ "$*" == *"version('torch')"* ]]; then exit 1; fi
if [ "$1 $2" != "-m pip" ]; then exec {sys.executable} "$@"; fi
echo "$*" >> {tmp_path}/calls
while [ $# -gt 0 ]; do [ "$1" = --report ] && cp {tmp_path}/report.json "$2"; shift; done
exit 0"""
    fake_commands(tmp_path, {"python": body})
    done = run("bash", "-c", f"source scripts/lib.sh; PY={tmp_path}/python; set -euo pipefail; need_cpu_torch")
    assert done.returncode == 0, done.stderr
    first, last = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert "--dry-run" in first
    assert last.endswith(expected)


@pytest.mark.timeout(60)
def test_a_long_step_of_the_set_up_says_what_it_is_at_while_it_runs_and_its_last_lines_when_it_fails(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "go")
    step = f"echo Collecting numpy; read -r _ <{tmp_path}/go; echo No space left; exit 3"
    code = f"source scripts/lib.sh; progress 'installing numpy' bash -c '{step}'; echo code $?"
    environment = {**os.environ, "PROGRESS_S": "0.05"}
    command = ["bash", "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.readline() == "-- installing numpy\n"
        while not re.search(r"installing numpy: \d+ s: Collecting numpy", process.stderr.readline()):
            pass
        (tmp_path / "go").write_text("\n", encoding="utf-8")
        rest = process.stderr.read()  # ends only when nobody who reports is left
        assert process.stdout.read() == "code 3\n"
    assert rest.splitlines()[-2:] == ["Collecting numpy", "No space left"]


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (["camera      /dev/video2  Desk", "microphone  1  USB  48000 Hz"], "--camera /dev/video2 --mic default"),
        (["camera      /dev/video0  Desk", "microphone  none found; PyAudio"], "--camera /dev/video0 --mic none"),
        (["camera      none found; use", "microphone  1  USB  48000 Hz"], "--input test:// --pace real"),
    ],
)
def test_demo_takes_the_camera_that_is_there_with_or_without_a_microphone(
    demo: Path, devices: list[str], options: str
) -> None:
    listed = "\n".join(devices)
    stand_in = f'if [ "$1" = devices ]; then echo "{listed}"; else echo "$@" >&2; fi'
    fake_commands(demo / ".venv/bin", {"clcr-stream": stand_in})
    done = run(str(demo / "scripts/demo"), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{options} --duration 15 --json"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the scripts whose set-up is done."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    run("bash", "-c", f"source {tmp_path}/scripts/lib.sh; mark_current live")
    return tmp_path


def test_demo_installs_speech_recognition_when_a_microphone_has_come(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUND_CARDS", str(demo))
    (demo / ".venv/bin/python").unlink()
    python = f'if [ "$1" = -m ]; then echo "$@" >>{demo}/installed; else exec {sys.executable} "$@"; fi'
    fake_commands(demo / ".venv/bin", {"clcr-stream": "true", "python": python})
    run(str(demo / "scripts/demo"), "--json")
    assert not (demo / "installed").exists()
    (demo / "pcmC0D0c").touch()
    for _ in range(2):
        assert run(str(demo / "scripts/demo"), "--json").returncode == 0
    installed = (demo / "installed").read_text(encoding="utf-8").splitlines()
    assert len(installed) == 1 and installed[0].endswith("[live,asr]")


def test_demo_passes_the_run_s_failure_on_and_names_no_source_the_user_chose(demo: Path) -> None:
    """The script with a stand-in for clcr-stream that prints its arguments."""
    fake_commands(
        demo / ".venv/bin", {"clcr-stream": 'if [ "$*" = "top -" ]; then cat; exit; fi; echo "$@" >&2; exit 4'}
    )
    for given, expected in (
        (["--input", "x.mp4"], "--duration 15 --input x.mp4 --quiet --output -"),
        (["--input=x.mp4", "--duration=2", "--json"], "--input=x.mp4 --duration=2 --json"),
        (["doctor", "--json"], "doctor --json"),
    ):
        done = run(str(demo / "scripts/demo"), *given)
        assert done.returncode == 4, done.stderr
        assert done.stderr.splitlines()[-1] == expected
