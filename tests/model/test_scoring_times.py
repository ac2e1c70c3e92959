"""Scores over time: what follows from the labels of hops, joined clips through a stream, and groups of people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcr.scoring.clips import Answer, Joined, play, play_joined
from clcr.scoring.joined import joined_scores, sessions
from clcr.scoring.people import group_scores, read_people
from clcr.scoring.scores import Answered
from clcr.scoring.times import Stretch, by_held, by_time, held, pace
from clcr.training.cli import eval_main
from clcr.training.data.manifest import Row, write_manifest
from clcr_stream import ConfigError, Engines
from clcr_stream.sources.base import Modality
from clcr_stream.sources.synthetic.source import write_clip
from media import MediaSpec, write_media
from tiny_bundle import LABELS, write_bundle

ROOT = Path(__file__).parents[2]
SHOWN: tuple[tuple[Modality, ...], ...] = (("acoustic",), ("vision", "acoustic"))
HAPPY = LABELS.index("happy")


def row(identity: str, label: str = "happy", speaker: str = "ann", **more: Any) -> Row:
    values: dict[str, Any] = {"media": "tone.wav", "kind": "audio", "start_s": 0.0, "end_s": 0.0} | more
    return Row(id=identity, label=label, split="dev", speaker=speaker, text="", **values)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("times") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def engines(bundle: Path) -> Iterator[Engines]:
    with Engines.load(bundle, backend="onnxruntime") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "person.mp4", 2.2)
    write_media(folder / "tone.wav", MediaSpec(seconds=2.1, fps=0, audio_codec="pcm_s16le"))
    return folder


# What follows from the labels


def test_a_label_is_stable_from_its_last_change_on_and_only_while_there_is_one() -> None:
    assert Stretch((-1, 2, 2, 0, 2, 2), 0.2, 2).stable_s() == pytest.approx(1.0)
    assert Stretch((2, 2), 0.2, 2).stable_s() == pytest.approx(0.2)
    assert Stretch((2, -1), 0.2, 2).stable_s() is None
    found = pace([Stretch((0, 2), 0.2, 2), Stretch((1, 1, 1), 0.2, 2)])
    assert found["time_to_stable_s"] == pytest.approx(0.3)  # the median of 0.4 and 0.2
    assert found["time_to_stable_correct_s"] == pytest.approx(0.4)  # the other one ends with a wrong label
    assert set(pace([]).values()) == {None} and pace([]).keys() == found.keys()


def test_after_a_change_seconds_count_from_it_and_not_from_the_stream_s_begin() -> None:
    stretch = Stretch((0, 0, 0, 0, 2, 2), 0.2, 2, start_s=0.5)
    assert stretch.own == (0, 0, 2, 2)  # the third hop ends at 0.6 s
    assert stretch.first_correct_s() == pytest.approx(0.5)
    assert stretch.stable_s() == pytest.approx(0.5)
    assert [stretch.label_at(after_s) for after_s in (0.0, 0.4, 0.5, 0.7, 0.8)] == [0, 0, 2, 2, None]
    assert stretch.flips() == 1 and stretch.labelled_span_s() == pytest.approx(0.6)


def test_scores_by_time_leave_out_what_has_ended_and_follow_the_same_clips_throughout() -> None:
    long, short = Stretch((0, 0, 2, 2), 0.2, 2), Stretch((-1, 1), 0.2, 1)
    found = by_time([long, long, short], len(LABELS))
    told = [(one["after_s"], one["n"], one["accuracy"]) for one in found["by_time"]]
    assert told == [(0.2, 3, 0.0), (0.4, 3, pytest.approx(1 / 3)), (0.6, 2, 1.0), (0.8, 2, 1.0)]
    assert [(one["after_s"], one["n"]) for one in found["by_time_same"]] == [(0.2, 2), (0.4, 2), (0.6, 2), (0.8, 2)]
    assert all(
        low <= one["macro_f1"] <= high for one in found["by_time"] for low, high in [one["intervals"]["macro_f1"]]
    )


def test_a_label_that_is_waited_for_comes_later_and_flips_less() -> None:
    assert held((2, 2, 0, 2, 2, 2), 2) == (-1, 2, 2, 2, 2, 2)
    assert held((-1, 2, 0, 2, 0), 1) == (-1, 2, 0, 2, 0)
    found = {one["hops"]: one for one in by_held([Stretch((0, 2, 0, 2, 2), 0.2, 2)])}
    assert [(found[n]["flips_per_s"], found[n]["right_at_end"]) for n in (1, 2)] == [
        (pytest.approx(3.75), 1.0),
        (None, 1.0),
    ]
    assert (found[2]["time_to_first_correct_s"], found[3]["right_at_end"]) == (pytest.approx(1.0), 0.0)


def test_every_emotion_of_a_speaker_is_followed_by_each_other_and_clips_take_turns() -> None:
    rows = [row(f"{name}{label}{n}", label, name) for name in ("ann", "bob") for label in LABELS[:3] for n in (0, 1)]
    found = sessions([*rows, row("nobody", speaker=""), row("words", kind="text", media="")])
    assert len(found) == 2 * 3 * 2 and {one.speaker for one in found} == {"ann", "bob"}
    assert all(one.labels[0] != one.labels[1] for one in found)
    assert all(clip.speaker == one.speaker for one in found for part in one.parts for clip in part)
    assert {part[0].id for one in found for part in one.parts} == {one.id for one in rows}
    assert [one.labels for one in sessions(rows, 2)] == [found[0].labels, found[-1].labels]


def test_recovery_is_told_from_the_change_on_and_apart_from_the_first_emotion() -> None:
    (session, *_) = sessions([row("a", "happy"), row("b", "sad")])
    happy, sad = (LABELS.index(label) for label in session.labels)
    heard = [(happy,) * 5 + (happy, 0, sad, sad, sad), (happy,) * 5 + (sad, sad, sad, sad, happy)]
    found = joined_scores([(session, Joined(Answer((), True, hops, 0.2), (0.0, 1.0, 2.0))) for hops in heard], LABELS)
    assert found["before"]["by_time"][-1] | {"intervals": 0} == {"after_s": 1.0, "n": 2, "accuracy": 1.0} | {
        "macro_f1": 1.0,
        "intervals": 0,
    }
    after = {one["after_s"]: (one["accuracy"], one["still_before"]) for one in found["after"]["by_time"]}
    assert after == {0.2: (0.5, 0.5), 0.4: (0.5, 0.0), 0.6: (1.0, 0.0), 0.8: (1.0, 0.0), 1.0: (0.5, 0.5)}
    assert found["after"]["recovered"] == 0.5
    assert found["after"]["time_to_stable_correct_s"] == pytest.approx(0.6)


# Through a stream


def alone(engines: Engines, clip: Row, media: Path, shown: tuple[Modality, ...]) -> tuple[float, ...]:
    answer = play(engines, clip, media, shown)
    assert answer is not None
    return answer.probs


@pytest.mark.slow
def test_parts_of_a_recording_joined_again_are_answered_as_the_recording_is(media: Path) -> None:
    whole = row("whole", media="person.mp4", kind="video", end_s=2.0)
    cuts = [replace(whole, id=f"{cut}", start_s=cut[0], end_s=cut[1]) for cut in ((0.0, 0.4), (0.4, 1.0), (1.0, 2.0))]
    with Engines.load(ROOT / "engines/default", backend="onnxruntime") as engines:
        for shown in SHOWN:
            once = play(engines, whole, media, shown)
            found = play_joined(engines, [cuts[:2], cuts[2:]], media, shown, 0.9)
            assert once is not None and found is not None
            assert found.answer.hops == once.hops
            assert np.abs(np.subtract(found.answer.probs, once.probs)).max() < 1e-5
            assert np.abs(np.subtract(found.answer.probs, alone(engines, cuts[2], media, shown))).max() > 1e-3


def test_a_part_takes_as_many_clips_as_its_seconds_need_and_no_more(engines: Engines, media: Path) -> None:
    clips = [row(str(n), end_s=0.6) for n in range(4)]
    found = play_joined(engines, [clips, clips], media, ("acoustic",), 1.0)
    assert found is not None and found.starts_s == pytest.approx((0.0, 1.2, 2.4))
    assert play_joined(engines, [clips, clips[:1]], media, ("acoustic",), 1.0) is None


# The command


def test_the_command_scores_by_time_joined_clips_and_groups(
    bundle: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("happy", "sad")
    rows = [row(f"{name}{label}", label, name, end_s=1.0) for name in ("ann", "bob") for label in labels]
    write_manifest(tmp_path / "set.csv", [*rows, row("gone", "fear", "bob", media="gone.wav", end_s=1.0)][:4])
    (tmp_path / "people.csv").write_text("speaker,sex\nann,f\nbob,m\n")
    given = ["--bundle", str(bundle), "--manifest", str(tmp_path / "set.csv"), "--media-root", str(media), "--by-time"]
    given += ["--joined", "0.8", "--people", str(tmp_path / "people.csv"), "--json", str(tmp_path / "out.json")]
    assert eval_main(given) == 0
    (scored,) = json.loads((tmp_path / "out.json").read_text())["sets"]
    assert [one["n"] for one in scored["by_time"]] == [4] * 5
    assert scored["by_time"][-1]["accuracy"] == scored["accuracy"]
    assert {name: one["n"] for name, one in scored["groups"]["sex"].items()} == {"f": 2, "m": 2}
    assert (scored["joined"]["n"], scored["joined"]["too_short"], scored["joined"]["failed"]) == (4, 0, [])
    shown = capsys.readouterr().out
    assert "set/A, joined, after: accuracy after seconds" in shown and "of 4 sessions end with the second" in shown
    assert "set/A, sex f" in shown


def test_a_file_of_people_says_which_sets_it_means_and_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("set,speaker,sex,language\ndays,ann,f,en\nnights,ann,m,\n,cleo,f,de\n")
    assert read_people(path, "days_dark") == {"sex": {"ann": "f", "cleo": "f"}, "language": {"ann": "en", "cleo": "de"}}
    assert read_people(path, "nights")["sex"]["ann"] == "m"
    clips = [row("1", speaker="ann"), row("2", "sad", "bob"), row("3", speaker="cleo")]
    answers = [Answer(tuple(np.eye(6)[HAPPY]), True, (HAPPY,), 0.2)] * 3
    found = group_scores(Answered(clips, answers, tuple(LABELS)), read_people(path, "days"))
    assert {name: (one["n"], one["speakers"], one["accuracy"]) for name, one in found["sex"].items()} == {
        "f": (2, 2, 1.0)
    }
    path.write_text("name,sex\nann,f\n")
    with pytest.raises(ConfigError, match="has the column speaker and one or more groups"):
        read_people(path, "days")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_people(tmp_path / "none.csv", "days")
