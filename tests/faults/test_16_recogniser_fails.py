"""Fault 16: a recogniser is killed again and again, hangs (SIGSTOP) or is ten times too slow, beside real engines."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from clcr_stream.errors import SourceError
from clcr_stream.sources.speech.choose import RecogniserSpec, check
from clcr_stream.sources.synthetic import espeak
from crowd import slowdown
from faulty import source, watched
from job_process import NS_PER_S, ROOT, Watched
from media import eventually

PHASE_S = float(os.environ.get("CLCR_PHASE_S", "2"))
SETTLE_MS = 60.0
# Where no model of speech recognition is installed: one that understands nothing, in the same process.
STAND_IN = """
from clcr_stream.sources.speech import choose
class Deaf:
    about, doubted = "a stand-in", 0
    def push(self, first, samples):
        return []
    def flush(self):
        return []
choose.check = lambda spec: None
choose.open_recogniser = lambda spec, live: Deaf()
"""


def recogniser(place: Path) -> dict[str, str]:
    """What a session's environment needs to have a recogniser: nothing where Whisper is installed."""
    try:
        check(RecogniserSpec("whisper"))
    except SourceError:
        (place / "stand-in").mkdir()
        (place / "stand-in" / "sitecustomize.py").write_text(STAND_IN)
        return {"PYTHONPATH": f"{place / 'stand-in'}:{ROOT / 'runtime'}"}
    return {}


def listeners(session: Watched) -> list[psutil.Process]:
    """The recogniser's process, if there is one now."""
    children = psutil.Process(session.process.pid).children()
    return [child for child in children if "sources.speech.child" in " ".join(child.cmdline())]


def turns(pause_s: float) -> Iterator[None]:
    """One turn every `pause_s` of a phase."""
    end_s = time.monotonic() + PHASE_S
    while time.monotonic() < end_s:
        yield
        time.sleep(pause_s)


def leave(_session: Watched) -> int:
    return sum(1 for _ in turns(0.2))


def kill(session: Watched) -> int:
    killed = 0
    for _ in turns(0.5):
        for child in listeners(session):
            send(child, signal.SIGKILL)
            killed += 1
    return killed


def hang(session: Watched) -> int:
    (child,) = listeners(session)
    send(child, signal.SIGSTOP)
    for _ in turns(0.2):
        pass
    send(child, signal.SIGCONT)
    return 1


def slow(session: Watched) -> int:
    times = 0
    for _ in turns(0.05):
        for child in listeners(session):
            send(child, signal.SIGSTOP)
            time.sleep(0.45)
            send(child, signal.SIGCONT)
            times += 1
    return times


def send(child: psutil.Process, what: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # one that hangs for 15 s is replaced
        child.send_signal(what)


def late_ms(session: Watched, begun_ns: int) -> list[float]:
    """How long after they were due the predictions since `begun_ns` were sent; waits for one more."""
    session.expect(lambda one: True, 20, after_ns=session.now_ns())
    sent = [got.message for got in session.reader.received("prediction") if got.arrived_ns > begun_ns]
    return [(one["published_ns"] - one["window"]["end_ns"]) * 1000 / NS_PER_S - SETTLE_MS for one in sent]


def test_a_recogniser_that_is_killed_hangs_or_is_slow_makes_no_prediction_late(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    sound = "test://?voice=espeak" if shutil.which(espeak.PROGRAM) else "test://"
    engines = ("--bundle", str(ROOT / "engines/default"), "--backend", "onnxruntime")
    given = ("--camera", "none", "--mic", sound, "--transcript", "asr", *engines)
    figures: dict[str, Any] = {}

    def heard(status: dict[str, Any]) -> bool:
        return bool(source(status, 1)["state"] == "live")

    with watched(tmp_path, *given, extra=recogniser(tmp_path)) as session:
        for name, fault in (("none", leave), ("slow", slow), ("hangs", hang), ("killed", kill)):
            session.expect(heard, 60, "status", session.now_ns())
            begun_ns = session.now_ns()
            times = fault(session)
            late = late_ms(session, begun_ns)
            assert len(late) >= 4 * PHASE_S / slowdown()
            figures[name] = {"ticks": len(late), "times": times, "p99_ms": float(np.percentile(late, 99))}
        last = session.expect(heard, 60, "status", session.now_ns()).message
        (child,) = listeners(session)
        child.send_signal(signal.SIGSTOP)
        session.process.kill()
        session.process.wait()
        assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)
        numbers = [got.message["seq"] for got in session.reader.received("prediction")]
    record_property("fault_16", figures | {"skipped": last["ticks"]["skipped"]})
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert source(last, 1)["counts"]["restarts"] >= figures["killed"]["times"] >= 1
    # A window that waited for the recogniser would be 250 ms late at least: the pause before it is started again.
    limit_ms = figures["none"]["p99_ms"] + 150 * slowdown()
    assert max(one["p99_ms"] for one in figures.values()) <= limit_ms, figures
