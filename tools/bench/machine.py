"""What a figure depends on: the machine, the versions, the revision of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clcr-stream", "numpy", "onnxruntime", "onnx", "torch", "pyzmq", "msgspec", "opencv-python-headless", "av")
_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def machine() -> dict[str, Any]:
    """The machine as it is now; null where it does not say."""
    governor = _read(_CPU / "scaling_governor")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "governor": governor,
        "governor_reason": None if governor else f"{_CPU}/scaling_governor is not there",
        "frequency_mhz": frequencies_mhz(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "system": platform.platform(),
        "load_1_min_at_start": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """As the kernel names it; a device tree's name on ARM boards."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return (_read(Path("/proc/device-tree/model")) or platform.machine()).strip("\0")


def frequencies_mhz() -> list[float] | None:
    """Clock of each core now, from cpufreq or /proc/cpuinfo; None where neither says."""
    cores = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    values = [_read(path) for path in cores]
    if values:
        return [round(int(value) / 1000, 1) for value in values if value]
    lines = (_read(Path("/proc/cpuinfo")) or "").splitlines()
    return [round(float(line.partition(":")[2]), 1) for line in lines if line.startswith("cpu MHz")] or None


def versions() -> dict[str, str | None]:
    """Python and the packages that the figures come from; null when one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def revision() -> dict[str, Any]:
    """The commit of the checkout and whether tracked files differ from it; nulls outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    changed = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
