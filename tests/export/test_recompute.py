"""The model without streaming: recomputed with its past a window equals the engines, without it it does not.

The engines run in PyTorch here: that a graph says what its module says is proved by every export (tests/export).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from clcr.network.config import LEVELS
from clcr.network.model import CLCR
from clcr.network.streaming import DESCRIBED, SPEECH_POSITION, Grid
from clcr_export.graphs import Graph, export_graph, streaming_modules
from clcr_export.macs import multiply_adds
from clcr_export.operators import check_operators
from clcr_export.proof import Arrays, Chain, Scenario, hop_inputs, make_scenario, sessions
from clcr_export.recompute import Recompute, acoustic_field, export_faces, export_recompute, receptive_field
from clcr_stream.bundle.manifest import EngineSpec
from tiny_checkpoint import CONFIG, tiny_model

GRID = Grid(vision_tokens=12, acoustic_tokens=20, language_tokens=16, size_px=32)  # a window of four hops
HOPS = 16
CONTEXT = 28


@pytest.fixture(scope="module")
def model() -> CLCR:
    return tiny_model()


@pytest.fixture(scope="module")
def scenario(model: CLCR) -> Scenario:
    """Sixteen hops with holes in picture and sound, and words from the first hop on."""
    found = make_scenario(model, GRID, HOPS, seed=5)
    rng = np.random.default_rng(5)
    found.vision_valid[:] = rng.random(found.vision_valid.shape) > 0.2
    found.token_valid[:] = found.token_valid.max(0)
    found.token_ids[:] = found.token_ids[-1]
    return found


def chained(model: CLCR, scenario: Scenario) -> list[dict[str, Arrays]]:
    """What the chained engines say, tick by tick."""
    untraced = EngineSpec(file="", inputs=[], outputs=[], state=[])
    engines = {name: Graph(b"", untraced, module) for name, module in streaming_modules(model, GRID).items()}
    chain = Chain(engines, model, lambda name, inputs: eager(engines[name].module, inputs))
    return [chain.tick(scenario, index) for index in range(scenario.hops)]


@pytest.fixture(scope="module")
def streamed(model: CLCR, scenario: Scenario) -> list[dict[str, Arrays]]:
    return chained(model, scenario)


def tail(values: NDArray[Any], count: int) -> NDArray[np.float32]:
    """The last `count` steps of (hops, steps, ...), zeros where the stream had not begun, as one stream."""
    steps = values.reshape(-1, *values.shape[2:])[-count:].astype(np.float32)
    return np.concatenate([np.zeros((count - len(steps), *steps.shape[1:]), np.float32), steps])[None]


def speech_positions_of(module: Recompute, hops: list[Arrays]) -> NDArray[np.float32]:
    """The speech encoder's positions of all steps that the module is given."""
    return tail(np.concatenate([hop[SPEECH_POSITION] for hop in hops]), 2 * module.acoustic_steps.given)


def window_inputs(model: CLCR, module: Recompute, scenario: Scenario, ticks: int, words: Arrays) -> Arrays:
    """What a user who keeps no state gives to the model after `ticks` ticks."""
    vision, acoustic = module.vision_steps, module.acoustic_steps
    hops = [hop_inputs(model, scenario, index) for index in range(ticks)]
    position = {
        m: tail(np.concatenate([hop[f"{m}_position"] for hop in hops]), steps.window)
        for m, steps in (("vision", vision), ("acoustic", acoustic))
    }
    return {
        "frames": tail(scenario.frames[:ticks], vision.given),
        "mel": tail(scenario.mel[:ticks], 4 * acoustic.given),
        "vision_valid": tail(scenario.vision_valid[:ticks], vision.given),
        "acoustic_valid": tail(scenario.acoustic_valid[:ticks], acoustic.given),
        **({SPEECH_POSITION: speech_positions_of(module, hops)} if SPEECH_POSITION in module.input_names else {}),
        "vision_position": position["vision"],
        "acoustic_position": position["acoustic"],
        **{name: words[name] for name in module.input_names if name in words},
        "gamma": np.ones((1, 1), np.float32),
    }


def recomputed(graph: Graph, inputs: Arrays) -> dict[str, dict[str, NDArray[Any]]]:
    """The answers of ONNX Runtime and of the PyTorch module."""
    return {
        "onnxruntime": sessions({"recompute": graph})("recompute", inputs),
        "pytorch": eager(graph.module, inputs),
    }


def eager(module: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The answer of the PyTorch module."""
    with torch.no_grad(), parametrize.cached():
        outputs = module(*(torch.from_numpy(inputs[name]) for name in module.input_names))
    return dict(zip(module.output_names, (value.numpy() for value in outputs), strict=True))


@pytest.fixture(scope="module")
def exact(model: CLCR) -> Graph:
    return export_recompute(model, GRID, CONTEXT)


@pytest.mark.parametrize("ticks", [1, 3, 7, 13, 16])
def test_a_window_recomputed_with_its_past_says_what_the_chained_engines_say(
    model: CLCR, exact: Graph, scenario: Scenario, streamed: list[dict[str, Arrays]], ticks: int
) -> None:
    module: Any = exact.module
    tick = streamed[ticks - 1]
    inputs = window_inputs(model, module, scenario, ticks, tick["language"])
    wanted = tick["intercad"] | {"present": tick["level1"]["present"]}
    for answer in recomputed(exact, inputs).values():
        assert set(answer) == set(wanted)
        for name, value in answer.items():
            np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_window_recomputed_without_its_past_says_something_else(
    model: CLCR, scenario: Scenario, streamed: list[dict[str, Arrays]]
) -> None:
    module = Recompute(model, GRID, 0).eval()
    assert (module.vision_steps.given, module.acoustic_steps.given) == (12, 20)
    inputs = window_inputs(model, module, scenario, HOPS, streamed[-1]["language"])
    assert np.abs(eager(module, inputs)["probs"] - streamed[-1]["intercad"]["probs"]).max() > 1e-4


@pytest.mark.parametrize("short", [4, 12])
def test_less_than_the_receptive_field_gives_another_answer(
    model: CLCR, exact: Graph, scenario: Scenario, streamed: list[dict[str, Arrays]], short: int
) -> None:
    module: Any = exact.module
    inputs = window_inputs(model, module, scenario, HOPS, streamed[-1]["language"])
    shorter = Recompute(model, GRID, CONTEXT - short).eval()
    cut = inputs | {
        "frames": inputs["frames"][:, short:],
        "vision_valid": inputs["vision_valid"][:, short:],
        "mel": inputs["mel"][:, 4 * short :],
        "acoustic_valid": inputs["acoustic_valid"][:, short:],
    }
    with torch.no_grad():
        whole, less = (
            m(*(torch.from_numpy(given[name]) for name in m.input_names))
            for m, given in ((module, inputs), (shorter, cut))
        )
    assert not torch.equal(whole[0], less[0])


def test_the_context_is_the_receptive_field_of_the_three_stages(model: CLCR, exact: Graph) -> None:
    module: Any = exact.module
    assert receptive_field(model) == CONTEXT
    assert (module.vision_steps.given, module.acoustic_steps.given) == (12 + 28, 20 + 28 + 1)
    with pytest.raises(ValueError, match=r"left_context is -1; allowed: 0"):
        Recompute(model, GRID, -1)


def test_language_comes_described_and_the_number_of_streams_is_free(exact: Graph) -> None:
    module: Any = exact.module
    described = {f"language_{part}_{level}" for part in DESCRIBED for level in LEVELS}
    assert described < set(module.input_names)
    assert module.input_names == tuple(module.example())
    inputs = {name: value.numpy() for name, value in module.example(2).items()}
    run = sessions({"recompute": exact})
    both = run("recompute", inputs)
    for row in range(2):
        alone = run("recompute", {name: value[row : row + 1].copy() for name, value in inputs.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(both[name][row : row + 1], value, rtol=0, atol=1e-5, err_msg=name)


def test_the_peer_uses_no_operator_that_the_engines_may_not_use(exact: Graph) -> None:
    assert check_operators("recompute", onnx.load_from_string(exact.data))["Conv"] > 0


def test_the_paper_s_front_end_is_exported_as_well() -> None:
    module: Any = streaming_modules(tiny_model(replace(CONFIG, vision_front_end="resnet18")), GRID)["level1"]
    graph = export_graph("level1", module)
    assert check_operators("level1", onnx.load_from_string(graph.data))["MaxPool"] == 1
    example = module.example()
    with torch.no_grad():
        expected = dict(zip(module.output_names, module(*example.values()), strict=True))
    found = sessions({"level1": graph})("level1", {name: value.numpy() for name, value in example.items()})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=0, atol=1e-4, err_msg=name)


def test_a_model_with_baselines_carried_from_window_to_window_says_what_the_chained_engines_say() -> None:
    """The state before a window is what the window before it gave.

    Trust of 15 steps and horizon of 20 are reached in the course of the 14 ticks: seven hops of picture, four of sound.
    """
    model = tiny_model(replace(CONFIG, baseline=True))
    with torch.no_grad():
        for layer in (layer for m in ("vision", "acoustic") for layer in model.baselines_of(m)):
            layer.shift.normal_(0, 0.5)
            layer.log_prior.fill_(2.0)
            layer.horizon, layer.trust = 20.0, 15.0
    scenario = make_scenario(model, GRID, 14, seed=8)
    rng = np.random.default_rng(8)
    scenario.vision_valid[:] = rng.random(scenario.vision_valid.shape) > 0.3
    scenario.acoustic_valid[:] = rng.random(scenario.acoustic_valid.shape) > 0.2
    scenario.vision_valid[:3] = 0  # nobody is seen at first
    answers = chained(model, scenario)
    whole, cached = (export_recompute(model, GRID, CONTEXT, cached_faces=faces) for faces in (False, True))
    faces = export_faces(model, GRID)
    for graph in (whole, cached, faces):
        check_operators("recompute", onnx.load_from_string(graph.data))
        assert sum(multiply_adds(graph.data).values()) > 1e5  # every shape is known
    run, module = sessions({"recompute": whole}), whole.module
    assert isinstance(module, Recompute) and len(module.state_names) == 12
    state = {name: value.numpy() for name, value in module.example().items() if name in module.state_names}
    moved, seen = 0.0, list[NDArray[Any]]()
    for ticks, tick in enumerate(answers, 1):
        inputs = window_inputs(model, module, scenario, ticks, tick["language"])
        carried, cold = run("recompute", inputs | state), run("recompute", inputs | zeros(state))
        np.testing.assert_allclose(carried["probs"], tick["intercad"]["probs"], rtol=0, atol=1e-5, err_msg=str(ticks))
        moved = max(moved, float(np.abs(carried["probs"] - cold["probs"]).max()))
        # The same from the features of each frame, which are made once.
        frames = scenario.frames[ticks - 1][None].astype(np.float32)
        seen.append(sessions({"faces": faces})("faces", {"frames": frames})["face_features"][0])
        features = tail(np.stack(seen), module.vision_steps.given)
        kept = {name: value for name, value in inputs.items() if name != "frames"}
        again = sessions({"recompute": cached})("recompute", kept | state | {"face_features": features})
        np.testing.assert_allclose(again["probs"], carried["probs"], rtol=0, atol=1e-5)
        state = {name: carried[f"{name}_next"] for name in state}
    assert moved > 1e-4
    assert float(state["vision_baseline_steps_3"][0, 0]) > 0


def zeros(state: Arrays) -> Arrays:
    return {name: np.zeros_like(value) for name, value in state.items()}


def test_the_speech_encoder_recomputed_with_its_past_says_what_the_chained_engines_say() -> None:
    """A context of one block: three layers see three blocks back, the stem a part of a fourth."""
    sizes = {"mel_bands": 80, "speech_width": 24, "speech_heads": 2, "speech_inner": 32, "speech_context": 10}
    model = tiny_model(replace(CONFIG, acoustic_encoder="whisper", **sizes))  # type: ignore[arg-type]
    scenario = make_scenario(model, GRID, 12, seed=6)
    scenario.acoustic_valid[:] = np.random.default_rng(6).random(scenario.acoustic_valid.shape) > 0.2
    ticks = chained(model, scenario)
    assert acoustic_field(model) == 20
    graph, shorter = export_recompute(model, GRID, CONTEXT), Recompute(model, GRID, CONTEXT - 20).eval()
    module: Any = graph.module
    assert (module.acoustic_steps.given, shorter.acoustic_steps.given) == (20 + 20, 20)
    check_operators("recompute", onnx.load_from_string(graph.data))
    assert sum(multiply_adds(graph.data).values()) > 1e6  # every shape is known
    exact, less = 0.0, 0.0
    for count in (2, 6, 12):
        expected, words = ticks[count - 1]["intercad"]["probs"], ticks[count - 1]["language"]
        for answer in recomputed(graph, window_inputs(model, module, scenario, count, words)).values():
            exact = max(exact, float(np.abs(answer["probs"] - expected).max()))
        cut = eager(shorter, window_inputs(model, shorter, scenario, count, words))
        less = max(less, float(np.abs(cut["probs"] - expected).max()))
    assert exact < 1e-5 and less > 1e-4
