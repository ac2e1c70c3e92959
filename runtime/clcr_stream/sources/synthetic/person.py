"""A drawn talking person as a function of time: the picture, the voice and the words behind test://."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import Flag
from clcr_stream.sources.synthetic import espeak
from clcr_stream.sources.synthetic.portrait import Look, draw_face
from clcr_stream.window.transcript import Segment

UTTERANCE_S = 5.0  # one sentence and the pause after it; emotions change here when cycling
SPEECH_S = 4.2
FLASH_S = 0.1
HARMONICS = 36
PIECES_PER_S = 4  # speech is drawn in pieces of so much, 10 ms of work each


@dataclass(frozen=True)
class Manner:
    """How an emotion looks and sounds here."""

    pitch_hz: float
    pitch_swing: float  # share of the pitch
    syllables_hz: float
    loudness: float
    look: Look
    words: str


MANNERS = {
    "neutral": Manner(120, 0.05, 3.6, 0.40, Look(0.0, 0.0, 0.0, 1.0), "the train leaves at ten from platform two"),
    "sad": Manner(105, 0.03, 2.4, 0.25, Look(0.1, 0.9, -0.9, 0.7), "i miss the old house and everyone in it"),
    "happy": Manner(170, 0.20, 4.6, 0.60, Look(0.3, 0.0, 1.0, 1.0), "what a lovely day i am so glad you came"),
    "surprise": Manner(200, 0.28, 4.2, 0.60, Look(1.0, 0.2, 0.1, 1.5), "oh i did not expect to see you here today"),
    "fear": Manner(190, 0.12, 5.2, 0.40, Look(0.7, 0.7, -0.4, 1.4), "please stay close there is something out there"),
    "anger": Manner(150, 0.16, 4.8, 0.80, Look(-0.7, -1.0, -0.6, 0.8), "stop this at once i told you never to do that"),
}
# First three formants in Hz of a, e, i, o, u (adult voice).
VOWELS = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240]])
BANDWIDTHS_HZ = np.array([90.0, 110.0, 170.0])


@dataclass(frozen=True)
class PersonOptions:
    """Options of a test:// URL; `seconds` None = without end, `emotion` None = all six in turn.

    With the voice `espeak` the sentences are spoken, and `transcript` does not give them as well.
    """

    seconds: float | None = None
    fps: int = 30
    emotion: str | None = None
    flash: bool = False
    transcript: bool = True
    voice: str = "drawn"


def parse_test_url(url: str, flag: Flag = "input") -> PersonOptions:
    """`test://?seconds=10&fps=30&emotion=happy&flash=1&transcript=0`; SourceError names the option that is wrong."""
    query = url.removeprefix("test://").partition("?")
    if not url.startswith("test://") or query[0].strip("/"):
        raise SourceError(f"{flag} {url}: not a test source; give test:// or test://?seconds=10&emotion=happy")
    parameters = dict(parse_qsl(query[2], keep_blank_values=True))
    allowed = {
        "seconds": "0..86400",
        "fps": "1..120",
        "emotion": "|".join(MANNERS),
        "flash": "0|1",
        "transcript": "0|1",
        "voice": "drawn|espeak",
    }
    for key, value in parameters.items():
        if key not in allowed or not _fits(key, value):
            choices = ", ".join(f"{name}={what}" for name, what in allowed.items())
            raise SourceError(f"{flag} {url}: option {key}={value} is not known; allowed are {choices}")
    voice = parameters.get("voice", "drawn")
    if voice == "espeak":
        espeak.check()
    return PersonOptions(
        seconds=float(parameters.get("seconds", 0)) or None,
        fps=int(parameters.get("fps", 30)),
        emotion=parameters.get("emotion"),
        flash=parameters.get("flash", "0") == "1",
        transcript=parameters.get("transcript", "0" if voice == "espeak" else "1") == "1",
        voice=voice,
    )


def _fits(key: str, value: str) -> bool:
    if key == "emotion":
        return value in MANNERS
    if key == "voice":
        return value in ("drawn", "espeak")
    if key in ("flash", "transcript"):
        return value in ("0", "1")
    try:
        number = float(value)
    except ValueError:
        return False
    return 0 <= number <= 86_400 if key == "seconds" else value.isdecimal() and 1 <= number <= 120


class Person:
    """The same time gives the same picture and sound, however they are cut into frames and blocks."""

    def __init__(self, options: PersonOptions, rate_hz: int) -> None:
        self.options, self.rate_hz = options, rate_hz

    def manner(self, time_s: float) -> Manner:
        """The emotion acted at that time."""
        names = list(MANNERS) if self.options.emotion is None else [self.options.emotion]
        return MANNERS[names[int(time_s // UTTERANCE_S) % len(names)]]

    def mouth(self, time_s: float) -> float:
        """How far the mouth is open, 0..1: the loudness of the syllable."""
        within = np.array([time_s % UTTERANCE_S])
        return float(_syllables(within, self.manner(time_s))[0])

    def segments(self, first_s: float, last_s: float, origin_ns: int = 0) -> list[Segment]:
        """The sentences that end in (first_s, last_s]; their times are from `origin_ns`."""
        segments = []
        for number in range(max(0, int(first_s // UTTERANCE_S) - 1), int(last_s // UTTERANCE_S) + 1):
            start_s = number * UTTERANCE_S
            end_s = start_s + SPEECH_S
            if first_s < end_s <= last_s:
                start_ns, end_ns = (origin_ns + round(time_s * NS_PER_S) for time_s in (start_s, end_s))
                segments.append(Segment(f"test-{number}", start_ns, end_ns, self.manner(start_s).words))
        return segments

    def sound(self, first_sample: int, count: int) -> NDArray[np.float32]:
        """Samples [first_sample, first_sample + count) at `rate_hz`, -1..1."""
        out = np.zeros(count, np.float32)
        done = 0
        per_utterance = int(UTTERANCE_S * self.rate_hz)
        while done < count:
            number, offset = divmod(first_sample + done, per_utterance)
            manner = self.manner(number * UTTERANCE_S)
            if self.options.voice == "espeak":
                spoken = _aloud(manner, self.rate_hz)[offset : offset + count - done]
            else:
                piece, within = divmod(offset, self.rate_hz // PIECES_PER_S)
                spoken = _spoken(manner, piece, self.rate_hz)[within : within + count - done]
            out[done : done + len(spoken)] = spoken
            done += len(spoken)
        if self.options.flash:
            at_s = (first_sample + np.arange(count)) / self.rate_hz
            click = 0.5 * np.sin(2 * np.pi * 1000 * at_s) * (at_s % 1.0 < FLASH_S)
            out = np.clip(out * 0.5 + click, -1.0, 1.0).astype(np.float32)
        return out

    def picture(self, time_s: float) -> NDArray[np.uint8]:
        """(480, 640, 3) RGB of that time; with `flash` the first 0.1 s of each second is bright."""
        picture = draw_face(self.manner(time_s).look, self.mouth(time_s), time_s)
        if self.options.flash and time_s % 1.0 < FLASH_S:
            picture = np.minimum(picture.astype(np.int16) + 70, 255).astype(np.uint8)
        return picture


def _syllables(at_s: NDArray[np.float64], manner: Manner) -> NDArray[np.float64]:
    """Opening 0..1 over the time within an utterance; every syllable has its own strength, the pause is closed."""
    phase = at_s * manner.syllables_hz
    strength = 0.7 + 0.3 * np.sin(2.4 * np.floor(phase) + 0.5)
    opening: NDArray[np.float64] = np.sin(np.pi * (phase % 1.0)) ** 2 * strength * (at_s < SPEECH_S)
    return opening


def _voice(at_s: NDArray[np.float64], manner: Manner, rate_hz: int) -> NDArray[np.float32]:
    """Harmonics of a pitch contour under the formants of one vowel per syllable, plus breath at syllable starts."""
    swing_hz = 0.6
    drift = manner.pitch_swing * (1 - np.cos(2 * np.pi * swing_hz * at_s)) / (2 * np.pi * swing_hz)
    cycles = manner.pitch_hz * (at_s + drift)  # integral of pitch * (1 + swing * sin)
    pitch_hz = manner.pitch_hz * (1 + manner.pitch_swing * np.sin(2 * np.pi * swing_hz * at_s))
    syllable = np.floor(at_s * manner.syllables_hz).astype(np.int64)
    formants = VOWELS[(syllable * 3 + 1) % len(VOWELS)]
    wave = np.zeros(len(at_s))
    for harmonic in range(1, HARMONICS + 1):
        frequency_hz = harmonic * pitch_hz
        distance = (frequency_hz[:, None] - formants) / BANDWIDTHS_HZ
        gain = (1.0 / (1.0 + distance**2)).sum(axis=1) + 0.02
        gain *= frequency_hz < 0.45 * rate_hz
        wave += gain * np.sin(2 * np.pi * harmonic * cycles) / np.sqrt(harmonic)
    breath = _noise(rate_hz)[(at_s * rate_hz).round().astype(np.int64) % rate_hz]
    onset = np.exp(-((at_s * manner.syllables_hz % 1.0) / 0.12)) * (at_s < SPEECH_S)
    mixed = manner.loudness * (0.45 * wave * _syllables(at_s, manner) + 0.08 * breath * onset)
    return np.asarray(np.clip(mixed + 0.001 * breath, -1.0, 1.0), np.float32)


@lru_cache(maxsize=256)
def _spoken(manner: Manner, piece: int, rate_hz: int) -> NDArray[np.float32]:
    """A piece of the utterance in that manner: the same each time, so a process draws each one once."""
    samples = rate_hz // PIECES_PER_S
    first = piece * samples
    last = min(first + samples, int(UTTERANCE_S * rate_hz))
    return _voice(np.arange(first, last) / rate_hz, manner, rate_hz)


@lru_cache(maxsize=16)
def _aloud(manner: Manner, rate_hz: int) -> NDArray[np.float32]:
    """The utterance spoken by espeak-ng from its beginning on, as long as all utterances are."""
    sound = np.zeros(int(UTTERANCE_S * rate_hz), np.float32)
    words = espeak.speak(manner.words, manner.pitch_hz, manner.loudness, rate_hz)[: len(sound)]
    sound[: len(words)] = words
    return sound


@lru_cache(maxsize=2)
def _noise(rate_hz: int) -> NDArray[np.float64]:
    return np.random.default_rng(20).standard_normal(rate_hz)
