"""Which streams a watcher reads: those given, and the user's running sessions as they come and go."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from clcr_stream.errors import ConfigError
from clcr_stream.wire.endpoint import running_streams
from clcr_stream.wire.keys import CurveServer
from clcr_stream.wire.publisher import Publisher, PublishOptions
from clcr_stream.wire.watcher import Place, Watcher, place_of
from curve_keys import write_keys
from media import eventually
from wire_messages import prediction, session, status


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def publisher(stream: str) -> Publisher:
    return Publisher(PublishOptions(stream=stream, heartbeat_ms=50), lambda: status(stream))


def names(watcher: Watcher) -> list[str]:
    return [name for name in watcher.streams if name.startswith("test-")]  # /tmp may hold a session of somebody's


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("left", Place("left")),
        ("ipc:///run/user/7/clcr-stream/left.sock", Place("left", "ipc:///run/user/7/clcr-stream/left.sock")),
        ("ipc:///tmp/s", Place("default", "ipc:///tmp/s")),
        ("tcp://127.0.0.1:5556", Place("default", "tcp://127.0.0.1:5556")),
        ("robot=tcp://10.0.0.7:5556", Place("robot", "tcp://10.0.0.7:5556")),
    ],
)
def test_a_stream_is_named_by_its_name_its_endpoint_or_both(text: str, place: Place) -> None:
    assert place_of(text) == place


@pytest.mark.parametrize("text", ["http://x", "ipc://", "a b", "", "x=y=z", "tcp://1\n", "../left"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed are a stream's NAME"):
        place_of(text)


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="NAME=ENDPOINT"):
        Watcher([Place("a"), Place("a", "tcp://127.0.0.1:1")])


def test_only_a_session_that_runs_is_found(tmp_path: Path) -> None:
    with publisher("test-here"):
        gone = tmp_path / "clcr-stream/test-gone.sock"
        gone.touch()
        dead = subprocess.Popen(["true"])
        dead.wait()
        gone.with_name("test-gone.sock.lock").write_text(f"{dead.pid}\n")
        (tmp_path / "clcr-stream/test-odd.sock").touch()
        (tmp_path / "clcr-stream/test-odd.sock.lock").write_text("me\n")
        assert [name for name in running_streams() if name.startswith("test-")] == ["test-here"]
        (tmp_path / "clcr-stream").chmod(0o755)
        assert [name for name in running_streams() if name.startswith("test-")] == [], "others could have put it there"


def test_a_session_that_comes_later_is_found_and_a_new_run_of_it_is_read() -> None:
    with Watcher() as watcher:
        watcher.turn(0)
        assert names(watcher) == []
        for run in ("a" * 16, "b" * 16):
            with publisher("test-here") as found:
                found.publish(session("test-here", run))
                found.publish(prediction(5, stream="test-here", run=run))

                def read(run: str = run) -> bool:
                    watcher.turn(time.monotonic_ns())
                    known = watcher.streams.get("test-here")
                    return known is not None and known.prediction is not None and known.prediction.session == run

                assert eventually(read, 30)
        assert names(watcher) == ["test-here"]


def test_a_session_that_now_runs_in_another_folder_is_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr("clcr_stream.wire.endpoint.default_folders", lambda: folders)
    with Watcher() as watcher:
        for number, folder in enumerate(folders):
            folder.mkdir(mode=0o700)
            options = PublishOptions(stream="test-here", endpoint=f"ipc://{folder}/test-here.sock", heartbeat_ms=50)
            with Publisher(options, lambda: status("test-here")) as found:
                run = "ab"[number] * 16
                found.publish(prediction(5 + number, stream="test-here", run=run))

                def read(run: str = run) -> bool:
                    watcher.turn(time.monotonic_ns())
                    known = watcher.streams.get("test-here")
                    return known is not None and known.prediction is not None and known.prediction.session == run

                assert eventually(read, 30)
        assert [moment.seq for moment in watcher.streams["test-here"].moments] == [5, 6]
        assert watcher.streams["test-here"].where == f"ipc://{folders[1]}/test-here.sock"


def test_a_stream_that_refuses_our_key_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    curve = CurveServer(write_keys(tmp_path) / "server.key_secret", tmp_path / "allowed")
    options = PublishOptions(stream="far", endpoint="tcp://127.0.0.1:*", heartbeat_ms=50, curve=curve)
    with Publisher(options, lambda: status("far")) as found, Watcher([Place("far", found.endpoint)]) as watcher:

        def said() -> bool:
            watcher.turn(time.monotonic_ns())
            return "refuses readers without a key" in watcher.streams["far"].waiting(time.monotonic_ns())

        assert eventually(said, 30)


def test_a_name_that_is_not_there_is_waited_for_and_says_where() -> None:
    with Watcher([Place("test-later")]) as watcher:
        assert not watcher.turn(0)
        assert f"{os.environ['XDG_RUNTIME_DIR']}/clcr-stream/test-later.sock" in (
            watcher.streams["test-later"].waiting(0)
        )
        with publisher("test-later"):
            assert eventually(lambda: watcher.turn(time.monotonic_ns()), 30)
