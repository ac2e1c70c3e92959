"""The configuration: a frozen typed tree read from YAML, overridden by flags; the bundle decides the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from clcr_stream.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from clcr_stream.inference.choose import EngineOptions
    from clcr_stream.inference.tensorrt.options import Options as TensorRTOptions
    from clcr_stream.sources.base import SourceSpec
    from clcr_stream.streams.stream import StreamOptions
    from clcr_stream.wire.publisher import PublishOptions

MAX_CONFIG_BYTES = 64 * 1024
EXAMPLE = "configs/default.yaml"
MAX_STREAMS = 1024
_ALLOWED_NAME = "allowed: 1 to 64 of A-Z a-z 0-9 . _ -"
_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    """Where predictions go; a null `bind` is the user's own ipc socket, `output` a file of JSON lines or "-"."""

    bind: str | None = None
    stream: str = "default"
    format: Literal["json", "msgpack"] = "json"
    output: str | None = None
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

    return tuple(
        StreamOptions(
            name=entry.name,
            sources=source_spec(entry.sources),
            publish=publish_options(config.publish, entry.name, entry.bind),
            gamma=config.model.gamma if entry.gamma is None else entry.gamma,
            duration_s=config.run.duration_s if entry.duration_s is None else entry.duration_s,
            settle_ms=config.run.settle_ms,
            output=entry.output,
        )
        for entry in stream_entries(config)
    )


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
    tree = {} if path is None else _read_yaml(Path(path))
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
    return config


def _convert(tree: Any, where: str) -> Config:
    _refuse_unknown_keys(tree, Config, "", where)
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(str(error))}; see {EXAMPLE}") from error


def _refuse_unknown_keys(tree: Any, kind: type[msgspec.Struct], prefix: str, where: str) -> None:
    """msgspec names one unknown field but not the allowed ones, so the walk is ours."""
    if not isinstance(tree, dict):
        return
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {prefix}{key}; allowed here: {', '.join(fields)}; see {EXAMPLE}")
        inner = fields[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _refuse_unknown_keys(value, inner, f"{prefix}{key}.", where)
        elif key == "streams" and isinstance(value, list):
            for index, entry in enumerate(value):
                _refuse_unknown_keys(entry, StreamEntry, f"{prefix}{key}[{index}].", where)


def _plain(message: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.run.settle_ms`" with the path first."""
    text, separator, path = message.partition(" - at `$")
    return f"{path.strip('.`')}: {text}" if separator else text


def _check(config: Config, where: str) -> None:
    run, model = config.run, config.model
    rules = {
        f"run.settle_ms is {run.settle_ms}, allowed 0..5000": 0 <= run.settle_ms <= 5000,
        f"run.duration_s is {run.duration_s}, must be above 0": run.duration_s is None or run.duration_s > 0,
        f"run.max_streams is {run.max_streams}, allowed 1..{MAX_STREAMS}": 1 <= run.max_streams <= MAX_STREAMS,
        f"run.max_batch is {run.max_batch}, allowed 1..{MAX_STREAMS}": 1 <= run.max_batch <= MAX_STREAMS,
        f"model.gamma is {model.gamma}, allowed 0..4": model.gamma is None or 0 <= model.gamma <= 4,
        f"tensorrt.device is {config.tensorrt.device}, must be 0 or above": config.tensorrt.device >= 0,
        f"publish.stream is {config.publish.stream!r}, {_ALLOWED_NAME}": bool(
            _STREAM_NAME.fullmatch(config.publish.stream)
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
        twice = sorted({value for value in given if given.count(value) > 1})
        rules[f"streams: {what} {', '.join(twice)} is given twice, each stream needs its own"] = not twice
    for index, entry in enumerate(streams):
        at = f"streams[{index}]."
        rules[f"{at}name is {entry.name!r}, {_ALLOWED_NAME}"] = bool(_STREAM_NAME.fullmatch(entry.name))
        rules[f"{at}gamma is {entry.gamma}, allowed 0..4"] = entry.gamma is None or 0 <= entry.gamma <= 4
        rules[f"{at}duration_s is {entry.duration_s}, must be above 0"] = (
            entry.duration_s is None or entry.duration_s > 0
        )
        rules |= _source_rules(entry.sources, at)
    return rules


def _read_yaml(path: Path) -> Any:
    """A YAML mapping of plain values: no aliases, no repeated keys, bounded size."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """SafeLoader without the features that let a small file become a large tree."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.MarkedYAMLError(problem=f"key {key!r} appears twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give --config FILE like {EXAMPLE}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; a configuration looks like {EXAMPLE}")
    try:
        tree = yaml.load(text, PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: must hold sections such as sources: and run:; see {EXAMPLE}")
    # A section or a list written with nothing under it is an empty one.
    return {key: ([] if key == "streams" else {}) if value is None else value for key, value in tree.items()}
