"""A local camera through OpenCV's V4L2: drained continuously, stamped at grab, reopened for as long as it takes."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceCode, SourceError
from clcr_stream.sources.base import Sinks, SourceIdentity
from clcr_stream.sources.camera_mode import split_mode
from clcr_stream.sources.capture_clock import CaptureClock
from clcr_stream.sources.frames import FrameFeeder
from clcr_stream.sources.threaded import ThreadedSource, backoff_s
from clcr_stream.sources.v4l2 import BY_ID, UNKNOWN, Offer, ask_driver, best_mode

ABSENT_PAUSE_NS = NS_PER_S
HANGS_S = 4  # without a picture it is opened again, which some need; cameras begin sooner
POS_MSEC = 0  # cv2.CAP_PROP_POS_MSEC: of V4L2 the stamp of the last buffer
ALLOWED = (
    "an index (0), /dev/videoN, v4l2:/dev/videoN, by-id:NAME (each with a mode, 0?size=1280x720&rate=30&format=mjpg), "
    "csi://0, gst:PIPELINE, screen://, a URL, a file, test:// or none"
)


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def isOpened(self) -> bool: ...
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def release(self) -> None: ...
    def get(self, prop: int, /) -> float: ...
    def set(self, prop: int, value: float, /) -> bool: ...


def open_capture(device: str) -> Capture:
    """cv2.VideoCapture on exactly this device path, through V4L2 and nothing else."""
    # OpenCV's own limit, 10 s, has no other switch; it reads this once, with the first picture.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(HANGS_S))
    import cv2

    capture: Capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    return capture


def is_camera(text: str) -> bool:
    """True when `text` names a local camera, with or without a mode."""
    text = text.partition("?")[0]
    return text.isdecimal() or text.startswith(("/dev/", "v4l2:", "by-id:"))


def resolve_device(text: str, by_id: Path = BY_ID) -> str | None:
    """The device path that `text` names now, None when it is not there; SourceError when it can never be one."""
    if text.isdecimal():
        path = Path(f"/dev/video{int(text)}")
    elif text.startswith("by-id:"):
        return _resolve_by_id(text.removeprefix("by-id:"), by_id)
    else:
        path = Path(text.removeprefix("v4l2:"))
        if re.fullmatch(r"/dev/[A-Za-z0-9._:/-]+", str(path)) is None or ".." in path.parts:
            raise SourceError(f"camera {text}: not a device; give {ALLOWED}")
    return str(path) if path.exists() else None


def _resolve_by_id(name: str, by_id: Path) -> str | None:
    """An exact name, else the one camera whose name holds `name` (index0 is the picture, others are metadata)."""
    if not name:
        raise SourceError(f"camera by-id: without a name; `ls {by_id}` lists them")
    names = sorted(entry.name for entry in by_id.iterdir()) if by_id.is_dir() else []
    if name in names:
        return str((by_id / name).resolve())
    matches = [entry for entry in names if name in entry and ("-index" not in entry or "index0" in entry)]
    return str((by_id / matches[0]).resolve()) if len(matches) == 1 else None


class CameraSource(ThreadedSource):
    """One camera in the mode that suits the model best, or the one behind its name.

    Absent: it waits and looks every second. The one that was opened first is taken again, under whatever number,
    and never another one in its place.
    """

    def __init__(
        self,
        device: str,
        sinks: Sinks,
        opener: Callable[[str], Capture] = open_capture,
        resolve: Callable[[str], str | None] = resolve_device,
        ask: Callable[[str], Offer] = ask_driver,
    ) -> None:
        name, self._mode = split_mode(device)
        resolve(name)  # a name that can never be a camera is an error now, not a wait
        counts = {"frames": 0, "bad_frames": 0, "frozen_frames": 0, "reopened": 0}
        super().__init__(SourceIdentity(device, "camera", ("vision",)), sinks, counts)
        self._device, self._opener, self._resolve, self._ask = name, opener, resolve, ask
        self._refused = ""
        self._known = UNKNOWN  # which camera it is, from the first opening on
        self._feeder = FrameFeeder(sinks, live=True)
        self._opened = False  # at least once
        self._capture_clock = CaptureClock(sinks.patience_ns, host_stamps=True)
        self._random = random.Random()

    def run(self) -> None:
        attempt = 0
        while not self.stop.is_set():
            self.opening()
            try:
                path, offer = self._find()
                capture = self._open(path, offer)
            except SourceError as error:
                reason = f"{error}; looking every second, `clcr-stream devices` lists cameras"
                self._pause(reason, error.code, ABSENT_PAUSE_NS)
                continue
            if self._known == UNKNOWN:
                self._known = offer.identity
            try:
                best_mode(offer.modes, self._mode, self.sinks.grid.frame_rate_hz).apply(capture)
                self._refused = self._mode.refused(capture)
                grabbed = self._drain(capture)
            finally:
                capture.release()
            attempt = 0 if grabbed else attempt + 1
            pause_ns = int(backoff_s(attempt, self._random.random()) * NS_PER_S)
            self._pause("the camera stopped; opening it again", "ended", pause_ns)

    def _find(self) -> tuple[str, Offer]:
        """Where the camera is now and what it offers; SourceError when it is not there or is another one."""
        known, problem = self._known, ""
        linked = self._resolve(f"by-id:{known.link}") if known.link else None
        for path in dict.fromkeys((self._resolve(self._device), linked)):
            if path is None:
                continue
            offer = self._ask(path)  # before it is opened: some drivers allow one opener only
            if known == UNKNOWN or known.same(offer.identity, link_moved=linked not in (None, path)):
                return path, offer
            problem = problem or f"{path} is now {offer.identity} and not {known}"
        raise SourceError(problem or "no such camera", "no_device")

    def _open(self, path: str, offer: Offer) -> Capture:
        capture = self._opener(path)
        if capture.isOpened():
            return capture
        capture.release()
        if offer.why_not:
            raise SourceError(f"{path} {offer.why_not}", "not_media")
        # One that opened for us, told its modes and does not give pictures has given them to somebody else.
        code = offer.refused or ("in_use" if offer.modes else "")
        raise SourceError(f"{path} does not open (in use, or not permitted)", code)

    def _pause(self, reason: str, code: SourceCode, pause_ns: int) -> None:
        if self.stop.is_set():
            return
        self.gone(reason, code)
        self.sinks.clock.wait_until(self.sinks.clock.now_ns() + pause_ns, self.stop)

    def _drain(self, capture: Capture) -> bool:
        """Grab until the camera fails; True when it gave at least one frame."""
        self._feeder.reset()
        self._capture_clock.restart()
        if self._opened:
            self.count("reopened")
        grabbed = False
        while not self.stop.is_set() and capture.grab():
            captured_ns = self._captured_ns(capture)
            grabbed = True
            self.count("frames")
            # Only frames that the ring wants are decoded (a MJPEG camera at 60 Hz costs a core otherwise).
            used = self._feeder.offer(captured_ns, lambda: self._picture(capture))
            frozen = self._feeder.condition == "frozen"
            if used or frozen:
                self.set_counts(frozen_frames=self._feeder.frozen_frames)
                self._opened = True
                self.note(self._feeder.hint or self._refused)
                self.set_timing(self._capture_clock.timing())
                self.came("vision", self._feeder.condition)
        return grabbed

    def _captured_ns(self, capture: Capture) -> int:
        """Of the grabbed frame: its buffer's stamp where the driver gives one, else now."""
        arrived_ns = self.sinks.clock.now_ns()
        stamp_ms = capture.get(POS_MSEC)
        return self._capture_clock.place(int(stamp_ms * NS_PER_MS), arrived_ns) if stamp_ms > 0 else arrived_ns

    def _picture(self, capture: Capture) -> NDArray[np.uint8] | None:
        """The grabbed frame as (height, width, 3) RGB; None when it is unusable."""
        import cv2

        done, bgr = capture.retrieve()
        if not done or not isinstance(bgr, np.ndarray) or bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
            self.count("bad_frames")
            return None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
