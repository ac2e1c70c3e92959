"""Each example with the real counterpart: a publisher, a broker, a compiler, a browser."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fake_ros2
from browser import Browser, chromium
from clcr_stream.dashboard.server import Dashboard
from clcr_stream.wire.messages import Face, Prediction
from clcr_stream.wire.publisher import Publisher, PublishOptions
from clcr_stream.wire.watcher import Place, Watcher
from media import eventually
from wire_messages import prediction, session, status, words

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANGER = {"neutral": 0.125, "anger": 0.875}
FACE = Face(box=(0.6, 0.4, 0.2, 0.2), track=1, size=0.2, seen=1)


class Talking:
    """A session that publishes predictions ten times a second, changed by `change`."""

    def __init__(self, endpoint: str, change: Callable[[Prediction], Prediction] = lambda made: made) -> None:
        self.change = change
        self._publisher = Publisher(PublishOptions(endpoint=endpoint), lambda: status(state="running"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._publisher.publish(session(labels=tuple(ANGER)))
        self._thread.start()

    def _talk(self) -> None:
        seq = 0
        while not self._stop.wait(0.1):
            seq += 1
            fresh = msgspec.structs.replace(prediction(seq, ANGER), published_ns=time.monotonic_ns(), face=FACE)
            self._publisher.publish(self.change(fresh))
            now_ns = time.monotonic_ns()
            self._publisher.publish(words("hello there", str(seq), seq=seq, published_ns=now_ns, final=True))

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


@contextlib.contextmanager
def started(*command: str) -> Iterator[list[str]]:
    """The lines that a program prints, as they come; it is ended at the end."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout

        def read() -> None:
            for line in output:
                lines.append(line.rstrip())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield lines
        finally:
            process.kill()
            process.wait()
            reader.join()


def has(lines: list[str], start: str) -> Callable[[], bool]:
    return lambda: any(line.startswith(start) for line in lines)


def test_an_asyncio_program_reads_words_and_predictions_beside_its_work(endpoint: str) -> None:
    with Talking(endpoint), started(sys.executable, str(EXAMPLES / "asyncio_reader.py"), endpoint) as lines:
        for start in ("anger 0.88", "said: 'hello there'", "still here"):
            assert eventually(has(lines, start), 30), lines


def test_a_head_moves_only_for_a_fresh_confident_undegraded_prediction(endpoint: str) -> None:
    def with_(**changes: Any) -> Callable[[Prediction], Prediction]:
        return lambda made: msgspec.structs.replace(made, **changes)

    def old(made: Prediction) -> Prediction:
        return msgspec.structs.replace(made, published_ns=made.published_ns - 10**9)

    with (
        Talking(endpoint) as session_,
        started(sys.executable, str(EXAMPLES / "pan_tilt.py"), endpoint) as lines,
    ):
        assert eventually(has(lines, "move pan +3.6 tilt +0.0"), 30), lines
        for change, why in (
            (with_(confidence=0.4), "hold: not confident"),
            (with_(degraded=("no_face", "language_absent")), "hold: degraded: no_face"),
            (with_(face=None), "hold: no face"),
            (old, "hold: 1"),
            (with_(boot_id="another"), "hold: another host"),
        ):
            session_.change = change
            assert eventually(has(lines, why), 30), (why, lines)
            at = len(lines)
            assert eventually(lambda at=at: len(lines) > at + 3, 30)  # type: ignore[misc]
            assert not [line for line in lines[at:] if line.startswith("move")], why
        session_.change = with_(degraded=("language_absent",))
        at = len(lines)
        assert eventually(lambda: any(line.startswith("move") for line in lines[at:]), 30)
    assert all(-60 <= float(line.split()[2]) <= 60 for line in lines if line.startswith("move"))


def test_a_ros_node_passes_on_what_may_be_acted_on_and_says_whether_the_session_runs(endpoint: str) -> None:
    """Against a stand-in for rclpy: ROS 2 cannot be installed here."""
    node = (str(EXAMPLES / "ros2_node.py"), "--ros-args", "-p", f"endpoint:={endpoint}")
    with started(sys.executable, fake_ros2.__file__, *node) as lines:
        assert eventually(has(lines, "~/available False"), 30), lines
        with Talking(endpoint) as session_:
            for start in ("~/available True", "~/expression anger", "~/confidence 0.875", "~/words hello there"):
                assert eventually(has(lines, start), 30), (start, lines)
            session_.change = lambda made: msgspec.structs.replace(made, degraded=("no_face",))
            assert eventually(lambda: any("no_face" in line for line in lines), 30), lines[-5:]
            at = len(lines)
            assert eventually(lambda: len(lines) > at + 5, 30)
            assert not [line for line in lines[at:] if line.startswith(("~/expression", "~/confidence"))]
            told = [line for line in lines[at:] if line.startswith("~/prediction")]
            assert json.loads(told[0].removeprefix("~/prediction "))["degraded"] == ["no_face"]
        assert eventually(lambda: has(lines[at:], "~/available False")(), 30), lines[-5:]


@pytest.mark.skipif(shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None, reason="no mosquitto")
def test_home_assistant_finds_a_session_on_a_real_broker_and_sees_it_go(endpoint: str, tmp_path: Path) -> None:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "broker").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    got: dict[str, list[str]] = {}
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin") or "mosquitto"
    bridge = (sys.executable, str(EXAMPLES / "mqtt_bridge.py"), "--port", str(port), "--endpoint", endpoint)
    with started(program, "-c", str(tmp_path / "broker")), contextlib.ExitStack() as stack:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda _client, _data, message: got.setdefault(message.topic, []).append(
            message.payload.decode()
        )
        client.on_connect = lambda made, *_: made.subscribe([("clcr/#", 1), ("homeassistant/#", 1)])

        def connected() -> bool:
            with contextlib.suppress(OSError):
                client.connect("127.0.0.1", port)
                return True
            return False

        assert eventually(connected, 30)
        client.loop_start()
        stack.callback(client.loop_stop)
        stack.callback(client.disconnect)
        with Talking(endpoint), started(*bridge) as lines:
            # Retained messages come in the broker's order, others as they are sent.
            named = "homeassistant/sensor/clcr_default/expression/config"
            assert eventually(lambda: {"clcr/default/state", named} <= got.keys(), 30), lines
            state = json.loads(got["clcr/default/state"][0])
            assert (state["label"], state["confidence"]) == ("anger", 0.875)
            config = json.loads(got[named][0])
            assert eventually(lambda: {config["state_topic"], config["availability_topic"]} <= got.keys(), 30), lines
            assert eventually(lambda: got[config["availability_topic"]][-1] == "online", 30), lines
            assert config["state_topic"] in got and got[config["availability_topic"]][-1] == "online"
        # The bridge was killed: the broker says it, as its last will.
        assert eventually(lambda: got["clcr/default/available"][-1] == "offline", 30), got
        assert not any("hello" in text for texts in got.values() for text in texts)


def test_the_bridge_waits_for_a_broker_that_is_not_there_yet(endpoint: str) -> None:
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        port = str(broker.getsockname()[1])
        with started(sys.executable, str(EXAMPLES / "mqtt_bridge.py"), "--port", port, "--endpoint", endpoint) as lines:
            assert eventually(has(lines, f"no broker at 127.0.0.1:{port}; trying again"), 30), lines
            broker.listen()
            broker.settimeout(60)
            connection, _ = broker.accept()
            with connection:
                connection.settimeout(60)
                assert connection.recv(1) == b"\x10", "MQTT's CONNECT"
        assert not any("Traceback" in line for line in lines)


@pytest.mark.skipif(
    shutil.which("g++") is None or not Path("/usr/include/zmq.hpp").exists(), reason="no g++ or no cppzmq"
)
def test_the_c_program_is_compiled_without_a_warning_and_reads_predictions(endpoint: str, tmp_path: Path) -> None:
    program = tmp_path / "subscribe"
    flags = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["g++", *flags, "-o", program, EXAMPLES / "subscribe.cpp", "-lzmq"], check=True, timeout=120)
    with Talking(endpoint):
        done = subprocess.run([program, endpoint, "default", "3"], capture_output=True, text=True, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 3
    assert all(int(line[0]) > 0 and line[1:] == ["anger", "0.875"] for line in lines)
    usage = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert usage.returncode == 2 and usage.stderr.startswith("usage")


@pytest.mark.skipif(chromium() is None, reason="no chromium")
def test_a_page_s_console_reads_predictions_over_the_dashboard_s_socket(endpoint: str, tmp_path: Path) -> None:
    with (
        Talking(endpoint),
        Watcher([Place("default", endpoint)]) as watcher,
        Dashboard(watcher) as dashboard,
        Browser(tmp_path) as page,
    ):
        page.open(dashboard.url)
        page.eventually("document.title !== '' && sessionStorage.getItem('clcr-stream-token') !== null")
        page.ask((EXAMPLES / "browser.js").read_text(encoding="utf-8"))
        page.ask("window.seen = []; window.stop = watchPredictions('default', (p) => seen.push(p)); null")
        assert page.eventually("seen.length >= 5")
        assert page.ask("[seen[1].label, seen[1].confidence, seen[1].seq < seen[4].seq]") == ["anger", 0.875, True]
        page.ask("stop(); null")
        assert page.logs == []
