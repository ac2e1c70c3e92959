"""Pushed data: what is refused and why, where sound is placed, when a recording's ticks may go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_MS, NS_PER_S, VirtualClock
from clcr_stream.errors import ClcrError, SourceError
from clcr_stream.sources.base import Modality, Sinks, SourceIdentity
from clcr_stream.sources.pushed import PushedSource
from clcr_stream.window.ring import make_rings
from media import GreyFinder, eventually, time_grid

NOW_NS = time_grid().origin_ns + 10 * NS_PER_S
ALL: tuple[Modality, ...] = ("vision", "acoustic", "language")
SOUND = np.full(1600, 0.5, np.float32)  # 100 ms
FRAME = np.full((48, 64, 3), 7, np.uint8)


class Place:
    """A source, its rings, and how often it woke the loop."""

    def __init__(self, lossless: bool = False, modalities: tuple[Modality, ...] = ALL) -> None:
        self.woken = 0
        self.clock = VirtualClock(NOW_NS)
        self.sinks = Sinks(self.clock, make_rings(time_grid(), 112), GreyFinder(), self._wake)
        self.origin_ns = self.sinks.origin_ns
        self.source = PushedSource(SourceIdentity("robot", "pushed", modalities, lossless), self.sinks)

    def _wake(self) -> None:
        self.woken += 1


def refusals() -> dict[str, tuple[Callable[[PushedSource], object], str]]:
    wrong: Any = [1, 2]
    scaled: Any = FRAME / 255
    return {
        "list": (lambda to: to.push_frame(NOW_NS, wrong), "rgb is list, allowed is a uint8 array"),
        "grey": (lambda to: to.push_frame(NOW_NS, FRAME[:, :, 0]), r"rgb is uint8\(48, 64\)"),
        "float": (lambda to: to.push_frame(NOW_NS, scaled), r"rgb is float64\(48, 64, 3\)"),
        "rgba": (lambda to: to.push_frame(NOW_NS, np.zeros((4, 4, 4), np.uint8)), r"rgb is uint8\(4, 4, 4\)"),
        "empty": (lambda to: to.push_frame(NOW_NS, np.zeros((0, 4, 3), np.uint8)), r"uint8\(0, 4, 3\)"),
        "stereo": (lambda to: to.push_audio(NOW_NS, np.zeros((2, 9), np.float32)), r"samples are float32\(2, 9\)"),
        "int16": (lambda to: to.push_audio(NOW_NS, np.zeros(9, np.int16)), r"samples are int16\(9,\)"),
        "rate": (lambda to: to.push_audio(NOW_NS, SOUND, 44_100), "rate_hz is 44100, the bundle's is 16000"),
        "seconds": (lambda to: to.push_frame(1.5, FRAME), "captured_ns is 1.5, allowed is a whole number"),
        "future": (lambda to: to.push_frame(NOW_NS + NS_PER_S, FRAME), "lies 1.000 s in the future"),
        "sound of the future": (lambda to: to.push_audio(NOW_NS + NS_PER_MS, np.zeros(4800, np.float32)), "future"),
        "past": (
            lambda to: to.push_frame(NOW_NS - 100 * NS_PER_S, FRAME),
            "s before the stream's start",
        ),
        "text": (lambda to: to.push_text(b"hello", 0, NOW_NS), "text must be a str"),
        "long text": (lambda to: to.push_text("x" * 70_000, 0, NOW_NS), "at most 65536 bytes"),
        "half a character": (lambda to: to.push_text("a\ud800b", 0, NOW_NS), "half of a surrogate pair"),
        "backwards text": (lambda to: to.push_text("x", NOW_NS, NOW_NS - 1), "lies before start_ns"),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_cannot_be_taken_is_one_line_and_leaves_no_trace(case: str) -> None:
    at = Place()
    act, text = refusals()[case]
    with pytest.raises(SourceError, match=text) as raised:
        act(at.source)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("robot: ")
    assert at.source.report().state == "starting"
    assert (at.sinks.rings.vision.counts().received, at.sinks.rings.acoustic.counts().received) == (0, 0)


def test_a_time_that_goes_back_is_refused_per_modality() -> None:
    at = Place()
    at.source.push_frame(NOW_NS, FRAME)
    at.source.push_audio(NOW_NS - NS_PER_S, SOUND)
    at.source.push_frame(NOW_NS, FRAME)
    with pytest.raises(SourceError, match=r"is 0\.001 ms before the last one of vision"):
        at.source.push_frame(NOW_NS - 1000, FRAME)


def test_a_modality_that_the_stream_does_not_take_is_refused() -> None:
    with pytest.raises(SourceError, match="acoustic was pushed, this stream takes vision; give modalities="):
        Place(modalities=("vision",)).source.push_audio(NOW_NS, SOUND)


def test_after_the_end_a_push_is_told_why() -> None:
    closed, failed = Place(), Place()
    closed.source.close()
    failed.source.end()
    failed.source.end(ClcrError("the engines failed"))
    with pytest.raises(SourceError, match="closed, nothing more can be pushed"):
        closed.source.push_frame(NOW_NS, FRAME)
    with pytest.raises(ClcrError, match="the engines failed"):
        failed.source.push_text("x", NOW_NS, NOW_NS)
    assert closed.source.finished and closed.source.report().state == "ended" and closed.woken == 1


@pytest.mark.parametrize("jitter_ms", [-19, -1, 0, 3, 19])
def test_blocks_of_sound_are_joined_across_the_jitter_of_their_times(jitter_ms: int) -> None:
    at = Place()
    first = at.sinks.grid.sample_of(NOW_NS - NS_PER_S)
    at.source.push_audio(NOW_NS - NS_PER_S, SOUND)
    at.source.push_audio(NOW_NS - 900 * NS_PER_MS + jitter_ms * NS_PER_MS, SOUND)
    items = at.sinks.rings.acoustic.read(first, first + 3200)
    assert items.present.all() and (items.samples == 0.5).all()


def test_a_gap_between_blocks_of_sound_stays_a_gap_of_its_length() -> None:
    at = Place()
    first = at.sinks.grid.sample_of(NOW_NS - NS_PER_S)
    at.source.push_audio(NOW_NS - NS_PER_S, SOUND)
    at.source.push_audio(NOW_NS - 850 * NS_PER_MS, SOUND)
    present = at.sinks.rings.acoustic.read(first, first + 4000).present
    assert present[:1600].all() and not present[1600:2400].any() and present[2400:].all()


def test_sound_of_another_sample_rate_is_told_from_how_much_of_it_comes() -> None:
    at = Place()
    with pytest.raises(SourceError, match="48000 samples came per second, the bundle's rate is 16000 Hz"):
        for number in range(300):
            at.source.push_audio(NOW_NS - 9 * NS_PER_S + number * 10 * NS_PER_MS, np.zeros(480, np.float32))


def test_sound_of_the_right_rate_is_never_taken_for_another_whatever_its_blocks() -> None:
    at = Place()
    times_ns, random = NOW_NS - 9 * NS_PER_S, np.random.default_rng(0)
    while times_ns < NOW_NS - NS_PER_S:
        count = int(random.integers(80, 3200))
        at.source.push_audio(times_ns + int(random.integers(0, 10)) * NS_PER_MS, np.zeros(count, np.float32))
        times_ns += count * NS_PER_S // 16_000 + 10 * NS_PER_MS
    assert at.source.report().counts["samples"] > 16_000


def test_the_ticks_of_a_recording_wait_for_every_modality_but_words() -> None:
    at = Place(lossless=True)
    hop_ns, origin_ns = at.sinks.grid.hop_ns, at.origin_ns
    assert not at.source.filled(origin_ns + hop_ns)
    at.source.push_audio(origin_ns, np.zeros(4800, np.float32))
    assert not at.source.filled(origin_ns + hop_ns) and at.woken == 0
    at.source.push_frame(origin_ns + hop_ns, FRAME)
    assert at.woken == 1 and at.source.filled(origin_ns + hop_ns)
    assert at.source.watermark_ns == origin_ns + hop_ns
    at.source.end()
    assert at.source.filled(origin_ns + 100 * hop_ns)


def test_a_push_of_a_recording_waits_until_the_loop_has_made_room() -> None:
    at = Place(lossless=True, modalities=("acoustic",))
    reached: list[int] = []

    def push() -> None:
        for number in range(120):  # 12 s, the rings hold 8
            at.source.push_audio(at.origin_ns + number * 100 * NS_PER_MS, SOUND)
            reached.append(number)

    thread = threading.Thread(target=push)
    thread.start()
    assert eventually(lambda: len(reached) == 75, 30)  # all but half a second of the ring
    at.source.consumed(at.origin_ns + 2 * NS_PER_S)
    assert eventually(lambda: len(reached) == 95, 30)
    at.source.consumed(at.origin_ns + 12 * NS_PER_S)
    thread.join(30)
    assert len(reached) == 120 and at.sinks.rings.acoustic.counts().dropped["late"] == 0


def test_a_push_that_waits_for_room_ends_when_the_stream_does() -> None:
    at = Place(lossless=True, modalities=("acoustic",))
    told: list[str] = []

    def push() -> None:
        try:
            for number in range(120):
                at.source.push_audio(at.origin_ns + number * 100 * NS_PER_MS, SOUND)
        except ClcrError as error:
            told.append(str(error))

    thread = threading.Thread(target=push)
    thread.start()
    at.source.end(ClcrError("the engines failed"))
    thread.join(30)
    assert told == ["the engines failed"]


def test_one_modality_of_a_recording_far_ahead_of_the_other_is_told_instead_of_waiting_for_ever() -> None:
    at = Place(lossless=True)
    with pytest.raises(SourceError, match=r"acoustic is \d.\d s ahead of vision; push a recording in order of time"):
        for number in range(120):
            at.source.push_audio(at.origin_ns + number * 100 * NS_PER_MS, SOUND)


def test_a_live_stream_that_is_not_pushed_any_more_is_stale() -> None:
    at = Place()
    frame = np.random.default_rng(0).integers(0, 255, FRAME.shape, np.uint8)  # something to see
    at.source.push_frame(NOW_NS, frame)
    assert at.source.report().state == "live"
    at.clock.wait_until(NOW_NS + 3 * NS_PER_S, threading.Event())
    report = at.source.report()
    assert (report.state, report.reason) == ("stale", "no new data for 1.5 s")
    at.source.push_frame(NOW_NS + 3 * NS_PER_S, frame)
    assert at.source.report().state == "live"


@pytest.mark.parametrize(
    ("modalities", "pushed_s", "words_until_s", "hops"),
    [
        (("acoustic",), 0.5, 0.0, 3),  # the third hop is half full
        (("acoustic", "language"), 0.5, 3.0, 3),  # words may be later than what is heard: they end nothing
        (("language",), 0.0, 1.05, 6),  # words alone do
    ],
)
def test_a_recording_that_is_rounded_up_ends_with_a_whole_hop(
    modalities: tuple[Modality, ...], pushed_s: float, words_until_s: float, hops: int
) -> None:
    at = Place(lossless=True, modalities=modalities)
    for block in range(round(pushed_s * 10)):
        at.source.push_audio(at.origin_ns + block * 100 * NS_PER_MS, SOUND)
    if words_until_s:
        at.source.push_text("so", at.origin_ns, at.origin_ns + round(words_until_s * NS_PER_S))
    at.source.end_of_recording(round_up=True)
    assert at.source.finished
    assert at.sinks.rings.data_end_ns == at.sinks.grid.tick(hops).end_ns
    at.source.end_of_recording(round_up=True)  # once more changes nothing
    assert at.sinks.rings.data_end_ns == at.sinks.grid.tick(hops).end_ns
