"""Turns one tick's outputs into the message that leaves the process, and refuses what is not a valid answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import MODALITIES, Manifest
from clcr_stream.clock import NS_PER_MS
from clcr_stream.inference.levels import LevelOutputs
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.window.conditions import FINE
from clcr_stream.window.cutter import Chunk, ModalityView, SeenFace
from clcr_stream.wire import messages

SUM_TOLERANCE = 1e-3
NO_INPUT = "no_input"  # the reason for a window in which no modality is present
# 1 s is promised for a stalled camera, and a tick with its settling takes 0.3 s of it.
STALE_AFTER_MS = {"vision": 600.0, "acoustic": 500.0}
REPLACED = ("frozen", "silent")  # conditions in which nothing is put into a ring: they are the reason why it is stale


@dataclass(frozen=True)
class Identity:
    """What every message of a session carries."""

    stream: str
    session: str
    boot_id: str
    bundle: str
    backend: str


@dataclass(frozen=True)
class Answer:
    """One tick, computed and checked."""

    chunk: Chunk
    language: LanguageTokens
    outputs: LevelOutputs
    gamma: float
    notes: tuple[str, ...] = ()  # further reasons in `degraded`


def why_invalid(outputs: LevelOutputs, classification: bool) -> str | None:
    """Why the outputs must not be published: not finite, a probability out of range, or a sum that is not one."""
    arrays = (outputs.output, outputs.omega, outputs.beta, outputs.eta, outputs.active, outputs.mass, outputs.budget)
    if not np.isfinite(np.concatenate(arrays, axis=None)).all():
        return "an output is not finite"
    if classification:
        total = float(outputs.output.sum())
        if abs(total - 1.0) > SUM_TOLERANCE or float(outputs.output.min()) < -SUM_TOLERANCE:
            return f"probabilities sum to {total:.4f}"
    return None


def degraded_reasons(chunk: Chunk, language: LanguageTokens) -> tuple[str, ...]:
    """What is not as it should be in this window, by name, in modality order."""
    if chunk.vision.coverage == 0 and chunk.acoustic.coverage == 0 and language.coverage == 0:
        no_face = ("no_face",) if chunk.vision.seen else ()
        return (NO_INPUT, *no_face, *_wrong("vision", chunk.vision), *_wrong("acoustic", chunk.acoustic))
    reasons: list[str] = []
    for modality, view in (("vision", chunk.vision), ("acoustic", chunk.acoustic)):
        stale = view.age_ms is not None and view.age_ms > STALE_AFTER_MS[modality]
        if modality == "vision" and view.seen and (view.coverage == 0 or stale):
            reasons.append("no_face")
        elif view.coverage == 0:
            reasons.append(f"{modality}_absent")
        elif stale:
            reasons.append(f"{modality}_stale")
        reasons += _wrong(modality, view)
    if language.coverage == 0:
        reasons.append("language_absent")
    return tuple(reasons)


def _wrong(modality: str, view: ModalityView) -> tuple[str, ...]:
    """What is wrong with data that still comes."""
    if view.condition in REPLACED or (view.condition != FINE and view.seen):
        return (f"{modality}_{view.condition}",)
    return ()


def newest_capture_ns(answer: Answer) -> int:
    """Capture time of the newest datum in the window; the window's end when it is empty."""
    times = (answer.chunk.vision.newest_ns, answer.chunk.acoustic.newest_ns, answer.language.newest_ns)
    return max((time_ns for time_ns in times if time_ns is not None), default=answer.chunk.tick.end_ns)


def compose(
    answer: Answer, manifest: Manifest, identity: Identity, published_ns: int, timing_ms: Mapping[str, float]
) -> messages.Prediction:
    """The prediction message of a valid answer; a window without any input has no label and no value, only a prior."""
    outputs, tick = answer.outputs, answer.chunk.tick
    captured_ns = newest_capture_ns(answer)
    probs = None
    if manifest.task == "classification":
        probs = {label: float(p) for label, p in zip(manifest.labels, outputs.output, strict=True)}
    degraded = degraded_reasons(answer.chunk, answer.language)
    watched = NO_INPUT not in degraded
    label, confidence = top_label(probs or {}) if watched else (None, None)
    window_ns = manifest.hop_ns * manifest.window_hops
    return messages.Prediction(
        stream=identity.stream,
        session=identity.session,
        seq=tick.number,
        boot_id=identity.boot_id,
        published_ns=published_ns,
        window=messages.Window(
            start_ns=tick.start_ns, end_ns=tick.end_ns, filled=min(1.0, tick.number * manifest.hop_ns / window_ns)
        ),
        captured_ns=captured_ns,
        latency_ms=(published_ns - captured_ns) / NS_PER_MS,
        probs=dict(probs) if probs is not None else None,
        label=label,
        confidence=confidence,
        value=float(outputs.output[0]) if probs is None and watched else None,
        levels=messages.Levels(weights=_triple(outputs.omega), ran=(True, True, True), age_ms=(0.0, 0.0, 0.0)),
        modalities=_modalities(answer),
        budget=messages.Budget(gamma=answer.gamma, active=_table(outputs.active), mass=_table(outputs.mass)),
        timing_ms={name: round(value, 3) for name, value in timing_ms.items()},
        degraded=(*degraded, *answer.notes),
        bundle=identity.bundle,
        backend=identity.backend,
        face=_face(answer.chunk.face),
    )


def compose_tokens(answer: Answer, sent: messages.Prediction) -> messages.Tokens:
    """How much each token of a prediction takes part, as bytes."""
    levels = [np.rint(255.0 * np.clip(alpha, 0.0, 1.0)).astype(np.uint8).tobytes() for alpha in answer.outputs.alpha]
    count = len(MODALITIES)
    vision, acoustic, language = ((levels[at], levels[at + count], levels[at + 2 * count]) for at in range(count))
    return messages.Tokens(
        stream=sent.stream,
        session=sent.session,
        seq=sent.seq,
        boot_id=sent.boot_id,
        published_ns=sent.published_ns,
        window=sent.window,
        vision=vision,
        acoustic=acoustic,
        language=language,
    )


def _face(face: SeenFace | None) -> messages.Face | None:
    if face is None:
        return None
    if face.box is None:
        return messages.Face(box=None, track=face.person, size=None, seen=face.faces)
    left, top, width, height = (round(share, 4) for share in face.box)
    return messages.Face(
        box=(left, top, width, height),
        track=face.person,
        size=height,
        seen=face.faces,
        landmarks=None if face.landmarks is None else _landmarks(face.landmarks),
    )


def _landmarks(places: NDArray[np.float32]) -> dict[messages.Landmark, tuple[float, float]]:
    points = ((round(float(x), 4), round(float(y), 4)) for x, y in places)
    return dict(zip(get_args(messages.Landmark), points, strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _modalities(answer: Answer) -> messages.Modalities:
    tick, language = answer.chunk.tick, answer.language
    newest_ns = language.newest_ns
    age_ms = None if newest_ns is None else max(0, tick.end_ns - newest_ns) / NS_PER_MS
    views = {
        "vision": answer.chunk.vision,
        "acoustic": answer.chunk.acoustic,
        "language": ModalityView(language.coverage, None, newest_ns, age_ms, 0),
    }
    parts = {
        name: messages.Modality(
            present=views[name].coverage > 0,
            quality=views[name].quality,
            age_ms=views[name].age_ms,
            coverage=views[name].coverage,
            weight=float(answer.outputs.beta[index]),
            gate=float(answer.outputs.eta[index]),
            numbers={key: _rounded(value) for key, value in views[name].numbers.items()},
        )
        for index, name in enumerate(MODALITIES)
    }
    return messages.Modalities(**parts)


def _triple(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> messages.Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _table(rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> messages.Table:
    first, second, third = (_triple(row) for row in rows)
    return first, second, third


def top_label(probs: Mapping[str, float]) -> tuple[str | None, float | None]:
    """The most probable label and its probability; (None, None) when there is none or one of them is not finite."""
    if not probs or not all(math.isfinite(value) for value in probs.values()):
        return None, None
    label = max(probs, key=lambda name: float(probs[name]))
    return label, float(probs[label])
