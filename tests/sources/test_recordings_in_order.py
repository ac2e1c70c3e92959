"""Recordings that can only be read in order, stall or break off: pipes, servers without ranges or lengths."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.sources.base import BOTH, Source, SourceSpec, Span
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.files import STALE_NS, FileSource
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.pipes import PipeFile, open_pipe
from media import ORIGIN_NS, MediaSpec, Recording, SteppedClock, eventually, make_sinks, read_all, write_media

SECONDS = 12


def remuxed(source: Path, path: Path, movflags: str = "") -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as given, av.open(str(path), "w", options={"movflags": movflags}) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s with a key picture every third of a second: Matroska, too large for FFmpeg's buffer with PCM; MP4 with its
    index in front, MP4 in fragments."""
    folder = tmp_path_factory.mktemp("clips")
    clip = write_media(folder / "a.mkv", MediaSpec(seconds=SECONDS))
    write_media(folder / "large.mkv", MediaSpec(seconds=SECONDS, audio_codec="pcm_s16le"))
    remuxed(clip, folder / "front.mp4", "faststart")
    remuxed(clip, folder / "fragments.mp4", "frag_keyframe+empty_moov+default_base_moof")
    return folder


@dataclass
class Manner:
    """How a server serves."""

    length: bool = True  # says it
    chunked: bool = False
    share: float = 1.0  # of the bytes, after which it closes the connection
    asked: list[str] = field(default_factory=list)


class Server(http.server.BaseHTTPRequestHandler):
    """Files without ranges, as `python3 -m http.server` serves them, or in a worse manner."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, manner: Manner, *about: object) -> None:
        self._folder, self._manner = folder, manner
        super().__init__(*about)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        manner = self._manner
        manner.asked.append(self.path)
        data = (self._folder / self.path.split("?")[0].lstrip("/")).read_bytes()
        self.send_response(200)
        if manner.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif manner.length:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        data = data[: int(manner.share * len(data))]
        try:
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if manner.chunked else data)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def manner() -> Manner:
    return Manner()


@pytest.fixture
def host(folder: Path, manner: Manner) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, folder, manner))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def opened(text: str, span: Span = Span()) -> tuple[Source, Recording]:  # noqa: B008 frozen
    """A source at full speed that was read to its end, and what it gave."""
    sinks = make_sinks()
    (source,) = open_sources(SourceSpec(input=text, pace="max", span=span), sinks)
    return source, read_all(source, sinks, 35 if span.loop else None)


def assert_same(one: Recording, other: Recording) -> None:
    np.testing.assert_array_equal(one.valid, other.valid)
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(one.samples, other.samples)
    np.testing.assert_array_equal(one.present, other.present)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def written(pipe: Path, *parts: bytes, between: threading.Event | None = None) -> threading.Thread:
    """What writes these parts to a pipe, each after the first only when `between` is set."""

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for number, part in enumerate(parts):
                if number and between is not None:
                    between.wait(30)
                file.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    return writer


def test_every_fragment_of_an_mp4_comes_through_a_pipe(folder: Path, pipe: Path) -> None:
    clip = folder / "fragments.mp4"
    _, whole = opened(str(clip))
    data = clip.read_bytes()
    writer = written(pipe, *(data[start : start + 5000] for start in range(0, len(data), 5000)))
    source, recording = opened(str(pipe))
    writer.join(10)
    assert source.report().counts["decode_errors"] == 0
    assert_same(recording, whole)


def test_every_fragment_of_an_mp4_comes_from_a_server_that_cannot_seek(folder: Path, host: str) -> None:
    _, whole = opened(str(folder / "fragments.mp4"))
    source, recording = opened(f"{host}/fragments.mp4")
    assert source.report().counts["decode_errors"] == 0
    assert_same(recording, whole)


@pytest.mark.parametrize("span", [Span(7.0, 9.0), Span(11.0), Span(11.2, loop=True)])
@pytest.mark.parametrize("name", ["large.mkv", "front.mp4", "fragments.mp4"])
def test_a_part_is_found_though_the_server_cannot_seek(folder: Path, host: str, name: str, span: Span) -> None:
    _, expected = opened(str(folder / name), span)
    assert_same(opened(f"{host}/{name}", span)[1], expected)


@pytest.mark.parametrize(("name", "chunked"), [("a.mkv", False), ("a.mkv", True), ("front.mp4", False)])
def test_a_recording_without_a_length_ends_with_its_last_picture(
    folder: Path, host: str, manner: Manner, name: str, chunked: bool
) -> None:
    manner.length, manner.chunked = False, chunked
    _, whole = opened(str(folder / name))
    source, recording = opened(f"{host}/{name}")
    assert (source.report().state, source.report().reason) == ("ended", "end of input")
    assert_same(recording, whole)


@pytest.mark.parametrize("length", [True, False])
def test_a_connection_that_ends_in_the_middle_is_told_with_the_place(host: str, manner: Manner, length: bool) -> None:
    manner.length, manner.share = length, 0.5
    source, recording = opened(f"{host}/a.mkv")
    report = source.report()
    assert report.state == "failed"
    assert report.reason in [f"the connection ended at {second} s of 12 s" for second in range(3, 10)]
    assert recording.valid.sum() > 40


def test_what_says_neither_bytes_nor_seconds_is_live_whatever_its_url_says(host: str, manner: Manner) -> None:
    manner.length = False
    url = f"{host}/fragments.mp4?src=cam"
    (source,) = open_sources(SourceSpec(input=url), make_sinks(MonotonicClock()))
    assert not source.lossless
    source.start()
    assert eventually(lambda: source.report().entered.get("lost", 0) > 0, 30)
    assert eventually(lambda: source.report().counts["reconnects"] > 0, 30), "it is opened again"
    assert "Errno" not in source.report().reason
    source.close()
    with pytest.raises(ConfigError, match=r"so it is live; --start, --end and --loop are for recordings"):
        open_sources(SourceSpec(input=url, span=Span(6.0)), make_sinks())


def test_at_its_own_pace_a_pipe_whose_writer_hangs_is_stale_and_loses_nothing(folder: Path, pipe: Path) -> None:
    data, go_on = (folder / "a.mkv").read_bytes(), threading.Event()
    _, whole = opened(str(folder / "a.mkv"))
    half = len(data) // 2
    writer = written(pipe, data[:half], data[half:], between=go_on)
    clock = SteppedClock()
    sinks = make_sinks(clock)
    (source,) = open_sources(SourceSpec(input=str(pipe)), sinks)
    source.start()
    stalled = partial(eventually, lambda: source.report().state == "stale")

    def step() -> bool:
        source.consumed(clock.now_ns())
        clock.move_to(clock.now_ns() + NS_PER_S // 10)
        return stalled(timeout_s=0.02)

    assert eventually(step, 60)
    assert source.report().reason == "no new data for 2.0 s"
    now = source.report()
    assert now.since_ns is not None and now.since_ns - STALE_NS["data"] < ORIGIN_NS + 10 * NS_PER_S
    go_on.set()
    assert eventually(lambda: source.report().state != "stale")

    def play() -> bool:
        source.consumed(clock.now_ns())
        clock.move_to(clock.now_ns() + NS_PER_S // 10)
        return eventually(lambda: source.finished, 0.005)

    assert eventually(play, 60)
    writer.join(10)
    counts = source.report().counts
    assert counts["frames"] == SECONDS * 30 and counts["samples"] == whole.present.sum()


def test_a_pause_in_a_recording_is_no_stall(tmp_path: Path) -> None:
    clock = SteppedClock()
    clip = write_media(tmp_path / "slow.mkv", MediaSpec(seconds=8, fps=1, rate_hz=0))
    source = FileSource(str(clip), BOTH, make_sinks(clock))
    source.start()
    for second in range(4):
        assert clock.await_wait(ORIGIN_NS + second * NS_PER_S)
        clock.move_to(ORIGIN_NS + second * NS_PER_S)
    assert clock.await_wait(ORIGIN_NS + 4 * NS_PER_S)
    clock.move_to(ORIGIN_NS + 4 * NS_PER_S - 1)
    assert "stale" not in source.report().entered
    source.close()


def test_what_a_file_lacks_does_not_hide_that_it_lies_on_its_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrameFeeder, "hint", "give --rotate 90")
    sinks = make_sinks()
    clip = write_media(tmp_path / "mute.mkv", MediaSpec(rate_hz=0))
    source = FileSource(str(clip), BOTH, sinks, "max")
    both = "the file holds no audio; give --rotate 90"
    source.start()
    assert eventually(lambda: source.finished)
    assert (source.report().state, source.report().reason) == ("ended", both)


@pytest.mark.parametrize("span", [Span(), Span(1.95)])
def test_a_recording_shorter_than_a_hop_says_so(tmp_path: Path, span: Span) -> None:
    seconds = 2.0 if span.start_s else 0.1
    clip = write_media(tmp_path / "short.wav", MediaSpec(seconds, fps=0, audio_codec="pcm_s16le"))
    source = FileSource(str(clip), BOTH, make_sinks(), "max", span=span)
    source.start()
    assert eventually(lambda: source.finished)
    assert source.report().state == "failed"
    assert "s and a prediction needs 0.2 s; give a longer recording" in source.report().reason


def test_an_empty_pipe_is_told_without_numbers_of_errors() -> None:
    with Path(os.devnull).open("rb") as nothing:
        before = os.dup(0)
        os.dup2(nothing.fileno(), 0)
        try:
            with pytest.raises(SourceError) as caught:
                open_pipe(PipeFile("-"), "-", BOTH, 16_000, lambda _: None, "input")
        finally:
            os.dup2(before, 0)
            os.close(before)
    assert str(caught.value) == "input -: the pipe ended before a byte came; see what writes to it"
