"""New files for results: never over something that is there, for the user alone, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from clcr_stream.cli.signals import dying
from clcr_stream.cli.standard_streams import say
from clcr_stream.errors import ConfigError, OutputError


def check_new_file(target: str, flag: str) -> None:
    """ConfigError when a file of this name cannot be made, or is there already."""
    if target == "-":
        raise ConfigError(f"{flag} -: this does not go to standard output; give a new file")
    path = Path(target).expanduser()
    if os.path.lexists(path):
        raise ConfigError(f"{flag} {target!r}: exists already; give a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {target!r}: there is no folder {str(path.parent)!r}")


def check_suffix(target: str, flag: str, suffix: str, otherwise: str = "") -> None:
    """ConfigError for a name that promises something else than what is written there."""
    if not target.lower().endswith(suffix):
        raise ConfigError(f"{flag} {target!r}: its name must end in {suffix}{otherwise}")


def check_added_to(target: str, flag: str) -> None:
    """ConfigError when nothing can be added to a file of this name, which need not be there yet; none is made."""
    path = Path(target)
    there = path.exists()
    if not there and not path.parent.is_dir():
        raise ConfigError(f"{flag} {target!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or not os.access(path if there else path.parent, os.W_OK):
        raise ConfigError(f"{flag} {target!r}: cannot be written; give a file of yours, or a new one")


@contextlib.contextmanager
def new_file(target: str, flag: str) -> Iterator[TextIO]:
    """A new text file with mode 0600. ConfigError when it cannot begin, OutputError when it does not get whole."""
    check_new_file(target, flag)
    path = Path(target).expanduser()
    try:
        with _begun(path, f"{flag} {target!r}") as file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"{flag} {target!r}: could not be written ({error.strerror}); nothing was kept") from error


@contextlib.contextmanager
def growing_file(target: str, flag: str) -> Iterator[Callable[[str], None]]:
    """What writes whole lines of a new file, each kept at once; beside it until all are there, as `TARGET.PID.part`.

    An error, SIGINT or SIGTERM ends the work and leaves the part, if there is something in it; one line says so.
    ConfigError when it cannot begin, OutputError when it does not get whole.
    """
    check_new_file(target, flag)
    path = Path(target).expanduser()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    where = f"what there is of it is in {str(part)!r}"
    with _begun(part, f"{flag} {target!r}") as file:

        def write(lines: str) -> None:
            try:
                file.write(lines)
                file.flush()
            except OSError as error:
                raise OutputError(f"{flag} {target!r}: could not be written ({error.strerror})") from error

        def left() -> str | None:
            """What to say of a part that is left."""
            if part.is_file() and part.stat().st_size:
                return f"{flag} {target!r}: not finished; {where}"
            part.unlink(missing_ok=True)
            return None

        try:
            with dying(left):
                yield write
        except BaseException:
            note = left()
            if note is not None:
                say(note)
            raise
    try:
        _rename(part, path)
    except OSError as error:
        raise OutputError(f"{flag} {target!r}: cannot get its name ({error.strerror}); {where}") from error


def _begun(path: Path, what: str) -> TextIO:
    """A file that was not there, for the user alone. ConfigError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{what}: cannot be written ({reason}); give another file") from error
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="")


def _rename(part: Path, path: Path) -> None:
    """Never over a file that came meanwhile. OSError."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise
        part.rename(path)
    else:
        part.unlink()
