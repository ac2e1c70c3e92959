"""Where a publisher may bind: which endpoints are safe, who holds one already, and the CURVE keys for other hosts.

Defaults reach nobody but the user: an ipc socket in a 0700 folder. Loopback TCP when asked (any user of the machine can
read it); other addresses only with CURVE keys and an allow-list.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

import zmq

from clcr_stream.errors import PublishError

_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its final zero
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(\d{1,5}|\*)")


@dataclass(frozen=True)
class CurveServer:
    """Keys for an endpoint that leaves the host: our secret certificate, and a folder of the readers' public ones.

    The folder is read at each handshake: a `.key` file added or removed counts from the next connection on.
    """

    secret_file: Path
    allowed_folder: Path


def checked_endpoint(text: str, curve: CurveServer | None) -> str:
    """The endpoint to bind. Raises PublishError for a form that is not understood or not safe."""
    if text.startswith("ipc:///"):
        if len(os.fsencode(text[len("ipc://") :])) > _SOCKET_PATH_BYTES:
            raise PublishError(f"{text}: path is over {_SOCKET_PATH_BYTES} bytes; pass a shorter one with --bind")
        return text
    match = _TCP.fullmatch(text)
    if match is None or (match[2] != "*" and int(match[2]) > 65535):
        raise PublishError(f"--bind {text}: not understood; allowed are ipc:///PATH and tcp://ADDRESS:PORT")
    host = "127.0.0.1" if match[1] == "localhost" else match[1]
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback and curve is None:
        raise PublishError(
            f"--bind {text}: off loopback only with CURVE keys and an allow-list; give --curve-secret FILE and "
            f"--curve-clients DIR, made as docs/wire.md says, or use tcp://127.0.0.1:{match[2]}"
        )
    return f"tcp://{host}:{match[2]}"


def claim(path: Path, stream: str) -> int:
    """The descriptor of a held lock beside the socket: binding an ipc path in use would quietly take it over."""
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PublishError(f"{lock}: cannot be opened: {error.strerror}; pass another --bind") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise PublishError(
            f"ipc://{path}: in use by process {holder} (stream {stream!r}); stop it or pass another --stream"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def bind(xpub: zmq.Socket[bytes], wanted: str) -> str:
    """Bind and return the endpoint with its real port."""
    try:
        xpub.bind(wanted)
        bound = xpub.getsockopt_string(zmq.LAST_ENDPOINT)
        if bound.startswith("ipc://"):
            Path(bound[len("ipc://") :]).chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        raise PublishError(
            f"{wanted}: cannot be bound: {os.strerror(error.errno or 0)}; stop what holds it or pass another --bind"
        ) from None
    return bound


def secret_key(path: Path) -> bytes:
    """The secret key of a certificate that only its owner can read, as z85 text; PublishError with what to run."""
    from zmq.auth import load_certificate

    try:
        if path.stat().st_mode & 0o077:
            raise PublishError(f"{path}: a secret key that others can read; run `chmod 600 {path}`")
        _, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: not a CURVE certificate: {error}; make one as docs/wire.md says") from None
    if secret is None:
        raise PublishError(f"{path}: holds no secret key; give the .key_secret file")
    return secret


def allowed_keys(folder: Path) -> set[bytes]:
    """The 32-byte public keys of the allow-list; a file that is not a certificate admits nobody."""
    from zmq.auth import load_certificate
    from zmq.utils import z85

    keys = set()
    for path in folder.glob("*.key"):
        with contextlib.suppress(OSError, ValueError):
            keys.add(z85.decode(load_certificate(path)[0]))
    return keys


def check_curve(curve: CurveServer) -> None:
    """PublishError when the allow-list is not a folder; an empty one is allowed, as it may be filled at any time."""
    if not curve.allowed_folder.is_dir():
        raise PublishError(
            f"{curve.allowed_folder}: not a folder; --curve-clients takes a folder of .key files, as docs/wire.md says"
        )
