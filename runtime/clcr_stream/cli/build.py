"""`clcr-stream build`: TensorRT's plans of a bundle, built or taken from the user's cache, and how far that is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from clcr_stream.bundle.loader import load_bundle
from clcr_stream.bundle.manifest import Manifest
from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.standard_streams import CLEAR_LINE, check_stdout, redrawable
from clcr_stream.config import MAX_STREAMS, engine_options, load_config, seats_of
from clcr_stream.config_tree import BuilderConfig, Config
from clcr_stream.errors import ConfigError
from clcr_stream.inference.building import Plan, Step, build_plans
from clcr_stream.inference.program import tick_program
from clcr_stream.inference.tensorrt.device_tick import Wiring

EXAMPLES = """examples:
  clcr-stream build                                  the plans of the shipped bundle, for one stream
  clcr-stream build --bundle engines/mine --streams 8 --builderOptimizationLevel=5
  clcr-stream build --config cameras.yaml            what a run with that file needs
"""


class Report:
    """Says how far building is: plans on `out` and the rest on `screen`, or all of it on `out` as lines of JSON."""

    def __init__(self, out: TextIO, screen: TextIO, as_json: bool) -> None:
        self._out = out
        self._screen = screen
        self._json = as_json
        self._in_place = redrawable(screen) and not as_json

    def step(self, engine: str, phase: str, done: int, of: int) -> None:
        """TensorRT's progress; it calls, and an error would come up inside of it."""
        step = Step(engine=engine, phase=phase, done=done, of=of)
        with contextlib.suppress(OSError, ValueError):
            if self._json:
                self._write(self._out, f"{msgspec.json.encode(step).decode()}\n")
            elif self._in_place:
                self._tell(f"{CLEAR_LINE}{step.line()}")

    def say(self, text: str) -> None:
        """What is built and why."""
        self._tell(f"{self._clear()}{text}\n")

    def plan(self, plan: Plan) -> None:
        """A plan is there."""
        self._tell(self._clear())
        self._write(self._out, f"{msgspec.json.encode(plan).decode() if self._json else plan.line()}\n")

    def end(self, manifest: Manifest, seats: int) -> None:
        """What a run will take of the GPU's memory, for a person."""
        if not self._json:
            mib = Wiring.of(tick_program(manifest.engines), manifest.engines, seats).device_bytes / 2**20
            text = f"inputs, outputs and state of {seats} streams take {mib:.1f} MiB on the GPU"
            self._write(self._out, f"{text}, TensorRT's own memory comes on top\n")

    def _clear(self) -> str:
        return CLEAR_LINE if self._in_place else ""

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal does not end the building
            self._write(self._screen, text)

    def _write(self, out: TextIO, text: str) -> None:
        out.write(text)
        out.flush()


def parser() -> Parser:
    """The flags of `build`."""
    flags = Parser(
        prog="clcr-stream build",
        description="Build the TensorRT plans of a bundle on this machine, or take them from the user's cache.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("--bundle", metavar="DIR", help="engine bundle (default: the one that is shipped)")
    flags.add_argument("--streams", type=int, metavar="N", help="most streams at once (default: what a run would use)")
    flags.add_argument("--device", type=int, metavar="N", help="which GPU (default: 0)")
    flags.add_argument("--config", metavar="FILE", help="as in a plain run")
    flags.add_argument("--rebuild", action="store_true", help="take no plan from the cache")
    flags.add_argument("--json", action="store_true", help="print each step and each plan as one line of JSON")
    builder = flags.add_argument_group("builder options, as trtexec names them")
    for name in BuilderConfig.__struct_fields__:
        builder.add_argument(f"--{name}", metavar="VALUE")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Build the plans that are missing. BundleError, BackendError."""
    flags = parser().parse_args(arguments)
    options = {f"tensorrt.builder.{name}": getattr(flags, name) for name in BuilderConfig.__struct_fields__}
    config = load_config(flags.config, options | {"model.bundle": flags.bundle, "tensorrt.device": flags.device})
    seats = seats_of(config) if flags.streams is None else flags.streams
    if not 1 <= seats <= MAX_STREAMS:
        raise ConfigError(f"--streams {seats}: allowed are 1..{MAX_STREAMS}")
    check_stdout("`clcr-stream build`")
    build(config, seats, flags.rebuild, Report(sys.stdout, sys.stderr, flags.json))
    return 0


def build(config: Config, seats: int, rebuild: bool, report: Report) -> None:
    """Build or take from the cache what `seats` streams need, and report each plan. BundleError, BackendError."""
    from clcr_stream.inference.tensorrt.backend import TensorRTBackend

    options = engine_options(config)
    bundle = load_bundle(options.folder)
    backend = TensorRTBackend(options.tensorrt, say=report.say, progress=report.step)
    for plan in build_plans(bundle, backend, seats, rebuild):
        report.plan(plan)
    report.end(bundle.manifest, seats)
