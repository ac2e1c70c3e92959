"""`python -m clcr_stream` as a user runs it: a clip in, predictions out, and every bad input one line and one code.

What does not depend on the process runs in this one (`inside`), which takes a fifth of the time of a process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import clcr_stream
from clcr_stream.cli.main import main
from clcr_stream.sources.files import FileSource
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from clcr_stream.wire import messages
from clcr_stream.wire.client import Subscriber
from crowd import slowdown
from media import MediaSpec, corrupt_middle, write_media, write_text
from tiny_bundle import write_bundle

SECONDS = 2.0
TICKS = 10
RUNTIME = str(Path(clcr_stream.__file__).parents[1])
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e2e")
    write_bundle(folder / "bundle")
    write_clip(folder / "clip.mp4", SECONDS, PersonOptions(fps=15))
    (folder / "words.jsonl").write_text('{"start_s": 0.2, "end_s": 1.0, "text": "hello there"}\n')
    (folder / "run").mkdir(mode=0o700)
    return folder


class Command:
    """Runs the command with the tiny bundle and the test's own folder for sockets."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = os.environ | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(place / "run")}

    def line(self, *arguments: str | Path, bundle: Path | None = None) -> list[str]:
        folder = bundle if bundle is not None else self.place / "bundle"
        return [sys.executable, "-m", "clcr_stream", "--bundle", str(folder), *map(str, arguments)]

    def run(
        self, *arguments: str | Path, bundle: Path | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.line(*arguments, bundle=bundle),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.line(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )

    def summary(self, *arguments: str | Path) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


class Inside(Command):
    """The same in this process: what is printed is still taken where the libraries would print it."""

    def __init__(self, place: Path, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__(place)
        self._capture = capture

    def run(
        self, *arguments: str | Path, bundle: Path | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        assert stdin == "", "only a process has a standard input of its own"
        line = self.line(*arguments, bundle=bundle)[3:]
        self._capture.readouterr()
        code = main(line)
        printed = self._capture.readouterr()
        return subprocess.CompletedProcess(line, code, printed.out, printed.err)


@pytest.fixture(scope="module")
def command(place: Path) -> Command:
    return Command(place)


@pytest.fixture
def inside(place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    return Inside(place, capfd)


def predictions(path: Path) -> list[messages.Prediction]:
    decoded = [messages.decode(line) for line in path.read_bytes().splitlines()]
    return [message for message in decoded if isinstance(message, messages.Prediction)]


def source(summary: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(found for found in summary["sources"] if found["kind"] == kind)


def test_a_clip_at_both_paces_gives_the_same_predictions_apart_from_the_clock(command: Command, place: Path) -> None:
    found = {}
    for pace in ("max", "real"):
        output = place / f"{pace}.jsonl"
        given = ("--input", place / "clip.mp4", "--transcript", place / "words.jsonl", "--pace", pace)
        summary = command.summary(*given, "--output", output)
        assert summary["ticks"] == TICKS == summary["published"] + sum(summary["skipped"].values())
        assert summary["first_prediction_s"] < 5.0 * slowdown()
        assert summary["peak_rss_mb"] < 400
        found[pace] = predictions(output)
    assert [prediction.seq for prediction in found["max"]] == list(range(1, TICKS + 1))
    by_seq = {prediction.seq: timeless(prediction) for prediction in found["max"]}
    # A starved machine may skip ticks at real pace; those that are published must be the same.
    assert len(found["real"]) > TICKS // 3
    for prediction in found["real"]:
        assert timeless(prediction) == by_seq[prediction.seq]
    last = found["max"][-1]
    assert (last.modalities.vision.coverage or 0.0) > 0.3
    assert last.modalities.acoustic.coverage == pytest.approx(SECONDS / 6, abs=0.02)
    assert last.modalities.language.present
    assert last.degraded == ()


def timeless(prediction: messages.Prediction) -> messages.Prediction:
    """Without its session and clocks: times count from the session's origin, a hop before the first tick."""
    origin_ns = prediction.window.end_ns - prediction.seq * 200_000_000
    window = msgspec.structs.replace(
        prediction.window, start_ns=prediction.window.start_ns - origin_ns, end_ns=prediction.window.end_ns - origin_ns
    )
    return msgspec.structs.replace(
        prediction,
        session="0" * 16,
        published_ns=0,
        latency_ms=None,
        timing_ms={},
        captured_ns=prediction.captured_ns - origin_ns,
        window=window,
        modalities=_rounded(prediction.modalities),
    )


def _rounded(modalities: messages.Modalities) -> messages.Modalities:
    """Ages are differences of rounded nanoseconds."""
    parts = {
        name: msgspec.structs.replace(part, age_ms=None if part.age_ms is None else round(part.age_ms, 4))
        for name in ("vision", "acoustic", "language")
        for part in [getattr(modalities, name)]
    }
    return messages.Modalities(**parts)


def test_the_output_holds_all_topics_and_ends_with_the_goodbye(inside: Inside, place: Path) -> None:
    output = place / "all.jsonl"
    given = ("--input", place / "clip.mp4", "--transcript", place / "words.jsonl", "--pace", "max")
    inside.summary(*given, "--output", output)
    decoded = [messages.decode(line) for line in output.read_bytes().splitlines()]
    kinds = [messages.kind_of(message) for message in decoded]
    assert kinds[0] == "session"
    assert kinds.count("transcript") == 1
    assert isinstance(decoded[-1], messages.Status)
    assert decoded[-1].state == "goodbye"
    assert decoded[-1].ticks.published == TICKS


def test_stdout_takes_the_output_alone(command: Command, place: Path) -> None:
    done = command.run(
        "--input", place / "clip.mp4", "--transcript", "none", "--pace", "max", "--output", "-", "--format", "msgpack"
    )
    lines = done.stdout.splitlines()
    assert sum('"type":"prediction"' in line for line in lines) == TICKS
    assert all(messages.decode(line.encode()) for line in lines)


def test_a_subscriber_reads_what_a_session_publishes_and_its_goodbye(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    process = command.start("--camera", "test://", "--mic", "test://", "--stream", "watched", "--quiet")
    with process, Subscriber(stream="watched", topics=("prediction", "status")) as subscriber:
        first = subscriber.receive(timeout_ms=20_000)
        assert first is not None
        assert first.message.stream == "watched"
        process.send_signal(signal.SIGTERM)
        asked_ns = time.monotonic_ns()
        states = [first]
        while not (isinstance(states[-1].message, messages.Status) and states[-1].message.state == "goodbye"):
            got = subscriber.receive(timeout_ms=5000)
            assert got is not None, "no goodbye"
            states.append(got)
        assert process.wait(10) == 0
        assert (time.monotonic_ns() - asked_ns) / 1e9 < 4.0 * slowdown()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_session_with_zero_and_its_summary(command: Command, number: signal.Signals) -> None:
    process = command.start("--camera", "test://", "--mic", "none", "--stream", f"stopped-{number}", "--json")
    with process:
        assert process.stderr is not None and process.stdout is not None
        assert "publishing clcr/" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(10) == 0
        summary = json.loads(process.stdout.read())
    assert summary["ticks"] == summary["published"] + sum(summary["skipped"].values())


def test_memory_stays_small_and_torch_is_never_loaded(command: Command, place: Path) -> None:
    process = command.start(
        "--camera", "test://", "--mic", "test://", "--stream", "small", "--output", place / "small.jsonl"
    )
    with process:
        watched = psutil.Process(process.pid)
        assert wait_for(lambda: (place / "small.jsonl").exists() and len(predictions_so_far(place / "small.jsonl")) > 3)
        assert watched.memory_info().rss < 400e6
        loaded = {Path(region.path).name for region in watched.memory_maps()}
        assert not [name for name in loaded if "torch" in name]
        assert watched.net_connections("inet") == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def predictions_so_far(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if b'"type":"prediction"' in line]


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Poll what happens in another process and announces itself nowhere."""
    deadline_ns, pause = time.monotonic_ns() + int(timeout_s * 1e9), threading.Event()
    while time.monotonic_ns() < deadline_ns:
        if condition():
            return True
        pause.wait(0.02)
    return False


def bad_media(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    match kind:
        case "not-media":
            write_text(path)
        case "zero-length":
            path.touch()
        case "folder":
            path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize("kind", ["missing", "not-media", "zero-length", "folder"])
def test_a_bad_input_is_one_line_and_code_3(inside: Inside, place: Path, kind: str) -> None:
    path = bad_media(kind, place)
    refused(inside.run("--input", path), 3, path.name)


def refused(done: subprocess.CompletedProcess[str], code: int, wanted: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("clcr-stream: error: ")
    assert done.stderr.count("\n") == 1
    assert wanted in done.stderr


def test_video_without_sound_runs_with_sound_absent(inside: Inside, place: Path) -> None:
    path = write_media(place / "silent.mp4", MediaSpec(seconds=1.0, rate_hz=0))
    output = place / "silent.jsonl"
    assert inside.summary("--input", path, "--pace", "max", "--output", output)["published"] == 5
    assert {prediction.modalities.acoustic.present for prediction in predictions(output)} == {False}


def test_sound_without_video_runs_with_video_absent(inside: Inside, place: Path) -> None:
    path = write_media(place / "sound.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
    output = place / "sound.jsonl"
    assert inside.summary("--input", path, "--pace", "max", "--output", output)["published"] == 5
    assert {prediction.degraded for prediction in predictions(output)} == {("vision_absent", "language_absent")}


def test_a_file_that_is_corrupt_in_the_middle_goes_on_and_counts(inside: Inside, place: Path) -> None:
    whole = write_media(place / "whole.mkv", MediaSpec(seconds=3.0))
    path = corrupt_middle(place / "corrupt.mkv", whole)
    summary = inside.summary("--input", path, "--pace", "max")
    counts = source(summary, "file")["counts"]
    assert summary["published"] >= 10
    assert counts["decode_errors"] + (90 - counts["frames"]) > 0
    assert counts["frames_in"] == counts["frames_used"] + counts["frames_held"] + sum(
        number for name, number in counts.items() if name.startswith("frames_dropped_")
    )


def test_an_unknown_config_key_is_code_2_with_its_path(inside: Inside, place: Path) -> None:
    path = place / "bad.yaml"
    path.write_text("run: {hop_ms: 100}\n")
    refused(inside.run("--config", path), 2, f"{path}: unknown key run.hop_ms; allowed here: settle_ms")


def break_hash(folder: Path) -> None:
    data = bytearray((folder / "level2.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "level2.onnx").write_bytes(data)


def break_version(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def break_with_symlink(folder: Path) -> None:
    (folder / "level2.onnx").rename(folder.parent / "moved.onnx")
    (folder / "level2.onnx").symlink_to(folder.parent / "moved.onnx")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "hash": (break_hash, "level2.onnx: sha256"),
    "version": (break_version, "format is 99"),
    "missing": (lambda folder: (folder / "level3.onnx").unlink(), "level3.onnx: listed"),
    "extra": (lambda folder: (folder / "extra.onnx").touch(), "extra.onnx: not listed"),
    "symlink": (break_with_symlink, "level2.onnx: is a symlink"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_wrong_bundle_is_code_4_before_any_device_is_opened(
    inside: Inside, place: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(place / "bundle", tmp_path / "bundle")
    spoil, wanted = BROKEN[kind]
    spoil(tmp_path / "bundle")
    refused(inside.run("--camera", "/dev/video97", "--mic", "none", bundle=tmp_path / "bundle"), 4, wanted)


def test_an_endpoint_in_use_is_code_6_and_the_first_session_goes_on(
    command: Command, inside: Inside, place: Path
) -> None:
    first = command.start("--camera", "none", "--mic", "test://", "--bind", "tcp://127.0.0.1:*", "--stream", "first")
    with first:
        assert first.stderr is not None
        endpoint = first.stderr.readline().split()[-1]
        refused(inside.run("--camera", "none", "--mic", "test://", "--bind", endpoint), 6, endpoint)
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0


def test_a_stream_name_in_use_is_code_6(command: Command, inside: Inside) -> None:
    first = command.start("--camera", "none", "--mic", "test://", "--stream", "taken")
    with first:
        assert first.stderr is not None
        assert "taken.sock" in first.stderr.readline()
        refused(inside.run("--camera", "none", "--mic", "test://", "--stream", "taken"), 6, "in use by process")
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0


def test_no_camera_and_no_microphone_wait_as_absent_and_say_so(command: Command, place: Path) -> None:
    output = place / "absent.jsonl"
    given = ("--camera", "/dev/video97", "--mic", "name:no such microphone", "--duration", "1.4")
    done = command.run(*given, "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    for told in (
        "camera /dev/video97: absent: no such camera; looking every second, ",
        "microphone name:no such microphone: absent: ",
    ):
        assert done.stderr.count(told) == 1
    summary = json.loads(done.stdout)
    assert summary["published"] >= 1
    assert {prediction.degraded for prediction in predictions(output)} == {("no_input",)}
    assert {prediction.label for prediction in predictions(output)} == {None}
    for kind in ("camera", "microphone"):
        assert source(summary, kind)["reason"]
    statuses = [line for line in output.read_bytes().splitlines() if b'"type":"status"' in line]
    assert any(b'"state":"absent"' in line for line in statuses)


def test_malformed_transcript_lines_are_skipped_and_counted(inside: Inside, place: Path) -> None:
    path = place / "mixed.jsonl"
    path.write_text('{"start_s": 0.2, "end_s": 1.0, "text": "hello"}\nnonsense\n{"start_s": 2}\n')
    output = place / "mixed-out.jsonl"
    given = ("--input", place / "clip.mp4", "--transcript", path, "--pace", "max", "--output", output)
    assert source(inside.summary(*given), "transcript")["counts"]["malformed"] == 2
    assert predictions(output)[-1].modalities.language.present


def test_a_transcript_without_one_valid_line_is_code_3(inside: Inside, place: Path) -> None:
    path = place / "bad.jsonl"
    path.write_text("nonsense\n")
    refused(inside.run("--input", place / "clip.mp4", "--transcript", path), 3, "bad.jsonl")


def test_a_transcript_alone_is_enough(inside: Inside, place: Path) -> None:
    output = place / "words-only.jsonl"
    given = ("--camera", "none", "--mic", "none", "--transcript", place / "words.jsonl", "--pace", "max")
    summary = inside.summary(*given, "--output", output)
    assert summary["published"] == 5
    assert predictions(output)[-1].degraded == ("vision_absent", "acoustic_absent")


def test_a_reader_of_stdout_that_leaves_does_not_break_the_session(command: Command, place: Path) -> None:
    process = command.start("--input", place / "clip.mp4", "--transcript", "none", "--pace", "max", "--output", "-")
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.skipif(
    not (REPOSITORY / "engines" / "default" / "manifest.json").is_file(), reason="no default bundle here"
)
def test_the_default_bundle_starts_in_time_and_in_little_memory(command: Command, place: Path) -> None:
    output = place / "default.jsonl"
    line = [sys.executable, "-m", "clcr_stream", "--input", str(place / "clip.mp4"), "--pace", "max", "--json"]
    done = subprocess.run(
        [*line, "--transcript", str(place / "words.jsonl"), "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=60,
        env=command.environment,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["published"] == TICKS
    assert summary["first_prediction_s"] < 5.0 * slowdown()
    assert summary["peak_rss_mb"] < 400


@pytest.mark.parametrize("sample_rate_hz", [8_000, 24_000])
def test_a_bundle_of_another_sample_rate_hears_the_clip_at_the_same_times(
    inside: Inside, place: Path, sample_rate_hz: int
) -> None:
    write_bundle(place / f"bundle-{sample_rate_hz}", sample_rate_hz=sample_rate_hz)
    heard = {}
    for name in ("bundle", f"bundle-{sample_rate_hz}"):
        output = place / f"{name}-beside-{sample_rate_hz}.jsonl"
        given = ("--input", place / "clip.mp4", "--transcript", "none", "--pace", "max", "--output", output, "--json")
        done = inside.run(*given, bundle=place / name)
        assert done.returncode == 0, done.stderr
        heard[name] = [
            (one.seq, one.modalities.acoustic.coverage, one.modalities.acoustic.age_ms) for one in predictions(output)
        ]
    ours, reference = heard[f"bundle-{sample_rate_hz}"], heard["bundle"]
    assert [seq for seq, _, _ in ours] == [seq for seq, _, _ in reference] == list(range(1, TICKS + 1))
    for (_, coverage, age_ms), (_, expected_coverage, expected_age_ms) in zip(ours, reference, strict=True):
        assert coverage == pytest.approx(expected_coverage, abs=1 / 150)
        assert age_ms == pytest.approx(expected_age_ms, abs=1.0)


def test_a_run_whose_only_source_crashes_ends_with_its_error(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(_: FileSource) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(FileSource, "run", crash)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    bundle = str(place / "bundle")
    assert (
        main(
            ["--bundle", bundle, "--input", str(place / "clip.mp4"), "--transcript", "none", "--pace", "max", "--quiet"]
        )
        == 3
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"clcr-stream: error: file {place / 'clip.mp4'}: RuntimeError: out of paper"
