"""A recorded hop with everything in it, as lines that can be changed; and its replay, as far as it goes by itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from clcr_stream.clock import VirtualClock
from clcr_stream.recording import media
from clcr_stream.recording.file import PartFile
from clcr_stream.recording.source import RecordingSource
from clcr_stream.sources.base import Sinks
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from clcr_stream.wire import messages

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "wire"
HOP_NS = 200_000_000
ORIGIN_NS = 987_654_321_012
SIZE_PX = 112


def recorded_lines() -> bytes:
    """The hop and the messages around it, each a kind, a blank and its JSON."""
    at, begun_ns = media.Time(0, 0), _session().origin_ns
    crop = np.full((3, SIZE_PX, SIZE_PX), 128, np.uint8)
    slot = media.Slot(
        captured_ns=begun_ns + 5, face=True, quality=0.5, faces=1, box=(0.1, 0.1, 0.2, 0.2), look=(0.5, 90.0)
    )
    word = media.Word(id="a", start_ns=begun_ns, end_ns=begun_ns + 9, text="x", final=True)
    samples = np.linspace(-1.0, 1.0, 100, dtype="<f4").tobytes()
    told: list[tuple[str, msgspec.Struct]] = [
        (media.FACE, media.Face(timestamp=at, data=media.to_png(crop), captured_ns=begun_ns + 5)),
        (media.SOUND, media.Sound(timestamp=at, sample_rate=16_000, first_sample=0, present=[(0, 99)], data=samples)),
        (media.WORDS, media.Words(hop=1, segments=[word])),
        (media.HOP, media.HopEnd(number=1, start_ns=begun_ns, end_ns=begun_ns + HOP_NS, slots=[slot])),
    ]
    own = [f"{kind} ".encode() + (GOLDEN / f"{kind}.json").read_bytes().strip() for kind in ("session", "prediction")]
    return b"\n".join([*own, *(kind.encode() + b" " + msgspec.json.encode(one) for kind, one in told)])


def recorded(path: Path, lines: bytes) -> Path:
    """A recording whose messages are such lines, in a sound container."""
    path.unlink(missing_ok=True)
    part, session = PartFile(path), _session()
    try:
        part.start(session, {"media": "true", "session": session.session, "part": "1"})
        for line in lines.split(b"\n"):
            kind, _, payload = line.partition(b" ")
            if kind.decode("utf-8", "replace") in (*messages.KINDS, *media.MEDIA):
                part.add("default", kind.decode(), 5, payload, 1)
        part.finish()
    finally:
        part.close()
    return path


def replay(path: Path, lines: bytes) -> RecordingSource:
    """The source after all of it was put into the rings. SourceError."""
    grid = TimeGrid(ORIGIN_NS, HOP_NS, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)
    sinks = Sinks(VirtualClock(ORIGIN_NS), make_rings(grid, SIZE_PX))
    source = _Unhurried(str(recorded(path, lines)), ("vision", "acoustic", "language"), sinks, "max")
    source.run()
    return source


class _Unhurried(RecordingSource):
    """There is no reader of the rings: where it would wait for one, it ends."""

    def await_room(self, end_ns: int) -> bool:
        return end_ns <= self.sinks.origin_ns + self.sinks.lead_ns


def _session() -> messages.Session:
    session = messages.decode((GOLDEN / "session.json").read_bytes())
    assert isinstance(session, messages.Session)
    return session
