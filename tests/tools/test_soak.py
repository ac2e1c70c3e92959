"""The soak of ticks: it accounts for every tick, and what grows is found."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from clcr_stream.wire import messages

TICKS = 1500

soak_ticks: Any = import_module("soak")
Sample, growth, main, verdict = soak_ticks.Sample, soak_ticks.growth, soak_ticks.main, soak_ticks.verdict


def test_a_short_soak_publishes_every_tick_of_streams_that_come_and_go(tmp_path: Path) -> None:
    """In a process of its own: in pytest's, what other tests left behind moves the memory that is watched here."""
    report = tmp_path / "soak.json"
    arguments = ["--ticks", str(TICKS), "--streams", "3", "--json", str(report)]
    code = f"import sys, soak; soak.LIFE_TICKS = 100; sys.exit(soak.main({arguments!r}))"
    tools = Path(soak_ticks.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert json.loads(done.stdout)["ticks"] == found["ticks"] == TICKS
    assert found["streams_begun"] > 6
    assert found["grows"] == []
    assert found["ticks_per_s"] > 0
    assert [sample["ticks"] for sample in found["samples"]] == sorted(sample["ticks"] for sample in found["samples"])


def test_what_keeps_something_of_every_tick_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[messages.Message]] = []
    send = soak_ticks.Soak._send

    def keep(self: Any, message: messages.Message) -> None:
        kept.append([message])
        send(self, message)

    monkeypatch.setattr(soak_ticks.Soak, "_send", keep)
    assert main(["--ticks", str(TICKS), "--streams", "3"]) == 1


def test_a_tick_that_is_not_published_fails_the_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    send = soak_ticks.Soak._send

    def lose(self: Any, message: messages.Message) -> None:
        if not (isinstance(message, messages.Prediction) and message.seq == 7):
            send(self, message)

    monkeypatch.setattr(soak_ticks.Soak, "_send", lose)
    with pytest.raises(AssertionError, match="ticks were due and"):
        main(["--ticks", "60", "--streams", "2"])


def samples(**slopes: float) -> list[Any]:
    """64 samples to 10^6 ticks; the first quarter warms up."""
    found = []
    for index in range(64):
        ticks = (index + 1) * 15625
        grown = {name: int(100 + slope * max(0.25, ticks / 1e6)) for name, slope in slopes.items()}
        found.append(Sample(ticks=ticks, **({"rss_mb": 80, "fds": 8, "threads": 3, "objects": 9} | grown)))
    return found


@pytest.mark.parametrize(
    ("slopes", "grows"),
    [
        ({}, []),
        ({"rss_mb": 4.0}, []),
        ({"rss_mb": 40.0}, ["rss_mb"]),
        ({"objects": 5000.0}, ["objects"]),
        ({"fds": 10.0}, ["fds"]),
        ({"threads": 10.0}, ["threads"]),
    ],
)
def test_growth_beyond_the_limits_is_named(slopes: dict[str, float], grows: list[str]) -> None:
    assert verdict(samples(**slopes))["grows"] == grows


def test_growth_is_the_slope_of_the_second_half() -> None:
    assert growth(samples(objects=5000.0), "objects") == pytest.approx(5000.0, rel=0.01)
