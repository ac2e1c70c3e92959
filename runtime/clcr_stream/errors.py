"""The tree of errors a user can meet; each says what was given, what is allowed and what to run.

ClcrError                 exit code 1
├── ConfigError           2   a flag or a configuration key
├── SourceError           3   a camera, microphone, file, URL or transcript
├── BundleError           4   a bundle that does not verify
├── BackendError          5   an engine that does not load or run
└── PublishError          6   an endpoint that cannot be bound
"""

from __future__ import annotations


class ClcrError(Exception):
    """An error with a one-line message for the user; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(ClcrError):
    """A flag or a configuration key is unknown, missing or out of range."""

    exit_code = 2


class SourceError(ClcrError):
    """An input cannot be opened or holds nothing that can be used."""

    exit_code = 3


class BundleError(ClcrError):
    """A bundle is missing, altered, of another version or otherwise not what its manifest says."""

    exit_code = 4


class BackendError(ClcrError):
    """No backend can run the bundle's engines, or an engine failed."""

    exit_code = 5


class PublishError(ClcrError):
    """The endpoint cannot be bound or is held by another process."""

    exit_code = 6
