"""A real RTSP server, GStreamer's, whose camera is a folder of JPEG pictures and a loop of sound.

    /usr/bin/python3 tests/support/job_rtsp.py FOLDER PORT [NAME:PASSWORD]

plays FOLDER/*.jpg at 15 Hz as H.264 and FOLDER/sound.raw (s16le, 8 kHz) as G.711 at rtsp://127.0.0.1:PORT/live. It
prints `ready` once it listens, and `loop NS` when it takes the first picture, on the monotonic clock. It needs the
system's Python, whose GObject bindings come from apt, and nothing else. `RtspCamera` runs it for a test.
"""

from __future__ import annotations

import importlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
PACKAGES += " gstreamer1.0-plugins-ugly"
ELEMENTS = ("appsrc", "jpegdec", "videoconvert", "x264enc", "rtph264pay", "mulawenc", "rtppcmupay")

RATE_HZ, BLOCK, FPS = 8000, 160, 15
NS_PER_S = 1_000_000_000
PIPELINE = (
    "( appsrc name=pictures is-live=true format=time caps=image/jpeg,framerate=15/1 ! jpegdec ! videoconvert"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 bitrate=1000 ! rtph264pay name=pay0 pt=96"
    " appsrc name=sound is-live=true format=time caps=audio/x-raw,format=S16LE,rate=8000,channels=1,layout=interleaved"
    " ! mulawenc ! rtppcmupay name=pay1 pt=0 )"
)
never = threading.Event()


def missing_rtsp() -> str | None:
    """Why there can be no RTSP server here; None when there can."""
    command = [SYSTEM_PYTHON, str(Path(__file__)), "--check"]
    try:
        works = subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except FileNotFoundError:
        works = False
    return None if works else f"GStreamer's RTSP server is not installed: apt-get install {PACKAGES}"


class RtspCamera:
    """The server in a process of its own; a context manager."""

    def __init__(self, pictures: Path, port: int, login: str = "") -> None:
        """`login` is NAME:PASSWORD; without one everybody is let in."""
        self._command = [SYSTEM_PYTHON, str(Path(__file__)), str(pictures), str(port), *([login] if login else [])]
        self.place = f"127.0.0.1:{port}/live"

    def __enter__(self) -> RtspCamera:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "ready\n":
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the RTSP server says {line!r}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def freeze(self) -> None:
        """Every connection stays open and nothing more comes."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> list[int]:
        """Kill it; when it took the first picture of each round, monotonic ns."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        lines = [] if self._process.stdout.closed else self._process.stdout.read().splitlines()
        self._process.stdout.close()
        return [int(line.removeprefix("loop ")) for line in lines if line.startswith("loop ")]


def load() -> tuple[Any, Any, Any]:
    """The bindings: GLib, Gst and GstRtspServer; ImportError or ValueError where they are not installed."""
    gi: Any = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    repository: Any = importlib.import_module("gi.repository")
    importlib.import_module("gi.repository.GstRtspServer")
    importlib.import_module("gi.repository.GLib")
    repository.Gst.init(None)
    return repository.GLib, repository.Gst, repository.GstRtspServer


class Camera:
    """Feeds one pipeline in real time, from its beginning until it is let go."""

    def __init__(self, gst: Any, folder: Path) -> None:
        self._gst = gst
        self._pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
        self._sound = (folder / "sound.raw").read_bytes()

    def configure(self, _factory: Any, media: Any) -> None:
        """Called for each new pipeline, which all clients of a moment share."""
        element, over = media.get_element(), threading.Event()
        media.connect("unprepared", lambda _media: over.set())
        pictures, sound = element.get_by_name("pictures"), element.get_by_name("sound")
        threading.Thread(target=self._feed, args=(pictures, sound, over), daemon=True).start()

    def _feed(self, pictures: Any, sound: Any, over: threading.Event) -> None:
        while (running := pictures.get_current_running_time()) == self._gst.CLOCK_TIME_NONE:
            if over.wait(0.01):
                return
        begun_ns = time.monotonic_ns() - running  # in its own time the pipeline began then
        first_ns = time.monotonic_ns()
        for at_ns, what, number in events(first_ns):
            if over.wait(max(0, at_ns - time.monotonic_ns()) / NS_PER_S):
                return
            if what == "picture":
                if number % len(self._pictures) == 0:
                    say(f"loop {at_ns}")
                self._push(pictures, self._pictures[number % len(self._pictures)], at_ns - begun_ns)
            else:
                at = number * BLOCK * 2 % len(self._sound)
                self._push(sound, self._sound[at : at + BLOCK * 2], at_ns - begun_ns - BLOCK * NS_PER_S // RATE_HZ)

    def _push(self, source: Any, data: bytes, stamp_ns: int) -> None:
        buffer = self._gst.Buffer.new_wrapped(data)
        buffer.pts = stamp_ns
        source.emit("push-buffer", buffer)


def events(first_ns: int) -> Iterator[tuple[int, str, int]]:
    """When, what and which: pictures as they are taken, blocks of sound once they were heard, in order of time."""
    for hop in itertools.count():  # a fifth of a second: 3 pictures, 10 blocks
        due = [(first_ns + number * NS_PER_S // FPS, "picture", number) for number in range(3 * hop, 3 * hop + 3)]
        blocks = range(10 * hop, 10 * hop + 10)
        due += [(first_ns + (number + 1) * BLOCK * NS_PER_S // RATE_HZ, "sound", number) for number in blocks]
        yield from sorted(due)


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(folder: Path, port: int, login: str) -> None:
    """Serve until killed."""
    glib, gst, rtsp = load()
    server = rtsp.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    factory = rtsp.RTSPMediaFactory.new()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    factory.connect("media-configure", Camera(gst, folder).configure)
    if login:
        guard(rtsp, server, factory, *login.split(":"))
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        raise SystemExit(f"port {port} is taken")
    say("ready")
    glib.MainLoop().run()


def guard(rtsp: Any, server: Any, factory: Any, name: str, password: str) -> None:
    """Let in one user; all others are refused with 401."""
    auth = rtsp.RTSPAuth.new()
    token = rtsp.RTSPToken.new()
    token.set_string("media.factory.role", "user")
    auth.add_basic(rtsp.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        importlib.import_module("gi.repository.Gst").Structure.new_from_string(
            "user, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
        )
    )


def check() -> bool:
    """Whether all is there that a pipeline needs."""
    try:
        _, gst, _ = load()
    except (ImportError, ValueError):
        return False
    return all(gst.ElementFactory.find(name) is not None for name in ELEMENTS)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        sys.exit(0 if check() else 1)
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
