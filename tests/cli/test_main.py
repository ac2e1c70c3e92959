"""The command line in-process: help, and one-line errors with their codes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import clcr_stream
from clcr_stream import run
from clcr_stream.cli.main import main
from clcr_stream.cli.run import run_parser
from clcr_stream.config import load_config
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    write_bundle(folder)
    return folder


@pytest.mark.parametrize("command", [[], ["build"], ["devices"], ["doctor"], ["sub"]])
def test_help_shows_exit_codes_and_ends_with_zero(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "exit code" in capsys.readouterr().out


def test_help_of_the_run_shows_examples_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    text = run_parser().format_help()
    assert "clcr-stream --input talk.mp4" in text
    flags = "camera mic input pace transcript bundle backend config bind curve-secret curve-clients stream output"
    for flag in flags.split():
        assert f"--{flag}" in text


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--no-such-flag"], 2, "unrecognized arguments: --no-such-flag"),
        (["stream"], 2, "unknown command 'stream'"),
        (["--pace", "slow"], 2, "argument --pace: invalid choice"),
        (["--gamma", "much"], 2, "argument --gamma: invalid float"),
        (["--gamma", "9"], 2, "model.gamma is 9"),
        (["--stream", "a b"], 2, "publish.stream is 'a b'"),
        (["--config", "/nowhere/x.yaml"], 2, "/nowhere/x.yaml: cannot be read"),
        (["--json", "--output", "-"], 2, "both write to stdout"),
        (["--input", "a.mp4", "--camera", "0"], 2, "sources.input replaces"),
        (["--bundle", "/nowhere"], 4, "/nowhere: cannot be opened as a folder"),
        (["doctor", "--no"], 2, "unrecognized arguments"),
        (["sub", "--topics", "prediction,all"], 2, "allowed are session, prediction, transcript, status"),
        (["sub", "nonsense://x"], 2, "nonsense://x"),
        (["sub", "--timeout", "nan"], 2, "--timeout nan: must be a number of seconds above 0"),
        (["sub", "--timeout", "inf"], 2, "--timeout inf: must be a number of seconds above 0"),
        (["sub", "--timeout", "-1"], 2, "--timeout -1: must be"),
        (["sub", "--count", "-3"], 2, "--count -3: must be 1 or more"),
        (["sub", "--count", "0"], 2, "--count 0: must be 1 or more"),
        (["--duration", "inf"], 2, "run.duration_s is inf, allowed are numbers above 0 up to 1e9"),
        (["--duration", "nan"], 2, "run.duration_s is nan, allowed are"),
        (["--duration", "1e300"], 2, "run.duration_s is 1e+300, allowed are"),
        (["--duration", "-1"], 2, "run.duration_s is -1.0, allowed are"),
        (["--settle-ms", "nan"], 2, "run.settle_ms is nan, allowed 0..5000"),
        (["--gamma", "inf"], 2, "model.gamma is inf, allowed 0..4"),
        (["--input", "/nowhere/x.mp4"], 3, "input /nowhere/x.mp4: no such file"),
        (["--camera", "/nowhere/x.mp4", "--mic", "none"], 3, "camera /nowhere/x.mp4: no such file"),
        (["--camera", "none", "--mic", "/nowhere/x.wav"], 3, "mic /nowhere/x.wav: no such file"),
        (["--input", "test://", "--transcript", "/nowhere/x.srt"], 3, "transcript /nowhere/x.srt: No such file"),
        (["--bind", "tcp://0.0.0.0:5999", "--input", "test://"], 6, "give --curve-secret server"),
        (["--bind", "ipc:////", "--input", "test://"], 6, "--bind ipc:////: not understood"),
        (["--curve-secret", "/nowhere/k", "--curve-clients", "/", "--input", "test://"], 6, "/nowhere/k: not a CURVE"),
        (
            ["--output", "/nowhere/x.jsonl", "--input", "test://"],
            2,
            "x.jsonl: there is no folder '/nowhere'",
        ),
        (["--output", "/", "--input", "test://"], 2, "--output /: is a folder"),
        (["sub", "--curve-secret", "a"], 2, "--curve-secret and --curve-server go together"),
        (["--curve-clients", "a"], 2, "needs secret_file too (--curve-secret NAME)"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_its_own_code(
    arguments: list[str],
    code: int,
    wanted: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it is told before anything slow is loaded: these never get as far as the engines."""
    monkeypatch.setattr(run, "open_engines", lambda *_: pytest.fail("the engines were loaded first"))
    if arguments[0] == "--bundle":
        monkeypatch.undo()
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("clcr-stream: error: ")
    assert wanted in shown.err
    assert shown.err.count("\n") == 1


def test_a_run_that_is_stopped_while_it_loads_opens_nothing(bundle: Path) -> None:
    stop = threading.Event()
    stop.set()
    flags = {"model.bundle": str(bundle), "sources.input": "test://", "publish.stream": "never"}
    assert run.run(load_config(None, flags), stop, lambda _: pytest.fail("a host was opened")) is None
    assert not list(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("never*"))


def test_an_exception_that_nobody_expected_is_one_line_with_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("one\nand two")

    monkeypatch.setattr(run, "open_engines", broken)
    assert main(["--input", "test://"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("clcr-stream: error: a fault of clcr-stream at ") and shown.count("\n") == 1
    assert "run.py:" in shown and "ValueError: one and two" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--camera", "none", "--mic", "none"], 2, "no source"),
        (["--backend", "magic"], 5, "backend 'magic' is unknown"),
        (["--camera", "0", "--mic", "none", "--pace", "max"], 2, "--pace max needs recordings"),
        (["--camera", "csi://x", "--mic", "none"], 3, "gst:PIPELINE"),
    ],
)
def test_a_mistake_that_needs_a_bundle_to_be_seen(
    bundle: Path, arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(bundle), *arguments]) == code
    assert wanted in capsys.readouterr().err


def test_handlers_of_signals_stand_before_anything_slow_is_imported() -> None:
    """What `clcr_stream.cli.main` imports, and with it the time until Ctrl-C is no traceback any more."""
    code = (
        "import sys; before = set(sys.modules); import clcr_stream.cli.main;"
        "print(*sorted(name for name in set(sys.modules) - before if '.' not in name))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clcr_stream.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    cheap = {"clcr_stream", "contextlib", "signal", "threading", "collections", "functools", "enum", "types"}
    cheap |= {
        "os",
        "stat",
        "posixpath",
        "genericpath",
        "operator",
        "keyword",
        "reprlib",
        "itertools",
        "importlib",
        "warnings",
    }
    assert {name for name in done.stdout.split() if not name.startswith("_")} <= cheap


def test_the_package_imports_in_half_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import time; start = time.process_time(); import clcr_stream, clcr_stream.cli.main;"
        "import clcr_stream.cli.arguments, clcr_stream.config;"
        "took = time.process_time() - start; import sys;"
        "heavy = {'torch', 'cv2', 'av', 'onnxruntime', 'pyaudio', 'tokenizers'} & set(sys.modules);"
        "assert not heavy, heavy; print(took)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clcr_stream.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, timeout=60, check=True, env=environment) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.5


def test_a_session_of_the_command_line_lets_threads_take_turns_quickly(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.getswitchinterval()
    during: list[float] = []
    monkeypatch.setattr(run, "run", lambda *_, **__: during.append(sys.getswitchinterval()))
    try:
        assert main(["--input", "test://", "--bundle", str(bundle)]) == 0
    finally:
        sys.setswitchinterval(before)
    assert during[0] < 0.001
