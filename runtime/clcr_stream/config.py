"""The configuration: a frozen typed tree read from YAML, overridden by flags; the bundle decides the rest."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from clcr_stream.config_file import EXAMPLE, read_config_file
from clcr_stream.errors import BackendError, ConfigError
from clcr_stream.wire.names import STREAM_NAME

if TYPE_CHECKING:
    from clcr_stream.inference.choose import EngineOptions
    from clcr_stream.inference.tensorrt.options import Options as TensorRTOptions
    from clcr_stream.sources.base import SourceSpec
    from clcr_stream.streams.stream import StreamOptions
    from clcr_stream.wire.publisher import PublishOptions

MAX_STREAMS = 1024
MAX_DURATION_S = 1e9  # 31 years
_ALLOWED_DURATION = "allowed are numbers above 0 up to 1e9"
_ALLOWED_NAME = "allowed: 1 to 64 of A-Z a-z 0-9 . _ -"


class SourcesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the data comes from; `input` gives video and sound from one file or URL and replaces camera and mic.

    A null camera or mic is the first camera and the default microphone, unless `input` is given.
    """

    camera: str | None = None
    mic: str | None = None
    input: str | None = None
    transcript: str = "none"
    pace: Literal["real", "max"] = "real"


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What runs; null means the default bundle and the bundle's own gamma."""

    bundle: str | None = None
    backend: str = "auto"
    gamma: float | None = None


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Encryption, needed off loopback: our secret certificate and the folder of the readers' public ones."""

    secret_file: str | None = None
    clients_folder: str | None = None


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where predictions go; a null `bind` is the user's own ipc socket, `output` a file of JSON lines or "-".

    `append` lets an output grow that holds something already, instead of refusing it.
    """

    bind: str | None = None
    stream: str = "default"
    format: Literal["json", "msgpack"] = "json"
    output: str | None = None
    append: bool = False
    curve: CurveConfig = CurveConfig()


class StreamEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of several streams in a process; a null `gamma` or `duration_s` is that of `model` and `run`."""

    name: str
    sources: SourcesConfig = SourcesConfig()
    bind: str | None = None
    output: str | None = None
    gamma: float | None = None
    duration_s: float | None = None


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When ticks happen and when the session ends; a null `duration_s` runs until the input ends or a signal comes.

    `max_streams` is how many streams may run at once, `max_batch` how many go through a level in one call (1: each
    alone).
    """

    settle_ms: float = 60.0
    duration_s: float | None = None
    quiet: bool = False
    max_streams: int = 32
    max_batch: int = 8


BuilderValue: TypeAlias = str | int | bool | None  # a flag is text; what each may be, `BuildOptions.parse` says


class BuilderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What TensorRT's builder may do, under trtexec's names; null leaves its default (TF32 off: float32 is float32)."""

    builderOptimizationLevel: BuilderValue = None
    avgTiming: BuilderValue = None
    maxAuxStreams: BuilderValue = None
    memPoolSize: BuilderValue = None
    tacticSources: BuilderValue = None
    noTF32: BuilderValue = None
    useDLACore: BuilderValue = None
    allowGPUFallback: BuilderValue = None

    def given(self) -> dict[str, str]:
        """Those that are not null, as trtexec would read them."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: str(value) for name, value in values.items() if value is not None}


class TensorRTConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How ticks run on an NVIDIA GPU; see docs/gpu.md."""

    device: int = 0
    cuda_graph: bool = True
    blocking_wait: bool = False
    mapped_memory: bool = False
    builder: BuilderConfig = BuilderConfig()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration: one stream, from `sources` and `publish`, or those listed under `streams`."""

    sources: SourcesConfig = SourcesConfig()
    model: ModelConfig = ModelConfig()
    tensorrt: TensorRTConfig = TensorRTConfig()
    publish: PublishConfig = PublishConfig()
    run: RunConfig = RunConfig()
    streams: tuple[StreamEntry, ...] = ()


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
    from clcr_stream.streams.stream import StreamOptions
    from clcr_stream.wire.jsonl import Output

    inputs = input_files(config)
    return tuple(
        StreamOptions(
            name=entry.name,
            sources=source_spec(entry.sources),
            publish=publish_options(config.publish, entry.name, entry.bind),
            gamma=config.model.gamma if entry.gamma is None else entry.gamma,
            duration_s=config.run.duration_s if entry.duration_s is None else entry.duration_s,
            settle_ms=config.run.settle_ms,
            output=None if entry.output is None else Output(entry.output, config.publish.append, inputs),
        )
        for entry in stream_entries(config)
    )


def input_files(config: Config) -> tuple[Path, ...]:
    """What a run may read: the files named by any of its streams, the bundle's folder and the keys."""
    sources = [entry.sources for entry in stream_entries(config)]
    names = [name for one in sources for name in (one.input, one.camera, one.mic, one.transcript)]
    names += [config.model.bundle, config.publish.curve.secret_file, config.publish.curve.clients_folder]
    return tuple(Path(name.removeprefix("file://")).expanduser() for name in names if name)


def stream_entries(config: Config) -> tuple[StreamEntry, ...]:
    """The list of streams, or the one that `sources` and `publish` describe."""
    publish = config.publish
    return config.streams or (
        StreamEntry(name=publish.stream, sources=config.sources, bind=publish.bind, output=publish.output),
    )


def source_spec(sources: SourcesConfig) -> SourceSpec:
    """What the sources are opened with; a plain run takes the first camera and the default microphone."""
    from clcr_stream.sources.base import SourceSpec

    if sources.input is not None:
        return SourceSpec(input=sources.input, transcript=sources.transcript, pace=sources.pace)
    return SourceSpec(
        camera=sources.camera if sources.camera is not None else "0",
        microphone=sources.mic if sources.mic is not None else "default",
        transcript=sources.transcript,
        pace=sources.pace,
    )


def publish_options(publish: PublishConfig, stream: str, bind: str | None) -> PublishOptions:
    """Where and how a stream is published."""
    from clcr_stream.wire.endpoint import CurveServer
    from clcr_stream.wire.publisher import PublishOptions

    curve, certificates = None, publish.curve
    if certificates.secret_file is not None and certificates.clients_folder is not None:
        curve = CurveServer(Path(certificates.secret_file), Path(certificates.clients_folder))
    return PublishOptions(stream=stream, endpoint=bind, format=publish.format, curve=curve)


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
        f"run.max_streams is {run.max_streams}, allowed 1..{MAX_STREAMS}": 1 <= run.max_streams <= MAX_STREAMS,
        f"run.max_batch is {run.max_batch}, allowed 1..{MAX_STREAMS}": 1 <= run.max_batch <= MAX_STREAMS,
        f"model.gamma is {model.gamma}, allowed 0..4": model.gamma is None or 0 <= model.gamma <= 4,
        f"tensorrt.device is {config.tensorrt.device}, must be 0 or above": config.tensorrt.device >= 0,
        f"publish.stream is {config.publish.stream!r}, {_ALLOWED_NAME}": bool(
            STREAM_NAME.fullmatch(config.publish.stream)
        ),
    }
    curve = config.publish.curve
    if (curve.secret_file is None) != (curve.clients_folder is None):
        raise ConfigError(
            f"{where}: publish.curve needs both secret_file and clients_folder (--curve-secret FILE and "
            "--curve-clients DIR), made as docs/wire.md says"
        )
    _check_builder(config.tensorrt.builder, where)
    rules |= _source_rules(config.sources, "")
    if config.streams:
        rules |= _stream_rules(config)
    for message, holds in rules.items():
        if not holds:
            raise ConfigError(f"{where}: {message}")


def _is_duration(value_s: float | None) -> bool:
    return value_s is None or 0 < value_s <= MAX_DURATION_S


def _check_outputs(config: Config, where: str, path: Path | str | None) -> None:
    """ConfigError when an output is a file that the run reads; whether it may be written, its opening shows."""
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
    rules = {
        "streams replaces sources (--camera, --mic, --input, --transcript, --pace); put them under each stream": (
            config.sources == SourcesConfig()
        ),
        "streams replaces publish.stream, publish.bind and publish.output (--stream, --bind, --output); each stream "
        "has its own name, bind and output": (publish.stream, publish.bind, publish.output) == ("default", None, None),
        f"{len(streams)} streams, run.max_streams allows {config.run.max_streams}": (
            len(streams) <= config.run.max_streams
        ),
    }
    for what, given in (("name", names), ("bind", binds), ("output", outputs)):
        meant = [os.path.realpath(value) if what == "output" else value for value in given]  # ./x is x
        twice = sorted({value for value, one in zip(given, meant, strict=True) if meant.count(one) > 1})
        rules[f"streams: {what} {', '.join(twice)} is given twice, each stream needs its own"] = not twice
    for index, entry in enumerate(streams):
        at = f"streams[{index}]."
        rules[f"{at}name is {entry.name!r}, {_ALLOWED_NAME}"] = bool(STREAM_NAME.fullmatch(entry.name))
        rules[f"{at}gamma is {entry.gamma}, allowed 0..4"] = entry.gamma is None or 0 <= entry.gamma <= 4
        rules[f"{at}duration_s is {entry.duration_s}, {_ALLOWED_DURATION}"] = _is_duration(entry.duration_s)
        rules |= _source_rules(entry.sources, at)
    return rules
