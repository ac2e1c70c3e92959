"""Engines and the loop of their streams, running on a thread of their own."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace

from clcr_stream.errors import WARNING, BackendError, ClcrError, ConfigError, as_clcr_error
from clcr_stream.inference.choose import WITHOUT_PLANS, EngineOptions
from clcr_stream.inference.engines import open_engines
from clcr_stream.streams.host import Host

MAX_BATCH = 8  # streams in one call of the engines
_LOG = logging.getLogger(__name__)


class Running:
    """Engines, and the thread that runs the loop of their streams."""

    def __init__(self, options: EngineOptions) -> None:
        engines = open_engines(options, say=_log)
        if engines.building is not None:  # no process is started behind a program's back
            engines = replace(engines, building=None, reason=WITHOUT_PLANS)
        self.engines = engines
        self.host = Host(engines, min(options.seats, MAX_BATCH), time.monotonic_ns(), _log, _log)
        self._failure: ClcrError | None = None
        self._process = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="clcr-loop", daemon=True)
        self._thread.start()

    def check(self, name: str) -> None:
        """Raise when the loop has ended, or no stream of this name can begin."""
        self.check_process()
        if self._stop.is_set() or self._failure is not None:
            raise self._failure or ConfigError("these engines are closed; load them again")
        names = [stream.options.name for stream in self.host.streams()]
        if name in names:
            raise ConfigError(f"stream {name} runs already; close it first, or give another name")
        if len(names) >= self.engines.levels.seats:
            raise BackendError(f"all {len(names)} streams are taken; load the engines with streams={len(names) + 1}")

    @property
    def here(self) -> bool:
        """False in a child of the process that has the loop: fork() copies no threads."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """ConfigError in a child of the process that has the loop."""
        if not self.here:
            raise ConfigError(
                f"the engines run in process {self._process}, and this is a fork of it; load them here, "
                'or start processes with multiprocessing\'s "spawn"'
            )

    def close(self) -> None:
        """End every stream, then the loop, then the engines. Idempotent; nothing in a child of this process."""
        if not self.here:
            return
        self._stop.set()
        self.host.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        try:
            self.host.serve(self._stop)
        except BaseException as error:  # the thread's edge: every stream ends with it
            self._failure = as_clcr_error(error, "the loop failed")
            for stream in self.host.streams():
                stream.error = stream.error or self._failure
        finally:
            self.host.close()
            self.engines.close()


def _log(text: str) -> None:
    """A line for a person, with its level."""
    _LOG.log(logging.WARNING if text.startswith(WARNING) else logging.INFO, "%s", text.removeprefix(WARNING))
