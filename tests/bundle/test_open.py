"""The shipped bundle whose weights a company may use: what it was trained on, what it says, its document."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from clcr_stream import Engines

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "docs/results/open"
PERMITTED = {"javased_av", "javased_audio", "emogator", "goemotions", "goemotions_spoken", "nothing"}
TEXTS = {
    "happy": "I love this so much, it made my day",
    "sad": "I miss her so much, I have been crying all night",
    "anger": "I hate these people, they make me furious",
}


def test_it_was_trained_on_permitted_sets_alone() -> None:
    manifest = json.loads((ROOT / "engines/open/manifest.json").read_text(encoding="utf-8"))
    checkpoint = manifest["provenance"]["checkpoint"]
    stages = [yaml.safe_load((RUNS / name / "recipe.yaml").read_text(encoding="utf-8")) for name in ("train", "words")]
    assert checkpoint["train_packs"] == sorted(Path(one["pack"]).name for one in stages[-1]["train"])
    fitted = [name.removesuffix(":dev") for name in checkpoint["temperature"]["fitted_on"]]
    given = [Path(one["pack"]).name for stage in stages for one in stage["train"]] + fitted
    given += [Path(pack).name for stage in stages for pack in (stage["pairs"] or {}).get("nothing", [])]
    assert {name.removesuffix("_whisper") for name in given} - {"pairs"} <= PERMITTED
    assert stages[0]["vision"] == "runs/open/faces/best"
    faces = json.loads((RUNS / "faces/recipe.json").read_text(encoding="utf-8"))
    assert [one["file"] for one in faces["train"]] == ["cache/faces/javased.npz"] and faces["init"] is None
    terms = (ROOT / "engines/open/LICENSES.txt").read_text(encoding="utf-8")
    assert "research" not in terms and "MIT License" in terms


def test_it_tells_plain_feelings_in_words_apart() -> None:
    with Engines.load(ROOT / "engines/open", backend="onnxruntime") as engines:
        for label, text in TEXTS.items():
            with engines.stream(pace="max", modalities=("language",)) as stream:
                stream.push_text(text, 0, stream.session.hop_ns)
                stream.end()
                *_, last = stream
            assert last.label == label, text


def test_the_tables_of_the_documents_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bundles.py", "--check"])
    assert import_module("docs.bundles").main() == 0
