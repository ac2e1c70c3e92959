"""The command for minutes while its camera, its decoder, its network and its microphone fail in turn, drawn by a seed.

    nice .venv/bin/python tools/soak.py --faults 6 --seed 1

A network camera on loopback, a microphone of PulseAudio (where it is missing the sound of test://), the command (on a
bundle that computes nothing) and a reader over ZeroMQ, all in processes of their own. After each fault camera and sound
must be live again. At the end every tick and every picture is accounted for, no prediction is missing or said twice,
and descriptors, threads and memory of the session are where they were. Exit code 1 when one of this does not hold.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from faulty import (  # noqa: E402
    ROOM_S,
    expect_state,
    free_port,
    source,
    watched,
    write_pictures,
    write_room,
)
from job_live import MjpegCamera, SoundServer, missing_sound  # noqa: E402
from job_process import NS_PER_S, Watched  # noqa: E402

BACK_S = 30.0  # until the camera must be live again: the longest pause is 5 s, the rest is for a busy machine
SETTLED = 5  # faults before the first measurement
GROWTH_MB = 4.0  # of the session, over all the rest
Message = dict[str, Any]


class Room:
    """A microphone of software in a room where somebody speaks; a context manager."""

    def __init__(self, place: Path) -> None:
        self._sound = write_room(place / "room.wav")
        self.server = SoundServer(place / "pulse")
        self._player: Any = None
        self._since_ns = 0

    def __enter__(self) -> Room:
        self.server.start()
        self.speak()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__(None, None, None)

    def speak(self) -> None:
        """From the beginning; before the recording of the room ends, it must be said again."""
        self.hush()
        self._player, self._since_ns = self.server.play(self._sound), time.monotonic_ns()

    def hush(self) -> None:
        """Digital silence, as of a muted microphone."""
        if self._player is not None:
            self._player.kill()
            self._player.wait()

    def go_on(self) -> None:
        """Speak again if the recording of the room will end soon."""
        if time.monotonic_ns() - self._since_ns > ROOM_S // 2 * NS_PER_S:
            self.speak()


class Trouble:
    """A session, its camera and microphone, and the faults that can befall them."""

    def __init__(
        self, pictures: Path, session: Watched, port: int, draw: random.Random, room: Room | None = None
    ) -> None:
        self._pictures, self._session, self._port, self._draw = pictures, session, port, draw
        self._room = room
        self._pause = threading.Event()
        self.faults: tuple[Callable[[], None], ...] = (
            self.camera_hangs,
            self.camera_repeats,
            self.camera_dies,
            self.decoder_hangs,
            self.decoder_crashes,
            self.decoder_killed,
        )
        if room is not None:
            self.faults += (self.microphone_muted, self.sound_server_dies)
        self.camera = self._begin()

    def camera_hangs(self) -> None:
        """Its connection stays open and nothing comes, then all at once."""
        self.camera.freeze()
        self._wait(0.3, 4.0)
        self.camera.thaw()

    def camera_repeats(self) -> None:
        """It sends one picture again and again."""
        self.camera.repeat()
        self._wait(2.5, 4.0)
        self.camera.repeat()

    def camera_dies(self) -> None:
        """It is killed and comes back."""
        self.close()
        self._wait(0.3, 4.0)
        self.camera = self._begin()

    def decoder_hangs(self) -> None:
        """The decoder's process stops, and perhaps goes on before it is ended."""
        self._signal(signal.SIGSTOP)
        self._wait(0.3, 4.0)
        self._signal(signal.SIGCONT)

    def decoder_crashes(self) -> None:
        """As FFmpeg does with a picture that was made for it."""
        self._signal(signal.SIGSEGV)

    def decoder_killed(self) -> None:
        """As the kernel does when memory runs out."""
        self._signal(signal.SIGKILL)

    def microphone_muted(self) -> None:
        """Its device goes on with digital zeros."""
        assert self._room is not None
        self._room.hush()
        self._wait(0.3, 4.0)
        self._room.speak()

    def sound_server_dies(self) -> None:
        """The device goes, as when it is unplugged, and comes back."""
        assert self._room is not None
        self._room.server.kill()
        self._wait(0.3, 4.0)
        self._room.server.start()
        self._room.speak()

    def close(self) -> None:
        """The camera goes."""
        self.camera.__exit__(None, None, None)

    def _begin(self) -> MjpegCamera:
        return MjpegCamera(self._pictures, port=self._port).__enter__()

    def _signal(self, number: signal.Signals) -> None:
        for child in decoders(self._session):
            child.send_signal(number)

    def _wait(self, least_s: float, most_s: float) -> None:
        self._pause.wait(self._draw.uniform(least_s, most_s))


def decoders(session: Watched) -> list[psutil.Process]:
    """The decoders of a session, one at most."""
    return [child for child in psutil.Process(session.process.pid).children() if "sources.decoder" in _line(child)]


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def accounted(status: Message) -> list[str]:
    """What does not add up in a status."""
    ticks, wrong = status["ticks"], []
    if ticks["due"] != ticks["published"] + sum(ticks["skipped"].values()):
        wrong.append(f"ticks {ticks}")
    counts = source(status)["counts"]
    dropped = sum(number for name, number in counts.items() if name.startswith("frames_dropped_"))
    if counts["frames_in"] != counts["frames_used"] + counts["frames_held"] + dropped:
        wrong.append(f"pictures {counts}")
    return wrong


def untold(numbers: list[int], skipped: int) -> list[str]:
    """What is wrong with the predictions that a reader got: a tick that was skipped has no number here, and is told."""
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if numbers != sorted(set(numbers)) or missing > skipped:
        return [f"{missing} predictions are missing, {skipped} ticks were skipped; or some were said twice"]
    return []


def all_live(status: Message) -> bool:
    """Camera and sound at once."""
    return all(one["state"] == "live" for one in status["sources"])


def measure(session: Watched) -> dict[str, float]:
    """The session's process, and how many decoders it has."""
    process = psutil.Process(session.process.pid)
    rss_mb = round(process.memory_info().rss / 1e6, 2)
    return {
        "rss_mb": rss_mb,
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "decoders": len(decoders(session)),
    }


def run(minutes: float, seed: int, say: Callable[[str], object]) -> dict[str, Any]:
    """The soak's figures; `wrong` lists what did not hold."""
    draw, done, wrong, samples = random.Random(seed), Counter[str](), [], []
    why_not = missing_sound()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        place, port = Path(name), free_port()
        pictures = write_pictures(place / "pictures")
        room = stack.enter_context(Room(place)) if why_not is None else None
        if room is None:
            say(f"no microphone, the sound of test:// in its place: {why_not}")
        given = ("--camera", f"http://127.0.0.1:{port}/", "--mic", "default" if room is not None else "test://")
        with watched(place, *given, extra=room.server.environment if room is not None else None) as session:
            trouble = Trouble(pictures, session, port, draw, room)
            try:
                for number in range(2):
                    expect_state(session, "live", BACK_S, number=number)
                end_ns = session.now_ns() + int(minutes * 60 * NS_PER_S)
                while session.now_ns() < end_ns:
                    fault = draw.choice(trouble.faults)
                    fault()
                    if room is not None:
                        room.go_on()
                    # A fault may show only after a while: live is what is live a second and a half later.
                    after_ns = session.now_ns() + 3 * NS_PER_S // 2
                    live = session.expect(all_live, BACK_S, "status", after_ns)
                    wrong += accounted(live.message)
                    done[fault.__name__] += 1
                    samples.append(measure(session))
                    say(f"{fault.__name__}: {samples[-1]}")
                code, _ = session.terminate()
            finally:
                trouble.close()
            goodbye = session.reader.received("status")[-1].message
            numbers = [got.message["seq"] for got in session.reader.received("prediction")]
    wrong += accounted(goodbye)
    if code:
        wrong.append(f"exit code {code}")
    wrong += untold(numbers, sum(goodbye["ticks"]["skipped"].values()))
    settled = samples[min(SETTLED, len(samples) - 1)]
    grown = {what: round(samples[-1][what] - settled[what], 2) for what in settled}
    if grown["fds"] > 2 or grown["threads"] > 2 or grown["rss_mb"] > GROWTH_MB or samples[-1]["decoders"] != 1:
        wrong.append(f"grown: {grown}")
    return {
        "minutes": minutes,
        "seed": seed,
        "faults": dict(done),
        "predictions": len(numbers),
        "ticks": goodbye["ticks"],
        "source": source(goodbye)["counts"],
        "entered": source(goodbye)["entered"],
        "sound": {name: source(goodbye, 1)[name] for name in ("name", "counts", "entered")},
        "last": samples[-1],
        "grown": grown,
        "wrong": wrong,
    }


def soak_faults(minutes: float, seed: int, json_file: str | None) -> int:
    """Run, print the figures, write them; 1 when something did not hold."""
    result = run(minutes, seed, lambda text: print(text, file=sys.stderr))
    print(json.dumps(result))
    if json_file is not None:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["wrong"] else 0
