"""A bundle that looks back on another time than it was trained on: exported, proved, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcr_export.cli import main
from clcr_stream.bundle.loader import load_bundle
from tiny_checkpoint import write_tiny_checkpoint


def test_a_bundle_of_another_window_is_proved_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_checkpoint(tmp_path / "checkpoint")
    given = [str(tmp_path / "checkpoint"), "-o", str(tmp_path / "bundle"), "--window", "0.6", "--proof-hops", "8"]
    assert main(given) == 0
    assert "proved" in capsys.readouterr().out
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert (manifest.window_hops, manifest.vision.tokens, manifest.acoustic.tokens) == (3, 9, 15)
    assert manifest.provenance["proof"]["ticks"] == 8


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--window", "0.5"], "--window 0.5: allowed are multiples of 0.2 s up to 20 s"),
        (["--window", "30"], "--window 30: allowed"),
        (["--window", "nan"], "--window nan: allowed"),
        (["--window", "2", "--precision", "fp16"], "--window 2 goes with --precision fp32"),
        (["--window", "2", "--proof-hops", "14"], "--proof-hops 14: at least 15, so that the 10-hop window wraps"),
    ],
)
def test_a_window_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], text: str
) -> None:
    assert main(["checkpoint", "-o", str(tmp_path / "bundle"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
