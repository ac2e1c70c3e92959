"""JSON lines: what a run may write to, and what a disk that is full leaves behind."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import clcr_stream
from clcr_stream.errors import ConfigError
from clcr_stream.wire.jsonl import JsonLines, Output, check_output

OLD = b'{"old": 1}\n'


def write(output: Output, *payloads: bytes) -> JsonLines:
    lines = JsonLines(output)
    for payload in payloads:
        lines.write_line(payload)
    lines.close()
    return lines


def refusal(output: Output) -> str:
    """Why an output is refused, which the check alone must say as well."""
    with pytest.raises(ConfigError) as opened:
        JsonLines(output)
    with pytest.raises(ConfigError) as checked:
        check_output(output)
    assert str(opened.value) == str(checked.value) and str(opened.value).isprintable()
    return str(opened.value)


def test_a_new_file_is_for_the_user_alone(tmp_path: Path) -> None:
    write(Output(str(tmp_path / "a.jsonl")), b"{}")
    assert (tmp_path / "a.jsonl").read_bytes() == b"{}\n"
    assert stat.S_IMODE((tmp_path / "a.jsonl").stat().st_mode) == 0o600


def test_the_check_makes_nothing(tmp_path: Path) -> None:
    check_output(Output(str(tmp_path / "a.jsonl")))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_something_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(OLD)
    assert "holds 11 bytes already; give a new file, or --append" in refusal(Output(str(tmp_path / "a.jsonl")))
    assert (tmp_path / "a.jsonl").read_bytes() == OLD


def test_appending_keeps_what_is_there_and_an_empty_file_needs_no_leave(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(OLD)
    write(Output(str(tmp_path / "a.jsonl"), append=True), b"{}")
    assert (tmp_path / "a.jsonl").read_bytes() == OLD + b"{}\n"
    (tmp_path / "empty.jsonl").touch(0o644)
    write(Output(str(tmp_path / "empty.jsonl")), b"{}")
    assert (tmp_path / "empty.jsonl").read_bytes() == b"{}\n"


def test_half_a_line_of_a_run_that_was_killed_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(OLD + b'{"half')
    write(Output(str(tmp_path / "a.jsonl"), append=True), b"{}")
    assert (tmp_path / "a.jsonl").read_bytes() == OLD + b'{"half\n{}\n'


@pytest.mark.parametrize("spelling", ["talk.mp4", "../{name}/talk.mp4", "symbolic", "hard"])
def test_what_the_run_reads_is_refused_however_it_is_spelt(tmp_path: Path, spelling: str) -> None:
    recording = tmp_path / "talk.mp4"
    recording.write_bytes(b"a recording")
    (tmp_path / "symbolic").symlink_to(recording)
    (tmp_path / "hard").hardlink_to(recording)
    target = str(tmp_path / spelling.format(name=tmp_path.name))
    assert "the run reads that file" in refusal(Output(target, append=True, inputs=(recording,)))
    assert recording.read_bytes() == b"a recording"


def test_a_bundle_s_folder_is_no_place_for_an_output(tmp_path: Path) -> None:
    assert "lies in the bundle" in refusal(Output(str(tmp_path / "a.jsonl"), inputs=(tmp_path,)))


def test_one_file_is_for_one_writer_however_it_is_spelt(tmp_path: Path) -> None:
    first = JsonLines(Output(str(tmp_path / "a.jsonl")))
    with pytest.raises(ConfigError, match="another session or stream writes to it"):
        JsonLines(Output(str(tmp_path / "." / ".." / tmp_path.name / "a.jsonl")))
    first.write_line(b"{}")
    first.close()
    assert (tmp_path / "a.jsonl").read_bytes() == b"{}\n"


def test_a_stream_that_begins_anew_goes_on_in_the_file_that_this_process_made(tmp_path: Path) -> None:
    for _ in range(2):
        write(Output(str(tmp_path / "a.jsonl")), b"{}")
    assert (tmp_path / "a.jsonl").read_bytes() == b"{}\n{}\n"


def test_a_named_pipe_and_dev_null_take_lines_as_they_did(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(Output(str(tmp_path / "pipe")), b"{}", b"{}")
    reader.join(20)
    assert read == [b"{}\n{}\n"]
    assert write(Output("/dev/null"), b"{}").failure is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/a.jsonl", "there is no folder"),
        ("a\nb/c", "there is no folder"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("a\0b", "cannot be written (embedded null byte)"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_in_one_line(tmp_path: Path, name: str, reason: str) -> None:
    told = refusal(Output(str(tmp_path / name)))
    assert reason in told and "give a file in a folder that exists, or -" in told


def test_a_full_disk_is_told_at_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: a write is cut short there, and the next one fails."""
    code = (
        "import resource, signal, sys; from clcr_stream.wire.jsonl import JsonLines, Output;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "lines = JsonLines(Output(sys.argv[1]), print);"
        '[lines.write_line(b\'{"n": "%030d"}\' % n) for n in range(9)]; print(lines.failure); lines.close()'
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clcr_stream.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "a.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    told, failure = done.stdout.splitlines()
    assert told == f"--output {tmp_path}/a.jsonl has stopped: File too large; the session goes on without it"
    assert failure == "File too large"
    numbers = [json.loads(line)["n"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [int(number) for number in numbers] == [0, 1]
    assert (tmp_path / "a.jsonl").read_bytes().endswith(b"\n")


def test_a_device_that_is_full_stops_the_lines_and_nothing_else() -> None:
    told: list[str] = []
    lines = JsonLines(Output("/dev/full"), told.append)
    for _ in range(3):
        lines.write_line(b"{}")
    lines.close()
    assert lines.failure == "No space left on device"
    assert told == ["--output /dev/full has stopped: No space left on device; the session goes on without it"]


@pytest.mark.parametrize("target", ["a.jsonl", "/dev/full"])
def test_a_file_that_cannot_be_closed_is_told_unless_it_had_stopped_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """As a disk over the network does that finds only then that it is full."""
    told: list[str] = []
    lines = JsonLines(Output(str(tmp_path / target)), told.append)
    lines.write_line(b"{}")
    close = os.close

    def late(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", late)
        lines.close()
    lines.close()
    reason = "No space left on device" if target == "/dev/full" else "Disk quota exceeded"
    assert lines.failure == reason
    assert told == [f"--output {tmp_path / target} has stopped: {reason}; the session goes on without it"]
