"""The soak of ticks: it accounts for every tick, and what grows is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

TICKS = 999

soak_ticks: Any = import_module("soak")
Sample, growth, verdict = soak_ticks.Sample, soak_ticks.growth, soak_ticks.verdict


def soak(tmp_path: Path, ticks: int, streams: int, before: str = "") -> subprocess.CompletedProcess[str]:
    """A soak in a process of its own: what other tests left in pytest's moves the memory that is watched here."""
    arguments = ["--ticks", str(ticks), "--streams", str(streams), "--json", str(tmp_path / "soak.json")]
    code = f"import sys, soak\nsoak.LIFE_TICKS = 100\n{before}\nsys.exit(soak.main({arguments!r}))"
    tools = Path(soak_ticks.__file__).parent
    return subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, text=True, timeout=240)


def test_a_short_soak_publishes_every_tick_of_streams_that_come_and_go(tmp_path: Path) -> None:
    done = soak(tmp_path, TICKS, streams=3)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    assert json.loads(done.stdout)["ticks"] == report["ticks"] == TICKS
    assert report["streams_begun"] > 6
    assert report["grows"] == []
    assert report["ticks_per_s"] > 0
    assert [sample["ticks"] for sample in report["samples"]] == sorted(sample["ticks"] for sample in report["samples"])


KEEPS_EVERY_MESSAGE = """
kept, send = [], soak.Soak.send
def keep(self, message):
    kept.append([message])
    send(self, message)
soak.Soak.send = keep
"""
LOSES_A_PREDICTION = """
from clcr_stream.wire import messages

send = soak.Soak.send
def lose(self, message):
    if not (isinstance(message, messages.Prediction) and message.seq == 7):
        send(self, message)
soak.Soak.send = lose
"""


def test_what_keeps_something_of_every_tick_is_found(tmp_path: Path) -> None:
    done = soak(tmp_path, TICKS, streams=3, before=KEEPS_EVERY_MESSAGE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "objects" in json.loads((tmp_path / "soak.json").read_text())["grows"]


def test_a_tick_that_is_not_published_fails_the_soak(tmp_path: Path) -> None:
    done = soak(tmp_path, ticks=60, streams=2, before=LOSES_A_PREDICTION)
    assert done.returncode == 1
    assert re.search(r"AssertionError: \d+ ticks were due and \d+ published", done.stderr), done.stderr


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
