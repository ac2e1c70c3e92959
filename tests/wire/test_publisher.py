"""The publisher: last values, order, exclusive endpoints, readers that cannot delay it. All over real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import pytest
import zmq
import zmq.auth

from clcr_stream.errors import PublishError
from clcr_stream.wire import messages
from clcr_stream.wire.keys import CurveServer
from clcr_stream.wire.messages import Message, Prediction, Status, Transcript, decode, split
from clcr_stream.wire.publisher import Publisher, PublishOptions
from crowd import slowdown
from media import eventually

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire"
HOP_MS = 200
PATIENCE_MS = 20_000


def golden(kind: messages.Kind, seq: int) -> Message:
    return msgspec.structs.replace(
        decode((GOLDEN / f"{kind}.json").read_bytes()), seq=seq, published_ns=time.monotonic_ns()
    )


def prediction(seq: int) -> Prediction:
    message = golden("prediction", seq)
    assert isinstance(message, Prediction)
    return message


def status() -> Status:
    message = golden("status", 0)
    assert isinstance(message, Status)
    return msgspec.structs.replace(message, state="running")


@contextmanager
def publishing(tmp_path: Path, **options: object) -> Iterator[Publisher]:
    """A publisher on an ipc socket of the test's own, with no periodic heartbeat unless asked."""
    settings = {"endpoint": f"ipc://{tmp_path}/s", "heartbeat_ms": 3_600_000, **options}
    with Publisher(PublishOptions(**settings), status) as publisher:  # type: ignore[arg-type]
        yield publisher


@contextmanager
def reading(
    endpoint: str, prefix: bytes, setup: Callable[[zmq.Socket[bytes]], None] = lambda socket: None
) -> Iterator[zmq.Socket[bytes]]:
    """A plain SUB, as anybody might write it."""
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        reader.linger = 0
        reader.rcvtimeo = PATIENCE_MS
        setup(reader)
        reader.subscribe(prefix)
        reader.connect(endpoint)
        yield reader


def read(reader: zmq.Socket[bytes]) -> Message:
    return decode(split(reader.recv())[1])


def run_reader(endpoint: str, work_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "examples" / "subscribe.py"), endpoint, "default", str(work_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def stop_reader(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_late_joiner_gets_the_last_session_status_and_prediction_once_each_and_no_transcript(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        publisher.publish(golden("session", 0))
        publisher.publish(golden("transcript", 0))
        publisher.publish(status())
        for seq in (1, 2, 5):
            publisher.publish(prediction(seq))
        with reading(publisher.endpoint, b"clcr/default/prediction ") as observer:
            while read(observer).seq < 5:  # frames are sent in order: from here on all of them have been
                pass
        with reading(publisher.endpoint, b"clcr/default/") as reader:
            first = [read(reader) for _ in range(3)]
            publisher.publish(prediction(6))
            after = read(reader)
    assert sorted((messages.kind_of(message), message.seq) for message in first) == [
        ("prediction", 5),
        ("session", 1),
        ("status", 1),
    ]
    assert messages.kind_of(first[0]) == "session"  # it says what the others mean
    assert (messages.kind_of(after), after.seq) == ("prediction", 6)


def test_a_late_joiner_never_gets_anything_older_than_what_others_had_before_it_came(tmp_path: Path) -> None:
    running = threading.Event()
    running.set()
    with publishing(tmp_path) as publisher:

        def publish() -> None:
            while running.is_set():
                publisher.publish(prediction(0))

        publish_thread = threading.Thread(target=publish)
        publish_thread.start()
        try:
            for _ in range(30):
                with reading(publisher.endpoint, b"clcr/default/prediction ") as observer:
                    before = read(observer).seq
                with reading(publisher.endpoint, b"clcr/default/prediction ") as reader:
                    seqs = [read(reader).seq for _ in range(10)]
                assert seqs[0] >= before
                assert seqs == sorted(seqs)
        finally:
            running.clear()
            publish_thread.join()


def test_a_late_joiner_has_a_prediction_within_50_ms_of_connecting(tmp_path: Path) -> None:
    waits_ms = []
    with publishing(tmp_path) as publisher:
        publisher.publish(prediction(1))
        for _ in range(20):
            started_ns = time.monotonic_ns()
            with reading(publisher.endpoint, b"clcr/default/prediction ") as reader:
                assert read(reader).seq == 1
                waits_ms.append((time.monotonic_ns() - started_ns) / 1e6)
    # The median: a busy machine may hold up any one of them. Connecting is included.
    assert sorted(waits_ms)[10] <= 50 * slowdown(), waits_ms


@pytest.mark.parametrize("period_ms", [50, 200])
def test_a_slow_reader_in_another_process_never_reads_what_is_older_than_a_hop(tmp_path: Path, period_ms: int) -> None:
    """examples/subscribe.py works 300 ms on each message; the publisher sends every 50 or 200 ms."""
    stop = threading.Event()
    lines: list[str] = []
    with publishing(tmp_path) as publisher:
        process = run_reader(publisher.endpoint, 0.3)
        assert process.stdout is not None

        def publish() -> None:
            seq = 0
            while not stop.wait(period_ms / 1000):
                seq += 1
                publisher.publish(prediction(seq))

        publish_thread = threading.Thread(target=publish)
        publish_thread.start()
        try:
            lines = [process.stdout.readline() for _ in range(10)]
        finally:
            stop.set()
            publish_thread.join()
            stop_reader(process)
    seqs = [int(line.split()[0]) for line in lines]
    ages_ms = [float(line.split()[-2]) for line in lines]
    assert seqs == sorted(set(seqs)) and seqs[-1] - seqs[0] > 10 * 300 // period_ms // 2
    # A starved publisher thread makes gaps that are not the reader's: all but one of ten within the bound.
    assert sorted(ages_ms)[-2] <= HOP_MS + 50 * slowdown(), ages_ms


def test_stopped_readers_do_not_delay_the_publisher(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        processes = [run_reader(publisher.endpoint, 0) for _ in range(2)]
        try:
            publisher.publish(prediction(1))
            for process in processes:
                assert process.stdout is not None and process.stdout.readline().startswith("1 ")
                process.send_signal(signal.SIGSTOP)
            with reading(publisher.endpoint, b"clcr/default/prediction ") as reader:
                assert read(reader).seq == 1
                hand_over_ms, arrival_ms = [], []
                for seq in range(2, 2002):  # 2000 x 1.4 kB: far beyond the stopped readers' queues and kernel buffers
                    message = prediction(seq)
                    started_ns = time.monotonic_ns()
                    publisher.publish(message)
                    hand_over_ms.append((time.monotonic_ns() - started_ns) / 1e6)
                    assert read(reader).seq == seq
                    arrival_ms.append((time.monotonic_ns() - started_ns) / 1e6)
        finally:
            for process in processes:
                stop_reader(process)
    assert publisher.dropped == 0
    # The median: whoever waited for the stopped readers would do so for most messages, a busy machine for some.
    assert median(hand_over_ms) <= 5 * slowdown() and median(arrival_ms) <= 25 * slowdown()


def test_seq_is_given_when_zero_kept_when_higher_and_refused_when_not(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        assert publisher.publish(prediction(0)).seq == 1
        assert publisher.publish(prediction(7)).seq == 7
        assert publisher.publish(prediction(0)).seq == 8
        for seq in (8, 3):
            with pytest.raises(PublishError, match=f"prediction seq {seq} after 8"):
                publisher.publish(prediction(seq))
        with pytest.raises(PublishError, match="cannot be sent"):
            publisher.publish(msgspec.structs.replace(prediction(9), backend=3))
        assert publisher.publish(prediction(0)).seq == 9, "a refused message must not use up a number"


def test_heartbeats_come_by_themselves_and_the_last_word_is_goodbye(tmp_path: Path) -> None:
    with (
        publishing(tmp_path, heartbeat_ms=20) as publisher,
        reading(publisher.endpoint, b"clcr/default/status ") as reader,
    ):
        beats = [read(reader) for _ in range(3)]
        publisher.close()
        while isinstance(last := read(reader), Status) and last.state != "goodbye":
            beats.append(last)
    seqs = [beat.seq for beat in [*beats, last]]
    assert seqs == sorted(seqs) and seqs[-1] >= 3
    assert all(isinstance(beat, Status) and beat.state == "running" for beat in beats)
    assert isinstance(beats[-1], Status) and beats[-1].subscribers == 1


def test_a_heartbeat_that_fails_is_told_by_publish_and_close(tmp_path: Path) -> None:
    def broken() -> Status:
        raise ZeroDivisionError("no account")

    publisher = Publisher(PublishOptions(endpoint=f"ipc://{tmp_path}/s", heartbeat_ms=1), broken)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "clcr-publisher")
    thread.join(PATIENCE_MS / 1000)
    with pytest.raises(PublishError, match="no account"):
        publisher.publish(prediction(1))
    with pytest.raises(PublishError, match="no account"):
        publisher.close()


def test_closing_is_quick_even_with_a_stopped_reader_and_frees_the_endpoint(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        process = run_reader(publisher.endpoint, 0)
        try:
            publisher.publish(prediction(1))
            assert process.stdout is not None and process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            for seq in range(2, 1000):
                publisher.publish(prediction(seq))
            started_ns = time.monotonic_ns()
            publisher.close()
            assert (time.monotonic_ns() - started_ns) / 1e9 < 2
        finally:
            stop_reader(process)
    with publishing(tmp_path), pytest.raises(PublishError, match="not publishing any more: closed"):
        publisher.publish(prediction(1001))


def test_a_second_publisher_is_refused_and_the_first_keeps_its_readers(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        with pytest.raises(PublishError, match=f"in use by process {os.getpid()}"), publishing(tmp_path):
            pass
        publisher.publish(prediction(1))
        with reading(publisher.endpoint, b"clcr/default/prediction ") as reader:
            assert read(reader).seq == 1


def test_a_stale_lock_and_socket_of_a_dead_publisher_are_no_obstacle(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from clcr_stream.wire.publisher import Publisher, PublishOptions;"
        "Publisher(PublishOptions(endpoint=sys.argv[1]), lambda: None); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, f"ipc://{tmp_path}/s"]
    died = subprocess.run(command, env={"PYTHONPATH": str(ROOT / "runtime")}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "s").exists() and (tmp_path / "s.lock").exists()
    with publishing(tmp_path) as publisher:
        publisher.publish(prediction(1))
        with reading(publisher.endpoint, b"clcr/default/prediction ") as reader:
            assert read(reader).seq == 1


BLOCKING = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE]);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("blocked", [False, True])
def test_the_example_ends_without_a_word_when_its_reader_has_seen_enough(tmp_path: Path, blocked: bool) -> None:
    """Also for a caller that blocks SIGPIPE, which a program inherits: then a write raises BrokenPipeError instead."""
    with publishing(tmp_path) as publisher:
        code = f"{sys.executable} {ROOT / 'examples' / 'subscribe.py'} {publisher.endpoint} | head -n 2"
        command = ["bash", "-c", code]
        if blocked:
            command = [sys.executable, "-c", BLOCKING, *command]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            seq = 0
            while process.poll() is None:
                seq += 1
                publisher.publish(prediction(seq))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.01)
            shown, errors = process.communicate()
    assert len(shown.splitlines()) == 2 and errors == ""


def test_an_orderly_end_leaves_neither_socket_nor_lock_and_frees_the_endpoint(tmp_path: Path) -> None:
    for _ in range(2):
        with publishing(tmp_path):
            assert {path.name for path in tmp_path.iterdir()} == {"s", "s.lock"}
        assert list(tmp_path.iterdir()) == []


def test_a_tcp_port_in_use_is_a_publish_error_with_exit_code_6() -> None:
    options = PublishOptions(endpoint="tcp://127.0.0.1:*")
    with Publisher(options, status) as publisher:
        with pytest.raises(PublishError, match="cannot be bound: Address already in use") as caught:
            Publisher(PublishOptions(endpoint=publisher.endpoint), status)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("endpoint", ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://eth0:5555"])
def test_tcp_off_loopback_is_refused_without_curve(endpoint: str) -> None:
    with pytest.raises(PublishError, match=r"off loopback only with CURVE .* `clcr-stream keys new server`"):
        Publisher(PublishOptions(endpoint=endpoint), status)


@pytest.mark.parametrize("endpoint", ["5555", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "ipc://@x", "inproc://x"])
def test_an_endpoint_that_is_not_understood_is_refused(endpoint: str) -> None:
    with pytest.raises(PublishError, match="not understood"):
        Publisher(PublishOptions(endpoint=endpoint), status)


def test_by_default_the_socket_is_private_and_no_port_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Publisher(PublishOptions(stream="robot-1"), status) as publisher:
        path = tmp_path / "clcr-stream" / "robot-1.sock"
        assert publisher.endpoint == f"ipc://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_only_a_reader_whose_key_is_allowed_gets_data_over_curve(tmp_path: Path) -> None:
    names = ("server", "friend", "stranger")
    certificates = {name: zmq.auth.create_certificates(tmp_path, name) for name in names}
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "friend.key").write_bytes(Path(certificates["friend"][0]).read_bytes())
    (allowed / "noise.key").write_bytes(b"not a certificate")
    server_key, _ = zmq.auth.load_certificate(certificates["server"][0])
    secret = Path(certificates["server"][1])
    secret.chmod(0o600)

    def keys(name: str) -> Callable[[zmq.Socket[bytes]], None]:
        def setup(reader: zmq.Socket[bytes]) -> None:
            reader.curve_publickey, reader.curve_secretkey = zmq.auth.load_certificate(certificates[name][1])
            reader.curve_serverkey = server_key

        return setup

    options = PublishOptions(endpoint="tcp://127.0.0.1:*", curve=CurveServer(secret, allowed), heartbeat_ms=20)
    topic = b"clcr/default/"
    with Publisher(options, status) as publisher, reading(publisher.endpoint, topic, keys("friend")) as friend:
        with (
            reading(publisher.endpoint, topic, keys("stranger")) as stranger,
            reading(publisher.endpoint, topic) as open_,
        ):
            beat = read(friend)
            while isinstance(beat, Status) and beat.refused_peers < 2:  # both strangers have been turned away
                beat = read(friend)
            for outsider in (stranger, open_):
                assert outsider.poll(0) == 0
        (allowed / "stranger.key").write_bytes(Path(certificates["stranger"][0]).read_bytes())
        with reading(publisher.endpoint, topic, keys("stranger")) as admitted:
            assert isinstance(read(admitted), Status)


def test_a_secret_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    _, secret = zmq.auth.create_certificates(tmp_path, "server")
    Path(secret).chmod(0o644)
    options = PublishOptions(endpoint="tcp://127.0.0.1:*", curve=CurveServer(Path(secret), tmp_path))
    with pytest.raises(PublishError, match="chmod 600"):
        Publisher(options, status)


def test_an_allow_list_that_is_not_there_is_refused_and_not_an_empty_one(tmp_path: Path) -> None:
    _, secret = zmq.auth.create_certificates(tmp_path, "server")
    Path(secret).chmod(0o600)
    options = PublishOptions(endpoint="tcp://127.0.0.1:*", curve=CurveServer(Path(secret), tmp_path / "none"))
    with pytest.raises(PublishError, match="none: not a folder; --curve-clients"):
        Publisher(options, status)


def test_a_message_of_another_stream_is_refused(tmp_path: Path) -> None:
    with publishing(tmp_path, stream="other") as publisher, pytest.raises(PublishError, match="'default'"):
        publisher.publish(prediction(1))


def test_tokens_are_wanted_while_somebody_subscribes_to_exactly_that_topic(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher:
        assert not publisher.wanted("tokens")
        with reading(publisher.endpoint, b"clcr/default/") as everything:
            publisher.beat()
            assert read(everything).seq == 1  # the subscription has arrived
            assert not publisher.wanted("tokens")
        with reading(publisher.endpoint, b"clcr/default/tokens "):
            assert eventually(lambda: publisher.wanted("tokens"), 30)
            with reading(publisher.endpoint, b"clcr/default/tokens"):
                publisher.beat()
        assert eventually(lambda: not publisher.wanted("tokens"), 30)


def test_transcripts_are_all_delivered_in_order(tmp_path: Path) -> None:
    with publishing(tmp_path) as publisher, reading(publisher.endpoint, b"clcr/default/") as reader:
        publisher.publish(prediction(1))
        assert read(reader).seq == 1
        for _ in range(30):
            publisher.publish(golden("transcript", 0))
        got: list[int] = []
        while len(got) < 30:
            message = read(reader)
            if isinstance(message, Transcript):  # the prediction may come twice, from before and for the joiner
                got.append(message.seq)
    assert got == list(range(1, 31))
