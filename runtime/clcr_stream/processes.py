"""How this package starts another process of itself."""

from __future__ import annotations

import sys
from pathlib import Path


def command(module: str, call: str) -> list[str]:
    """The command that runs `call()` of a module of this very package, and prints nothing of its own.

    No module is taken from the folder that we happen to be in, where `-c` and `-m` would look first.
    """
    path = f"import sys; sys.path[:] = [{str(Path(__file__).parents[1])!r}, *filter(None, sys.path)]"
    return [sys.executable, "-c", f"{path}; from {module} import {call}; sys.exit({call}())"]
