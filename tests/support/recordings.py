"""Recordings for tests, a feeder that pushes them into the rings in pieces, and how they lie on the time grid.

No torch: a program that compares graphs with the runtime need not load it. The layout shares no code with the runtime
but the tokenizer, log-mel and the loudness: the time grid, the visibility of words and the order of tokens are written
down a second time here, from ARCHITECTURE.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.frontends.loudness import Loudness
from clcr_stream.frontends.mel import MelSpec, log_mel
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import AudioRing, Rings, VisionRing
from clcr_stream.window.transcript import Segment, Transcript

HOP_NS, WINDOW_HOPS = 200_000_000, 30
SLOTS, SAMPLES, TOKENS, TEXT_TOKENS = 3, 3200, 5, 64
SIZE_PX = 112
LEFT_SAMPLES = 240
WINDOW_NS = WINDOW_HOPS * HOP_NS
ORIGIN_NS = 987_654_321_012


T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """A camera frame; `crop` None when it shows no face, `box` where the face is, in shares of the frame."""

    captured_ns: int
    crop: NDArray[np.uint8] | None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Words:
    """A revision of a segment and when it becomes known."""

    segment: Segment
    arrived_ns: int


@dataclass(frozen=True)
class Recording:
    """What happens in front of the devices, times absolute; `present` says which samples the microphone delivers."""

    hops: int
    frames: list[Frame]
    samples: NDArray[np.float32]
    present: NDArray[np.bool_]
    words: list[Words]
    gamma: float = 1.0
    first_hop: int = 0  # hops of the session that lie before the recording


def record(seed: int, hops: int, first_hop: int = 0) -> Recording:
    """A person who leaves the picture and comes back, a microphone with gaps, words that come late and are revised."""
    rng = np.random.default_rng(seed)
    start_ns = ORIGIN_NS + first_hop * HOP_NS
    end_ns = start_ns + hops * HOP_NS
    coarse = rng.integers(0, 256, (64, 7, 7, 3), dtype=np.uint8)
    faces = coarse.repeat(SIZE_PX // 7, 1).repeat(SIZE_PX // 7, 2)
    frames, time_ns = [], start_ns - 40_000_000
    away = sorted(rng.uniform(0, hops, 2) * HOP_NS + start_ns)
    while time_ns < end_ns:
        time_ns += int(rng.uniform(15e6, 90e6))  # 11 to 66 frames a second: empty slots and frames that share one
        if away[0] < time_ns < away[1]:
            continue
        frames.append(Frame(time_ns, faces[rng.integers(len(faces))] if rng.random() > 0.1 else None))
    loudness = rng.uniform(-4, 0, hops).repeat(SAMPLES)
    samples = (rng.normal(0, 0.3, hops * SAMPLES) * 10**loudness).clip(-1, 1).astype(np.float32)
    present = np.ones(hops * SAMPLES, np.bool_)
    for _ in range(max(1, hops // 6)):
        at = int(rng.integers(0, len(present)))
        present[at : at + int(rng.integers(1, 9000))] = False
    return Recording(hops, frames, samples, present, speak(rng, start_ns, hops), first_hop=first_hop)


def speak(rng: np.random.Generator, start_ns: int, hops: int) -> list[Words]:
    """Segments of random length; some are revised while they are the newest, some later, some taken back."""
    from tiny_bundle import WORDS  # which loads onnx

    found: list[Words] = []
    time_ns, end_ns = start_ns, start_ns + hops * HOP_NS
    while (time_ns := time_ns + int(rng.uniform(0.1, 1.5) * NS_PER_S)) < end_ns:
        stop_ns = time_ns + int(rng.uniform(0.2, 1.5) * NS_PER_S)
        arrived_ns, name = stop_ns, f"segment {len(found)}"
        for revision in range(int(rng.integers(1, 4))):
            arrived_ns += int(rng.exponential(0.6) * NS_PER_S)
            count = 0 if revision and rng.random() < 0.15 else int(rng.integers(1, 14))
            text = " ".join(rng.choice(WORDS, count)) if count else ""
            found.append(Words(Segment(name, time_ns, stop_ns, text, revision=revision), arrived_ns))
        time_ns = stop_ns
    return sorted(found, key=lambda words: words.arrived_ns)


def without(recording: Recording, modality: str) -> Recording:
    """The same recording with one device missing."""
    match modality:
        case "vision":
            return replace(recording, frames=[])
        case "acoustic":
            return replace(recording, present=np.zeros_like(recording.present))
        case _:
            return replace(recording, words=[])


def audio_pieces(recording: Recording, rng: np.random.Generator, longest: int) -> list[tuple[int, int]]:
    """[start, stop) of pieces of random length that cover exactly the samples present."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], recording.present, [False]]).astype(np.int8)))
    pieces = []
    for start, stop in edges.reshape(-1, 2).tolist():
        while start < stop:
            end = min(stop, start + int(rng.integers(1, longest + 1)))
            pieces.append((start, end))
            start = end
    return pieces


class Feeder:
    """Pushes a recording into the rings in random pieces, sound out of order, no later than each tick needs it.

    `whole`: everything before the first tick, in as few pieces as there are, into rings that hold it all.
    """

    def __init__(self, recording: Recording, seed: int = 0, whole: bool = False) -> None:
        self._rng = np.random.default_rng(seed)
        self._recording, self._whole = recording, whole
        longest = len(recording.samples) if whole else 9000
        self._pieces = deque(audio_pieces(recording, self._rng, longest))
        self._frames, self._words = deque(recording.frames), deque(recording.words)
        seconds = (recording.hops + 1) * 0.2 if whole else 8.0
        grid = TimeGrid(ORIGIN_NS, HOP_NS, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)
        vision = VisionRing(grid, size_px=112, slots=int(seconds * 15))
        self.rings = Rings(grid, vision, AudioRing(grid, seconds), Transcript())

    def fill(self, end_ns: int) -> None:
        """Push everything before `end_ns`, and up to four hops of what comes after it."""
        until_ns = end_ns + int(self._rng.uniform(0, 4) * HOP_NS)
        if self._whole:
            until_ns = ORIGIN_NS + (self._recording.first_hop + self._recording.hops) * HOP_NS
        first = self._recording.first_hop * SAMPLES
        stop = (until_ns - ORIGIN_NS) * 16 // 1_000_000 - first
        due = list(_before(self._pieces, lambda piece: piece[0] < stop))
        seen = deque(_before(self._frames, lambda frame: frame.captured_ns < until_ns))
        for index in self._rng.permutation(len(due) + len(seen)):
            if index < len(due):
                begin, end = due[index]
                self.rings.acoustic.put(first + begin, self._recording.samples[begin:end])
            else:
                self.offer(seen.popleft())  # a camera delivers its frames in order
        for words in _before(self._words, lambda words: words.arrived_ns <= until_ns):
            self.rings.transcript.put(words.segment, words.arrived_ns)

    def offer(self, frame: Frame) -> None:
        if self.rings.vision.wants(frame.captured_ns):
            self.rings.vision.put(frame.captured_ns, frame.crop, 0.5, int(frame.crop is not None), frame.box)


def _before(items: deque[T], holds: Callable[[T], bool]) -> Iterator[T]:
    """Take items from the left as long as `holds`."""
    while items and holds(items[0]):
        yield items.popleft()


@dataclass(frozen=True)
class Said:
    """A segment as it was tokenised: its ids take the steps from `first_step` on."""

    text: str
    first_step: int
    ids: tuple[int, ...]


class Laid:
    """A recording on the time grid: slots of picture, samples, words as ARCHITECTURE.md orders them."""

    def __init__(self, tokenizer: Tokenizer, recording: Recording) -> None:
        self.tokenizer, self.recording = tokenizer, recording
        self.said: dict[str, Said] = {}  # by segment id
        self.next_step = 0
        hops = recording.hops
        heard = recording.samples * recording.present
        self.heard = np.concatenate([np.zeros(LEFT_SAMPLES, np.float32), heard])
        loudness, by_hop = Loudness(), zip(heard.reshape(hops, -1), recording.present.reshape(hops, -1), strict=True)
        self.gains = np.array([loudness.gain(samples[present]) for samples, present in by_hop])
        self.acoustic_valid = recording.present.reshape(hops * TOKENS, -1).min(axis=1).astype(np.float32)
        self.slots: list[Frame | None] = [None] * (hops * SLOTS)
        for frame in reversed(recording.frames):  # so that the first frame of a slot is the one that stays
            # The slot whose centre k / 15 s is nearest, counted from the recording's first hop.
            slot = ((frame.captured_ns - ORIGIN_NS) * 30 + NS_PER_S) // (2 * NS_PER_S) - recording.first_hop * SLOTS
            if 0 <= slot < len(self.slots):
                self.slots[slot] = frame

    def mel(self, spec: MelSpec, begin: int, end: int) -> NDArray[np.float32]:
        """Log-mel of hops [begin, end), each raised by its own gain."""
        return np.concatenate(
            [
                log_mel(self.heard[hop * SAMPLES : (hop + 1) * SAMPLES + LEFT_SAMPLES] * self.gains[hop], spec)
                for hop in range(begin, end)
            ]
        )

    def place_words(self, hops: int) -> list[Said]:
        """The segments known at the end of hop `hops` that overlap its window, in time order, with their steps."""
        end_ns = ORIGIN_NS + (self.recording.first_hop + hops) * HOP_NS
        newest: dict[str, Segment] = {}
        for words in self.recording.words:  # in order of arrival
            known = newest.get(words.segment.id)
            if words.arrived_ns <= end_ns and (known is None or words.segment.revision > known.revision):
                newest[words.segment.id] = words.segment
        overlapping = [s for s in newest.values() if s.text and s.end_ns > end_ns - WINDOW_NS and s.start_ns < end_ns]
        overlapping.sort(key=lambda segment: segment.start_ns)
        for segment in overlapping:
            before = self.said.get(segment.id)
            if before is None or before.text != segment.text:
                # The newest segment grows in place; an older one arrives anew, at the end of the stream.
                growing = before is not None and before.first_step + len(before.ids) == self.next_step
                first_step = before.first_step if before is not None and growing else self.next_step
                said = Said(segment.text, first_step, tuple(self.tokenizer.encode(segment.text, TEXT_TOKENS)))
                self.said[segment.id], self.next_step = said, first_step + len(said.ids)
        self.said = {segment.id: self.said[segment.id] for segment in overlapping}
        return [self.said[segment.id] for segment in overlapping]
