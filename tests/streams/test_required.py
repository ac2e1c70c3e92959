"""What --require means: when a modality counts as missing, and that the command ends with its own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import clcr_stream
from clcr_stream.cli.main import main
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, RequiredError
from clcr_stream.streams.required import Required, RequiredWatch, parse_required
from clcr_stream.window.conditions import Condition
from clcr_stream.window.cutter import Chunk, ModalityView
from clcr_stream.window.grid import TimeGrid
from clcr_stream.wire.messages import Prediction, decode
from tiny_bundle import tiny_manifest, write_bundle

GRID = TimeGrid.of(tiny_manifest(), 7 * NS_PER_S)
HOPS_A_SECOND = NS_PER_S // GRID.hop_ns
NOTHING = ModalityView(0.0, None, None, None, 0)
SEEN = replace(NOTHING, seen=3)


def told(views: list[ModalityView], required: Required = Required(("vision",), 2.0)) -> list[tuple[str, ...]]:  # noqa: B008
    watch = RequiredWatch(required, GRID.origin_ns)
    return [watch.missing(Chunk(GRID.tick(number), view, SEEN, [])) for number, view in enumerate(views, 1)]


def test_a_modality_is_missing_once_it_was_not_live_for_so_long() -> None:
    assert told([NOTHING] * 2 * HOPS_A_SECOND) == [()] * (2 * HOPS_A_SECOND - 1) + [("vision",)]


def test_one_picture_in_between_begins_the_time_anew_and_ends_an_alert() -> None:
    away = [NOTHING] * (2 * HOPS_A_SECOND - 1)
    assert set(told([*away, SEEN, *away])) == {()}
    assert told([*away, NOTHING, SEEN])[-2:] == [("vision",), ()]


@pytest.mark.parametrize(
    ("condition", "missing"),
    [("frozen", True), ("covered", True), ("dark", True), ("silent", True), ("noisy", False), ("clipping", False)],
)
def test_data_of_which_nothing_can_be_got_are_missing_and_bad_ones_are_not(condition: Condition, missing: bool) -> None:
    views = [replace(SEEN, condition=condition)] * 3 * HOPS_A_SECOND
    assert (told(views)[-1] == ("vision",)) == missing


def test_a_modality_that_nobody_requires_may_be_missing() -> None:
    assert set(told([NOTHING] * 60, Required(("acoustic",), 2.0))) == {()}


@pytest.mark.parametrize(("text", "seconds", "says"), [
    ("vision,sound", 10.0, "sound cannot be required; allowed are vision and acoustic"),
    ("language", 10.0, "language cannot be required"),
    ("vision", 0.0, "allowed are seconds above 0"),
    ("vision", float("nan"), "allowed are seconds above 0"),
])  # fmt: skip
def test_a_wrong_requirement_is_one_line(text: str, seconds: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_required(text, seconds, ends=True)


def test_modalities_are_taken_in_any_order() -> None:
    assert parse_required("acoustic, vision", 10.0, True).modalities == ("vision", "acoustic")


GIVEN = ("--backend", "null", "--quiet", "--camera", "none", "--mic", "test://?seconds=3", "--pace", "max")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_command_ends_with_its_own_code_and_says_what_is_missing(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*GIVEN, "--bundle", str(bundle), "--require", "vision,acoustic", "--require-s", "1"])
    assert code == RequiredError.exit_code == 8
    error = capsys.readouterr().err
    assert "required and not live for 1 s: vision: no source brings it; run `clcr-stream doctor`" in error
    assert error.count("\n") == 1


def test_with_an_alert_it_goes_on_and_every_prediction_says_so(bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    required = ("--require", "vision", "--require-s", "1", "--require-action", "alert")
    assert main([*GIVEN, "--bundle", str(bundle), *required, "--output", str(output)]) == 0
    messages = [decode(line) for line in output.read_bytes().splitlines()]
    predictions = [message for message in messages if isinstance(message, Prediction)]
    assert ["vision_required" in one.degraded for one in predictions] == [False] * 4 + [True] * 11


def test_a_program_gives_any_key_of_the_configuration_and_a_wrong_one_is_refused(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key sources\.turn"):
        clcr_stream.open(input="test://", bundle=bundle, backend="null", config={"sources.turn": 1})
    given = {"run.require": "vision", "run.require_s": 1.0}
    stream = clcr_stream.open(microphone="test://?seconds=3", pace="max", bundle=bundle, backend="null", config=given)
    with stream, pytest.raises(RequiredError, match="vision: no source brings it"):
        assert len(list(stream)) <= 5
