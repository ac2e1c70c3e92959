"""The engine bundle: the one way to read a folder into verified bytes.

A bundle is untrusted until `load_bundle` returns: the folder is opened once, every entry must be a plain file named in
the manifest, and the bytes that were hashed are the bytes that the backend gets, so a swap on disk between check and
use changes nothing. A second name of a file (a hard link, as backups and installers make them) is allowed for the same
reason.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from clcr_stream.bundle.manifest import MANIFEST_NAME, FileSpec, Manifest, parse_manifest
from clcr_stream.errors import BundleError

MAX_MANIFEST_BYTES = 1 << 20
MAX_TOTAL_BYTES = 1 << 32
MAX_FILES = 64


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest, the bytes of every other file, and the sha256 of the manifest's bytes."""

    manifest: Manifest
    files: dict[str, bytes]
    id: str

    def engine_bytes(self, name: str) -> bytes:
        """The ONNX bytes of engine `name`."""
        return self.files[self.manifest.engines[name].file]


def default_bundle_folder() -> Path:
    """The bundle of the installed wheel, else the checkout's engines/default; BundleError when there is neither."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "engines" / "default", package.parents[1] / "engines" / "default")
    for folder in candidates:
        if (folder / MANIFEST_NAME).is_file():
            return folder
    raise BundleError(
        f"no default bundle: looked in {' and '.join(map(str, candidates))}; give --bundle DIR or run `clcr-export`"
    )


def load_bundle(folder: Path | str) -> Bundle:
    """Read and verify a bundle; BundleError names the file and the field. Nothing is decoded but the manifest."""
    path = Path(folder)
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be opened as a folder ({error.strerror}); a bundle is a folder with {MANIFEST_NAME}"
        ) from error
    try:
        return _load(path, directory)
    finally:
        os.close(directory)


def _load(path: Path, directory: int) -> Bundle:
    names = sorted(os.listdir(directory))
    if MANIFEST_NAME not in names:
        raise BundleError(f"{path}: no {MANIFEST_NAME}: not a bundle; `clcr-export` makes one")
    if len(names) > MAX_FILES:
        raise BundleError(f"{path}: {len(names)} files, at most {MAX_FILES} are allowed")
    for name in names:
        _check_entry(path, directory, name)
    raw = _read(path, directory, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(raw, str(path / MANIFEST_NAME))
    listed = set(manifest.files)
    for name in sorted(set(names) - {MANIFEST_NAME} - listed):
        raise BundleError(f"{_shown(path, name)}: not listed in {MANIFEST_NAME}; remove it or export again")
    for name in sorted(listed - set(names)):
        raise BundleError(f"{path / name}: listed in {MANIFEST_NAME} but missing")
    if sum(file.bytes for file in manifest.files.values()) > MAX_TOTAL_BYTES:
        raise BundleError(f"{path}: files add up to more than {MAX_TOTAL_BYTES} bytes")
    files = {name: _verified(path, directory, name, manifest.files[name]) for name in sorted(listed)}
    return Bundle(manifest, files, hashlib.sha256(raw).hexdigest())


def _check_entry(path: Path, directory: int, name: str) -> None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = {stat.S_IFLNK: "a symlink", stat.S_IFDIR: "a folder"}.get(
        stat.S_IFMT(status.st_mode), "a device, pipe or socket"
    )
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{_shown(path, name)}: is {kind}; a bundle holds plain files only")
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise BundleError(f"{_shown(path, name)}: is setuid or setgid; a bundle holds plain files only")


def _shown(path: Path, name: str) -> str:
    """A file of the folder in a message of one line, whatever its name is made of."""
    return str(path / name) if name.isprintable() else f"{path}/{name!r}"


def _verified(path: Path, directory: int, name: str, expected: FileSpec) -> bytes:
    data = _read(path, directory, name, expected.bytes)
    if len(data) != expected.bytes:
        raise BundleError(f"{path / name}: bytes is {len(data)}, {MANIFEST_NAME} says {expected.bytes}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected.sha256:
        raise BundleError(f"{path / name}: sha256 is {digest[:16]}..., {MANIFEST_NAME} says {expected.sha256[:16]}...")
    return data


def _read(path: Path, directory: int, name: str, limit: int) -> bytes:
    """The whole of a plain file of at most `limit` bytes, read once; the open descriptor is checked again."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise BundleError(f"{path / name}: cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path / name}: is not a plain file")
        if status.st_size > limit:
            raise BundleError(f"{path / name}: bytes is {status.st_size}, at most {limit} are allowed here")
        return file.read(limit + 1)
