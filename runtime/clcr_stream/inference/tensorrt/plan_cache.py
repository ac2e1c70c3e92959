"""The cache of TensorRT plans: what was built here is used again only if nothing that it depends on has changed.

A plan is native code. It is handed to TensorRT only after a keyed hash over it and its JSON record has been checked;
the key is a random file that only this user can read, so a plan from elsewhere is refused whatever it claims to be.

    FOLDER/NAME.json          the record: key fields, size and sha256 of the data, what is known of it, keyed hash
    FOLDER/NAME-SHA12.bin     the data
    FOLDER/NAME.lock          held while one process builds

Folders are 0700 and files 0600; a record appears by one rename after its data. Python 3.9, standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clcr_stream.errors import BackendError

FORMAT_VERSION = 1
KEY_BYTES = 32
MAX_RECORD_BYTES = 1 << 22
MAX_DATA_BYTES = 1 << 34
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Fields = Mapping[str, str]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """Data that is known to be this user's own, and what was noted beside it; `reason` says why it was made anew."""

    data: bytes
    about: Mapping[str, Any]
    reason: str | None


class Refused(Exception):
    """Why a cache entry is not used; never leaves this module."""


def default_folders() -> tuple[Path, Path]:
    """(folder of the plans, file of the key) of this user, from XDG_CACHE_HOME and XDG_DATA_HOME."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return cache / "clcr-stream" / "plans", data / "clcr-stream" / "plan.key"


class PlanCache:
    """Entries by name; each belongs to one set of key fields at a time."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        self._folder = folder
        self._key_file = key_file

    def fetch(self, name: str, fields: Fields, make: Callable[[], tuple[bytes, Mapping[str, Any]]], say: Say) -> Entry:
        """The entry of `name` if its key fields are `fields`, else what `make` gives, kept for the next time.

        `say` hears why something has to be made. BackendError when the cache folder cannot be used at all.
        """
        secret = self._prepare()
        # An entry is read without the lock first: a rename is atomic, and nobody waits for another engine's build.
        with contextlib.suppress(Refused):
            return self._read(name, fields, secret)
        with self._locked(name, say):
            try:
                return self._read(name, fields, secret)
            except Refused as refused:
                reason = str(refused)
            say(f"{name}: {reason}; building")
            data, about = make()
            self._write(name, fields, (data, about), secret)
        return Entry(data, about, reason)

    def load(self, name: str, fields: Fields) -> bytes | None:
        """The data of `name` if it is there and intact under the same key fields."""
        try:
            return self._read(name, fields, self._prepare()).data
        except Refused:
            return None

    def store(self, name: str, fields: Fields, data: bytes) -> None:
        """Replace the entry `name`; of two writers at the same time the last one stays."""
        self._write(name, fields, (data, {}), self._prepare())

    def forget(self, name: str) -> None:
        """What is kept under `name` is not used again; its data goes when the next one is kept."""
        self._prepare()
        with contextlib.suppress(FileNotFoundError):
            self._path(name, ".json").unlink()

    def _prepare(self) -> bytes:
        """Both folders made and private, the secret key; a folder that others could write to is closed to them."""
        for folder in (self._folder, self._key_file.parent):
            _private_folder(folder)
        return _secret(self._key_file)

    @contextlib.contextmanager
    def _locked(self, name: str, say: Say) -> Iterator[None]:
        descriptor = _open_lock(self._path(name, ".lock"))
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{name}: another process is building it; waiting")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which also gives the lock back

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BackendError(f"plan cache: {name!r} is not a plain name of A-Z a-z 0-9 . _ -")
        return self._folder / f"{name}{suffix}"

    def _read(self, name: str, fields: Fields, secret: bytes) -> Entry:
        record = _parse(_read_private(self._path(name, ".json"), MAX_RECORD_BYTES))
        claimed = str(record.pop("mac", ""))
        if not hmac.compare_digest(claimed.encode(), _mac(secret, record).encode()):
            raise Refused("the plan's keyed hash is not of this user's key")
        if record.get("name") != name:
            raise Refused(f"the plan is of {record.get('name')!r}")
        _compare(record.get("key", {}), fields)
        data = _read_private(self._data_path(name, str(record["sha256"])), MAX_DATA_BYTES)
        if len(data) != record["bytes"]:
            raise Refused(f"the plan has {len(data)} bytes, its record says {record['bytes']}")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise Refused("the plan's bytes were altered")
        return Entry(data, record["about"], None)

    def _write(self, name: str, fields: Fields, entry: tuple[bytes, Mapping[str, Any]], secret: bytes) -> None:
        data, about = entry
        digest = hashlib.sha256(data).hexdigest()
        record: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "name": name,
            "key": dict(fields),
            "bytes": len(data),
            "sha256": digest,
            "about": dict(about),
        }
        record["mac"] = _mac(secret, record)
        data_path = self._data_path(name, digest)
        _write_private(data_path, data)
        _write_private(self._path(name, ".json"), json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        for old in self._folder.glob(f"{name}-????????????.bin"):
            if old != data_path:
                with contextlib.suppress(OSError):
                    old.unlink()

    def _data_path(self, name: str, digest: str) -> Path:
        return self._path(name, f"-{digest[:12]}.bin")


def _mac(secret: bytes, record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _compare(stored: Mapping[str, str], current: Fields) -> None:
    for field in sorted({*stored, *current}):
        if stored.get(field) != current.get(field):
            raise Refused(f"{field} was {stored.get(field, 'not noted')}, is {current.get(field, 'not noted')}")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("the plan's record is not valid JSON") from None
    if not isinstance(record, dict):
        raise Refused("the plan's record is not a JSON object")
    if record.get("format") != FORMAT_VERSION:
        raise Refused(f"the record's format was {record.get('format')!r}, is {FORMAT_VERSION}")
    return record


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            if stat.S_IMODE(status.st_mode) != 0o700:
                folder.chmod(0o700)
            return
    except OSError as error:
        raise BackendError(f"plan cache: {folder} cannot be used ({error.strerror}); set XDG_CACHE_HOME") from error
    raise BackendError(f"plan cache: {folder} is not a folder of this user; remove it or set XDG_CACHE_HOME")


def _read_private(path: Path, limit: int) -> bytes:
    """The bytes of a plain file that only this user could have written; Refused says why not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused("no plan was built yet" if path.suffix == ".json" else "the plan's data is missing") from None
    except OSError as error:
        raise Refused(f"{path.name} cannot be read ({error.strerror})") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Refused(f"{path.name} is not a plain file of this user")
        if status.st_mode & 0o022:
            raise Refused(f"{path.name} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})")
        if status.st_size > limit:
            raise Refused(f"{path.name} has {status.st_size} bytes, at most {limit} are allowed")
        return file.read(limit + 1)


def _write_private(path: Path, data: bytes) -> None:
    """The file appears whole, 0600, by one rename."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 by its contract
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise BackendError(f"plan cache: {path} cannot be written ({error.strerror})") from error


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackendError(f"plan cache: {path} cannot be made ({error.strerror}); set XDG_CACHE_HOME") from error


def _secret(path: Path) -> bytes:
    """This user's key; made anew when it is missing, short or was ever readable by others."""
    for _ in range(2):
        try:
            secret = _read_private(path, KEY_BYTES)
            if len(secret) == KEY_BYTES and not path.lstat().st_mode & 0o077:
                return secret
        except (Refused, OSError):
            pass
        _make_secret(path)
    raise BackendError(f"plan cache: {path} cannot be made a private key file; remove it")


def _make_secret(path: Path) -> None:
    """Two processes that start at once agree on one key: the second one waits, looks, and leaves the first one's."""
    descriptor = _open_lock(path.with_suffix(".lock"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(Refused, OSError):
            if len(_read_private(path, KEY_BYTES)) == KEY_BYTES and not path.lstat().st_mode & 0o077:
                return
        _write_private(path, secrets.token_bytes(KEY_BYTES))
    finally:
        os.close(descriptor)
