"""Prove the main job on real input and write the figures as one JSON.

    .venv/bin/python tools/prove.py                        the clips of ../shared/data, else a generated one
    .venv/bin/python tools/prove.py talk.mp4 more.mp4      your own; talk.srt beside a clip is its transcript
    .venv/bin/python tools/prove.py --bundle engines/mine -o proof.json

Runs the tests of real clips, of the virtual microphone and of the network camera, which assert the contract, and keeps
what they record. Under 3 minutes. Exit code 0: all hold (skipped ones are named with their reason); 1: one does not.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The tests' helpers know how to run and check a session; the tests are what this tool runs.
sys.path.insert(0, str(ROOT / "tests/support"))

from job_clips import BUNDLE, CLIPS, DATA, Clip, generated_clip  # noqa: E402

TESTS = ("streams/test_real_clip.py", "sources/test_network_camera.py", "sources/test_virtual_microphone.py")
TARGET = ROOT / "docs/benchmarks/proof.json"
PACKAGES = (
    "clcr-stream",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "av",
    "pyzmq",
    "msgspec",
    "tokenizers",
    "PyAudio",
)


class Collector:
    """A pytest plugin: gives the tests their clips and bundle, and keeps outcome, seconds and figures of each."""

    def __init__(self, clips: list[Clip] | None, bundle: Path | None) -> None:
        self._clips, self._bundle = clips, bundle
        self.results: dict[str, dict[str, Any]] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Put what was given where the tests' fixtures look for it."""
        if self._clips is not None:
            config.stash[CLIPS] = self._clips
        if self._bundle is not None:
            config.stash[BUNDLE] = self._bundle

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown of a test become one result; a failure in any is its outcome."""
        result = self.results.setdefault(report.nodeid.split("/")[-1], {"outcome": "passed", "seconds": 0.0})
        result["seconds"] = round(result["seconds"] + report.duration, 2)
        if report.failed or report.skipped:
            result["outcome"] = report.outcome
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            result["reason"] = reason.strip().splitlines()[-1]
        result |= {"figures": dict(report.user_properties)} if report.user_properties else {}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "load_1_min_at_start": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the packages that a session runs on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def given_clips(paths: Sequence[Path], folder: Path) -> list[Clip] | None:
    """The caller's clips, each with the .srt beside it; a generated one without data; None leaves the tests theirs."""
    if not paths:
        return None if DATA.exists() else [generated_clip(folder)]
    found = []
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"prove: error: {path}: no such file; give video files with sound, at most two")
        srt = path.resolve().with_suffix(".srt")
        found.append(Clip(path.stem, path.resolve(), srt if srt.is_file() else None))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof and write its JSON; the exit code."""
    parser = argparse.ArgumentParser(description="Prove the main job on real input and write the figures as one JSON.")
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP", help="at most two video files with sound")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="engine bundle (default: engines/default)")
    parser.add_argument("-o", "--output", type=Path, default=TARGET, metavar="FILE", help="docs/benchmarks/proof.json")
    given = parser.parse_args(arguments)
    if len(given.clips) > 2:
        parser.error(f"{len(given.clips)} clips: at most two are used")
    about = {"machine": machine(), "versions": versions()}
    started_at, start_ns = datetime.datetime.now(datetime.timezone.utc), time.monotonic_ns()
    with tempfile.TemporaryDirectory() as folder:
        bundle = given.bundle.resolve() if given.bundle is not None else None
        collector = Collector(given_clips(given.clips, Path(folder)), bundle)
        tests = [str(ROOT / "tests" / name) for name in TESTS]
        code = pytest.main(["-q", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *tests], [collector])
    manifest = json.loads(((bundle or ROOT / "engines/default") / "manifest.json").read_text())
    document = {
        "command": " ".join(["tools/prove.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "started_at": started_at.isoformat(timespec="seconds"),
        "seconds": round((time.monotonic_ns() - start_ns) / 1e9, 1),
        "holds": code == 0,
        **about,
        "bundle": {"name": manifest["name"], "checkpoint": manifest["provenance"].get("checkpoint")},
        "tests": collector.results,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"prove: {'all hold' if code == 0 else 'NOT all hold'}; wrote {given.output}")
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
