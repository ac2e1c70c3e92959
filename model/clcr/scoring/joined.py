"""A person's emotion changes in the middle of a stream: clips joined in pairs of emotions, and how soon it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from clcr.scoring.clips import Joined, play_joined
from clcr.scoring.times import Stretch, at_moment, by_held, by_time, pace
from clcr.training.data.manifest import Row, evenly
from clcr_stream import Engines, SourceError
from clcr_stream.sources.base import Modality


@dataclass(frozen=True)
class Session:
    """One speaker's clips of one emotion, then of another."""

    speaker: str
    labels: tuple[str, str]
    parts: tuple[tuple[Row, ...], tuple[Row, ...]]


def sessions(rows: Sequence[Row], limit: int | None = None) -> list[Session]:
    """For every speaker each emotion followed by each other, of clips of video or sound; at most `limit`, evenly.

    The clips of an emotion take turns at standing first.
    """
    clips: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.speaker and row.label and row.kind in ("video", "audio"):
            clips.setdefault((row.speaker, row.label), []).append(row)
    found = []
    for speaker in sorted({speaker for speaker, _ in clips}):
        labels = [label for known, label in clips if known == speaker]
        for turn, (first, second) in enumerate(permutations(labels, 2)):
            parts = (_turned(clips[speaker, first], turn), _turned(clips[speaker, second], turn))
            found.append(Session(speaker, (first, second), parts))
    return evenly(found, limit)


def score_joined(
    engines: Engines,
    found: Sequence[Session],
    media_root: Path,
    shown: tuple[Modality, ...],
    least_s: float,
    step: Callable[[], object],
) -> dict[str, Any]:
    """Play every session with the modalities `shown`; the scores before and after the change as plain JSON values."""
    played: list[tuple[Session, Joined]] = []
    failed: list[dict[str, str]] = []
    too_short = 0
    for session in found:
        try:
            joined = play_joined(engines, session.parts, media_root, shown, least_s)
        except SourceError as error:
            failed.append({"id": _name(session), "reason": str(error).replace(f"{media_root}/", "")})
        else:
            if joined is None:
                too_short += 1
            else:
                played.append((session, joined))
        step()
    result: dict[str, Any] = {"least_s": least_s, "n": len(played), "too_short": too_short, "failed": failed}
    return result if not played else result | joined_scores(played, engines.labels)


def joined_scores(played: Sequence[tuple[Session, Joined]], labels: Sequence[str]) -> dict[str, Any]:
    """`before`: the first emotion from a cold start; `after`: the second one, in seconds since the change.

    Sessions share clips, so intervals resample the emotions of speakers. `still_before` is the share of answers that
    are the first emotion's; `recovered` is the share of sessions whose last answer is the second's.
    """
    before, after, old = [], [], []
    for session, joined in played:
        first, second = (labels.index(label) for label in session.labels)
        hops, hop_s, change_s = joined.answer.hops, joined.answer.hop_s, joined.starts_s[1]
        groups = [f"{session.speaker} {label}" for label in session.labels]
        before.append(Stretch(hops[: int(change_s / hop_s + 1e-6)], hop_s, first, group=groups[0]))
        after.append(Stretch(hops, hop_s, second, change_s, groups[1]))
        old.append(Stretch(hops, hop_s, first, change_s, groups[1]))
    scored: dict[str, Any] = {
        name: {**pace(part), "by_time": by_time(part, len(labels))["by_time"], "by_held": by_held(part)}
        for name, part in (("before", before), ("after", after))
    }
    for moment in scored["after"]["by_time"]:
        moment["still_before"] = at_moment(old, moment["after_s"], len(labels))["accuracy"]
    ends = [(one.own[-1] if one.own else -1) for one in after]
    right = [end == one.target for end, one in zip(ends, after, strict=True)]
    scored["after"]["recovered"] = float(np.mean(right))
    return scored


def _turned(rows: Sequence[Row], turn: int) -> tuple[Row, ...]:
    start = turn % len(rows)
    return (*rows[start:], *rows[:start])


def _name(session: Session) -> str:
    return f"{session.speaker}: {session.labels[0]}, then {session.labels[1]}"
