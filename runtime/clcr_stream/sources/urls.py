"""Opening URLs through PyAV: what may be opened, for how long it is waited, and why it did not work."""

from __future__ import annotations

import errno
import socket
import urllib.parse
from collections.abc import Callable

from clcr_stream.clock import NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError, redact
from clcr_stream.sources.base import Flag, Modality
from clcr_stream.sources.codes import code_of
from clcr_stream.sources.media import MediaReader, reason_of

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "rtp", "srt")
# A playlist on the network may name more of the network, never a local file.
PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,http,https,httpproxy,tls,udp,tcp,rtp,srtp,srt,crypto"
RECORDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".wav", ".mp3", ".m4a", ".ogg", ".opus", ".flac")
OPEN_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 1.0
RECORDING_READ_S = 10.0  # a recording's server may pause for so long
_host = MonotonicClock()  # as FFmpeg's time-outs


def open_url(
    url: str,
    requested: tuple[Modality, ...],
    rate_hz: int,
    on_error: Callable[[str], None],
    read_timeout_s: float = READ_TIMEOUT_S,
    now_ns: Callable[[], int] | None = None,
) -> MediaReader:
    """Connect; SourceError (without credentials) when nothing usable answers in time. `now_ns` stamps what arrives."""
    import av

    options = {"protocol_whitelist": PROTOCOLS}
    if url.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # no torn frames, and the connection's end is seen
    begun_ns = _host.now_ns()
    try:
        container = av.open(url, mode="r", options=options, timeout=(OPEN_TIMEOUT_S, read_timeout_s))
    except (OSError, av.error.FFmpegError, ValueError) as error:
        cause = _cause(url, error, (_host.now_ns() - begun_ns) / NS_PER_S)
        raise SourceError(redact(_refusal(url, cause)), code_of(cause)) from None
    reader = MediaReader(container, requested, rate_hz, on_error, now_ns)
    if not reader.modalities:
        container.close()
        raise SourceError(redact(f"{url}: sends neither video nor audio"), "not_media")
    return reader


def _cause(url: str, error: Exception, waited_s: float) -> Exception:
    """What FFmpeg means: silence is bad data to it where RTSP is spoken, and an unknown host a fault of input."""
    import av

    if isinstance(error, av.error.InvalidDataError) and url.startswith("rtsp") and waited_s >= OPEN_TIMEOUT_S:
        return TimeoutError(errno.ETIMEDOUT, "")
    if isinstance(error, OSError) and error.errno == errno.EIO:
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(url).hostname or "localhost", None)
        except socket.gaierror as unknown:
            return unknown
        except ValueError:  # no name at all
            pass
    return error


def _refusal(url: str, error: Exception) -> str:
    """Why a URL does not open, as its user would say it."""
    import av

    match error:
        case av.error.ExitError() | TimeoutError():
            return f"{url}: does not answer within {OPEN_TIMEOUT_S:.0f} s"
        case av.error.HTTPUnauthorizedError() if "@" in urllib.parse.urlsplit(url).netloc:
            return f"{url}: does not accept this name and password (401)"
        case av.error.HTTPUnauthorizedError():
            return f"{url}: asks for a name and a password (401); put NAME:PASSWORD@ before its host"
        case av.error.HTTPForbiddenError():
            return f"{url}: refuses this user (403)"
        case av.error.HTTPNotFoundError():
            return f"{url}: has no stream of this path (404)"
        case socket.gaierror():
            return f"{url}: the name of its host is not known here ({reason_of(error)})"
        case av.error.InvalidDataError():
            return f"{url}: sends what is neither video nor audio"
        case _:
            return f"{url}: does not answer ({reason_of(error)})"


def names_recording(url: str) -> bool:
    """True for a URL of http(s) whose path ends as files do; cameras have such ones too, see `open_recording`."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme.lower() in ("http", "https") and parts.path.lower().endswith(RECORDINGS)


class LiveError(SourceError):
    """What answers is no recording but a live stream."""


def open_recording(
    url: str, requested: tuple[Modality, ...], rate_hz: int, on_error: Callable[[str], None], flag: Flag
) -> MediaReader:
    """Connect to a recording; SourceError (without credentials) when it does not answer.

    LiveError for what says neither how many bytes nor how many seconds it has.
    """
    try:
        reader = open_url(url, requested, rate_hz, on_error, RECORDING_READ_S)
    except SourceError as error:
        raise SourceError(f"{flag} {error}", error.code) from None
    if not reader.recorded and not reader.seekable:
        reader.__exit__()
        raise LiveError(f"{flag} {redact(url)}: says neither its bytes nor its seconds, so it is live")
    return reader
