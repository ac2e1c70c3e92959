"""`clcr-stream build`: TensorRT's plans of a bundle, built or taken from the user's cache, and how far that is."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TextIO

import msgspec

from clcr_stream.bundle.loader import load_bundle
from clcr_stream.bundle.manifest import Manifest
from clcr_stream.config import Config, engine_options
from clcr_stream.inference.building import Plan, Step, build_plans
from clcr_stream.inference.program import tick_program
from clcr_stream.inference.tensorrt.device_tick import Wiring


class Report:
    """Says how far building is: plans on `out` and the rest on `screen`, or all of it on `out` as lines of JSON."""

    def __init__(self, out: TextIO, screen: TextIO, as_json: bool) -> None:
        self._out = out
        self._screen = screen
        self._json = as_json
        self._in_place = screen.isatty() and not as_json

    def step(self, engine: str, phase: str, done: int, of: int) -> None:
        """TensorRT's progress; it calls, and an error would come up inside of it."""
        step = Step(engine=engine, phase=phase, done=done, of=of)
        with contextlib.suppress(OSError, ValueError):
            if self._json:
                self._write(self._out, f"{msgspec.json.encode(step).decode()}\n")
            elif self._in_place:
                self._write(self._screen, f"\r\x1b[K{step.line()}")

    def say(self, text: str) -> None:
        """What is built and why."""
        self._write(self._screen, f"{self._clear()}{text}\n")

    def plan(self, plan: Plan) -> None:
        """A plan is there."""
        self._write(self._screen, self._clear())
        self._write(self._out, f"{msgspec.json.encode(plan).decode() if self._json else plan.line()}\n")

    def end(self, manifest: Manifest, seats: int) -> None:
        """What a run will take of the GPU's memory, for a person."""
        if not self._json:
            mib = Wiring.of(tick_program(manifest.engines), manifest.engines, seats).device_bytes / 2**20
            text = f"inputs, outputs and state of {seats} streams take {mib:.1f} MiB on the GPU"
            self._write(self._out, f"{text}, TensorRT's own memory comes on top\n")

    def _clear(self) -> str:
        return "\r\x1b[K" if self._in_place else ""

    def _write(self, out: TextIO, text: str) -> None:
        out.write(text)
        out.flush()


def build(config: Config, seats: int, rebuild: bool, report: Report) -> None:
    """`clcr-stream build`: BundleError, BackendError."""
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

    options = engine_options(config)
    bundle = load_bundle(options.folder)
    backend = TensorRTBackend(options.tensorrt, say=report.say, progress=report.step)
    with _interruptible():
        for plan in build_plans(bundle, backend, seats, rebuild):
            report.plan(plan)
    report.end(bundle.manifest, seats)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once: Python would see it only when TensorRT is done with an engine."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
