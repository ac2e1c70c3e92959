"""The configuration: flags beat the file, and what is not understood is refused with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcr_stream.config import load_config, stream_options
from clcr_stream.config_tree import Config, CurveConfig, StreamEntry
from clcr_stream.errors import ConfigError
from clcr_stream.streams.stream import StreamOptions
from clcr_stream.wire.publisher import PublishOptions

REPOSITORY = Path(__file__).resolve().parents[2]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def refusal(path: Path | None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {key.replace("__", "."): value for key, value in flags.items()})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["run: {max_streams: 1024}", "run: {max_batch: 1024}", "run: {settle_ms: 5000}"])
def test_a_number_at_its_limit_is_taken(tmp_path: Path, text: str) -> None:
    load_config(written(tmp_path, text), {})


def test_the_shipped_file_holds_every_key_with_its_default() -> None:
    import yaml

    path = REPOSITORY / "configs" / "default.yaml"
    assert load_config(path, {}) == Config()
    tree = yaml.safe_load(path.read_text())
    config = Config()
    assert tree.pop("streams") == []
    assert set(tree["tensorrt"]["builder"]) == set(config.tensorrt.builder.__struct_fields__)
    assert {section: set(keys) for section, keys in tree.items()} == {
        section: set(getattr(config, section).__struct_fields__)
        for section in config.__struct_fields__
        if section != "streams"
    }


def test_the_shipped_files_name_every_key_of_a_stream() -> None:
    streams = load_config(REPOSITORY / "configs" / "two_cameras.yaml", {}).streams
    assert len(streams) == 2
    text = (REPOSITORY / "configs" / "default.yaml").read_text()
    listed = text.split("a list of {")[1].split("}")[0].split(", ")
    assert set(listed) == set(StreamEntry.__struct_fields__)


def test_a_flag_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "run: {settle_ms: 5, duration_s: 3}\nmodel: {gamma: 0.5}")
    config = load_config(path, {"run.duration_s": 9.0, "run.settle_ms": None})
    assert (config.run.duration_s, config.run.settle_ms, config.model.gamma) == (9.0, 5, 0.5)


def test_builder_options_are_read_as_trtexec_would_read_them(tmp_path: Path) -> None:
    path = written(tmp_path, "tensorrt: {builder: {builderOptimizationLevel: 5, noTF32: false}}")
    builder = load_config(path, {"tensorrt.builder.avgTiming": "8"}).tensorrt.builder
    assert builder.given() == {"builderOptimizationLevel": "5", "avgTiming": "8", "noTF32": "False"}


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
        ("runn: {}", "unknown key runn; allowed here: sources, model, tensorrt, publish, person, record, run, streams"),
        ("run: {settle: 5}", "unknown key run.settle; allowed here: settle_ms"),
        ("run: {settle_ms: fast}", "run.settle_ms: Expected `float`"),
        ("publish: {format: xml}", "publish.format"),
        ("run: 5", "run: Expected `object`"),
        ("run: {settle_ms: -1}", "run.settle_ms is -1"),
        ("run: {settle_ms: .nan}", "run.settle_ms is nan"),
        ("run: {duration_s: 0}", "run.duration_s is 0"),
        ("model: {gamma: 5}", "model.gamma is 5"),
        ("run: {max_streams: 0}", "run.max_streams is 0, allowed 1..1024"),
        ("run: {max_streams: 1025}", "run.max_streams is 1025"),
        ("run: {max_batch: 0}", "run.max_batch is 0, allowed 1..1024"),
        ("tensorrt: {fp16: true}", "unknown key tensorrt.fp16; allowed here: device, cuda_graph, blocking_wait"),
        ("tensorrt: {device: -1}", "tensorrt.device is -1, must be 0 or above"),
        (
            "tensorrt: {builder: {optLevel: 3}}",
            "unknown key tensorrt.builder.optLevel; allowed here: builderOptimizati",
        ),
        ("tensorrt: {builder: {avgTiming: true}}", "tensorrt.builder: builder option avgTiming: 'True' is not a whole"),
        ("tensorrt: {builder: {noTF32: maybe}}", "builder option noTF32: 'maybe' is not true or false"),
        ("streams: 5", "streams: Expected `array`"),
        ("streams: [{sources: {camera: '0'}}]", "missing required field `name`"),
        ("streams: [{name: a}, {name: b, colour: red}]", "unknown key streams[1].colour; allowed here: name, sources"),
        ("streams: [{name: a, sources: {cam: '0'}}]", "unknown key streams[0].sources.cam; allowed here: camera"),
        ("streams: [{name: a}, {name: b}, {name: a}]", "streams: name a is given twice"),
        ("streams: [{name: a, bind: 'tcp://127.0.0.1:1'}, {name: b, bind: 'tcp://127.0.0.1:1'}]", "bind tcp://127"),
        ("streams: [{name: a, output: x}, {name: b, output: x}]", "streams: output x is given twice"),
        ("streams: [{name: a, output: x}, {name: b, output: ./d/../x}]", "streams: output ./d/../x, x is given twice"),
        ("run: {duration_s: .inf}", "run.duration_s is inf, allowed are numbers above 0 up to 1e9"),
        ("run: {duration_s: .nan}", "run.duration_s is nan, allowed are numbers above 0 up to 1e9"),
        ("run: {settle_ms: .nan}", "run.settle_ms is nan, allowed 0..5000"),
        ("streams: [{name: a, duration_s: 1.0e+300}]", "streams[0].duration_s is 1e+300, allowed are"),
        ("publish: {stream: on}", "publish.stream: Expected `str`, got `bool`, as YAML reads on, off, yes, no"),
        ("streams: [{name: 7}]", "streams[0].name: Expected `str`, got `int`, as YAML reads"),
        ("sources: {camera: yes}", "put the value in quotes"),
        ("sources: {camera: 0.5}", "put the value in quotes"),
        ("streams: [{name: a/b}]", "streams[0].name is 'a/b', allowed: 1 to 64 of"),
        ("streams: [{name: ''}]", "streams[0].name is ''"),
        ("streams: [{name: a, gamma: 4.1}]", "streams[0].gamma is 4.1, allowed 0..4"),
        ("streams: [{name: a}, {name: b, duration_s: 0}]", "streams[1].duration_s is 0"),
        ("streams: [{name: a, sources: {input: x, mic: '0'}}]", "streams[0].sources.input replaces streams[0].sourc"),
        ("streams: [{name: a}]\nsources: {camera: '0'}", "streams replaces sources"),
        ("streams: [{name: a}]\npublish: {stream: b}", "streams replaces publish.stream"),
        ("streams: [{name: a}]\npublish: {bind: 'tcp://127.0.0.1:1'}", "streams replaces publish.stream, publish.bind"),
        ("streams: [{name: a}]\npublish: {output: x}", "each stream has its own name, bind and output"),
        ("streams: [{name: a}, {name: b}]\nrun: {max_streams: 1}", "2 streams, run.max_streams allows 1"),
        ("publish: {stream: 'a b'}", "publish.stream is 'a b'"),
        ("sources: {input: a.mp4, camera: '0'}", "sources.input replaces"),
        (
            "publish: {curve: {secret: a}}",
            "unknown key publish.curve.secret; allowed here: secret_file, clients_folder",
        ),
        ("publish: {curve: {clients_folder: a}}", "needs secret_file too (--curve-secret NAME)"),
        ("run: {quiet: true, quiet: false}", "key 'quiet' appears twice"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("run: !!python/object:os.system {}", "not valid YAML"),
        ("[1, 2]", "must hold sections"),
        ("1: 2", "must hold sections"),
        ("run: {", "not valid YAML"),
        ("[" * 1000, "not valid YAML"),
        ("? {a: 1}\n: 2", "not valid YAML"),
        ("# " + "x" * 70_000, "larger than"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(tmp_path: Path, text: str, wanted: str) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert wanted in message
    assert str(path) in message


def test_an_entry_of_streams_has_its_own_and_takes_the_rest_from_model_run_and_publish(tmp_path: Path) -> None:
    text = """
model: {gamma: 0.5}
publish: {format: msgpack}
run: {duration_s: 3, settle_ms: 10}
streams:
  - {name: a, sources: {input: "test://"}}
  - {name: b, gamma: 0, duration_s: 9, bind: "tcp://127.0.0.1:5556", output: b.jsonl}
"""
    (first, first_at), (second, second_at) = published(load_config(written(tmp_path, text), {}))
    assert (first.name, first.gamma, first.duration_s, first.output) == ("a", 0.5, 3, None)
    assert (first_at.stream, first_at.endpoint) == ("a", None)
    assert first.sources.input == "test://"
    assert (second.gamma, second.duration_s, second_at.endpoint) == (0, 9, "tcp://127.0.0.1:5556")
    assert second.output is not None and (second.output.target, second.output.append) == ("b.jsonl", False)
    assert {first_at.format, second_at.format, first.settle_ms, second.settle_ms} == {"msgpack", 10}


def published(config: Config) -> list[tuple[StreamOptions, PublishOptions]]:
    pairs = [(stream, stream.publish) for stream in stream_options(config)]
    return [(stream, publish) for stream, publish in pairs if publish is not None]


def test_without_streams_the_only_one_is_that_of_sources_and_publish(tmp_path: Path) -> None:
    for empty in ("", "streams:\n", "streams: []\n"):
        text = f"{empty}sources: {{camera: test://}}\npublish: {{stream: x, bind: 'tcp://127.0.0.1:1', output: y}}"
        ((only, only_at),) = published(load_config(written(tmp_path, text), {"model.gamma": 2.0}))
        assert (only.name, only_at.endpoint, only.gamma) == ("x", "tcp://127.0.0.1:1", 2.0)
        assert only.output is not None and only.output.target == "y"
        assert only.sources.camera == "test://"


@pytest.mark.parametrize("flag", ["sources__camera", "sources__input", "publish__stream", "publish__output"])
def test_a_flag_for_a_single_stream_contradicts_a_list_of_them(tmp_path: Path, flag: str) -> None:
    assert "streams replaces" in refusal(written(tmp_path, "streams: [{name: a}]"), **{flag: "x"})


def test_a_flag_out_of_range_is_refused_like_a_key() -> None:
    assert "model.gamma is 9" in refusal(None, model__gamma=9.0)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(tmp_path / "none.yaml")
    assert "cannot be read" in refusal(tmp_path)


def test_a_camera_and_a_microphone_may_be_written_as_the_numbers_that_they_are(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "sources: {camera: 0, mic: 2}"), {})
    assert (config.sources.camera, config.sources.mic) == ("0", "2")
    config = load_config(written(tmp_path, "streams: [{name: a, sources: {camera: 1, mic: none}}]"), {})
    assert (config.streams[0].sources.camera, config.streams[0].sources.mic) == ("1", "none")


def test_an_output_is_never_the_configuration_itself_nor_what_another_stream_reads(tmp_path: Path) -> None:
    text = "streams: [{name: a, output: '%s'}, {name: b, sources: {input: '%s'}}]\npublish: {append: true}"
    path = tmp_path / "config.yaml"
    path.touch()
    (tmp_path / "talk.mp4").touch()
    (tmp_path / "link.jsonl").hardlink_to(tmp_path / "talk.mp4")
    assert "the run reads that file" in refusal(written(tmp_path, text % (path, "test://")))
    talk = tmp_path / "talk.mp4"
    assert "the run reads that file" in refusal(written(tmp_path, text % (tmp_path / "link.jsonl", talk)))
    load_config(written(tmp_path, text % (tmp_path / "new.jsonl", talk)), {})


def test_an_output_that_is_a_profile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"publish.output": "me", "person.profile": str(tmp_path / "sub" / ".." / "me")}
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="me is given as output and as profile; give two files"):
        load_config(None, flags)
    entry = "{name: a, sources: {input: x}, output: me}, {name: b, sources: {input: y}, profile: ./me}"
    with pytest.raises(ConfigError, match="as output and as profile"):
        load_config(written(tmp_path, f"streams: [{entry}]"), {})


def test_two_streams_do_not_share_a_profile_and_the_flag_is_for_one_stream(tmp_path: Path) -> None:
    two = "{name: a, sources: {input: x}, profile: me}, {name: b, sources: {input: y}, profile: ./me}"
    with pytest.raises(ConfigError, match=r"streams: profile \./me, me is given twice"):
        load_config(written(tmp_path, f"streams: [{two}]"), {})
    with pytest.raises(ConfigError, match=r"streams replaces person\.profile"):
        load_config(written(tmp_path, "streams: [{name: a, sources: {input: x}}]\nperson: {profile: me}"), {})


def test_a_stream_s_own_calibration_beats_that_of_all(tmp_path: Path) -> None:
    text = (
        "streams: [{name: a, sources: {input: x}}, {name: b, sources: {input: y}, calibrate_s: 3, profile: me}]\n"
        "person: {calibrate_s: 7}"
    )
    first, second = stream_options(load_config(written(tmp_path, text), {}))
    assert (first.calibrate_s, first.profile, second.calibrate_s, second.profile) == (7, None, 3, Path("me"))


def test_each_stream_has_a_recording_of_its_own_and_media_need_one(tmp_path: Path) -> None:
    entries = "{name: a, sources: {input: x}, record: a.mcap}, {name: b, sources: {input: y}, record: %s}"
    with pytest.raises(ConfigError, match=r"streams: record \./a\.mcap, a\.mcap is given twice"):
        load_config(written(tmp_path, f"streams: [{entries % './a.mcap'}]"), {})
    path = written(tmp_path, f"streams: [{entries % 'b.mcap'}]\nrecord: {{media: true, rotate: 10min}}")
    one, other = stream_options(load_config(path, {}))
    assert one.record is not None and other.record is not None
    assert (one.record.target, other.record.target) == ("a.mcap", "b.mcap")
    assert one.record.media and other.record.rotate == "10min"
    with pytest.raises(ConfigError, match=r"streams replaces record\.file \(--record\)"):
        load_config(path, {"record.file": "c.mcap"})
    for flag in ({"record.media": True}, {"record.rotate": "1GiB"}):
        with pytest.raises(ConfigError, match=r"needs a recording; give --record FILE\.mcap"):
            load_config(None, flag)
    (plain,) = stream_options(load_config(None, {"record.file": "a.mcap"}))
    assert plain.record is not None and not plain.record.media and plain.record.rotate == "1GiB,6h"
