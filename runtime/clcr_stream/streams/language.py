"""The language modality of a stream: a segment is encoded once and keeps its steps and values while it slides."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

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
    segments: tuple[Segment, ...] = ()  # what the arrays hold, in the revision that was encoded


@dataclass(frozen=True)
class _Place:
    """A revision of a segment, and the steps of its tokens."""

    text: str
    first_step: int
    count: int


@dataclass(frozen=True)
class _Encoded:
    place: _Place
    levels: Words


class LanguageStream:
    """Encodes the transcript's segments with the bundle's language engine, only those that changed.

    With a `worker`, an executor of one thread, the engine runs there. While `waits` is False, an update takes what is
    ready, and words show up in a later one: a recogniser that revises its words twice a second then costs no tick.
    """

    def __init__(
        self, tokenizer: TextEncoder, encoder: Runner, manifest: Manifest, worker: Executor | None = None
    ) -> None:
        self.waits = True
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._manifest = manifest
        self._worker = worker
        self._limit = manifest.language.tokens
        shapes = {name: shape for name, (_, shape) in language_words(manifest).items()}
        self._levels: Words = {
            level: {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()} for level in LEVELS
        }
        self._revision = 0
        self._coverage = 0.0
        self._asked: dict[str, _Place] = {}  # the newest revision of each segment, encoded or not
        self._pending: deque[tuple[str, Future[_Encoded]]] = deque()
        self._cache: dict[str, _Encoded] = {}
        self._next_step = 0
        self._shown: tuple[tuple[str, str], ...] = ()

    @property
    def held_segments(self) -> int:
        """Segments whose tokens are kept: those of the window."""
        return len(self._cache)

    def reset(self) -> None:
        """Forget every segment; steps go on, so a token never gets a step that another one had."""
        self._asked.clear()
        self._pending.clear()
        self._cache.clear()
        self._show([])

    def update(self, segments: list[Segment]) -> LanguageTokens:
        """The last tokens of `segments` (time order); the engine runs once per segment that is new or was changed."""
        spoken = [segment for segment in segments if segment.text.strip()]
        ids = {segment.id for segment in spoken}
        self._asked = {name: place for name, place in self._asked.items() if name in ids}
        self._cache = {name: encoded for name, encoded in self._cache.items() if name in ids}
        ran = sum(self._ask(segment) for segment in spoken)
        while self._pending and (self.waits or self._pending[0][1].done()):
            name, future = self._pending.popleft()
            if name in ids:
                self._cache[name] = future.result()
        known = [segment for segment in spoken if segment.id in self._cache]
        if tuple((segment.id, self._cache[segment.id].place.text) for segment in known) != self._shown:
            self._show(known)
        newest_ns = max((segment.end_ns for segment in known), default=None)
        encoded = tuple(replace(segment, text=self._cache[segment.id].place.text) for segment in known)
        return LanguageTokens(self._levels, self._revision, self._coverage, newest_ns, ran, encoded)

    def _ask(self, segment: Segment) -> bool:
        """Have a segment encoded, unless this revision of it was; whether it is now."""
        before = self._asked.get(segment.id)
        if before is not None and before.text == segment.text:
            return False
        ids = self._tokenizer.encode(segment.text, self._limit)
        # A revision of the newest segment grows in place; an older one arrives anew, at the end of the stream.
        last = before is not None and before.first_step + before.count == self._next_step
        first_step = before.first_step if before is not None and last else self._next_step
        place = self._asked[segment.id] = _Place(segment.text, first_step, len(ids))
        self._next_step = first_step + len(ids)
        if self._worker is None:
            self._cache[segment.id] = self._encode(ids, place)
        else:
            self._pending.append((segment.id, self._worker.submit(self._encode, ids, place)))
        return True

    def _encode(self, ids: Sequence[int], place: _Place) -> _Encoded:
        """Run the engine, in the one thread that does."""
        if not ids:
            return _Encoded(place, {})
        count = place.count
        model, inputs = self._manifest.model, self._encoder.inputs
        inputs["token_ids"][0] = self._manifest.language.pad_id
        inputs["token_ids"][0, :count] = ids
        inputs["token_valid"][0] = 0.0
        inputs["token_valid"][0, :count] = 1.0
        inputs["position"][0] = 0.0
        steps = np.arange(place.first_step, place.first_step + count, dtype=np.int64)
        inputs["position"][0, :count] = sinusoid(steps, model.width, model.position_base)
        self._encoder.run(0, 1)
        outputs = self._encoder.outputs
        levels = {
            level: {
                name: _first(outputs[f"{name}_{level}"][0], axis, count).copy() for name, axis in _TOKEN_AXIS.items()
            }
            for level in LEVELS
        }
        return _Encoded(place, levels)

    def _show(self, segments: list[Segment]) -> None:
        """Lay the last tokens of `segments` into the buffers, oldest first."""
        encoded = [self._cache[segment.id] for segment in segments if self._cache[segment.id].place.count]
        count = min(self._limit, sum(part.place.count for part in encoded))
        self._revision += 1
        self._coverage = count / self._limit
        for level, buffers in self._levels.items():
            for name, buffer in buffers.items():
                buffer.fill(0.0)
                if encoded:
                    joined = np.concatenate([part.levels[level][name] for part in encoded], axis=_TOKEN_AXIS[name])
                    _first(buffer, _TOKEN_AXIS[name], count)[:] = _last(joined, _TOKEN_AXIS[name], count)
        self._shown = tuple((segment.id, self._cache[segment.id].place.text) for segment in segments)


def _first(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the first `count` tokens."""
    return array[(slice(None),) * axis + (slice(count),)]


def _last(array: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """A view of the last `count` tokens."""
    return array[(slice(None),) * axis + (slice(array.shape[axis] - count, None),)]
