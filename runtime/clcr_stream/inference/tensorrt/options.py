"""What a user may set of TensorRT: how ticks run, and what the builder may do. Python 3.9, standard library alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from clcr_stream.errors import BackendError


@dataclass(frozen=True)
class BuildOptions:
    """What the builder may do, named as trtexec names it (`parse`); None leaves TensorRT's default."""

    builder_optimization_level: int | None = None
    avg_timing: int | None = None
    max_aux_streams: int | None = None
    workspace_mib: int | None = None  # memPoolSize=workspace:MIB
    tactic_sources: str = ""  # for example "-CUBLAS,-CUBLAS_LT,-CUDNN"
    tf32: bool = False  # a float32 bundle means float32: TF32 has ten bits of fraction
    use_dla_core: int | None = None
    allow_gpu_fallback: bool = True

    @staticmethod
    def parse(flags: Mapping[str, str]) -> BuildOptions:
        """From trtexec's names and texts; BackendError names what is not allowed."""
        values: dict[str, Any] = {}
        for name, text in flags.items():
            if name not in _FLAGS:
                raise BackendError(f"builder option {name!r} is unknown; allowed: {', '.join(_FLAGS)}")
            flag = _FLAGS[name]
            try:
                values[flag.field] = flag.read(text)
            except (ValueError, KeyError):
                raise BackendError(f"builder option {name}: {text!r} is not {flag.allowed}") from None
        return BuildOptions(**values)

    def flags(self) -> dict[str, str]:
        """trtexec's names and texts of what differs from the defaults: `parse` of them gives these options."""
        default = BuildOptions()
        return {
            name: flag.write(getattr(self, flag.field))
            for name, flag in _FLAGS.items()
            if getattr(self, flag.field) != getattr(default, flag.field)
        }

    def text(self) -> str:
        """The same text for the same options: part of a plan's key."""
        return " ".join(f"{option.name}={getattr(self, option.name)}" for option in fields(self))


@dataclass(frozen=True)
class Options:
    """How ticks run; `mapped_memory` lets the engines read inputs in host memory (worth it where both are one)."""

    device: int = 0
    cuda_graph: bool = True
    blocking_wait: bool = False
    mapped_memory: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class _Flag:
    """One of trtexec's options: the field it sets, text -> value and back, and what may be given."""

    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str
    allowed: str = "a whole number"


def _read_bool(text: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[text.lower()]


def _read_workspace(text: str) -> int:
    pool, _, mib = text.partition(":")
    return {"workspace": int}[pool](mib)


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


_FLAGS: dict[str, _Flag] = {
    "builderOptimizationLevel": _Flag("builder_optimization_level", int),
    "avgTiming": _Flag("avg_timing", int),
    "maxAuxStreams": _Flag("max_aux_streams", int),
    "memPoolSize": _Flag("workspace_mib", _read_workspace, lambda mib: f"workspace:{mib}", "workspace:MIB"),
    "tacticSources": _Flag("tactic_sources", str),
    "noTF32": _Flag(
        "tf32", lambda text: not _read_bool(text), lambda tf32: _write_bool(not tf32), allowed="true or false"
    ),
    "useDLACore": _Flag("use_dla_core", int),
    "allowGPUFallback": _Flag("allow_gpu_fallback", _read_bool, _write_bool, "true or false"),
}
BUILD_FLAGS = tuple(_FLAGS)
