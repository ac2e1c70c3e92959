"""Recordings whose streams lie in blocks one behind the other, and recordings that were cut short."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.sources import packets as packets_module
from clcr_stream.sources.base import BOTH, SourceSpec, Span
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.packets import in_order
from media import ORIGIN_NS, MediaSpec, SteppedClock, await_filled, eventually, make_sinks, read_all, write_media

RATE_HZ = 16_000


def in_blocks(source: Path, path: Path, block_s: float, movflags: str = "faststart") -> Path:
    """The same packets, the video of a block before its sound."""
    options = {"max_interleave_delta": "1", "movflags": movflags}
    with av.open(str(source)) as whole, av.open(str(path), "w", options=options) as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in whole.streams}
        timed = [(packet.dts * packet.time_base, packet) for packet in whole.demux() if packet.dts is not None]
        timed.sort(key=lambda one: (one[0] // Fraction(block_s), one[1].stream.type == "audio"))
        for _, packet in timed:
            packet.stream = streams[packet.stream.index]
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 s, finely interleaved."""
    return write_media(tmp_path_factory.mktemp("clip") / "a.mp4", MediaSpec(seconds=8, fps=15))


@pytest.mark.parametrize(("block_s", "suffix"), [(0.5, "mp4"), (2.0, "mp4"), (100.0, "mp4"), (2.0, "mkv")])
def test_at_real_pace_each_stream_of_a_recording_in_blocks_comes_in_its_time(
    clip: Path, tmp_path: Path, block_s: float, suffix: str
) -> None:
    path = in_blocks(clip, tmp_path / f"blocks.{suffix}", block_s)
    clock = SteppedClock()
    sinks = make_sinks(clock)
    source = FileSource(str(path), BOTH, sinks, "real")
    source.start()
    for step in range(1, 16):
        now_ns = ORIGIN_NS + step * NS_PER_S * 2 // 5
        clock.move_to(now_ns)
        assert await_filled(source, now_ns - NS_PER_S // 5, 10), f"{step * 0.4} s: waits behind what is not due"
        source.consumed(now_ns - NS_PER_S // 5)
    source.close()
    assert sinks.rings.vision.counts().dropped["late"] == sinks.rings.acoustic.counts().dropped["late"] == 0


def piped(path: Path, pipe: Path) -> FileSource:
    """A source at full speed that reads the file through a pipe."""
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True).start()
    (source,) = open_sources(SourceSpec(input=str(pipe), pace="max"), make_sinks())
    assert isinstance(source, FileSource)
    return source


def test_through_a_pipe_nothing_of_long_blocks_is_lost(clip: Path, tmp_path: Path) -> None:
    source = piped(in_blocks(clip, tmp_path / "blocks.mp4", 4.0), tmp_path / "pipe")
    recording = read_all(source, source.sinks)
    assert recording.valid[:119].all() and recording.present[RATE_HZ // 10 : int(7.9 * RATE_HZ)].all()
    assert source.report().reason == "end of input"


def test_what_lies_too_far_behind_is_told(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets_module, "AHEAD_S", 1.0)
    source = piped(in_blocks(clip, tmp_path / "blocks.mp4", 100.0), tmp_path / "pipe")
    read_all(source, source.sinks)
    assert source.report().reason.startswith("its audio comes too late, far behind the rest of it; give the")


@dataclass(frozen=True)
class Stream:
    """What in_order asks of one."""

    index: int


@dataclass(frozen=True)
class Packet:
    """What in_order asks of one."""

    stream: Stream
    dts: int | None
    pts: int | None = None
    time_base: Fraction = Fraction(1, 10)
    size: int = 100


def laid_out(text: str) -> list[Packet]:
    """Packets by stream and time: "v0 v1 a0" are two of stream 0 and one of stream 1, at tenths of seconds."""
    return [Packet(Stream("va".index(one[0])), int(one[1:]) if one[1:] else None) for one in text.split()]


def told(packets: Iterator[Packet]) -> str:
    return " ".join(f"{'va'[one.stream.index]}{'' if one.dts is None else one.dts}" for one in packets)


@pytest.mark.parametrize(
    ("laid", "comes"),
    [
        ("v0 v1 v2 a0 a1 a2", "v0 a0 v1 a1 v2 a2"),
        ("v0 v3 v2 a1 a4", "v0 a1 v3 v2 a4"),  # a stream's own stay in its order
        ("v0 a0 v1 v a1 a", "v0 a0 v1 v a1 a"),  # their ends have no time
        ("v0 v50 v101 v102 a0 a1 v103", "v0 v50 v101 v102 a0 a1 v103"),  # too far behind to be waited for
        ("v0 v101 a0 v105 v110 a106", "v0 v101 a0 v105 a106 v110"),  # and waited for when it comes again
    ],
)
def test_packets_come_in_the_order_of_time_within_bounds(laid: str, comes: str) -> None:
    assert told(in_order(laid_out(laid), [0, 1])) == comes


def test_packets_that_take_too_much_memory_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets_module, "AHEAD_BYTES", 250)
    assert told(in_order(laid_out("v0 v1 v2 v3 a0"), [0, 1])) == "v0 v1 v2 v3 a0"


def test_what_was_read_before_a_break_comes_before_it() -> None:
    def breaking() -> Iterator[Packet]:
        yield from laid_out("v0 v2 v1")
        raise OSError(errno.EIO, "broken")

    packets = in_order(breaking(), [0, 1])
    assert [next(packets).dts for _ in range(3)] == [0, 2, 1]
    with pytest.raises(OSError, match="broken"):
        next(packets)


def ended(path: Path, span: Span = Span()) -> str:  # noqa: B008 frozen
    """What a source says at its end, read at full speed."""
    sinks = make_sinks()
    source = FileSource(str(path), BOTH, sinks, "max", span=span)
    read_all(source, sinks)
    assert source.report().state == "ended"
    return source.report().reason


@pytest.fixture(scope="module", params=["mp4", "mkv", "flac"])
def cut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of a recording of 12 s."""
    folder = tmp_path_factory.mktemp("cut")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 12 * RATE_HZ)
    if request.param == "flac":
        whole = folder / "whole.flac"
        with av.open(str(whole), "w") as container:
            stream = container.add_stream("flac", rate=RATE_HZ, layout="mono")
            frame = av.AudioFrame.from_ndarray((noise * 32767).astype(np.int16)[None, :], format="s16", layout="mono")
            frame.sample_rate = RATE_HZ
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        written = write_media(folder / f"fine.{request.param}", MediaSpec(seconds=12, fps=15))
        whole = in_blocks(written, folder / f"whole.{request.param}", 0.1)
    path = folder / f"cut.{request.param}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def test_a_recording_that_was_cut_short_says_so_at_its_end(cut: Path) -> None:
    found = re.match(r"the file says 12\.[01] s, (\d\.\d) s could be read( \(\d+ decode errors?\))?", ended(cut))
    assert found is not None and 3.0 < float(found[1]) < 9.0
    assert found[2] is not None or cut.suffix != ".mp4", "its packets have lengths"


def test_only_what_was_asked_for_is_missed(cut: Path) -> None:
    assert "could be read" not in ended(cut, Span(0.0, 2.0))
    assert "could be read" in ended(cut, Span(1.0, 10.0))


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe", "frag_keyframe+empty_moov", "dash"])
def test_a_whole_recording_is_not_cut_short(clip: Path, tmp_path: Path, movflags: str) -> None:
    assert ended(in_blocks(clip, tmp_path / "whole.mp4", 1.0, movflags)) == "end of input"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_that_ends_before_the_pictures_is_no_cut(tmp_path: Path, suffix: str) -> None:
    path = write_media(tmp_path / f"a.{suffix}", MediaSpec(seconds=7, fps=15, audio_seconds=2))
    assert "could be read" not in ended(path)
    sinks = make_sinks()
    sound = FileSource(str(path), ("acoustic",), sinks, "max")
    sound.start()
    assert eventually(lambda: sound.finished) and sound.report().reason == "end of input"


def test_a_last_picture_that_stays_for_long_is_no_cut(tmp_path: Path) -> None:
    path = tmp_path / "slides.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"preset": "ultrafast", "bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        packets = []
        for second in (0, 1, 5):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * second, np.uint8))
            picture.pts, picture.time_base = second, Fraction(1)
            packets += stream.encode(picture)
        for packet in packets + stream.encode(None):
            packet.duration = int(4 / packet.time_base)
            container.mux(packet)
    assert "could be read" not in ended(path)
