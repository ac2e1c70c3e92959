"""How this package starts another process of itself."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def command(module: str, call: str) -> list[str]:
    """The command that runs `call()` of a module of this very package, and prints nothing of its own.

    No module is taken from the folder that we happen to be in, where `-c` and `-m` would look first.
    """
    path = f"import sys; sys.path[:] = [{str(Path(__file__).parents[1])!r}, *filter(None, sys.path)]"
    return [sys.executable, "-c", f"{path}; from {module} import {call}; sys.exit({call}())"]


def end_with(parent: int) -> Callable[[], None]:
    """What a child of process `parent` calls first to be killed when the thread that started it ends, however it ends.

    Made before a fork, it may be called between fork and exec: it loads nothing.
    """
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has ended in the meantime
            os._exit(1)

    return bind
