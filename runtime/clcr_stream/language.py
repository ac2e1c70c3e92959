"""The language modality of a stream: a segment is encoded once and keeps its steps and values while it slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.backends import Engine
from clcr_stream.manifest import Manifest
from clcr_stream.positions import sinusoid
from clcr_stream.transcript import Segment

LEVELS = (1, 2, 3)


class TextEncoder(Protocol):
    """What the stream needs of a tokenizer."""

    def encode(self, text: str, limit: int) -> list[int]:
        """At most `limit` ids, [CLS] first and [SEP] last, the newest words kept; [] for text without a word."""


@dataclass(frozen=True)
class LanguageTokens:
    """The window's text: per level 1..3 [1, tokens, width], valid [1, tokens]; `ran` counts encoder calls.

    The arrays belong to the stream and are overwritten by its next update.
    """

    levels: dict[int, NDArray[np.float32]]
    valid: NDArray[np.float32]
    coverage: float
    newest_ns: int | None
    ran: int


@dataclass(frozen=True)
class _Encoded:
    text: str
    first_step: int
    tokens: tuple[NDArray[np.float32], ...]  # per level [n, width]


class LanguageStream:
    """Encodes the transcript's segments with the bundle's language engine, only those that changed."""

    def __init__(self, tokenizer: TextEncoder, engine: Engine, manifest: Manifest) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._manifest = manifest
        limit, width = manifest.language.tokens, manifest.model.width
        self._limit = limit
        self._ids = np.zeros((1, limit), dtype=np.int32)
        self._ids_valid = np.zeros((1, limit), dtype=np.float32)
        self._position = np.zeros((1, limit, width), dtype=np.float32)
        self._levels = {level: np.zeros((1, limit, width), dtype=np.float32) for level in LEVELS}
        self._valid = np.zeros((1, limit), dtype=np.float32)
        self._cache: dict[str, _Encoded] = {}
        self._next_step = 0
        self._shown: tuple[tuple[str, str], ...] = ()

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
        return LanguageTokens(self._levels, self._valid, float(self._valid.mean()), newest_ns, ran)

    def _encode(self, text: str, known: _Encoded | None) -> _Encoded:
        ids = self._tokenizer.encode(text, self._limit)
        count = len(ids)
        # A revision of the newest segment grows in place; an older one arrives anew, at the end of the stream.
        last = known is not None and known.first_step + len(known.tokens[0]) == self._next_step
        first_step = known.first_step if known is not None and last else self._next_step
        self._next_step = first_step + count
        if not ids:
            return _Encoded(text, first_step, tuple(tokens[0, :0].copy() for tokens in self._levels.values()))
        self._ids.fill(self._manifest.language.pad_id)
        self._ids[0, :count] = ids
        self._ids_valid.fill(0.0)
        self._ids_valid[0, :count] = 1.0
        self._position.fill(0.0)
        model = self._manifest.model
        steps = np.arange(first_step, first_step + count, dtype=np.int64)
        self._position[0, :count] = sinusoid(steps, model.width, model.position_base)
        inputs: dict[str, NDArray[Any]] = {
            "token_ids": self._ids,
            "token_valid": self._ids_valid,
            "position": self._position,
        }
        outputs = self._engine.run(inputs)
        return _Encoded(text, first_step, tuple(outputs[f"language_{level}"][0, :count].copy() for level in LEVELS))

    def _show(self, segments: list[Segment]) -> None:
        """Lay the last tokens of `segments` into the buffers, oldest first."""
        encoded = [self._cache[segment.id].tokens for segment in segments]
        self._valid.fill(0.0)
        for index, level in enumerate(LEVELS):
            self._levels[level].fill(0.0)
            if encoded:
                tail = np.concatenate([tokens[index] for tokens in encoded])[-self._limit :]
                self._levels[level][0, : len(tail)] = tail
                self._valid[0, : len(tail)] = 1.0
        self._shown = tuple((segment.id, segment.text) for segment in segments)
