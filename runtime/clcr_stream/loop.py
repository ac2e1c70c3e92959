"""The session: `for tick in ticks: publish(step(cut(rings, tick)))`, which ticks are due and which are skipped.

Live and replay differ in what a tick waits for: a live one for the clock (the window's end plus a settle time), a
recording for its sources to have pushed everything before the window's end. Every hop goes through the levels, so that
their state is exact; when the machine is late only the newest tick due is published.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clcr_stream import messages
from clcr_stream.clock import NS_PER_MS, NS_PER_S, Clock
from clcr_stream.language import LanguageStream
from clcr_stream.level import Levels
from clcr_stream.manifest import Manifest
from clcr_stream.prediction import Answer, Identity, compose, newest_capture_ns, why_invalid
from clcr_stream.ring import NEVER_NS
from clcr_stream.sources.base import Source
from clcr_stream.status import INVALID, LATE, OVERRUN, Account, Last
from clcr_stream.window import Cutter, Grid, Rings, Tick

ENGINES = ("level1", "level2", "level3", "intercad", "language")


@dataclass(frozen=True)
class Pipeline:
    """What a tick goes through."""

    manifest: Manifest
    grid: Grid
    rings: Rings
    cutter: Cutter
    language: LanguageStream
    levels: Levels


@dataclass(frozen=True)
class Schedule:
    """When ticks are due: `paced` follows the clock and skips when late, otherwise as fast as the sources allow."""

    settle_ns: int
    paced: bool = True
    last_tick: int | None = None
    gamma: float = 1.0


@dataclass(frozen=True)
class _Stepped:
    answer: Answer
    started_ns: int
    timing_ms: dict[str, float]


class Session:
    """One stream from its first hop to its last; `run` blocks, everything else may be read from any thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        sources: Sequence[Source],
        schedule: Schedule,
        identity: Identity,
        send: Callable[[messages.Message], object],
    ) -> None:
        self.account = Account()
        self.first_published_ns: int | None = None
        self._pipeline = pipeline
        self._sources = sources
        self._schedule = schedule
        self._identity = identity
        self._send = send
        self._lossless = [source for source in sources if source.lossless]
        self._media = [source for source in sources if set(source.modalities) & {"vision", "acoustic"}]
        self._live = len(self._lossless) < len(sources)
        self._told: dict[str, messages.Transcript] = {}

    def run(self, clock: Clock, stop: threading.Event) -> None:
        """Tick until the input ends, `last_tick` is done or `stop` is set; raises BackendError when an engine fails."""
        number = 0
        while not stop.is_set() and number != self._schedule.last_tick:
            first = number + 1
            if not self._wait(first, clock, stop):
                break
            number = self._advance(first, self._newest_due(first, clock), clock, stop)

    def _wait(self, number: int, clock: Clock, stop: threading.Event) -> bool:
        """Block until tick `number` is due and its data is there; False at the end of the input or when stopped."""
        end_ns = self._pipeline.grid.tick(number).end_ns
        if not all(source.wait_filled(end_ns, stop) for source in self._lossless):
            return False
        if self._ended(end_ns):
            return False
        return clock.wait_until(end_ns + self._settle_ns(), stop) and not self._ended(end_ns)

    def _settle_ns(self) -> int:
        """A recording has nothing to settle: what lies before its watermark is complete."""
        return self._schedule.settle_ns if self._live else 0

    def _ended(self, end_ns: int) -> bool:
        """True when a hop is not full and no source will add to it; picture and sound decide, if there are any."""
        return all(source.finished for source in self._media or self._sources) and end_ns > self._data_end_ns()

    def _data_end_ns(self) -> int:
        """The end of the newest datum that was pushed: of its slot or its last sample, else of its words."""
        rings, grid = self._pipeline.rings, self._pipeline.grid
        if not self._media:
            return rings.transcript.newest_ns
        ends = [grid.origin_ns, rings.acoustic.newest_ns]
        newest_ns = rings.vision.newest_ns
        if newest_ns != NEVER_NS:
            slot = rings.vision.slot_of(newest_ns)
            ends.append(grid.origin_ns + (slot + 1) * NS_PER_S // rings.vision.rate_hz)
        return max(ends)

    def _newest_due(self, first: int, clock: Clock) -> int:
        if not self._schedule.paced:
            return first
        newest = max(first, self._pipeline.grid.closed_by(clock.now_ns() - self._settle_ns()))
        if not self._live:
            newest = max(
                first, min(newest, self._pipeline.grid.closed_by(min(source.watermark_ns for source in self._lossless)))
            )
        if self._schedule.last_tick is not None:
            newest = min(newest, self._schedule.last_tick)
        while newest > first and self._ended(self._pipeline.grid.tick(newest).end_ns):
            newest -= 1
        return newest

    def _advance(self, first: int, newest: int, clock: Clock, stop: threading.Event) -> int:
        """Take ticks `first`..`newest` through the levels and publish the newest; the last one accounted for."""
        # A recording waits for its reader, so there is no past to drop.
        if not self._lossless and newest - first >= self._pipeline.manifest.window_hops:
            self.account.skipped(OVERRUN, newest - first)
            self._reset()
            first = newest
        for number in range(first, newest + 1):
            tick = self._pipeline.grid.tick(number)
            if number > first and (
                stop.is_set() or not all(source.wait_filled(tick.end_ns, stop) for source in self._lossless)
            ):
                return number - 1
            stepped = self._step(tick)
            if why_invalid(stepped.answer.outputs, self._pipeline.manifest.task == "classification") is not None:
                self.account.skipped(INVALID)
                self._reset()
            elif number < newest:
                self.account.skipped(LATE)
            else:
                self._publish(stepped, clock)
        return newest

    def _reset(self) -> None:
        """Start over with an empty window: what a level remembers must be what the window says it holds."""
        self._pipeline.levels.reset()
        self._pipeline.cutter.clear()

    def _step(self, tick: Tick) -> _Stepped:
        pipeline, gamma = self._pipeline, self._schedule.gamma
        started_ns = time.perf_counter_ns()
        chunk = pipeline.cutter.cut(pipeline.rings, tick)
        for source in self._lossless:
            source.consumed(tick.end_ns)
        cut_ns = time.perf_counter_ns()
        language = pipeline.language.update(chunk.segments)
        language_ns = time.perf_counter_ns()
        outputs = pipeline.levels.step(chunk, language, gamma)
        timing_ms = {
            "cut": (cut_ns - started_ns) / NS_PER_MS,
            "language": (language_ns - cut_ns) / NS_PER_MS,
            **outputs.timing_ms,
        }
        return _Stepped(Answer(chunk, language, outputs, gamma), started_ns, timing_ms)

    def _publish(self, stepped: _Stepped, clock: Clock) -> None:
        answer = stepped.answer
        self._tell_transcript(answer, clock)
        published_ns = clock.now_ns()
        timing_ms = stepped.timing_ms | {"total": (time.perf_counter_ns() - stepped.started_ns) / NS_PER_MS}
        message = compose(answer, self._pipeline.manifest, self._identity, published_ns, timing_ms)
        self._send(message)
        if self.first_published_ns is None:
            self.first_published_ns = time.monotonic_ns()
        tick_ms = (time.perf_counter_ns() - stepped.started_ns) / NS_PER_MS
        engines_ms = sum(stepped.timing_ms.get(name, 0.0) for name in ENGINES)
        latency_ms = (published_ns - newest_capture_ns(answer)) / NS_PER_MS if self._schedule.paced else None
        self.account.published(
            latency_ms, tick_ms, tick_ms - engines_ms, Last(message.label, message.confidence, message.degraded)
        )

    def _tell_transcript(self, answer: Answer, clock: Clock) -> None:
        """Publish each segment of the window that readers have not seen in this revision."""
        segments = answer.chunk.segments
        told: dict[str, messages.Transcript] = {}
        for segment in segments:
            known = self._told.get(segment.id)
            if known is None or (known.revision, known.text) != (segment.revision, segment.text):
                known = messages.Transcript(
                    stream=self._identity.stream,
                    session=self._identity.session,
                    seq=0,
                    boot_id=self._identity.boot_id,
                    published_ns=clock.now_ns(),
                    id=segment.id,
                    start_ns=segment.start_ns,
                    end_ns=segment.end_ns,
                    text=segment.text,
                    final=segment.final,
                    revision=segment.revision,
                )
                self._send(known)
            told[segment.id] = known
        self._told = told
