"""CLCR once more, in plain NumPy float64: written from the equations of docs/model.md, one sample at a time, no torch.

Names of weights are those of the PyTorch model, so that both can be given the same ones.
`python tests/support/reference.py` writes tests/golden/model.json anew.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]

MODALITIES = ("vision", "acoustic", "language")
WIDTH, SHARED, PRIVATE, HEADS, CLASSES = 16, 8, 4, 2, 3
VISION_CHANNELS, ACOUSTIC_CHANNELS, BANDS, SIZE_PX = (4, 6, 8), (3, 4), 8, 8
DILATIONS, HIDDEN, VOCABULARY = (1, 2, 4), 12, 20
GOLDEN = Path(__file__).parents[1] / "golden" / "model.json"


@dataclass(frozen=True)
class Sample:
    """One window. Absent modalities have no valid step."""

    frames: Array  # (Tv, 3, SIZE_PX, SIZE_PX), RGB 0..255; rows of masked slots are ignored
    vision_valid: Array  # (Tv,)
    mel: Array  # (4 * Ta, BANDS)
    acoustic_valid: Array  # (Ta,)
    token_ids: NDArray[np.int64]  # (N,)
    token_valid: Array  # (N,)
    steps: dict[str, int]  # absolute step of each modality's first token


@dataclass(frozen=True)
class Case:
    """What golden.json holds numbers for: which modalities, which gamma, which switches."""

    modalities: tuple[str, ...] = MODALITIES
    gamma: float = 1.0
    hierarchy: bool = True
    intraced: bool = True
    intercad: bool = True
    level_order: str = "aligned"
    pool_gate: str = "none"
    position: str = "absolute"


CASES = {
    "all": Case(),
    "no_language": Case(modalities=("vision", "acoustic")),
    "vision_only": Case(modalities=("vision",)),
    "nothing": Case(modalities=()),
    "gamma_0.3": Case(gamma=0.3),
    "gamma_0": Case(gamma=0.0),
    "no_hierarchy": Case(hierarchy=False),
    "no_intraced": Case(intraced=False),
    "no_intercad": Case(intercad=False),
    "full_mix": Case(level_order="shuffled"),
    "log_alpha": Case(pool_gate="log_alpha", gamma=0.6),
    "window_position": Case(position="window"),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the tiny model; bases as the full orthogonal matrices."""
    d, found = WIDTH, dict[str, tuple[int, ...]]()
    vision, (first, second) = VISION_CHANNELS, ACOUSTIC_CHANNELS

    def norm(name: str, channels: int) -> None:
        found.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})

    found["vision.stem.weight"] = (vision[0], 3, 3, 3)
    norm("vision.stem_norm", vision[0])
    for i, (a, b) in enumerate(pairwise(vision)):
        for part, shape in (("first", (b, a, 3, 3)), ("second", (b, b, 3, 3)), ("shortcut", (b, a, 1, 1))):
            found[f"vision.blocks.{i}.{part}.weight"] = shape
            norm(f"vision.blocks.{i}.{part}_norm", b)
    found |= {"vision.project.weight": (d, vision[-1]), "vision.project.bias": (d,)}
    found |= {"acoustic.mel_mean": (BANDS,), "acoustic.mel_std": (BANDS,)}
    found |= {"acoustic.first.weight": (first, 1, 3, 3), "acoustic.first.bias": (first,)}
    found |= {"acoustic.second.weight": (second, first, 3, 3), "acoustic.second.bias": (second,)}
    found |= {"acoustic.project.weight": (d, second * BANDS // 4), "acoustic.project.bias": (d,)}
    for level in range(3):
        found[f"language.table_{level}"] = (VOCABULARY, HIDDEN)
        for m in ("vision", "acoustic"):
            for k in range(2):
                stage = f"stages.{m}.{level}"
                found |= {f"{stage}.norms.{k}.weight": (d,), f"{stage}.norms.{k}.bias": (d,)}
                found |= {f"{stage}.convs.{k}.taps.weight": (d, 3 * d), f"{stage}.convs.{k}.taps.bias": (d,)}
        here = f"levels.{level}"
        for m in MODALITIES:
            found[f"project.{m}.{level}.weight"] = (d, HIDDEN if m == "language" else d)
            found |= {f"{here}.position_gain.{m}": (), f"{here}.evidence_slope.{m}": ()}
            found[f"{here}.qkv.{m}.weight"] = (3 * SHARED, SHARED)
            found[f"{here}.bases.private.{m}"] = (d - SHARED, d - SHARED)
        found |= {f"{here}.evidence_threshold": (), f"{here}.budget_logit": (), f"{here}.out.weight": (SHARED, SHARED)}
        found |= {f"{here}.evidence_mean": (3,), f"{here}.evidence_deviation": (3,)}
        found[f"{here}.bases.frame"] = (d, d)
    found |= {"intercad.summary.weight": (d, 2 * d), "intercad.anchors": (3, d)}
    found |= {"intercad.level_score.0.weight": (d, 3 * d), "intercad.level_score.0.bias": (d,)}
    found |= {"intercad.level_score.2.weight": (1, d), "intercad.level_score.2.bias": (1,)}
    found |= {f"intercad.{name}.weight": (d, d) for name in ("query", "key", "gate")}
    found |= {"intercad.gate_vector.weight": (1, d), "temperature.values": (8,)}
    found |= {"intercad.head.0.weight": (d, 2 * d), "intercad.head.0.bias": (d,)}
    return found | {"intercad.head.3.weight": (CLASSES, d), "intercad.head.3.bias": (CLASSES,)}


START = {"evidence_threshold": 0.1, "evidence_mean": 0.7, "evidence_deviation": 0.14, "budget_logit": -0.8}


def seeded_weights(seed: int) -> Weights:
    """Random weights of sensible sizes, every one different from its initial value."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in sorted(shapes().items()):
        values = rng.standard_normal(shape)
        last = name.rsplit(".", 1)[-1]
        if ".bases." in name:
            q, r = np.linalg.qr(values)
            values = q * np.sign(np.diag(r))
        elif last in ("running_var", "mel_std"):
            values = 1.0 + 0.3 * np.abs(values)
        elif ("norm" in name and last == "weight") or name == "temperature.values":
            values = 1.0 + 0.1 * values
        elif "evidence" in name or "budget" in name or "position_gain" in name:
            start = START.get(last, 1.7 if "slope" in name else 0.4)
            values = start * (1.0 + 0.05 * values)
        elif len(shape) > 1 and last not in ("anchors", "table_0", "table_1", "table_2"):
            values = values / math.sqrt(math.prod(shape[1:]))
        weights[name] = np.asarray(values, np.float32).astype(np.float64) if ".bases." not in name else values
    return weights


def seeded_sample(seed: int, modalities: tuple[str, ...] = MODALITIES) -> Sample:
    """A window of 7 slots, 9 sound tokens and 6 words, some of them masked."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (7, 3, SIZE_PX, SIZE_PX)).astype(np.float64)
    mel = np.round(rng.standard_normal((36, BANDS)) * 2, 3).astype(np.float32).astype(np.float64)
    ids = rng.integers(0, VOCABULARY, 6)
    valid = {"vision": np.ones(7), "acoustic": np.ones(9), "language": np.ones(6)}
    valid["vision"][[1, 4]], valid["acoustic"][6], valid["language"][5] = 0.0, 0.0, 0.0
    shown = {m: valid[m] * (m in modalities) for m in MODALITIES}
    steps = {"vision": 123, "acoustic": 205, "language": 40}
    return Sample(frames, shown["vision"], mel, shown["acoustic"], ids, shown["language"], steps)


def run(w: Weights, sample: Sample, case: Case) -> dict[str, Any]:
    """logits, omega, beta, eta and per level budget, alpha, s, p (lists in modality order)."""
    valid = {"vision": sample.vision_valid, "acoustic": sample.acoustic_valid, "language": sample.token_valid}
    hidden = {
        "vision": temporal(w, "vision", front_end(w, sample.frames, sample.vision_valid), valid["vision"]),
        "acoustic": temporal(w, "acoustic", stem(w, sample.mel, sample.acoustic_valid), valid["acoustic"]),
        "language": [w[f"language.table_{level}"][sample.token_ids] for level in range(3)],
    }
    tokens: list[dict[str, Array]] = []
    for level in range(3):
        found = {}
        for m in MODALITIES:
            z = hidden[m][level if case.hierarchy else 2] @ w[f"project.{m}.{level}.weight"].T
            start = sample.steps[m] if case.position == "absolute" else 0
            place = w[f"levels.{level}.position_gain.{m}"] * positions(start, len(z))
            found[m] = norm(z + place)
        tokens.append(found)
    levels = [exchange(w, level, tokens, valid, case) for level in range(3)]
    return aggregate(w, levels, np.array([float(valid[m].any()) for m in MODALITIES]), case) | {"levels": levels}


def positions(start: int, count: int) -> Array:
    table = np.zeros((count, WIDTH))
    for step in range(count):
        for i in range(0, WIDTH, 2):
            phase = (start + step) * 10000.0 ** (-i / WIDTH)
            table[step, i], table[step, i + 1] = math.sin(phase), math.cos(phase)
    return table


def norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0, eps: float = 1e-6) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias)


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0))))


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """x (channels, rows, columns), already padded; kernel (out, in, rows, columns)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.asarray(np.einsum("chwij,ocij->ohw", windows, kernel))


def front_end(w: Weights, frames: Array, valid: Array) -> Array:
    """A frame at a time: stem, residual blocks, mean over the image, projection."""

    def batch_norm(x: Array, name: str) -> Array:
        weight, bias, mean, var = (w[f"vision.{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        scale = weight / np.sqrt(var + 1e-5)
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def padded(x: Array) -> Array:
        return np.pad(x, ((0, 0), (1, 1), (1, 1)))

    out = np.zeros((len(frames), WIDTH))
    for step in np.flatnonzero(valid):
        x = convolve(padded((frames[step] - 127.5) / 64.0), w["vision.stem.weight"], 2)
        x = np.maximum(batch_norm(x, "stem_norm"), 0)
        for i in range(len(VISION_CHANNELS) - 1):
            block = f"blocks.{i}"
            y = convolve(padded(x), w[f"vision.{block}.first.weight"], 2)
            y = np.maximum(batch_norm(y, f"{block}.first_norm"), 0)
            y = batch_norm(convolve(padded(y), w[f"vision.{block}.second.weight"]), f"{block}.second_norm")
            short = batch_norm(convolve(x, w[f"vision.{block}.shortcut.weight"], 2), f"{block}.shortcut_norm")
            x = np.maximum(y + short, 0)
        out[step] = w["vision.project.weight"] @ x.mean((1, 2)) + w["vision.project.bias"]
    return out


def stem(w: Weights, mel: Array, valid: Array) -> Array:
    """Two causal convolutions of stride 2 in time and band; what is masked is zero."""
    x = (mel - w["acoustic.mel_mean"]) / w["acoustic.mel_std"] * np.repeat(valid, 4)[:, None]
    y = convolve(np.pad(x, ((1, 0), (1, 1)))[None], w["acoustic.first.weight"], 2)
    y = gelu(y + w["acoustic.first.bias"][:, None, None]) * np.repeat(valid, 2)[None, :, None]
    z = convolve(np.pad(y, ((0, 0), (1, 0), (1, 1))), w["acoustic.second.weight"], 2)
    z = gelu(z + w["acoustic.second.bias"][:, None, None])
    return z.transpose(1, 0, 2).reshape(len(valid), -1) @ w["acoustic.project.weight"].T + w["acoustic.project.bias"]


def temporal(w: Weights, modality: str, x: Array, valid: Array) -> list[Array]:
    """Z_1, Z_2, Z_3: y_t = b + sum_k W_k u_(t - (2 - k) d), u zero before the start and where masked."""
    outputs = []
    for level, dilation in enumerate(DILATIONS):
        for k in range(2):
            name = f"stages.{modality}.{level}"
            weight, bias = w[f"{name}.norms.{k}.weight"], w[f"{name}.norms.{k}.bias"]
            u = gelu(norm(x, weight, bias, 1e-5)) * valid[:, None]
            taps = w[f"{name}.convs.{k}.taps.weight"].reshape(WIDTH, 3, WIDTH)
            y = np.tile(w[f"{name}.convs.{k}.taps.bias"], (len(x), 1))
            for t in range(len(x)):
                for tap in range(3):
                    past = t - (2 - tap) * dilation
                    if past >= 0:
                        y[t] += taps[:, tap] @ u[past]
            x = x + y
        outputs.append(x)
    return outputs


def project(activation: Array, budget: float) -> Array:
    """The projection onto {0 <= a <= 1, sum a <= B}, by bisection on its one multiplier."""
    if np.clip(activation, 0, 1).sum() <= budget:
        return np.clip(activation, 0, 1)
    low, high = 0.0, float(activation.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(activation - middle, 0, 1).sum() > budget else (low, middle)
    return np.clip(activation - high, 0, 1)


def exchange(
    w: Weights, level: int, tokens: list[dict[str, Array]], valid: dict[str, Array], case: Case
) -> dict[str, Any]:
    """One level of IntraCED. Full Mix: modality j is taken from level + j, in that level's own coordinates."""
    mixed = case.level_order == "shuffled"
    z, coordinates, q, k, v, alpha, budget = ({} for _ in range(7))
    for j, m in enumerate(MODALITIES):
        own = f"levels.{(level + j) % 3 if mixed else level}"
        frame, mask = w[f"{own}.bases.frame"], valid[m][:, None]
        h = tokens[int(own[-1])][m]
        z[m] = h @ frame[:, :SHARED] * mask
        coordinates[m] = h @ frame[:, SHARED:] @ w[f"{own}.bases.private.{m}"][:, :PRIVATE] * mask
        q[m], k[m], v[m] = np.split(z[m] @ w[f"{own}.qkv.{m}.weight"].T, 3, -1)
        evidence = np.sqrt((h @ frame[:, :SHARED] @ frame[:, :SHARED].T) ** 2 @ np.ones(WIDTH))
        mean, deviation = w[f"{own}.evidence_mean"][j], w[f"{own}.evidence_deviation"][j]
        x = (evidence / math.sqrt(WIDTH) - mean) / deviation - w[f"{own}.evidence_threshold"]
        share = 1.0 / (1.0 + math.exp(-float(w[f"levels.{level}.budget_logit"])))
        budget[m] = case.gamma * share * valid[m].sum()
        alpha[m] = project(valid[m] / (1.0 + np.exp(-w[f"{own}.evidence_slope.{m}"] * x)), budget[m])
    frame = w[f"levels.{level}.bases.frame"]
    shared, private = [], []
    for m in MODALITIES:
        others = [o for o in MODALITIES if o != m]
        pool = np.concatenate([valid[o] for o in others]) > 0
        after = z[m]
        if case.intraced and pool.any():
            keys, values = (np.concatenate([x[o] for o in others])[pool] for x in (k, v))
            bias = np.log(np.concatenate([alpha[o] for o in others])[pool] + 1e-6) * (case.pool_gate == "log_alpha")
            received = attend(q[m], keys, values, bias) @ w[f"levels.{level}.out.weight"].T
            after = z[m] + alpha[m][:, None] * received
        here = valid[m] > 0
        basis = frame[:, SHARED:] @ w[f"levels.{level}.bases.private.{m}"][:, :PRIVATE]
        shared.append(norm(after[here].mean(0) @ frame[:, :SHARED].T) if here.any() else np.zeros(WIDTH))
        private.append(norm(coordinates[m][here].mean(0) @ basis.T) if here.any() else np.zeros(WIDTH))
    return {"s": np.array(shared), "p": np.array(private), "budget": [budget[m] for m in MODALITIES], "alpha": alpha}


def attend(q: Array, k: Array, v: Array, bias: Array) -> Array:
    size, out = SHARED // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        out.append(softmax(q[:, part] @ k[:, part].T / math.sqrt(size) + bias) @ v[:, part])
    return np.concatenate(out, -1)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def aggregate(w: Weights, levels: list[dict[str, Any]], present: Array, case: Case) -> dict[str, Any]:
    """InterCAD."""
    here, count = present > 0, max(1.0, present.sum())
    s_l, p_l = (np.array([level[kind] for level in levels]) for kind in ("s", "p"))  # (3 levels, 3 modalities, width)
    omega, beta, eta = np.full(3, 1 / 3), present / count, present.copy()
    if case.intercad:
        g = np.concatenate([s_l, p_l], -1).sum(1) / count @ w["intercad.summary.weight"].T
        anchors = w["intercad.anchors"]
        features = np.concatenate([g, anchors, g * anchors], -1)
        inner = gelu(features @ w["intercad.level_score.0.weight"].T + w["intercad.level_score.0.bias"])
        omega = softmax((inner @ w["intercad.level_score.2.weight"].T + w["intercad.level_score.2.bias"])[:, 0])
    s, p = np.einsum("l,lmd->md", omega, s_l), np.einsum("l,lmd->md", omega, p_l)
    if case.intercad:
        query = s.sum(0) / count @ w["intercad.query.weight"].T
        scores = s @ w["intercad.key.weight"].T @ query / math.sqrt(WIDTH)
        beta[here] = softmax(scores[here]) if here.any() else 0.0
        gate = norm(p @ w["intercad.gate.weight"].T) @ w["intercad.gate_vector.weight"][0]
        eta = present / (1.0 + np.exp(-gate))
    u = np.concatenate([beta @ s, eta @ p])
    inner = gelu(w["intercad.head.0.weight"] @ u + w["intercad.head.0.bias"])
    logits = w["intercad.head.3.weight"] @ inner + w["intercad.head.3.bias"]
    return {"logits": logits, "omega": omega, "beta": beta, "eta": eta}


def golden_numbers(weights_seed: int, sample_seed: int) -> dict[str, Any]:
    """Of every case: the public outputs, and each level's budgets, activations and the first numbers of s and p."""
    weights = seeded_weights(weights_seed)
    cases = {}
    for name, case in CASES.items():
        out = run(weights, seeded_sample(sample_seed, case.modalities), case)
        numbers = {key: rounded(out[key]) for key in ("logits", "omega", "beta", "eta")}
        numbers["levels"] = [
            {
                "budget": rounded(level["budget"]),
                "alpha": {m: rounded(level["alpha"][m]) for m in MODALITIES},
                "s": rounded(level["s"][:, :4]),
                "p": rounded(level["p"][:, :4]),
            }
            for level in out["levels"]
        ]
        cases[name] = numbers
    return {"weights_seed": weights_seed, "sample_seed": sample_seed, "cases": cases}


def rounded(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), 9).tolist()


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden_numbers(7, 11), indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
