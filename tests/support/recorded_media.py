"""What a recording with media kept, on one time line: what the model got, hop by hop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from clcr_stream.recording import media
from clcr_stream.recording.reader import open_recording

RATE_HZ = 16_000


@dataclass(frozen=True)
class Kept:
    """Times are seconds from the first recorded hop."""

    seen_s: np.ndarray  # (n,), when each picture with a face was captured
    faces: np.ndarray  # (n, 3, size, size)
    samples: np.ndarray  # of all hops; zero where nothing came
    present: np.ndarray
    said: dict[str, media.Word]  # the last revision of each segment, its times in ns
    begin_ns: int


def read_kept(path: Path, size_px: int) -> Kept:
    """All of one recording."""
    faces: list[tuple[int, np.ndarray]] = []
    sounds: list[media.Sound] = []
    hops: list[media.HopEnd] = []
    said: dict[str, media.Word] = {}
    for entry in open_recording(path).entries():
        if entry.kind == media.FACE:
            face = msgspec.json.decode(entry.payload, type=media.Face)
            faces.append((face.captured_ns, media.from_png(face.data, size_px)))
        elif entry.kind == media.SOUND:
            sounds.append(msgspec.json.decode(entry.payload, type=media.Sound))
        elif entry.kind == media.WORDS:
            said |= {word.id: word for word in msgspec.json.decode(entry.payload, type=media.Words).segments}
        elif entry.kind == media.HOP:
            hops.append(msgspec.json.decode(entry.payload, type=media.HopEnd))
    begin_ns = hops[0].start_ns
    samples = np.zeros((hops[-1].end_ns - begin_ns) * RATE_HZ // 10**9, np.float32)
    present = np.zeros(len(samples), np.bool_)
    origin_ns = begin_ns - (hops[0].number - 1) * (hops[0].end_ns - begin_ns)
    first_hop = (begin_ns - origin_ns) * RATE_HZ // 10**9
    for sound in sounds:
        at, heard = sound.first_sample - first_hop, media.samples_of(sound)
        samples[at : at + len(heard)] = heard
        for start, stop in sound.present:
            present[at + start : at + stop] = True
    return Kept(
        np.array([(captured_ns - begin_ns) / 1e9 for captured_ns, _ in faces]),
        np.array([face for _, face in faces]),
        samples,
        present,
        said,
        begin_ns,
    )
