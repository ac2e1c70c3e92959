"""One stream from its first hop to its last: which ticks are due, which are skipped, what is published.

Live and replay differ in what a tick waits for: a live one for the clock (the window's end plus a settle time), a
recording for its sources to have pushed everything before the window's end. Every hop goes through the levels, so that
their state is exact; when the machine is late only the newest tick due is published. Nothing here ever waits: the loop
asks `next_due`, lets the hop be cut with `fill` and hands its outputs to `finish`.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import FOREVER_NS, NS_PER_MS, NS_PER_S, Clock
from clcr_stream.errors import SourceError
from clcr_stream.frontends.text import TextEncoder
from clcr_stream.inference.levels import LevelOutputs, Levels
from clcr_stream.inference.program import Runner
from clcr_stream.sources.base import RECOGNISER, Source
from clcr_stream.streams.account import INVALID, LATE, OVERRUN, Account, Last
from clcr_stream.streams.language import LanguageStream, LanguageTokens
from clcr_stream.streams.person import Person
from clcr_stream.streams.prediction import (
    Answer,
    Identity,
    compose,
    compose_tokens,
    newest_capture_ns,
    why_invalid,
)
from clcr_stream.streams.required import NOTHING, Required, RequiredWatch
from clcr_stream.window.cutter import Chunk, Cutter, Rows
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import Rings, make_rings
from clcr_stream.window.transcript import Segment
from clcr_stream.wire import messages

LAST_WORDS_NS = 10 * NS_PER_S  # a recogniser has so long for the end of what it heard


class NextHop(enum.Enum):
    """When the next hop is due, where no time of the clock says it."""

    NOW = "it is overdue, or nothing paces it"
    NO_DATA = "a recording's next hop was not pushed, or its reader is behind"
    NONE = "the stream has ended"


@dataclass(frozen=True)
class Pipeline:
    """What a stream's hop goes through before the levels."""

    manifest: Manifest
    grid: TimeGrid
    rings: Rings
    cutter: Cutter
    language: LanguageStream
    tap: Callable[[Chunk, LanguageTokens], object] | None = None  # what a hop holds, before the levels get it


def open_pipeline(
    manifest: Manifest, origin_ns: int, tokenizer: TextEncoder, encoder: Runner, worker: Executor | None = None
) -> Pipeline:
    """A stream's own parts at its start, with empty rings for its sources; `worker` is where text is encoded."""
    grid = TimeGrid.of(manifest, origin_ns)
    rings = make_rings(grid, manifest.vision.size_px)
    language = LanguageStream(tokenizer, encoder, manifest, worker)
    return Pipeline(manifest, grid, rings, Cutter(manifest, grid), language)


def always() -> bool:
    """There is always room for the next prediction."""
    return True


def never() -> bool:
    """Nobody asks for tokens."""
    return False


@dataclass(frozen=True)
class Views:
    """What is made for people while they watch: tokens after a prediction, and the faces of a hop.

    `see` gets the rows of a hop that was cut, and the hop's end in ns; it must not keep them.
    """

    wants_tokens: Callable[[], bool] = never
    see: Callable[[Rows, int], object] | None = None


@dataclass(frozen=True)
class Schedule:
    """When ticks are due: `paced` follows the clock and skips when late, otherwise as fast as the sources allow.

    Without a pace the next hop also waits while `has_room` is False.
    """

    clock: Clock
    settle_ns: int
    paced: bool = True
    last_tick: int | None = None
    gamma: float = 1.0
    has_room: Callable[[], bool] = always
    required: Required = NOTHING


@dataclass(frozen=True)
class _Filled:
    """A hop that was cut and waits for its outputs."""

    chunk: Chunk
    language: LanguageTokens
    started_ns: int
    timing_ms: dict[str, float]


class Session:
    """One stream; driven by one thread, its `account` may be read from any."""

    def __init__(
        self,
        pipeline: Pipeline,
        sources: Sequence[Source],
        schedule: Schedule,
        identity: Identity,
        send: Callable[[messages.Message], object],
        person: Person | None = None,
        views: Views = Views(),
        beat: Callable[[], object] = always,
    ) -> None:
        """`send` takes every message; `beat` is called when a source is doing otherwise than before."""
        self.account = Account()
        self.person = Person() if person is None else person
        self.identity = identity
        self.first_published_ns: int | None = None
        self._pipeline = pipeline
        self._sources = sources
        self._schedule = schedule
        self._send, self._beat = send, beat
        self._views = views
        self._required = RequiredWatch(schedule.required, pipeline.grid.origin_ns)
        self._states: tuple[str, ...] = ()  # of the sources, at the last tick
        self._lossless = [source for source in sources if source.lossless]
        self._media = [source for source in sources if set(source.modalities) & {"vision", "acoustic"}]
        self._live = any(not source.lossless for source in self._media or sources)  # words settle for seconds
        # Live words are late anyhow, and those of a recogniser change often: no tick waits until they are encoded.
        words = [source for source in sources if "language" in source.modalities]
        pipeline.language.waits = all(source.lossless for source in words)
        self._recognisers = [source for source in words if source.report().kind == RECOGNISER]
        self._words_until_ns: int | None = None  # once all else has ended
        self._sent: dict[str, messages.Transcript] = {}
        self.done = 0  # the last tick that went through the levels or was dropped
        self._target = 0  # the tick to publish; those before it are late
        self._cut_ns = pipeline.grid.origin_ns  # when the last hop was cut, by the clock
        self._filled: _Filled | None = None
        self._words_shown: int | None = None  # revision of the language rows in the seat

    def next_due(self) -> int | NextHop:
        """When the next hop is due: ns of the clock, or what else decides it."""
        number = self.done + 1
        if self.done == self._schedule.last_tick:
            return NextHop.NONE
        end_ns = self._pipeline.grid.tick(number).end_ns
        if not all(source.filled(end_ns) for source in self._lossless):
            return self._without_data()
        if self._ended(end_ns):
            return self._last_words()
        if not self._schedule.paced:
            return NextHop.NOW if self._schedule.has_room() else NextHop.NO_DATA
        if number <= self._target:
            return NextHop.NOW
        return end_ns + self._settle_ns()

    def _without_data(self) -> NextHop:
        """A recording's next hop is not there. RequiredError, and the end by the clock, when its source has stalled.

        One that is only slow gives all of its hops, however late.
        """
        stalled = self._schedule.paced and any(source.report().state == "stale" for source in self._lossless)
        if not stalled:
            return NextHop.NO_DATA
        now_ns, last = self._schedule.clock.now_ns(), self._schedule.last_tick
        missing = self._required.stalled(now_ns - self._cut_ns)
        if missing and self._schedule.required.ends:
            raise self._required.error(missing, self._sources)
        over = last is not None and now_ns >= self._pipeline.grid.tick(last).end_ns
        return NextHop.NONE if over else NextHop.NO_DATA

    def _last_words(self) -> int | NextHop:
        """Picture and sound have ended: until when a recogniser that heard them to their end is waited for."""
        if not (self._schedule.paced and self._recognisers):
            return NextHop.NONE
        now_ns = self._schedule.clock.now_ns()
        self._words_until_ns = self._words_until_ns or now_ns + LAST_WORDS_NS
        over = now_ns >= self._words_until_ns or all(source.finished for source in self._recognisers)
        return NextHop.NONE if over else self._words_until_ns

    def deadline_ns(self) -> int:
        """Until when the next hop has to be published: the next one is due then. FOREVER_NS when nothing presses."""
        if not self._schedule.paced:
            return FOREVER_NS
        return self._pipeline.grid.tick(self.done + 2).end_ns + self._settle_ns()

    def fill(self, levels: Levels, seat: int) -> None:
        """Cut the hop that is due into its rows; `finish` must follow before the next one."""
        started_ns = time.perf_counter_ns()
        if self.done + 1 > self._target:
            self._choose_target(levels, seat)
        self._cut_ns = self._schedule.clock.now_ns()
        pipeline, tick = self._pipeline, self._pipeline.grid.tick(self.done + 1)
        rows = levels.inputs(seat)
        rows["gamma"][0] = self._schedule.gamma
        chunk = pipeline.cutter.cut(pipeline.rings, tick, rows)
        if self._views.see is not None:
            self._views.see(rows, tick.end_ns)
        self.person.before(levels, seat, chunk)
        for source in self._lossless:
            source.consumed(tick.end_ns)
        cut_ns = time.perf_counter_ns()
        language = pipeline.language.update(chunk.segments)
        if language.revision != self._words_shown:
            show_words(language, rows)
            self._words_shown = language.revision
        if pipeline.tap is not None:
            pipeline.tap(chunk, language)
        timing_ms = {
            "cut": (cut_ns - started_ns) / NS_PER_MS,
            "language": (time.perf_counter_ns() - cut_ns) / NS_PER_MS,
        }
        self._filled = _Filled(chunk, language, started_ns, timing_ms)

    def finish(self, levels: Levels, seat: int, engines_ms: Mapping[str, float], count: int = 1) -> None:
        """Publish what the levels said of the filled hop, in a call of `count` streams, or account for why not."""
        filled, self._filled = self._filled, None
        assert filled is not None, "finish without fill"
        manifest = self._pipeline.manifest
        self.done += 1
        missing = self._required.missing(filled.chunk)
        if missing and self._schedule.required.ends:
            raise self._required.error(missing, self._sources)
        outputs = levels.outputs(seat, valid_tokens(filled.chunk, filled.language, manifest))
        invalid = why_invalid(outputs, manifest.task == "classification") is not None
        if invalid:
            self.account.skipped(INVALID)
            levels.clear(seat)
            self._pipeline.cutter.clear()
        elif self.done < self._target:
            self.account.skipped(LATE)
        else:
            self._publish(filled, outputs, engines_ms, count, missing)
        self.person.after(levels, seat, self.done * manifest.hop_ns)
        states = tuple(source.report().state for source in self._sources)
        if states != self._states:
            self._states = states
            self._beat()

    def leave(self, levels: Levels, seat: int) -> None:
        """Publish the words that came after the last hop, take along what is asked for later; no hop comes after it."""
        if self._words_until_ns is not None:
            window, now_ns = self._pipeline.grid.tick(self.done), self._schedule.clock.now_ns()
            self._tell_transcript(self._pipeline.rings.transcript.between(window.start_ns, now_ns))
        self.person.leave(levels, seat)

    def _choose_target(self, levels: Levels, seat: int) -> None:
        """Choose the tick to publish: the newest due; a live stream a whole window behind starts over with it."""
        first, clock = self.done + 1, self._schedule.clock
        if not self._schedule.paced:
            self._target = first
            # Without a pace time is the recording's own: the clock is a virtual one and jumps there.
            clock.wait_until(self._pipeline.grid.tick(first).end_ns + self._settle_ns(), threading.Event())
            return
        self._target = newest = self._newest_due(first, clock.now_ns())
        # A recording waits for its reader, so there is no past to drop.
        if not self._lossless and newest - first >= self._pipeline.manifest.window_hops:
            self.account.skipped(OVERRUN, newest - first)
            # What a level remembers must be what the window says it holds; the person is still the same.
            self.person.clear_window(levels, seat)
            self._pipeline.cutter.clear()
            self.done = newest - 1

    def _settle_ns(self) -> int:
        """A recording has nothing to settle: what lies before its watermark is complete."""
        return self._schedule.settle_ns if self._live else 0

    def failure(self) -> SourceError | None:
        """What ended the inputs, when every one of them failed; picture and sound decide, if there are any."""
        reports = [source.report() for source in self._media or self._sources]
        if not reports or any(report.state != "failed" for report in reports):
            return None
        return SourceError("; ".join(f"{report.kind} {report.name}: {report.reason}" for report in reports))

    def _ended(self, end_ns: int) -> bool:
        """True when a hop is not full and no source will add to it; picture and sound decide, if there are any."""
        return all(source.finished for source in self._media or self._sources) and end_ns > self._data_end_ns()

    def _data_end_ns(self) -> int:
        """The end of the newest datum that was pushed; words count where there is neither picture nor sound."""
        rings = self._pipeline.rings
        words_ns = None if self._media else rings.transcript.newest_ns
        return rings.data_end_ns if words_ns is None else max(words_ns, rings.data_end_ns)

    def _newest_due(self, first: int, now_ns: int) -> int:
        grid = self._pipeline.grid
        newest = max(first, grid.closed_by(now_ns - self._settle_ns()))
        if not self._live:
            newest = max(first, min(newest, grid.closed_by(min(source.watermark_ns for source in self._lossless))))
        if self._schedule.last_tick is not None:
            newest = min(newest, self._schedule.last_tick)
        while newest > first and self._ended(grid.tick(newest).end_ns):
            newest -= 1
        return newest

    def _publish(
        self,
        filled: _Filled,
        outputs: LevelOutputs,
        engines_ms: Mapping[str, float],
        count: int,
        missing: tuple[str, ...] = (),
    ) -> None:
        notes = (*self.person.notes, *(f"{modality}_required" for modality in missing))
        answer = Answer(filled.chunk, filled.language, outputs, self._schedule.gamma, notes)
        self._tell_transcript(filled.chunk.segments)
        published_ns = self._schedule.clock.now_ns()
        timing_ms = filled.timing_ms | dict(engines_ms) | {"batch": float(count)}
        busy_ms = filled.timing_ms["language"] + sum(engines_ms.values())
        timing_ms["total"] = (time.perf_counter_ns() - filled.started_ns) / NS_PER_MS
        message = compose(answer, self._pipeline.manifest, self.identity, published_ns, timing_ms)
        self._send(message)
        if self._views.wants_tokens():
            self._send(compose_tokens(answer, message))
        if self.first_published_ns is None:
            self.first_published_ns = time.monotonic_ns()
        tick_ms = (time.perf_counter_ns() - filled.started_ns) / NS_PER_MS
        latency_ms = (published_ns - newest_capture_ns(answer)) / NS_PER_MS if self._schedule.paced else None
        self.account.published(
            latency_ms,
            tick_ms,
            tick_ms - busy_ms,
            Last(message.label, message.confidence, message.degraded, message.value),
        )

    def _tell_transcript(self, segments: Sequence[Segment]) -> None:
        """Publish each segment of the window that readers have not seen in this revision."""
        sent: dict[str, messages.Transcript] = {}
        for segment in segments:
            message = self._sent.get(segment.id)
            if message is None or (message.revision, message.text) != (segment.revision, segment.text):
                message = messages.Transcript(
                    stream=self.identity.stream,
                    session=self.identity.session,
                    seq=0,
                    boot_id=self.identity.boot_id,
                    published_ns=self._schedule.clock.now_ns(),
                    id=segment.id,
                    start_ns=segment.start_ns,
                    end_ns=segment.end_ns,
                    text=segment.text,
                    final=segment.final,
                    revision=segment.revision,
                )
                self._send(message)
            sent[segment.id] = message
        self._sent = sent


def show_words(language: LanguageTokens, rows: Rows) -> None:
    """Copy the window's text into its rows; it stays there until it changes."""
    for level, tensors in language.levels.items():
        for name, array in tensors.items():
            rows[f"{name}_{level}"][...] = array


def valid_tokens(
    chunk: Chunk, language: LanguageTokens, manifest: Manifest
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Valid tokens per modality in the window."""
    return np.array(
        (
            chunk.vision.coverage * manifest.vision.tokens,
            chunk.acoustic.coverage * manifest.acoustic.tokens,
            language.coverage * manifest.language.tokens,
        )
    )
