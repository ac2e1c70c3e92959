"""The language modality of a stream: a segment is encoded once and keeps its steps and values while it slides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import Manifest, language_words
from clcr_stream.frontends.positions import sinusoid
from clcr_stream.frontends.text import TextEncoder
from clcr_stream.inference.program import LEVELS, Runner
from clcr_stream.window.transcript import Segment

_TOKEN_AXIS = {"language_qkv": 1, "language_marks": 1, "language_pool": 0}
Words = dict[int, dict[str, NDArray[np.float32]]]  # per level its inputs of language, by name


@dataclass(frozen=True)
class LanguageTokens:
    """The window's text: per level 1..3 that engine's language inputs by name; `ran` counts encoder calls.

    The arrays belong to the stream and are overwritten by its next update; `revision` changes when they do.
    """

    levels: Words
    revision: int
    coverage: float
    newest_ns: int | None
    ran: int


@dataclass(frozen=True)
class _Encoded:
    text: str
    first_step: int
    count: int
    levels: Words


class LanguageStream:
    """Encodes the transcript's segments with the bundle's language engine, only those that changed."""

    def __init__(self, tokenizer: TextEncoder, encoder: Runner, manifest: Manifest) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._manifest = manifest
        self._limit = manifest.language.tokens
        shapes = {name: shape for name, (_, shape) in language_words(manifest).items()}
        self._levels: Words = {
            level: {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()} for level in LEVELS
        }
        self._revision = 0
        self._coverage = 0.0
        self._cache: dict[str, _Encoded] = {}
        self._next_step = 0
        self._words: tuple[tuple[str, str], ...] = ()

    @property
    def held_segments(self) -> int:
        """Segments whose tokens are kept: those of the window."""
        return len(self._cache)

    def reset(self) -> None:
        """Forget every segment; steps go on, so a token never gets a step that another one had."""
        self._cache.clear()
        self._show([])

    def update(self, segments: list[Segment]) -> LanguageTokens:
        """The last tokens of `segments` (time order); the engine runs once per segment that is new or was changed."""
        spoken = [segment for segment in segments if segment.text.strip()]
        words = tuple((segment.id, segment.text) for segment in spoken)
        ran = 0
        if words != self._words:
            for segment in spoken:
                cached = self._cache.get(segment.id)
                if cached is None or cached.text != segment.text:
                    self._cache[segment.id] = self._encode(segment.text, cached)
                    ran += 1
            spoken_ids = {segment.id for segment in spoken}
            self._cache = {name: encoded for name, encoded in self._cache.items() if name in spoken_ids}
            self._show(spoken)
        newest_ns = max((segment.end_ns for segment in spoken), default=None)
        return LanguageTokens(self._levels, self._revision, self._coverage, newest_ns, ran)

    def _encode(self, text: str, cached: _Encoded | None) -> _Encoded:
        ids = self._tokenizer.encode(text, self._limit)
        count = len(ids)
        # A revision of the newest segment grows in place; an older one arrives anew, at the end of the stream.
        last = cached is not None and cached.first_step + cached.count == self._next_step
        first_step = cached.first_step if cached is not None and last else self._next_step
        self._next_step = first_step + count
        if not ids:
            return _Encoded(text, first_step, 0, {})
        model, inputs = self._manifest.model, self._encoder.inputs
        inputs["token_ids"][0] = self._manifest.language.pad_id
        inputs["token_ids"][0, :count] = ids
        inputs["token_valid"][0] = 0.0
        inputs["token_valid"][0, :count] = 1.0
        inputs["position"][0] = 0.0
        steps = np.arange(first_step, first_step + count, dtype=np.int64)
        inputs["position"][0, :count] = sinusoid(steps, model.width, model.position_base)
        self._encoder.run(0, 1)
        outputs = self._encoder.outputs
        levels = {
            level: {
                name: _first(outputs[f"{name}_{level}"][0], axis, count).copy() for name, axis in _TOKEN_AXIS.items()
            }
            for level in LEVELS
        }
        return _Encoded(text, first_step, count, levels)

    def _show(self, segments: list[Segment]) -> None:
        """Lay the last tokens of `segments` into the buffers, oldest first."""
        encoded = [self._cache[segment.id] for segment in segments if self._cache[segment.id].count]
        count = min(self._limit, sum(part.count for part in encoded))
        self._revision += 1
        self._coverage = count / self._limit
        for level, buffers in self._levels.items():
            for name, buffer in buffers.items():
                buffer.fill(0.0)
                if encoded:
                    joined = np.concatenate([part.levels[level][name] for part in encoded], axis=_TOKEN_AXIS[name])
                    _first(buffer, _TOKEN_AXIS[name], count)[:] = _last(joined, _TOKEN_AXIS[name], count)
        self._words = tuple((segment.id, segment.text) for segment in segments)


def _first(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the first `count` tokens."""
    return array[(slice(None),) * axis + (slice(count),)]


def _last(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the last `count` tokens."""
    return array[(slice(None),) * axis + (slice(array.shape[axis] - count, None),)]
