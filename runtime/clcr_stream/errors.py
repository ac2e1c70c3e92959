"""The tree of errors a user can meet; each says what was given, what is allowed and what to run.

ClcrError                 exit code 1
├── ConfigError           2   a flag or a configuration key
├── SourceError           3   a camera, microphone, file, URL or transcript
├── BundleError           4   a bundle that does not verify
├── BackendError          5   an engine that does not load or run
├── PublishError          6   an endpoint that cannot be bound
├── OutputError           7   a file or standard output that cannot be written
└── RequiredError         8   an input that --require names is not live
"""

from __future__ import annotations

import re
from typing import Literal

WARNING = "warning: "  # what a line for a person begins with that is no error and should not be missed


# Why an input brings nothing, in a word for programs; "" when its state says it all. docs/wire.md explains them.
SourceCode = Literal[
    "",
    "unauthorized",
    "not_found",
    "client_error",
    "server_error",
    "refused",
    "unreachable",
    "timed_out",
    "no_data",
    "ended",
    "not_media",
    "no_device",
    "in_use",
    "not_permitted",
    "not_installed",
    "hung",
    "crashed",
]


class ClcrError(Exception):
    """An error with a one-line message for the user; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(ClcrError):
    """A flag or a configuration key is unknown, missing or out of range."""

    exit_code = 2


class SourceError(ClcrError):
    """An input cannot be opened or holds nothing that can be used; `code` says why in a word."""

    exit_code = 3

    def __init__(self, message: str, code: SourceCode = "") -> None:
        super().__init__(message)
        self.code: SourceCode = code


class BundleError(ClcrError):
    """A bundle is missing, altered, of another version or otherwise not what its manifest says."""

    exit_code = 4


class BackendError(ClcrError):
    """No backend can run the bundle's engines, or an engine failed."""

    exit_code = 5


class PublishError(ClcrError):
    """The endpoint cannot be bound or is held by another process."""

    exit_code = 6


class OutputError(ClcrError):
    """What was asked for could not be written, or not all of it: a full disk, a closed standard output."""

    exit_code = 7


class RequiredError(ClcrError):
    """A modality that the user requires was not live for too long."""

    exit_code = 8


_CREDENTIALS = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s]*@")  # greedy: a password may hold an @
_SECRET = re.compile(r"(?i)([?&;](?:[a-z0-9_-]*(?:pass|pwd|token|secret|key|auth|sig)[a-z0-9_-]*|user|login)=)[^&;\s]+")


def redact(text: str) -> str:
    """`text` with the credentials in its URLs replaced, for names, messages and logs."""
    return _SECRET.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


def one_line(text: str) -> str:
    """`text` without line breaks or control characters, at most 300 characters."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))[:300]


def as_clcr_error(error: BaseException, what: str) -> ClcrError:
    """The error as one that a user can be told in one line: itself, or `what` and what an unexpected one says."""
    if isinstance(error, ClcrError):
        return error
    expected = ClcrError(f"{what}: {one_line(f'{type(error).__name__}: {error}')}")
    expected.__cause__ = error
    return expected
