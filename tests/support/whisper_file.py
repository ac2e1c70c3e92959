"""A tiny Whisper with random weights, as CTranslate2 writes one."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Variables = dict[str, NDArray[Any]]
CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


@dataclass(frozen=True)
class Widths:
    """Sizes of the tiny model."""

    bands: int = 12
    width: int = 8
    heads: int = 2
    inner: int = 16
    layers: int = 3


WIDTHS = Widths()


def random_whisper(seed: int, widths: Widths = WIDTHS) -> Variables:
    """Every variable of the encoder that the network reads, under CTranslate2's names."""
    rng = np.random.default_rng(seed)
    width = widths.width

    def normal(*shape: int) -> NDArray[np.float32]:
        drawn = rng.standard_normal(shape).astype(np.float32)
        return drawn / np.float32(math.sqrt(math.prod(shape[1:])))

    found: Variables = {
        "encoder/conv1/weight": normal(width, widths.bands, 3),
        "encoder/conv1/bias": 0.1 * normal(width),
        "encoder/conv2/weight": normal(width, width, 3),
        "encoder/conv2/bias": 0.1 * normal(width),
    }
    for index in range(widths.layers):
        for part, inner in (("self_attention", 3 * width), ("ffn", widths.inner)):
            name = f"encoder/layer_{index}/{part}"
            found[f"{name}/layer_norm/gamma"] = 1 + 0.2 * normal(width)
            found[f"{name}/layer_norm/beta"] = 0.2 * normal(width)
            found[f"{name}/linear_0/weight"] = normal(inner, width)
            found[f"{name}/linear_0/bias"] = 0.2 * normal(inner)
            found[f"{name}/linear_1/weight"] = normal(width, inner // 3 if part == "self_attention" else inner)
            found[f"{name}/linear_1/bias"] = 0.2 * normal(width)
    return found


def write_whisper(path: Path, variables: Variables, spec: str = "WhisperSpec", version: int = 6) -> None:
    """A model.bin: format, name of the model, revision, variables, aliases (none)."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(spec), struct.pack("<I", 3), struct.pack("<I", len(variables))]
    for name, value in variables.items():
        parts += [text(name), struct.pack("<B", value.ndim), struct.pack(f"<{value.ndim}I", *value.shape)]
        parts += [struct.pack("<BI", CODES[value.dtype.name], value.nbytes), value.tobytes()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join([*parts, struct.pack("<I", 0)]))
