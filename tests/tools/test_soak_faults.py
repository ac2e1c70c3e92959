"""The soak of faults: it befalls a real session, and what does not add up is found."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

soak_faults: Any = import_module("soak_faults")


def test_a_short_soak_befalls_a_session_that_accounts_for_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = soak_faults.soak_faults(0.02, 3, str(tmp_path / "soak.json"))
    result = json.loads((tmp_path / "soak.json").read_text())
    assert code == 0 and result["wrong"] == [], capsys.readouterr().err
    assert sum(result["faults"].values()) >= 1 and result["ticks"]["published"] == result["predictions"] > 10


def test_a_tick_or_a_picture_that_is_lost_is_found() -> None:
    counts = {"frames_in": 9, "frames_used": 5, "frames_held": 1, "frames_dropped_late": 3}
    ticks = {"due": 5, "published": 4, "skipped": {"late": 1}}
    assert soak_faults.accounted({"ticks": ticks, "sources": [{"counts": counts}]}) == []
    assert len(soak_faults.accounted({"ticks": ticks | {"due": 6}, "sources": [{"counts": counts}]})) == 1
    assert len(soak_faults.accounted({"ticks": ticks, "sources": [{"counts": counts | {"frames_in": 10}}]})) == 1


def test_a_prediction_that_is_missing_is_found_unless_its_tick_was_skipped() -> None:
    assert soak_faults.untold([3, 4, 5], 0) == [] and soak_faults.untold([3, 5], 1) == []
    for numbers, skipped in (([3, 5], 0), ([3, 6], 1), ([3, 3, 4], 1), ([4, 3], 1)):
        assert len(soak_faults.untold(numbers, skipped)) == 1
