"""`clcr-stream ps` and `stop`: running sessions by name, and their orderly end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clcr_stream.cli.main import main
from clcr_stream.cli.ps import duration
from clcr_stream.wire.running import running_sessions
from tiny_bundle import write_bundle


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run" / "clcr-stream"


def test_a_session_is_listed_and_stopped_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "bundle")
    streams = [{"name": name, "sources": {"camera": "none", "mic": "test://"}} for name in ("left", "right")]
    (tmp_path / "two.yaml").write_text(json.dumps({"streams": streams, "model": {"bundle": str(tmp_path / "bundle")}}))
    command = [sys.executable, "-m", "clcr_stream", "--config", str(tmp_path / "two.yaml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        patience = threading.Timer(120, process.kill)
        patience.start()
        assert process.stderr is not None
        assert "publishing clcr/left" in process.stderr.readline()
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        assert main(["ps", "--json", "--timeout", "30"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["stream"], row["pid"], set(row["sources"])) for row in rows] == [
            ("left", process.pid, {"synthetic"}),
            ("right", process.pid, {"synthetic"}),
        ]
        assert all(0 < row["running_s"] < 120 and row["state"] in ("starting", "running", "degraded") for row in rows)
        assert main(["ps", "--timeout", "30"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith(f"left   {process.pid}")
        assert main(["stop", "middle"]) == 6
        assert "no session 'middle' of yours runs; running: left, right" in capsys.readouterr().err
        assert main(["stop", "left", "--timeout", "60"]) == 0
        assert f"ended left (process {process.pid}); right of the same process" in capsys.readouterr().err
        assert process.wait(1) == 0
        patience.cancel()
        drain.join()
    assert running_sessions() == []


def test_the_number_of_a_process_that_died_is_no_session(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process may have got it: this one, which has not that lock open."""
    own_folder.mkdir(mode=0o700)
    (own_folder / "default.sock").touch()
    (own_folder / "default.sock.lock").write_text(f"{os.getpid()}\n")
    assert running_sessions() == []
    assert main(["stop"]) == 6
    assert main(["ps"]) == 0
    assert "no session of yours runs" in capsys.readouterr().err


def test_a_time_is_said_in_its_two_largest_units() -> None:
    told = [duration(seconds) for seconds in (-1, 59.9, 200, 7500, 270_000)]
    assert told == ["0 s", "59 s", "3 min 20 s", "2 h 05 min", "3 d 3 h"]
