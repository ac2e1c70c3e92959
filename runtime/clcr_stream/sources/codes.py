"""Why an input failed, in a word: by the number of the system's, FFmpeg's or PortAudio's error, never by its text."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from clcr_stream.errors import SourceCode, SourceError


def _ffmpeg(tag: bytes) -> int:
    """FFmpeg's own numbers are four letters; those of HTTP, which RTSP shares, begin with 0xf8."""
    return int.from_bytes(tag, "little")


_NUMBERS: Mapping[SourceCode, tuple[int, ...]] = {
    "unauthorized": (_ffmpeg(b"\xf8401"), _ffmpeg(b"\xf8403")),
    "not_found": (_ffmpeg(b"\xf8404"), errno.ENOENT),
    "client_error": (
        *(_ffmpeg(b"\xf8400"), _ffmpeg(b"\xf8429"), _ffmpeg(b"\xf84XX")),
        errno.EPROTONOSUPPORT,  # RTSP's 461: not over TCP
    ),
    "server_error": (_ffmpeg(b"\xf85XX"),),
    "refused": (errno.ECONNREFUSED,),
    "unreachable": (
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN),
        *(socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_AGAIN, socket.EAI_FAIL),  # the name of a host
    ),
    "timed_out": (errno.ETIMEDOUT, _ffmpeg(b"EXIT")),  # PyAV interrupts FFmpeg
    "ended": (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, _ffmpeg(b"EOF ")),
    "not_media": (_ffmpeg(b"INDA"),),
    "not_installed": (_ffmpeg(b"\xf8PRO"), _ffmpeg(b"\xf8DEM"), _ffmpeg(b"\xf8DEC")),  # not in this build
    "no_device": (errno.ENODEV, errno.ENXIO, -9996),  # the last one is PortAudio's, paInvalidDevice
    "in_use": (errno.EBUSY, -9985),  # paDeviceUnavailable
    "not_permitted": (errno.EACCES, errno.EPERM),
}
_CODES = {number: code for code, numbers in _NUMBERS.items() for number in numbers}


def code_of(error: BaseException) -> SourceCode:
    """Its own code, or that of its number; "" when neither says more than its text."""
    if isinstance(error, SourceError):
        return error.code
    return _CODES.get(getattr(error, "errno", None) or 0, "")
