"""A part of a recording, and a recording again and again: the very hops, in their new places; what cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clcr_stream.cli.main import main
from clcr_stream.recording.story import Story, read_story
from clcr_stream.wire import messages
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture
def talk(bundle: Path, tmp_path: Path) -> Path:
    """4 s with media and words."""
    (tmp_path / "talk.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,700\ngood morning\n\n"
        "2\n00:00:00,800 --> 00:00:01,500\nhow are you\n\n"
        "3\n00:00:02,000 --> 00:00:02,500\nfine\n"
    )
    path = tmp_path / "talk.mcap"
    given = ("--input", "test://?seconds=4", "--transcript", tmp_path / "talk.srt", "--record-media")
    assert run(bundle, *given, "--record", path) == 0
    return path


def run(bundle: Path, *arguments: str | Path) -> int:
    return main([*map(str, ("--bundle", bundle, "--pace", "max", "--quiet", *arguments))])


def played(bundle: Path, talk: Path, *arguments: str) -> Story:
    lines = talk.with_name("lines.jsonl")
    arguments = tuple(str(talk.with_suffix(".srt")) if one == "talk.srt" else one for one in arguments)
    assert run(bundle, "--input", talk, *arguments, "--output", lines) == 0
    story = read_story(lines)
    lines.unlink()
    return story


def hops(predictions: Sequence[messages.Prediction]) -> list[object]:
    """What was measured on the newest hop of each: the hop's own pictures and sound and nothing else."""
    return [
        (one.modalities.vision.numbers, one.modalities.acoustic.numbers["level_dbfs"], one.face and one.face.box)
        for one in predictions
    ]


def said(story: Story) -> list[tuple[str, float, float]]:
    origin_ns = story.session.origin_ns
    return [(one.text, (one.start_ns - origin_ns) / 1e9, (one.end_ns - origin_ns) / 1e9) for one in story.words]


def test_a_part_of_a_recording_is_its_hops_and_its_words_from_its_own_zero(bundle: Path, talk: Path) -> None:
    whole = played(bundle, talk)
    part = played(bundle, talk, "--start", "1.1", "--end", "3.3")  # whole hops: from 1.0 to 3.2
    assert len(whole.predictions) == 20 and len(part.predictions) == 11
    assert hops(part.predictions) == hops(whole.predictions[5:16])
    assert len({str(hop) for hop in hops(whole.predictions)}) == 20, "no hop looks like another"
    times = {text: (start_s, end_s) for text, start_s, end_s in said(part)}
    assert list(times) == ["how are you", "fine"]
    assert times["how are you"] == pytest.approx((-0.2, 0.5)) and times["fine"] == pytest.approx((1.0, 1.5))


def test_a_part_that_is_played_again_and_again_goes_on_without_a_gap(bundle: Path, talk: Path) -> None:
    whole = played(bundle, talk)
    story = played(bundle, talk, "--start", "1", "--end", "2.6", "--loop", "--duration", "4")
    assert hops(story.predictions) == (hops(whole.predictions[5:13]) * 3)[:20]
    assert all(one.modalities.acoustic.coverage == one.window.filled for one in story.predictions)
    fine = [start_s for text, start_s, _ in said(story) if text == "fine"]
    assert fine == pytest.approx([1.0, 2.6]), "the words of each round, in their places"


@pytest.mark.parametrize("part", [("--start", "1.1", "--end", "3.3"), ("--start", "1.1", "--loop", "--duration", "5")])
def test_words_of_a_file_beside_a_part_are_where_the_recording_s_own_are(
    bundle: Path, talk: Path, part: tuple[str, ...]
) -> None:
    own, beside = (said(played(bundle, talk, *part, *more)) for more in ((), ("--transcript", "talk.srt")))
    assert len(own) > 1 and beside == own


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--start", "60"), 3, "holds nothing from 60 s on; give a smaller --start"),
        (("--rotate", "90"), 2, "are cut out already; leave out --rotate, --flip, --region and --face-model"),
        (("--region", "0,0,0.5,1"), 2, "are cut out already"),
        (
            ("--start", "2", "--end", "1"),
            2,
            "--start 2, --end 1: allowed are seconds, 0 or more, the end after the start",
        ),
        (("--start", "-5"), 2, "--start -5: allowed are seconds"),
    ],
)
def test_what_cannot_be_done_with_a_recording_is_one_line(
    bundle: Path, talk: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int, why: str
) -> None:
    capsys.readouterr()
    assert main(["predict", "--bundle", str(bundle), str(talk), *arguments]) == code
    err = capsys.readouterr().err
    assert why in err and err.count("\n") == 1
