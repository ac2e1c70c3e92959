"""What goes over the wire: six messages, their bytes and their topics.

A frame is `topic + b" " + payload`, one ZeroMQ frame per message, because a conflating reader drops all but one frame
of a multipart message. Topics are `clcr/<stream>/session|prediction|transcript|status|tokens|event`; payloads are JSON
or msgpack.

Every `*_ns` is the monotonic clock of the host whose `boot_id` the message carries; wall clock appears once, in
Session. A number that is not finite is sent as null, in both formats. Fields are only ever added, with defaults, and
unknown fields are ignored, so that either end may be the older one. Modalities are in the order vision, acoustic,
language; levels 1, 2, 3.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from clcr_stream.errors import PublishError
from clcr_stream.wire.names import STREAM_NAME

SCHEMA = 1
MAX_PAYLOAD_BYTES = 1 << 20
_SHA256 = r"^[0-9a-f]{64}$"

Format = Literal["json", "msgpack"]
Kind = Literal["session", "prediction", "transcript", "status", "tokens", "event"]
KINDS: tuple[Kind, ...] = ("session", "prediction", "transcript", "status", "tokens", "event")

Number: TypeAlias = float | None  # null: not finite, not measured or not applicable
Triple: TypeAlias = tuple[Number, Number, Number]
Table: TypeAlias = tuple[Triple, Triple, Triple]  # [level][modality]
Sha256: TypeAlias = Annotated[str, Meta(pattern=_SHA256)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Alphas: TypeAlias = tuple[bytes, bytes, bytes]  # by level
Landmark = Literal["right_eye", "left_eye", "nose", "mouth_right", "mouth_left"]  # right: the person's own
Ns: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # what every reader's integers hold


class Header(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message begins with.

    `session` is 64 random bits in hex, new at each start; `seq` strictly increases per topic within a session. A
    message made with seq 0 is numbered by the publisher; on the wire seq is at least 1. `recording` says that a
    recording is being made: of the messages, or of faces, sound and words too, as the status says.
    """

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    stream: Annotated[str, Meta(min_length=1, max_length=64)]
    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    boot_id: str
    published_ns: Ns
    recording: bool = False


class Timing(Struct, frozen=True, kw_only=True):
    """How a live source knows when its data were captured: by the device's own stamps, or only when they arrived.

    `delay_ms` lies between them (of a stream its part that varies), of which `subtracted_ms` is taken off the arrival;
    `offset_ms` is the host's clock minus the device's, `skew_ppm` how much faster that runs, `jumps` its steps.
    """

    by: Literal["device", "arrival"] = "arrival"
    delay_ms: Number = None
    subtracted_ms: float = 0.0
    offset_ms: Number = None
    skew_ppm: Number = None
    jumps: Count = 0


class Source(Struct, frozen=True, kw_only=True):
    """One input: `kind` is camera, microphone, file, transcript...; `counts` hold frames and drops by reason.

    `state` has lasted since `since_ns`; `entered` counts how often each state has begun. `code` says in a word of a
    closed set what `reason` says in a line. docs/wire.md lists the states and codes.
    `timing` is of live cameras, microphones and streams.
    """

    name: str
    kind: str
    state: str = "unknown"
    reason: str | None = None
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    since_ns: Ns | None = None
    entered: dict[str, int] = msgspec.field(default_factory=dict)
    timing: Timing | None = None
    code: str | None = None


class IntendedUse(Struct, frozen=True, kw_only=True):
    """The bundle's declared use, repeated to every reader."""

    infers_emotion: bool
    context: tuple[str, ...]
    notice: str


class Session(Header, frozen=True, kw_only=True, tag="session"):
    """Sent once at start and re-sent to late joiners: what the stream's predictions mean.

    `started_at` is the wall clock, ISO 8601 in UTC, at monotonic `origin_ns`, the zero of the tick grid. `begins_s` is
    where in the recording that lies of which a part is played; 0 of anything else, and in a loop.
    """

    started_at: str
    origin_ns: Ns
    hop_ns: Annotated[int, Meta(gt=0)]
    window_ns: Annotated[int, Meta(gt=0)]
    task: Literal["classification", "regression"]
    labels: tuple[str, ...]
    bundle: Sha256
    bundle_name: str
    backend: str
    versions: dict[str, str]
    sources: tuple[Source, ...]
    intended_use: IntendedUse
    begins_s: float = 0.0


class Window(Struct, frozen=True, kw_only=True):
    """The half-open interval of capture time that a prediction is about; `filled` is its share after the origin."""

    start_ns: Ns
    end_ns: Ns
    filled: Number = None


class Levels(Struct, frozen=True, kw_only=True):
    """Levels 1, 2, 3: InterCAD's weights omega, whether each ran at this tick, and the age of its result in ms."""

    weights: Triple
    ran: tuple[bool, bool, bool]
    age_ms: Triple


class Modality(Struct, frozen=True, kw_only=True):
    """One modality: in the window at all, quality and coverage 0..1, age of its newest data, beta and eta.

    `weight` is InterCAD's attention beta, `gate` its gate eta. `numbers` measure what was captured. Vision, means of
    the newest hop: luma 0..1, sharpness (variance of the face's Laplacian), face_size (share of the picture's height).
    Acoustic: level_dbfs of the newest hop; noise_dbfs, snr_db and speech_share 0..1 of the window.
    """

    present: bool
    quality: Number
    age_ms: Number
    coverage: Number
    weight: Number
    gate: Number
    numbers: dict[str, Number] = msgspec.field(default_factory=dict)


class Modalities(Struct, frozen=True, kw_only=True):
    """The three modalities by name."""

    vision: Modality
    acoustic: Modality
    language: Modality


class Budget(Struct, frozen=True, kw_only=True):
    """What the exchange spent, [level][modality]: share of valid tokens with alpha > 0, and the sum of alpha."""

    gamma: Number
    active: Table
    mass: Table


class Face(Struct, frozen=True, kw_only=True):
    """The newest face of the newest hop.

    `box` is left, top, width and height in shares of the picture as it was searched (turned, mirrored, cut); null for
    a face that the program cut out itself. `track` stays while it is the same face and rises when it may be another's;
    `size` is the box's height, `seen` how many faces the picture shows. `landmarks`, x and y in such shares, come from
    YuNet (`--face-model`) alone, while it sees the face.
    """

    box: tuple[float, float, float, float] | None
    track: Count
    size: Number
    seen: Count
    landmarks: dict[Landmark, tuple[float, float]] | None = None


class Prediction(Header, frozen=True, kw_only=True, tag="prediction"):
    """One tick's answer; `seq` is the tick's number, so a gap is a skipped tick or a message this reader did not get.

    Classification: `probs` by label, `label` the most probable and `confidence` its probability, both null when a
    probability is not finite or no modality is present. Regression: `value`, null likewise. `captured_ns` is the
    capture time of the newest datum used and `latency_ms` runs from there to `published_ns`. `degraded` names what is
    not as it should be; empty when all is well. `timing_ms`: cut, language, one value per engine (or one, `tick`, where
    the backend runs them as one), total; and batch, the streams in the call whose times these are.
    """

    window: Window
    captured_ns: Ns
    latency_ms: Number
    probs: dict[str, Number] | None = None
    label: str | None = None
    confidence: Number = None
    value: Number = None
    levels: Levels
    modalities: Modalities
    budget: Budget
    timing_ms: dict[str, Number]
    degraded: tuple[str, ...]
    bundle: Sha256
    backend: str
    face: Face | None = None


class Transcript(Header, frozen=True, kw_only=True, tag="transcript"):
    """One segment of text as the model got it; a message with the same `id` and a higher `revision` replaces it."""

    id: str
    start_ns: Ns
    end_ns: Ns
    text: str
    final: bool
    revision: Count = 0


class Ticks(Struct, frozen=True, kw_only=True):
    """The account of ticks since the start: due = published + the sum of skipped, by reason."""

    due: Count
    published: Count
    skipped: dict[str, int]


class Latency(Struct, frozen=True, kw_only=True):
    """Percentiles of `latency_ms` over the recent predictions; null before the first."""

    p50: Number = None
    p95: Number = None
    p99: Number = None


class Recording(Struct, frozen=True, kw_only=True):
    """The recording that is being made: with `media`, faces, sound and words are in it too.

    `bytes` and `messages` are those of all its parts; `dropped` were too many for the disk. After a `failure` nothing
    more is recorded.
    """

    media: bool
    part: Count = 1
    bytes: Count = 0
    messages: Count = 0
    dropped: Count = 0
    failure: str | None = None


class Status(Header, frozen=True, kw_only=True, tag="status"):
    """The heartbeat, one per second, and the goodbye; the publisher fills in `subscribers` and `refused_peers`.

    `record` is null when no recording was asked for. `backend` runs the engines; `backend_reason` says why it is not
    TensorRT where that was left to the runtime, and how far its plans are. Nothing is wrong when it is set.
    """

    state: Literal["starting", "running", "degraded", "goodbye"]
    uptime_s: float
    sources: tuple[Source, ...]
    ticks: Ticks
    latency_ms: Latency
    rss_mb: Number = None
    degraded: tuple[str, ...] = ()
    subscribers: int | None = None
    refused_peers: Count = 0
    backend: str = ""
    backend_reason: str | None = None
    record: Recording | None = None


class Tokens(Header, frozen=True, kw_only=True, tag="tokens"):
    """How much each token of a prediction's window takes part; `seq` is that prediction's.

    Sent only while somebody subscribes to this very topic, and never written to a file. Per modality and level one
    byte a token, round(255 * alpha), oldest first, 0 for an absent one; in JSON as base64.
    """

    window: Window
    vision: Alphas
    acoustic: Alphas
    language: Alphas


class Event(Header, frozen=True, kw_only=True, tag="event"):
    """The expression has changed from `previous`, which lasted `previous_s`, to `label`, null when none is clear.

    `reason`: a label is clear, none is (unclear), nobody is there (absent), or it may be somebody else (person). The
    change began with the window that ended `at_ns`, before the event, which the prediction of seq `tick` completed.
    """

    label: str | None
    previous: str | None
    reason: Literal["clear", "unclear", "absent", "person"]
    at_ns: Ns
    previous_s: Number = None
    confidence: Number = None
    tick: Count = 0


Message: TypeAlias = Session | Prediction | Transcript | Status | Tokens | Event
TYPES: dict[Kind, type[Message]] = {
    "session": Session,
    "prediction": Prediction,
    "transcript": Transcript,
    "status": Status,
    "tokens": Tokens,
    "event": Event,
}
_from_json = msgspec.json.Decoder(Message)
_from_msgpack = msgspec.msgpack.Decoder(Message)


def encode(message: Message, format: Format = "json") -> bytes:
    """The payload of a message, proved to be readable: what is returned decodes to what a reader will see.

    NumPy scalars and arrays become plain numbers and lists. JSON comes first in both formats because it is where
    msgspec turns NaN and infinity into null; its shortest-digits floats come back exactly. Raises PublishError when a
    field does not fit the schema, a text is not valid Unicode or the payload is over MAX_PAYLOAD_BYTES.
    """
    try:
        payload = msgspec.json.encode(message, enc_hook=_plain)
        checked = _from_json.decode(payload)
        if format == "msgpack":
            payload = msgspec.msgpack.encode(checked)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PublishError(
            f"{type(message).__name__}: cannot be sent: {error}; see docs/wire.md for its fields"
        ) from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PublishError(
            f"{type(message).__name__}: {len(payload)} bytes, {MAX_PAYLOAD_BYTES} are allowed; shorten its text"
        )
    return payload


def decode(payload: bytes, format: Format | None = None) -> Message:
    """The message in a payload; without `format` its first byte tells. Raises PublishError on anything else."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PublishError(f"payload of {len(payload)} bytes refused: at most {MAX_PAYLOAD_BYTES} are allowed")
    decoder = _from_json if (format or format_of(payload)) == "json" else _from_msgpack
    try:
        message: Message = decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PublishError(f"payload refused: {error}; is it a clcr-stream message? see docs/wire.md") from None
    if message.schema != SCHEMA:
        raise PublishError(
            f"payload of schema {message.schema} refused: this version reads schema {SCHEMA}; upgrade clcr-stream"
        )
    return message


def format_of(payload: bytes) -> Format:
    """JSON objects begin with a brace, msgpack maps never do."""
    return "json" if payload[:1] == b"{" else "msgpack"


def topic(stream: str, kind: Kind) -> bytes:
    """`clcr/<stream>/<kind>`; PublishError for a name that would make topics ambiguous."""
    if not STREAM_NAME.fullmatch(stream):
        raise PublishError(
            f"stream {stream!r}: a name is 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return f"clcr/{stream}/{kind}".encode()


def kind_of(message: Message) -> Kind:
    """The last part of the message's topic, which is also its `type`."""
    kind = type(message).__struct_config__.tag
    return next(name for name in KINDS if name == kind)


def frame(message: Message, format: Format = "json") -> bytes:
    """The one ZeroMQ frame of a message: topic, one space, payload. Raises PublishError like `encode` and `topic`."""
    return topic(message.stream, kind_of(message)) + b" " + encode(message, format)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Topic and payload of a frame; raises PublishError when there is no space in it."""
    name, space, payload = data.partition(b" ")
    if not space:
        raise PublishError(f"frame of {len(data)} bytes refused: no space between topic and payload")
    return name, payload


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a number, text, list or table")
