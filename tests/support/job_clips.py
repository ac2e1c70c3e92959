"""Clips to prove the main job on: of the shared data with the words that belong to them, or a generated one."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from clcr_stream.sources.synthetic.source import write_clip

DATA = Path(__file__).resolve().parents[3] / "shared/data"
MOSI_CLIP = "v04_014"  # dev split, 8.1 s: longer than the window of 6 s
JAVASED_CLIP = "s03_f_k01_happy_01"  # dev split, 30 frames a second on the grid of 15
GENERATED_S = 8.0
CUE_WORDS = 4
Word = tuple[str, float, float]


@dataclass(frozen=True)
class Clip:
    """A video file and the .srt beside which it is shown; `words` None when nothing was transcribed."""

    name: str
    video: Path
    srt: Path | None

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """As the command takes it."""
        return "--input", self.video, "--transcript", self.srt or "none"


# What a caller of the tests may put into their configuration instead of the clips and the bundle they would take.
CLIPS: pytest.StashKey[list[Clip]] = pytest.StashKey()
BUNDLE: pytest.StashKey[Path] = pytest.StashKey()


def write_srt(path: Path, words: list[Word]) -> Path:
    """Cues of CUE_WORDS words with their own times, as a caption file has them."""
    cues = [words[start : start + CUE_WORDS] for start in range(0, len(words), CUE_WORDS)]
    blocks = [
        f"{number}\n{_srt_time(cue[0][1])} --> {_srt_time(cue[-1][2])}\n{' '.join(word for word, _, _ in cue)}\n"
        for number, cue in enumerate(cues, 1)
    ]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def mosi_clip(folder: Path, name: str = MOSI_CLIP) -> Clip:
    """A person speaking to a camera, with the data set's word times."""
    with (DATA / "mosi400/labels.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["clip"] == name)
    words = [(str(word), float(start), float(end)) for word, start, end in json.loads(row["words"])]
    return Clip(name, DATA / f"mosi400/clips/{name}.mp4", write_srt(folder / f"{name}.srt", words))


def javased_clip(folder: Path, name: str = JAVASED_CLIP) -> Clip:
    """An actor's sentence. Its words say nothing of the emotion and have no times: one cue for the whole of it."""
    with (DATA / "javased/labels.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["clip"] == name)
    sentence = [("sentence", 0.4, 1.2), (f"number {row['sentence']}", 1.2, 2.6)]
    return Clip(name, DATA / f"javased/av/{name}.mp4", write_srt(folder / f"{name}.srt", sentence))


def generated_clip(folder: Path, seconds: float = GENERATED_S) -> Clip:
    """The drawn talking person of test://, where there is no data."""
    words = [("what", 0.5, 0.8), ("a", 0.8, 0.9), ("lovely", 0.9, 1.4), ("day", 1.4, 1.9), ("so", 3.0, 3.3)]
    video = folder / "generated.mp4"
    write_clip(video, seconds)
    return Clip("generated", video, write_srt(folder / "generated.srt", words))


def clips(folder: Path) -> list[Clip]:
    """The clips of the proof."""
    return [mosi_clip(folder), javased_clip(folder)] if DATA.exists() else [generated_clip(folder)]


def _srt_time(seconds: float) -> str:
    whole_ms = round(seconds * 1000)
    return f"{whole_ms // 3600000:02}:{whole_ms // 60000 % 60:02}:{whole_ms // 1000 % 60:02},{whole_ms % 1000:03}"
