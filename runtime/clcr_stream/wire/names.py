"""What a stream may be called: its name is a part of topics and of the socket's path."""

from __future__ import annotations

import re

STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
