"""Live devices made of software: a sound server of one's own with a virtual microphone, and a network camera.

    python tests/support/job_live.py FOLDER_OF_JPEGS [RATE_HZ [PORT]]

serves the pictures as endless MJPEG on a loopback port, which it prints.
"""

from __future__ import annotations

import http.server
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

PROGRAMS = ("pulseaudio", "pactl", "paplay", "parec")
START_TIMEOUT_S = 20


def missing_sound() -> str | None:
    """Why there can be no virtual microphone here; None when there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed: apt-get install pulseaudio pulseaudio-utils libasound2-plugins"
    try:
        import pyaudio
    except ImportError:
        return "PyAudio is not installed: pip install pyaudio"
    return None if pyaudio.get_portaudio_version() else "PortAudio does not answer"


class SoundServer:
    """A private PulseAudio whose default input hears what is played; a context manager."""

    def __init__(self, folder: Path, rate_hz: int = 16_000, channels: int = 1) -> None:
        self._folder = folder
        self._format = f"rate={rate_hz} channels={channels}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One device that ALSA calls default: PortAudio need not probe the machine's cards.
        (folder / "asound.conf").write_text(
            'pcm.!default { type pulse hint { show on description "vmic" } }\nctl.!default { type pulse }\n'
        )
        self.environment = {
            "HOME": str(folder),  # the user's may not be there, or not be writable
            "XDG_CONFIG_HOME": str(folder),
            "LC_ALL": "C",
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_STATE_PATH": str(folder),
            "PULSE_SERVER": f"unix:{folder}/native",
            "PULSE_COOKIE": str(folder / "cookie"),
            "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SoundServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for player in self._players:
            player.kill()
            player.wait()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        for stale in ("native", "pid"):
            (self._folder / stale).unlink(missing_ok=True)
        # norewinds: otherwise the null sink runs 1.6 s ahead and the microphone hears the past.
        modules = (
            f"module-native-protocol-unix auth-anonymous=1 socket={self._folder}/native",
            f"module-null-sink sink_name=vmic format=s16le {self._format} norewinds=1",
        )
        loads = list(itertools.chain.from_iterable(("-L", module) for module in modules))
        log = (self._folder / "log").open("ab")
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", *loads]
        with log:
            self._process = subprocess.Popen(command, env=self._whole(), stdout=log, stderr=log, start_new_session=True)
        self._await_answer()
        self._pactl("set-default-sink", "vmic")
        self._pactl("set-default-source", "vmic.monitor")

    def kill(self) -> None:
        """As a crash: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Of the running server, for signals."""
        assert self._process is not None
        return self._process.pid

    def play(self, sound: Path) -> subprocess.Popen[bytes]:
        """Play a .wav into the microphone."""
        # A client latency under 60 ms makes the player underrun, which the microphone hears as silence.
        player = subprocess.Popen(["paplay", "--latency-msec=100", str(sound)], env=self._whole())
        self._players.append(player)
        return player

    def hear(self, seconds: float) -> bytes:
        """What the microphone hears now, s16le at 16 kHz, by another client than the product."""
        command = ["parec", "-d", "vmic.monitor", "--rate=16000", "--channels=1", "--format=s16le"]
        wanted = int(seconds * 16000) * 2
        with subprocess.Popen(command, env=self._whole(), stdout=subprocess.PIPE) as recorder:
            assert recorder.stdout is not None
            heard = recorder.stdout.read(wanted)
            recorder.kill()
        return heard

    def _await_answer(self) -> None:
        """The server announces its readiness nowhere: ask until it answers."""
        pause = threading.Event()
        for _ in range(START_TIMEOUT_S * 20):
            if self._process is None or self._process.poll() is not None:
                break
            if subprocess.run(["pactl", "info"], env=self._whole(), capture_output=True).returncode == 0:
                return
            pause.wait(0.05)
        self.kill()
        raise AssertionError(f"pulseaudio does not answer: {(self._folder / 'log').read_text()[-500:]}")

    def _pactl(self, *arguments: str) -> None:
        subprocess.run(["pactl", *arguments], env=self._whole(), check=True, timeout=10)

    def _whole(self) -> Mapping[str, str]:
        return os.environ | self.environment


class MjpegCamera:
    """A network camera in a process of its own, so that it can be frozen as a camera freezes; a context manager."""

    def __init__(self, pictures: Path, rate_hz: float = 15.0, port: int = 0) -> None:
        self._command = [sys.executable, str(Path(__file__)), str(pictures), str(rate_hz), str(port)]

    def __enter__(self) -> MjpegCamera:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Every connection stays open and nothing more comes."""
        self._process.send_signal(signal.SIGSTOP)

    def repeat(self) -> None:
        """Send one picture again and again from now on; called once more, go on."""
        self._process.send_signal(signal.SIGUSR1)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)


def serve(pictures: Path, rate_hz: float, port: int) -> None:
    """Serve MJPEG until killed, on any port if it is 0, which goes to stdout. SIGUSR1: repeat one picture, or not."""
    repeats = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: repeats.clear() if repeats.is_set() else repeats.set())
    jpegs = [path.read_bytes() for path in sorted(pictures.glob("*.jpg"))]
    pause = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        """Endless pictures to whoever asks."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            for next_jpeg in itertools.cycle(jpegs):
                jpeg = jpegs[0] if repeats.is_set() else next_jpeg
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return
                pause.wait(1.0 / rate_hz)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    rate, chosen = [*sys.argv[2:], *("15", "0")[len(sys.argv) - 2 :]]
    serve(Path(sys.argv[1]), float(rate), int(chosen))
