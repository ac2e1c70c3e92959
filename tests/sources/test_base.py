"""What all sources share: back-off, the thread's edge, and the factory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clcr_stream.clock import FOREVER_NS
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.sources.base import SourceIdentity, SourceSpec
from clcr_stream.sources.choose import check_spec, open_sources
from clcr_stream.sources.threaded import ThreadedSource, backoff_s
from clcr_stream.window.ring import AudioRing, Rings, VisionRing
from clcr_stream.window.transcript import Transcript
from media import ORIGIN_NS, MediaSpec, eventually, make_sinks, write_media


class Exploding(ThreadedSource):
    def __init__(self, error: BaseException, lossless: bool = True) -> None:
        super().__init__(SourceIdentity("bomb", "test", ("vision",), lossless=lossless), make_sinks(), {})
        self._error = error

    def run(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad\nthing"),
        SourceError("rtsp://me:pw@host/ died"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
)
def test_whatever_is_raised_in_the_thread_ends_the_source_as_failed(error: BaseException) -> None:
    source = Exploding(error)
    source.start()
    assert eventually(lambda: source.finished)
    report = source.report()
    assert report.state == "failed"
    assert "\n" not in report.reason
    assert "pw" not in report.reason
    assert source.watermark_ns == FOREVER_NS
    source.close()
    assert source.report().state == "failed"


class Noting(ThreadedSource):
    def __init__(self) -> None:
        super().__init__(SourceIdentity("clip", "test", ("vision",), lossless=True), make_sinks(), {})

    def run(self) -> None:
        self.note("faces are found: give --rotate 90")
        self.came("vision")


def test_what_was_worth_saying_of_a_source_while_it_was_live_is_said_at_its_end_too() -> None:
    source = Noting()
    source.start()
    assert eventually(lambda: source.finished)
    assert source.report().reason == "end of input; faces are found: give --rotate 90"
    source.close()


def test_back_off_doubles_up_to_its_limit_and_jitters() -> None:
    assert [backoff_s(attempt, 0.0) for attempt in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff_s(1000, 0.0) == 5.0 and backoff_s(1000, 1.0) == 3.0
    assert backoff_s(0, 1.0) == 0.25 < backoff_s(3, 1.0) < backoff_s(3, 0.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SourceSpec(camera="webcam"), "give an index"),
        (SourceSpec(microphone="mike"), "give default, an index"),
        (SourceSpec(input="exec:/bin/sh"), "no such file"),
        (SourceSpec(input="concat://a|b"), "scheme concat:// is not read"),
        (SourceSpec(input="gopher://user:pw@host/"), "scheme gopher:// is not read"),
        (SourceSpec(input="test://?sekonds=3"), "sekonds=3 is not known; allowed are seconds"),
        (SourceSpec(input="test://?emotion=bored"), "emotion=neutral|sad"),
        (SourceSpec(camera="v4l2:../etc/passwd"), "not a device"),
        (SourceSpec(camera="by-id:"), "without a name"),
        (SourceSpec(transcript="vosk://x"), "not available; give auto, none"),
        (SourceSpec(transcript="zmq://nowhere"), "not an endpoint"),
        (SourceSpec(transcript="gone.srt"), "No such file"),
    ],
)
def test_what_can_never_work_is_refused_in_one_line(spec: SourceSpec, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_sources(spec, make_sinks())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_an_input_and_a_camera_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="leave out --camera"):
        open_sources(SourceSpec(camera="0", input="test://"), make_sinks())


def test_an_input_is_one_source_for_both_modalities(tmp_path: Path) -> None:
    path = str(write_media(tmp_path / "a.mp4", MediaSpec(seconds=0.5)))
    for spec in (SourceSpec(input=path), SourceSpec(camera=path, microphone=path)):
        (source,) = open_sources(spec, make_sinks())
        assert source.modalities == ("vision", "acoustic")
        assert source.lossless
        source.close()


def test_a_file_may_stand_in_for_the_camera_alone(tmp_path: Path) -> None:
    path = str(write_media(tmp_path / "a.mp4", MediaSpec(seconds=0.5)))
    camera, microphone = open_sources(SourceSpec(camera=path, microphone="default"), make_sinks())
    assert camera.modalities == ("vision",)
    assert microphone.modalities == ("acoustic",)
    assert (camera.lossless, microphone.lossless) == (True, False)
    camera.close()


def test_none_everywhere_opens_nothing() -> None:
    assert open_sources(SourceSpec(), make_sinks()) == []


def test_a_given_transcript_replaces_the_one_of_the_test_source(tmp_path: Path) -> None:
    words = tmp_path / "a.jsonl"
    words.write_text('{"start_s": 0, "end_s": 1, "text": "hello"}\n')
    (alone,) = open_sources(SourceSpec(input="test://"), make_sinks())
    assert alone.modalities == ("vision", "acoustic", "language")
    test, transcript = open_sources(SourceSpec(input="test://", transcript=str(words)), make_sinks())
    assert test.modalities == ("vision", "acoustic")
    assert transcript.modalities == ("language",)


def test_a_live_url_is_opened_in_its_thread_not_at_once() -> None:
    (source,) = open_sources(SourceSpec(input="rtsp://user:secret@192.0.2.1/live"), make_sinks())
    assert not source.lossless
    assert source.report().state == "starting"
    assert "secret" not in source.name
    source.close()


def test_importing_the_sources_loads_no_heavy_library() -> None:
    program = (
        "import sys, clcr_stream.sources.choose, clcr_stream.sources.camera, clcr_stream.sources.microphone\n"
        "import clcr_stream.sources.network, clcr_stream.sources.synthetic.source, clcr_stream.sources.transcripts\n"
        "print(sorted({'cv2', 'av', 'pyaudio', 'zmq', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2] / "runtime"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_origin_is_the_rings_origin() -> None:
    assert make_sinks().origin_ns == ORIGIN_NS


@pytest.mark.parametrize(("seconds", "lead_ns"), [(30.0, 2_500_000_000), (0.75, 500_000_000)])
def test_a_lossless_source_runs_ahead_by_the_smaller_ring_less_its_margin_or_half_a_second(
    seconds: float, lead_ns: int
) -> None:
    """45 slots at 15 Hz are 3 s of pictures."""
    sinks = make_sinks()
    grid = sinks.grid
    rings = Rings(grid, VisionRing(grid, 8, slots=45), AudioRing(grid, seconds), Transcript())
    assert replace(sinks, rings=rings).lead_ns == lead_ns


@pytest.mark.parametrize("lossless", [True, False])
def test_a_live_source_is_always_filled_and_a_lossless_one_up_to_its_watermark(lossless: bool) -> None:
    source = Exploding(ValueError("never run"), lossless)
    assert source.filled(source.watermark_ns)
    assert source.filled(source.watermark_ns + 1) is not lossless


@pytest.mark.parametrize(
    ("flag", "spec"),
    [
        ("input", SourceSpec(input="{path}")),
        ("input", SourceSpec(input="file://{path}")),
        ("camera", SourceSpec(camera="{path}")),
        ("mic", SourceSpec(microphone="file://{path}")),
        ("camera", SourceSpec(camera="{path}", microphone="{path}")),
    ],
)
def test_a_file_that_can_never_work_is_refused_before_anything_slow(
    tmp_path: Path, flag: str, spec: SourceSpec
) -> None:
    missing = str(tmp_path / "missing.mp4")
    fields = {name: getattr(spec, name) for name in ("input", "camera", "microphone")}
    filled = replace(spec, **{name: text and text.replace("{path}", missing) for name, text in fields.items()})
    with pytest.raises(SourceError, match=rf"^{flag} .*missing\.mp4: "):
        check_spec(filled)


def test_what_is_no_file_is_not_looked_at_before_the_start() -> None:
    check_spec(SourceSpec(camera="0", microphone="default"))
    check_spec(SourceSpec(input="test://?seconds=1"))
    check_spec(SourceSpec(input="rtsp://192.0.2.1/live"))
