"""Speech recognition as a source of words: hears the session's own sound, puts what is certain in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clcr_stream.clock import FOREVER_NS, NS_PER_S, Clock, MonotonicClock
from clcr_stream.errors import ConfigError, SourceCode, SourceError
from clcr_stream.sources.base import RECOGNISER, Modality, Sinks, Source, SourceIdentity, SourceReport
from clcr_stream.sources.speech.child import FLUSH_FRAME, Answer, Failed, Heard, Ready, child_command, sound_frame
from clcr_stream.sources.speech.choose import check, parse
from clcr_stream.sources.speech.process import RecogniserProcess
from clcr_stream.sources.speech.recogniser import SPEECH_HZ, Revision
from clcr_stream.sources.threaded import POLL_S, ThreadedSource, backoff_s
from clcr_stream.window.transcript import Segment

BLOCK = SPEECH_HZ // 10  # of a frame: how finely a recording is read
AHEAD = 10 * SPEECH_HZ  # sound sent and not heard yet: what a slow recogniser may catch up with
STALL_NS = 15 * NS_PER_S  # without an answer to sound that it has: it hangs
LOAD_NS = 120 * NS_PER_S  # a large model from a slow disk
QUIET_NS = 2 * NS_PER_S  # no sound for so long: the speaker may as well have paused
MAX_TRIES = 3  # of a recording's recogniser, which everybody waits for
IN_VAIN = 3  # utterances without a word: worth saying
LIMIT_S = 5.0  # between tries


class SpeechSource(ThreadedSource):
    """Recognises what `sound` brings, in a process that may crash, hang or be slow.

    Live, words arrive when they are recognised, and a process that ended is started again for ever. With a recording
    that is read without a pace, the session waits for its words: they arrive once the sound was read from which they
    are known, however long that took. Words that only its end makes certain arrive within its last hop, so that the
    last window has them: windows wait for the words of one hop more.
    """

    def __init__(
        self,
        text: str,
        sinks: Sinks,
        sound: Source,
        lossless: bool,
        make_command: Callable[[str, bool], Sequence[str]] = child_command,
        watch: Clock | None = None,
    ) -> None:
        check(parse(text))
        if sinks.grid.sample_rate_hz != SPEECH_HZ:
            raise ConfigError(
                f"transcript {text}: hears {SPEECH_HZ} Hz, this bundle {sinks.grid.sample_rate_hz}; "
                "give none, a file or another recogniser"
            )
        counts = {"words": 0, "segments": 0, "tentative": 0, "lag_ms": 0, "doubted": 0, "lost_ms": 0, "restarts": 0}
        super().__init__(SourceIdentity(text, RECOGNISER, ("language",), lossless), sinks, counts)
        self._sound = sound
        self._text, self._make_command = text, make_command
        self._process: RecogniserProcess | None = None
        self._watch = watch or MonotonicClock()  # a process hangs in real time, whatever the session's is
        self._incarnation = 0
        self._sent = self._heard = 0  # the samples that follow
        self._unanswered = 0
        self._begun = False  # something was sent
        self._open = False  # something was sent and not flushed
        self._flushes = 0  # sent and not answered
        self._answered_ns = 0
        self._moved_ns = 0  # when the newest sound came
        self._loaded = False
        self._about = ""
        self._doubted = 0  # utterances, of this incarnation
        self._in_vain = 0  # of them, one after the other until now
        self._counted: dict[int, int] = {}  # words of the segment that still grows
        self._held: list[Revision] = []  # of a recording's last hop, as far as it was heard

    @property
    def process_id(self) -> int | None:
        """Of the process that listens, None between two."""
        process = self._process
        return None if process is None else process.pid

    @property
    def unanswered_samples(self) -> int:
        """Sound that was sent and not heard yet."""
        return self._unanswered

    def run(self) -> str:
        while not self.stop.is_set():
            self._incarnation += 1
            try:
                with RecogniserProcess(self._make_command(self._text, not self.lossless)) as self._process:
                    self._listen(self._process)
            except SourceError as error:
                if isinstance(error, _NeverError) or (self.lossless and self._incarnation >= MAX_TRIES):
                    raise
                self._pause(error)
            else:
                self._release(self._known_ns() + 1, ended=True)
                break
            finally:
                self._process = None
        return ""

    def _pause(self, error: SourceError) -> None:
        """Before another try: whatever this one was sent and did not answer is not heard twice."""
        self.count("restarts")
        pause_s = backoff_s(self._incarnation - 1, 0.5, limit_s=LIMIT_S)
        self.gone(f"{error}; started again in {pause_s:.1f} s", error.code)
        self.stop.wait(pause_s)

    def _listen(self, process: RecogniserProcess) -> None:
        """One incarnation, until the sound ends or the source is closed; SourceError when it fails."""
        if self._incarnation > 1:
            self.set_state("reconnecting", "the recogniser is being loaded again")
        self._loaded = False
        self._sent, self._unanswered, self._open, self._flushes = self._heard, 0, False, 0
        self._counted = {}
        self._answered_ns = self._moved_ns = self._watch.now_ns()
        while not self.stop.is_set():
            if self._loaded:
                self._feed(process)
            for answer in process.exchange(POLL_S):
                self._take(answer)
            if self._all_heard():
                return
            self._check_progress()

    def _all_heard(self) -> bool:
        """True when the sound has ended and the recogniser has said all that it will say of it."""
        waits = self._open or self._flushes or not self._loaded
        return not waits and self._sound.finished and self._sent >= self._sound_end()

    def _feed(self, process: RecogniserProcess) -> None:
        """Send the sound that is there; what the ring no longer holds is lost, and counted."""
        ring, end = self.sinks.rings.acoustic, self._sound_end()
        oldest = ring.oldest_sample
        if self._sent < oldest:
            if self._begun:
                self.count("lost_ms", (oldest - self._sent) * 1000 // SPEECH_HZ)
            self._sent = oldest
        now_ns = self._watch.now_ns()
        while self._sent < end and self._unanswered < AHEAD:
            stop = min(self._sent + BLOCK, end)
            if stop - self._sent < BLOCK and not self._sound.finished:
                break  # whole blocks, so that a recording is always read the same way
            process.send(sound_frame(self._sent, ring.peek(self._sent, stop)))
            self._unanswered += stop - self._sent
            self._sent, self._open, self._begun = stop, True, True
            self._moved_ns = now_ns
        self.set_counts(lag_ms=max(0, end - self._heard) * 1000 // SPEECH_HZ if self._begun else 0)
        silent = not self.lossless and now_ns - self._moved_ns > QUIET_NS
        if self._open and (silent or (self._sound.finished and self._sent >= end)):
            process.send(FLUSH_FRAME)
            self._open = False
            self._flushes += 1

    def _sound_end(self) -> int:
        """The sample before which all sound is there that has been captured until now."""
        grid, ring = self.sinks.grid, self.sinks.rings.acoustic
        if self._sound.finished:
            return ring.end_sample
        if self.lossless:
            return grid.sample_of(self._sound.watermark_ns)
        # A paced file is decoded ahead of its time.
        return min(ring.end_sample, grid.sample_of(self.sinks.clock.now_ns()))

    def _take(self, answer: Answer) -> None:
        self._answered_ns = self._watch.now_ns()
        match answer:
            case Ready(about):
                self._loaded, self._about, self._doubted = True, about, 0
                self.set_state("live", about)
            case Failed(reason):
                raise _NeverError(reason)
            case Revision() if self.lossless:
                self._held.append(answer)
            case Revision():
                self._put(answer, self.sinks.clock.now_ns())
            case Heard(until, samples, flushed, doubted):
                self._heard = max(self._heard, until)
                self._unanswered -= samples
                self._flushes -= flushed
                self._understood(doubted)
                if self.lossless:
                    self._release(self._known_ns())
                    self.advance(self._known_ns())

    def _known_ns(self) -> int:
        """The time until which a recording's words are known, whether or not its sound goes on."""
        return self.sinks.grid.sample_ns(self._heard) - self.sinks.grid.hop_ns

    def _release(self, until_ns: int, ended: bool = False) -> None:
        """Words of a recording that are known by `until_ns` arrive; at its end all do, at `until_ns` at the latest."""
        grid = self.sinks.grid
        while self._held and (ended or grid.sample_ns(self._held[0].heard) <= until_ns):
            revision = self._held.pop(0)
            self._put(revision, min(grid.sample_ns(revision.heard), until_ns))

    def _understood(self, doubted: int) -> None:
        """Say so when one utterance after the other gives no words."""
        self._in_vain += doubted - self._doubted
        self.count("doubted", doubted - self._doubted)
        self._doubted = doubted
        if self._in_vain >= IN_VAIN:
            self.set_state("live", f"{self._about}: the last {self._in_vain} utterances were not understood")

    def _put(self, revision: Revision, arrived_ns: int) -> None:
        """Committed words become a segment of the transcript; tentative ones are only counted."""
        self.set_counts(tentative=len(revision.tentative))
        if not revision.words:
            return
        if self._in_vain:
            self._in_vain = 0
            self.set_state("live", self._about)
        grid, words = self.sinks.grid, revision.words
        segment = Segment(
            f"asr-{self._incarnation}-{revision.number}",
            grid.sample_ns(words[0].start),
            grid.sample_ns(max(words[-1].end, words[0].start + 1)),
            " ".join(word.text for word in words),
            revision.final,
            2 * len(words) + revision.final,
        )
        if self.sinks.rings.transcript.put(segment, arrived_ns):
            self.count("segments", revision.final)
            self.count("words", len(words) - self._counted.get(revision.number, 0))
            self._counted = {revision.number: len(words)}

    def _check_progress(self) -> None:
        """SourceError when it hangs: sound was sent and nothing comes back."""
        if not self._loaded:
            limit_ns, doing = LOAD_NS, "loading"
        elif self._unanswered or self._flushes:
            limit_ns, doing = STALL_NS, "recognising"
        else:
            self._answered_ns = self._watch.now_ns()
            return
        waited_ns = self._watch.now_ns() - self._answered_ns
        if waited_ns > limit_ns:
            raise SourceError(f"no answer for {waited_ns // NS_PER_S} s while {doing}", "hung")


class AbsentRecogniser:
    """Stands in the reports where words could be heard and nothing is installed that hears them."""

    modalities: tuple[Modality, ...] = ()
    lossless = False
    finished = True
    watermark_ns = FOREVER_NS

    def __init__(self, name: str, reason: str, code: SourceCode) -> None:
        self.name, self._reason, self._code = name, reason, code

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def filled(self, end_ns: int) -> bool:
        return True

    def consumed(self, end_ns: int) -> None:
        pass

    def report(self) -> SourceReport:
        return SourceReport(self.name, RECOGNISER, "absent", self._reason, {}, code=self._code)


class _NeverError(SourceError):
    """Trying again is of no use."""
