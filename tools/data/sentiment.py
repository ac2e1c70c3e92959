"""Rows of the sets of sentiment: CMU-MOSI's clips and texts, and comments whose feelings are all good or all bad.

A label is a number from -3 (bad) to 3 (good).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clcr.training.data.manifest import Row
from data.rows import records, row

GOOD = frozenset(
    "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief".split()
)
BAD = frozenset(
    "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse sadness".split()
)  # the groups of GoEmotions' authors; confusion, curiosity, realization and surprise are neither
PLAIN = 0.8  # of an opinion that is neither good nor bad, at most
STRENGTH = 1.5  # of a comment that is good or bad: the middle of MOSI's scale


def mosi(folder: Path) -> Iterator[Row]:
    """The clips, split by video as the set says; a speaker is a video."""
    for record in records(folder / "labels.csv"):
        more = {"media": f"clips/{record['clip']}.mp4", "speaker": record["video"], "text": record["text"]}
        yield row(record["clip"], record["sentiment"], "video", record["split"], **more)


def mosi_plain(folder: Path) -> Iterator[Row]:
    """The clips without a clear opinion, as neutral and without words: how people talk and look who act nothing."""
    for record in records(folder / "labels.csv"):
        if abs(float(record["sentiment"])) <= PLAIN:
            more = {"media": f"clips/{record['clip']}.mp4", "speaker": record["video"]}
            yield row(record["clip"], "neutral", "video", record["split"], **more)


def mosi_text(texts: Path, clips: Path) -> Iterator[Row]:
    """The texts of the videos of which there are no clips: the clips' names differ, their words tell which they are.

    The texts' training part holds videos of the clips' dev part; trained on, they would be known by heart.
    """
    seen = {words(record["text"]) for record in records(clips / "labels.csv")}
    parts = {"train": "train", "val": "dev"}
    rows = [(split, record) for part, split in parts.items() for record in records(texts / f"mosi_text_{part}.csv")]
    shown = {video(record) for _, record in rows if words(record["text"]) in seen}
    for split, record in rows:
        if video(record) not in shown and words(record["text"]):
            more = {"speaker": video(record), "text": " ".join(record["text"].replace("XXX", "").lower().split())}
            yield row(record["utterance_id"], record["label"], "text", split, **more)


def goemotions_sentiment(folder: Path) -> Iterator[Row]:
    """Comments whose every label is good, every one bad, or that are neutral."""
    for split in ("train", "dev", "test"):
        for number, record in enumerate(records(folder / f"goemotions_{split}.csv")):
            names = set(record["labels"].split("|"))
            value = 0.0 if names == {"neutral"} else STRENGTH if names <= GOOD else -STRENGTH if names <= BAD else None
            if value is not None and record["text"].strip():
                yield row(f"{split}{number:05d}-{record['id']}", f"{value:g}", "text", split, text=record["text"])


def words(text: str) -> str:
    """What is said, without case and punctuation."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def video(record: dict[str, str]) -> str:
    """The video of an utterance of the texts."""
    return record["utterance_id"].rpartition("_")[0]
