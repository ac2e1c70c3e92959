"""The configuration as a frozen tree of typed sections; docs/guide.md and configs/default.yaml describe the keys."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class SourcesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the data comes from; `input` gives video and sound from one file or URL and replaces camera and mic.

    A null camera or mic is the first camera and the default microphone, unless `input` is given. The transcript `auto`
    is speech recognition where it is installed. Pictures are turned (`rotate`, degrees clockwise), mirrored (`flip`: h,
    v, hv) and cut (`region`: "left,top,width,height" in shares); of a recording `start_s` to `end_s` is played.
    `face_model` is YuNet's file, in place of OpenCV's cascade.
    """

    camera: str | None = None
    mic: str | None = None
    input: str | None = None
    transcript: str = "auto"
    pace: Literal["real", "max"] = "real"
    rotate: int = 0
    flip: str = ""
    region: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    loop: bool = False
    face_model: str | None = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What runs; null means the default bundle and the bundle's own gamma."""

    bundle: str | None = None
    backend: str = "auto"
    gamma: float | None = None


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Encryption, needed off loopback: our secret key (a file, or a NAME of `clcr-stream keys`) and who may read.

    A null `clients_folder` is the folder `allowed` beside the secret.
    """

    secret_file: str | None = None
    clients_folder: str | None = None


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where predictions go; a null `bind` is the user's own ipc socket, `output` a file of JSON lines or "-".

    `append` lets an output grow that holds something already, instead of refusing it. `preview` lets the user's own
    programs see the face crops, `events` also sends changes of expression.
    """

    bind: str | None = None
    stream: str = "default"
    format: Literal["json", "msgpack"] = "json"
    output: str | None = None
    append: bool = False
    preview: bool = False
    events: bool = False
    curve: CurveConfig = CurveConfig()


class RecordConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A recording of the session's messages, `file`.mcap; with `media` also of faces, sound and words.

    `rotate` is when the next part begins: a size, a time or both; null: 1GiB,6h.
    """

    file: str | None = None
    media: bool = False
    rotate: str | None = None


class PersonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of the person, for a bundle that keeps baselines: seconds of calibration, and a file of numbers."""

    calibrate_s: float | None = None
    profile: str | None = None


class StreamEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of several streams in a process; a null `gamma`, `duration_s` or `calibrate_s` is that of its section."""

    name: str
    sources: SourcesConfig = SourcesConfig()
    bind: str | None = None
    output: str | None = None
    gamma: float | None = None
    duration_s: float | None = None
    calibrate_s: float | None = None
    profile: str | None = None
    record: str | None = None


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When ticks happen and when the session ends; a null `duration_s` runs until the input ends or a signal comes.

    `metrics` is an address and port for Prometheus, `log_format` how standard error is written.
    `max_streams` is how many streams may run at once, `max_batch` how many go through a level in one call (1: each
    alone). `require` names modalities, "vision,acoustic", that must be live: after `require_s` without one of them the
    stream ends, or only says so.
    """

    settle_ms: float = 60.0
    duration_s: float | None = None
    quiet: bool = False
    require: str = ""
    require_s: float = 10.0
    require_action: Literal["end", "alert"] = "end"
    metrics: str | None = None
    log_format: Literal["text", "json"] = "text"
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
    person: PersonConfig = PersonConfig()
    record: RecordConfig = RecordConfig()
    run: RunConfig = RunConfig()
    streams: tuple[StreamEntry, ...] = ()
