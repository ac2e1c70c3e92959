"""Endpoints: the user's own, which others may be bound, and who holds one already.

Defaults reach nobody but the user: an ipc socket in a 0700 folder. Loopback TCP when asked (any user of the machine can
read it); other addresses only with CURVE keys and an allow-list.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import socket
import stat
from pathlib import Path

import zmq

from clcr_stream.errors import PublishError
from clcr_stream.wire.keys import CurveServer
from clcr_stream.wire.messages import topic
from clcr_stream.wire.names import STREAM_NAME

_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its final zero
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_LOCK_TEXT = re.compile(rb"[0-9]{0,20}\n?")  # what a lock file of ours holds: nothing yet, or a process id
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(\d{1,5}|\*)")


def default_folders() -> list[Path]:
    """The user's own folders for sockets, the one to publish in first; a login shell and a service may differ in it."""
    folders = [Path("/tmp") / f"clcr-stream-{os.geteuid()}"]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        folders.insert(0, Path(runtime) / "clcr-stream")
    return folders


def endpoint_in(folder: Path, stream: str) -> str:
    """The stream's ipc endpoint in one of the user's folders; nothing is made. PublishError for a bad name."""
    topic(stream, "status")
    return f"ipc://{folder / stream}.sock"


def check_private(folder: Path) -> None:
    """PublishError when a folder that exists is not the user's alone; FileNotFoundError when it does not exist."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PublishError(
            f"{folder}: must be a folder of user {os.geteuid()} with mode 0700, is mode "
            f"{stat.filemode(status.st_mode)} of user {status.st_uid}; run `chmod 700 {folder}` if it is yours, else "
            "set XDG_RUNTIME_DIR or pass --bind"
        )


def default_endpoint(stream: str) -> str:
    """The user's own endpoint of a stream; its folder is made if absent.

    Raises PublishError for a bad name or a folder of others.
    """
    folder = default_folders()[0]
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        check_private(folder)
    except OSError as error:
        raise PublishError(f"no folder for the socket: {error}; set XDG_RUNTIME_DIR or pass --bind") from None
    return endpoint_in(folder, stream)


def running_streams() -> dict[str, Path]:
    """The user's sessions that run now: the socket of each stream by name, in order; nothing is connected or locked."""
    found: dict[str, Path] = {}
    for folder in default_folders():
        try:
            check_private(folder)
            paths = sorted(folder.glob("*.sock"))
        except (PublishError, OSError):
            continue
        for path in paths:
            name = path.name.removesuffix(".sock")
            if STREAM_NAME.fullmatch(name) and _is_held(path):
                found.setdefault(name, path)
    return dict(sorted(found.items()))


def _is_held(path: Path) -> bool:
    """True when the process that the lock beside a socket names is alive.

    Trying the lock instead would refuse a publisher that starts at this very moment.
    """
    try:
        holder = int(lock_of(path).read_bytes()[:32] or b"0")
    except (OSError, ValueError):
        return False
    return holder > 0 and Path(f"/proc/{holder}").exists()


def checked_endpoint(text: str, curve: CurveServer | None) -> str:
    """The endpoint to bind. Raises PublishError for a form that is not understood or not safe."""
    if text.startswith("ipc:///"):
        return _checked_path(text)
    match = _TCP.fullmatch(text)
    if match is None or (match[2] != "*" and int(match[2]) > 65535):
        raise _not_understood(text)
    host = "127.0.0.1" if match[1] == "localhost" else match[1]
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback and curve is None:
        raise PublishError(
            f"--bind {text}: off loopback only with CURVE keys and an allow-list; make a key "
            f"with `clcr-stream keys new server` and give --curve-secret server, or use tcp://127.0.0.1:{match[2]}"
        )
    return f"tcp://{host}:{match[2]}"


def _checked_path(text: str) -> str:
    """An ipc endpoint whose path is free or holds a socket: libzmq deletes whatever else is there when it binds."""
    path = text[len("ipc://") :]
    if _UNPRINTABLE.search(path) or "//" in path or path.endswith("/"):
        raise _not_understood(text)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise PublishError(f"{text}: path is over {_SOCKET_PATH_BYTES} bytes; pass a shorter one with --bind")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise PublishError(f"--bind {text}: that file exists and is no socket; pass a path where nothing is yet")
    return text


def _not_understood(text: str) -> PublishError:
    printable = text if text.isprintable() else repr(text)
    return PublishError(f"--bind {printable}: not understood; allowed are ipc:///PATH and tcp://ADDRESS:PORT")


def claim(path: Path, stream: str) -> int:
    """The descriptor of a held lock beside the socket: binding an ipc path in use would quietly take it over.

    PublishError when another process holds it. `release` gives it back.
    """
    lock = lock_of(path)
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PublishError(f"{lock}: cannot be opened: {error.strerror}; pass another --bind") from None
        try:
            _take_lock(descriptor, path, stream)
            _check_unused(path)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # its owner removed it after we had opened it: try the one that is there now


def _take_lock(descriptor: int, path: Path, stream: str) -> None:
    text = os.pread(descriptor, 32, 0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not _LOCK_TEXT.fullmatch(text):
        raise PublishError(f"{lock_of(path)}: exists and is no lock of clcr-stream; pass another --bind")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = text.decode("ascii", "replace").strip() or "unknown"
        raise PublishError(
            f"ipc://{path}: in use by process {holder} (stream {stream!r}); stop it or pass another --stream"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _check_unused(path: Path) -> None:
    """PublishError when a program that knows nothing of our locks listens there: libzmq would delete its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # its queue of connections is full
        except OSError:
            return  # nothing there, or the socket of a process that has died
    raise PublishError(f"ipc://{path}: in use by another program; pass another --bind")


def release(path: Path, descriptor: int) -> None:
    """Remove the socket and its lock, then let the lock go: whoever opened it meanwhile sees that it was removed."""
    lock = lock_of(path)
    if _is_at(descriptor, lock):  # else somebody cleaned up by hand, and what is there now may be another owner's
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        with contextlib.suppress(OSError):
            lock.unlink()
    os.close(descriptor)


def lock_of(path: Path) -> Path:
    """The lock file beside a socket; it holds the process id of the publisher."""
    return path.with_name(path.name + ".lock")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def bind(xpub: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind and return the endpoint with its real port."""
    try:
        xpub.bind(endpoint)
        bound = xpub.getsockopt_string(zmq.LAST_ENDPOINT)
        if bound.startswith("ipc://"):
            Path(bound[len("ipc://") :]).chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        raise PublishError(
            f"{endpoint}: cannot be bound: {os.strerror(error.errno or 0)}; stop what holds it or pass another --bind"
        ) from None
    return bound
