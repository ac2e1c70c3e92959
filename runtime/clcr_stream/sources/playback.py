"""Which part of a recording is played, and how often."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import Modality, Span
from clcr_stream.sources.media import SEEK_FROM_NS, AudioItem, Item, MediaReader, VideoItem

BEYOND_NS = 2 * NS_PER_S  # pictures and sound that lie side by side in a file are no further apart


class Playback:
    """The items of a recording from `span`'s start to its end, once or again and again; all times from its start.

    `ends_ns` is where each modality ends by the container's index, in the round that is being read.
    """

    def __init__(self, reader: MediaReader, open_again: Callable[[], MediaReader], span: Span, rate_hz: int) -> None:
        self._reader, self._open_again = reader, open_again
        self._span, self._rate_hz = span, rate_hz
        self._start_ns = round(span.start_s * NS_PER_S)
        self._end_ns = None if span.end_s is None else round(span.end_s * NS_PER_S)
        self._offset = 0  # samples in the rounds before
        self.ends_ns = self._ends()

    @property
    def begun_ns(self) -> int:
        """Where the round that is being read begins."""
        return self._offset * NS_PER_S // self._rate_hz

    def items(self) -> Iterator[Item]:
        """Pictures and blocks of sound in the order in which they decode."""
        while True:
            last_ns, gap_ns = 0, 0
            for item in self._cut(self._found()):
                if isinstance(item, VideoItem):
                    gap_ns = max(gap_ns, item.time_ns - last_ns) if gap_ns == 0 else gap_ns
                    last_ns = max(last_ns, item.time_ns + min(gap_ns, NS_PER_S))
                    yield replace(item, time_ns=item.time_ns + self.begun_ns)
                else:
                    stop = item.first_sample + len(item.samples)
                    last_ns = max(last_ns, stop * NS_PER_S // self._rate_hz)
                    yield replace(item, first_sample=item.first_sample + self._offset)
            self._reader.__exit__()
            if not self._span.loop or last_ns == 0:
                return
            self._offset += -(-last_ns * self._rate_hz // NS_PER_S)
            self._reader = self._open_again()
            self.ends_ns = self._ends()

    def cut_short(self) -> str:
        """Once all was played: what could be read of a recording that ends before its time; "" for a whole one."""
        return self._reader.cut_short(self._span.end_s)

    def close(self) -> None:
        """Let go of the recording."""
        self._reader.__exit__()

    def _found(self) -> Iterator[Item]:
        """What there is from the span's start on, or from the recording's where that place cannot be sought.

        Many servers cannot seek, and containers then go on anywhere: what begins after the place has missed it.
        """
        length_s = self._reader.length_s
        if self._reader.on_disk and length_s is not None and self._span.start_s >= length_s:
            return iter(())
        if self._start_ns > SEEK_FROM_NS and self._reader.seekable:
            items = self._reader.items(self._start_ns)
            before: set[Modality] = set()
            with contextlib.suppress(SourceError):
                for item in items:
                    modality, end_ns = self._end_of(item)
                    if end_ns < self._start_ns:
                        before.add(modality)
                    elif before >= self._expected():
                        return chain((item,), items)
                    else:
                        break
            self._reader.__exit__()
            self._reader = self._open_again()
        return self._reader.items()

    def _expected(self) -> set[Modality]:
        """What is not over before the span's start by the container's index."""
        return {
            modality for modality, end_ns in self._reader.ends_ns.items() if end_ns is None or end_ns > self._start_ns
        }

    def _end_of(self, item: Item) -> tuple[Modality, int]:
        """Where an item ends in the recording; a picture has no length."""
        if isinstance(item, VideoItem):
            return "vision", item.time_ns
        return "acoustic", (item.first_sample + len(item.samples)) * NS_PER_S // self._rate_hz

    def _cut(self, items: Iterator[Item]) -> Iterator[Item]:
        over: set[str] = set()
        first = self._start_ns * self._rate_hz // NS_PER_S
        stop = None if self._end_ns is None else self._end_ns * self._rate_hz // NS_PER_S
        for item in items:
            what, time_ns = self._end_of(item)
            if isinstance(item, VideoItem):
                if time_ns >= self._start_ns and (self._end_ns is None or time_ns < self._end_ns):
                    yield replace(item, time_ns=time_ns - self._start_ns)
            else:
                skipped = max(0, first - item.first_sample)
                samples = item.samples[skipped : None if stop is None else max(0, stop - item.first_sample)]
                if len(samples):
                    yield AudioItem(item.first_sample + skipped - first, samples)
            if self._end_ns is not None and time_ns >= self._end_ns:
                over.add(what)
                if over >= set(self._reader.modalities) or time_ns > self._end_ns + BEYOND_NS:
                    return

    def _ends(self) -> dict[Modality, int | None]:
        """A loop's modalities all end where the longest does, for the next round begins there."""
        ends: dict[Modality, int | None] = {}
        for modality, end_ns in self._reader.ends_ns.items():
            if end_ns is not None and self._end_ns is not None:
                end_ns = min(end_ns, self._end_ns)
            ends[modality] = None if end_ns is None else self.begun_ns + max(0, end_ns - self._start_ns)
        return ends
