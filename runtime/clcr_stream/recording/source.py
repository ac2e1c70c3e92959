"""A recording with media as a source: what the model got is put into the rings again, hop by hop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.recording import media
from clcr_stream.recording.options import SUFFIX
from clcr_stream.recording.reader import Entry, Recording, open_recording
from clcr_stream.sources.base import AUTO, Flag, Modality, Pace, Sinks, Source, SourceIdentity, SourceSpec, Span
from clcr_stream.sources.choose import FileKinds
from clcr_stream.sources.framing import UPRIGHT
from clcr_stream.sources.threaded import ThreadedSource
from clcr_stream.window.ring import Look
from clcr_stream.window.transcript import Segment
from clcr_stream.wire import messages

_S = TypeVar("_S", bound=msgspec.Struct)


def open_media(location: str, flag: Flag) -> Recording:
    """A recording that can be played; SourceError says why one cannot."""
    path = Path(location.removeprefix("file://")).expanduser()
    recording = open_recording(path, flag)
    if recording.part > 1:
        first = path.name.replace(f".{recording.part}{SUFFIX}", SUFFIX)
        raise SourceError(f"{flag} {path}: is part {recording.part} of a recording; give its first part, {first}")
    if not recording.has_media:
        raise SourceError(
            f"{flag} {path}: holds predictions and words but no faces and no sound; record with --record-media"
        )
    return recording


class RecordingSource(ThreadedSource):
    """Faces, sound and words of a recording, shifted to the session's zero; lossless at both paces.

    Of a part, whole hops are played, the first of them at the session's zero, and words that are not over by then.
    Raises SourceError at construction when the file holds no media.
    """

    def __init__(
        self,
        location: str,
        requested: tuple[Modality, ...],
        sinks: Sinks,
        pace: Pace = "real",
        flag: Flag = "input",
        span: Span = Span(),  # noqa: B008 frozen
    ) -> None:
        self._recording = open_media(location, flag)
        counts = {"frames": 0, "samples": 0, "segments": 0}
        hop_ns = sinks.grid.hop_ns
        self._first_ns = round(span.start_s * NS_PER_S) // hop_ns * hop_ns  # of the part, from the recorded zero
        self._span = replace(span, start_s=self._first_ns / NS_PER_S)
        super().__init__(
            SourceIdentity(location, "recording", requested, lossless=True, span=self._span), sinks, counts
        )
        self._pace = pace
        self._stop_ns = None if span.end_s is None else round(span.end_s * NS_PER_S)
        self._round = 0
        self._begun_ns = self._ended_ns = sinks.origin_ns  # where this round begins, and what was played ends
        self._zero_ns: int | None = None  # of the recorded session
        self._faces: dict[int, NDArray[np.uint8]] = {}  # of the hop that is being read, by capture time
        self._sound: media.Sound | None = None
        self._words: media.Words | None = None
        self._shown: dict[str, Segment] = {}  # in our store, by id
        self._last_end_ns: int | None = None  # of the predictions

    def run(self) -> str | None:
        while self._play() and self._span.loop:
            self._begun_ns = self._ended_ns
            self.begin_round(self._begun_ns)
            self._round += 1
            self._shown.clear()
        if self._last_end_ns is not None and self._zero_ns is not None:
            # The recorded session answered until then, perhaps with a gap at its end.
            end_ns = max(self._ended_ns, self._last_end_ns + self._shift_ns)
            self.sinks.rings.acoustic.reach(self.sinks.grid.sample_of(end_ns))
        return "; ".join(self._recording.notes) or None

    def _play(self) -> bool:
        """The part once; False when stopping. SourceError when there is nothing in it."""
        self._recording.notes.clear()
        for entry in self._recording.entries():
            if self.stop.is_set() or not self._take(entry):
                break
        if self._ended_ns == self._begun_ns and self._span != Span() and not self.stop.is_set():
            start_s = self._span.start_s
            raise SourceError(
                f"{self.name}: holds nothing from {start_s:g} s on; give a smaller --start, or an --end after it"
            )
        return not self.stop.is_set()

    @property
    def _shift_ns(self) -> int:
        """From the recorded session's time to ours, in this round."""
        assert self._zero_ns is not None
        return self._begun_ns - self._zero_ns - self._first_ns

    def _take(self, entry: Entry) -> bool:
        """One message of the file; False when stopping."""
        if entry.kind == "session":
            session = _decoded(entry, messages.Session)
            self._check_grid(session)
            self._zero_ns = session.origin_ns
        elif entry.kind == "prediction":
            self._last_end_ns = _decoded(entry, messages.Prediction).window.end_ns
        elif entry.kind == media.FACE:
            face = _decoded(entry, media.Face)
            self._faces[face.captured_ns] = media.from_png(face.data, self.sinks.rings.vision.size_px)
        elif entry.kind == media.SOUND:
            self._sound = _decoded(entry, media.Sound)
        elif entry.kind == media.WORDS:
            self._words = _decoded(entry, media.Words)
        elif entry.kind == media.HOP:
            return self._release(_decoded(entry, media.HopEnd))
        return True

    def _check_grid(self, session: messages.Session) -> None:
        hop_ns = self.sinks.grid.hop_ns
        if session.hop_ns != hop_ns:
            raise SourceError(f"{self.name}: recorded in hops of {session.hop_ns} ns, the bundle's are of {hop_ns} ns")

    def _release(self, hop: media.HopEnd) -> bool:
        """Put a whole hop into the rings, once it is due and there is room; False when stopping, and after the part."""
        if self._zero_ns is None:
            raise SourceError(f"{self.name}: holds no session; the file is damaged")
        hop_ns = self.sinks.grid.hop_ns
        if hop.end_ns - hop.start_ns != hop_ns or any(
            not hop.start_ns - hop_ns < slot.captured_ns < hop.end_ns + hop_ns for slot in hop.slots
        ):
            raise SourceError(f"{self.name}: the times of hop {hop.number} disagree; the file is damaged")
        if hop.start_ns - self._zero_ns < self._first_ns:
            self._faces.clear()
            self._sound = None  # words stay: a message of words holds all that count from then on
            return True
        if self._stop_ns is not None and hop.end_ns - self._zero_ns > self._stop_ns:
            return False
        start_ns, end_ns = hop.start_ns + self._shift_ns, hop.end_ns + self._shift_ns
        self.advance(start_ns)
        if not self.await_room(end_ns):
            return False
        if self._pace == "real" and not self.sinks.clock.wait_until(end_ns, self.stop):
            return False
        self.set_state("live")
        self._put_pictures(hop, self._shift_ns)
        self._put_sound(self._zero_ns + self._shift_ns)
        self._put_words(end_ns, self._shift_ns)
        self._ended_ns = end_ns
        self.advance(end_ns)
        return True

    def _put_pictures(self, hop: media.HopEnd, shift_ns: int) -> None:
        if "vision" in self.modalities:
            ring = self.sinks.rings.vision
            for slot in hop.slots:
                captured_ns = slot.captured_ns + shift_ns
                if ring.wants(captured_ns):
                    crop = self._faces.get(slot.captured_ns) if slot.face else None
                    look = Look(*(math.nan if value is None else value for value in slot.look))
                    landmarks = None if slot.landmarks is None else np.array(slot.landmarks, np.float32)
                    ring.put(captured_ns, crop, slot.quality, slot.faces, slot.box, look, landmarks)
            self.count("frames", len(hop.slots))
        self._faces.clear()

    def _put_sound(self, zero_ns: int) -> None:
        """`zero_ns` is where the recorded session begins in our time."""
        sound, self._sound = self._sound, None
        if sound is None or "acoustic" not in self.modalities:
            return
        if sound.sample_rate != self.sinks.grid.sample_rate_hz:
            allowed_hz = self.sinks.grid.sample_rate_hz
            raise SourceError(f"{self.name}: recorded at {sound.sample_rate} Hz, the bundle takes {allowed_hz} Hz")
        samples = media.samples_of(sound)
        first = sound.first_sample + self.sinks.grid.sample_of(zero_ns)
        for start, stop in sound.present:
            self.sinks.rings.acoustic.put(first + start, samples[start:stop])
            self.count("samples", stop - start)

    def _put_words(self, end_ns: int, shift_ns: int) -> None:
        """Make the store answer with the recorded words from the window on that ends at `end_ns`."""
        words, self._words = self._words, None
        if words is None or "language" not in self.modalities:
            return
        again = f" {self._round}" if self._round else ""  # words of another round are others
        fresh = [
            Segment(word.id + again, word.start_ns + shift_ns, word.end_ns + shift_ns, word.text, word.final)
            for word in words.segments
            if not self._first_ns or word.end_ns + shift_ns > self._begun_ns
        ]
        gone = set(self._shown) - {segment.id for segment in fresh}
        for segment in [*fresh, *(_taken_back(self._shown[name]) for name in gone)]:
            before = self._shown.get(segment.id)
            if before is not None and before.text == segment.text:
                continue
            revision = 0 if before is None else before.revision + 1
            placed = Segment(segment.id, segment.start_ns, segment.end_ns, segment.text, segment.final, revision)
            self.sinks.rings.transcript.put(placed, end_ns)
            self._shown[segment.id] = placed
            self.count("segments")
        for name in gone:
            if self._shown[name].end_ns < end_ns - self.sinks.grid.window_ns:
                del self._shown[name]


def _taken_back(segment: Segment) -> Segment:
    """The segment without its text, which takes it out of the store's answers."""
    return Segment(segment.id, segment.start_ns, segment.end_ns, "", True, segment.revision)


def _decoded(entry: Entry, kind: type[_S]) -> _S:
    try:
        return msgspec.json.decode(entry.payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SourceError(f"a recorded {entry.kind} cannot be read ({error}); the file is damaged") from None


class RecordingFiles:
    """How a recording is opened where a file is asked for: `--input FILE.mcap`."""

    def open(self, location: str, requested: tuple[Modality, ...], sinks: Sinks, spec: SourceSpec) -> Source:
        """The source; the recording's own words count unless others are asked for."""
        words: tuple[Modality, ...] = ("language",) if spec.transcript == AUTO else ()
        return RecordingSource(location, (*requested, *words), sinks, spec.pace, span=spec.span)

    def check(self, location: str, requested: tuple[Modality, ...], spec: SourceSpec, flag: Flag) -> None:
        """SourceError for a file that cannot be played, ConfigError for what cannot be done with its faces."""
        open_media(location, flag)
        if "vision" in requested and (spec.framing != UPRIGHT or spec.face_model is not None):
            raise ConfigError(
                f"{flag} {location}: the faces in a recording are cut out already; "
                "leave out --rotate, --flip, --region and --face-model"
            )


KINDS: FileKinds = {SUFFIX: RecordingFiles()}
