"""CURVE keys: a user's own ones, those that may read, and their files; `clcr-stream keys` is its command.

A key NAME is two files: NAME.key, the public half, and NAME.key_secret, both of them ZeroMQ certificates. The folder
`allowed` beside them holds the public keys of those who may read what is published with a key of this folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clcr_stream.errors import ClcrError, ConfigError, PublishError
from clcr_stream.wire.names import STREAM_NAME

ALLOWED = "allowed"
_MAKE = "make one with `clcr-stream keys new NAME`"
_Z85_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_KEY_CHARACTERS = 40  # 32 bytes
_MOST_BYTES = 1 << 16  # of a file that may be a certificate


@dataclass(frozen=True)
class CurveServer:
    """Keys for an endpoint that leaves the host: our secret certificate, and a folder of the readers' public ones.

    The folder is read at each handshake, and looked at once a second: who is no longer in it is cut off.
    """

    secret_file: Path
    allowed_folder: Path


@dataclass(frozen=True)
class CurveClient:
    """Keys for an endpoint on another host: our secret certificate and the publisher's public one.

    Each is a file or the name of a key in the user's own folder; `server_file` may be the key itself, 40 characters.
    """

    secret_file: Path | str
    server_file: Path | str


@dataclass(frozen=True)
class Key:
    """One key as it lies in a folder."""

    name: str
    public: str  # as z85 text
    has_secret: bool = False


def default_keys_folder() -> Path:
    """Where the user's keys are; nothing is made."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(config) if config.startswith("/") else Path.home() / ".config"
    return base / "clcr-stream" / "keys"


def expanded(text: str | Path) -> Path:
    """A path as a user writes it; of a home that is unknown it stays as it is."""
    with contextlib.suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)


def secret_path(text: str | Path) -> Path:
    """The file that a user means: one that exists, else that of the key of this name in the user's own folder."""
    path = expanded(text)
    if not path.exists() and STREAM_NAME.fullmatch(str(text)):
        return default_keys_folder() / f"{text}.key_secret"
    return path


def public_key(text: str | Path, folder: Path | None = None) -> str:
    """The public key that a user means, as z85 text: of a file, of a NAME in `folder`, or itself. ConfigError."""
    given, path = str(text), expanded(text)
    with contextlib.suppress(OSError):  # z85 may look like a path of any kind
        if not path.is_file() and STREAM_NAME.fullmatch(given) and len(given) != _KEY_CHARACTERS:
            path = (folder or default_keys_folder()) / f"{given}.key"
        if path.is_file():
            return _certificate(path, ConfigError)[0].decode()
    if len(given) == _KEY_CHARACTERS and _is_key(given):
        return given
    raise ConfigError(
        f"{given!r}: no public key; allowed are a .key file, the NAME of a key of yours (`clcr-stream keys list`) and "
        "the key itself, 40 characters in quotes"
    )


def reader_keys(curve: CurveClient) -> tuple[bytes, bytes, bytes]:
    """A reader's public and secret key and the publisher's public one, as z85 text. ConfigError."""
    public, secret = _certificate(secret_path(curve.secret_file), ConfigError)
    if secret is None:
        raise ConfigError(f"{curve.secret_file}: holds no secret key; give the .key_secret file")
    return public, secret, public_key(curve.server_file).encode()


def secret_key(path: Path) -> bytes:
    """The secret key of a certificate that only its owner can read, as z85 text; PublishError with what to run."""
    with contextlib.suppress(OSError):
        if path.stat().st_mode & 0o077:
            raise PublishError(f"{path}: a secret key that others can read; run `chmod 600 {path}`")
    _, secret = _certificate(path, PublishError)
    if secret is None:
        raise PublishError(f"{path}: holds no secret key; give the .key_secret file")
    return secret


def allowed_keys(folder: Path) -> set[bytes]:
    """The 32-byte public keys of the allow-list; a file that is not a certificate admits nobody."""
    from zmq.utils import z85

    keys = set()
    for path in folder.glob("*.key"):
        with contextlib.suppress(PublishError):
            keys.add(z85.decode(_certificate(path, PublishError)[0]))
    return keys


def signature_of(folder: Path) -> object:
    """Something that differs when a file of the folder was added, changed or removed; cheap, and it reads none."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_ino) for entry in entries)
    except OSError as error:
        return error.errno


def check_curve(curve: CurveServer) -> None:
    """PublishError when the allow-list is not a folder; an empty one is allowed, as it may be filled at any time."""
    if not curve.allowed_folder.is_dir():
        raise PublishError(
            f"{curve.allowed_folder}: not a folder; --curve-clients takes a folder of .key files, which "
            "`clcr-stream keys new` and `keys allow` make"
        )


class KeyFolder:
    """The keys of a folder, and those allowed there; made, 0700, by what writes. Methods raise ConfigError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed_folder = folder / ALLOWED

    def new(self, name: str) -> Key:
        """Make a key and the folder of those who may read; an existing key is never written over."""
        import zmq

        self._check_name(name)
        self._make()
        public_file, secret_file = self.folder / f"{name}.key", self.folder / f"{name}.key_secret"
        for path in (public_file, secret_file):
            if path.exists():
                raise ConfigError(f"{path}: exists already; give another name, or remove it and every copy of it")
        public, secret = zmq.curve_keypair()
        while public.startswith(b"-"):  # a command line would take it for an option
            public, secret = zmq.curve_keypair()
        _write(secret_file, _text(public, secret))
        _write(public_file, _text(public))
        return Key(name, public.decode(), True)

    def own(self) -> list[Key]:
        """The keys of the folder, by name."""
        return _keys_of(self.folder)

    def allowed(self) -> list[Key]:
        """Those who may read, by name."""
        return _keys_of(self.allowed_folder)

    def allow(self, what: str, name: str | None = None) -> Key:
        """Let the owner of a public key read: of a file, a NAME of ours, or its text; counts at once."""
        public = public_key(what, self.folder)
        named = Path(what).name.removesuffix(".key").removesuffix(".key_secret")
        is_text = what == public
        if name is None and is_text:
            raise ConfigError("a key given as text needs a name: --name WHO, by which it can be revoked")
        name = name or named
        self._check_name(name)
        for key in self.allowed():
            if key.public == public:
                raise ConfigError(f"{key.name} has this key and may read already; `clcr-stream keys revoke {key.name}`")
            if key.name == name:
                raise ConfigError(f"{name} is allowed with another key; give --name, or revoke {name} first")
        self._make()
        _write(self.allowed_folder / f"{name}.key", _text(public.encode()))
        return Key(name, public)

    def revoke(self, what: str) -> list[Key]:
        """Take a reader's leave to read, by name, file or key: every file of that key. Who it was."""
        allowed = self.allowed()
        public = next((key.public for key in allowed if key.name == what), None) or public_key(what, self.folder)
        gone = [key for key in allowed if key.public == public]
        if not gone:
            names = ", ".join(key.name for key in allowed) or "nobody"
            raise ConfigError(f"{what!r} may not read anyway; allowed here: {names}")
        for key in gone:
            with _plainly(self.allowed_folder):
                (self.allowed_folder / f"{key.name}.key").unlink()
        return gone

    def _make(self) -> None:
        with _plainly(self.folder):
            for folder in (self.folder, self.allowed_folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = folder.stat()
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    raise ConfigError(
                        f"{folder}: must be yours and no others' to write, is {stat.filemode(status.st_mode)} of user "
                        f"{status.st_uid}; run `chmod 700 {folder}` if it is yours, else give --dir"
                    )

    def _check_name(self, name: str) -> None:
        if not STREAM_NAME.fullmatch(name):
            raise ConfigError(f"key {name!r}: a name is 1 to 64 letters, digits, '.', '_' or '-'; give --name")


@contextlib.contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    """What the system refuses, as one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; give --dir, a folder of yours") from None


def _keys_of(folder: Path) -> list[Key]:
    found = []
    for path in sorted(folder.glob("*.key")):
        with contextlib.suppress(ConfigError):
            public, _ = _certificate(path, ConfigError)
            found.append(Key(path.name.removesuffix(".key"), public.decode(), path.with_suffix(".key_secret").exists()))
    return found


def _certificate(path: Path, kind: Callable[[str], ClcrError]) -> tuple[bytes, bytes | None]:
    """Public and secret key of a ZeroMQ certificate, each checked."""
    from zmq.auth import load_certificate

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        public, secret = load_certificate(path)
    except (OSError, ValueError, IndexError) as error:  # IndexError: pyzmq, of a key without its value
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise kind(f"{path}: not a CURVE certificate: {reason}; {_MAKE}") from None
    for key in (public, secret):
        if key is not None and not _is_key(key.decode("utf-8", "replace")):
            raise kind(f"{path}: not a CURVE certificate: a key in it is not one; {_MAKE}")
    return public, secret


def _is_key(text: str) -> bool:
    if len(text) != _KEY_CHARACTERS or not set(text) <= set(_Z85_DIGITS):
        return False
    values = [_Z85_DIGITS.index(character) for character in text]
    fives = (values[at : at + 5] for at in range(0, _KEY_CHARACTERS, 5))
    return all(functools.reduce(lambda sum, value: 85 * sum + value, five) < 2**32 for five in fives)


def _text(public: bytes, secret: bytes | None = None) -> str:
    kind = "secret: show it to nobody" if secret is not None else "public: give it to those you exchange data with"
    lines = [f"#   clcr-stream CURVE key, {kind}", "metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """A new file for its owner alone, there as a whole or not at all: the allow-list is read by running sessions."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with _plainly(path.parent):
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
