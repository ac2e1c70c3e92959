"""Replays a bundle's golden vectors: do the engines say here what they said where they were exported?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.loader import Bundle
from clcr_stream.bundle.manifest import Manifest, language_words
from clcr_stream.errors import BackendError
from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.inference.program import LEVELS, Arrays, Backend, Runner

GOLDEN_NAME = "golden.npz"
TOLERANCE = 1e-4
TOLERANCES = {"tensorrt": 1e-3}  # other kernels, another order of additions; the bound of tools/gpu_check.py too
# The record holds int8 computed in float32. Integer sums round a few activations to the other side: 6e-3 was seen.
INT8_TOLERANCE = 2e-2
_ANY_COUNTS = np.ones(3)  # only scales what is not compared


def replay_golden(bundle: Bundle, backend: Backend) -> tuple[int, float] | None:
    """Like `replay_engines`, on engines that are opened for it; None when the bundle recorded nothing."""
    if GOLDEN_NAME not in bundle.files:
        return None
    return replay_engines(bundle, open_encoder(bundle, backend), Levels(bundle, backend))


def replay_engines(bundle: Bundle, encoder: Runner, levels: Levels) -> tuple[int, float] | None:
    """Hops replayed and the largest absolute difference to what the bundle recorded; None when it recorded nothing.

    The hops go through the same `Levels` as a session's, on a free seat. Raises BackendError when a difference is over
    the backend's tolerance or not a number.
    """
    if GOLDEN_NAME not in bundle.files:
        return None
    with np.load(io.BytesIO(bundle.files[GOLDEN_NAME]), allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    manifest = bundle.manifest
    allowed = TOLERANCES.get(levels.backend, TOLERANCE)
    if _holds_int8(manifest):
        allowed = max(allowed, INT8_TOLERANCE)
    seat = levels.take()
    rows, worst = levels.inputs(seat), 0.0
    for hop in range(len(golden["frames"])):
        for name, array in _language_inputs(golden, hop, manifest).items():
            encoder.inputs[name][0] = array
        encoder.run(0, 1)
        described = [f"{name}_{level}" for name in language_words(manifest) for level in LEVELS]
        words = {name: encoder.outputs[name][0] for name in described}
        for name, array in (_hop_inputs(golden, hop, manifest) | words).items():
            rows[name][...] = array
        rows["gamma"][0] = golden["gamma"]
        levels.run(seat, 1)
        said = levels.outputs(seat, _ANY_COUNTS)
        score = "value" if manifest.task == "regression" else "probs"
        for name, found in {score: said.output, "omega": said.omega, "beta": said.beta, "eta": said.eta}.items():
            difference = float(np.abs(found - golden[name][hop]).max())
            if not difference <= allowed:
                raise BackendError(
                    f"{levels.backend}: golden vectors of bundle {manifest.name}: {name} of hop {hop + 1} differs by "
                    f"{difference:.1e}, {allowed:.0e} is allowed; try another --backend or export the bundle again"
                )
            worst = max(worst, difference)
    levels.leave(seat)
    return len(golden["frames"]), worst


def _holds_int8(manifest: Manifest) -> bool:
    precision = manifest.provenance.get("precision")
    return isinstance(precision, dict) and precision.get("mode") == "int8"


def _language_inputs(golden: Arrays, hop: int, manifest: Manifest) -> Arrays:
    first = int(golden["language_step"][hop])
    return {
        "token_ids": golden["token_ids"][hop],
        "token_valid": golden["token_valid"][hop],
        "position": _positions(first, manifest.language.tokens, manifest),
    }


def _hop_inputs(golden: Arrays, hop: int, manifest: Manifest) -> dict[str, NDArray[Any]]:
    slots, tokens, speech = manifest.vision.slots_per_hop, manifest.acoustic.tokens_per_hop, manifest.acoustic.speech
    given = {
        "vision_in": golden["frames"][hop].astype(np.float32),
        "acoustic_in": golden["mel"][hop],
        "vision_valid": golden["vision_valid"][hop],
        "acoustic_valid": golden["acoustic_valid"][hop],
        "vision_position": _positions(hop * slots, slots, manifest),
        "acoustic_position": _positions(hop * tokens, tokens, manifest),
    }
    if speech is not None:
        steps = np.arange(hop * speech.steps_per_hop, (hop + 1) * speech.steps_per_hop)
        given["speech_position"] = speech_positions(steps, speech.width, speech.period_steps)
    return given


def _positions(first: int, count: int, manifest: Manifest) -> NDArray[Any]:
    steps = np.arange(first, first + count, dtype=np.int64)
    return sinusoid(steps, manifest.model.width, manifest.model.position_base)
