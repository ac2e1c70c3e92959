"""A streaming transducer for sherpa-onnx that hears tones: a piece of a word begins where its tone does.

The smallest kind that the library has (`lstm`): three graphs of a few kilobytes. Like a real one it says a piece a bit
late, by one output (40 ms), and it remembers what sounded last: a lost or repeated state gives other words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

RATE_HZ = 16_000
FRAMES = 16  # of 10 ms, that the encoder reads at once; it gives one output for four
OUTPUTS = FRAMES // 4
BANDS = 80
LOUD = 0.0  # log energy of a band above which its tone sounds; silence has -16, a tone at LEVEL 6
LEVEL = 0.1
FIRST_BAND, BANDS_APART = 16, 10
TONE_S = 0.1
FADE_S = 0.02  # no click, which would sound in all bands

Consts = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


def write_transducer(folder: Path, pieces: Sequence[str], name: str = "-tiny", streaming: bool = True) -> None:
    """encoder, decoder and joiner `<part><name>.onnx` and tokens.txt; up to six `pieces`, by number from 0.

    A word begins with "▁" (U+2581). Not `streaming`: an encoder that does not name its step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, model in (
        ("encoder", _encoder(1 + len(pieces), streaming)),
        ("decoder", _decoder(1 + len(pieces))),
        ("joiner", _joiner(1 + len(pieces))),
    ):
        onnx.save(model, str(folder / f"{part}{name}.onnx"))
    lines = [f"{text} {number}\n" for number, text in enumerate(["<blk>", *pieces])]
    (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")


def tones(script: Iterable[tuple[float, int]], length_s: float) -> NDArray[np.float32]:
    """Silence with the tones of pieces: when each begins, in seconds, and its number."""
    sound = np.zeros(round(length_s * RATE_HZ), np.float32)
    time_s = np.arange(round(TONE_S * RATE_HZ)) / RATE_HZ
    fade = np.minimum(1, np.minimum(time_s, time_s[::-1]) / FADE_S)
    for start_s, piece in script:
        start = round(start_s * RATE_HZ)
        tone = LEVEL * fade * np.sin(2 * math.pi * _centre_hz(_band(piece)) * time_s)
        sound[start : start + len(tone)] += tone.astype(np.float32)[: len(sound) - start]
    return sound


def _band(piece: int) -> int:
    return FIRST_BAND + BANDS_APART * piece


def _centre_hz(band: int) -> float:
    """Of a band of Kaldi's filter bank from 20 to 7,600 Hz."""
    low, high = (1127 * math.log(1 + hz / 700) for hz in (20, 7600))
    return 700 * (math.exp((low + (band + 1) * (high - low) / (BANDS + 1)) / 1127) - 1)


def _encoder(size: int, streaming: bool) -> onnx.ModelProto:
    """x (N, FRAMES, BANDS) -> (N, OUTPUTS, size): 5 where a tone began one output before, else -5; the blank has 0.

    Its state: h (1, N, size), which tones sounded last, and c (1, N, size), which ones began.
    """
    choose = np.zeros((BANDS, size), np.float32)
    for piece in range(size - 1):
        choose[_band(piece), piece + 1] = 1
    of_piece = np.array([0] + [1] * (size - 1), np.float32)
    consts: Consts = {
        "shape": np.array([0, OUTPUTS, 4, BANDS]),
        "choose": choose,
        "loud": LOUD + 1e6 * (1 - of_piece),  # the blank has no tone
        "scale": 10 * of_piece,
        "offset": -5 * of_piece,
        "zero": np.array([0]), "last": np.array([OUTPUTS - 1]), "end": np.array([OUTPUTS]), "axis": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["grouped"]),
        helper.make_node("ReduceMax", ["grouped"], ["loudest"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["loudest", "choose"], ["energy"]),
        helper.make_node("Greater", ["energy", "loud"], ["sounds"]),
        helper.make_node("Cast", ["sounds"], ["now"], to=TensorProto.FLOAT),
        *_one_before("now", "h", "before", "next_h"),
        helper.make_node("Sub", ["now", "before"], ["begins"]),
        *_one_before("begins", "c", "began", "next_c"),
        helper.make_node("Mul", ["began", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["encoder_out"]),
    ]
    meta = {"model_type": "lstm", "num_encoder_layers": 1, "T": FRAMES, "rnn_hidden_size": size, "d_model": size}
    if streaming:
        meta["decode_chunk_len"] = FRAMES
    inputs = [_floats("x", "N", FRAMES, BANDS), _floats("h", 1, "N", size), _floats("c", 1, "N", size)]
    outputs = [
        _floats("encoder_out", "N", OUTPUTS, size), _floats("next_h", 1, "N", size), _floats("next_c", 1, "N", size),
    ]  # fmt: skip
    return _model(nodes, inputs, outputs, consts, meta)


def _one_before(now: str, state: str, before: str, next_state: str) -> list[onnx.NodeProto]:
    """Values (N, OUTPUTS, size) one output later; the last one is the next state."""
    return [
        helper.make_node("Transpose", [state], [f"first_{before}"], perm=[1, 0, 2]),
        helper.make_node("Slice", [now, "zero", "last", "axis"], [f"other_{before}"]),
        helper.make_node("Concat", [f"first_{before}", f"other_{before}"], [before], axis=1),
        helper.make_node("Slice", [now, "last", "end", "axis"], [f"last_{now}"]),
        helper.make_node("Transpose", [f"last_{now}"], [next_state], perm=[1, 0, 2]),
    ]


def _decoder(size: int) -> onnx.ModelProto:
    """y (N, 1), the last piece -> zeros (N, size): what was said changes nothing."""
    nodes = [
        helper.make_node("Cast", ["y"], ["piece"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["piece", "zeros"], ["decoder_out"]),
    ]
    inputs = [helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 1])]
    consts: Consts = {"zeros": np.zeros((1, size), np.float32)}
    return _model(nodes, inputs, [_floats("decoder_out", "N", size)], consts, {"vocab_size": size, "context_size": 1})


def _joiner(size: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["encoder_out", "decoder_out"], ["logit"])]
    inputs = [_floats("encoder_out", "N", size), _floats("decoder_out", "N", size)]
    return _model(nodes, inputs, [_floats("logit", "N", size)], {}, {})


def _floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    consts: Consts,
    meta: Mapping[str, object],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(values, name) for name, values in consts.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in meta.items()})
    onnx.checker.check_model(model)
    return model
