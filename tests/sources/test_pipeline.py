"""gst: and csi:// with a real gst-launch-1.0, through the decoder and the command; what becomes of a pipeline's end."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from clcr_stream.clock import MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.sources import pipeline
from clcr_stream.sources.base import SourceSpec
from clcr_stream.sources.choose import check_spec, open_sources
from clcr_stream.sources.pipeline import open_pipeline
from crowd import slowdown
from faulty import expect_state, seconds, source, watched, write_pictures
from media import eventually, make_sinks

with_gst = pytest.mark.skipif(
    shutil.which(pipeline.LAUNCH) is None, reason="gst-launch-1.0 is not installed: apt-get install gstreamer1.0-tools"
)
Record = Callable[[str, object], None]


def open_now(text: str) -> pipeline.PipelineReader:
    return open_pipeline(text, lambda _: None, MonotonicClock().now_ns)


def pipelines(folder: Path) -> list[int]:
    """Processes of gst-launch-1.0 that read from this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(pipeline.LAUNCH.encode()) and str(folder).encode() in command:
                found.append(int(entry.name))
    return found


@with_gst
def test_a_face_by_a_pipeline_is_seen_and_one_that_hangs_or_dies_is_told_and_begun_again(
    tmp_path: Path, record_property: Record
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    camera = (
        f"gst:multifilesrc location={pictures}/%03d.jpg loop=true caps=image/jpeg,framerate=15/1 "
        "! jpegdec ! identity sync=true ! videoscale ! video/x-raw,width=320,height=240 ! appsink drop=true"
    )
    with watched(tmp_path, "--camera", camera, "--mic", "none") as session:
        live = expect_state(session, "live", 30)
        seen = session.expect(lambda one: one["modalities"]["vision"]["coverage"] > 0.4, 30)
        (first,) = pipelines(pictures)
        hung_ns = session.now_ns()
        os.kill(first, signal.SIGSTOP)
        told_s = seconds(expect_state(session, "stale lost", 10, hung_ns), hung_ns)
        lost = expect_state(session, "lost reconnecting", 20, hung_ns)
        expect_state(session, "live", 20, lost.arrived_ns)
        assert eventually(lambda: first not in pipelines(pictures), 10), "the one that hangs is ended"
        (second,) = pipelines(pictures)
        killed_ns = session.now_ns()
        os.kill(second, signal.SIGKILL)
        gone = expect_state(session, "lost reconnecting", 10, killed_ns)
        back_s = seconds(expect_state(session, "live", 20, gone.arrived_ns), killed_ns)
        code, _ = session.terminate()
    assert code == 0, session.stderr()
    assert source(live.message)["kind"] == "camera"
    assert seen.message["face"] is not None
    assert "trying again" in source(gone.message)["reason"]
    assert eventually(lambda: not pipelines(pictures), 10), "nothing outlives the session"
    record_property("pipeline", {"told_s": told_s, "back_s": back_s})
    assert told_s <= 1.0 * slowdown() and back_s <= 3.0 * slowdown()


def test_a_pipeline_that_hangs_does_not_outlive_a_session_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / pipeline.LAUNCH
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    with watched(tmp_path, "--camera", "gst:videotestsrc", "--mic", "none", extra=path) as session:
        found: list[psutil.Process] = []

        def hangs() -> bool:
            children = psutil.Process(session.process.pid).children(recursive=True)
            found[:] = [child for child in children if child.name() == "sleep"]
            return bool(found)

        assert eventually(hangs, 30)
        session.process.kill()
        session.process.wait()
    (last,) = found
    try:
        assert eventually(lambda: not last.is_running() or last.status() == psutil.STATUS_ZOMBIE, 10)
    finally:
        if last.is_running():
            last.kill()


@with_gst
def test_pictures_are_what_the_pipeline_made_in_its_own_time() -> None:
    with open_now(
        "gst:videotestsrc pattern=solid-color foreground-color=0xffc81e3c is-live=true num-buffers=10 "
        "! video/x-raw,width=64,height=48,framerate=10/1"
    ) as reader:
        items = list(itertools.islice(reader.items(), 10))
    steps = np.diff([item.time_ns for item in items]) / 1e8  # type: ignore[union-attr]
    assert len(steps) >= 1, "the oldest pictures may be left out, as those that nobody took in time"
    np.testing.assert_allclose(steps, np.round(steps), atol=0.011)
    picture = items[-1].rgb()  # type: ignore[union-attr]
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture.reshape(-1, 3).astype(int) - [0xC8, 0x1E, 0x3C]).max() <= 12, "colours through I420"


@with_gst
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gst:nosuch ! videoflip", 'no element "nosuch"'),
        ("gst:v4l2src device=/dev/video99", "v4l2src0: Cannot identify device"),
        ("gst:videotestsrc num-buffers=0", "ended without a picture"),
        ("gst:fakesrc num-buffers=3", "fakesrc0: Internal data stream error"),
    ],
)
def test_why_a_pipeline_brings_nothing(text: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_now(text)
    assert reason in str(caught.value) and "\n" not in str(caught.value) and caught.value.code == "crashed"


@with_gst
def test_a_pipeline_that_fails_in_the_middle_says_why() -> None:
    source = "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! identity error-after=45"
    with open_now(f"gst:{source}") as reader, pytest.raises(SourceError, match="identity0: Failed after iterations"):
        list(reader.items())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SourceSpec(camera="gst:"), "names no element"),
        (SourceSpec(camera="gst:videotestsrc !"), "names no element"),
        (SourceSpec(camera="gst:filesrc location='a"), "No closing quotation"),
        (SourceSpec(camera="csi://0"), "neither nvarguscamerasrc"),
        (SourceSpec(camera="csi://"), "csi://0?size=1280x720&rate=30"),
        (SourceSpec(camera="csi:0"), "csi://0?size=1280x720&rate=30"),
        (SourceSpec(camera="csi://0?format=mjpg"), "csi://0?size=1280x720&rate=30"),
        (SourceSpec(camera="csi://0?speed=3"), "not a mode"),
        (SourceSpec(microphone="gst:alsasrc"), "pictures only"),
        (SourceSpec(input="gst:videotestsrc"), "pictures only"),
    ],
)
def test_what_can_never_work_is_refused_before_anything_starts(
    spec: SourceSpec, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/gst-launch-1.0")
    for refuse in (check_spec, lambda one: open_sources(one, make_sinks())):
        with pytest.raises(SourceError) as caught:
            refuse(spec)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_gstreamer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for text in ("gst:videotestsrc", "csi://0"):
        with pytest.raises(SourceError, match="sudo apt-get install gstreamer") as caught:
            check_spec(SourceSpec(camera=text))
        assert caught.value.code == "not_installed"


@pytest.mark.parametrize(
    ("text", "installed", "expected"),
    [
        (
            "csi://1",
            "nvarguscamerasrc libcamerasrc",
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 "
            "! nvvidconv ! video/x-raw,format=I420",
        ),
        (
            "csi://0?size=1920x1080&rate=60",
            "libcamerasrc",
            "libcamerasrc ! video/x-raw,width=1920,height=1080,framerate=60/1",
        ),
    ],
)
def test_a_csi_camera_is_a_pipeline_of_its_machine(text: str, installed: str, expected: str, tmp_path: Path) -> None:
    """With programs of GStreamer's names that say which elements there are, and what they were asked to run."""
    for name, lines in {
        pipeline.INSPECT: f'case " {installed} " in *" $2 "*) exit 0;; *) exit 1;; esac',
        pipeline.LAUNCH: f'echo "$@" > {tmp_path}/asked; echo "ERROR: from element /a/b: As told." >&2; exit 1',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(SourceError, match="b: As told"):
            open_now(text)
        if "libcamerasrc" == installed:
            with pytest.raises(SourceError, match="camera-name=NAME"):
                open_now("csi://1")
    assert (tmp_path / "asked").read_text().startswith(f"-q {expected} ! videoconvert ! ")
