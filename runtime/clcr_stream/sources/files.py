"""A media file, a pipe or a recording behind a URL as a source: lossless, at its own pace or as fast as it is read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceError, redact
from clcr_stream.sources.base import Flag, Modality, Pace, Sinks, SourceIdentity, Span, nobody
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.media import STREAM_KIND, AudioItem, Item, MediaReader, VideoItem, open_file
from clcr_stream.sources.playback import Playback
from clcr_stream.sources.sound import SoundFeeder
from clcr_stream.sources.threaded import ThreadedSource

STALE_NS = {"data": 2 * NS_PER_S}  # at its own pace: what writes to a pipe may write in bursts
INTERLEAVE_NS = 2 * NS_PER_S  # a stream that is further behind the other in the file is not waited for
SIDE_BY_SIDE = "give the file itself, or one with its streams side by side"  # a pipe cannot be read elsewhere
Opener = Callable[[str, tuple[Modality, ...], int, Callable[[str], None], Flag], MediaReader]


class FileSource(ThreadedSource):
    """A media file: lossless at both paces, so that a replay gives the same data every time.

    File time t is origin_ns + t. At pace `real` nothing is pushed before its time, at `max` only the loop's
    consumption holds it back. Raises SourceError at construction when nothing in the file can be used.
    """

    def __init__(
        self,
        location: str,
        requested: tuple[Modality, ...],
        sinks: Sinks,
        pace: Pace = "real",
        flag: Flag = "input",
        span: Span = Span(),  # noqa: B008 frozen
        opener: Opener = open_file,
        cancel: Callable[[], object] = nobody,
    ) -> None:
        """`opener` opens what is played, again for each round of a loop; `cancel` ends a read that waits."""
        self._opened = False
        self._early_errors = 0
        self._cancel = cancel
        rate_hz = sinks.grid.sample_rate_hz

        def open_again() -> MediaReader:
            return opener(location, requested, rate_hz, self._count_error, flag)

        self._reader = open_again()
        self._playback = Playback(self._reader, open_again, span, rate_hz)
        items = self._playback.items()
        try:
            begin = list(islice(items, 2))
        except SourceError as error:
            self._playback.close()
            raise SourceError(f"{flag} {redact(location)}: {error}", error.code) from None
        if not begin or (len(begin) == 1 and isinstance(begin[0], VideoItem) and span == Span()):
            self._playback.close()
            raise _nothing(f"{flag} {redact(location)}", bool(begin), self._early_errors, span)
        counts = {"decode_errors": self._early_errors, "frames": 0, "samples": 0}
        identity = SourceIdentity(redact(location), "file", self._reader.modalities, lossless=True, span=span)
        super().__init__(identity, sinks, counts, STALE_NS if pace == "real" else {})
        self._opened = True
        self._items = chain(begin, items)
        self._pace = pace
        self._begun_ns = 0  # this round, from the first one's beginning
        self._feeder = FrameFeeder(sinks) if "vision" in self.modalities else None
        self._sound = SoundFeeder(sinks)
        self._reached_ns: dict[Modality, int] = dict.fromkeys(self.modalities, 0)
        absent = [STREAM_KIND[modality] for modality in requested if modality not in self.modalities]
        self._absent = f"the file holds no {absent[0]}" if absent else ""
        self._behind = ""
        self.note(self._absent)

    def run(self) -> str | None:
        try:
            self.awaits()
            for item in self._items:
                self.awaits(False)
                if not self._release(item):
                    break
                self.awaits()
            self.awaits(False)
        finally:
            self._playback.close()
        self._check_length()
        return "; ".join(filter(None, (self._cut_short(), self._remarks()))) or None

    def _remarks(self) -> str:
        """What is worth saying of what was seen until now."""
        hint = "" if self._feeder is None else self._feeder.hint
        return "; ".join(filter(None, (self._absent, self._behind, hint)))

    def _cut_short(self) -> str:
        """How much there is of a recording that ends before its time, and how many errors; "" for a whole one."""
        cut = "" if self.stop.is_set() else self._playback.cut_short()
        errors = self.report().counts["decode_errors"]
        return f"{cut} ({errors} decode error{'s' * (errors > 1)})" if cut and errors else cut

    def _check_length(self) -> None:
        """SourceError for a recording that is over before the first prediction."""
        rings, hop_ns = self.sinks.rings, self.sinks.grid.hop_ns
        held_ns = rings.data_end_ns - self.sinks.origin_ns
        if not self.stop.is_set() and held_ns < hop_ns:
            raise SourceError(
                f"holds {held_ns / NS_PER_S:.2f} s and a prediction needs {hop_ns / NS_PER_S:.1f} s; "
                "give a longer recording, or a longer part of one"
            )

    def close(self) -> None:
        self._cancel()
        super().close()
        if not self.started:
            self._playback.close()

    def _release(self, item: Item) -> bool:
        """Wait until the item is due and fits, then push it; False when stopping."""
        if self._playback.begun_ns != self._begun_ns:
            self._begun_ns = self._playback.begun_ns
            self.begin_round(self.sinks.origin_ns + self._begun_ns)
        modality: Modality = "vision" if isinstance(item, VideoItem) else "acoustic"
        start_ns, end_ns = self._span_ns(item)
        if start_ns < max(self._reached_ns.values()) - INTERLEAVE_NS:
            self._behind = f"its {STREAM_KIND[modality]} comes too late, far behind the rest of it; {SIDE_BY_SIDE}"
            self.note(self._remarks())
        self._reach(modality, start_ns)
        origin_ns = self.sinks.origin_ns
        if not self.await_room(origin_ns + end_ns):
            return False
        if self._pace == "real" and not self.sinks.clock.wait_until(origin_ns + start_ns, self.stop):
            return False
        if isinstance(item, AudioItem):
            self._sound.put(item.first_sample, item.samples)
            self.count("samples", len(item.samples))
            self.came("acoustic", self._sound.condition)
        elif self._feeder is not None:
            self._feeder.offer(origin_ns + item.time_ns, item.rgb)
            self.count("frames")
            self.note(self._remarks())
            self.came("vision", self._feeder.condition)
        self._reach(modality, end_ns)
        return True

    def _reach(self, modality: Modality, time_ns: int) -> None:
        """Everything of this modality before `time_ns` is pushed; the watermark waits for the one that lags.

        Not for one that is over by the container's index, nor for one further behind than files are interleaved:
        the ring would fill up with the leading one and both would wait for ever.
        """
        self._reached_ns[modality] = max(self._reached_ns[modality], time_ns)
        leading_ns = max(self._reached_ns.values())
        awaited_ns = leading_ns
        for other, reached_ns in self._reached_ns.items():
            end_ns = self._playback.ends_ns[other]
            if end_ns is None or leading_ns < end_ns + 200 * NS_PER_MS:
                awaited_ns = min(awaited_ns, reached_ns)
        self.advance(self.sinks.origin_ns + max(awaited_ns, leading_ns - INTERLEAVE_NS))

    def _count_error(self, _reason: str) -> None:
        if self._opened:
            self.count("decode_errors")
        else:
            self._early_errors += 1

    def _span_ns(self, item: Item) -> tuple[int, int]:
        """Start and end from the container's start; a picture has no length."""
        if isinstance(item, VideoItem):
            return item.time_ns, item.time_ns
        rate_hz = self.sinks.grid.sample_rate_hz
        stop = item.first_sample + len(item.samples)
        return item.first_sample * NS_PER_S // rate_hz, stop * NS_PER_S // rate_hz


def _nothing(what: str, picture: bool, errors: int, span: Span) -> SourceError:
    """Why nothing can be played."""
    if picture:
        return SourceError(f"{what}: a still picture; give a video or audio file", "not_media")
    if span != Span() and not errors:
        return SourceError(
            f"{what}: holds nothing from {span.start_s:g} s on; give a smaller --start, or an --end after it"
        )
    return SourceError(f"{what}: nothing in it decodes ({errors} errors); give another file", "not_media")
