"""Recordings: what is in them, what becomes of them when a disk is full or a process is killed, and what is refused."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mcap.reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_stream.cli.main import main
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, SourceError
from clcr_stream.recording import recorder as recorder_module
from clcr_stream.recording.file import PartFile
from clcr_stream.recording.options import RecordOptions, check_record, parse_rotation
from clcr_stream.recording.reader import open_recording
from clcr_stream.recording.recorder import Recorder, RecorderHooks
from clcr_stream.wire.schema import json_schema
from media import eventually
from session_messages import prediction, session
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("CLCR_KILLS", "10"))  # 50 for docs/reliability.md
BESIDE = 10  # processes that record at one time
KINDS = {"session", "prediction", "transcript", "status"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorder") / "bundle"
    write_bundle(folder)
    return folder


def record(bundle: Path, *arguments: str | Path, seconds: float = 2.0) -> int:
    """A run of the command in this process, as fast as it goes."""
    given = ["--bundle", str(bundle), "--input", f"test://?seconds={seconds}", "--pace", "max", "--quiet"]
    return main([*given, *map(str, arguments)])


def payloads(path: Path) -> dict[tuple[str, int], bytes]:
    """The messages of a recording by kind and number."""
    found = [entry for entry in open_recording(path).entries() if entry.kind in KINDS]
    return {(entry.kind, json.loads(entry.payload)["seq"]): entry.payload for entry in found}


def alone(part: Path) -> set[tuple[str, int]]:
    """Kind and number of the messages of one part, without those that follow it."""
    with part.open("rb") as file:
        found = mcap.reader.make_reader(file).iter_messages(log_time_order=False)
        kinds = [(channel.topic.rpartition("/")[2], message.sequence) for _, channel, message in found]
    return {(kind, number) for kind, number in kinds if kind in KINDS}


def test_a_recording_holds_the_messages_as_they_were_sent_and_no_media(bundle: Path, tmp_path: Path) -> None:
    path, lines = tmp_path / "a.mcap", tmp_path / "a.jsonl"
    assert record(bundle, "--record", path, "--output", lines, seconds=8.0) == 0
    sent = lines.read_bytes().splitlines()
    numbered = {(json.loads(line)["type"], json.loads(line)["seq"]): line for line in sent}
    assert payloads(path) == numbered and {kind for kind, _ in numbered} == KINDS
    assert all(json.loads(line)["recording"] is True for line in sent)
    assert path.stat().st_mode & 0o777 == 0o600
    # The official reader finds an index, and nothing but the four topics.
    with path.open("rb") as file:
        summary = mcap.reader.make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    assert {channel.topic for channel in summary.channels.values()} == {f"clcr/default/{kind}" for kind in KINDS}
    assert summary.statistics.message_count == len(numbered)
    about = open_recording(path).about
    assert about["media"] == "false" and "CLOCK_MONOTONIC" in about["times"] and about["started_at"]
    status = json.loads(numbered["status", max(number for kind, number in numbered if kind == "status")])
    assert status["record"]["media"] is False and status["record"]["dropped"] == 0 < status["record"]["messages"]


def test_embedded_schemas_have_no_reference_no_alternative_and_every_field(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    assert record(bundle, "--record", path, "--record-media", "--transcript", "auto") == 0
    with path.open("rb") as file:
        reader = mcap.reader.make_reader(file)
        found = {schema.name: json.loads(schema.data) for schema, *_ in reader.iter_messages() if schema is not None}
        file.seek(0)
        held = {
            channel.topic.rpartition("/")[2]: json.loads(message.data) for _, channel, message in reader.iter_messages()
        }

    def check(node: dict[str, object]) -> None:
        assert isinstance(node["type"], str) and not {"$ref", "anyOf", "oneOf", "prefixItems"} & set(node)
        properties = node.get("properties", {})
        assert isinstance(properties, dict)
        for inner in [*properties.values(), *([node["items"]] if "items" in node else [])]:
            check(inner)

    for schema in found.values():
        assert schema["type"] == "object"
        check(schema)
    for kind in KINDS - {"transcript"}:
        assert set(held[kind]) <= set(found[f"clcr-stream.{kind}"]["properties"])
    assert set(found["foxglove.CompressedImage"]["properties"]) >= {"timestamp", "frame_id", "data", "format"}
    assert set(found["clcr-stream.prediction"]["properties"]["probs"]["properties"]) == set(held["session"]["labels"])


def test_media_is_recorded_only_when_asked_for_and_then_said_even_with_quiet(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, full = tmp_path / "plain.mcap", tmp_path / "full.mcap"
    assert record(bundle, "--record", plain) == 0
    assert capfd.readouterr().err == ""
    assert record(bundle, "--record", full, "--record-media") == 0
    assert "RECORDING faces, sound and words" in capfd.readouterr().err
    kinds = Counter(entry.kind for entry in open_recording(full).entries())
    assert kinds["hop"] == 10 and kinds["sound"] == 10 and kinds["face"] == 30
    assert {entry.kind for entry in open_recording(plain).entries()} <= KINDS
    everything = b"".join(entry.payload for entry in open_recording(plain).entries())
    assert b"iVBORw0" not in everything and len(everything) < 100_000  # the beginning of a PNG in base64
    assert main(["--record-media", "--quiet", "--input", "test://"]) == ConfigError.exit_code


def test_a_run_that_was_not_asked_to_writes_no_file(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    assert record(bundle) == 0
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_an_existing_file_an_input_and_a_place_that_is_none_are_refused_and_unchanged(
    bundle: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.mcap"
    kept.write_bytes(b"mine")
    (tmp_path / "link.mcap").symlink_to(tmp_path / "elsewhere.mcap")
    (tmp_path / "talk.2.mcap").write_bytes(b"of another recording")
    for name, why in {
        "kept.mcap": "exists already",
        "link.mcap": "exists already",
        "talk.mcap": "talk.2.mcap is a part of another recording",
        "talk.mp4": "ends in .mcap",
        "no/such.mcap": "there is no folder",
        "bundle/a.mcap": "lies in the bundle",
    }.items():
        (tmp_path / "bundle").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=why):
            check_record(RecordOptions(str(tmp_path / name), inputs=(tmp_path / "bundle",)))
    assert record(bundle, "--record", kept) == ConfigError.exit_code
    assert kept.read_bytes() == b"mine" and not (tmp_path / "elsewhere.mcap").exists()


def test_the_time_in_a_name_gives_each_start_a_file_of_its_own(bundle: Path, tmp_path: Path) -> None:
    assert record(bundle, "--record", tmp_path / "talk-{time}.mcap") == 0
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"talk-20\d{6}T\d{6}Z\.mcap", path.name)
    assert ("session", 1) in payloads(path)


@pytest.mark.parametrize("text", ["", "1", "GiB", "-1GiB", "1 parsec", "1B", "0s", "9999h", "1GiB;2h", "nan s"])
def test_a_limit_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--record-rotate"):
        parse_rotation(text)


def test_limits_of_both_kinds_are_read() -> None:
    assert parse_rotation("10min").seconds == 600 and parse_rotation("10min").bytes == 2**30
    assert (parse_rotation("2h, 1.5MB").bytes, parse_rotation("2h, 1.5MB").seconds) == (1_500_000, 7200)


def test_a_recording_goes_on_in_parts_that_are_read_as_one(bundle: Path, tmp_path: Path) -> None:
    path, lines = tmp_path / "a.mcap", tmp_path / "a.jsonl"
    assert record(bundle, "--record", path, "--record-media", "--record-rotate", "100kB", "--output", lines) == 0
    parts = sorted(tmp_path.glob("a*.mcap"))
    assert len(parts) >= 3 and all(part.stat().st_size < 300_000 for part in parts)
    numbered = {(json.loads(line)["type"], json.loads(line)["seq"]) for line in lines.read_bytes().splitlines()}
    assert set(payloads(path)) == numbered
    assert len([1 for entry in open_recording(path).entries() if entry.kind == "hop"]) == 10
    for part in parts:  # each can be read alone
        assert ("session", 1) in payloads(part)
    with pytest.raises(SourceError, match=r"part 2 of a recording; give its first part, a\.mcap"):
        from clcr_stream.recording.source import open_media

        open_media(str(tmp_path / "a.2.mcap"), "input")
    (tmp_path / "a.2.mcap").unlink()  # what follows a gap is another story
    assert len([1 for entry in open_recording(path).entries() if entry.kind == "hop"]) < 10


def test_a_part_ends_after_its_time_however_little_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recorder] = []

    def now_ns() -> int:
        """A second for each message that is written, the session's of each part too."""
        return (100 + (made[0].state().messages if made else 0)) * NS_PER_S

    monkeypatch.setattr(recorder_module, "time", SimpleNamespace(monotonic_ns=now_ns))
    made.append(Recorder(RecordOptions(str(tmp_path / "a.mcap"), rotate="3s"), RecorderHooks()))
    made[0].write(session())
    for tick in range(1, 6):
        made[0].write(prediction(tick, "happy"))
    made[0].close()
    parts = [tmp_path / name for name in ("a.mcap", "a.2.mcap", "a.3.mcap")]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    found = [sorted(number for kind, number in alone(part) if kind == "prediction") for part in parts]
    assert found == [[1, 2], [3, 4], [5]]
    assert all(("session", 1) in alone(part) for part in parts)
    assert {number for kind, number in payloads(parts[0]) if kind == "prediction"} == set(range(1, 6))


def test_a_full_disk_stops_the_recording_with_one_line_and_not_the_stream(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "a.mcap", tmp_path / "a.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # Python ignores the signal: write fails
    try:
        code = record(bundle, "--record", path, "--record-media", "--output", lines, seconds=4.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 7
    told = [line for line in capfd.readouterr().err.splitlines() if "has stopped" in line]
    assert told == [f"warning: --record {path} has stopped: File too large; the session goes on without it"]
    found = [json.loads(line) for line in lines.read_bytes().splitlines()]
    assert [one["seq"] for one in found if one["type"] == "prediction"] == list(range(1, 21))
    recording = open_recording(path)
    assert all(entry.payload for entry in recording.entries())  # whole messages, and no exception


def test_a_recording_that_stopped_takes_nothing_more_and_is_no_longer_active(tmp_path: Path) -> None:
    told: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = Recorder(RecordOptions(str(tmp_path / "a.mcap")), RecorderHooks(failed=told.append))
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        recorder.write(session())
        for tick in range(1, 400):
            recorder.write(prediction(tick, "happy", 1 / tick))
        eventually(lambda: not recorder.active, 30)
        recorder.write(prediction(400, "happy"))
        recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert recorder.state().failure == "File too large" and len(told) == 1
    assert open_recording(tmp_path / "a.mcap").about["media"] == "false"  # its head is whole


def test_a_disk_that_does_not_answer_costs_messages_that_are_counted_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, taken = threading.Event(), threading.Event()
    add = PartFile.add

    def slow(self: PartFile, stream: str, kind: str, time_ns: int, payload: bytes, sequence: int = 0) -> None:
        taken.set()
        assert answer.wait(30)
        add(self, stream, kind, time_ns, payload, sequence)

    monkeypatch.setattr(PartFile, "add", slow)
    monkeypatch.setattr(recorder_module, "QUEUE_BYTES", 4 * recorder_module.MESSAGE_BYTES)
    recorder = Recorder(RecordOptions(str(tmp_path / "a.mcap")), RecorderHooks())
    recorder.write(session())
    assert taken.wait(30)
    for tick in range(1, 11):
        recorder.write(prediction(tick, "happy"))
    assert recorder.state().dropped == 6 and not recorder.has_room() and recorder.active
    answer.set()
    recorder.close()
    ticks = [json.loads(one.payload)["seq"] for one in open_recording(tmp_path / "a.mcap").entries()][1:]
    assert ticks == [1, 2, 3, 4] and recorder.failure is None


KILLED = """
import os, random, signal, sys, time
from clcr_stream.recording.options import RecordOptions
from clcr_stream.recording.recorder import Recorder, RecorderHooks
from media import eventually
from session_messages import prediction, session
folder, (seed, first, count) = sys.argv[1], map(int, sys.argv[2:])
for number in range(first, first + count):
    if os.fork() == 0:
        recorder = Recorder(RecordOptions(f"{folder}/{number}.mcap"), RecorderHooks())
        log = os.open(f"{folder}/{number}.log", os.O_WRONLY | os.O_CREAT, 0o600)
        recorder.write(session())
        end = time.monotonic() + random.Random(seed + number).uniform(0.0, 4.0)
        tick = 0
        while time.monotonic() < end:
            tick += 1
            recorder.write(prediction(tick, "happy"))
            os.write(log, f"{tick} {time.monotonic_ns()}\\n".encode())
            time.sleep(0.02)
        os.write(log, f"0 {time.monotonic_ns()}\\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
for _ in range(count):
    assert os.wait()[1] == signal.SIGKILL
"""


def test_a_process_killed_at_any_time_loses_no_more_than_the_last_chunk(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = random.randrange(10**6)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT / "tests/support")])}
    for first in range(0, KILLS, BESIDE):
        numbers = (seed, first, min(BESIDE, KILLS - first))
        line = [sys.executable, "-c", KILLED, str(tmp_path), *map(str, numbers)]
        subprocess.run(line, env=environment, check=True, timeout=120)
    lost = []
    for number in range(KILLS):
        logged = [tuple(map(int, line.split())) for line in (tmp_path / f"{number}.log").read_text().splitlines()]
        *written, (_, killed_ns) = logged
        try:
            recording = open_recording(tmp_path / f"{number}.mcap")
        except SourceError:  # killed before its first chunk
            ticks: list[int] = []
        else:
            ticks = [json.loads(one.payload)["seq"] for one in recording.entries() if one.kind == "prediction"]
        assert ticks == list(range(1, len(ticks) + 1)), f"seed {seed}: a gap in {number}"
        missing = [time_ns for tick, time_ns in written if tick > len(ticks)]
        lost.append((killed_ns - min(missing)) / 1e9 if missing else 0.0)
    record_property("killed", {"times": KILLS, "most_lost_s": max(lost), "median_s": sorted(lost)[KILLS // 2]})
    assert max(lost) < 2.5, f"seed {seed}: {lost}"  # a chunk is of 1 s; a busy machine may be late with it


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.9, 0.999])
def test_a_file_cut_anywhere_reads_up_to_its_last_whole_chunk(bundle: Path, tmp_path: Path, share: float) -> None:
    whole, cut = tmp_path / "a.mcap", tmp_path / "b.mcap"
    recorder = Recorder(RecordOptions(str(whole)), RecorderHooks())
    recorder.write(session())
    for tick in range(1, 200):
        recorder.write(prediction(tick, "sad"))
    recorder.close()
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    recording = open_recording(cut)
    ticks = [json.loads(one.payload)["seq"] for one in recording.entries() if one.kind == "prediction"]
    assert ticks == list(range(1, len(ticks) + 1))
    assert recording.notes and "ends in the middle" in recording.notes[0]


def test_a_damaged_chunk_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    recorder = Recorder(RecordOptions(str(path)), RecorderHooks())
    recorder.write(session())
    recorder.write(prediction(1, "sad"))
    recorder.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(data)
    recording = open_recording(path)
    assert list(recording.entries()) == [] and "damaged" in recording.notes[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A recording of a session with three predictions."""
    path = tmp_path_factory.mktemp("small") / "a.mcap"
    recorder = Recorder(RecordOptions(str(path)), RecorderHooks())
    recorder.write(session())
    for tick in (1, 2, 3):
        recorder.write(prediction(tick, "sad"))
    recorder.close()
    return path.read_bytes()


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_whatever_a_file_holds_its_reader_ends_in_messages_or_in_one_line(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(small)
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "changed.mcap"
    path.write_bytes(data)
    try:
        found = [entry.kind for entry in open_recording(path).entries()]
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert len(found) <= 4


def test_a_chunk_that_claims_to_be_huge_is_not_unpacked(tmp_path: Path) -> None:
    import zstandard
    from mcap.data_stream import RecordBuilder
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader

    path = tmp_path / "a.mcap"
    recorder = Recorder(RecordOptions(str(path)), RecorderHooks())
    recorder.write(session())
    recorder.close()
    bomb = zstandard.compress(bytes(300 * 2**20))
    out = bytearray(b"\x89MCAP0\r\n")
    with path.open("rb") as file:
        for record in StreamReader(file, emit_chunks=True).records:
            builder = RecordBuilder()
            if isinstance(record, Chunk):
                Chunk("zstd", bomb, record.message_end_time, record.message_start_time, 0, 100).write(builder)
            else:
                record.write(builder)
            out += builder.end()
    path.write_bytes(out)
    recording = open_recording(path)
    assert list(recording.entries()) == [] and f"{300 * 2**20} bytes" in recording.notes[0]


def test_what_is_no_recording_is_said_in_one_line(tmp_path: Path) -> None:
    for name, data in {"a": b"", "b": b"hello", "c": b"\x89MCAP0\r\n", "d": b"\x89MCAP0\r\n" + b"\xff" * 50}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match="give a file of --record"):
            open_recording(tmp_path / name)
    with pytest.raises(SourceError, match="No such file"):
        open_recording(tmp_path / "e")


def test_a_status_says_what_is_recorded() -> None:
    assert json_schema("status")["$defs"]["Recording"]["required"] == ["media"]
