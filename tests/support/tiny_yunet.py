"""A network with YuNet's inputs and outputs that takes every bright spot for a face; none of YuNet's weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
SEES = 32  # the stride whose cells answer; those of the others say no
SIDE_PX = 80  # of every box, in pixels of the picture that is searched
BRIGHT = 128.0
LANDMARKS = ((0, 0), (1, 0), (0.5, 0.5), (0, 1), (1, 1))  # in a cell: eyes, nose, corners of the mouth


def write_yunet(path: Path) -> Path:
    """The network as a file that cv2.FaceDetectorYN reads."""
    nodes, consts = [], {}
    outputs = [f"{name}_{stride}" for name in ("cls", "obj", "bbox", "kps") for stride in STRIDES]

    def const(name: str, value: np.ndarray) -> str:
        consts[name] = numpy_helper.from_array(value, name)
        return name

    for stride in STRIDES:
        pooled = f"pooled_{stride}"
        nodes.append(
            helper.make_node("AveragePool", ["input"], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            weights = np.zeros((channels, 3, 1, 1), np.float32)
            bias = np.zeros(channels, np.float32)
            if name in ("cls", "obj") and stride == SEES:
                weights[:] = 1 / (3 * 64)  # 0 at BRIGHT, 1 at 64 above
                bias[:] = -BRIGHT / 64
            if name == "bbox":
                bias[:] = (0.5, 0.5, math.log(SIDE_PX / stride), math.log(SIDE_PX / stride))
            if name == "kps":
                bias[:] = np.ravel(LANDMARKS)
            key = f"{name}_{stride}"
            made = [const(f"{key}_w", weights), const(f"{key}_b", bias)]
            nodes.append(helper.make_node("Conv", [pooled, *made], [f"{key}_conv"], kernel_shape=[1, 1]))
            nodes.append(helper.make_node("Transpose", [f"{key}_conv"], [f"{key}_rows"], perm=[0, 2, 3, 1]))
            shape = const(f"{key}_shape", np.array([1, -1, channels], np.int64))
            last = key if name in ("bbox", "kps") else f"{key}_flat"
            nodes.append(helper.make_node("Reshape", [f"{key}_rows", shape], [last]))
            if last != key:
                limits = [
                    const(f"{key}_{name}", np.array(value, np.float32)) for name, value in (("low", 0), ("high", 1))
                ]
                nodes.append(helper.make_node("Clip", [last, *limits], [key]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "cells", "values"]) for name in outputs],
        list(consts.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
