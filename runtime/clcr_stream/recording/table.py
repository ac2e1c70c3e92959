"""A session's predictions as rows of a table, with the words that were spoken meanwhile."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from clcr_stream.clock import NS_PER_S
from clcr_stream.recording.numbers import MEASURES
from clcr_stream.recording.seen import MODALITIES, zero_ns
from clcr_stream.recording.story import Story
from clcr_stream.wire import messages

Cell = str | int | float | None


def columns(story: Story) -> list[str]:
    """The names of the columns; the same for every session of one bundle."""
    answers = [f"p_{label}" for label in story.session.labels] or ["value"]
    return [
        *("tick", "time_s", "label", "confidence", *answers),
        *(f"{name}_{what}" for name in MODALITIES for what in ("present", "weight")),
        *(measure.column for measure in MEASURES),
        *("degraded", "latency_ms", "words"),
    ]


def rows(story: Story) -> Iterator[list[Cell]]:
    """A row for each prediction; `time_s` is its window's end as reports give it.

    `words` are the segments that ended since the row before, of the last row also those after it: each is in one row.
    """
    zero = zero_ns(story.session)
    words = deque(sorted(story.words, key=lambda one: one.end_ns))
    for one in story.predictions:
        probs = one.probs or {}
        answers: list[Cell] = [probs.get(label) for label in story.session.labels] or [one.value]
        modalities: list[Cell] = []
        for name in MODALITIES:
            modality: messages.Modality = getattr(one.modalities, name)
            modalities += [int(modality.present), modality.weight]
        end_ns = one.window.end_ns
        until_ns = math.inf if one is story.predictions[-1] else end_ns
        yield [
            *(one.seq, round((end_ns - zero) / NS_PER_S, 3), one.label, one.confidence, *answers),
            *modalities,
            *(measure.of(one) for measure in MEASURES),
            *(" ".join(one.degraded), one.latency_ms, _said(words, until_ns)),
        ]


def _said(words: deque[messages.Transcript], until_ns: float) -> str:
    """Take the segments that end by then, in the order in which they end."""
    said = []
    while words and words[0].end_ns <= until_ns:
        said.append(words.popleft().text)
    return " ".join(said)
