"""Messages as JSON lines in a file or on standard output.

A run never destroys what it did not make: a new file is made exclusively and for the user alone, an existing one that
holds something is only ever appended to, and only when that was asked for.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clcr_stream.errors import ConfigError
from clcr_stream.wire import messages

STDOUT = "-"
_ANYWHERE = "give a file in a folder that exists, or -"
_begun: set[tuple[int, int]] = set()  # files that this process began: a stream that begins anew goes on in its file


@dataclass(frozen=True)
class Output:
    """Where the lines go: a file, or "-" for standard output.

    `append` lets a file that holds something already grow. `inputs` are what the run reads, files and folders: they are
    never written to, however their path is spelt.
    """

    target: str
    append: bool = False
    inputs: tuple[Path, ...] = ()

    @property
    def shown(self) -> str:
        """The target in a message of one line."""
        return self.target if self.target.isprintable() else repr(self.target)


def is_stdout(target: str) -> bool:
    """True for "-" and for whatever else is this process's standard output, as /dev/stdout."""
    if target == STDOUT:
        return True
    if sys.stdout is None:
        return False
    try:
        return os.path.samestat(Path(target).stat(), os.fstat(1))
    except (OSError, ValueError):
        return False


def check_inputs(output: Output) -> None:
    """ConfigError when the lines would go into something that the run reads."""
    if is_stdout(output.target):
        return
    path = Path(output.target)
    for read in output.inputs:
        if _same(path, read):
            raise ConfigError(f"--output {output.shown}: the run reads that file ({read}); give another one")
        if _same(path.parent, read):
            raise ConfigError(f"--output {output.shown}: lies in the bundle {read}; give a file elsewhere")


def check_output(output: Output) -> None:
    """ConfigError for what could not be opened, without making or changing anything."""
    check_inputs(output)
    if output.target == STDOUT:
        if sys.stdout is None:
            raise ConfigError("--output -: standard output is closed; give a file")
        return
    if is_stdout(output.target):
        return
    try:
        status = Path(output.target).stat()
    except FileNotFoundError:
        parent = Path(output.target).parent
        if not parent.is_dir():
            raise ConfigError(f"--output {output.shown}: there is no folder {str(parent)!r}; {_ANYWHERE}") from None
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ConfigError(f"--output {output.shown}: cannot be written (Permission denied); {_ANYWHERE}") from None
    except (OSError, ValueError) as error:
        raise _unwritable(output, error) from error
    else:
        _check_existing(output, status)


def _check_existing(output: Output, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"--output {output.shown}: is a folder; {_ANYWHERE}")
    ours = (status.st_dev, status.st_ino) in _begun
    if stat.S_ISREG(status.st_mode) and status.st_size and not output.append and not ours:
        raise ConfigError(
            f"--output {output.shown}: holds {status.st_size} bytes already; give a new file, or --append to add to it"
        )


def _unwritable(output: Output, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"--output {output.shown}: cannot be written ({reason}); {_ANYWHERE}")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


class JsonLines:
    """The payloads of a stream as JSON lines; a disk that fills up stops the file, not the session.

    A file holds whole lines only: what was written of a line that did not fit is taken back. `on_failure` is called
    once, with one line for a person, by the thread that writes. Raises ConfigError.
    """

    def __init__(self, output: Output, on_failure: Callable[[str], object] = lambda _: None) -> None:
        check_output(output)
        self._output = output
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._stdout = is_stdout(output.target)
        self.failure: str | None = None
        if self._stdout:
            sys.stdout.flush()
            self._descriptor = os.dup(1)
        else:
            self._descriptor = _open(output)
        try:
            if not self._stdout:
                _begin_file(self._descriptor, output)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, message: messages.Message) -> None:
        """Append one line; after the first failure, nothing."""
        self.write_line(messages.encode(message, "json"))

    def write_line(self, payload: bytes) -> None:
        """Append one JSON payload and a line break; after the first failure, nothing."""
        line = payload + b"\n"
        notice = None
        with self._lock:
            if self.failure is None and self._descriptor >= 0:
                try:
                    _write_whole(self._descriptor, line)
                except OSError as error:
                    notice = self._failed(error)
        if notice is not None:
            self._on_failure(notice)

    def close(self) -> None:
        """Close the file; standard output stays open. Idempotent."""
        notice = None
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                try:
                    os.close(descriptor)
                except OSError as error:  # a disk over the network may find only now that it is full
                    notice = self._failed(error) if self.failure is None else None
        if notice is not None:
            self._on_failure(notice)

    def _failed(self, error: OSError) -> str:
        self.failure = error.strerror or str(error)
        return f"--output {self._output.shown} has stopped: {self.failure}; the session goes on without it"


def _write_whole(descriptor: int, line: bytes) -> None:
    """Write a line; when that fails, a file is left without the beginning of it."""
    written = 0
    try:
        while written < len(line):
            try:
                written += os.write(descriptor, line[written:])
            except BlockingIOError:  # a standard output that somebody has made non-blocking
                select.select([], [descriptor], [])
    except OSError:
        if written and stat.S_ISREG(os.fstat(descriptor).st_mode):
            end = os.lseek(descriptor, 0, os.SEEK_CUR) - written
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
        raise


def _open(output: Output) -> int:
    """A descriptor that writes at the end; a new file is for the user alone. A named pipe waits for its reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        try:
            return os.open(output.target, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(output.target, flags)
    except (OSError, ValueError) as error:
        raise _unwritable(output, error) from error


def _begin_file(descriptor: int, output: Output) -> None:
    """See to it that a plain file is ours alone and ends in a whole line."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"--output {output.shown}: another session or stream writes to it; give another file"
        ) from None
    except OSError:
        pass  # a file system without locks
    _check_existing(output, os.fstat(descriptor))  # again: it may have been written to since the first look
    _begun.add((status.st_dev, status.st_ino))
    if status.st_size and not _ends_with_line(output.target, status.st_size):
        os.write(descriptor, b"\n")


def _ends_with_line(target: str, size: int) -> bool:
    with Path(target).open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"
