"""The manners of the process, with real processes: signals, a terminal that closes, closed and full streams, files."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import clcr_stream
from clcr_stream.cli.main import main
from clcr_stream.wire.client import Subscriber
from clcr_stream.wire.messages import Status
from media import eventually
from tiny_bundle import write_bundle

RUNTIME = str(Path(clcr_stream.__file__).parents[1])
LIVE = ("--camera", "none", "--mic", "test://")
SHORT = ("--input", "test://?seconds=1&fps=5", "--pace", "max")  # few pictures: they are drawn, and not the subject
PATIENCE_S = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manners")
    write_bundle(folder / "bundle")
    (folder / "run").mkdir(mode=0o700)
    return folder


def line(place: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "clcr_stream", *map(str, arguments), "--bundle", str(place / "bundle")]


def environment(place: Path, **more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(place / "run"), "TERM": "xterm"} | more


def run(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line(place, *arguments), capture_output=True, text=True, timeout=PATIENCE_S, env=environment(place)
    )


Inside = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inside(place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """As `run`, in this process: for what becomes of files, in a third of the time."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))

    def run_inside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = main(line(place, *arguments)[3:])
        said = capfd.readouterr()
        return subprocess.CompletedProcess(["clcr-stream"], code, said.out, said.err)

    return run_inside


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program that imports the product."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"PYTHONPATH": RUNTIME},
    )


def shell(place: Path, text: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as `$0 "$@"` of a line of bash."""
    return subprocess.run(
        ["bash", "-c", text, *line(place, *arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(place),
    )


def started(process: subprocess.Popen[str]) -> None:
    """Wait until a session has said where it publishes."""
    assert process.stderr is not None
    for text in process.stderr:
        if "publishing clcr/" in text:
            return
    raise AssertionError("the session ended before it had begun")


def start(place: Path, *arguments: str | Path, own_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line(place, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
        start_new_session=own_session,
    )


# Signals


# The command; it prints that its handlers stand, and sends itself a signal at the first audit event `name` that has
# `text` in its arguments.
SIGNALLED = """
import os, sys
import clcr_stream.cli.main as main
name, text, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
really = main.signals.end_at_once
def stand():
    really()
    print("handlers stand", flush=True)
    sys.addaudithook(watch)
def watch(event, arguments):
    global name
    if event == name and text in str(arguments):
        name = None
        print("signal", flush=True)
        os.kill(os.getpid(), number)
main.signals.end_at_once = stand
sys.argv[1:] = sys.argv[4:]
sys.exit(main.main())
"""
MOMENTS = {
    "the first import": ("import", "clcr_stream.cli.standard_streams"),
    "the arguments are about to be read": ("import", "clcr_stream.cli.run"),
    "an import of an import": ("import", "numpy.linalg"),
    "the bundle is verified": ("open", "level2.onnx"),
    "the engines are loaded": ("import", "onnxruntime"),
    "the endpoint is opened": ("os.chmod", ".sock"),
    "the loop is about to run": ("open", "/dev/tty"),
    "the endpoint is taken away": ("os.remove", ".sock"),
}


def signalled(place: Path, event: tuple[str, str], number: int, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        SIGNALLED,
        *event,
        str(int(number)),
        *line(place, *LIVE, "--quiet", *arguments)[3:],
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_is_exit_0_without_a_traceback_when(place: Path, moment: str, number: signal.Signals) -> None:
    """From the moment on in which our code runs; what Python does before that is its own."""
    with signalled(place, MOMENTS[moment], number, "--duration", "0.2") as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors, output) == (0, "", "handlers stand\nsignal\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_is_exit_0_without_a_traceback(place: Path, number: signal.Signals) -> None:
    """Also in native code, where no event can be caught: at times that are drawn, in sessions that run side by side."""
    chance = random.Random(8 + number)
    times_s = sorted(chance.uniform(0.0, 2.5) for _ in range(5))
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(signalled(place, ("none", ""), 0, "--stream", f"any-{index}"))
            for index in range(len(times_s))
        ]
        for process in sessions:
            assert process.stdout is not None and process.stdout.readline() == "handlers stand\n"
        stood_s = time.monotonic()
        for process, after_s in zip(sessions, times_s, strict=True):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, stood_s + after_s - time.monotonic()))
            process.send_signal(number)
        ended = [(process.communicate(timeout=PATIENCE_S)[1], process.returncode) for process in sessions]
    assert ended == [("", 0)] * len(times_s)


def test_the_second_signal_ends_a_session_that_hangs(place: Path) -> None:
    """Here in the hands of a reader of --output that does not read: the loop waits for it."""
    os.mkfifo(place / "pipe")
    reader = os.open(place / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with start(place, *LIVE, "--output", place / "pipe", "--stream", "hangs") as process:
            started(process)
            full(process, place / "pipe")
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == -signal.SIGINT
    finally:
        os.close(reader)


def full(process: subprocess.Popen[str], pipe: Path) -> None:
    """Fill a pipe, so that its next writer waits."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 65536)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x")
    finally:
        os.close(writer)


@pytest.mark.parametrize("command", ["build", "doctor", "devices"])
def test_a_command_that_answers_a_question_dies_of_ctrl_c_instead_of_saying_that_all_is_well(command: str) -> None:
    code = (
        "import os, signal, sys; import clcr_stream.cli.main as main;"
        "import importlib; module = importlib.import_module(f'clcr_stream.cli.{sys.argv[1]}');"
        "module.command = lambda _: os.kill(os.getpid(), signal.SIGINT) or signal.pause();"
        "sys.exit(main.main())"
    )
    done = python(code, command)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_sighup_ends_a_session_without_a_configuration_with_its_goodbye(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    with (
        start(place, *LIVE, "--stream", "hup", own_session=True) as process,
        Subscriber(stream="hup", topics=("status",)) as subscriber,
    ):
        started(process)
        assert subscriber.receive(timeout_ms=20_000) is not None
        process.send_signal(signal.SIGHUP)
        assert last_state(subscriber) == "goodbye"
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "Traceback" not in errors


def last_state(subscriber: Subscriber) -> str:
    """Of the statuses that come until 4 s pass without one."""
    state = ""
    while state != "goodbye" and (received := subscriber.receive(timeout_ms=4000)) is not None:
        assert isinstance(received.message, Status)
        state = received.message.state
    return state


def config_file(place: Path, name: str) -> Path:
    path = place / f"{name}.yaml"
    path.write_text(f"streams: [{{name: {name}, sources: {{camera: none, mic: 'test://'}}}}]")
    return path


def test_sighup_reads_the_configuration_of_a_service_again(place: Path) -> None:
    path = config_file(place, "service")
    with start(place, "--config", path, own_session=True) as process:
        started(process)
        path.write_text(path.read_text().replace("]", ", {name: second, sources: {camera: none, mic: 'test://'}}]"))
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        assert any("stream second: started" in text for text in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


class Terminal:
    """A session that was started in a terminal of its own; a context manager."""

    def __init__(self, place: Path, command: Sequence[str]) -> None:
        self.errors = place / "terminal.txt"
        self._command = [
            "bash",
            "-c",
            f'cd {place}; "$@" 2>{self.errors} </dev/null; echo "code $?" >>{self.errors}',
            "_",
            *command,
        ]
        self._environment = environment(place)

    def __enter__(self) -> Terminal:
        self.errors.unlink(missing_ok=True)
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", self._command, self._environment)
        return self

    def close_window(self) -> None:
        os.close(self._master)
        self._master = -1

    def session(self) -> int:
        """The process of the session."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    def said(self, text: str) -> bool:
        return self.errors.exists() and text in self.errors.read_text()

    def __exit__(self, *_: object) -> None:
        if self._master >= 0:
            self.close_window()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def alive(pid: int) -> bool:
    """False for a process that has ended, also for one that nobody has waited for."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("with_config", [True, False])
def test_closing_the_terminal_ends_the_session_with_its_goodbye(
    place: Path, monkeypatch: pytest.MonkeyPatch, with_config: bool
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    name = f"window-{with_config}".lower()
    arguments = ("--config", config_file(place, name)) if with_config else (*LIVE, "--stream", name)
    with (
        Terminal(place, line(place, *arguments)) as terminal,
        Subscriber(stream=name, topics=("status",)) as subscriber,
    ):
        assert eventually(lambda: terminal.said("publishing clcr/"), timeout_s=PATIENCE_S)
        assert subscriber.receive(timeout_ms=20_000) is not None
        session = terminal.session()
        terminal.close_window()
        assert last_state(subscriber) == "goodbye"
        assert eventually(lambda: not alive(session), timeout_s=10)
    assert "Traceback" not in terminal.errors.read_text()


def test_sighup_in_a_terminal_that_is_still_there_reads_the_configuration_again(place: Path) -> None:
    path = config_file(place, "stays")
    with Terminal(place, line(place, "--config", path)) as terminal:
        assert eventually(lambda: terminal.said("publishing clcr/"), timeout_s=PATIENCE_S)
        path.write_text("streams: [{name: other, sources: {camera: none, mic: 'test://'}}]")
        os.kill(terminal.session(), signal.SIGHUP)
        assert eventually(lambda: terminal.said("stream other: started"), timeout_s=PATIENCE_S)
        os.kill(terminal.session(), signal.SIGTERM)
        assert eventually(lambda: terminal.said("code 0"), timeout_s=PATIENCE_S)


def test_below_nohup_a_session_outlives_its_terminal(place: Path) -> None:
    with Terminal(place, ["nohup", *line(place, *LIVE, "--stream", "nohup", "--duration", "8")]) as terminal:
        assert eventually(lambda: terminal.said("publishing clcr/"), timeout_s=PATIENCE_S)
        session = terminal.session()
        terminal.close_window()
        os.kill(session, signal.SIGHUP)
        assert not eventually(lambda: not alive(session), timeout_s=2.5)
        os.kill(session, signal.SIGTERM)
        assert eventually(lambda: not alive(session), timeout_s=10)


def test_a_session_that_ends_while_it_waits_for_its_terminal_to_go_does_not_hang() -> None:
    code = (
        "import os, signal, time; from clcr_stream.cli import signals;"
        "signals.has_terminal = lambda: True;"
        "watched = signals.hangup_handled(lambda: print('end'), lambda: print('reload'));"
        "watched.__enter__(); os.kill(os.getpid(), signal.SIGHUP); time.sleep(signals.HANGUP_S / 3);"
        "watched.__exit__(None, None, None)"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Standard streams


def test_a_line_is_shown_while_a_sound_library_is_kept_quiet() -> None:
    code = (
        "import os; from clcr_stream.cli import standard_streams;"
        "from clcr_stream.sources.microphone import quiet_stderr;"
        "standard_streams.open_closed(); standard_streams.keep_stderr(); quiet = quiet_stderr();"
        "quiet.__enter__(); os.write(2, b'ALSA lib'); standard_streams.say('camera 0: waiting')"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "camera 0: waiting\n")


def test_a_closed_standard_error_is_no_obstacle(place: Path) -> None:
    done = shell(place, 'exec "$0" "$@" 2>&-', *SHORT, "--json", "--stream", "silent")
    assert done.returncode == 0 and json.loads(done.stdout)["published"] == 5


def test_all_three_closed_is_no_obstacle_and_files_stay_clean(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    done = shell(place, 'exec "$0" "$@" <&- >&- 2>&-', *SHORT, "--output", output, "--stream", "closed")
    assert done.returncode == 0
    kinds = [json.loads(text)["type"] for text in output.read_text().splitlines()]
    assert kinds.count("prediction") == 5


@pytest.mark.parametrize("arguments", [("--json",), ("--output", "-")])
def test_a_closed_standard_output_is_told_before_anything_is_opened(place: Path, arguments: tuple[str, ...]) -> None:
    done = shell(place, 'exec "$0" "$@" >&-', *SHORT, *arguments)
    assert done.returncode == 7
    assert done.stderr.startswith("clcr-stream: error: standard output is closed") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(*SHORT, "--json", "--quiet"), ("devices",)])
def test_a_standard_output_that_is_full_is_one_line_and_code_7(place: Path, arguments: tuple[str, ...]) -> None:
    command = line(place, *arguments) if arguments[0].startswith("--input") else line(place, *arguments)[:-2]
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" "$@" >/dev/full', *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(place),
    )
    assert done.returncode == 7
    told = "clcr-stream: error: standard output cannot be written (No space left on device); is its disk full?\n"
    assert done.stderr == told


def test_sub_ends_without_a_word_when_its_reader_has_seen_enough(place: Path) -> None:
    with start(place, *LIVE, "--stream", "piped") as process:
        started(process)
        code = '"$0" -m clcr_stream sub --stream piped --timeout 20 | head -n 1; echo "${PIPESTATUS[0]}"'
        done = subprocess.run(
            ["bash", "-c", code, sys.executable],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environment(place),
        )
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")


# Files


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Path]:
    from clcr_stream.sources.synthetic.person import PersonOptions
    from clcr_stream.sources.synthetic.source import write_clip

    write_clip(tmp_path / "talk.mp4", 1.0, PersonOptions(fps=5))
    before = (tmp_path / "talk.mp4").read_bytes()
    yield tmp_path / "talk.mp4"
    assert (tmp_path / "talk.mp4").read_bytes() == before


def test_an_output_named_like_the_input_is_refused_and_the_recording_lives(inside: Inside, recording: Path) -> None:
    spelt = recording.parent / "." / ".." / recording.parent.name / recording.name
    for more in ((), ("--append",)):
        done = inside("--input", recording, "--pace", "max", "--output", spelt, *more)
        assert done.returncode == 2 and "the run reads that file" in done.stderr


def test_a_mistake_in_the_input_leaves_yesterday_s_results_and_makes_no_file(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("{}\n")
    for name in ("old.jsonl", "new.jsonl"):
        assert inside("--input", tmp_path / "typo.mp4", "--output", tmp_path / name, "--append").returncode == 3
    assert (tmp_path / "old.jsonl").read_text() == "{}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.jsonl"]


def test_an_endpoint_in_use_makes_no_output(place: Path, inside: Inside, tmp_path: Path) -> None:
    with start(place, *LIVE, "--stream", "held") as process:
        started(process)
        done = inside(*LIVE, "--stream", "held", "--output", tmp_path / "a.jsonl")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert done.returncode == 6 and list(tmp_path.iterdir()) == []


def test_a_second_run_is_refused_the_file_of_the_first_and_appends_when_asked(place: Path, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "a.jsonl", "--stream", "again")
    assert run(place, *SHORT, *output).returncode == 0
    first = (tmp_path / "a.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600
    refused = run(place, *SHORT, *output)
    assert refused.returncode == 2 and "--append to add to it" in refused.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == first
    assert run(place, *SHORT, *output, "--append").returncode == 0
    both = (tmp_path / "a.jsonl").read_bytes()
    assert both.startswith(first) and both.count(b'"type":"session"') == 2


def test_standard_output_by_its_other_name_goes_on_working(place: Path, tmp_path: Path) -> None:
    code = 'echo first >>"$OUT"; exec "$0" "$@" >>"$OUT"'
    done = subprocess.run(
        ["bash", "-c", code, *line(place, *SHORT, "--output", "/dev/stdout", "--stream", "other-name")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(place, OUT=str(tmp_path / "a.jsonl")),
    )
    assert done.returncode == 0, done.stderr
    first, *rest = (tmp_path / "a.jsonl").read_text().splitlines()
    assert first == "first" and sum('"type":"prediction"' in text for text in rest) == 5


def test_a_full_disk_is_told_at_once_and_in_the_exit_code(place: Path, tmp_path: Path) -> None:
    """bash's limit of a file's size, in KiB, stands for the disk; Python ignores the signal that goes with it."""
    recording = ("--input", "test://?seconds=4&fps=5", "--pace", "max")
    arguments = (*recording, "--output", tmp_path / "a.jsonl", "--stream", "disk")
    done = shell(place, 'ulimit -f 8; exec "$0" "$@"', *arguments)
    assert done.returncode == 7
    assert done.stderr.count("has stopped: File too large; the session goes on without it") == 1
    assert done.stderr.index("has stopped") < done.stderr.index("ticks 20")
    data = (tmp_path / "a.jsonl").read_bytes()
    assert data.endswith(b"\n") and all(json.loads(text) for text in data.splitlines())


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("-", 'set -o pipefail; "$0" "$@" | true'),
        ("pipe", 'mkfifo "$OUT"; true <"$OUT" & "$0" "$@"'),
    ],
)
def test_an_output_whose_reader_has_gone_is_told_and_no_failure(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, text: str
) -> None:
    """As the guide's exit codes say; a full disk is one."""
    path = tmp_path / output
    monkeypatch.setenv("OUT", str(path))
    recording = ("--input", "test://?seconds=4&fps=5", "--pace", "max", "--stream", "unread")
    done = shell(place, text, *recording, "--output", "-" if output == "-" else path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has stopped: Broken pipe; the session goes on without it") == 1
    assert "ticks 20 = published 20" in done.stderr


def test_an_orderly_end_leaves_no_socket_behind(place: Path) -> None:
    assert run(place, *SHORT, "--stream", "tidy").returncode == 0
    assert not list((place / "run" / "clcr-stream").glob("tidy*"))


def test_a_bad_terminal_setting_of_the_caller_is_left_as_it_was(place: Path) -> None:
    """The session changes nothing of the terminal it runs in."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        subprocess.run(
            line(place, *SHORT, "--stream", "tty"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            timeout=PATIENCE_S,
            env=environment(place),
            check=True,
        )
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_the_first_ctrl_c_ends_a_session_that_waits_for_the_first_bytes_of_a_pipe(place: Path) -> None:
    command = line(place, "--input", "-", "--transcript", "none", "--backend", "null", "--stream", "waits")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place)
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        assert eventually(lambda: "libavformat" in maps.read_text(), PATIENCE_S), "PyAV opens the pipe"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
