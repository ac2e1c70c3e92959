"""A recorded hop with one value changed: it is played or refused in a line that says the file is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from clcr_stream.clock import VirtualClock
from clcr_stream.errors import SourceError
from clcr_stream.recording import media
from clcr_stream.recording.file import PartFile
from clcr_stream.recording.source import RecordingSource
from clcr_stream.sources.base import Sinks
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from session_messages import HOP_NS, ORIGIN_NS, session

SIZE_PX = 48
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


class Unhurried(RecordingSource):
    """There is no reader of the rings: where it would wait for one, it ends."""

    def await_room(self, end_ns: int) -> bool:
        return end_ns <= self.sinks.origin_ns + self.sinks.lead_ns


def a_hop() -> list[tuple[str, Any]]:
    """All that a recording keeps of a hop, as JSON."""
    at = media.Time(0, 0)
    crop = np.full((3, SIZE_PX, SIZE_PX), 128, np.uint8)
    sound = np.linspace(-1.0, 1.0, 100, dtype="<f4").tobytes()
    slot = media.Slot(
        captured_ns=ORIGIN_NS + 5, face=True, quality=0.5, faces=1, box=(0.1, 0.1, 0.2, 0.2), look=(0.5, 90.0)
    )
    told: list[tuple[str, msgspec.Struct]] = [
        (media.FACE, media.Face(timestamp=at, data=media.to_png(crop), captured_ns=ORIGIN_NS + 5)),
        (media.SOUND, media.Sound(timestamp=at, sample_rate=16_000, first_sample=0, present=[(0, 99)], data=sound)),
        (
            media.WORDS,
            media.Words(
                hop=1, segments=[media.Word(id="a", start_ns=ORIGIN_NS, end_ns=ORIGIN_NS + 9, text="x", final=True)]
            ),
        ),
        (media.HOP, media.HopEnd(number=1, start_ns=ORIGIN_NS, end_ns=ORIGIN_NS + HOP_NS, slots=[slot])),
    ]
    return [(kind, json.loads(msgspec.json.encode(one))) for kind, one in told]


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


def play(path: Path, told: list[tuple[str, Any]]) -> Unhurried:
    """The source, after all was put into the rings."""
    path.unlink(missing_ok=True)
    part, own = PartFile(path), session()
    part.start(own, {"media": "true", "session": own.session, "part": "1"})
    part.add("default", "session", 5, msgspec.json.encode(own), 1)
    for number, (kind, content) in enumerate(told):
        part.add("default", kind, 5, json.dumps(content).encode(), 2 + number)
    part.finish()
    part.close()
    grid = TimeGrid(ORIGIN_NS, HOP_NS, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)
    sinks = Sinks(VirtualClock(ORIGIN_NS), make_rings(grid, SIZE_PX))
    source = Unhurried(str(path), ("vision", "acoustic", "language"), sinks, "max")
    source.run()
    return source


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
