"""Cuts the newest hop out of the rings into the shapes that the levels take, and counts what the window holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.frontends.loudness import Loudness
from clcr_stream.frontends.mel import log_mel
from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.window.conditions import FINE, Condition
from clcr_stream.window.grid import Tick, TimeGrid
from clcr_stream.window.meters import SoundMeter
from clcr_stream.window.persons import Box
from clcr_stream.window.ring import NEVER_NS, AudioItems, AudioRing, Rings, VisionItems, VisionRing
from clcr_stream.window.transcript import Segment

F32 = NDArray[np.float32]
Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ModalityView:
    """One modality in the window: share of valid tokens, their quality 0..1, age of the newest at the window's end."""

    coverage: float
    quality: float | None
    newest_ns: int | None
    age_ms: float | None
    seen: int  # items captured in the newest hop, usable or not: frames without a face count here
    condition: Condition = FINE  # at the window's end
    numbers: Mapping[str, float | None] = field(default_factory=dict)  # its quality, by the names in messages


@dataclass(frozen=True)
class SeenFace:
    """The newest face of a hop: where, in shares of the picture as it was searched, whose, and how many there were."""

    box: Box | None
    person: int
    faces: int
    landmarks: NDArray[np.float32] | None = None  # (5, 2), in shares likewise


@dataclass(frozen=True)
class Hop:
    """The newest hop as it was read from the rings; `pictures.frames` are the caller's rows, until the next cut."""

    pictures: VisionItems
    first_sample: int
    sound: AudioItems


@dataclass(frozen=True)
class Chunk:
    """What the window of a tick holds; the hop's new data went into the rows that the cutter was given."""

    tick: Tick
    vision: ModalityView
    acoustic: ModalityView
    segments: list[Segment]
    persons: tuple[int, ...] = ()  # whose faces the hop's slots hold, in order of time
    face: SeenFace | None = None
    hop: Hop | None = None


class _History:
    """Counts of the last hops of one modality; sums are taken anew each time, so nothing drifts."""

    def __init__(self, hops: int, tokens: int) -> None:
        self._tokens = tokens
        self._rows = np.zeros((hops, 2), dtype=np.float64)  # valid tokens, summed quality
        self._newest_ns: int | None = None
        self._seen = 0
        self.numbers: dict[str, float | None] = {}

    def clear(self) -> None:
        self._rows.fill(0.0)
        self.numbers = {}
        self._seen = 0
        self._newest_ns = None

    def add(self, number: int, valid: int, quality_sum: float, seen: int) -> None:
        self._rows[number % len(self._rows)] = (valid, quality_sum)
        self._seen = seen

    def arrived(self, newest_ns: int) -> None:
        self._newest_ns = newest_ns

    def view(self, tick: Tick, condition: Condition, with_quality: bool) -> ModalityView:
        valid, quality_sum = (float(total) for total in self._rows.sum(axis=0))
        newest_ns = self._newest_ns if self._newest_ns is not None and self._newest_ns >= tick.start_ns else None
        return ModalityView(
            coverage=valid / self._tokens,
            quality=quality_sum / valid if with_quality and valid else None,
            newest_ns=newest_ns,
            age_ms=None if newest_ns is None else (tick.end_ns - newest_ns) / NS_PER_MS,
            seen=self._seen,
            condition=condition,
            numbers=self.numbers,
        )


class Cutter:
    """Cuts consecutive hops into rows that it is given; remembers the window's counts and how loud the voice is."""

    def __init__(self, manifest: Manifest, grid: TimeGrid) -> None:
        vision, acoustic = manifest.vision, manifest.acoustic
        self._manifest = manifest
        self._grid = grid
        self._mel = acoustic.mel
        self._left = self._mel.context_samples
        self._steps = np.arange(max(vision.slots_per_hop, acoustic.tokens_per_hop), dtype=np.int64)
        self._vision = _History(manifest.window_hops, vision.tokens)
        self._acoustic = _History(manifest.window_hops, acoustic.tokens)
        self._loudness = self._unheard()
        self._meter = SoundMeter(acoustic.sample_rate_hz, grid.window_ns / NS_PER_S)
        # The tables behind both are made now: they would cost the first tick 20 to 40 ms.
        log_mel(np.zeros(self._left + acoustic.samples_per_hop, np.float32), self._mel)
        self._positions(0)

    def clear(self) -> None:
        """Forget the window's counts and the voice's loudness, as the levels forget their state."""
        self._vision.clear()
        self._acoustic.clear()
        self._meter.clear()
        self._loudness = self._unheard()

    def _unheard(self) -> Loudness:
        return Loudness(self._manifest.hop_ns / NS_PER_S)

    def cut(self, rings: Rings, tick: Tick, rows: Rows) -> Chunk:
        """Write the hop of `tick` into `rows`; ticks must be cut in order, each once, or after `clear`.

        rows, float32: vision_in (slots, 3, size, size) RGB 0..255, vision_valid (slots,), vision_position (slots,
        width), acoustic_in (mel frames, bands), acoustic_valid (tokens,), acoustic_position (tokens, width) and, for a
        speech encoder, speech_position (its steps, its width).
        """
        pictures = self._cut_vision(rings.vision, tick, rows)
        sound = self._cut_acoustic(rings.acoustic, tick, rows)
        self._cut_positions(tick, rows)
        return Chunk(
            tick=tick,
            vision=self._vision.view(tick, rings.vision.conditions.at(tick.end_ns), with_quality=True),
            acoustic=self._acoustic.view(tick, rings.acoustic.conditions.at(tick.end_ns), with_quality=False),
            segments=rings.transcript.between(tick.start_ns, tick.end_ns),
            persons=tuple(pictures.person[pictures.valid > 0].tolist()),
            face=_newest_face(pictures),
            hop=Hop(pictures, (tick.number - 1) * self._manifest.acoustic.samples_per_hop, sound),
        )

    def _cut_vision(self, ring: VisionRing, tick: Tick, rows: Rows) -> VisionItems:
        """Fill the rows; the slots that they are made of."""
        count = self._manifest.vision.slots_per_hop
        first = (tick.number - 1) * count
        items = ring.read(first, count, into=rows["vision_in"])
        rows["vision_valid"][:] = items.valid
        valid = items.valid > 0
        seen = int(np.count_nonzero(items.captured_ns != NEVER_NS))
        self._vision.add(tick.number, int(np.count_nonzero(valid)), float(items.quality[valid].sum()), seen)
        if valid.any():
            self._vision.arrived(int(items.captured_ns[valid].max()))
        luma, sharp = items.look[:, 0], items.look[:, 1]
        self._vision.numbers = {"luma": _mean(luma), "sharpness": _mean(sharp), "face_size": _mean(items.box[:, 3])}
        return items

    def _cut_acoustic(self, ring: AudioRing, tick: Tick, rows: Rows) -> AudioItems:
        """Fill the rows; the hop's own samples."""
        spec = self._manifest.acoustic
        start = (tick.number - 1) * spec.samples_per_hop
        items = ring.read(start - self._left, start + spec.samples_per_hop)
        present = items.present[self._left :]
        gain = self._loudness.gain(items.samples[self._left :][present])
        rows["acoustic_in"][:] = log_mel(items.samples * gain, self._mel)
        tokens = present.reshape(spec.tokens_per_hop, -1).all(axis=1)
        rows["acoustic_valid"][:] = tokens
        heard = int(np.count_nonzero(present))
        self._acoustic.add(tick.number, int(np.count_nonzero(tokens)), 0.0, heard)
        if heard:
            end_sample = start + len(present) - int(present[::-1].argmax())
            self._acoustic.arrived(self._grid.sample_ns(end_sample))
            new = items.samples[self._left :]
            self._meter.add(new if heard == len(present) else new[present])
        else:
            self._meter.gap()
        numbers = self._meter.numbers()
        self._acoustic.numbers = {
            "level_dbfs": numbers.level_dbfs,
            "noise_dbfs": numbers.noise_dbfs,
            "snr_db": numbers.snr_db,
            "speech_share": numbers.speech_share,
        }
        return AudioItems(items.samples[self._left :], present)

    def _cut_positions(self, tick: Tick, rows: Rows) -> None:
        for name, positions in self._positions(tick.number - 1).items():
            rows[name][:] = positions

    def _positions(self, past: int) -> dict[str, NDArray[np.float32]]:
        """Absolute steps of the slots and tokens after `past` hops, both modalities in one go."""
        model, speech = self._manifest.model, self._manifest.acoustic.speech
        slots, tokens = self._manifest.vision.slots_per_hop, self._manifest.acoustic.tokens_per_hop
        steps = np.concatenate([self._steps[:slots] + past * slots, self._steps[:tokens] + past * tokens])
        both = sinusoid(steps, model.width, model.position_base)
        positions = {"vision_position": both[:slots], "acoustic_position": both[slots:]}
        if speech is not None:
            steps = np.arange(past * speech.steps_per_hop, (past + 1) * speech.steps_per_hop, dtype=np.int64)
            positions["speech_position"] = speech_positions(steps, speech.width, speech.period_steps)
        return positions


def _mean(values: NDArray[np.float32]) -> float | None:
    """Of those that were measured; None without one."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _newest_face(items: VisionItems) -> SeenFace | None:
    rows = np.flatnonzero(items.valid > 0)
    if not len(rows):
        return None
    row = int(rows[-1])
    left, top, width, height = (float(share) for share in items.box[row])
    box = None if math.isnan(left) else (left, top, width, height)
    landmarks = None if np.isnan(items.landmarks[row]).any() else items.landmarks[row]
    return SeenFace(box, int(items.person[row]), int(items.faces[row]), landmarks)
