"""Speech recognition as a source, with real processes that may die, hang or talk nonsense."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clcr_stream.clock import FOREVER_NS, NS_PER_S
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.sources.base import AUTO, Modality, Sinks, SourceIdentity, SourceSpec
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.speech import models
from clcr_stream.sources.speech.process import read_answer
from clcr_stream.sources.speech.recogniser import SPEECH_HZ
from clcr_stream.sources.speech.source import AHEAD, STALL_NS, SpeechSource
from clcr_stream.sources.threaded import ThreadedSource
from clcr_stream.window.transcript import Segment
from coded_speech import BETWEEN, coded_command, say
from media import ORIGIN_NS, SteppedClock, eventually, make_sinks, write_media

TEXT = "asr:whisper"
HOP_NS = NS_PER_S // 5


class Sound(ThreadedSource):
    """What is listened to; the test pushes and ends it."""

    def __init__(self, sinks: Sinks, lossless: bool) -> None:
        modalities: tuple[Modality, ...] = ("acoustic",)
        super().__init__(SourceIdentity("sound", "test", modalities, lossless), sinks, {})
        self._next = 0

    def run(self) -> None:
        self.stop.wait()

    def play(self, samples: np.ndarray) -> None:
        """The next samples, which is as far as the sound is known then."""
        self.sinks.rings.acoustic.put(self._next, samples)
        self._next += len(samples)
        self.advance(self.sinks.grid.sample_ns(self._next))


@dataclass
class Heard:
    """A recogniser that listens, and what it listens to."""

    source: SpeechSource
    sound: Sound
    sinks: Sinks
    clock: SteppedClock
    watch: SteppedClock  # of the process

    def words(self) -> str:
        """What the newest window shows, all of the last minute."""
        return " ".join(segment.text for segment in self.segments())

    def segments(self) -> list[Segment]:
        """What has arrived by now."""
        return self.sinks.rings.transcript.between(ORIGIN_NS - NS_PER_S, self.clock.now_ns())

    def play(self, samples: np.ndarray) -> None:
        """Sound that takes its time."""
        self.sound.play(samples)
        self.clock.move_to(self.sound.watermark_ns)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.source.report().counts)


@contextmanager
def listening(lossless: bool = False, commands: Sequence[Sequence[str]] = ()) -> Iterator[Heard]:
    """A source with the processes of `commands` one after the other, the last one again and again."""
    clock, watch = SteppedClock(), SteppedClock()
    sinks = make_sinks(clock)
    sound = Sound(sinks, lossless)
    turns = list(commands) or [coded_command()]

    def command(text: str, live: bool) -> Sequence[str]:
        return turns.pop(0) if len(turns) > 1 else turns[0]

    source = SpeechSource(TEXT, sinks, sound, lossless, command, watch=watch)
    sound.start()
    source.start()
    try:
        yield Heard(source, sound, sinks, clock, watch)
    finally:
        source.close()
        sound.close()


@pytest.fixture(autouse=True)
def _whisper_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which recogniser is installed is not what is tested here."""
    monkeypatch.setattr("clcr_stream.sources.speech.source.check", lambda spec: None)


def test_live_words_are_in_the_store_when_they_are_recognised() -> None:
    with listening() as heard:
        heard.play(say("two", "four", pause_s=1))
        assert eventually(lambda: heard.words() == "two four")
        heard.play(say("six", pause_s=1))
        assert eventually(lambda: heard.words() == "two four six")
        (first, second) = heard.segments()
        assert first.final and second.final
        assert first.start_ns == ORIGIN_NS
        assert first.end_ns == ORIGIN_NS + 700 * 10**6
        assert eventually(lambda: heard.counts["lag_ms"] < 100)
        assert {name: heard.counts[name] for name in ("words", "segments", "restarts", "lost_ms")} == {
            "words": 3,
            "segments": 2,
            "restarts": 0,
            "lost_ms": 0,
        }
        assert heard.source.report().state == "live"


def test_a_live_source_never_makes_a_window_wait() -> None:
    with listening(commands=[[sys.executable, "-c", "import sys; sys.stdin.read()"]]) as heard:
        heard.play(say("one"))
        assert heard.source.filled(ORIGIN_NS + 100 * NS_PER_S)
        assert heard.source.report().state == "starting"


def test_a_process_that_is_killed_is_replaced_and_later_words_are_heard() -> None:
    with listening() as heard:
        heard.play(say("two", pause_s=1))
        assert eventually(lambda: heard.words() == "two")
        os.kill(child_of(heard), signal.SIGKILL)
        assert eventually(lambda: heard.counts["restarts"] == 1)
        heard.play(say("three", pause_s=1))
        assert eventually(lambda: heard.words() == "two three")
        assert heard.source.report().state == "live"


def test_why_a_process_ended_is_said() -> None:
    with listening(commands=[coded_command("dies"), coded_command()]) as heard:
        heard.play(say(*["one"] * 6))
        assert eventually(lambda: "its process ended with code 9" in heard.source.report().reason)
        assert heard.source.report().code == "crashed"
        heard.play(say("five", pause_s=1))
        assert eventually(lambda: heard.words().endswith("five"))


def test_a_process_that_hangs_is_replaced() -> None:
    with listening() as heard:
        heard.play(say("two", pause_s=1))
        assert eventually(lambda: heard.words() == "two")
        stopped = child_of(heard)
        os.kill(stopped, signal.SIGSTOP)
        heard.play(say("three", pause_s=1))
        assert eventually(lambda: heard.source.unanswered_samples > 0)
        heard.watch.move_to(heard.watch.now_ns() + STALL_NS // 2)
        assert not eventually(lambda: heard.counts["restarts"] == 1, 0.3)
        heard.watch.move_to(heard.watch.now_ns() + STALL_NS + NS_PER_S)
        assert eventually(lambda: heard.counts["restarts"] == 1)
        assert eventually(lambda: not Path(f"/proc/{stopped}").exists())
        assert eventually(lambda: heard.source.report().code == "hung", 30.0)
        heard.play(say("four", pause_s=1))
        assert eventually(lambda: "four" in heard.words())


def test_a_process_that_talks_nonsense_is_replaced() -> None:
    with listening(commands=[coded_command("talks"), coded_command()]) as heard:
        assert eventually(lambda: heard.counts["restarts"] == 1)
        heard.play(say("four", pause_s=1))
        assert eventually(lambda: heard.words() == "four")


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"type":"re\xff\xfe"}', b"[" * 100_000, b'{"type":"heard","until":1e400}']
)
def test_what_no_recogniser_says_is_an_error_of_its_source(line: bytes) -> None:
    with pytest.raises(SourceError, match="what no recogniser says"):
        read_answer(line)


def test_a_model_that_does_not_load_fails_in_one_line_and_is_not_tried_again() -> None:
    with listening(commands=[coded_command("fails")]) as heard:
        assert eventually(lambda: heard.source.finished)
        report = heard.source.report()
        assert (report.state, report.reason, report.counts["restarts"]) == ("failed", "no such model", 0)


def test_a_recogniser_that_stands_still_gets_no_more_than_it_may_catch_up_with() -> None:
    with listening() as heard:
        heard.play(say("two", pause_s=1))
        assert eventually(lambda: heard.words() == "two")
        os.kill(child_of(heard), signal.SIGSTOP)
        for second in range(1, 10):
            heard.play(np.zeros(SPEECH_HZ, np.float32))
            assert eventually(lambda: heard.source.unanswered_samples >= (second - 1) * SPEECH_HZ)  # noqa: B023
        heard.play(np.zeros(8 * SPEECH_HZ, np.float32))
        assert not eventually(lambda: heard.source.unanswered_samples > AHEAD, 0.3)
        assert heard.counts["lag_ms"] > 9000
        heard.play(np.zeros(14 * SPEECH_HZ, np.float32))
        os.kill(child_of(heard), signal.SIGCONT)
        assert eventually(lambda: heard.counts["lag_ms"] < 200)
        assert heard.counts["lost_ms"] > 1000  # what the ring no longer held
        assert heard.counts["restarts"] == 0


def test_a_recording_s_windows_wait_for_its_words_and_get_them_by_the_time_of_the_sound() -> None:
    with listening(lossless=True) as heard:
        heard.sound.play(say("one", "two", "three", pause_s=1))
        end_ns = ORIGIN_NS + 2 * NS_PER_S
        assert eventually(lambda: heard.source.filled(end_ns))
        store = heard.sinks.rings.transcript
        assert " ".join(segment.text for segment in store.between(ORIGIN_NS, end_ns)) == "one two three"
        assert not heard.source.filled(end_ns + 2 * HOP_NS)
        heard.sound.close()
        assert eventually(lambda: heard.source.finished)
        assert heard.source.report().state == "ended"


def test_the_last_words_of_a_recording_are_heard_though_no_pause_follows() -> None:
    with listening(lossless=True) as heard:
        heard.sound.play(say("one", "two")[:-BETWEEN])
        heard.sound.close()
        assert eventually(lambda: heard.source.finished)
        heard.clock.move_to(ORIGIN_NS + NS_PER_S)
        assert heard.words() == "one two"


@pytest.mark.parametrize("silence_s", [0.1, 0.15])
def test_the_last_window_of_a_recording_has_the_words_that_its_end_makes_certain(silence_s: float) -> None:
    with listening(lossless=True) as heard:
        heard.sound.play(np.concatenate([np.zeros(int(silence_s * SPEECH_HZ), np.float32), say("one", "two", "three")]))
        heard.sound.close()
        assert eventually(lambda: heard.source.finished)
        hops = (heard.sinks.rings.acoustic.end_sample * 5) // SPEECH_HZ
        store = heard.sinks.rings.transcript
        said = [" ".join(one.text for one in store.between(0, ORIGIN_NS + n * HOP_NS)) for n in range(1, hops + 1)]
        assert said[-1] == "one two three" and said[-2] != said[-1]


def test_a_recording_s_words_arrive_at_the_same_times_however_its_sound_comes() -> None:
    words = ["one", "two", "three", "four"] * 3
    sound = say(*words, pause_s=1)  # 5.8 s: less than the ring holds

    def arrivals(piece: int) -> list[tuple[int, str]]:
        seen = []
        with listening(lossless=True) as heard:
            done = hop = 0
            while done < len(sound):
                heard.sound.play(sound[done : done + piece])
                done += piece
            heard.sound.close()
            assert eventually(lambda: heard.source.finished)
            store = heard.sinks.rings.transcript
            for hop in range(1, 35):
                said = " ".join(one.text for one in store.between(ORIGIN_NS, ORIGIN_NS + hop * HOP_NS))
                seen.append((hop, said))
        return seen

    reference = arrivals(len(sound))
    assert reference[-1][1] == " ".join(words)
    assert reference[4][1] != reference[-1][1]
    assert arrivals(777) == reference


def test_a_recording_whose_recogniser_always_dies_goes_on_without_words() -> None:
    with listening(lossless=True, commands=[coded_command("dies")]) as heard:
        heard.sound.play(say(*["one"] * 6, pause_s=1))
        assert eventually(lambda: heard.source.filled(ORIGIN_NS + NS_PER_S), 30.0)
        assert eventually(lambda: heard.source.finished, 30.0)
        assert (heard.source.report().state, heard.source.report().code) == ("failed", "crashed")


def test_closing_ends_the_process_even_when_it_hangs() -> None:
    with listening() as heard:
        heard.play(say("two", pause_s=1))
        assert eventually(lambda: heard.words() == "two")
        pid = child_of(heard)
        os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_three_utterances_in_vain_are_said() -> None:
    with listening() as heard:
        for _ in range(3):
            heard.play(say("strange", pause_s=1))
        assert eventually(lambda: "the last 3 utterances were not understood" in heard.source.report().reason)
        assert heard.counts["doubted"] == 3
        heard.play(say("one", pause_s=1))
        assert eventually(lambda: heard.source.report().reason == "coded speech")


def test_sound_at_another_rate_is_refused() -> None:
    sinks = make_sinks(sample_rate_hz=8_000)
    with pytest.raises(ConfigError, match="hears 16000 Hz, this bundle 8000"):
        SpeechSource(TEXT, sinks, Sound(sinks, False), False)


def test_auto_without_a_recogniser_says_what_to_install_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "installed", lambda: False)
    monkeypatch.setattr("clcr_stream.sources.speech.choose.installed", lambda: False)
    clip = write_media(tmp_path / "clip.mp4")
    media, words = open_sources(SourceSpec(input=str(clip), transcript=AUTO), make_sinks())
    assert words.report().state == "absent"
    assert 'run `pip install "clcr-stream[asr]"`' in words.report().reason
    assert words.report().code == "not_installed"
    assert words.finished and words.filled(FOREVER_NS) and media.modalities == ("vision", "acoustic")


def test_auto_takes_no_recogniser_where_there_is_no_sound_or_words_come_anyhow() -> None:
    assert len(open_sources(SourceSpec(input="test://", transcript=AUTO), make_sinks())) == 1
    assert len(open_sources(SourceSpec(camera="test://", transcript=AUTO), make_sinks())) == 1
    assert len(open_sources(SourceSpec(microphone="test://", transcript=AUTO), make_sinks())) == 1


def test_a_recogniser_without_sound_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no sound to listen to"):
        open_sources(SourceSpec(camera="test://", transcript="asr"), make_sinks())


def test_a_recogniser_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(SourceError, match=r"transcript asr:what: not a recogniser; allowed are"):
        open_sources(SourceSpec(input="test://", transcript="asr:what"), make_sinks())


def child_of(heard: Heard) -> int:
    """The process that listens now."""
    assert eventually(lambda: heard.source.process_id is not None)
    pid = heard.source.process_id
    assert pid is not None
    return pid
