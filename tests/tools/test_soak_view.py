"""The soak of the dashboard: a real one beside real sessions, and what grows is found."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

soak_view: Any = import_module("soak_view")


def test_a_short_soak_tells_the_page_of_the_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = soak_view.soak_view(0.06, 3, str(tmp_path / "soak.json"))
    result = json.loads((tmp_path / "soak.json").read_text())
    assert code == 0 and result["wrong"] == [], (result, capsys.readouterr().err)
    assert result["page_predictions"] > 5 and result["visits"] >= 1 and result["mb_an_hour"] is None


def samples(minutes: int, **slopes: float) -> list[dict[str, float]]:
    """Flat but for what grows by so much a minute."""
    flat = {"rss_mb": 50.0, "fds": 25.0, "threads": 5.0}
    return [
        {"minute": minute} | {name: value + minute * slopes.get(name, 0.0) for name, value in flat.items()}
        for minute in range(minutes)
    ]


def test_what_grows_once_ten_minutes_are_kept_is_found() -> None:
    assert soak_view.verdict(samples(30)) == {"mb_an_hour": pytest.approx(0.0, abs=1e-6), "grows": []}
    assert soak_view.verdict(samples(30, rss_mb=0.1))["grows"] == ["rss_mb"]
    assert soak_view.verdict(samples(30, fds=1.0, threads=1.0))["grows"] == ["fds", "threads"]


def test_the_first_minutes_and_pages_that_come_and_go_are_not_growth() -> None:
    filling = samples(30)
    for sample in filling:
        sample["rss_mb"] += 2 * min(sample["minute"], 11.0)
        sample["fds"] += 3 * (sample["minute"] % 3 == 0)
    assert soak_view.verdict(filling)["grows"] == []
    assert soak_view.verdict(samples(16, rss_mb=5.0)) == {"mb_an_hour": None, "grows": []}, "too short to say"
