"""A screen of X11 as a live source: `screen://[DISPLAY][?region=X,Y,W,H]`, grabbed by FFmpeg in a decoder's process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clcr_stream.errors import SourceError, one_line
from clcr_stream.sources.base import Flag
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.media import MediaReader

SCHEME = "screen://"
RATE_HZ = 30  # twice the grid's, so that no slot is left empty by the two running apart
_TEXT = re.compile(r"screen://(?P<display>[^/?#]*)(?:\?region=(?P<region>\d{1,5},\d{1,5},\d{1,5},\d{1,5}))?")
_DISPLAY = re.compile(r"[A-Za-z0-9._-]*:\d{1,5}(?:\.\d{1,3})?")
_ALLOWED = "screen://, screen://:0, screen://:0.0?region=LEFT,TOP,WIDTH,HEIGHT (pixels)"


@dataclass(frozen=True)
class Screen:
    """A display as X11 names it, and the part of it in pixels (left, top, width, height), None for all of it."""

    display: str
    region: tuple[int, int, int, int] | None = None

    def options(self) -> dict[str, str]:
        """For FFmpeg's x11grab."""
        # Drawing the pointer asks the server where it is. Without that FFmpeg 8 gives the last picture for ever when
        # the server has died: nobody answers, which it takes for no error.
        options = {"framerate": str(RATE_HZ), "draw_mouse": "1"}
        if self.region is not None:
            left, top, width, height = self.region
            options |= {"grab_x": str(left), "grab_y": str(top), "video_size": f"{width}x{height}"}
        return options


def parse_screen(text: str, flag: Flag, environment: Mapping[str, str] = os.environ) -> Screen:
    """The screen that `text` names, the session's own ($DISPLAY) when it names none; SourceError."""
    if flag != "camera":
        raise SourceError(f"{flag} {text}: a screen has pictures only; give --camera {text}")
    match = _TEXT.fullmatch(text)
    if match is None:
        raise SourceError(f"{flag} {text}: give {_ALLOWED}")
    display = match["display"] or environment.get("DISPLAY", "")
    if not display:
        wayland = " (Wayland alone cannot be read)" if environment.get("WAYLAND_DISPLAY") else ""
        raise SourceError(
            f"{flag} {text}: no X display here, $DISPLAY is not set{wayland}; give screen://:0 or the like",
            "no_device",
        )
    if not _DISPLAY.fullmatch(display):
        raise SourceError(f"{flag} {text}: {display} is no X display; give {_ALLOWED}")
    region = match["region"]
    if region is None:
        return Screen(display)
    left, top, width, height = (int(part) for part in region.split(","))
    if min(width, height) < 16:
        raise SourceError(f"{flag} {text}: a region has at least 16 x 16 pixels")
    return Screen(display, (left, top, width, height))


def check_screen(text: str, flag: Flag) -> None:
    """SourceError for what can never work here; asks no display."""
    import av

    parse_screen(text, flag)
    try:
        av.format.ContainerFormat("x11grab", "r")
    except ValueError:
        raise SourceError(
            f"{flag} {text}: this build of PyAV cannot grab screens (no x11grab); "
            "install the wheel: pip install --force-reinstall --only-binary av av",
            "not_installed",
        ) from None


def open_screen(text: str, on_error: Callable[[str], None], now_ns: Callable[[], int]) -> MediaReader:
    """Begin to grab; SourceError when there is no such display, or no such part of it. For the decoder's process."""
    import av

    check_screen(text, "camera")
    screen = parse_screen(text, "camera")
    try:
        container = av.open(screen.display, mode="r", format="x11grab", options=screen.options())
    except ValueError:  # FFmpeg's EINVAL, which PyAV makes one
        raise SourceError(f"{text}: the region does not lie on this display; see xdpyinfo for its size") from None
    except (OSError, av.error.FFmpegError) as error:
        why = one_line(getattr(error, "strerror", None) or str(error))
        raise SourceError(
            f"{text}: no X server at {screen.display} lets this user see it ({why})", code_of(error) or "no_device"
        ) from None
    return MediaReader(container, ("vision",), 16_000, on_error, now_ns)  # the rate is of sound
