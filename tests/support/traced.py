"""An engine is traced once per run of the suite, whichever test or process asks for it first; the others wait for it.

Tracing is half of what an export costs and the subject of few tests; the others take the graphs from here. The proof
is most of the other half: where it is not the subject and what was exported is compared anyway, it is left out.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from clcr.network.config import ModelConfig
from clcr_export import precision, writer
from clcr_export.graphs import Graph, export_graph
from clcr_export.proof import Proof
from clcr_stream.bundle.manifest import EngineSpec

NOT_PROVED = Proof(0, step={"-": 0.0}, chained={"-": 0.0}, masked={"-": 0.0}, batched={"-": 0.0}, control={"-": 1.0})

OF_INTERCAD: dict[str, Any] = {"task": "classification", "labels": (), "intercad": True}  # nothing to other engines


@dataclass(frozen=True)
class TracedOnce:
    """`export_graph` with a memory: the graphs that were traced before from the same modules and weights."""

    folder: Path

    def __call__(self, name: str, module: Any, half_storage: bool | Literal["exact"] = False) -> Graph:
        stem = self.folder / f"{name}-{_digest(name, module, half_storage)}"
        graph, spec = stem.with_suffix(".onnx"), stem.with_suffix(".json")
        with stem.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not spec.is_file():
                traced = export_graph(name, module, half_storage)
                _write(graph, traced.data)
                _write(spec, msgspec.json.encode(traced.spec))  # last: what is there is whole
                return traced
        module.example()  # draws the random numbers that tracing would have drawn: the proof's clips follow
        return Graph(graph.read_bytes(), msgspec.json.decode(spec.read_bytes(), type=EngineSpec), module)


@contextmanager
def exports_trace_once(factory: pytest.TempPathFactory, proved: bool = True) -> Iterator[Callable[..., Graph]]:
    """Every export takes graphs that were traced before, by this process or another one of the same run.

    `proved` False: what is exported is compared with the model by the tests themselves, so the export's proof, which
    tests/export makes of the same model, is not made once more.
    """
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "traced"
    folder.mkdir(exist_ok=True)
    traced = TracedOnce(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "export_graph", traced)
        patch.setattr(precision, "export_graph", traced)
        if not proved:
            patch.setattr(writer, "prove", lambda *_: NOT_PROVED)
        yield traced


def _digest(name: str, module: Any, half_storage: object) -> str:
    """Of all that a trace depends on: the modules, their plain settings, weights and buffers."""
    digest = hashlib.sha256(repr((name, half_storage, module.input_names, module.output_names, module)).encode())
    for part in module.modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, (int, float, str, tuple)) or is_dataclass(v)}
        if name != "intercad" and isinstance(config := plain.get("config"), ModelConfig):
            plain["config"] = replace(config, **OF_INTERCAD)
        digest.update(repr((type(part).__name__, sorted(plain.items()))).encode())
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(key.encode() + tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
