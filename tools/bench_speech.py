"""How well speech recognition hears, how late, and what it invents.

    python tools/bench_speech.py --labels clips/labels.csv --media clips        clips whose words are known
    python tools/bench_speech.py                                                only silence, noise and music
    python tools/bench_speech.py --foreign folder                               speech that it must not understand

The labels are CSV with the columns `clip` (a file of --media, with or without its suffix) and `text`; `split`, where
there is one, is chosen by --split. Sound is played as a live session hears it: while a recogniser is busy, more sound
comes. Music is drawn: chords, a bass and a drum.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import machine
from clcr_stream.errors import ClcrError
from clcr_stream.sources.audio import decode_sound
from clcr_stream.sources.speech.choose import open_recogniser, parse
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Recogniser

Sound = NDArray[np.float32]
BLOCK = SPEECH_HZ // 10  # of a live session
BEFORE_S, AFTER_S = 0.5, 1.5  # silence around a clip
DRAWS = 1000  # of the bootstrap
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".mkv", ".webm")


@dataclass
class Heard:
    """What a recogniser said of a sound that was played live."""

    seconds: float
    text: str = ""
    lags_s: list[float] = field(default_factory=list)  # of each word: from its end until it was committed
    cpu_s: float = 0.0


def listen(recogniser: Recogniser, sound: Sound) -> Heard:
    """Play a sound in its own time, without waiting: what was slow in reality makes the next piece longer."""
    heard = Heard(len(sound) / SPEECH_HZ)
    words: dict[int, tuple[str, ...]] = {}
    at, cpu_s = 0, time.process_time()
    now_s = 0.0
    while at < len(sound):
        now_s = max(now_s, (at + BLOCK) / SPEECH_HZ)
        stop = min(len(sound), int(now_s * SPEECH_HZ))
        started_s = time.perf_counter()
        revisions = recogniser.push(at, sound[at:stop])
        if stop == len(sound):
            revisions += recogniser.flush()
        now_s += time.perf_counter() - started_s
        at = stop
        for revision in revisions:
            known = len(words.get(revision.number, ()))
            heard.lags_s += [now_s - word.end / SPEECH_HZ for word in revision.words[known:]]
            words[revision.number] = tuple(word.text for word in revision.words)
    heard.cpu_s = time.process_time() - cpu_s
    heard.text = " ".join(word for segment in words.values() for word in segment)
    return heard


def plain(text: str) -> list[str]:
    """Words as they are compared: lower case, no punctuation."""
    return re.sub(r"[^\w' ]", " ", text.lower()).replace("'", "").split()


def errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Substitutions, insertions and deletions between two texts (Levenshtein's distance of words)."""
    row = list(range(len(hypothesis) + 1))
    for number, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for place, word in enumerate(hypothesis, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (expected != word))
    return row[-1]


def with_silence(path: Path) -> Sound:
    """A clip as it stands in a longer recording, mono at SPEECH_HZ."""
    return np.pad(decode_sound(str(path), SPEECH_HZ), (int(BEFORE_S * SPEECH_HZ), int(AFTER_S * SPEECH_HZ)))


def clips(labels: Path, media: Path, split: str | None) -> Iterator[tuple[Path, str]]:
    """File and text of each clip."""
    with labels.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if split is not None and row.get("split", split) != split:
                continue
            found = [media / row["clip"], *(media / (row["clip"] + suffix) for suffix in SUFFIXES)]
            path = next((path for path in found if path.is_file()), None)
            if path is None:
                raise ClcrError(f"{labels}: clip {row['clip']} is not in {media}")
            yield path, row["text"]


def words_heard(recogniser: Recogniser, chosen: Iterable[tuple[Path, str]]) -> dict[str, Any]:
    """Word errors, commit lag and cost over clips whose words are known."""
    wrong, total, lags_s, cpu_s, sound_s = [], [], [], 0.0, 0.0
    for path, text in chosen:
        heard = listen(recogniser, with_silence(path))
        reference = plain(text)
        wrong.append(errors(reference, plain(heard.text)))
        total.append(len(reference))
        lags_s += heard.lags_s
        cpu_s += heard.cpu_s
        sound_s += heard.seconds
    counts, rng = np.array([wrong, total]), np.random.default_rng(0)
    draws = rng.integers(0, len(wrong), (DRAWS, len(wrong)))
    rates = counts[0][draws].sum(axis=1) / counts[1][draws].sum(axis=1)
    return {
        "clips": len(wrong),
        "words": sum(total),
        "sound_s": round(sound_s, 1),
        "word_error_rate": round(sum(wrong) / sum(total), 4),
        "word_error_rate_95": [round(float(value), 4) for value in np.percentile(rates, [2.5, 97.5])],
        "commit_lag_s": {f"p{rank}": round(float(np.percentile(lags_s, rank)), 3) for rank in (50, 95)},
        "cpu_share": round(cpu_s / sound_s, 4),
    }


def wrong_words(recogniser: Recogniser, sounds: Iterable[Sound]) -> dict[str, Any]:
    """What is heard where there are no words to understand."""
    said, seconds, cpu_s = 0, 0.0, 0.0
    examples: list[str] = []
    for sound in sounds:
        heard = listen(recogniser, sound)
        said += len(plain(heard.text))
        seconds += heard.seconds
        cpu_s += heard.cpu_s
        if heard.text and len(examples) < 5:
            examples.append(heard.text)
    return {
        "sound_s": round(seconds, 1),
        "words": said,
        "words_per_hour": round(said * 3600 / seconds, 1),
        "cpu_share": round(cpu_s / seconds, 4),
        "examples": examples,
    }


def noise(level: float, seconds: float) -> Sound:
    """Pink noise with a standard deviation of `level`."""
    count = int(seconds * SPEECH_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    wave = np.fft.irfft(spectrum, count)
    return np.asarray(np.clip(wave * (level / wave.std()), -1, 1), np.float32)


def music(seconds: float) -> Sound:
    """Four chords again and again, with a bass, a drum and a melody that wanders."""
    at = np.arange(int(seconds * SPEECH_HZ)) / SPEECH_HZ
    bar = (at // 2).astype(int) % 4
    wave = np.zeros(len(at))
    for number, chord in enumerate(
        ((220, 277.2, 329.6), (196, 246.9, 293.7), (174.6, 220, 261.6), (196, 246.9, 329.6))
    ):
        for tone_hz in chord:
            for harmonic in (1, 2, 3):
                wave += (bar == number) * np.sin(2 * np.pi * harmonic * tone_hz * at) / harmonic**1.5
    notes = np.random.default_rng(2).choice([440.0, 493.9, 554.4, 659.3, 740.0], int(seconds * 4) + 1)
    melody_hz = notes[(at * 4).astype(int)]
    wave += np.sin(2 * np.pi * np.cumsum(melody_hz) / SPEECH_HZ) * np.exp(-(at * 4 % 1) * 3) * 2
    drum = np.random.default_rng(3).standard_normal(len(at)) * np.exp(-(at * 2 % 1) * 30) * 2
    return np.asarray(0.2 * (wave + drum) / np.abs(wave + drum).max() * 2, np.float32).clip(-1, 1)


def foreign(folder: Path, limit: int) -> Iterator[Sound]:
    """So many files of a folder, evenly spread."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ClcrError(f"--foreign {folder}: no sound or video in it")
    for number in range(min(limit, len(files))):
        yield with_silence(files[number * len(files) // min(limit, len(files))])


def table(figures: dict[str, Any]) -> list[list[str]]:
    """The figures as rows of text, the first one a heading."""
    rows = [
        ["sound", "minutes", "words", "word errors", "lag p50", "lag p95", "wrong words an hour", "CPU of one core"]
    ]
    known = figures.get("clips")
    if known is not None:
        low, high = known["word_error_rate_95"]
        errors_text = f"{known['word_error_rate']:.3f} [{low:.3f}, {high:.3f}]"
        lags = [f"{known['commit_lag_s'][rank]:.2f} s" for rank in ("p50", "p95")]
        name, minutes = f"{known['clips']} clips", f"{known['sound_s'] / 60:.1f}"
        rows.append([name, minutes, f"{known['words']}", errors_text, *lags, "-", f"{known['cpu_share']:.1%}"])
    for name, one in figures["no words"].items():
        invented, cost = f"{one['words_per_hour']:.0f}", f"{one['cpu_share']:.1%}"
        rows.append([name, f"{one['sound_s'] / 60:.1f}", f"{one['words']}", "-", "-", "-", invented, cost])
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recogniser", default="asr", help="as --transcript takes it (default: asr)")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="clips and what is said in them")
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder of the clips (default: that of the labels)")
    parser.add_argument("--split", help="only clips of this split")
    parser.add_argument("--foreign", type=Path, nargs="+", default=[], metavar="DIR", help="speech of other languages")
    parser.add_argument("--limit", type=int, default=50, help="files of each foreign folder (default: 50)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of silence, noise and music (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come."""
    recogniser = open_recogniser(parse(given.recogniser), live=True)
    print(f"{recogniser.about}")
    figures: dict[str, Any] = {"recogniser": recogniser.about, "command": sys.argv[1:], "machine": machine()}
    if given.labels is not None:
        figures["clips"] = words_heard(recogniser, clips(given.labels, given.media or given.labels.parent, given.split))
        print(f"clips: {json.dumps(figures['clips'])}")
    seconds = given.minutes * 60
    drawn: dict[str, Callable[[], Sound]] = {
        "silence": lambda: np.zeros(int(seconds * SPEECH_HZ), np.float32),
        "noise at -50 dBFS": lambda: noise(0.003, seconds),
        "noise at -25 dBFS": lambda: noise(0.056, seconds),
        "music": lambda: music(seconds),
    }
    sounds: dict[str, Iterable[Sound]] = {name: (draw() for _ in range(1)) for name, draw in drawn.items()}
    sounds |= {f"speech in {folder.name}": foreign(folder, given.limit) for folder in given.foreign}
    figures["no words"] = {}
    for name, played in sounds.items():
        figures["no words"][name] = wrong_words(recogniser, played)
        print(f"{name}: {json.dumps(figures['no words'][name])}", flush=True)
    return figures


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    try:
        if given.minutes <= 0 or given.limit < 1:
            raise ClcrError(f"--minutes {given.minutes:g} --limit {given.limit}: must be above 0")
        figures = measure(given)
    except (ClcrError, OSError, KeyError) as error:
        print(f"bench_speech: error: {error}", file=sys.stderr)
        return 2
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
