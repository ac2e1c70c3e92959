"""What is said of live answers: tables of the stored figures, a page that is up to date, and the command itself."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from clcr.training.data.manifest import Row, write_manifest
from media import MediaSpec, write_media
from tiny_bundle import write_bundle

live: Any = import_module("docs.live")
tables: Any = import_module("docs.live_tables")


def scored(name: str, subset: str = "A", **more: Any) -> dict[str, Any]:
    interval = {"accuracy": [0.4, 0.6], "macro_f1": [0.3, 0.7]}
    return {"name": name, "subset": subset, "n": 40, "macro_f1": 0.5, "intervals": interval, "unseen": 0} | more


def moments(**shares: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"after_s": float(at[1:]), "n": 40, "accuracy": new, "still_before": old, "intervals": {"accuracy": [0.1, 0.9]}}
        for at, (new, old) in shares.items()
    ]


PACE: dict[str, Any] = {
    "time_to_first_correct_s": 0.4,
    "time_to_stable_s": 1.2,
    "time_to_stable_correct_s": None,
    "never_correct": 0.25,
    "flips_per_s": 0.5,
    "recovered": 0.6,
}
HELD = [{"hops": 3, "right_at_end": 0.55} | PACE]
BUNDLE = {"bundle": {"sha256": "0123456789abcdef"}}
JOINED = {
    "name": "ravdess",
    "subset": "A",
    "joined": {
        "n": 30,
        "before": PACE | {"by_time": moments(_1=(0.7, 0.0)), "by_held": HELD},
        "after": PACE | {"by_time": moments(_1=(0.2, 0.65), _6=(0.8, 0.05)), "by_held": HELD},
    },
}
CLIPS = scored("ravdess", **PACE, by_time=moments(_1=(0.5, 0.0)), by_time_same=moments(_1=(0.4, 0.0)))
STORED: dict[str, Any] = {
    "times": [BUNDLE | {"sets": [CLIPS]}],
    "joined": [BUNDLE | {"sets": [JOINED]}],
    "people": [BUNDLE | {"sets": [scored("nemo", groups={"sex": {"m": scored("") | {"speakers": 3}}})]}],
    "changed": [
        BUNDLE | {"sets": [scored("javased_av", subset) for subset in ("V", "A")]},
        BUNDLE | {"sets": [scored("javased_av_dark", "V", macro_f1=0.25, unseen=10)]},
    ],
}


def test_the_tables_say_what_was_measured_and_leave_out_what_was_not() -> None:
    text = tables.tables(STORED)
    for line in (
        "| RAVDESS | A | 40 | 0.4 s | 1.2 s | - | 0.25 | 30 |",
        "| RAVDESS | A | 30 |  |  |  | 0.70 |  |  |  |  |  |  | 30 |",
        "| RAVDESS | A | 30 |  /  | 0.20 / 0.65 |  /  |  /  |  /  |  /  | 0.80 / 0.05 | 0.60 | - |",
        "Measured with the bundle 0123456789ab (the",
        "| nEMO | Polish | A | - | 0.50 [0.30, 0.70]; 40 of 3 | 0.50 [0.30, 0.70]; 40 |",
        "| in the dark (a sixteenth of the light) | 0.25 [0.30, 0.70]; 0.25 |",
    ):
        assert line in text
    assert "Windows" not in text and tables.tables({}) == ""
    windows = [BUNDLE | {"window_s": seconds, "sets": [JOINED]} for seconds in (2.0, 6.0)]
    text = tables.tables({"windows": windows})
    assert "| RAVDESS | A | 30 | 2 s | , ,  | 0.20 |  |  | 0.80 |  |  | 0.60 | - | 30, 30 |" in text
    assert text.count("| RAVDESS | A | 30 | 3 | 30 | 0.4 s | 0.25 | - | 0.55 |") == 1  # of the trained window alone


def test_the_picture_is_drawn_from_the_same_figures(tmp_path: Path) -> None:
    tables.draw(STORED, tmp_path / "made" / "live.png")
    assert (tmp_path / "made" / "live.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_up_to_date_with_what_is_stored() -> None:
    assert live.main(["--check"]) == 0


def test_stored_json_is_the_same_and_has_a_line_for_each_moment() -> None:
    assert json.loads(live.lines(STORED)) == STORED
    text = live.lines([{"sets": [scored("ravdess", by_time=moments(_1=(0.5, 0.0)) * 9)]}])
    assert sum(line.lstrip().startswith('{"after_s"') for line in text.splitlines()) == 9
    assert live.rounded({"a": [0.123456, 3, "x"]}) == {"a": [0.1235, 3, "x"]}


@pytest.mark.slow
def test_a_part_is_measured_by_the_command_on_the_sets_of_the_development_data(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    for name in ("nemo", "ased"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_media(tmp_path / "data" / name / "tone.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
        rows = [Row(f"{n}", "tone.wav", "sad", "dev", "s02", "", 0.0, 0.0, "audio") for n in range(3)]
        write_manifest(tmp_path / "cache" / "manifests" / f"{name}.csv", rows)
    place = live.Place(tmp_path / "bundle", tmp_path / "cache", tmp_path / "data")
    (found,) = live.people(place)
    assert [(one["name"], one["n"]) for one in found["sets"]] == [("nemo", 3), ("ased", 3)]
    assert found["sets"][1]["groups"]["sex"]["m"]["n"] == 3  # docs/results/people.csv knows ASED's s02, not nEMO's
    assert found["sets"][0]["groups"] == {}
    assert "confusion" not in found["sets"][0] and found["bundle"]["folder"] == str(tmp_path / "bundle")
