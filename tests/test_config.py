"""The configuration: flags beat the file, and what is not understood is refused with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcr_stream.config import Config, CurveConfig, load_config
from clcr_stream.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def refusal(path: Path | None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {key.replace("__", "."): value for key, value in flags.items()})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_file_holds_every_key_with_its_default() -> None:
    import yaml

    path = REPOSITORY / "configs" / "default.yaml"
    assert load_config(path, {}) == Config()
    tree = yaml.safe_load(path.read_text())
    config = Config()
    assert {section: set(keys) for section, keys in tree.items()} == {
        section: set(getattr(config, section).__struct_fields__) for section in config.__struct_fields__
    }


def test_a_flag_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "run: {settle_ms: 5, duration_s: 3}\nmodel: {gamma: 0.5}")
    config = load_config(path, {"run.duration_s": 9.0, "run.settle_ms": None})
    assert (config.run.duration_s, config.run.settle_ms, config.model.gamma) == (9.0, 5, 0.5)


def test_a_flag_beats_a_key_of_a_section_within_a_section(tmp_path: Path) -> None:
    path = written(tmp_path, "publish: {stream: a, curve: {secret_file: of file, clients_folder: of file}}")
    publish = load_config(path, {"publish.curve.secret_file": "of flag"}).publish
    assert (publish.stream, publish.curve) == ("a", CurveConfig(secret_file="of flag", clients_folder="of file"))


def test_an_empty_file_and_an_empty_section_mean_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ""), {}) == Config()
    assert load_config(written(tmp_path, "run:\n"), {}) == Config()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("runn: {}", "unknown key runn; allowed here: sources, model, publish, run"),
        ("run: {settle: 5}", "unknown key run.settle; allowed here: settle_ms"),
        ("run: {settle_ms: fast}", "run.settle_ms: Expected `float`"),
        ("publish: {format: xml}", "publish.format"),
        ("run: 5", "run: Expected `object`"),
        ("run: {settle_ms: -1}", "run.settle_ms is -1"),
        ("run: {settle_ms: .nan}", "run.settle_ms is nan"),
        ("run: {duration_s: 0}", "run.duration_s is 0"),
        ("model: {gamma: 5}", "model.gamma is 5"),
        ("publish: {stream: 'a b'}", "publish.stream is 'a b'"),
        ("sources: {input: a.mp4, camera: '0'}", "sources.input replaces"),
        (
            "publish: {curve: {secret: a}}",
            "unknown key publish.curve.secret; allowed here: secret_file, clients_folder",
        ),
        ("publish: {curve: {secret_file: a}}", "needs both secret_file and clients_folder"),
        ("publish: {curve: {clients_folder: a}}", "--curve-secret FILE and --curve-clients DIR"),
        ("run: {quiet: true, quiet: false}", "key 'quiet' appears twice"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("run: !!python/object:os.system {}", "not valid YAML"),
        ("[1, 2]", "must hold sections"),
        ("1: 2", "must hold sections"),
        ("run: {", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("? {a: 1}\n: 2", "not valid YAML"),
        ("# " + "x" * 70_000, "larger than"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(tmp_path: Path, text: str, wanted: str) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert wanted in message
    assert str(path) in message


def test_a_flag_out_of_range_is_refused_like_a_key() -> None:
    assert "model.gamma is 9" in refusal(None, model__gamma=9.0)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(tmp_path / "none.yaml")
    assert "cannot be read" in refusal(tmp_path)
