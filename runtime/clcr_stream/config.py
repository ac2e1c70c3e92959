"""The configuration: a frozen typed tree read from YAML, overridden by flags; the bundle decides the rest."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clcr_stream.config_file import EXAMPLE, read_config_file
from clcr_stream.config_tree import (
    BuilderConfig,
    Config,
    CurveConfig,
    PublishConfig,
    SourcesConfig,
    StreamEntry,
    TensorRTConfig,
)
from clcr_stream.errors import BackendError, ConfigError
from clcr_stream.wire.names import STREAM_NAME

if TYPE_CHECKING:
    from clcr_stream.inference.choose import EngineOptions
    from clcr_stream.inference.tensorrt.options import Options as TensorRTOptions
    from clcr_stream.recording.options import RecordOptions
    from clcr_stream.sources.base import SourceSpec
    from clcr_stream.streams.stream import StreamOptions
    from clcr_stream.wire.keys import CurveServer
    from clcr_stream.wire.publisher import PublishOptions

MAX_STREAMS = 1024
MAX_DURATION_S = 1e9  # 31 years
_ALLOWED_DURATION = "allowed are numbers above 0 up to 1e9"
_ALLOWED_NAME = "allowed: 1 to 64 of A-Z a-z 0-9 . _ -"


def seats_of(config: Config) -> int:
    """Streams that can run at once in this process: a list of streams may grow, a single one may not."""
    return config.run.max_streams if config.streams else 1


def engine_options(config: Config) -> EngineOptions:
    """Which engines a run opens; BackendError for a builder option that TensorRT does not have."""
    from clcr_stream.inference.choose import EngineOptions

    model = config.model
    return EngineOptions(
        bundle=None if model.bundle is None else Path(model.bundle),
        backend=model.backend,
        seats=seats_of(config),
        tensorrt=tensorrt_options(config.tensorrt),
    )


def tensorrt_options(section: TensorRTConfig) -> TensorRTOptions:
    """The section as the backend takes it; BackendError for a builder option it does not have."""
    from clcr_stream.inference.tensorrt.options import BuildOptions, Options

    return Options(
        device=section.device,
        cuda_graph=section.cuda_graph,
        blocking_wait=section.blocking_wait,
        mapped_memory=section.mapped_memory,
        build=BuildOptions.parse(section.builder.given()),
    )


def stream_options(config: Config) -> tuple[StreamOptions, ...]:
    """The streams of a configuration, in its order."""
    from clcr_stream.streams.required import parse_required
    from clcr_stream.streams.stream import StreamOptions
    from clcr_stream.wire.jsonl import Output

    inputs = input_files(config)
    run = config.run
    required = parse_required(run.require, run.require_s, run.require_action == "end")
    return tuple(
        StreamOptions(
            name=entry.name,
            sources=source_spec(entry.sources),
            publish=publish_options(config.publish, entry.name, entry.bind),
            gamma=config.model.gamma if entry.gamma is None else entry.gamma,
            duration_s=config.run.duration_s if entry.duration_s is None else entry.duration_s,
            settle_ms=config.run.settle_ms,
            output=None if entry.output is None else Output(entry.output, config.publish.append, inputs),
            required=required,
            calibrate_s=config.person.calibrate_s if entry.calibrate_s is None else entry.calibrate_s,
            profile=None if entry.profile is None else Path(entry.profile),
            preview=config.publish.preview,
            events=config.publish.events,
            record=record_options(config, entry, inputs),
        )
        for entry in stream_entries(config)
    )


def record_options(config: Config, entry: StreamEntry, inputs: tuple[Path, ...]) -> RecordOptions | None:
    """The recording of one stream, if one is asked for."""
    from clcr_stream.recording.options import DEFAULT_ROTATE, RecordOptions

    if entry.record is None:
        return None
    return RecordOptions(entry.record, config.record.media, config.record.rotate or DEFAULT_ROTATE, inputs)


def only_stream(config: Config, publish: str | None) -> StreamOptions:
    """The one stream of an embedding program; without `publish` it opens no socket."""
    (options,) = stream_options(config)
    return options if publish is not None else replace(options, publish=None)


def input_files(config: Config) -> tuple[Path, ...]:
    """What a run may read: the files named by any of its streams, the bundle's folder and the keys."""
    sources = [entry.sources for entry in stream_entries(config)]
    names = [name for one in sources for name in (one.input, one.camera, one.mic, one.transcript, one.face_model)]
    names += [entry.profile for entry in stream_entries(config)]
    names.append(config.model.bundle)
    curve = curve_server(config.publish.curve)
    keys = () if curve is None else (curve.secret_file, curve.allowed_folder)
    return (*(Path(name.removeprefix("file://")).expanduser() for name in names if name and name != "-"), *keys)


def stream_entries(config: Config) -> tuple[StreamEntry, ...]:
    """The list of streams, or the one that `sources` and `publish` describe."""
    publish = config.publish
    own = StreamEntry(
        name=publish.stream,
        sources=config.sources,
        bind=publish.bind,
        output=publish.output,
        profile=config.person.profile,
        record=config.record.file,
    )
    return config.streams or (own,)


def source_spec(sources: SourcesConfig) -> SourceSpec:
    """What the sources are opened with; a plain run takes the first camera and the default microphone."""
    from clcr_stream.sources.base import SourceSpec, Span
    from clcr_stream.sources.framing import parse_framing

    shared: dict[str, Any] = {
        "transcript": sources.transcript,
        "pace": sources.pace,
        "framing": parse_framing(sources.rotate, sources.flip, sources.region),
        "face_model": None if sources.face_model is None else Path(sources.face_model).expanduser(),
        "span": Span(sources.start_s, sources.end_s, sources.loop),
    }
    if sources.input is not None:
        return SourceSpec(input=sources.input, **shared)
    return SourceSpec(
        camera=sources.camera if sources.camera is not None else "0",
        microphone=sources.mic if sources.mic is not None else "default",
        **shared,
    )


def publish_options(publish: PublishConfig, stream: str, bind: str | None) -> PublishOptions:
    """Where and how a stream is published."""
    from clcr_stream.wire.publisher import PublishOptions

    return PublishOptions(stream=stream, endpoint=bind, format=publish.format, curve=curve_server(publish.curve))


def curve_server(section: CurveConfig) -> CurveServer | None:
    """The publisher's keys; unless told otherwise those may read whom the folder `allowed` beside its secret names."""
    from clcr_stream.wire.keys import ALLOWED, CurveServer, secret_path

    if section.secret_file is None:
        return None
    secret = secret_path(section.secret_file)
    return CurveServer(secret, Path(section.clients_folder) if section.clients_folder else secret.parent / ALLOWED)


def load_config(path: Path | str | None, flags: Mapping[str, Any]) -> Config:
    """The tree of `path` (None: defaults) with `flags` (dotted key -> value, None = not given) laid over it.

    Raises ConfigError naming the file, the path of the key, and what is allowed there.
    """
    where = "flags" if path is None else str(path)
    tree = {} if path is None else read_config_file(Path(path))
    config = _convert(tree, where)
    given = {key: value for key, value in flags.items() if value is not None}
    merged = msgspec.to_builtins(config)
    for key, value in given.items():
        *sections, name = key.split(".")
        branch = merged
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value
    config = _convert(merged, where if not given else f"{where} and flags" if path is not None else where)
    _check(config, where)
    _check_outputs(config, where, path)
    return config


def config_of(
    flags: Mapping[str, Any],
    stream: str,
    gamma: float | None,
    settle_ms: float,
    publish: str | None,
    format: str,
    output: str | None,
) -> Config:
    """The arguments of an embedding program, checked as the flags of the command line are. ConfigError."""
    own = {
        "publish.stream": stream,
        "publish.bind": None if publish == "default" else publish,
        "publish.format": format,
        "publish.output": output,
        "model.gamma": gamma,
        "run.settle_ms": settle_ms,
    }
    return load_config(None, {**flags, **own})


def _convert(tree: Any, where: str) -> Config:
    _refuse_unknown_keys(tree, Config, "", where)
    try:
        return msgspec.convert(_with_devices_as_text(tree), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(str(error))}; see {EXAMPLE}") from error


@functools.cache  # annotations are evaluated anew each time: 4 ms of a stream's start
def _fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _refuse_unknown_keys(tree: Any, kind: type[msgspec.Struct], prefix: str, where: str) -> None:
    """msgspec names one unknown field but not the allowed ones, so the walk is ours."""
    if not isinstance(tree, dict):
        return
    fields = _fields_of(kind)
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {prefix}{key}; allowed here: {', '.join(fields)}; see {EXAMPLE}")
        inner = fields[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _refuse_unknown_keys(value, inner, f"{prefix}{key}.", where)
        elif key == "streams" and isinstance(value, list):
            for index, entry in enumerate(value):
                _refuse_unknown_keys(entry, StreamEntry, f"{prefix}{key}[{index}].", where)


def _with_devices_as_text(tree: Any) -> Any:
    """A tree in which `camera: 0` and `mic: 2` are what they mean, "0" and "2"."""
    if not isinstance(tree, dict):
        return tree
    result = dict(tree)
    if isinstance(tree.get("sources"), dict):
        result["sources"] = {
            key: str(value) if key in ("camera", "mic") and type(value) is int else value
            for key, value in tree["sources"].items()
        }
    if isinstance(tree.get("streams"), list):
        result["streams"] = [_with_devices_as_text(entry) for entry in tree["streams"]]
    return result


def _plain(message: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.run.settle_ms`" with the path first; a hint for YAML's words."""
    text, separator, path = message.partition(" - at `$")
    if text.startswith("Expected `str") and text.endswith(("got `bool`", "got `int`", "got `float`")):
        text += ", as YAML reads on, off, yes, no and numbers; put the value in quotes"
    return f"{path.strip('.`')}: {text}" if separator else text


def _check(config: Config, where: str) -> None:
    run, model = config.run, config.model
    rules = {
        f"run.settle_ms is {run.settle_ms}, allowed 0..5000": 0 <= run.settle_ms <= 5000,
        f"run.duration_s is {run.duration_s}, {_ALLOWED_DURATION}": _is_duration(run.duration_s),
        f"person.calibrate_s is {config.person.calibrate_s}, {_ALLOWED_DURATION}": _is_duration(
            config.person.calibrate_s
        ),
        f"run.max_streams is {run.max_streams}, allowed 1..{MAX_STREAMS}": 1 <= run.max_streams <= MAX_STREAMS,
        f"run.max_batch is {run.max_batch}, allowed 1..{MAX_STREAMS}": 1 <= run.max_batch <= MAX_STREAMS,
        f"model.gamma is {model.gamma}, allowed 0..4": model.gamma is None or 0 <= model.gamma <= 4,
        f"tensorrt.device is {config.tensorrt.device}, must be 0 or above": config.tensorrt.device >= 0,
        f"publish.stream is {config.publish.stream!r}, {_ALLOWED_NAME}": bool(
            STREAM_NAME.fullmatch(config.publish.stream)
        ),
    }
    curve = config.publish.curve
    if curve.secret_file is None and curve.clients_folder is not None:
        raise ConfigError(
            f"{where}: publish.curve.clients_folder (--curve-clients DIR) needs secret_file too (--curve-secret NAME); "
            "make a key with `clcr-stream keys new server`"
        )
    _check_builder(config.tensorrt.builder, where)
    rules |= _source_rules(config.sources, "")
    records = [entry.record for entry in stream_entries(config) if entry.record is not None]
    for name in ("media", "rotate"):
        needless = bool(records) or not getattr(config.record, name)
        rules[f"record.{name} (--record-{name}) needs a recording; give --record FILE.mcap"] = needless
    if config.streams:
        rules |= _stream_rules(config)
    for message, holds in rules.items():
        if not holds:
            raise ConfigError(f"{where}: {message}")


def _is_duration(value_s: float | None) -> bool:
    return value_s is None or 0 < value_s <= MAX_DURATION_S


def _check_outputs(config: Config, where: str, path: Path | str | None) -> None:
    """ConfigError when an output is a file that the run reads; whether it may be written, its opening shows."""
    profiles = {os.path.realpath(entry.profile) for entry in stream_entries(config) if entry.profile is not None}
    for entry in stream_entries(config):
        if entry.output is not None and os.path.realpath(entry.output) in profiles:
            raise ConfigError(f"{where}: {entry.output} is given as output and as profile; give two files")
    outputs = [entry.output for entry in stream_entries(config) if entry.output is not None]
    if outputs:
        from clcr_stream.wire.jsonl import Output, check_inputs

        inputs = (*input_files(config), *(() if path is None else (Path(path),)))
        for target in outputs:
            try:
                check_inputs(Output(target, config.publish.append, inputs))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error


def _check_builder(builder: BuilderConfig, where: str) -> None:
    given = builder.given()
    if given:
        from clcr_stream.inference.tensorrt.options import BuildOptions

        try:
            BuildOptions.parse(given)
        except BackendError as error:
            raise ConfigError(f"{where}: tensorrt.builder: {error}; see {EXAMPLE}") from error


def _source_rules(sources: SourcesConfig, prefix: str) -> dict[str, bool]:
    camera, mic = f"{prefix}sources.camera", f"{prefix}sources.mic"
    return {
        f"{prefix}sources.input replaces {camera} and {mic}; give one or the other": sources.input is None
        or not (sources.camera or sources.mic)
    }


def _stream_rules(config: Config) -> dict[str, bool]:
    """What several streams ask for: their own names, files and endpoints, and nothing that is for a single one."""
    publish, streams = config.publish, config.streams
    names = [entry.name for entry in streams]
    binds = [entry.bind for entry in streams if entry.bind is not None]
    outputs = [entry.output for entry in streams if entry.output is not None]
    profiles = [entry.profile for entry in streams if entry.profile is not None]
    records = [entry.record for entry in streams if entry.record is not None]
    rules = {
        "streams replaces sources (--camera, --mic, --input, --transcript, --pace); put them under each stream": (
            config.sources == SourcesConfig()
        ),
        "streams replaces publish.stream, publish.bind and publish.output (--stream, --bind, --output); each stream "
        "has its own name, bind and output": (publish.stream, publish.bind, publish.output) == ("default", None, None),
        "streams replaces person.profile (--profile); each stream has its own": config.person.profile is None,
        "streams replaces record.file (--record); each stream has its own `record`": config.record.file is None,
        f"{len(streams)} streams, run.max_streams allows {config.run.max_streams}": (
            len(streams) <= config.run.max_streams
        ),
    }
    files = {"output": outputs, "profile": profiles, "record": records}
    for what, given in {"name": names, "bind": binds, **files}.items():
        meant = [os.path.realpath(value) if what in files else value for value in given]  # ./x is x
        twice = sorted({value for value, one in zip(given, meant, strict=True) if meant.count(one) > 1})
        rules[f"streams: {what} {', '.join(twice)} is given twice, each stream needs its own"] = not twice
    for index, entry in enumerate(streams):
        at = f"streams[{index}]."
        rules[f"{at}name is {entry.name!r}, {_ALLOWED_NAME}"] = bool(STREAM_NAME.fullmatch(entry.name))
        rules[f"{at}gamma is {entry.gamma}, allowed 0..4"] = entry.gamma is None or 0 <= entry.gamma <= 4
        rules[f"{at}duration_s is {entry.duration_s}, {_ALLOWED_DURATION}"] = _is_duration(entry.duration_s)
        rules[f"{at}calibrate_s is {entry.calibrate_s}, {_ALLOWED_DURATION}"] = _is_duration(entry.calibrate_s)
        rules |= _source_rules(entry.sources, at)
    return rules
