"""The face crop: over a socket of its own, for the user alone, while somebody reads it, and never without --preview."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq

import clcr_stream
from clcr_stream.errors import PublishError
from clcr_stream.streams.faces_shown import jpeg_of, show_faces
from clcr_stream.wire.preview import PERIOD_NS, Face, Preview, PreviewReader, own_socket, preview_path
from clcr_stream.wire.watcher import Place, Watcher
from media import eventually
from tiny_bundle import write_bundle

RUNTIME = str(Path(clcr_stream.__file__).parents[1])


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The socket of the stream left, which nobody has bound."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "clcr-stream/left.sock"


def newest(reader: PreviewReader, patience_s: float = 30.0) -> Face | None:
    """The next face that comes in time."""
    found: list[Face] = []

    def came() -> bool:
        face = reader.newest()
        found.extend([face] if face is not None else [])
        return bool(found)

    return found[0] if eventually(came, patience_s) else None


def test_a_face_is_drawn_only_while_somebody_reads_and_at_most_five_a_second(socket: Path) -> None:
    drawn: list[int] = []

    def draw(number: int) -> bytes:
        drawn.append(number)
        return b"jpeg %d" % number

    with Preview("left") as preview:
        assert preview.endpoint == f"ipc://{preview_path(socket)}"
        assert stat.S_IMODE(preview_path(socket).stat().st_mode) == 0o600
        assert not preview.wanted
        preview.offer(1, lambda: draw(1))
        reader = PreviewReader("left", socket)
        assert eventually(lambda: preview.wanted, 30)
        began = time.monotonic_ns()
        for number in range(2, 200):
            preview.offer(number, lambda number=number: draw(number))  # type: ignore[misc]
            threading.Event().wait(0.003)
        assert 1 not in drawn and 1 <= len(drawn) <= 1 + (time.monotonic_ns() - began) // PERIOD_NS
        assert newest(reader) == Face(drawn[-1], b"jpeg %d" % drawn[-1])
        reader.close()
        assert eventually(lambda: not preview.wanted, 30)
    assert not preview_path(socket).exists()


def test_a_second_preview_of_a_stream_is_refused(socket: Path) -> None:
    with Preview("left"), pytest.raises(PublishError, match="in use by process"):
        Preview("left")


def test_a_folder_of_others_and_another_host_have_no_preview(socket: Path) -> None:
    socket.parent.mkdir(mode=0o755)
    socket.parent.chmod(0o755)
    with pytest.raises(PublishError, match="mode 0700"):
        PreviewReader("left", socket)
    with pytest.raises(PublishError, match="ipc alone"):
        own_socket("tcp://127.0.0.1:5556")


def test_what_is_no_face_is_not_read(socket: Path) -> None:
    socket.parent.mkdir(mode=0o700)
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.bind(f"ipc://{preview_path(socket)}")
        reader = PreviewReader("left", socket)
        assert publisher.poll(30_000)
        publisher.recv()
        for body in (b"", b"1234567", b"x" * (1 << 20), b"\0\0\0\0\0\0\0\x09ok"):
            publisher.send(b"clcr/left/preview " + body)
            wanted = Face(9, b"ok") if body.endswith(b"ok") else None
            assert newest(reader, 30 if wanted else 0.05) == wanted
        reader.close()


def test_the_newest_face_of_a_hop_is_shown_as_it_is(socket: Path) -> None:
    rows = {"vision_in": np.zeros((3, 3, 8, 8), np.float32), "vision_valid": np.array([1.0, 1.0, 0.0], np.float32)}
    rows["vision_in"][1, 0] = 255.0  # red
    with Preview("left") as preview:
        reader = PreviewReader("left", socket)
        assert eventually(lambda: preview.wanted, 30)
        show_faces(preview, rows, 7)
        rows["vision_in"][:] = 0.0  # the next hop comes
        face = newest(reader)
        assert face is not None
        picture = cv2.imdecode(np.frombuffer(face.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert face.end_ns == 7 and picture is not None and picture.shape == (8, 8, 3)
        assert picture[4, 4, 2] > 200 and picture[4, 4, :2].max() < 60, "OpenCV's order is BGR"
        reader.close()
    assert jpeg_of(None) == b""


@pytest.mark.parametrize("asked", [True, False])
def test_without_the_option_no_pixel_leaves_the_process_and_with_it_the_face_can_be_seen(
    tmp_path: Path, asked: bool
) -> None:
    write_bundle(tmp_path / "bundle")
    environment = os.environ | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "clcr_stream", "--input", "test://?fps=5", "--bundle", str(tmp_path / "bundle")]
    command += ["--stream", "left", "--transcript", "none", *(["--preview"] if asked else [])]
    folder = tmp_path / "clcr-stream"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert eventually((folder / "left.sock").exists, 60)
        with Watcher([Place("left", f"ipc://{folder}/left.sock")]) as watcher:
            watched = watcher.streams["left"]

            def turned() -> bool:
                watcher.turn(time.monotonic_ns())
                watcher.ask(["left"])
                return watched.prediction is not None and watched.prediction.seq > 5 and watched.tokens is not None

            def seen() -> bool:
                turned()
                return watched.face is not None and watched.face.jpeg != b""

            assert eventually(turned, 60)
            assert eventually(seen, 30.0 if asked else 0.5) is asked
            sockets = sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0
    assert sockets == (["left.preview", "left.sock"] if asked else ["left.sock"])
    assert ("PREVIEW" in said) is asked
    if asked:
        assert watched.face is None, "closed readers keep nothing"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
    assert list(folder.iterdir()) == [], "nothing stays behind"
