"""Cameras through GStreamer: `gst:PIPELINE` and the CSI cameras of a Jetson or a Raspberry Pi, `csi://0`.

gst-launch-1.0 runs the pipeline in a process of its own and writes pictures as Matroska into a pipe: any installation
of GStreamer will do, whatever OpenCV and PyAV were built with.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from clcr_stream.errors import SourceError, one_line, redact
from clcr_stream.processes import end_with
from clcr_stream.sources.base import Flag
from clcr_stream.sources.camera_mode import CameraMode, split_mode
from clcr_stream.sources.media import Item, MediaReader
from clcr_stream.sources.urls import OPEN_TIMEOUT_S, READ_TIMEOUT_S

LAUNCH, INSPECT = "gst-launch-1.0", "gst-inspect-1.0"
PACKAGES = "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
ALLOWED = "gst:PIPELINE as gst-launch-1.0 takes it, csi://0 or csi://0?size=1280x720&rate=30"
SIZE, RATE_HZ = (1280, 720), 30  # of a CSI camera: what every sensor of the common ones offers
_CSI = re.compile(r"csi://(\d{1,2})")
_LEAVE_S = 1.0
_LAST_BYTES = 65536
# The newest picture is sent, however slow the reader is; I420 costs FFmpeg nothing to read.
_TAIL = (
    *("!", "videoconvert", "!", "video/x-raw,format=I420"),
    *("!", "queue", "leaky=downstream", "max-size-buffers=2"),
    *("!", "matroskamux", "streamable=true", "!", "fdsink", "sync=false"),
)


def is_pipeline(text: str) -> bool:
    """True when `text` names a camera through GStreamer."""
    return text.startswith(("gst:", "csi:"))


def check_pipeline(text: str, flag: Flag) -> None:
    """SourceError for what can never work here; opens no camera."""
    if flag != "camera":
        raise SourceError(f"{flag} {redact(text)}: a pipeline brings pictures only; give it as --camera")
    _elements(text)


def open_pipeline(text: str, on_error: Callable[[str], None], now_ns: Callable[[], int]) -> PipelineReader:
    """Start it and wait for its first picture; SourceError with GStreamer's reason. For the decoder's process."""
    import av

    running = _Running(_elements(text))
    try:
        container = av.open(
            f"pipe:{running.pictures}",
            format="matroska",
            options={"fflags": "nobuffer", "analyzeduration": "0", "probesize": "32", "protocol_whitelist": "pipe"},
            timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
        )
    except av.error.ExitError:
        running.close()
        raise SourceError(f"no picture within {OPEN_TIMEOUT_S:.0f} s", "timed_out") from None
    except (OSError, av.error.FFmpegError, ValueError):
        raise SourceError(running.close() or "the pipeline ended without a picture", "crashed") from None
    return PipelineReader(container, running, on_error, now_ns)


class PipelineReader(MediaReader):
    """The pictures of a running pipeline, which ends with it."""

    def __init__(
        self, container: Any, running: _Running, on_error: Callable[[str], None], now_ns: Callable[[], int]
    ) -> None:
        super().__init__(container, ("vision",), 16_000, on_error, now_ns)  # the rate is of sound
        self._running = running

    def items(self, from_ns: int = 0) -> Iterator[Item]:
        """Pictures until the pipeline ends; SourceError with its reason when that was no end of its own."""
        yield from super().items(from_ns)
        reason = self._running.close()
        if reason:
            raise SourceError(reason, "crashed")

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._running.close()


class _Running:
    """A pipeline's process; `pictures` is the end of the pipe to read from. It ends with the thread that made it."""

    def __init__(self, elements: list[str]) -> None:
        self.pictures, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [LAUNCH, "-q", *elements, *_TAIL, f"fd={theirs}"],
                pass_fds=(theirs,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                preexec_fn=end_with(os.getpid()),
            )
        except OSError as error:
            os.close(self.pictures)
            raise SourceError(f"{LAUNCH} cannot be started ({error.strerror})", "crashed") from None
        finally:
            os.close(theirs)
        self._closed = False

    def close(self) -> str:
        """End it; what went wrong, in one line, "" when it had ended well or was still running. Idempotent."""
        if self._closed:
            return ""
        self._closed = True
        os.close(self.pictures)
        printed = self._process.stderr
        assert printed is not None
        try:
            code = self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            code = 0
            self._process.kill()
            self._process.wait()
        with printed:
            os.set_blocking(printed.fileno(), False)
            text = (printed.read(_LAST_BYTES) or b"").decode(errors="replace")
        return _complaint(text) or f"{LAUNCH} ended with {code}" if code else ""


def _complaint(text: str) -> str:
    """The first thing that gst-launch-1.0 complains of: `ERROR: from element /a/b: Why.` or of a pipeline."""
    found = re.search(r"(?:ERROR|WARNING): (?:from element \S*?([^/\s:]+): )?(.+)", text)
    if found is None:
        return ""
    element, why = found.groups()
    return one_line(f"{element}: {why}" if element else why)


def _parse(text: str) -> tuple[int, CameraMode] | list[str]:
    """The number and mode of a CSI camera, or the elements of a pipeline. SourceError."""
    if text.startswith("csi:"):
        name, mode = split_mode(text)
        found = _CSI.fullmatch(name)
        if found is None or mode.fourcc is not None:
            raise SourceError(f"camera {text}: give {ALLOWED}")
        return int(found[1]), mode
    try:
        elements = shlex.split(text.removeprefix("gst:"))
    except ValueError as error:
        raise SourceError(f"camera {redact(text)}: {error}; give {ALLOWED}") from None
    # As it is written for OpenCV: what ends a pipeline there is not wanted here.
    if "!" in elements:
        last = len(elements) - 1 - elements[::-1].index("!")
        if elements[last + 1 : last + 2] == ["appsink"]:
            elements = elements[:last]
    if not elements or elements[-1] == "!":
        raise SourceError(f"camera '{redact(text)}' names no element; give {ALLOWED}")
    return elements


def _elements(text: str) -> list[str]:
    """What gst-launch-1.0 is to run before _TAIL. SourceError for what nothing here can run or read."""
    parsed = _parse(text)
    if shutil.which(LAUNCH) is None:
        raise SourceError(
            f"camera {redact(text)}: there is no {LAUNCH} here: sudo apt-get install {PACKAGES}", "not_installed"
        )
    if isinstance(parsed, list):
        return parsed
    number, mode = parsed
    width, height = mode.size or SIZE
    rate_hz = mode.rate_hz or RATE_HZ
    size = f"width={width},height={height},framerate={rate_hz}/1"
    if _has_element("nvarguscamerasrc"):  # a Jetson; its pictures lie in the memory of its converter
        camera = ["nvarguscamerasrc", f"sensor-id={number}", "!", f"video/x-raw(memory:NVMM),{size}"]
        return [*camera, "!", "nvvidconv", "!", "video/x-raw,format=I420"]
    if _has_element("libcamerasrc"):  # a Raspberry Pi; it names its cameras and does not number them
        if number:
            raise SourceError(f"camera {text}: libcamera has no numbers; give gst:libcamerasrc camera-name=NAME")
        return ["libcamerasrc", "!", f"video/x-raw,{size}"]
    raise SourceError(
        f"camera {text}: GStreamer has neither nvarguscamerasrc (Jetson) nor libcamerasrc (Raspberry Pi) here; "
        "give gst:PIPELINE",
        "not_installed",
    )


def _has_element(name: str) -> bool:
    try:
        return subprocess.run([INSPECT, "--exists", name], capture_output=True, timeout=OPEN_TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
