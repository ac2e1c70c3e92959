"""What a user runs first when something does not work: checks of the installation, each with what to do about it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clcr_stream.cli.arguments import EXIT_CODES, KEYS, Parser
from clcr_stream.cli.cells import printable
from clcr_stream.cli.standard_streams import put, put_json
from clcr_stream.clock import NS_PER_S
from clcr_stream.config import load_config
from clcr_stream.config_tree import Config
from clcr_stream.errors import BackendError, ClcrError
from clcr_stream.sources import devices
from clcr_stream.sources.base import SourceReport, SourceSpec

PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "av", "pyzmq", "msgspec", "PyYAML", "tokenizers")
NVIDIA_DEVICES = tuple(Path("/dev") / name for name in ("nvidiactl", "nvidia0", "nvhost-gpu", "nvgpu"))
# Those of a plain run, with the names of their values.
SHARED_FLAGS = {
    "bundle": "DIR",
    "backend": "NAME",
    "bind": "ENDPOINT",
    "stream": "NAME",
    "curve_secret": "NAME|FILE",
    "curve_clients": "DIR",
}
SOURCE_FLAGS = {"camera": "WHICH", "mic": "WHICH", "input": "FILE|URL|-"}


@dataclass(frozen=True)
class Check:
    """One finding; a check that is not `required` may fail without making the installation unusable."""

    name: str
    ok: bool
    detail: str
    required: bool = True

    def line(self) -> str:
        """For a person."""
        mark = "ok  " if self.ok else "FAIL" if self.required else "warn"
        return printable(f"{mark} {self.name}: {self.detail}")


def parser() -> Parser:
    """The flags of `doctor`."""
    flags = Parser(
        prog="clcr-stream doctor",
        description="Check the installation, the bundle, the backend, devices and the endpoint. Devices that are "
        "there, or a source that is named, are opened for 3 s: how they are doing is said, nothing is kept.",
        epilog=f"exit code 0 when nothing that is required fails, 1 otherwise\n\n{EXIT_CODES}",
    )
    flags.add_argument("--json", action="store_true", help="print JSON")
    for name, value in (SHARED_FLAGS | SOURCE_FLAGS).items():
        flags.add_argument(f"--{name.replace('_', '-')}", metavar=value, help="as in a plain run")
    flags.add_argument("--config", metavar="FILE", help="as in a plain run")
    return flags


def command(arguments: Sequence[str]) -> int:
    """`clcr-stream doctor`: exit code 1 when something that is required fails."""
    flags = parser().parse_args(arguments)
    config = load_config(flags.config, {KEYS[name]: getattr(flags, name) for name in (*SHARED_FLAGS, *SOURCE_FLAGS)})
    checks = examine(config)
    if flags.json:
        put_json(as_plain(checks))
    else:
        put("\n".join(check.line() for check in checks))
    return 0 if healthy(checks) else 1


def examine(config: Config) -> list[Check]:
    """All checks, in the order in which a run would meet them."""
    checks = [_python(), *(_package(name) for name in PACKAGES)]
    checks.append(_guarded("bundle", lambda: _bundle(config)))
    checks.append(_guarded("backend", lambda: _backend(config)))
    checks.append(_tensorrt(config))
    checks.append(_cameras())
    checks.append(_microphones())
    checks += _sources(config)
    checks.append(_speech())
    checks.append(_guarded("endpoint", lambda: _endpoint(config)))
    return checks


def as_plain(checks: list[Check]) -> dict[str, object]:
    """For a script."""
    return {"ok": healthy(checks), "checks": [asdict(check) for check in checks]}


def healthy(checks: list[Check]) -> bool:
    """True when nothing that is required failed."""
    return all(check.ok or not check.required for check in checks)


def _guarded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except ClcrError as error:
        return Check(name, False, str(error))


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 10), f"{version} (3.10 or newer is needed)")


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, f"not installed; run `pip install {name}`")


def _bundle(config: Config) -> str:
    from clcr_stream.bundle.loader import load_bundle
    from clcr_stream.config import engine_options

    folder = engine_options(config).folder
    bundle = load_bundle(folder)
    return f"{folder}: {bundle.manifest.name}, {len(bundle.files)} files verified, id {bundle.id[:16]}"


def _backend(config: Config) -> str:
    """What a run would take and open, except that nothing is built."""
    from clcr_stream.bundle.loader import load_bundle
    from clcr_stream.config import engine_options
    from clcr_stream.inference.choose import WITHOUT_PLANS, choose_backend
    from clcr_stream.inference.engines import open_engines
    from clcr_stream.inference.golden import replay_engines

    options = engine_options(config)
    bundle = load_bundle(options.folder)
    choice = choose_backend(options, bundle)
    if choice.backend.name == "tensorrt" and choice.unplanned:
        raise BackendError(WITHOUT_PLANS)
    with contextlib.closing(open_engines(options)) as engines:
        name = engines.backend
        replayed = replay_engines(bundle, engines.encoder, engines.levels)
    if replayed is None:
        return f"{name} (the bundle has no golden vectors to check it with)"
    hops, worst = replayed
    return f"{name}: all engines run and repeat the bundle's {hops} golden hops (largest difference {worst:.1e})"


def _tensorrt(config: Config) -> Check:
    """Whether the GPU could be used; a machine without one is as it should be."""
    from clcr_stream.bundle.loader import load_bundle
    from clcr_stream.config import engine_options
    from clcr_stream.inference.choose import NOT_INSTALLED, WITHOUT_PLANS, choose_backend, tensorrt_installed

    if not tensorrt_installed():
        if not any(device.exists() for device in NVIDIA_DEVICES):
            return Check("tensorrt", True, "not needed: no NVIDIA GPU here", required=False)
        return Check("tensorrt", False, f"{NOT_INSTALLED}, but an NVIDIA GPU is here; see docs/gpu.md", required=False)
    try:
        options = dataclasses.replace(engine_options(config), backend="auto")
        choice = choose_backend(options, load_bundle(options.folder))
    except ClcrError as error:
        return Check("tensorrt", False, str(error), required=False)
    if choice.backend.name == "tensorrt":
        return Check("tensorrt", True, "available, and all plans of this bundle are built", required=False)
    detail = WITHOUT_PLANS if choice.unplanned else f"{choice.reason}; ONNX Runtime is used instead"
    return Check("tensorrt", False, detail, required=False)


def _cameras() -> Check:
    cameras = devices.list_cameras()
    text = ", ".join(f"{camera['device']} ({camera['name']})" for camera in cameras)
    return Check(
        "cameras", bool(cameras), text or "none; plug one in, or use --input FILE or --camera test://", required=False
    )


def _microphones() -> Check:
    try:
        microphones = devices.list_microphones()
    except ClcrError as error:
        return Check("microphones", False, str(error), required=False)
    text = ", ".join(f"{microphone['index']}: {microphone['name']}" for microphone in microphones)
    return Check("microphones", bool(microphones), text or "none; use --input FILE or --mic none", required=False)


def _sources(config: Config) -> list[Check]:
    """How the sources are doing that a run would open; a device that is not there was told of already."""
    from clcr_stream.bundle.loader import load_bundle
    from clcr_stream.config import engine_options, stream_options
    from clcr_stream.sources.trial import try_sources
    from clcr_stream.window.grid import TimeGrid

    checks: list[Check] = []
    try:
        manifest = load_bundle(engine_options(config).folder).manifest
        for stream in stream_options(config):
            spec = _present(stream.sources, config)
            for tried in try_sources(spec, TimeGrid.of(manifest, time.monotonic_ns()), manifest.vision.size_px):
                report = tried.report
                well = report.state in ("live", "ended")
                checks.append(Check(f"{report.kind} {report.name}", well, _doing(report, tried.for_ns), required=False))
    except ClcrError as error:
        checks.append(Check("sources", False, str(error), required=False))
    return checks


def _doing(report: SourceReport, for_ns: int) -> str:
    """State, code and reason, for how long, how often each state has begun, and what was counted."""
    entered = ", ".join(f"{state} {number}" for state, number in report.entered.items())
    counts = ", ".join(f"{name} {number}" for name, number in report.counts.items())
    told = [
        report.state + (f" ({report.code})" if report.code else "") + (f": {report.reason}" if report.reason else ""),
        f"for {for_ns / NS_PER_S:.1f} s",
        f"states begun: {entered}" if entered else "",
        f"counts: {counts}" if counts else "",
    ]
    return "; ".join(filter(None, told))


def _present(spec: SourceSpec, config: Config) -> SourceSpec:
    """Without the first camera and the default microphone, which nobody named, where there is none."""
    named = config.sources
    camera = spec.camera if named.camera is not None or config.streams or devices.list_cameras() else "none"
    microphone = spec.microphone if named.mic is not None or config.streams or _microphones().ok else "none"
    if spec.input is not None:
        camera = microphone = "none"
    return dataclasses.replace(spec, camera=camera, microphone=microphone, transcript="none")


def _speech() -> Check:
    """Whether `--transcript auto` hears words."""
    from clcr_stream.sources.speech import choose, models

    try:
        text = choose.automatic()
        model = models.find(None)
    except ClcrError as error:
        return Check("speech", False, f"words are not heard: {error}", required=False)
    return Check("speech", True, f"{text} with {model.name} ({model.origin})", required=False)


def _endpoint(config: Config) -> str:
    from clcr_stream.clock import read_boot_id
    from clcr_stream.config import stream_options
    from clcr_stream.streams.account import Account
    from clcr_stream.streams.reports import Header, make_status
    from clcr_stream.wire.names import new_session_id
    from clcr_stream.wire.publisher import Publisher

    endpoints = []
    for stream in stream_options(config):
        header = Header(stream.name, new_session_id(), read_boot_id(), 0)
        status = make_status(Account(), (), header, 0.0)
        assert stream.publish is not None  # as every stream of a configuration is
        with Publisher(stream.publish, lambda: status) as publisher:  # noqa: B023 closed within the turn
            endpoints.append(publisher.endpoint)
    return f"{', '.join(endpoints)} can be bound"
