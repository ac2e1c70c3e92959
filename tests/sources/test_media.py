"""Media files: their timeline, what is absent, what is broken, and that both paces give the same data."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from clcr_stream.clock import FOREVER_NS, NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import BOTH, Pace, SourceSpec
from clcr_stream.sources.choose import open_sources
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.health import REASONS
from clcr_stream.sources.media import AudioItem, Item, MediaReader, VideoItem, open_file
from clcr_stream.window.ring import NEVER_NS, RingCounts
from media import (
    ORIGIN_NS,
    MediaSpec,
    Recording,
    SteppedClock,
    await_filled,
    corrupt_middle,
    eventually,
    make_sinks,
    newest_ns,
    read_all,
    write_media,
    write_text,
)


def tone(count: int, rate_hz: int = 16000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / rate_hz)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_every_frame_lies_on_its_slot(tmp_path: Path, suffix: str) -> None:
    path = write_media(tmp_path / f"a.{suffix}", MediaSpec(seconds=3))
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert recording.valid[:44].all()
    for slot in range(44):
        seen_s = (recording.captured_ns[slot] - ORIGIN_NS) / NS_PER_S
        assert abs(seen_s - slot / 15) < 0.0351
        assert abs(int(recording.frames[slot, 0, 0, 0]) - 2 * round(seen_s * 30)) <= 3


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
def test_the_sound_keeps_its_time_at_any_rate(tmp_path: Path, rate_hz: int) -> None:
    spec = MediaSpec(fps=0, rate_hz=rate_hz, audio_codec="pcm_s16le")
    path = write_media(tmp_path / "a.wav", spec)
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert abs(int(recording.present.sum()) - 32000) <= 2
    np.testing.assert_allclose(recording.samples[2000:30000], tone(32000)[2000:30000], atol=0.01)


def test_a_compressed_sound_track_keeps_its_time(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(rate_hz=48000))
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    errors = [
        np.abs(np.roll(recording.samples, shift)[4000:28000] - tone(32000)[4000:28000]).max() for shift in range(-8, 9)
    ]
    assert abs(int(np.argmin(errors)) - 8) <= 1
    assert min(errors) < 0.05


def record(path: Path, pace: Pace) -> tuple[Recording, RingCounts, RingCounts]:
    sinks = make_sinks(MonotonicClock() if pace == "max" else None)
    recording = read_all(FileSource(str(path), BOTH, sinks, pace), sinks)
    return recording, sinks.rings.vision.counts(), sinks.rings.acoustic.counts()


def test_both_paces_give_exactly_the_same_data(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=9, fps=24, rate_hz=44100))
    (real, *real_counts), (fast, *fast_counts) = record(path, "real"), record(path, "max")
    assert real_counts == fast_counts
    for name in ("frames", "valid", "captured_ns", "samples", "present"):
        np.testing.assert_array_equal(getattr(real, name), getattr(fast, name))
    assert real.present.sum() > 8.9 * 16000


def test_nothing_is_lost_when_the_loop_is_slower_than_the_decoder(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", MediaSpec(seconds=14, fps=15))
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert recording.valid[:210].all()
    assert recording.present[:224000].all()
    for counts in (sinks.rings.vision.counts(), sinks.rings.acoustic.counts()):
        assert counts.dropped["overflow"] == counts.dropped["late"] == counts.held == 0
        assert counts.received == counts.used + sum(counts.dropped.values())


def test_the_decoder_stops_when_the_ring_is_full_and_goes_on_when_it_is_read(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=12, fps=15))
    sinks = make_sinks()
    source = FileSource(str(path), BOTH, sinks, "max")
    source.start()
    full_ns = ORIGIN_NS + sinks.lead_ns
    assert await_filled(source, full_ns - NS_PER_S)
    assert not source.finished
    assert newest_ns(sinks) <= full_ns
    source.consumed(ORIGIN_NS + 6 * NS_PER_S)
    assert await_filled(source, full_ns + NS_PER_S)
    source.close()
    assert source.finished


def test_at_real_pace_nothing_comes_before_its_time(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=3))
    clock = SteppedClock()
    sinks = make_sinks(clock)
    source = FileSource(str(path), BOTH, sinks, "real")
    source.start()
    for step in range(1, 8):
        now_ns = ORIGIN_NS + step * NS_PER_S // 4
        clock.move_to(now_ns)
        assert clock.await_wait(now_ns + 1)
        seen_ns, heard_ns = sinks.rings.vision.newest_ns, sinks.rings.acoustic.newest_ns
        assert seen_ns is None or seen_ns <= now_ns
        assert heard_ns is None or heard_ns <= now_ns + NS_PER_S // 5
    source.close()
    assert all(later >= earlier - NS_PER_S for earlier, later in pairwise(clock.waits))


def test_a_video_without_sound_fills_vision_only_and_says_so(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=12, fps=15, rate_hz=0))
    sinks = make_sinks()
    source = FileSource(str(path), BOTH, sinks, "max")
    assert source.modalities == ("vision",) and source.report().state == "starting"
    source.start()
    assert await_filled(source, ORIGIN_NS + NS_PER_S)  # the rest does not fit in the ring yet
    assert eventually(lambda: source.report().reason == REASONS["covered"]), "it is all grey"
    source.close()
    assert sinks.rings.vision.read(0, 15).valid.all()
    assert not sinks.rings.acoustic.read(0, 16_000).present.any()


def test_sound_without_video_fills_acoustic_only(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(fps=0))
    sinks = make_sinks()
    source = FileSource(str(path), BOTH, sinks, "max")
    assert source.modalities == ("acoustic",)
    recording = read_all(source, sinks)
    assert recording.present[:31000].all()
    assert (recording.captured_ns == NEVER_NS).all()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_sound_track_that_ends_early_does_not_hold_up_the_video(tmp_path: Path, suffix: str) -> None:
    path = write_media(tmp_path / f"a.{suffix}", MediaSpec(seconds=20, fps=15, audio_seconds=3))
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert recording.valid[:300].all()
    assert not recording.present[4 * 16000 :].any()


def test_corruption_in_the_middle_is_counted_and_decoding_goes_on(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "whole.mp4", MediaSpec(seconds=6, rate_hz=44100))
    path = corrupt_middle(tmp_path / "a.mp4", whole)
    sinks = make_sinks()
    source = FileSource(str(path), BOTH, sinks, "max")
    recording = read_all(source, sinks)
    assert source.report().counts["decode_errors"] > 0
    assert source.report().state == "ended"
    assert recording.valid[:15].all()
    assert recording.valid[-15:].any()
    assert recording.present[:16000].all()
    assert not recording.present.all()
    assert recording.present[-32000:].any()


def test_after_a_gap_the_sound_is_still_where_it_belongs(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "whole.mp4", MediaSpec(seconds=6, rate_hz=44100))
    path = corrupt_middle(tmp_path / "a.mp4", whole, 0.1)
    sinks, broken_sinks = make_sinks(), make_sinks()
    recording = read_all(FileSource(str(whole), BOTH, sinks, "max"), sinks)
    broken = read_all(FileSource(str(path), BOTH, broken_sinks, "max"), broken_sinks)
    tail = slice(5 * 16000, 5 * 16000 + 8000)
    assert broken.present[tail].all()
    shifts = range(-20, 21)
    errors = [np.abs(np.roll(broken.samples, shift)[tail] - recording.samples[tail]).mean() for shift in shifts]
    assert abs(shifts[int(np.argmin(errors))]) <= 16


def test_bad_files_are_refused_at_once_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = write_media(tmp_path / "whole.mp4")
    (tmp_path / "header.mp4").write_bytes(whole.read_bytes()[:40])
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{whole}\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {whole.name}\n")
    cases = {
        "gone.mp4": "no such file",
        ".": "not a regular file",
        "empty.mp4": "empty",
        "header.mp4": "not a media file",
        "list.m3u8": "not a media file|is not read",
        "list.ffconcat": "not a media file|is not read",
        write_text(tmp_path / "text.mp4").name: "not a media file",
        write_text(tmp_path / "text.txt").name: "is not read|not a media file",
    }
    before = threading.active_count()
    for name, message in cases.items():
        with pytest.raises(SourceError, match=message) as caught:
            FileSource(str(tmp_path / name), BOTH, make_sinks(), "max")
        assert "\n" not in str(caught.value)
    assert threading.active_count() == before


def write_still(path: Path) -> Path:
    """One grey picture in the format that the suffix names."""
    picture = np.full((48, 64, 3), 90, np.uint8)
    if path.suffix in (".gif", ".mp4"):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("gif" if path.suffix == ".gif" else "libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if path.suffix == ".gif" else "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        cv2.imwrite(str(path), picture)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".mp4"])
def test_a_still_picture_is_refused_in_one_line_that_names_the_flag(tmp_path: Path, suffix: str) -> None:
    path = write_still(tmp_path / f"still{suffix}")
    for spec, flag in ((SourceSpec(input=str(path)), "input"), (SourceSpec(camera=str(path)), "camera")):
        with pytest.raises(SourceError) as caught:
            open_sources(spec, make_sinks())
        assert str(caught.value) == f"{flag} {path}: a still picture; give a video or audio file"


def test_sound_of_a_single_block_is_no_still_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", MediaSpec(seconds=0.06, fps=0, audio_codec="pcm_s16le"))
    sinks = make_sinks()
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert recording.present.sum() == 960


def test_a_file_without_the_wanted_stream_is_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(rate_hz=0))
    with pytest.raises(SourceError, match="holds no audio stream"):
        FileSource(str(path), ("acoustic",), make_sinks(), "max")


def test_the_end_of_the_file_is_the_end_of_the_source(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=1))
    source = FileSource(str(path), BOTH, make_sinks(), "max")
    source.start()
    assert await_filled(source, FOREVER_NS)
    assert source.finished
    assert source.report().reason == "end of input"
    source.close()
    source.close()


def test_a_source_tells_once_when_what_a_tick_was_refused_has_come_and_when_it_ends(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", MediaSpec(seconds=12, fps=15))
    told: list[int] = []
    source = FileSource(str(path), BOTH, replace(make_sinks(), notify=lambda: told.append(source.watermark_ns)), "max")
    wanted_ns = ORIGIN_NS + NS_PER_S
    assert not source.filled(wanted_ns)
    source.start()
    assert eventually(lambda: told != [])
    assert told[0] >= wanted_ns
    assert source.filled(wanted_ns)
    assert eventually(lambda: source.watermark_ns >= wanted_ns + NS_PER_S)
    assert not source.filled(ORIGIN_NS + 11 * NS_PER_S)
    source.close()
    assert source.filled(ORIGIN_NS + 11 * NS_PER_S)
    assert told == [told[0], FOREVER_NS]


def read_items(path: Path, rate_hz: int = 16_000) -> tuple[MediaReader, list[Item], list[str]]:
    """A reader of that file, all that it gives, and the errors on the way."""
    errors: list[str] = []
    with open_file(str(path), BOTH, rate_hz, errors.append) as reader:
        return reader, list(reader.items()), errors


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000])
def test_a_reader_gives_sound_in_blocks_of_a_fifth_of_a_second_without_holes(
    tmp_path: Path, suffix: str, rate_hz: int
) -> None:
    path = write_media(tmp_path / f"a{suffix}", MediaSpec(seconds=1.5, fps=10, rate_hz=48_000))
    reader, items, errors = read_items(path, rate_hz)
    assert errors == []
    blocks = [item for item in items if isinstance(item, AudioItem)]
    assert max(len(block.samples) for block in blocks) <= rate_hz // 5
    assert all(after.first_sample == before.first_sample + len(before.samples) for before, after in pairwise(blocks))
    heard = sum(len(block.samples) for block in blocks)
    assert heard == pytest.approx(1.5 * rate_hz, abs=0.08 * rate_hz)  # AAC fills its last frame
    assert [item.time_ns for item in items if isinstance(item, VideoItem)] == [
        pytest.approx(number * NS_PER_S // 10, abs=NS_PER_S // 1000) for number in range(15)
    ]
    ends_ns = [reader.ends_ns[modality] for modality in BOTH]
    assert [end_ns is not None and abs(end_ns - 1.5 * NS_PER_S) < 0.1 * NS_PER_S for end_ns in ends_ns] == [True, True]


def test_one_long_block_of_sound_is_pushed_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        ramp = np.arange(16_000, dtype=np.int16)[None, :]
        block = av.AudioFrame.from_ndarray(ramp, format="s16", layout="mono")
        block.sample_rate = 16_000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    _, items, _ = read_items(path)
    blocks = [item for item in items if isinstance(item, AudioItem)]
    sound = np.concatenate([block.samples for block in blocks])
    np.testing.assert_allclose(sound, np.arange(16_000) / 32_768, atol=1e-6)
    assert {len(block.samples) for block in blocks} <= {*range(1, 3_201)}


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_a_click_lies_where_it_belongs_whatever_the_bundle_s_rate(tmp_path: Path, sample_rate_hz: int) -> None:
    path, clicks_s = tmp_path / "a.wav", (0.5, 1.25, 2.8)
    rate_hz = 48_000
    at_s = np.arange(3 * rate_hz) / rate_hz
    sound = np.sum([np.exp(-(((at_s - click_s) / 0.002) ** 2)) for click_s in clicks_s], axis=0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray((sound * 20_000).astype(np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sinks = make_sinks(sample_rate_hz=sample_rate_hz)
    recording = read_all(FileSource(str(path), BOTH, sinks, "max"), sinks)
    assert recording.present.sum() == pytest.approx(3 * sample_rate_hz, abs=3)
    for click_s in clicks_s:
        around = slice(round((click_s - 0.1) * sample_rate_hz), round((click_s + 0.1) * sample_rate_hz))
        assert around.start + int(recording.samples[around].argmax()) == pytest.approx(click_s * sample_rate_hz, abs=1)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not there")
def test_real_clips_decode_without_errors_gaps_or_drops() -> None:
    clips = (
        sorted((SHARED / "javased" / "av").glob("*.mp4"))[::96]
        + sorted((SHARED / "mosi400" / "clips").glob("*.mp4"))[::150]
    )
    assert clips
    for clip in clips:
        sinks = make_sinks()
        source = FileSource(str(clip), BOTH, sinks, "max")
        assert source.modalities == BOTH, clip
        recording = read_all(source, sinks)
        assert source.report().counts["decode_errors"] == 0, clip
        heard = np.flatnonzero(recording.present)
        assert recording.present[heard[0] : heard[-1]].all(), clip
        seen = np.flatnonzero(recording.valid)
        assert recording.valid[seen[0] : seen[-1]].mean() > 0.98, clip
        for counts in (sinks.rings.vision.counts(), sinks.rings.acoustic.counts()):
            assert counts.dropped["overflow"] == 0, clip
            assert counts.received == counts.used + sum(counts.dropped.values()) + counts.held, clip


def is_open(path: Path) -> bool:
    """Whether this process holds the file."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                return True
    return False


def test_a_file_that_is_closed_before_it_was_started_is_let_go(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", MediaSpec(seconds=1))
    source = FileSource(str(path), BOTH, make_sinks(), "max")
    assert is_open(path)
    source.close()
    assert not is_open(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_container_says_when_each_of_its_streams_ends(tmp_path: Path, suffix: str) -> None:
    path = write_media(tmp_path / f"a.{suffix}", MediaSpec(seconds=3, audio_seconds=2))
    with open_file(str(path), BOTH, 16_000, lambda _: None) as reader:
        ends_s = {modality: (reader.ends_ns[modality] or 0) / NS_PER_S for modality in BOTH}
    assert ends_s == {"vision": pytest.approx(3.0, abs=0.05), "acoustic": pytest.approx(2.0, abs=0.1)}


def test_of_two_pictures_the_one_is_taken_that_ffmpeg_would_play(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in (32, 128, 64):
            stream = container.add_stream("libx264", rate=15, options={"preset": "ultrafast"})
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default if size == 128 else Disposition(0)
            streams.append(stream)
        for number in range(5):
            for stream in streams:
                picture = av.VideoFrame.from_ndarray(np.zeros((stream.height, stream.width, 3), np.uint8))
                picture.pts = number
                picture.time_base = Fraction(1, 15)
                container.mux(stream.encode(picture))
        for stream in streams:
            container.mux(stream.encode(None))
    with MediaReader(av.open(str(path)), ("vision",), 16_000, lambda _: None) as reader:
        item = next(iter(reader.items()))
    assert isinstance(item, VideoItem)
    assert item.rgb().shape == (128, 128, 3)
