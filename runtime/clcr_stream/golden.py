"""Replays a bundle's golden vectors: do the engines say here what they said where they were exported?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.backends import Arrays, Backend
from clcr_stream.bundle import Bundle
from clcr_stream.errors import BackendError
from clcr_stream.manifest import ENGINES, Manifest
from clcr_stream.positions import sinusoid

GOLDEN_NAME = "golden.npz"
TOLERANCE = 1e-4
LEVELS = (1, 2, 3)


def replay_golden(bundle: Bundle, backend: Backend) -> tuple[int, float] | None:
    """Hops replayed and the largest absolute difference to what the bundle recorded; None when it recorded nothing.

    Raises BackendError when a difference is over TOLERANCE or not a number.
    """
    if GOLDEN_NAME not in bundle.files:
        return None
    with np.load(io.BytesIO(bundle.files[GOLDEN_NAME]), allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    manifest = bundle.manifest
    engines = {name: backend.load(name, bundle.engine_bytes(name), manifest.engines[name]) for name in ENGINES}
    heads = ("value" if manifest.task == "regression" else "probs", "omega", "beta", "eta")
    worst = 0.0
    for hop in range(len(golden["frames"])):
        words: Arrays = engines["language"].run(_language_inputs(golden, hop, manifest))
        inputs = dict(_hop_inputs(golden, hop, manifest))
        pooled: dict[str, NDArray[Any]] = {}
        for level in LEVELS:
            out = engines[f"level{level}"].run({**inputs, "language_h": words[f"language_{level}"]})
            inputs.update(vision_in=out["vision_out"], acoustic_in=out["acoustic_out"])
            pooled.update(
                {f"shared_{level}": out["shared"], f"private_{level}": out["private"], "present": out["present"]}
            )
        head = engines["intercad"].run(pooled)
        for name in heads:
            difference = float(np.abs(head[name][0] - golden[name][hop]).max())
            if not difference <= TOLERANCE:
                raise BackendError(
                    f"{backend.name}: golden vectors of bundle {manifest.name}: {name} of hop {hop + 1} differs by "
                    f"{difference:.1e}, {TOLERANCE:.0e} is allowed; try another --backend or export the bundle again"
                )
            worst = max(worst, difference)
    return len(golden["frames"]), worst


def _language_inputs(golden: Arrays, hop: int, manifest: Manifest) -> Arrays:
    first = int(golden["language_step"][hop])
    return {
        "token_ids": golden["token_ids"][hop : hop + 1],
        "token_valid": golden["token_valid"][hop : hop + 1],
        "position": _positions(first, manifest.language.tokens, manifest),
    }


def _hop_inputs(golden: Arrays, hop: int, manifest: Manifest) -> Arrays:
    slots, tokens = manifest.vision.slots_per_hop, manifest.acoustic.tokens_per_hop
    return {
        "vision_in": golden["frames"][hop : hop + 1].astype(np.float32),
        "acoustic_in": golden["mel"][hop : hop + 1],
        "vision_valid": golden["vision_valid"][hop : hop + 1],
        "acoustic_valid": golden["acoustic_valid"][hop : hop + 1],
        "vision_position": _positions(hop * slots, slots, manifest),
        "acoustic_position": _positions(hop * tokens, tokens, manifest),
        "language_valid": golden["token_valid"][hop : hop + 1],
        "gamma": np.full((1, 1), golden["gamma"], np.float32),
    }


def _positions(first: int, count: int, manifest: Manifest) -> NDArray[Any]:
    steps = np.arange(first, first + count, dtype=np.int64)
    return sinusoid(steps, manifest.model.width, manifest.model.position_base)[None]
