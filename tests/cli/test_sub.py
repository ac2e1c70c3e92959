"""`clcr-stream sub`: messages as lines."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clcr_stream.cli import sub
from clcr_stream.cli.main import main
from clcr_stream.clock import read_boot_id
from clcr_stream.streams.account import Account
from clcr_stream.streams.reports import Header, make_status
from clcr_stream.wire import messages
from clcr_stream.wire.keys import CurveServer
from clcr_stream.wire.publisher import Publisher, PublishOptions
from curve_keys import write_keys
from media import eventually

pytestmark = pytest.mark.usefixtures("own_endpoints")


def some_status(stream: str) -> messages.Status:
    header = Header(stream, "0" * 16, read_boot_id(), 1)
    return make_status(Account(), (), header, 1.0)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishOptions(stream="here", heartbeat_ms=50), lambda: some_status("here")) as found:
        yield found


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path)


def test_sub_prints_what_an_endpoint_publishes(publisher: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "--stream", "here", "--topics", "status", "--count", "2", "--timeout", "20", "--json"]) == 0
    payloads = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [payload["type"] for payload in payloads] == ["status", "status"]
    assert payloads[0]["seq"] < payloads[1]["seq"]
    assert main(["sub", publisher.endpoint, "--stream", "here", "--topics", "status", "--count", "1"]) == 0
    assert "starting, published 0 of 0 ticks" in capsys.readouterr().out


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
        said = capsys.readouterr().err
        assert "refuses our key; run `clcr-stream keys allow` there, or check --curve-server" in said
        assert main([*sub, "--timeout", "0.5"]) == 6
        assert "refuses readers without a key; give --curve-secret and --curve-server" in capsys.readouterr().err


def test_a_sub_that_waits_without_end_says_once_that_it_is_refused(keys: Path) -> None:
    server = CurveServer(keys / "server.key_secret", keys / "allowed")
    options = PublishOptions(endpoint="tcp://127.0.0.1:*", heartbeat_ms=50, curve=server)
    with Publisher(options, lambda: some_status("default")) as found:
        command = [sys.executable, "-m", "clcr_stream", "sub", found.endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                assert process.stderr.readline().startswith(f"waiting: {found.endpoint} refuses readers without a key")
                assert eventually(lambda: found.refused > 5, 30)
            finally:
                process.terminate()
            assert process.stderr.read() == "" and process.wait(20) == 0


def test_sub_with_nobody_there_gives_up_with_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "--stream", "nobody", "--timeout", "0.1"]) == 6
    assert "for 0.1 s; no session 'nobody' of yours runs; running: none (`clcr-stream ps`)\n" in capsys.readouterr().err
    assert main(["sub", "tcp://127.0.0.1:9", "--timeout", "0.1"]) == 6
    assert "nothing on tcp://127.0.0.1:9 for 0.1 s; is `clcr-stream` running there?" in capsys.readouterr().err


def test_a_sub_of_another_name_is_told_which_stream_runs_there(
    publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sub", "--timeout", "0.1"]) == 6
    assert "no session 'default' of yours runs; running: here (`clcr-stream ps`); give --stream here\n" in (
        capsys.readouterr().err
    )
    assert main(["sub", publisher.endpoint, "--timeout", "0.1"]) == 6
    assert f"nothing on {publisher.endpoint} for 0.1 s; the stream there is 'here'; give --stream here\n" in (
        capsys.readouterr().err
    )
    assert main(["sub", "--stream", "here", "--topics", "event", "--timeout", "0.1"]) == 6
    assert "'here' runs there, and no event has come yet" in capsys.readouterr().err


def test_a_sub_that_waits_without_end_says_once_what_runs_in_place_of_what_it_waits_for(
    publisher: Publisher, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as stack:

        def say(text: str) -> None:
            """What is waited for comes, with its first message a second later: five turns of the reader."""
            said.append(text)
            options = PublishOptions(heartbeat_ms=1000)
            stack.enter_context(Publisher(options, lambda: some_status("default")))

        monkeypatch.setattr(sub, "say", say)
        monkeypatch.setattr(sub, "SILENT_S", 0.1)
        assert main(["sub", "--topics", "status", "--count", "1"]) == 0
    assert "starting" in capsys.readouterr().out
    assert len(said) == 1 and said[0].startswith("waiting: nothing on ipc://")
    assert said[0].endswith("no session 'default' of yours runs; running: here (`clcr-stream ps`); give --stream here")


def test_a_sub_whose_condition_nothing_meets_gives_up_too(
    publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = ["sub", "--stream", "here", "--topics", "status", "--count", "1", "--where"]
    assert main([*sub, "state == goodbye", "--timeout", "0.5"]) == 6
    said = capsys.readouterr().err
    assert f"no message on {publisher.endpoint}" in said
    assert "for which --where 'state == goodbye' holds, for 0.5 s" in said
    assert main([*sub, "seq > 0", "--timeout", "20"]) == 0


def test_topics_may_be_separated_by_commas_and_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "--stream", "nobody", "--topics", "status, prediction", "--timeout", "0.1"]) == 6
    assert main(["sub", "--topics", "status, mood"]) == 2
    assert "--topics 'status, mood': allowed are session, prediction" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_a_sub_whose_reader_has_stopped_reading(publisher: Publisher) -> None:
    """The first one is noted; the process cannot look at it while it waits for room in the pipe."""
    flags = ["--stream", "here", "--topics", "status", "--json"]
    command = [sys.executable, "-m", "clcr_stream", "sub", publisher.endpoint, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        try:
            assert eventually(partial(_waits_to_write, process.pid), 30)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == -signal.SIGINT
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()  # type: ignore[union-attr]


def _waits_to_write(pid: int) -> bool:
    """Its main thread waits in a system call on its standard output: the pipe has no room."""
    call = Path(f"/proc/{pid}/syscall").read_text(encoding="ascii").split()
    return call[1:2] == ["0x1"]
