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
        self._shown: tuple[tuple[str, str], ...] = ()

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
        shown = tuple((segment.id, segment.text) for segment in spoken)
        ran = 0
        if shown != self._shown:
            for segment in spoken:
                known = self._cache.get(segment.id)
                if known is None or known.text != segment.text:
                    self._cache[segment.id] = self._encode(segment.text, known)
                    ran += 1
            wanted = {segment.id for segment in spoken}
            self._cache = {name: encoded for name, encoded in self._cache.items() if name in wanted}
            self._show(spoken)
        newest_ns = max((segment.end_ns for segment in spoken), default=None)
        return LanguageTokens(self._levels, self._revision, self._coverage, newest_ns, ran)

    def _encode(self, text: str, known: _Encoded | None) -> _Encoded:
        ids = self._tokenizer.encode(text, self._limit)
        count = len(ids)
        # A revision of the newest segment grows in place; an older one arrives anew, at the end of the stream.
        last = known is not None and known.first_step + known.count == self._next_step
        first_step = known.first_step if known is not None and last else self._next_step
        self._next_step = first_step + count
        if not ids:
            return _Encoded(text, first_step, 0, {})
        model, given = self._manifest.model, self._encoder.inputs
        given["token_ids"][0] = self._manifest.language.pad_id
        given["token_ids"][0, :count] = ids
        given["token_valid"][0] = 0.0
        given["token_valid"][0, :count] = 1.0
        given["position"][0] = 0.0
        steps = np.arange(first_step, first_step + count, dtype=np.int64)
        given["position"][0, :count] = sinusoid(steps, model.width, model.position_base)
        self._encoder.run(0, 1)
        said = self._encoder.outputs
        levels = {
            level: {name: _first(said[f"{name}_{level}"][0], axis, count).copy() for name, axis in _TOKEN_AXIS.items()}
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
        self._shown = tuple((segment.id, segment.text) for segment in segments)


def _first(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the first `count` tokens."""
    return array[(slice(None),) * axis + (slice(count),)]


def _last(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the last `count` tokens."""
    return array[(slice(None),) * axis + (slice(array.shape[axis] - count, None),)]
