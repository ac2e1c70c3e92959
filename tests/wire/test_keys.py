"""CURVE keys: files of their owner alone, who may read, and what becomes of a reader whose key is revoked."""

from __future__ import annotations

import contextlib
import json
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.cli.main import main
from clcr_stream.clock import read_boot_id
from clcr_stream.errors import ConfigError
from clcr_stream.streams.account import Account
from clcr_stream.streams.reports import Header, make_status
from clcr_stream.wire.client import Subscriber
from clcr_stream.wire.keys import (
    CurveClient,
    CurveServer,
    KeyFolder,
    allowed_keys,
    default_keys_folder,
    public_key,
    reader_keys,
    secret_key,
    signature_of,
)
from clcr_stream.wire.messages import Status
from clcr_stream.wire.publisher import Publisher, PublishOptions
from media import eventually

PATIENCE_MS = 30_000


def a_status() -> Status:
    return make_status(Account(), (), Header("default", "0" * 16, read_boot_id(), 1), 1.0)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "clcr-stream" / "keys"


@pytest.fixture
def keys() -> KeyFolder:
    """Our own server, and two readers of whom both may read."""
    folder = KeyFolder(default_keys_folder())
    for name in ("server", "robot", "tablet"):
        folder.new(name)
    for name in ("robot", "tablet"):
        folder.allow(name)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_for_their_owner_alone_whatever_the_umask_and_never_written_over(own_folder: Path) -> None:
    folder = KeyFolder(own_folder)
    key = folder.new("server")
    assert {mode(path) for path in own_folder.iterdir() if path.is_file()} == {0o600}
    assert mode(own_folder) == mode(own_folder / "allowed") == 0o700
    assert sorted(path.name for path in own_folder.iterdir()) == ["allowed", "server.key", "server.key_secret"]
    assert public_key("server") == public_key(own_folder / "server.key") == public_key(key.public) == key.public
    assert len(secret_key(own_folder / "server.key_secret")) == 40
    before = (own_folder / "server.key_secret").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        folder.new("server")
    assert (own_folder / "server.key_secret").read_bytes() == before


def test_a_reader_s_keys_come_from_names_files_or_the_text_of_the_publisher_s(keys: KeyFolder) -> None:
    by_name = reader_keys(CurveClient("robot", "server"))
    by_file = reader_keys(CurveClient(keys.folder / "robot.key_secret", keys.folder / "server.key"))
    by_text = reader_keys(CurveClient("robot", public_key("server")))
    assert by_name == by_file == by_text
    with pytest.raises(ConfigError, match="holds no secret key"):
        reader_keys(CurveClient(keys.folder / "robot.key", "server"))


@given(st.text(max_size=60))
def test_whatever_is_given_as_a_public_key_is_one_or_is_refused_in_one_line(text: str) -> None:
    try:
        assert len(public_key(text)) == 40
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        'metadata\ncurve\n    public-key "without its sign"\n',
        'metadata\ncurve\n    public-key = ""\n    secret-key\n',
        f'metadata\ncurve\n    public-key = "{"#" * 40}"\n',  # its digits are larger than 32 bytes
        "",
    ],
)
def test_a_damaged_key_among_those_allowed_admits_nobody_and_does_not_end_the_publisher(
    keys: KeyFolder, text: str
) -> None:
    (keys.allowed_folder / "damaged.key").write_text(text)
    with pytest.raises(ConfigError, match="not a CURVE certificate"):
        public_key(keys.allowed_folder / "damaged.key")
    assert len(allowed_keys(keys.allowed_folder)) == 2
    server = CurveServer(keys.folder / "server.key_secret", keys.allowed_folder)
    with Publisher(PublishOptions(endpoint="tcp://127.0.0.1:*", curve=server), a_status) as publisher:
        with Subscriber(publisher.endpoint, topics=("status",), curve=CurveClient("robot", "server")) as reader:
            assert reader.receive(PATIENCE_MS) is not None


def test_who_may_read_is_listed_named_once_and_revoked_by_any_of_its_names(
    keys: KeyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = KeyFolder(tmp_path / "other").new("phone")
    assert main(["keys", "allow", other.public, "--name", "phone"]) == 0
    assert main(["keys", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [key["name"] for key in listed["allowed"]] == ["phone", "robot", "tablet"]
    assert [key["name"] for key in listed["own"]] == ["robot", "server", "tablet"]
    for wrong, why in (
        (["allow", other.public], "needs a name: --name WHO"),
        (["allow", other.public, "--name", "again"], "phone has this key and may read already"),
        (["allow", public_key("server"), "--name", "phone"], "phone is allowed with another key"),
        (["allow", "server", "--name", "../up"], "a name is 1 to 64 letters"),
        (["allow", "nobody"], "no public key; allowed are a .key file"),
        (["revoke", "server"], "may not read anyway; allowed here: phone, robot, tablet"),
        (["new"], "keys new takes a WHAT"),
        (["list", "all"], "keys list takes nothing"),
        (["list", "--name", "x"], "--name goes with `keys allow` only"),
    ):
        assert main(["keys", *wrong]) == 2
        assert why in capsys.readouterr().err
    for what in ("tablet", str(tmp_path / "other" / "phone.key"), public_key("robot")):
        assert main(["keys", "revoke", what]) == 0
    assert keys.allowed() == []


def test_the_signature_of_an_allow_list_changes_with_each_key_and_not_by_itself(keys: KeyFolder) -> None:
    seen = [signature_of(keys.allowed_folder)]
    keys.revoke("tablet")
    seen.append(signature_of(keys.allowed_folder))
    keys.allow("tablet")
    seen.append(signature_of(keys.allowed_folder))
    assert seen[0] != seen[1] != seen[2] and seen[2] == signature_of(keys.allowed_folder)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_connected_reader_whose_key_is_revoked_is_cut_off_and_the_others_go_on(
    keys: KeyFolder, tmp_path: Path, transport: str
) -> None:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/s"
    curve = CurveServer(keys.folder / "server.key_secret", keys.allowed_folder)
    options = PublishOptions(endpoint=endpoint, curve=curve, heartbeat_ms=20)
    beats: list[Status] = []

    def client(name: str) -> Subscriber:
        return Subscriber(publisher.endpoint, topics=("status",), curve=CurveClient(name, "server"))

    with Publisher(options, a_status, beats.append) as publisher, client("robot") as robot, client("tablet") as tablet:
        assert robot.receive(PATIENCE_MS) and tablet.receive(PATIENCE_MS)
        keys.revoke("tablet")
        assert eventually(lambda: bool(beats) and beats[-1].refused_peers > 0, 30)
        while tablet.receive(0) is not None:
            pass
        last = beats[-1].seq
        received = robot.receive(PATIENCE_MS)
        while received is not None and received.message.seq <= last:
            received = robot.receive(PATIENCE_MS)
        assert received is not None, "the other reader goes on"
        assert tablet.receive(200) is None
        keys.allow("tablet")
        assert eventually(lambda: tablet.receive(0) is not None, 30), "and comes back when it is allowed again"
    assert msgspec.structs.asdict(beats[-1])["refused_peers"] >= 1


def test_the_documented_commands_open_an_endpoint_until_the_key_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/wire.md shows them, with a session in a process of its own."""
    for line in ("new server", "new reader", "allow reader"):
        assert main(["keys", *line.split()]) == 0
    bind = ["--bind", "tcp://127.0.0.1:*", "--curve-secret", "server"]
    command = [sys.executable, "-m", "clcr_stream", *bind, "--input", "test://", "--transcript", "none"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as session,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(session.kill)
        patience = threading.Timer(120, session.kill)
        patience.start()
        assert session.stderr is not None
        endpoint = re.search(r"tcp://127\.0\.0\.1:\d+", session.stderr.readline())
        assert endpoint is not None
        read = ["sub", endpoint[0], "--curve-secret", "reader", "--curve-server", "server", "--json", "--count", "1"]
        capsys.readouterr()
        assert main([*read, "--timeout", "60"]) == 0
        assert json.loads(capsys.readouterr().out)["stream"] == "default"
        assert main(["keys", "list"]) == 0
        assert re.search(r"^allowed +reader +\S{40}$", capsys.readouterr().out, re.MULTILINE)
        assert main(["keys", "revoke", "reader"]) == 0
        assert main([*read, "--timeout", "1"]) == 6
        patience.cancel()
