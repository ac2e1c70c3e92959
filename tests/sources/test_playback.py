"""Parts of recordings, loops, pipes and recordings behind URLs give the data that they should, and then end."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.sources.base import BOTH, SourceSpec, Span
from clcr_stream.sources.choose import check_spec, open_sources
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.network import NetworkSource
from clcr_stream.sources.pipes import PipeFile, open_pipe
from clcr_stream.sources.urls import names_recording
from media import ORIGIN_NS, MediaSpec, Recording, await_filled, eventually, make_sinks, read_all, write_media

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s; the picture's level says its time, 2 x 30 a second, and the sound is a tone."""
    return write_media(tmp_path_factory.mktemp("clip") / "a.mkv", MediaSpec(seconds=3))


def played(clip: Path, span: Span, hops: int | None = None) -> Recording:
    sinks = make_sinks()
    return read_all(FileSource(str(clip), BOTH, sinks, "max", span=span), sinks, hops)


def said_beside(clip: Path, words: Path, span: Span, hops: int) -> dict[str, tuple[int, int]]:
    """The words in the store hop by hop beside a clip: ms from the session's zero by id and text."""
    sinks, said = make_sinks(), {}
    spec = SourceSpec(input=str(clip), transcript=str(words), pace="max", span=span)
    sources = open_sources(spec, sinks)
    for source in sources:
        source.start()
    for hop in range(1, hops + 1):
        end_ns = ORIGIN_NS + hop * NS_PER_S // 5
        assert all(await_filled(source, end_ns) for source in sources)
        for one in sinks.rings.transcript.between(ORIGIN_NS - NS_PER_S, end_ns):
            said[f"{one.id}: {one.text}"] = ((one.start_ns - ORIGIN_NS) // 10**6, (one.end_ns - ORIGIN_NS) // 10**6)
        for source in sources:
            source.consumed(end_ns)
    for source in sources:
        source.close()
    return said


@pytest.fixture
def subtitles(tmp_path: Path) -> Path:
    """Before 1 s, over it, within 1 to 2 s, over 2 s, and after."""
    cues = ["00,200 --> 00:00:00,900", "00,800 --> 00:00:01,200", "01,300 --> 00:00:01,700", "01,900 --> 00:00:02,100"]
    path = tmp_path / "a.srt"
    path.write_text("\n\n".join(f"00:00:{cue}\nword {number}" for number, cue in enumerate(cues)))
    return path


def test_the_words_beside_a_clip_move_with_its_part(clip: Path, subtitles: Path) -> None:
    part = {"cue-4: word 1": (-200, 200), "cue-7: word 2": (300, 700)}
    assert said_beside(clip, subtitles, Span(1.0, 2.0), 5) == part
    lines = subtitles.with_suffix(".jsonl")
    late = '{"id": "c", "start_s": 1.1, "end_s": 1.2, "arrival_s": 2.4, "text": "late"}'
    early = '{"id": "a", "start_s": 0.5, "end_s": 1.1, "arrival_s": 0.7, "text": "early"}'
    lines.write_text(f'{early}\n{{"id": "b", "start_s": 1.5, "end_s": 1.6, "text": "mine"}}\n{late}\n')
    assert list(said_beside(clip, lines, Span(1.2, 2.0), 4)) == ["b: mine"]
    assert said_beside(clip, lines, Span(0.2, 2.0), 9)["b: mine"] == (1300, 1400)
    whole = said_beside(clip, subtitles, Span(), 14)
    assert list(whole.values()) == [(200, 900), (800, 1200), (1300, 1700), (1900, 2100)]


def test_the_words_beside_a_loop_come_again_in_each_round(clip: Path, subtitles: Path) -> None:
    said = said_beside(clip, subtitles, Span(1.0, 2.0, loop=True), 13)
    assert said == {
        "cue-4: word 1": (-200, 200), "cue-7: word 2": (300, 700),
        "cue-4 1: word 1": (800, 1200), "cue-7 1: word 2": (1300, 1700),
        "cue-4 2: word 1": (1800, 2200),
    }  # fmt: skip
    whole = said_beside(clip, subtitles, Span(loop=True), 20)  # of 3 s, which the sound's codec makes a little longer
    assert len(whole) == 5 and whole["cue-1 1: word 0"] == pytest.approx((3200, 3900), abs=60)


def seconds_shown(recording: Recording) -> np.ndarray:
    """The time in the clip of each picture, by its level."""
    return np.asarray(recording.frames[recording.valid > 0, 0, 0, 0] / 60)


def test_a_part_begins_and_ends_where_it_was_told_and_counts_from_its_own_beginning(clip: Path) -> None:
    recording = played(clip, Span(1.0, 2.2))
    shown = seconds_shown(recording)
    assert shown[0] == pytest.approx(1.0, abs=0.04) and shown[-1] == pytest.approx(2.1, abs=0.04)
    assert len(shown) == 18
    assert recording.present[: int(1.2 * RATE_HZ)].all() and not recording.present[int(1.2 * RATE_HZ) :].any()


def test_the_sound_of_a_part_is_that_of_the_whole_at_that_time(clip: Path) -> None:
    whole, part = played(clip, Span()), played(clip, Span(1.0, 2.0))
    np.testing.assert_array_equal(part.samples[:RATE_HZ], whole.samples[RATE_HZ : 2 * RATE_HZ])


def test_a_loop_goes_on_without_a_gap_in_the_sound(clip: Path) -> None:
    recording = played(clip, Span(1.0, 2.0, loop=True), hops=16)
    assert recording.present[: 3 * RATE_HZ].all(), "3 rounds"
    first = recording.samples[:RATE_HZ]
    np.testing.assert_array_equal(recording.samples[RATE_HZ : 2 * RATE_HZ], first)
    shown = recording.frames[:, 0, 0, 0] / 60
    assert recording.valid[:45].all()
    # The first slot of a round may hold the last picture of the one before, which is nearest to it.
    assert np.allclose(shown[1:15], shown[16:30], atol=0.04) and np.allclose(shown[1:15], shown[31:45], atol=0.04)


def test_a_whole_file_loops_too(clip: Path) -> None:
    recording = played(clip, Span(loop=True), hops=35)  # 7 s of 3 s
    assert recording.valid[:100].all()
    assert recording.present[: 7 * RATE_HZ].mean() > 0.99


def test_a_part_beyond_the_end_is_one_line(clip: Path) -> None:
    with pytest.raises(SourceError, match="holds nothing from 9 s on; give a smaller --start"):
        played(clip, Span(9.0))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SourceSpec(input="test://", span=Span(1.0)), "--loop are for recordings, test:// is none"),
        (SourceSpec(transcript="a.srt", span=Span(1.0)), "are for recordings, there is none; give --input"),
        (SourceSpec(camera="0", span=Span(loop=True)), "are for recordings, 0 is none"),
        (SourceSpec(input="-", span=Span(loop=True)), "- is a pipe, which can be read once"),
        (SourceSpec(input="a.mp4", span=Span(3.0, 2.0)), "the end after the start"),
        (SourceSpec(input="a.mp4", span=Span(float("nan"))), "allowed are seconds"),
        (SourceSpec(input="-", transcript="-"), "both standard input"),
    ],
)
def test_a_part_that_cannot_be_is_refused_in_one_line(spec: SourceSpec, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_spec(spec)


def test_a_named_pipe_gives_what_the_file_gives(clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(clip.read_bytes()))
    writer.start()
    sinks = make_sinks()
    (source,) = open_sources(SourceSpec(input=str(pipe), pace="max"), sinks)
    recording, whole = read_all(source, sinks), played(clip, Span())
    writer.join(10)
    np.testing.assert_array_equal(recording.samples, whole.samples)
    np.testing.assert_array_equal(recording.frames, whole.frames)


def test_a_pipe_that_gives_no_recording_is_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"no recording\n" * 5000))
    writer.start()
    with pytest.raises(SourceError, match=r"not a recording .*; Matroska, MPEG-TS"):
        open_sources(SourceSpec(input=str(pipe), pace="max"), make_sinks())
    writer.join(10)


def test_a_pipe_to_which_nobody_writes_is_given_up_in_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SourceError, match="nothing came through the pipe; start what writes to it"):
        open_pipe(PipeFile(str(pipe), begin_s=0.3), str(pipe), BOTH, RATE_HZ, lambda _: None, "input")


def test_a_pipe_whose_writer_stops_does_not_hold_up_the_end(clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    half, let_go = clip.read_bytes(), threading.Event()

    def write() -> None:
        with pipe.open("wb") as file:
            file.write(half[: len(half) * 2 // 3])
            file.flush()
            let_go.wait(30)

    writer = threading.Thread(target=write)
    writer.start()
    (source,) = open_sources(SourceSpec(input=str(pipe), pace="max"), make_sinks())
    source.start()
    assert eventually(lambda: source.report().counts["frames"] > 10)
    source.close()
    assert source.finished
    let_go.set()
    writer.join(10)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and how often they were asked for."""

    asked: list[str] = []  # noqa: RUF012 reset by the fixture

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url(clip: Path) -> Iterator[str]:
    Quiet.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(clip.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{clip.name}"
    server.shutdown()
    server.server_close()


def test_a_recording_behind_a_url_is_played_once_to_its_end_and_nothing_is_lost(clip: Path, url: str) -> None:
    sinks = make_sinks()
    (source,) = open_sources(SourceSpec(input=url, pace="max"), sinks)
    assert source.lossless
    recording, whole = read_all(source, sinks), played(clip, Span())
    np.testing.assert_array_equal(recording.samples, whole.samples)
    np.testing.assert_array_equal(recording.valid, whole.valid)
    assert len(Quiet.asked) <= 2, "once, and perhaps again where it was sought"


def test_a_recording_whose_url_does_not_say_so_is_played_in_its_own_time_and_ends(url: str) -> None:
    sinks = make_sinks()
    source = NetworkSource(url + "?download=1", BOTH, sinks)
    begun_ns = sinks.clock.now_ns()
    source.start()
    assert eventually(lambda: source.finished, 30)
    report = source.report()
    assert (report.state, report.reason) == ("ended", "end of the recording")
    assert report.counts["reconnects"] == 0
    assert sinks.clock.now_ns() - begun_ns >= 2.8 * NS_PER_S, "by the session's clock"
    source.close()


@pytest.mark.parametrize(
    ("url", "recording"),
    [
        ("http://host/talk.mp4", True),
        ("https://host/a/Talk.MKV?token=1", True),
        ("http://camera/video.mjpg", False),
        ("http://host/live.m3u8", False),
        ("rtsp://host/talk.mp4", False),
    ],
)
def test_what_a_url_names_is_told_from_its_path(url: str, recording: bool) -> None:
    assert names_recording(url) == recording
