"""The comparison of face finders: its figures follow from what the finders gave."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from clcr_stream.sources.synthetic.source import write_clip
from tiny_yunet import write_yunet

TOOL = Path(__file__).resolve().parents[2] / "tools/bench_faces.py"


@pytest.fixture(scope="module")
def main() -> object:
    sys.path.insert(0, str(TOOL.parent))
    try:
        return runpy.run_path(str(TOOL))["main"]
    finally:
        sys.path.remove(str(TOOL.parent))


def test_both_finders_are_measured_on_every_kind_of_picture(
    main: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    write_clip(tmp_path / "person.mp4", 1.0)
    model = write_yunet(tmp_path / "tiny.onnx")
    out = tmp_path / "faces.json"
    given = ["--media", str(tmp_path), "--frames", "8", "--face-model", str(model), "--json", str(out)]
    assert main(given) == 0
    figures = json.loads(out.read_text())
    kinds = {"as it is", "far", "dim", "tilted", "masked"}
    assert set(figures["cascade"]) == set(figures["yunet"]) == kinds
    assert {one["frames"] for finder in ("cascade", "yunet") for one in figures[finder].values()} == {8}
    assert figures["cascade"]["as it is"]["hit_rate"] == 1.0, "the drawn face is frontal"
    assert figures["cascade"]["as it is"]["jitter_p95"] < 0.1 and figures["cascade"]["as it is"]["ms_mean"] > 0
    shown = capsys.readouterr().out
    assert "cascade  as it is" in shown and "yunet    masked" in shown


def test_nothing_to_measure_is_one_line(main: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    assert main(["--media", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
