"""The dashboard's server as a browser, another page, and an attacker find it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import clcr_stream
from clcr_stream.cli.main import main
from clcr_stream.dashboard.server import Dashboard, page_files
from clcr_stream.errors import ConfigError
from clcr_stream.sources.health import State
from clcr_stream.wire.publisher import Publisher, PublishOptions
from clcr_stream.wire.watcher import Place, Watcher
from media import eventually
from wire_messages import prediction, session, status

RUNTIME = str(Path(clcr_stream.__file__).parents[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("view")


@pytest.fixture(scope="module")
def publisher(folder: Path) -> Iterator[Publisher]:
    options = PublishOptions(stream="left", endpoint=f"ipc://{folder}/left.sock", heartbeat_ms=100)
    with Publisher(options, lambda: status("left", state="running")) as found:
        found.publish(session("left"))
        found.publish(prediction(5, stream="left"))
        yield found


@pytest.fixture(scope="module")
def dashboard(publisher: Publisher) -> Iterator[Dashboard]:
    with Watcher([Place("left", publisher.endpoint)], kept_s=600.0) as watcher, Dashboard(watcher) as found:
        yield found


def asked(dashboard: Dashboard, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; a header's name with _ for -."""
    link = http.client.HTTPConnection("127.0.0.1", dashboard.guard.port, timeout=30)
    link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    given = {"Host": f"127.0.0.1:{dashboard.guard.port}"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    for name, text in given.items():
        link.putheader(name, text)
    link.endheaders()
    answer = link.getresponse()
    found = answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
    link.close()
    return found


def opened(dashboard: Dashboard, token: str | None = None, **more: Any) -> AbstractContextManager[ClientConnection]:
    query = dashboard.guard.token if token is None else token
    made: AbstractContextManager[ClientConnection] = connect(
        f"ws://127.0.0.1:{dashboard.guard.port}/socket?token={query}", proxy=None, **more
    )
    return made


def heard(web: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    while True:
        message: dict[str, Any] = json.loads(web.recv(timeout=30))
        if message["type"] == kind:
            return message


def test_the_page_and_its_files_come_with_every_header_and_hold_no_token(dashboard: Dashboard) -> None:
    files = page_files()
    assert {"/", "/main.js", "/style.css"} <= files.keys()
    for path, (kind, data) in files.items():
        code, headers, body = asked(dashboard, path)
        assert (code, body) == (200, data)
        assert headers["content-type"].startswith(kind)
        assert headers.items() >= dashboard.guard.headers.items()
        assert "set-cookie" not in headers and "server" not in headers
        assert dashboard.guard.token.encode() not in body


def test_the_page_has_no_inline_script_and_names_no_other_host() -> None:
    files = page_files()
    page = files["/"][1].decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", page)
    for path, (_, data) in files.items():
        hosts = set(re.findall(r"(?:https?|wss?)://([\w.${}-]+)", data.decode())) - {"www.w3.org"}  # a namespace of SVG
        assert hosts <= {"${location.host}"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", data.decode()), path


def test_every_state_of_a_source_has_its_mark_on_the_page() -> None:
    """What has no rule of its own has that of something that is not as it should be, so none can lack one."""
    style = page_files()["/style.css"][1].decode()
    rules = re.findall(r"^(.*\.dot) \{.* background: var\(--(\w+)\)", style, re.MULTILINE)
    colours = {name: colour for names, colour in rules for name in re.findall(r'"(\w+)"', names) or ["any"]}
    assert colours == {"any": "warn", "running": "good", "live": "good", "starting": "soft", "ended": "soft"} | {
        "failed": "bad"
    }
    assert colours.keys() - set(get_args(State)) == {"any", "running"}, "and none is styled that does not exist"


@pytest.mark.parametrize(
    "path", ["/../guard.py", "/%2e%2e/guard.py", "/..%2fguard.py", "/guard.py", "//etc/passwd", "/page", "/static"]
)
def test_nothing_but_the_page_s_files_can_be_asked_for(dashboard: Dashboard, path: str) -> None:
    assert asked(dashboard, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(dashboard: Dashboard, method: str) -> None:
    assert asked(dashboard, "/", method)[0] == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_names_and_other_sites_get_nothing(dashboard: Dashboard, headers: dict[str, str]) -> None:
    for path in ("/", "/main.js", "/export.csv"):
        code, found, body = asked(dashboard, path, Authorization=f"Bearer {dashboard.guard.token}", **headers)
        assert code == 403 and len(body) < 60
        assert "content-security-policy" in found


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", "Basic x"])
def test_an_export_needs_the_token(dashboard: Dashboard, authorization: str) -> None:
    assert asked(dashboard, "/export.csv?stream=left&from_ms=0&to_ms=1", Authorization=authorization)[0] == 401


def test_an_export_is_a_table_and_a_wrong_one_is_told(dashboard: Dashboard) -> None:
    bearer = {"Authorization": f"Bearer {dashboard.guard.token}"}

    def rows() -> int:
        code, headers, body = asked(dashboard, f"/export.csv?stream=left&from_ms=0&to_ms={2**62}", **bearer)
        assert code == 200 and headers["content-type"].startswith("text/csv")
        return len(body.splitlines())

    assert eventually(lambda: rows() == 2, 30)
    assert asked(dashboard, "/export.csv?stream=middle&from_ms=0&to_ms=1", **bearer)[0] == 404
    for query in ("", "?stream=left", "?stream=left&from_ms=x&to_ms=1"):
        assert asked(dashboard, f"/export.csv{query}", **bearer)[0] == 400


def test_a_page_is_told_of_its_stream(dashboard: Dashboard, publisher: Publisher) -> None:
    with opened(dashboard, origin=f"http://127.0.0.1:{dashboard.guard.port}") as web:
        assert heard(web, "streams")["names"] == ["left"]
        web.send(json.dumps({"watch": "left"}))
        assert heard(web, "whole")["stream"] == "left"
        publisher.publish(prediction(70, stream="left"))
        while heard(web, "update").get("prediction", {}).get("seq") != 70:
            pass


@pytest.mark.parametrize(
    "more",
    [
        {"token": ""},
        {"token": "wrong"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
    ],
)
def test_a_socket_without_the_token_or_of_another_site_is_refused(dashboard: Dashboard, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidStatus) as refusal, opened(dashboard, **more):
        pass
    assert refusal.value.response.status_code == 403


def test_a_socket_of_another_name_is_refused(dashboard: Dashboard) -> None:
    url = f"ws://evil.example:{dashboard.guard.port}/socket?token={dashboard.guard.token}"
    link = socket.create_connection(("127.0.0.1", dashboard.guard.port))
    with pytest.raises(InvalidStatus), connect(url, sock=link, proxy=None):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"watch": 7}', '{"watch": "middle"}', "[" * 3000, "x" * 10_000])
def test_what_a_page_never_asks_ends_its_socket_and_nothing_else(dashboard: Dashboard, text: str) -> None:
    with opened(dashboard) as web:
        heard(web, "streams")
        web.send(text)
        with pytest.raises(ConnectionClosed):
            while True:
                web.recv(timeout=30)
    assert asked(dashboard, "/")[0] == 200


def test_it_listens_on_127_0_0_1_alone(dashboard: Dashboard) -> None:
    listening = [one for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert {one.laddr.ip for one in listening if one.laddr.port == dashboard.guard.port} == {"127.0.0.1"}


def test_a_port_in_use_is_one_line(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    port = dashboard.guard.port
    assert main(["view", "--port", str(port)]) == 6
    text = f"clcr-stream: error: --port {port}: in use by another program; pass another one, or 0 for any\n"
    assert capsys.readouterr().err == text


def test_a_reading_that_fails_ends_the_server_and_is_told(publisher: Publisher) -> None:
    class Broken(Watcher):
        def turn(self, *_: Any) -> bool:
            raise ConfigError("the endpoint is gone")

    with Broken([Place("left", publisher.endpoint)]) as watcher, Dashboard(watcher) as found:
        assert found.ended.wait(30)
        assert str(found.failure) == "the endpoint is gone"


def test_wrong_arguments_and_missing_packages_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["--port", "70000"], ["http://x"], ["--port", "x"]):
        assert main(["view", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view"]) == 2
    assert 'pip install "clcr-stream[view]"' in capsys.readouterr().err


def test_the_command_prints_its_url_serves_and_ends_within_seconds_while_pages_are_open(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "clcr_stream", "view", "left"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=([\w-]{32})", url)
        assert found is not None, process.stderr.read()
        with connect(f"ws://127.0.0.1:{found[1]}/socket?token={found[2]}", proxy=None) as web:
            assert heard(web, "streams")["names"] == ["left"]
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert time.monotonic() - began < 10
        assert "Traceback" not in process.stderr.read()
