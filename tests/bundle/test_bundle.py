"""The bundle: what verifies loads, and everything else is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcr_stream.bundle import loader as bundle
from clcr_stream.bundle.loader import default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import MANIFEST_NAME, SpeechSpec, check_manifest, contract, parse_manifest
from clcr_stream.errors import BundleError
from tiny_bundle import tiny_manifest, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    write_bundle(path)
    return path


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads((folder / MANIFEST_NAME).read_text())
    change(tree)
    (folder / MANIFEST_NAME).write_text(json.dumps(tree))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_bundle_loads_with_the_bytes_that_were_hashed(folder: Path) -> None:
    loaded = load_bundle(folder)
    assert set(loaded.files) == {path.name for path in folder.iterdir()} - {MANIFEST_NAME}
    assert loaded.engine_bytes("level2") == (folder / "level2.onnx").read_bytes()
    assert loaded.id == hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()


def test_a_manifest_survives_being_written_and_read(folder: Path) -> None:
    loaded = load_bundle(folder)
    assert parse_manifest((folder / MANIFEST_NAME).read_bytes()) == loaded.manifest
    assert msgspec.structs.replace(loaded.manifest, files={}) == tiny_manifest()


def test_a_swap_after_loading_does_not_change_what_was_loaded(folder: Path) -> None:
    loaded = load_bundle(folder)
    before = loaded.engine_bytes("level1")
    (folder / "level1.onnx").write_bytes(b"something else")
    assert loaded.engine_bytes("level1") == before


def test_a_changed_byte_is_refused_by_its_hash(folder: Path) -> None:
    data = bytearray((folder / "level1.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "level1.onnx").write_bytes(data)
    assert "level1.onnx: sha256" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_truncated_file_is_refused_by_its_size(folder: Path, keep: int) -> None:
    path = folder / "intercad.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    assert "intercad.onnx: bytes is" in refusal(folder)


def test_a_longer_file_is_refused_by_its_size(folder: Path) -> None:
    with (folder / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    assert "tokenizer.json: bytes is" in refusal(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "level3.onnx").unlink()
    assert "level3.onnx: listed" in refusal(folder)


def test_an_extra_file_is_named(folder: Path) -> None:
    (folder / "plan.engine").write_bytes(b"x")
    assert "plan.engine: not listed" in refusal(folder)


def test_a_missing_manifest_is_said(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    assert refusal(folder).endswith("no manifest.json: not a bundle; `clcr-export` makes one")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    assert "cannot be opened as a folder" in refusal(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be opened as a folder" in refusal(tmp_path / "file")


def test_a_symlink_is_refused_even_to_the_right_bytes(folder: Path, tmp_path: Path) -> None:
    (folder / "level1.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "level1.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert "level1.onnx: is a symlink" in refusal(folder)


def test_a_symlinked_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST_NAME).rename(tmp_path / "m.json")
    (folder / MANIFEST_NAME).symlink_to(tmp_path / "m.json")
    assert "manifest.json: is a symlink" in refusal(folder)


def test_a_backup_by_hard_links_does_not_stop_the_next_start(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "backup", copy_function=os.link)
    assert load_bundle(folder) == load_bundle(tmp_path / "backup")


def test_a_folder_of_something_else_is_said_to_be_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "album" / "2025").mkdir(parents=True)
    (tmp_path / "album" / ".DS_Store").touch()
    assert "no manifest.json: not a bundle" in refusal(tmp_path / "album")


def test_a_subfolder_is_refused(folder: Path) -> None:
    (folder / "more").mkdir()
    assert "more: is a folder" in refusal(folder)


def test_a_pipe_is_refused_without_blocking(folder: Path) -> None:
    (folder / "level1.onnx").unlink()
    os.mkfifo(folder / "level1.onnx")
    assert "level1.onnx: is a device, pipe or socket" in refusal(folder)


def test_a_setuid_file_is_refused(folder: Path) -> None:
    (folder / "level1.onnx").chmod(0o4755)
    assert "setuid" in refusal(folder)


@pytest.mark.parametrize("name", ["a b", "x;y", ".DS_Store", "é", "x\ny", "a" * 200])
def test_a_file_of_any_name_that_is_not_listed_is_refused_for_that_reason(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    assert "not listed in manifest.json; remove it" in refusal(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b"])
def test_a_manifest_that_lists_a_path_is_refused(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda tree: tree["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    assert "is not a plain name" in refusal(folder)


def test_an_engine_file_that_is_a_path_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree["engines"]["level1"].update(file="../level1.onnx"))
    assert "files: ../level1.onnx is missing" in refusal(folder)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, True, 1.5])
def test_another_format_version_is_refused(folder: Path, version: object) -> None:
    edit_manifest(folder, lambda tree: tree.update(format=version))
    assert "this runtime reads 2" in refusal(folder)


def test_a_key_that_appears_twice_is_refused(folder: Path) -> None:
    text = (folder / MANIFEST_NAME).read_text()
    (folder / MANIFEST_NAME).write_text(text.replace('"format": 2,', '"format": 2, "format": 2,'))
    assert "'format' appears twice" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"format": NaN}', "[" * 100_000, '{"format": 1}'])
def test_a_manifest_that_is_not_one_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_text(text)
    assert "manifest.json" in refusal(folder)


def test_a_manifest_with_half_of_a_surrogate_pair_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree.update(name="\ud800"))  # JSON writes it as six plain characters
    assert "surrogates not allowed" in refusal(folder)


def test_an_oversized_manifest_is_refused_before_it_is_parsed(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("a") as file:
        file.write(" " * bundle.MAX_MANIFEST_BYTES)
    assert "manifest.json: bytes is" in refusal(folder)


def test_too_many_files_are_refused(folder: Path) -> None:
    for index in range(bundle.MAX_FILES):
        (folder / f"f{index}").touch()
    assert "at most 64" in refusal(folder)


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "unknown field": lambda tree: tree.update(extra=1),
    "hop_ns": lambda tree: tree.update(hop_ns=0),
    "window_hops": lambda tree: tree.update(window_hops=0),
    "labels": lambda tree: tree.update(labels=["one", "one"]),
    "vision.tokens": lambda tree: tree["vision"].update(tokens=91),
    "acoustic.tokens": lambda tree: tree["acoustic"].update(tokens=1),
    "acoustic.mel_frames_per_hop": lambda tree: tree["acoustic"].update(mel_frames_per_hop=19),
    "gamma": lambda tree: tree.update(gamma=-1.0),
    "engines are": lambda tree: tree["engines"].pop("level2"),
    "engines.level1.inputs": lambda tree: tree["engines"]["level1"]["inputs"].pop(0),
    "engines.intercad.outputs": lambda tree: tree["engines"]["intercad"]["outputs"].append(
        {"name": "more", "dtype": "float32", "shape": ["streams", 1]}
    ),
    "is float32 ['streams', 3, 8], the contract has": lambda tree: tree["engines"]["level1"]["inputs"][0].update(
        shape=["streams", 3, 8]
    ),
    "differs from the contract": lambda tree: tree["engines"]["level2"].update(state=[]),
    "a tensor is named twice": lambda tree: tree["engines"]["level3"]["inputs"].append(
        tree["engines"]["level3"]["inputs"][0]
    ),
    "must be equal and fixed": lambda tree: tree["engines"]["level1"]["inputs"][-1].update(shape=["streams", 2]),
    "sha256 must be": lambda tree: tree["files"]["level1.onnx"].update(sha256="0"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_manifest_that_contradicts_itself_or_the_contract_is_refused_by_field(folder: Path, field: str) -> None:
    edit_manifest(folder, CHANGES[field])
    assert field in refusal(folder)


def test_a_regression_bundle_gives_a_value_and_no_labels(tmp_path: Path) -> None:
    write_bundle(tmp_path / "r", task="regression")
    manifest = load_bundle(tmp_path / "r").manifest
    assert manifest.engines["intercad"].outputs[0].name == "value"
    with pytest.raises(BundleError, match="labels"):
        check_manifest(msgspec.structs.replace(manifest, labels=["a", "b"]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**9), value=st.integers(1, 255))
def test_any_changed_manifest_byte_is_refused_or_gives_another_id(folder: Path, position: int, value: int) -> None:
    path = folder / MANIFEST_NAME
    original = path.read_bytes()
    identity = load_bundle(folder).id
    data = bytearray(original)
    data[position % len(data)] ^= value
    path.write_bytes(data)
    try:
        assert load_bundle(folder).id != identity
    except BundleError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(original)


def test_without_a_default_bundle_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "a/b/c/loader.py"))
    with pytest.raises(BundleError, match="--bundle DIR"):
        default_bundle_folder()


@pytest.mark.parametrize(
    ("part", "field", "given", "supported"),
    [
        ("acoustic", "sample_rate_hz", 4_000, "8000 to 48000 Hz"),
        ("acoustic", "sample_rate_hz", 96_000, "8000 to 48000 Hz"),
        ("vision", "rate_hz", 120, "1 to 60 Hz"),
        ("vision", "rate_hz", 0, "1 to 60 Hz"),
    ],
)
def test_a_rate_that_is_not_supported_is_refused_with_what_is(
    part: str, field: str, given: int, supported: str
) -> None:
    manifest = tiny_manifest()
    altered = msgspec.structs.replace(getattr(manifest, part), **{field: given})
    with pytest.raises(BundleError) as caught:
        check_manifest(msgspec.structs.replace(manifest, **{part: altered}))
    assert f"{part}.{field} is {given}; supported are {supported}" in str(caught.value)


# Section and field, the smallest or largest number that may stand there, and the next one that may not.
LIMITS = [
    ("", "hop_ns", 10_000_000_000, 10_000_000_001),
    ("", "window_hops", 10_000, 10_001),
    ("", "gamma", 0.0, -0.125),
    ("", "gamma", 4.0, 4.125),
    ("vision", "size_px", 16, 15),
    ("vision", "size_px", 1024, 1025),
    ("acoustic", "tokens_per_hop", 1, 0),
    ("acoustic", "window_samples", 512, 513),  # fft_samples is 512
    ("acoustic", "window_samples", 160, 159),  # hop_samples is 160
    ("acoustic", "mel_bands", 1, 0),
    ("acoustic", "mel_bands", 1024, 1025),
    ("acoustic", "low_hz", 0.0, -0.5),
    ("acoustic", "low_hz", 7599.5, 7600.0),
    ("acoustic", "high_hz", 8000.0, 8000.5),
    ("acoustic", "log_floor", 1e-30, 0.0),
    ("language", "tokens", 3, 2),
    ("language", "tokens", 4096, 4097),
    ("model", "width", 16384, 16386),
    ("model", "width", 6, 7),
    ("model", "heads", 1, 0),
    ("model", "heads", 4, 3),  # shared_rank is 4
    ("model", "shared_rank", 2, 0),
    ("model", "shared_rank", 6, 8),  # width is 8
    ("model", "private_rank", 1, 0),
    ("model", "private_rank", 7, 8),
    ("model", "position_base", 1.5, 1.0),
]


@pytest.mark.parametrize(("section", "field", "allowed", "refused"), LIMITS)
def test_a_size_is_refused_from_its_limit_on(
    folder: Path, section: str, field: str, allowed: float, refused: float
) -> None:
    """Most sizes contradict something else once they are changed; here only their own limit counts."""
    blamed = {"low_hz": "high_hz", "shared_rank": "heads"}.get(field, field)
    expected = f"{section}.{blamed} is out of range" if section else f"{blamed} is out of range"
    messages = []
    for value in (allowed, refused):

        def change(tree: dict[str, Any], value: float = value) -> None:
            (tree[section] if section else tree)[field] = value

        edit_manifest(folder, change)
        try:
            load_bundle(folder)
        except BundleError as error:
            messages.append(str(error))
        else:
            messages.append("")
    assert expected not in messages[0]
    assert expected in messages[1]


SPEECH = {"steps_per_hop": 10, "width": 384, "period_steps": 1500}


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("steps_per_hop", 5, 0),
        ("steps_per_hop", 15, 12),  # 5 tokens a hop
        ("width", 2, 0),
        ("width", 16384, 16386),
        ("width", 6, 7),
        ("period_steps", 1, 0),
        ("period_steps", 1 << 20, (1 << 20) + 1),
    ],
)
def test_a_size_of_the_speech_encoder_is_refused_from_its_limit_on(
    folder: Path, field: str, allowed: int, refused: int
) -> None:
    messages = []
    for value in (allowed, refused):

        def change(tree: dict[str, Any], value: int = value) -> None:
            tree["acoustic"]["speech"] = SPEECH | {field: value}

        edit_manifest(folder, change)
        messages.append(refusal(folder))  # the engines of the tiny bundle are others: refused in either case
    assert "acoustic.speech is out of range" not in messages[0] and "differs from the contract" in messages[0]
    assert "acoustic.speech is out of range" in messages[1]


def test_a_bundle_with_its_own_stem_says_nothing_of_a_speech_encoder(folder: Path) -> None:
    acoustic = json.loads((folder / MANIFEST_NAME).read_text())["acoustic"]
    assert not {"mel_scale", "speech"} & set(acoustic)


def test_the_speech_encoder_changes_the_shapes_of_sound_and_adds_its_positions_to_level_1() -> None:
    plain = tiny_manifest()
    acoustic = msgspec.structs.replace(plain.acoustic, speech=SpeechSpec(**SPEECH), mel_scale="slaney")
    speech = msgspec.structs.replace(plain, acoustic=acoustic)
    for level, added in ((1, {"speech_position"}), (2, set()), (3, set())):
        (before, _), (after, outputs) = (contract(manifest, f"level{level}") for manifest in (plain, speech))
        assert set(after) - set(before) == added
        assert outputs["acoustic_out"] == ("float32", (10, 384))
        assert after["acoustic_in"][1] == ((20, 64) if level == 1 else (10, 384))
    assert speech.acoustic.mel.mel_scale == "slaney" and plain.acoustic.mel.mel_scale == "htk"
