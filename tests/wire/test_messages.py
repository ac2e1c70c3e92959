"""The wire's messages: bytes that never change, schemas that are up to date, numbers that are finite or null."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any_text import texts
from clcr_stream.errors import PublishError
from clcr_stream.streams.prediction import top_label
from clcr_stream.wire import messages
from clcr_stream.wire.messages import KINDS, Format, Kind, Message, Prediction, Transcript, decode, encode, kind_of
from clcr_stream.wire.names import new_session_id

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire"
FORMATS: tuple[Format, ...] = ("json", "msgpack")
HEAD: dict[str, Any] = {
    "stream": "default",
    "session": "0123456789abcdef",
    "boot_id": "6a1f6f2e-8f1c-4b3a-9a39-000000000001",
    "published_ns": 12_345_678_901_234,
}
COUNTS = {"used": 90, "late": 1}
SOURCE = messages.Source(
    name="0",
    kind="camera",
    state="live",
    timing=messages.Timing(by="device", delay_ms=31.5, subtracted_ms=31.5, offset_ms=0.0, skew_ppm=-12.5, jumps=1),
    counts=COUNTS,
    since_ns=12_000_000_000_000,
    entered={"starting": 1, "live": 1},
    code="no_data",
)


def tokens(window: messages.Window) -> messages.Tokens:
    """Three of vision, two of sound, one of the words."""
    return messages.Tokens(
        **HEAD,
        seq=42,
        window=window,
        vision=(b"\x00\xff\x80", b"\x01\x02\x03", b"\x00\x00\x00"),
        acoustic=(b"\x10\x20", b"\x30\x40", b"\x50\x60"),
        language=(b"\x00", b"\x00", b"\x00"),
    )


def status() -> messages.Status:
    """A status with every field set."""
    return messages.Status(
        **HEAD,
        seq=9,
        recording=True,
        state="degraded",
        uptime_s=61.5,
        sources=(SOURCE,),
        ticks=messages.Ticks(due=300, published=299, skipped={"late": 1}),
        latency_ms=messages.Latency(p50=70.0, p95=90.0, p99=None),
        rss_mb=210.5,
        degraded=("no transcript",),
        subscribers=2,
        refused_peers=1,
        backend="onnxruntime",
        backend_reason="tensorrt is not installed",
        record=messages.Recording(
            media=True, part=2, bytes=3_000_000, messages=412, dropped=1, failure="No space left"
        ),
    )


FACE = messages.Face(
    box=(0.25, 0.125, 0.5, 0.75),
    track=3,
    size=0.75,
    seen=1,
    landmarks={
        "right_eye": (0.375, 0.25),
        "left_eye": (0.625, 0.25),
        "nose": (0.5, 0.5),
        "mouth_right": (0.375, 0.75),
        "mouth_left": (0.625, 0.75),
    },
)


def samples() -> dict[Kind, Message]:
    """One message of each kind with every field set; the golden files hold their bytes."""
    part = messages.Modality(present=True, quality=0.9, age_ms=12.5, coverage=1.0, weight=0.25, gate=0.5)
    part = msgspec.structs.replace(part, numbers={"luma": 0.5, "sharpness": 120.25, "face_size": None})
    gone = messages.Modality(present=False, quality=None, age_ms=None, coverage=0.0, weight=0.0, gate=0.0)
    rows = ((0.5, 0.25, 0.0), (0.75, 0.5, 0.0), (1.0, 0.125, 0.0))
    session = messages.Session(
        **HEAD,
        seq=1,
        started_at="2026-11-20T18:00:00Z",
        origin_ns=12_000_000_000_000,
        hop_ns=200_000_000,
        window_ns=6_000_000_000,
        task="classification",
        labels=("neutral", "sad"),
        bundle="ab" * 32,
        bundle_name="default",
        backend="onnxruntime",
        versions={"clcr_stream": "0.1.0"},
        sources=(SOURCE,),
        intended_use=messages.IntendedUse(infers_emotion=True, context=("research",), notice="Tell those you watch."),
        begins_s=20.5,
    )
    prediction = Prediction(
        **HEAD,
        seq=42,
        window=messages.Window(start_ns=12_339_000_000_000, end_ns=12_345_000_000_000, filled=1.0),
        captured_ns=12_345_600_000_000,
        latency_ms=78.5,
        probs={"neutral": 0.75, "sad": 0.25},
        label="neutral",
        confidence=0.75,
        levels=messages.Levels(weights=(0.2, 0.3, 0.5), ran=(True, True, False), age_ms=(0.0, 0.0, 200.0)),
        modalities=messages.Modalities(vision=part, acoustic=part, language=gone),
        budget=messages.Budget(gamma=1.0, active=rows, mass=rows),
        timing_ms={"cut": 0.5, "level1": 20.25},
        degraded=("no transcript",),
        bundle="ab" * 32,
        backend="onnxruntime",
        face=FACE,
    )
    transcript = Transcript(
        **HEAD, seq=3, id="7", start_ns=1, end_ns=2, text="grüß Gott, \U0001f600", final=True, revision=2
    )
    event = messages.Event(
        **HEAD,
        seq=2,
        label="sad",
        previous="neutral",
        reason="clear",
        at_ns=12_344_400_000_000,
        previous_s=7.4,
        confidence=0.625,
        tick=42,
    )
    four: list[Message] = [session, prediction, transcript, status()]
    return {kind_of(message): message for message in (*four, tokens(prediction.window), event)}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_message_are_those_of_the_golden_file(kind: Kind, format: Format) -> None:
    golden = (GOLDEN / f"{kind}.{format}").read_bytes()
    assert encode(samples()[kind], format) == golden
    assert decode(golden, format) == decode(golden) == samples()[kind]


@pytest.mark.parametrize("format", FORMATS)
def test_a_status_of_before_there_was_a_choice_of_backends_is_still_read(format: Format) -> None:
    older = decode((GOLDEN / "older" / f"status.{format}").read_bytes(), format)
    assert older == msgspec.structs.replace(
        samples()["status"],
        sources=(messages.Source(name="0", kind="camera", state="live", counts=COUNTS),),
        backend="",
        backend_reason=None,
        record=None,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_messages_of_before_sources_said_since_when_are_still_read(format: Format) -> None:
    source = messages.Source(name="0", kind="camera", state="live", counts=COUNTS)
    session = decode((GOLDEN / "older" / f"session.{format}").read_bytes(), format)
    assert session == msgspec.structs.replace(samples()["session"], sources=(source,), begins_s=0.0)
    prediction = decode((GOLDEN / "older" / f"prediction.{format}").read_bytes(), format)
    assert isinstance(prediction, Prediction)
    assert prediction.face is None and prediction.modalities.vision.numbers == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_satisfies_its_json_schema_and_a_wrong_one_does_not(kind: Kind) -> None:
    schema = json.loads((ROOT / "docs" / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    payload = json.loads(encode(samples()[kind]))
    validator.validate(payload)
    validator.validate({**payload, "added_in_a_later_version": 1})
    assert not validator.is_valid({**payload, "seq": "1"})
    assert not validator.is_valid({name: value for name, value in payload.items() if name != "session"})


def test_the_schema_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools/docs/schema.py"), "--check"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT / "runtime")}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("format", FORMATS)
def test_unknown_fields_are_ignored_and_missing_optional_ones_get_their_defaults(format: Format) -> None:
    fields = json.loads(encode(samples()["transcript"]))
    del fields["revision"], fields["recording"], fields["schema"]
    fields["mood"] = {"deep": [1, 2]}
    codec = msgspec.json if format == "json" else msgspec.msgpack
    message = decode(codec.encode(fields), format)
    assert isinstance(message, Transcript)
    assert (message.revision, message.recording, message.schema) == (0, False, 1)


@pytest.mark.parametrize("format", FORMATS)
def test_a_number_that_is_not_finite_is_null_in_both_formats(format: Format) -> None:
    odd = msgspec.structs.replace(
        samples()["prediction"], probs={"a": float("nan"), "b": np.float32("inf")}, latency_ms=np.float64("-inf")
    )
    message = decode(encode(odd, format), format)
    assert isinstance(message, Prediction)
    assert message.probs == {"a": None, "b": None} and message.latency_ms is None


@pytest.mark.parametrize("format", FORMATS)
def test_numpy_values_arrive_as_plain_numbers(format: Format) -> None:
    levels = messages.Levels(
        weights=np.array([0.5, 0.25, np.nan]),  # type: ignore[arg-type]  # what a careless caller may pass
        ran=(np.bool_(True), True, True),  # type: ignore[arg-type]
        age_ms=(np.float32(0.5), np.int64(2), 0.0),  # type: ignore[arg-type]
    )
    message = decode(encode(msgspec.structs.replace(samples()["prediction"], levels=levels), format), format)
    assert isinstance(message, Prediction)
    assert message.levels == messages.Levels(weights=(0.5, 0.25, None), ran=(True,) * 3, age_ms=(0.5, 2.0, 0.0))
    assert {type(value) for value in message.levels.age_ms} == {float}


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"session": "short"},
        {"levels": 3},
        {"timing_ms": {"a": object()}},
        {"backend": "\ud800"},
        {"seq": 2**80},
        {"captured_ns": -(2**70)},
        {"backend": "x" * (messages.MAX_PAYLOAD_BYTES + 1)},
    ],
)
def test_a_message_that_readers_could_not_read_is_refused_in_one_line(change: dict[str, object]) -> None:
    with pytest.raises(PublishError) as caught:
        encode(msgspec.structs.replace(samples()["prediction"], **change))
    assert "\n" not in str(caught.value) and "Prediction" in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"\x80\x04K\x01.",
        b'{"type":"gossip"}',
        b'{"type":"transcript"}',
        b'{"a":' * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b'{"type":"\xff\xfe"}',
        b" " * (messages.MAX_PAYLOAD_BYTES + 1),
    ],
    ids=lambda payload: f"{len(payload)}:{payload[:12]!r}",
)
def test_a_payload_that_is_not_a_message_is_refused_in_one_line(payload: bytes) -> None:
    with pytest.raises(PublishError) as caught:
        decode(payload)
    assert "\n" not in str(caught.value)


def test_a_later_schema_is_refused_by_name() -> None:
    later = {**json.loads(encode(samples()["transcript"])), "schema": 2}
    with pytest.raises(PublishError, match="schema 2 refused: this version reads schema 1"):
        decode(json.dumps(later).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_publish_error(payload: bytes) -> None:
    try:
        message = decode(payload)
    except PublishError:
        return
    assert messages.kind_of(message) in KINDS


@settings(max_examples=200, deadline=None)
@given(
    text=texts(max_size=80),
    times=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1)),
    probs=st.dictionaries(texts(max_size=8), st.floats(), max_size=6),
    format=st.sampled_from(FORMATS),
)
def test_what_is_encoded_decodes_to_the_same(
    text: str, times: tuple[int, int], probs: dict[str, float], format: Format
) -> None:
    transcript = msgspec.structs.replace(samples()["transcript"], text=text, start_ns=times[0], end_ns=times[1])
    assert decode(encode(transcript, format), format) == transcript
    prediction = decode(encode(msgspec.structs.replace(samples()["prediction"], probs=probs), format), format)
    assert isinstance(prediction, Prediction) and prediction.probs is not None
    finite = {label: value if np.isfinite(value) else None for label, value in probs.items()}
    assert prediction.probs == finite


def test_a_frame_is_topic_space_payload_and_splits_again() -> None:
    data = messages.frame(samples()["status"])
    assert data.startswith(b'clcr/default/status {"type":"status",')
    assert messages.split(data) == (b"clcr/default/status", encode(samples()["status"]))
    with pytest.raises(PublishError, match="no space"):
        messages.split(b"clcr/default/status")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", ".hidden", "x" * 65, "é"])
def test_a_stream_name_that_would_confuse_topics_or_paths_is_refused(name: str) -> None:
    with pytest.raises(PublishError, match="letters, digits"):
        messages.topic(name, "status")


def test_the_top_label_is_null_when_any_probability_is_not_finite() -> None:
    assert top_label({"a": 0.25, "b": float(np.float32(0.75))}) == ("b", 0.75)
    assert top_label({"a": 0.25, "b": float("nan")}) == (None, None)
    assert top_label({}) == (None, None)


def test_session_ids_are_64_bits_and_differ() -> None:
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100 and all(len(value) == 16 and int(value, 16) >= 0 for value in ids)


STRUCTS = [
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == messages.__name__
]


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_part_of_a_message_is_made_by_names_and_never_changes(struct: Any) -> None:
    assert struct.__struct_config__.frozen
    with pytest.raises(TypeError, match="positional"):
        struct(None)


@pytest.mark.parametrize("format", FORMATS)
def test_a_payload_of_the_allowed_size_is_sent_and_read_and_one_byte_more_is_not(format: Format) -> None:
    def of(characters: int) -> Message:
        return msgspec.structs.replace(samples()["transcript"], text="x" * characters)

    fixed = len(encode(of(100_000), format)) - 100_000  # from 64 KiB on, msgpack's lengths have five bytes
    largest = encode(of(messages.MAX_PAYLOAD_BYTES - fixed), format)
    assert len(largest) == messages.MAX_PAYLOAD_BYTES
    assert decode(largest, format) == of(messages.MAX_PAYLOAD_BYTES - fixed)
    with pytest.raises(PublishError, match="bytes"):
        encode(of(messages.MAX_PAYLOAD_BYTES - fixed + 1), format)
    with pytest.raises(PublishError, match="at most"):
        decode(largest + b" ", format)


@pytest.mark.parametrize("time_ns", [2**63, -(2**63) - 1])
def test_a_time_that_64_bits_do_not_hold_is_refused_and_those_beside_it_are_sent(time_ns: int) -> None:
    held = time_ns - 1 if time_ns > 0 else time_ns + 1
    sent = msgspec.structs.replace(samples()["transcript"], start_ns=held)
    assert decode(encode(sent)) == sent
    with pytest.raises(PublishError):
        encode(msgspec.structs.replace(sent, start_ns=time_ns))


@pytest.mark.parametrize("format", FORMATS)
def test_a_count_may_be_zero_and_is_where_a_sender_says_nothing(format: Format) -> None:
    none = msgspec.structs.replace(samples()["status"], refused_peers=0, subscribers=0)
    assert decode(encode(none, format), format) == none
    fields = json.loads(encode(none))
    del fields["refused_peers"]
    assert decode(json.dumps(fields).encode()) == none
