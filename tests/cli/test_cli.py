"""The command line in-process: help, one-line errors with their codes, and the subcommands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq.auth

import clcr_stream
from clcr_stream.cli import doctor
from clcr_stream.cli.doctor import list_cameras
from clcr_stream.cli.main import main, run_parser
from clcr_stream.cli.terminal import Notices, StatusLine, status_line, summary_text
from clcr_stream.clock import read_boot_id
from clcr_stream.sources.base import STARTING
from clcr_stream.streams.account import Account, Last
from clcr_stream.streams.reports import Header, View, make_status, summary
from clcr_stream.wire import messages
from clcr_stream.wire.endpoint import CurveServer
from clcr_stream.wire.publisher import Publisher, PublishOptions
from tiny_bundle import write_bundle


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    write_bundle(folder)
    return folder


@pytest.mark.parametrize("command", [[], ["build"], ["devices"], ["doctor"], ["sub"]])
def test_help_shows_exit_codes_and_ends_with_zero(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
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
        (["sub", "--curve-secret", "a"], 2, "--curve-secret FILE and --curve-server FILE go together"),
        (["--curve-secret", "a"], 2, "publish.curve needs both"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_its_own_code(
    arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("clcr-stream: error: ")
    assert wanted in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--camera", "none", "--mic", "none"], 2, "no source"),
        (["--backend", "magic"], 5, "backend 'magic' is unknown"),
        (["--camera", "0", "--mic", "none", "--pace", "max"], 2, "--pace max needs recordings"),
        (["--camera", "csi://0", "--mic", "none"], 3, "GStreamer"),
        (["--output", "/nowhere/x.jsonl", "--camera", "none", "--mic", "none"], 2, "--output /nowhere/x.jsonl"),
        (["--bind", "tcp://0.0.0.0:5999", "--camera", "0", "--mic", "none"], 6, "give --curve-secret FILE and"),
        (
            ["--curve-secret", "/nowhere/k", "--curve-clients", "/", "--camera", "0", "--mic", "none"],
            6,
            "/nowhere/k: not",
        ),
    ],
)
def test_a_mistake_that_needs_a_bundle_to_be_seen(
    bundle: Path, arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(bundle), *arguments]) == code
    assert wanted in capsys.readouterr().err


def test_doctor_finds_a_good_installation(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json", "--bundle", str(bundle)])
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert (code, found["ok"]) == (0, True)
    assert checks["bundle"]["ok"]
    assert checks["backend"]["detail"].startswith("onnxruntime")
    assert {"python", "cameras", "microphones", "endpoint"} <= set(checks)


def test_doctor_names_the_broken_part(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "broken")
    (tmp_path / "broken" / "extra").touch()
    assert main(["doctor", "--bundle", str(tmp_path / "broken")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL bundle:") and "extra" in line for line in lines)


def test_devices_answers_without_any(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "list_cameras", lambda: [])
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cameras"] == found["microphones"] == []
    assert "clcr-stream[live]" in found["microphone_problem"]
    assert main(["devices"]) == 0
    assert "none found" in capsys.readouterr().out


def test_cameras_are_listed_by_device_and_name(tmp_path: Path) -> None:
    (tmp_path / "video0").mkdir()
    (tmp_path / "video0" / "name").write_text("Desk camera\n")
    (tmp_path / "video2").mkdir()
    assert list_cameras(tmp_path) == [
        {"device": "/dev/video0", "name": "Desk camera"},
        {"device": "/dev/video2", "name": "video2"},
    ]
    assert list_cameras(tmp_path / "none") == []


def some_status(stream: str) -> messages.Status:
    header = Header(stream, "0" * 16, read_boot_id(), 1)
    return make_status(Account(), (), header, 1.0)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishOptions(stream="here", heartbeat_ms=50), lambda: some_status("here")) as found:
        yield found


def test_sub_prints_what_an_endpoint_publishes(publisher: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "--stream", "here", "--topics", "status", "--count", "2", "--timeout", "20", "--json"]) == 0
    payloads = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [payload["type"] for payload in payloads] == ["status", "status"]
    assert payloads[0]["seq"] < payloads[1]["seq"]
    assert main(["sub", publisher.endpoint, "--stream", "here", "--topics", "status", "--count", "1"]) == 0
    assert "starting, published 0 of 0 ticks" in capsys.readouterr().out


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of certificates, and `allowed`, the folder of those who may read."""
    for name in ("server", "reader", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "reader.key").rename(tmp_path / "allowed" / "reader.key")
    return tmp_path


def test_curve_flags_open_an_address_off_loopback(bundle: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--bundle", str(bundle), "--backend", "null", "--bind", "tcp://0.0.0.0:*"]
    curve = ["--curve-secret", str(keys / "server.key_secret"), "--curve-clients", str(keys / "allowed")]
    assert main(["doctor", *flags]) == 1
    assert "FAIL endpoint: --bind tcp://0.0.0.0:*: off loopback only with CURVE" in capsys.readouterr().out
    assert main(["doctor", *flags, *curve]) == 0
    assert "ok   endpoint: tcp://0.0.0.0:" in capsys.readouterr().out


def test_sub_reads_a_curve_endpoint_with_an_allowed_key_only(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = PublishOptions(
        endpoint="tcp://127.0.0.1:*",
        heartbeat_ms=50,
        curve=CurveServer(keys / "server.key_secret", keys / "allowed"),
    )
    with Publisher(options, lambda: some_status("default")) as found:
        sub = ["sub", found.endpoint, "--topics", "status", "--count", "1", "--json"]
        curve = ["--curve-server", str(keys / "server.key"), "--curve-secret"]
        assert main([*sub, "--timeout", "20", *curve, str(keys / "reader.key_secret")]) == 0
        assert json.loads(capsys.readouterr().out)["type"] == "status"
        assert main([*sub, "--timeout", "0.5", *curve, str(keys / "stranger.key_secret")]) == 6


def test_sub_with_nobody_there_gives_up_with_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "--stream", "nobody", "--timeout", "0.1"]) == 6
    assert "is `clcr-stream` running there?" in capsys.readouterr().err


def test_a_status_is_degraded_by_its_sources_and_by_the_newest_prediction() -> None:
    account = Account()
    header = Header("default", "0" * 16, "boot", 1)
    assert make_status(account, (), header, 0.0).state == "starting"
    account.published(10.0, 5.0, 1.0, Last("happy", 0.9))
    live = messages.Source(name="0", kind="camera", state="live")
    assert make_status(account, (live,), header, 0.0).state == "running"
    waiting = msgspec.structs.replace(live, state="waiting")
    assert make_status(account, (waiting,), header, 0.0).degraded == ("camera_waiting",)
    account.published(10.0, 5.0, 1.0, Last("happy", 0.9, ("no_face",)))
    assert make_status(account, (live,), header, 0.0).degraded == ("no_face",)


def test_the_status_line_shows_sources_label_cost_and_skips() -> None:
    account = Account()
    account.published(10.0, 5.0, 1.0, Last("happy", 0.91, ("language_absent",)))
    account.skipped("late", 3)
    view = View("left", account, (messages.Source(name="0", kind="camera", state="live"),))
    line = status_line([view])
    assert line == "camera:live | happy 0.91 | tick 5/5 ms p50/p95 | published 1 skipped 3 | language_absent"


def test_the_status_line_of_several_streams_names_each() -> None:
    waiting = messages.Source(name="1", kind="camera", state="waiting")
    line = status_line([View("left", Account(), ()), View("right", Account(), (waiting,))])
    left, right = line.split(" || ")
    assert left.startswith("left: ") and right.startswith("right: camera:waiting | no prediction yet")


def test_the_summary_adds_up_and_knows_its_percentiles() -> None:
    account = Account()
    for value in range(1, 101):
        account.published(float(value), value / 10, value / 100, Last())
    account.skipped("overrun", 7)
    values = summary(account, ())
    assert values["ticks"] == 107
    assert values["skipped"] == {"late": 0, "overrun": 7, "invalid": 0}
    assert values["capture_to_publish_ms"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert "ticks 107 = published 100 + skipped (late 0, overrun 7, invalid 0)" in summary_text(values)


def test_percentiles_are_of_the_newest_values_only() -> None:
    account = Account()
    for value in [1000.0] * 10 + [1.0] * 5000:
        account.published(value, value, value, Last())
    assert account.latencies()[0] == messages.Latency(p50=1.0, p95=1.0, p99=1.0)


def camera(state: str, reason: str | None = None, stream: str = "default") -> tuple[View, ...]:
    return (View(stream, Account(), camera_sources(state, reason)),)


def camera_sources(state: str, reason: str | None) -> tuple[messages.Source, ...]:
    return (msgspec.convert({"name": "0", "kind": "camera", "state": state, "reason": reason}, messages.Source),)


def test_why_a_source_is_not_there_is_told_once_until_it_comes_back() -> None:
    notices = Notices()
    assert notices.new(camera("waiting", STARTING)) == []
    assert notices.new(camera("waiting", "no such camera; looking every 2 s")) == [
        "camera 0: waiting: no such camera; looking every 2 s"
    ]
    assert notices.new(camera("waiting", "no such camera; looking every 2 s")) == []
    assert notices.new(camera("live")) == ["camera 0: back"]
    assert notices.new(camera("live")) == []
    assert notices.new(camera("stale", "no new picture for 1.1 s")) == ["camera 0: stale: no new picture for 1.1 s"]
    assert notices.new(camera("stale", "no new picture for 1.6 s")) == []
    assert notices.new(camera("failed", "broken")) == ["camera 0: failed: broken"]


def test_the_same_camera_name_in_two_streams_is_told_for_each_with_its_stream() -> None:
    notices = Notices()
    left, right = camera("waiting", "gone", "left"), camera("waiting", "gone", "right")
    assert notices.new(left + right) == ["left: camera 0: waiting: gone", "right: camera 0: waiting: gone"]
    assert notices.new(left + camera("live", stream="right")) == ["right: camera 0: back"]


def test_a_source_that_is_there_from_the_start_and_ends_is_not_mentioned() -> None:
    notices = Notices()
    told = [notices.new(camera(state)) for state in ("waiting", "live", "ended")]
    assert told == [[], [], []]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notice_stays_on_the_screen_even_when_the_session_is_short(terminal: bool) -> None:
    out, pending = Lines(terminal), ["camera 0: waiting: no such camera"]
    with StatusLine(lambda: "all is well", out, 3600.0, lambda: [pending.pop()] if pending else []):  # type: ignore[arg-type]
        pass
    assert "camera 0: waiting: no such camera\n" in out.text
    assert out.text.count("camera 0") == 1


class Lines:
    """A stream that says when something was written to it."""

    def __init__(self, terminal: bool) -> None:
        self.text, self.written, self._terminal = "", threading.Event(), terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        self.written.set()
        return len(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_one_line_rewritten_and_a_file_gets_plain_lines(terminal: bool) -> None:
    out = Lines(terminal)
    with StatusLine(lambda: "all is well", out, period_s=0.001):  # type: ignore[arg-type]
        assert out.written.wait(10)
    assert "all is well" in out.text
    assert ("\x1b[K" in out.text) is terminal
    assert out.text.endswith("\x1b[K" if terminal else "\n")


def test_the_package_imports_in_half_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import time; start = time.perf_counter(); import clcr_stream, clcr_stream.cli.main;"
        "took = time.perf_counter() - start; import sys;"
        "heavy = {'torch', 'cv2', 'av', 'onnxruntime', 'pyaudio', 'tokenizers'} & set(sys.modules);"
        "assert not heavy, heavy; print(took)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clcr_stream.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert float(done.stdout) < 0.5
