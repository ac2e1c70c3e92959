"""Fault 10: a camera with a fifth or four times the frames that the model takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcr_stream.cli.main import main
from clcr_stream.wire.messages import Prediction, Status, decode
from tiny_bundle import write_bundle


@pytest.mark.parametrize(("fps", "share"), [(3, 0.2), (60, 1.0)])
def test_windows_are_made_by_time_and_every_frame_is_accounted_for(
    fps: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    write_bundle(tmp_path / "bundle")
    given = ["--bundle", str(tmp_path / "bundle"), "--backend", "null", "--quiet", "--pace", "max"]
    url = f"test://?seconds=6&fps={fps}&transcript=0"
    assert main([*given, "--camera", url, "--mic", "none", "--output", str(tmp_path / "out")]) == 0
    messages = [decode(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    last = [one for one in messages if isinstance(one, Prediction)][-1]
    assert last.modalities.vision.coverage == pytest.approx(share, abs=0.03)
    (source,) = [one for one in messages if isinstance(one, Status)][-1].sources
    counts = source.counts
    assert counts["frames"] == counts["frames_in"] == 6 * fps
    dropped = sum(number for name, number in counts.items() if name.startswith("frames_dropped_"))
    assert counts["frames_in"] == counts["frames_used"] + counts["frames_held"] + dropped
