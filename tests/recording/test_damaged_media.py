"""A recorded hop with one value changed: it is played or refused in a line that says the file is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clcr_stream.errors import SourceError
from clcr_stream.recording import media
from clcr_stream.recording.source import RecordingSource
from fuzzing.recorded import HOP_NS, ORIGIN_NS, recorded_lines, replay

VALUES: tuple[Any, ...] = (
    -1,
    0,
    2**31,
    2**63,
    -(2**63),
    10**400,
    1e308,
    -1e30,
    None,
    True,
    "",
    "AAA=",
    [],
    {},
    [[5, 2]],
    [[0, 10**9]],
)


def a_hop() -> list[tuple[str, Any]]:
    """All that a recording keeps of a hop, as JSON."""
    lines = [line.partition(b" ") for line in recorded_lines().split(b"\n")]
    return [(kind.decode(), json.loads(content)) for kind, _, content in lines if kind.decode() in media.MEDIA]


def changed(value: Any) -> Iterator[Any]:
    """The value with one of its parts replaced by each of VALUES, part by part; a dict also without it."""
    yield from VALUES
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        copy = json.loads(json.dumps(value))
        if isinstance(copy, dict):
            del copy[key]
            yield copy
        for part in changed(value[key]):
            copy = json.loads(json.dumps(value))
            copy[key] = part
            yield copy


def play(path: Path, told: list[tuple[str, Any]]) -> RecordingSource:
    """The source, after all was put into the rings."""
    begun, _, _ = recorded_lines().partition(b"\n")
    return replay(path, b"\n".join([begun, *(f"{kind} {json.dumps(content)}".encode() for kind, content in told)]))


def test_a_whole_hop_is_played(tmp_path: Path) -> None:
    rings = play(tmp_path / "a.mcap", a_hop()).sinks.rings
    assert rings.vision.frames_in == 1 and rings.vision.read(0, 1).valid.tolist() == [1.0]
    assert rings.acoustic.samples_in == 99 and rings.acoustic.read(0, 100).present.sum() == 99
    assert [one.text for one in rings.transcript.between(ORIGIN_NS, ORIGIN_NS + HOP_NS)] == ["x"]


@pytest.mark.parametrize("kind", media.MEDIA)
def test_one_changed_value_is_played_or_said(kind: str, tmp_path: Path) -> None:
    whole = a_hop()
    at = [name for name, _ in whole].index(kind)
    refused = played = 0
    for content in changed(whole[at][1]):
        told = [*whole[:at], (kind, content), *whole[at + 1 :]]
        try:
            play(tmp_path / "a.mcap", told)
            played += 1
        except SourceError as error:
            assert "damaged" in str(error) or "the bundle" in str(error), (content, str(error))
            assert "\n" not in str(error) and len(str(error)) < 300
            refused += 1
    assert refused > 50 and played > 5


def test_sound_that_is_cut_within_a_sample_is_refused(tmp_path: Path) -> None:
    told = dict(a_hop())
    told["sound"]["data"] = told["sound"]["data"][:-4]
    with pytest.raises(SourceError, match=r"sound holds 399 bytes, not its samples; the file is damaged"):
        play(tmp_path / "a.mcap", list(told.items()))
