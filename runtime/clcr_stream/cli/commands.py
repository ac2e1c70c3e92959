"""The names of the commands; a plain `clcr-stream` runs a session."""

from __future__ import annotations

COMMANDS = (
    *("build", "completion", "devices", "doctor", "export", "keys", "models"),
    *("predict", "ps", "replay", "report", "stop", "sub", "top", "view"),
)
