"""How busy the machine is, for tests whose limits are times: the limit holds for a machine with a core to spare."""

from __future__ import annotations

import os


def slowdown() -> float:
    """How many processes share a core, over the last minute; at least 1, which leaves a limit as sharp as it is."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
