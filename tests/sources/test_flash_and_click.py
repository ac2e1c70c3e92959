"""A flash, a click and a word at one known time are at one time: in the rings, in a recording of the command's hops."""

from __future__ import annotations

import http.server
import importlib.util
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_MS, NS_PER_S, MonotonicClock
from clcr_stream.sources import capture_clock
from clcr_stream.sources.audio import SampleClock
from clcr_stream.sources.base import BOTH, Sinks
from clcr_stream.sources.network import NetworkSource
from clcr_stream.sources.synthetic import espeak
from clcr_stream.sources.synthetic.person import MANNERS, UTTERANCE_S
from clcr_stream.sources.synthetic.source import ALL, SyntheticSource
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from job_process import environment, finish
from media import ORIGIN_NS, GreyFinder, eventually, make_sinks, read_all
from recorded_media import Kept, read_kept
from tiny_bundle import write_bundle

LIMIT_MS = 25.0
RATE_HZ = 16_000
SIZE_PX = 32  # of the tiny bundle's faces


def onsets(samples: np.ndarray, level: float, pause_s: float) -> np.ndarray:
    """Indices at which sound begins after at least `pause_s` below `level`."""
    loud = np.flatnonzero(np.abs(samples) > level)
    return loud[np.diff(loud, prepend=-(10**9)) > pause_s * RATE_HZ]


def clicks(samples: np.ndarray) -> np.ndarray:
    """Seconds at which the test source's click begins, whatever is said beside it."""
    tone = np.exp(-2j * np.pi * 1000 * np.arange(160) / RATE_HZ)  # 10 ms of the click's pitch
    strength = np.abs(np.convolve(samples, tone, "full")[159:]) / 80
    return onsets(strength, 0.35, 0.5) / RATE_HZ


def test_the_flash_the_click_and_the_words_of_the_test_source_are_at_one_time() -> None:
    sinks = make_sinks()
    source = SyntheticSource("test://?seconds=11&fps=15&flash=1", ALL, sinks, "max")
    got = read_all(source, sinks, hops=55)
    levels = got.frames[:, 0].mean(axis=(1, 2))
    bright = np.flatnonzero((levels[1:] - levels[:-1] > 40) & (got.captured_ns[1:] >= 0)) + 1
    flashes_ms = (got.captured_ns[bright] - ORIGIN_NS) / NS_PER_MS
    clicks_ms = clicks(got.samples) * 1e3
    assert len(flashes_ms) == len(clicks_ms[1:]) == 10, "one a second, and the first flash has no dark before it"
    assert np.abs(flashes_ms - clicks_ms[1:]).max() <= LIMIT_MS
    said = {segment.id: segment for hop in got.said for segment in hop}
    starts_ms = sorted((segment.start_ns - ORIGIN_NS) / NS_PER_MS for segment in said.values())
    assert np.abs(np.array(starts_ms) - [0.0, 5000.0]).max() <= LIMIT_MS, "each sentence begins with a flash"


def test_the_voice_of_the_test_source_begins_when_its_words_do() -> None:
    sinks = make_sinks()
    got = read_all(SyntheticSource("test://?seconds=11", ALL, sinks, "max"), sinks, hops=55)
    voice_ms = onsets(got.samples, 0.02, 0.5) / RATE_HZ * 1e3
    said = {segment.id: segment for hop in got.said for segment in hop}
    starts_ms = np.array(sorted((segment.start_ns - ORIGIN_NS) / NS_PER_MS for segment in said.values()))
    assert np.abs(voice_ms[: len(starts_ms)] - starts_ms).max() <= LIMIT_MS


class FlashClick(http.server.BaseHTTPRequestHandler):
    """MPEG-TS with H.264 and AAC, made live: a bright picture and a click each second; up to 40 ms late, unevenly."""

    seconds = 12
    begun_ns: ClassVar[list[int]] = []
    over: ClassVar = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        muxed = io.BytesIO()  # FFmpeg never meets the socket, which may be gone at any moment
        container = av.open(muxed, "w", format="mpegts", options={"flush_packets": "1"})
        with suppress(OSError):
            self._send(container, muxed)
        container.close()

    def _send(self, container: Any, muxed: io.BytesIO) -> None:
        video = container.add_stream("libx264", rate=15, options={"preset": "ultrafast", "tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        random = np.random.default_rng(7)
        begun_ns = time.monotonic_ns()
        self.begun_ns.append(begun_ns)
        for number in range(self.seconds * 15):
            due_ns = begun_ns + number * NS_PER_S // 15 + int(random.uniform(0, 40) * NS_PER_MS)
            if self.over.wait(max(0, due_ns - time.monotonic_ns()) / NS_PER_S):
                return
            level = 220 if number % 15 == 0 and number else 90
            picture = np.full((48, 64, 3), level, np.uint8) + random.integers(0, 20, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 15)
            container.mux(video.encode(frame))
            # What was heard since the last picture, as a sound card gives it.
            first, last = (max(0, at) * RATE_HZ // 15 for at in (number - 1, number))
            for start in range(first, last, 320):
                self._hear(container, audio, start, min(last, start + 320))
            self.wfile.write(muxed.getvalue())
            muxed.seek(0)
            muxed.truncate()

    def _hear(self, container: Any, audio: Any, start: int, stop: int) -> None:
        at = np.arange(start, stop)
        click = np.sin(2 * np.pi * 1000 * at / RATE_HZ) * (at % RATE_HZ < 800) * (at >= RATE_HZ)
        pcm = (click * 16000).astype(np.int16) + np.int16(3)
        block = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
        container.mux(audio.encode(block))

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def flash_click_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FlashClick)
    server.daemon_threads = False  # closing waits for them
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    FlashClick.over.clear()
    yield f"http://127.0.0.1:{server.server_port}/"
    FlashClick.over.set()
    server.shutdown()
    server.server_close()


def live_sinks(patience_ns: int) -> Sinks:
    clock = MonotonicClock()
    grid = TimeGrid(clock.now_ns(), NS_PER_S // 5, window_hops=60, frame_rate_hz=15, sample_rate_hz=RATE_HZ)
    return replace(make_sinks(clock), rings=make_rings(grid, 112), finder=GreyFinder(), patience_ns=patience_ns)


def test_the_flash_and_the_click_of_a_stream_are_at_one_time_in_spite_of_its_codecs_and_its_jitter(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setattr(capture_clock, "BUCKET_NS", NS_PER_S // 2)  # known after 3 s in place of 20
    monkeypatch.setattr(capture_clock, "MAX_DRIFT", 0.02)  # of so short a time
    monkeypatch.setattr(SampleClock, "window_s", 0.5)
    sinks = live_sinks(patience_ns=600 * NS_PER_MS)
    with flash_click_url() as url:
        source = NetworkSource(url, BOTH, sinks)
        source.start()
        assert eventually(lambda: source.report().entered.get("lost", 0) > 0, 60)
        source.close()
    items = sinks.rings.vision.read(0, 15 * 17)
    flashes_ms = (items.captured_ns[items.frames[:, 0, 0, 0] > 150] - sinks.origin_ns) / NS_PER_MS
    heard = sinks.rings.acoustic.read(0, RATE_HZ * 17)
    clicks_ms = onsets(heard.samples, 0.15, 0.5) / RATE_HZ * 1e3
    apart_ms = np.array([np.abs(clicks_ms - flash).min() for flash in flashes_ms[-3:]])
    record_property("flash_and_click", {"apart_ms": apart_ms.round(1).tolist()})
    assert len(flashes_ms) >= 6 and np.median(apart_ms) <= LIMIT_MS
    truth_ms = (FlashClick.begun_ns[0] - sinks.origin_ns) / NS_PER_MS
    late_ms = (flashes_ms[-3:] - truth_ms) % 1000
    assert late_ms.max() <= 400, "never before it was taken, and hardly later than what the codecs hold back"


def recorded(place: Path, url: str, *more: str) -> Kept:
    """What the command's model got of a test source, out of its recording."""
    write_bundle(place / "bundle")
    environment(place)
    fixed = ("--bundle", place / "bundle", "--backend", "null", "--record-media", "--record", place / "kept.mcap")
    finish(place, *fixed, "--input", url, *more)
    return read_kept(place / "kept.mcap", SIZE_PX)


def flashes(kept: Kept) -> np.ndarray:
    """Seconds at which faces become bright, for flashes with a dark picture shortly before."""
    levels = kept.faces.mean(axis=(1, 2, 3))
    bright = np.flatnonzero((np.diff(levels) > 40) & (np.diff(kept.seen_s) < 0.1)) + 1
    return np.asarray(kept.seen_s[bright])


def within_a_second_ms(times_s: np.ndarray, clicks_s: np.ndarray) -> np.ndarray:
    """How far each time is from the nearest click; there is one a second, and a busy machine skips hops with some."""
    apart_s = (times_s[:, None] - clicks_s[None] + 0.5) % 1 - 0.5
    return np.asarray(np.abs(apart_s).min(axis=1) * 1e3)


@pytest.mark.parametrize("pace", ["max", "real"])
def test_the_command_hands_flash_click_and_words_of_one_time_to_its_model_as_of_one_time(
    pace: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kept = recorded(tmp_path, "test://?seconds=11&fps=15&flash=1", "--pace", pace)
    seen_s, heard_s = flashes(kept), clicks(kept.samples)
    apart_ms = within_a_second_ms(seen_s, heard_s)
    said_s = np.array([(word.start_ns - kept.begin_ns) / NS_PER_S for word in kept.said.values()])
    of_words_ms = within_a_second_ms(said_s, heard_s)
    record_property(f"recorded_{pace}", {"flash_ms": apart_ms.round(1).tolist(), "words_ms": of_words_ms.tolist()})
    assert len(seen_s) >= (10 if pace == "max" else 5) and len(said_s) == 2
    assert apart_ms.max() <= LIMIT_MS and of_words_ms.max() <= LIMIT_MS
    if pace == "max":
        assert np.abs(heard_s - np.arange(11)).max() * 1e3 <= LIMIT_MS, "a file's zero is the session's"


@pytest.mark.skipif(shutil.which(espeak.PROGRAM) is None, reason="espeak-ng is not installed")
@pytest.mark.skipif(importlib.util.find_spec("faster_whisper") is None, reason="faster-whisper is not installed")
def test_a_sentence_is_understood_where_it_was_heard_beside_the_flash_of_its_first_word(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    spoken = set(MANNERS["sad"].words.split())
    url = "test://?seconds=11&fps=15&flash=1&voice=espeak&emotion=sad"
    kept = recorded(tmp_path, url, "--transcript", "asr", "--pace", "max")
    understood = [word for word in kept.said.values() if len(spoken & set(word.text.lower().split())) >= 3]
    assert understood, [word.text for word in kept.said.values()]
    seen_s = flashes(kept)
    sentences_s = seen_s[np.isclose(seen_s % UTTERANCE_S, 0, atol=LIMIT_MS / 1e3)]
    apart_s = [np.abs(sentences_s - (word.start_ns - kept.begin_ns) / NS_PER_S).min() for word in understood]
    record_property("spoken", {"apart_ms": [round(one * 1e3) for one in apart_s]})
    assert min(apart_s) <= 0.2, "a recogniser's times of words are no sharper"
