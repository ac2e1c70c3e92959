"""tools/data/sentiment.py: which texts are good, bad or already seen as clips."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

sentiment = import_module("data.sentiment")


def write(path: Path, columns: str, rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def test_a_video_with_one_clip_gives_no_text_at_all(tmp_path: Path) -> None:
    write(tmp_path / "clips/labels.csv", "clip,text", [["v01_001", "anyhow it was really good"]])
    write(
        tmp_path / "mosi_text_train.csv",
        "utterance_id,text,label",
        [
            ["a_b_1", "ANYHOW IT WAS, REALLY GOOD", "2.4"],
            ["a_b_2", "AND LONG", "-1"],
            ["c_1", "XXX THE PLOT IS THIN", "-2.2"],
        ],
    )
    write(tmp_path / "mosi_text_val.csv", "utterance_id,text,label", [["d_7", "I LIKED IT", "1"], ["d_8", "", "0"]])
    rows = list(sentiment.mosi_text(tmp_path, tmp_path / "clips"))
    assert [(row.id, row.speaker, row.split, row.label) for row in rows] == [
        ("c_1", "c", "train", "-2.2"),
        ("d_7", "d", "dev", "1"),
    ]
    assert rows[0].text == "the plot is thin"


def test_clips_without_a_clear_opinion_are_plain_talk_without_its_words(tmp_path: Path) -> None:
    opinions = [["v01_001", "2.4"], ["v01_002", "-0.8"], ["v02_001", "0.81"], ["v02_002", "0"]]
    clips = [[name, name[:3], value, "it is", "dev"] for name, value in opinions]
    write(tmp_path / "labels.csv", "clip,video,sentiment,text,split", clips)
    rows = list(sentiment.mosi_plain(tmp_path))
    assert [(row.id, row.label, row.speaker, row.text) for row in rows] == [
        ("v01_002", "neutral", "v01", ""),
        ("v02_002", "neutral", "v02", ""),
    ]


@pytest.mark.parametrize(
    ("labels", "value"),
    [
        ("joy|love", "1.5"),
        ("anger", "-1.5"),
        ("neutral", "0"),
        ("joy|anger", None),
        ("neutral|joy", None),
        ("surprise", None),
    ],
)
def test_a_comment_counts_only_if_all_it_shows_is_alike(tmp_path: Path, labels: str, value: str | None) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"goemotions_{split}.csv", "text,labels,id", [["well", labels, "x"], [" ", "joy", "y"]])
    rows = list(sentiment.goemotions_sentiment(tmp_path))
    assert [row.label for row in rows] == ([] if value is None else [value] * 3)
    assert len({row.id for row in rows}) == len(rows)
