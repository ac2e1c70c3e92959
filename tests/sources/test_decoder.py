"""Decoders in processes of their own: what they pass on is what the reader reads, and nothing they do hurts anybody."""

from __future__ import annotations

import functools
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.errors import SourceError
from clcr_stream.sources.base import BOTH, Modality
from clcr_stream.sources.decoder import process as decoder_process
from clcr_stream.sources.decoder.child import KEPT_PICTURES, Pictures
from clcr_stream.sources.decoder.process import DecoderProcess, LivePicture, decoder_command
from clcr_stream.sources.decoder.protocol import HEAD, KINDS, PIXELS, SOUND, Request, pack, pixels, read_head
from clcr_stream.sources.media import AudioItem, VideoItem
from clcr_stream.sources.urls import open_url
from media import MediaSpec, eventually, write_media

RATE_HZ = 16_000


class Files(http.server.SimpleHTTPRequestHandler):
    """A folder's files; nobody is told of requests."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def recording_url(tmp_path: Path) -> Iterator[str]:
    """A recording whose URL does not look like one."""
    write_media(tmp_path / "talk.mkv", MediaSpec(seconds=1.0)).rename(tmp_path / "talk")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/talk"
    server.shutdown()
    server.server_close()


def request(url: str, requested: tuple[Modality, ...] = BOTH) -> Request:
    return Request(url, requested, RATE_HZ)


def nothing(_reason: str) -> None:
    """Nobody counts."""


def content(
    items: Iterator[AudioItem | VideoItem | LivePicture],
) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """Pictures and blocks of sound with their times."""
    pictures, blocks = [], []
    for item in items:
        if isinstance(item, AudioItem):
            blocks.append((item.first_sample, item.samples.tobytes()))
        else:
            rgb = item.rgb()
            assert rgb is not None
            pictures.append((item.time_ns, rgb.tobytes()))
    return pictures, blocks


def test_a_recording_comes_through_the_process_as_it_is_and_nothing_stays_behind(recording_url: str) -> None:
    with open_url(recording_url, BOTH, RATE_HZ, nothing) as reader:
        expected = content(reader.items())
    before = psutil.Process().num_fds()
    decoder = DecoderProcess(request(recording_url), threading.Event())
    for _ in range(2):  # one process, two connections
        with decoder.open(nothing) as stream:
            assert stream.modalities == BOTH and stream.recorded
            assert content(stream.items()) == expected
    assert decoder.started == 1
    pid = decoder.pid
    decoder.close()
    assert pid is not None and not psutil.pid_exists(pid)
    assert psutil.Process().num_fds() == before
    assert len(expected[0]) == 30 and len(expected[1]) >= 5


def test_what_arrives_is_stamped_when_it_arrived(recording_url: str) -> None:
    decoder = DecoderProcess(request(recording_url), threading.Event())
    begun_ns = time.monotonic_ns()
    with decoder.open(nothing) as stream:
        stamps = [item.arrived_ns or 0 for item in stream.items()]
    decoder.close()
    assert stamps == sorted(stamps)
    assert begun_ns < stamps[0] <= stamps[-1] < time.monotonic_ns()


def test_a_refused_connection_is_the_reason_and_leaves_the_process_for_the_next_try() -> None:
    decoder = DecoderProcess(request("rtsp://user:secret@127.0.0.1:9/live"), threading.Event())
    for _ in range(2):
        with pytest.raises(SourceError, match="does not answer") as refused:
            decoder.open(nothing)
        assert "secret" not in str(refused.value)
    assert decoder.started == 1 and decoder.pid is not None
    decoder.close()


def test_closing_does_not_wait_for_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        decoder = DecoderProcess(request(f"http://127.0.0.1:{server.getsockname()[1]}/"), stop)

        def refused() -> None:
            with pytest.raises(SourceError, match="closed"):
                decoder.open(nothing)

        opening = threading.Thread(target=refused)
        opening.start()
        connection, _ = server.accept()
        with connection:
            stop.set()
            opening.join(1.5)
            assert not opening.is_alive() and decoder.pid is None


@pytest.mark.parametrize(
    ("program", "reason", "code"),
    [
        ("print('rubbish ' * 100)", "said what no decoder says", "crashed"),
        ("raise SystemExit('no more memory')", r"code 1 \(no more memory\)", "crashed"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11", "crashed"),
        ("import time; time.sleep(60)", "did not answer for 1 s and was ended", "hung"),
    ],
)
def test_a_process_that_is_no_decoder_is_told_and_replaced(
    program: str, reason: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "START_S", 1.0 if "sleep" in program else 30.0)
    commands = [[sys.executable, "-c", program], decoder_command()]
    decoder = DecoderProcess(request("rtsp://127.0.0.1:9/"), threading.Event(), lambda: commands.pop(0))
    with pytest.raises(SourceError, match=reason) as told:
        decoder.open(nothing)
    assert decoder.pid is None and told.value.code == code
    monkeypatch.setattr(decoder_process, "START_S", 30.0)
    with pytest.raises(SourceError, match="does not answer"):
        decoder.open(nothing)
    assert decoder.started == 2
    decoder.close()


def test_a_decoder_ends_with_its_session_even_when_it_is_stopped() -> None:
    program = (
        "import os, signal, subprocess, sys, time\n"
        "from clcr_stream.sources.decoder.process import decoder_command\n"
        "from clcr_stream.sources.decoder.protocol import Request, HEAD\n"
        "import msgspec\n"
        "child = subprocess.Popen(decoder_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(msgspec.json.encode(Request('rtsp://127.0.0.1:9/', ('vision',), 16000)) + b'\\n')\n"
        "child.stdin.flush()\n"
        "child.stdout.read(HEAD.size)\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    assert eventually(lambda: not _alive(pid), 30)


def _alive(pid: int) -> bool:
    """False for one that has ended, whether or not anybody has asked how."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_only_the_newest_pictures_are_kept_and_none_before_one_that_was_taken() -> None:
    kept = Pictures()
    items = [VideoItem(number, lambda: np.zeros((1, 1, 3), np.uint8)) for number in range(8)]
    for number, item in enumerate(items):
        kept.keep(number, item)
    assert [kept.take(number) for number in (0, 8 - KEPT_PICTURES - 1)] == [None, None]
    assert kept.take(6) is items[6]
    assert kept.take(5) is None and kept.take(7) is items[7]


heads = st.builds(
    pack,
    st.sampled_from(KINDS),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


@given(st.one_of(st.binary(min_size=HEAD.size, max_size=HEAD.size), heads))
def test_no_head_asks_for_more_memory_than_a_picture_or_for_a_picture_of_another_size(data: bytes) -> None:
    try:
        head = read_head(data)
    except SourceError:
        return
    assert head.length <= 2**28
    if head.kind == PIXELS and head.length:
        assert head.length == 3 * head.a * head.b
        if head.length < 10**6:
            picture = pixels(head, bytearray(head.length))
            assert picture is not None and picture.shape == (head.a, head.b, 3)
    if head.kind == SOUND:
        assert head.length % 4 == 0
    assert head.kind in KINDS


def test_the_process_imports_no_more_than_it_needs() -> None:
    program = (
        "import sys, clcr_stream.sources.decoder.child, av\n"
        "print(sorted({'cv2', 'onnxruntime', 'zmq', 'tokenizers', 'yaml', 'PIL'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2] / "runtime"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_that_nobody_wants_do_not_hold_up_the_sound(recording_url: str) -> None:
    decoder = DecoderProcess(request(recording_url), threading.Event())
    with decoder.open(nothing) as stream:
        blocks = [item for item in stream.items() if isinstance(item, AudioItem)]
    decoder.close()
    assert sum(len(block.samples) for block in blocks) == pytest.approx(RATE_HZ, abs=1100)
