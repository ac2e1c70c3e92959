"""The set of what shows nothing: sounds, faces and words of every kind, the same for the same seed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcr.training.data.cache import Pack
from clcr.training.data.decode import SAMPLE_RATE_HZ, decode_audio, load_image
from clcr.training.data.manifest import Row, read_manifest, write_manifest
from clcr.training.data.pairs import NOTHING
from clcr.training.data.prepare import prepare
from tiny_tokenizer import tokenizer_json

nothing: Any = import_module("data.nothing")
TEXTS = ("what a day", "leave me alone", "who is there")


def row(identity: str, split: str, kind: str, **more: str) -> Row:
    values = {"media": "", "text": "", **more}
    return Row(id=identity, label="happy", split=split, speaker="", start_s=0.0, end_s=0.0, kind=kind, **values)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    rng = np.random.default_rng(1)
    np.savez(folder / "faces.npz", images=rng.integers(0, 256, (4, 48, 48), np.uint8))
    splits = ("train", "train", "dev", "dev")
    write_manifest(
        folder / "ferplus.csv", [row(f"f{i}", s, "face", media=f"faces.npz#{i}") for i, s in enumerate(splits)]
    )
    words = [row(f"t{i}", s, "text", text=TEXTS[i % 3]) for i, s in enumerate(("train", "train", "dev"))]
    write_manifest(folder / "goemotions.csv", words)
    return folder


def test_sounds_are_of_every_loudness_and_repeat_with_their_seed() -> None:
    sounds = [nothing.sound(np.random.default_rng(seed)) for seed in range(40)]
    levels = [20 * np.log10(np.sqrt(np.mean(heard**2))) for heard in sounds]
    assert min(levels) < -55 and max(levels) > -25
    assert all(1.4 * SAMPLE_RATE_HZ < len(heard) <= 5 * SAMPLE_RATE_HZ and np.isfinite(heard).all() for heard in sounds)
    np.testing.assert_array_equal(sounds[3], nothing.sound(np.random.default_rng(3)))


def test_a_face_that_cannot_be_read_is_not_the_face() -> None:
    rng = np.random.default_rng(1)
    face = np.tile(np.where(np.arange(48) % 8 < 4, 40.0, 200.0), (48, 1))
    for seed in range(20):
        picture = nothing.unreadable(face, np.random.default_rng(seed))
        assert picture.shape == (48, 48) and picture.min() >= 0 and picture.max() <= 255
        inner = picture[12:36, 12:36]
        assert float(np.std(inner - np.mean(inner))) < 0.3 * float(face.std())
    assert nothing.no_face(rng).shape == (48, 48)


def test_the_command_writes_a_set_that_is_prepared_as_others_are(
    tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        nothing, "COUNTS", {"train": {"audio": 6, "face": 8, "text": 10}, "dev": {"audio": 3, "face": 3, "text": 3}}
    )
    out = tmp_path / "nothing"
    assert nothing.main(["--manifests", str(manifests), "--out", str(out)]) == 0
    assert "33 samples" in capsys.readouterr().out
    rows = read_manifest(out / "nothing.csv")
    assert {(r.kind, r.split): sum(o.kind == r.kind and o.split == r.split for o in rows) for r in rows} == {
        (kind, split): count for split, counts in nothing.COUNTS.items() for kind, count in counts.items()
    }
    assert {r.label for r in rows} == {NOTHING}
    assert len(decode_audio(out / rows[0].media, 0.0, 0.0)) > SAMPLE_RATE_HZ
    assert load_image(out, rows[1]).shape == (48, 48, 3)
    known = {word for text in TEXTS for word in text.split()} | {word for f in nothing.FILLERS for word in f.split()}
    assert {word for r in rows for word in r.text.split()} <= known
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes(tokenizer_json())
    pack = Pack(prepare(out / "nothing.csv", out, tmp_path / "packs", tokenizer), "train", (NOTHING,))
    assert len(pack) == 24 and all(pack.holds(name) for name in ("slots", "mel", "tokens"))


def test_without_real_faces_no_set_of_faces_is_needed(
    tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        nothing, "COUNTS", {"train": {"audio": 4, "face": 4, "text": 4}, "dev": {"audio": 2, "face": 2, "text": 2}}
    )
    (manifests / "ferplus.csv").unlink()
    out = tmp_path / "nothing"
    assert nothing.main(["--manifests", str(manifests), "--out", str(out)]) == 2
    assert nothing.main(["--manifests", str(manifests), "--out", str(out), "--no-faces"]) == 0
    assert sum(row.kind == "face" for row in read_manifest(out / "nothing.csv")) == 6


def test_a_missing_set_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nothing.main(["--manifests", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "goemotions.csv" in capsys.readouterr().err
