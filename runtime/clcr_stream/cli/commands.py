"""The names of the commands; a plain `clcr-stream` runs a session."""

from __future__ import annotations

COMMANDS = (
    *("build", "devices", "doctor", "export", "keys", "models"),
    *("predict", "replay", "report", "sub", "top", "view"),
)
