"""Where a recording goes, what is in it, when its next part begins, and whether it may be made there."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from clcr_stream.errors import ConfigError

SUFFIX = ".mcap"
INSTALL = 'pip install "clcr-stream[record]"'
DEFAULT_ROTATE = "1GiB,6h"  # the writer keeps an index in memory, a chunk a second
TIME = "{time}"  # in a target: when the recording begins, so that each start has a file of its own
_ALLOWED = f"give a new file that ends in {SUFFIX}, in a folder that exists"
_UNITS_BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_UNITS_S = {"s": 1, "min": 60, "h": 3600}
_LIMIT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_MIN_BYTES, _MAX_BYTES, _MAX_S = 10**5, 2**50, 7 * 24 * 3600


@dataclass(frozen=True)
class Rotation:
    """When a part ends and the next one begins: at so many bytes, or after so many seconds."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class RecordOptions:
    """A recording: its first file; with `media` also faces, sound and words as the model got them.

    TIME in the target stands for when it begins (UTC).
    `inputs` are what the run reads, files and folders: they are never written to.
    """

    target: str
    media: bool = False
    rotate: str = DEFAULT_ROTATE
    inputs: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """The first part."""
        return Path(self.target).expanduser()

    @property
    def shown(self) -> str:
        """The target in a message of one line."""
        return self.target if self.target.isprintable() else repr(self.target)


def parse_rotation(text: str) -> Rotation:
    """`1GiB`, `10min`, or both with a comma; what is not given is that of DEFAULT_ROTATE. ConfigError."""
    limits: dict[str, float] = {}
    for part in f"{DEFAULT_ROTATE},{text}".split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None or match[2] not in {**_UNITS_BYTES, **_UNITS_S}:
            allowed = ", ".join([*_UNITS_BYTES, *_UNITS_S])
            raise ConfigError(f"--record-rotate {text!r}: give a size or time such as 1GiB or 10min; units: {allowed}")
        if match[2] in _UNITS_BYTES:
            limits["bytes"] = float(match[1]) * _UNITS_BYTES[match[2]]
        else:
            limits["seconds"] = float(match[1]) * _UNITS_S[match[2]]
    size, seconds = int(limits["bytes"]), limits["seconds"]
    if not (_MIN_BYTES <= size <= _MAX_BYTES and 1 <= seconds <= _MAX_S):
        raise ConfigError(f"--record-rotate {text!r}: allowed are 100kB to 1 PiB and 1s to 168h")
    return Rotation(size, seconds)


def begun(options: RecordOptions) -> RecordOptions:
    """The options with the time of now in place of TIME."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return replace(options, target=options.target.replace(TIME, now))


def part_path(first: Path, number: int) -> Path:
    """The file of part 1, 2, ...: talk.mcap, talk.2.mcap, ..."""
    return first if number == 1 else first.with_name(f"{first.stem}.{number}{SUFFIX}")


def check_record(options: RecordOptions) -> None:
    """ConfigError for what could not be made; makes and changes nothing."""
    what = f"--record {options.shown}"
    path = options.path
    parse_rotation(options.rotate)
    if path.suffix != SUFFIX or "\0" in options.target:
        raise ConfigError(f"{what}: {_ALLOWED}")
    if not path.parent.is_dir():
        raise ConfigError(f"{what}: there is no folder {str(path.parent)!r}; {_ALLOWED}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{what}: cannot be written (Permission denied); {_ALLOWED}")
    for read in options.inputs:
        if _same(path, read):
            raise ConfigError(f"{what}: the run reads that file ({read}); {_ALLOWED}")
        if _same(path.parent, read):
            raise ConfigError(f"{what}: lies in the bundle {read}; give a file elsewhere")
    if os.path.lexists(path):
        raise ConfigError(f"{what}: exists already; give a new file, or {TIME} in its name for the time of the start")
    others = [other for other in path.parent.glob(f"{_escaped(path.stem)}.*{SUFFIX}") if _is_part(other, path)]
    if others:
        raise ConfigError(f"{what}: {others[0].name} is a part of another recording; {_ALLOWED}")
    _need_mcap(what)


def _need_mcap(what: str) -> None:
    try:
        import mcap.writer  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what}: the package mcap is not installed; run {INSTALL}") from None


def _is_part(other: Path, first: Path) -> bool:
    middle = other.name[len(first.stem) + 1 : -len(SUFFIX)]
    return middle.isdecimal()


def _escaped(stem: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", stem)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False
