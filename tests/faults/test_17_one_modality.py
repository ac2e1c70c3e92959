"""Fault 17: there is only ever one modality."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcr_stream.cli.main import main
from clcr_stream.wire.messages import Prediction, decode
from tiny_bundle import write_bundle

URL = "test://?seconds=3&transcript=0"


@pytest.mark.parametrize(
    ("given", "present", "absent"),
    [
        (("--camera", URL, "--mic", "none"), "vision", ("acoustic", "language")),
        (("--camera", "none", "--mic", URL), "acoustic", ("vision", "language")),
    ],
)
def test_a_session_with_one_modality_says_which_are_missing_in_every_prediction(
    given: tuple[str, ...],
    present: str,
    absent: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    write_bundle(tmp_path / "bundle")
    fixed = ["--bundle", str(tmp_path / "bundle"), "--backend", "null", "--quiet", "--pace", "max"]
    assert main([*fixed, *given, "--transcript", "none", "--output", str(tmp_path / "out")]) == 0
    messages = [decode(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    predictions = [one for one in messages if isinstance(one, Prediction)]
    assert len(predictions) == 15
    for prediction in predictions:
        assert prediction.degraded == tuple(f"{name}_absent" for name in absent)
        assert prediction.label is not None
        assert getattr(prediction.modalities, present).present
        assert not any(getattr(prediction.modalities, name).present for name in absent)
