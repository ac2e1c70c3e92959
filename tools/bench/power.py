"""Power and clocks while something runs, where the platform tells them: RAPL, NVML (pynvml), a Jetson (jtop)."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.machine import frequencies_mhz
from bench.statistics import median

PERIOD_S = 0.5
POWERCAP = Path("/sys/class/powercap")
Sample = dict[str, float]
Reader = Callable[[], Sample]


class Unavailable(Exception):
    """A platform interface that is not there; the text says why."""


class PowerMeter:
    """Samples every interface that there is while its block runs; `report` gives medians, or null with the reason."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._stop = threading.Event()
        self._samples: dict[str, list[Sample]] = {}
        self._reasons: dict[str, str] = {}
        self._readers: dict[str, Reader] = {}
        self._close: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name="power-meter", daemon=True)

    def __enter__(self) -> PowerMeter:
        for name, opening in (("rapl", open_rapl), ("nvml", open_nvml), ("jtop", open_jtop), ("clocks", open_clocks)):
            try:
                self._readers[name], close = opening(self._period_s)
                self._close.append(close)
            except Unavailable as error:
                self._reasons[name] = str(error)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for close in self._close:
            close()

    def report(self) -> dict[str, Any]:
        """Per interface {measure: median of its samples} or null, and `reasons` for the nulls."""
        found: dict[str, Any] = {}
        for name in ("rapl", "nvml", "jtop", "clocks"):
            samples = self._samples.get(name, [])
            keys = sorted({key for sample in samples for key in sample})
            found[name] = {key: median([s[key] for s in samples if key in s], 2) for key in keys} or None
        short = {name: "the run ended before the first sample" for name in self._readers if found[name] is None}
        return {**found, "reasons": short | self._reasons}

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            for name, read in list(self._readers.items()):
                try:
                    sample = read()
                except Exception as error:  # a driver's own types; one interface that fails must not end the others
                    self._reasons[name] = f"{type(error).__name__}: {error}"
                    del self._readers[name]
                else:
                    self._samples.setdefault(name, []).append(sample)


def open_rapl(period_s: float, root: Path = POWERCAP) -> tuple[Reader, Callable[[], object]]:
    """Watts per RAPL package, from the energy counters' difference over the sampling period."""
    counters = {path.parent.name: path for path in sorted(root.glob("intel-rapl:?/energy_uj"))}
    try:
        before = {name: int(path.read_text()) for name, path in counters.items()}
    except OSError as error:
        raise Unavailable(f"{root}: {error.strerror}; reading energy_uj needs root") from None
    if not before:
        raise Unavailable(f"{root} has no intel-rapl package")

    def read() -> Sample:
        watts = {}
        for name, path in counters.items():
            now = int(path.read_text())
            # The counter wraps; a difference below zero says nothing.
            if now >= before[name]:
                watts[f"{name}_w"] = (now - before[name]) / 1e6 / period_s
            before[name] = now
        return watts

    return read, lambda: None


def open_nvml(period_s: float) -> tuple[Reader, Callable[[], object]]:
    """Watts and SM clock of each NVIDIA GPU."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        raise Unavailable("pynvml is not installed") from None
    except Exception as error:  # pynvml's NVMLError, whose class is only known once it is imported
        raise Unavailable(f"NVML: {error}") from None
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def read() -> Sample:
        found = {}
        for index, handle in enumerate(handles):
            found[f"gpu{index}_w"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            found[f"gpu{index}_sm_mhz"] = float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        return found

    return read, nvml.nvmlShutdown


def open_jtop(period_s: float) -> tuple[Reader, Callable[[], object]]:
    """Total watts of a Jetson's rails and the clock of its GPU, MHz (jetson-stats 4)."""
    try:
        jtop: Any = importlib.import_module("jtop")
        board = jtop.jtop(interval=period_s)
        board.start()
    except ImportError:
        raise Unavailable("jetson-stats is not installed; it exists for Jetsons only") from None
    except Exception as error:  # jtop raises its own type when its service is not running
        raise Unavailable(f"jtop: {error}") from None

    def read() -> Sample:
        found = {"board_w": board.power["tot"]["power"] / 1000}
        for name, gpu in board.gpu.items():
            found[f"{name}_mhz"] = gpu["freq"]["cur"] / 1000
        return found

    return read, board.close


def open_clocks(period_s: float) -> tuple[Reader, Callable[[], object]]:
    """The mean clock of the CPU's cores."""
    if not frequencies_mhz():
        raise Unavailable("neither cpufreq nor /proc/cpuinfo tells the clock")

    def read() -> Sample:
        now = frequencies_mhz() or []
        return {"cpu_mhz": sum(now) / len(now)} if now else {}

    return read, lambda: None
