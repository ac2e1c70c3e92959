"""What a stream may be called, as its name is a part of topics and of the socket's path; what a session is called."""

from __future__ import annotations

import re
import secrets

STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_session_id() -> str:
    """64 random bits in hex."""
    return secrets.token_hex(8)
