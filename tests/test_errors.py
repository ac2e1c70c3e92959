"""Texts for the user: without credentials, on one line."""

from __future__ import annotations

import pytest

from clcr_stream.errors import one_line, redact


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("rtsp://user:p@ss@cam/live", "rtsp://***@cam/live"),
        ("no rtsp://cam:554/live today", "no rtsp://cam:554/live today"),
        ("http://cam/v?user=joe&password=x1&fps=5", "http://cam/v?user=***&password=***&fps=5"),
        ("http://cam/v?token=abc", "http://cam/v?token=***"),
        ("https://u@h/ and http://a:b@h2/", "https://***@h/ and http://***@h2/"),
    ],
)
def test_credentials_are_redacted(text: str, safe: str) -> None:
    assert redact(text) == safe


def test_messages_are_one_printable_line() -> None:
    assert one_line("a\nb\x1b[31m\tc") == "a b [31m c"
    assert len(one_line("x" * 1000)) == 300
