"""A person's baselines in a file: numbers alone, for its owner alone, replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import msgspec
import numpy as np

from clcr_stream.errors import ConfigError, OutputError
from clcr_stream.inference.baselines import Baseline, Baselines

FORMAT = 1
MAX_BYTES = 1 << 24
NO_BASELINES = (
    "this bundle keeps no baseline of a person; give one whose model was trained with `baseline: true`, or leave out "
    "--calibrate and --profile"
)


class LevelNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One level of one modality: mean features, and how many steps they are made of."""

    steps: float
    mean: list[float]


class ProfileNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file, as JSON: which bundle's features, by its sha256, and the levels of each modality that is known."""

    format: int
    bundle: str
    vision: list[LevelNumbers] | None = None
    acoustic: list[LevelNumbers] | None = None


def check_profile(path: Path) -> None:
    """ConfigError for a profile that could not be read or written, before anything slow is loaded."""
    if _read(path) is None:
        folder = path.parent
        if not folder.is_dir():
            raise ConfigError(f"--profile {path}: there is no folder {str(folder)!r}; give a file in one that exists")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--profile {path}: its folder cannot be written to; give a file elsewhere")


class Profile:
    """The profile of one stream's person. `keep` may be called from any thread; after `close` nothing is written."""

    def __init__(self, path: Path, bundle_id: str) -> None:
        self._path = path
        self._bundle_id = bundle_id
        self._lock = threading.Lock()
        self._closed = False

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"--profile {self._path}"

    def read(self) -> Baselines:
        """What the file holds; {} when there is none. ConfigError when it is not a profile for this bundle."""
        numbers = _read(self._path)
        if numbers is None:
            return {}
        if numbers.bundle != self._bundle_id:
            raise ConfigError(
                f"{self.where}: belongs to bundle {numbers.bundle[:12]}, this one is {self._bundle_id[:12]}; "
                "give another file, and calibrate anew"
            )
        return _baselines(numbers, self.where)

    def keep(self, baselines: Baselines) -> None:
        """Write the file, readable by its owner alone; nothing for {}. OutputError."""
        with self._lock:
            if baselines and not self._closed:
                self._write(baselines)

    def close(self, baselines: Baselines) -> None:
        """`keep` for the last time."""
        with self._lock:
            closed, self._closed = self._closed, True
            if baselines and not closed:
                self._write(baselines)

    def _write(self, baselines: Baselines) -> None:
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_baselines(baselines, self._bundle_id) + b"\n")
                file.flush()
                os.fsync(descriptor)
            part.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(f"{self.where}: cannot be written ({error.strerror}); give another place") from error


def encode_baselines(baselines: Baselines, bundle_id: str) -> bytes:
    """Baselines as the JSON of a profile."""
    levels = {modality: _numbers(baseline) for modality, baseline in baselines.items()}
    return msgspec.json.encode(ProfileNumbers(format=FORMAT, bundle=bundle_id, **levels))


def decode_baselines(data: bytes, bundle_id: str, where: str) -> Baselines:
    """The baselines in the JSON of a profile; {} when they are another bundle's. ConfigError when it is none."""
    try:
        numbers = msgspec.json.decode(data, type=ProfileNumbers)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return _baselines(numbers, where) if numbers.bundle == bundle_id else {}


def _baselines(numbers: ProfileNumbers, where: str) -> Baselines:
    levels = {"vision": numbers.vision, "acoustic": numbers.acoustic}
    return {modality: _baseline(rows, where) for modality, rows in levels.items() if rows}


def _numbers(baseline: Baseline) -> list[LevelNumbers]:
    return [
        LevelNumbers(steps=float(steps), mean=mean.tolist())
        for steps, mean in zip(baseline.steps, baseline.mean, strict=True)
    ]


def _baseline(levels: list[LevelNumbers], where: str) -> Baseline:
    if len({len(level.mean) for level in levels}) > 1:
        raise ConfigError(f"{where}: its levels differ in width; it is not a profile of this bundle")
    steps = np.array([level.steps for level in levels], np.float32)
    return Baseline(np.array([level.mean for level in levels], np.float32), steps)


def _read(path: Path) -> ProfileNumbers | None:
    """The file's numbers, None when there is no file. ConfigError for what is not a private profile."""
    where = f"--profile {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise ConfigError(f"{where}: is a link; give the file itself") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{where}: cannot be read ({reason}); give another file") from error
    try:
        data, private = _bytes_of(descriptor, where)
    finally:
        os.close(descriptor)
    try:
        numbers = msgspec.json.decode(data, type=ProfileNumbers)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not a profile ({error}); give another file") from None
    if not private:  # last: nobody should be told to change the mode of a file that is something else
        raise ConfigError(f"{where}: others can read or change it, or own it; run `chmod 600 {path}` if it is yours")
    if numbers.format != FORMAT:
        raise ConfigError(f"{where}: is of format {numbers.format}, this runtime reads {FORMAT}; calibrate anew")
    return numbers


def _bytes_of(descriptor: int, where: str) -> tuple[bytes, bool]:
    """What a regular file holds, and whether it is its owner's alone. ConfigError."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{where}: is not a regular file; give a new name, or a profile")
    if status.st_size > MAX_BYTES:
        raise ConfigError(f"{where}: {status.st_size} bytes are no profile; give another file")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_BYTES), not status.st_mode & 0o077 and status.st_uid == os.geteuid()
