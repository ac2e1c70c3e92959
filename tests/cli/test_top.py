"""`clcr-stream top`: every size, streams, keys, marks, colours, and a publisher that comes and goes."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

import clcr_stream
from clcr_stream.cli import screen
from clcr_stream.cli.cells import Line, Signs
from clcr_stream.cli.main import main
from clcr_stream.cli.screen import keys_in
from clcr_stream.cli.top import Top
from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.health import State
from clcr_stream.wire.messages import Recording, Source
from clcr_stream.wire.publisher import Publisher, PublishOptions
from clcr_stream.wire.watched import Watched
from clcr_stream.wire.watcher import Place, Watcher
from terminal import Terminal
from wire_messages import ORIGIN_NS, prediction, read, session, status, words

EMOTIONS = {"neutral": 0.1, "sad": 0.05, "happy": 0.7, "surprise": 0.05, "fear": 0.05, "anger": 0.05}
LABELS = tuple(EMOTIONS)
CAMERA = Source(name="0", kind="camera", state="absent", reason="no such camera", counts={"frames_late": 3})
MEASURED = prediction(1).modalities
SOUND = {"level_dbfs": -20.0, "noise_dbfs": -60.2, "snr_db": 25.0, "speech_share": 0.4}
HEARD = replace(MEASURED, acoustic=replace(MEASURED.acoustic, numbers=SOUND))
FINE = {"live": "green", "starting": "dim", "ended": "dim"}
RUNTIME = str(Path(clcr_stream.__file__).parents[1])


def known(name: str = "left", value: float | None = None) -> Watched:
    """A stream of 20 s."""
    watched = Watched(name, "ipc:///somewhere")
    watched.take(read(session(name, labels=LABELS if value is None else ())), 0)
    watched.take(read(status(name, sources=(CAMERA,), state="running")), 0)
    for number, text in enumerate(("I did not expect that,", "日本語 \x1b[2J and 😀"), 1):
        watched.take(read(words(text, str(number), name, start_ns=number, end_ns=number + 1)), 0)
    for seq in range(1, 101):
        probs = EMOTIONS if value is None else None
        watched.take(read(prediction(seq, probs, name, value=value, latency_ms=60.0 + seq % 20, modalities=HEARD)), 0)
    return watched


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Top]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Watcher([Place("left"), Place("right")]) as watcher:
        watcher.streams["left"] = known()
        watcher.streams["right"] = known("right", value=-1.5)
        yield Top(watcher, None, threading.Event())


def text_of(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 220), st.integers(4, 60), st.booleans(), st.sampled_from([0, 9 * NS_PER_S]))
def test_every_size_is_filled_exactly(columns: int, rows: int, blocks: bool, now_ns: int) -> None:
    with Watcher([Place("left"), Place("right"), Place("new")]) as watcher:
        watcher.streams.update({"left": known(), "right": known("right", value=2.5)})
        lines = Top(watcher, None, threading.Event()).lines((columns, rows), Signs(blocks), now_ns)
    assert len(lines) == rows
    for line in lines:
        assert sum(cell_len(text) for text, _ in line) == columns
        assert all(text.isprintable() for text, _ in line)
        assert blocks or not re.search("[▁-█]", "".join(text for text, _ in line))


def test_all_that_the_messages_say_is_shown_in_80_columns(top: Top) -> None:
    lines = text_of(top.lines((80, 30), Signs(), 0))
    assert lines[0] == "clcr-stream top  [left]   right"
    assert lines[1] == "left  REC faces and sound  running 0:01:01  default abababab on onnxruntime"
    assert [line for line in lines if re.match(r"> happy +0\.70 █+[▉-▏]? +[▁-█]+$", line)], lines
    assert '  "I did not expect that, 日本語 ·[2J and 😀"' in lines
    assert [line for line in lines if re.match(r"  vision 0\.25 █+[▉-▏]? +0\.50 █+[▉-▏]?  +100 % +12 ms$", line)], lines
    assert [
        line for line in lines if re.match(r"  3      0\.50 █+[▉-▏]? +vision 100 %  sound  12 %  words   0 %", line)
    ]
    assert "  vision quality 0.90  light 50 %  sharpness 120" in lines, "what is null is left out"
    assert "  sound  level -20 dBFS  noise -60 dBFS  SNR 25 dB  speech 40 %" in lines
    assert "  camera 0 absent: no such camera  frames_late 3" in lines
    assert [line for line in lines if line.startswith("  latency p50 70 ms  p99 79 ms")]
    assert "  299 of 300 ticks published, skipped: late 1" in lines


def test_a_recording_of_faces_is_shown_however_small_the_terminal_until_the_session_is_gone(top: Top) -> None:
    watched = top.watcher.streams["left"]
    watched.take(read(status("left", recording=True, record=Recording(media=True), state="running")), 0)
    for size in ((80, 30), (40, 20), (30, 6)):
        assert text_of(top.lines(size, Signs(), 0))[1].startswith("left  REC faces and sound"), size
    watched.take(read(status("left", recording=True, record=Recording(media=True), state="goodbye")), 0)
    assert text_of(top.lines((80, 30), Signs(), 0))[1].startswith("left  goodbye 0:01:01  default")


def test_refused_connections_are_counted(top: Top) -> None:
    for count, size in ((22, (80, 30)), (22, (40, 20)), (0, (80, 30))):
        top.watcher.streams["left"].take(read(status("left", sources=(CAMERA,), refused_peers=count)), 0)
        lines = [line for line in text_of(top.lines(size, Signs(), 0)) if "refused" in line]
        assert lines == (["  connections refused: 22"] if count else []), size


@pytest.mark.parametrize("state", get_args(State))
def test_what_is_wrong_with_a_source_stands_out_whatever_it_is(top: Top, state: State) -> None:
    source = Source(name="0", kind="camera", state=state, reason="why")
    top.watcher.streams["left"].take(read(status("left", sources=(source,))), 0)
    pieces = [piece for line in top.lines((80, 30), Signs(), 0) for piece in line]
    assert [style for text, style in pieces if text == state] == [
        FINE.get(state, "bold red" if state == "failed" else "yellow")
    ]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_of_20_lines_shows_the_sources_and_has_no_empty_lines_below(top: Top, columns: int) -> None:
    microphone = Source(name="default", kind="microphone", state="silent", reason="digital silence")
    top.watcher.streams["left"].take(read(status("left", sources=(CAMERA, microphone), refused_peers=0)), 0)
    lines = text_of(top.lines((columns, 20), Signs(), 0))
    assert "  camera 0 absent: no such camera  fram" in "\n".join(lines)
    assert "  microphone default silent: digital si" in "\n".join(lines)
    assert [line for line in lines if line.startswith('  "I did not') or "😀" in line], "the words have the last line"
    assert lines[-2] and lines.count("") <= 1, "a line that is empty lies between two groups"


def test_a_regression_is_shown_on_its_scale(top: Top) -> None:
    top.press("right", (80, 30), Signs(), 0)
    lines = text_of(top.lines((80, 30), Signs(), 0))
    assert lines[0] == "clcr-stream top   left   [right]"
    assert [line for line in lines if re.match(r"> -1\.50 +█{16}│$", line)], lines
    assert [line for line in lines if re.match(r"  scale +-3 +0 +\+3$", line)]


def test_a_small_terminal_keeps_the_probabilities_and_a_wide_one_has_streams_side_by_side(top: Top) -> None:
    small = text_of(top.lines((40, 10), Signs(), 0))
    assert sum(bool(re.match(r"[> ] (neutral|sad|happy|surprise|fear|anger) +0\.\d\d ", line)) for line in small) == 6
    wide = text_of(top.lines((200, 40), Signs(), 0))
    assert re.match(r"left .* right  ", wide[1])


def test_a_pause_keeps_what_is_shown_while_messages_go_on(top: Top) -> None:
    size, signs = (80, 30), Signs()
    before = text_of(top.lines(size, signs, 0))
    top.press("p", size, signs, 0)
    top.watcher.streams["left"].take(read(prediction(101, {**EMOTIONS, "happy": 0.01, "sad": 0.74}, "left")), 0)
    paused = text_of(top.lines(size, signs, 0))
    assert paused[0].endswith("PAUSED, p goes on") and paused[1:-1] == before[1:-1]
    top.press("p", size, signs, 0)
    assert [line for line in text_of(top.lines(size, signs, 0)) if line.startswith("> sad      0.74")]


def test_a_mark_is_a_line_of_json_in_the_file_that_was_named(top: Top, tmp_path: Path) -> None:
    size, signs = (80, 30), Signs()
    top.press("m", size, signs, 0)
    assert text_of(top.lines(size, signs, 0))[-1] == "seq 100 not written: start top with --marks FILE"
    top.marks = tmp_path / "marks.jsonl"
    top.press("m", size, signs, 0)
    top.press("right", size, signs, 0)
    top.press("m", size, signs, 0)
    assert text_of(top.lines(size, signs, 0))[-1].startswith("marked seq 100 of right in ")
    first, second = (json.loads(line) for line in top.marks.read_text().splitlines())
    assert (first["stream"], first["seq"], first["label"]) == ("left", 100, "happy")
    assert first["time"] == "2026-11-20T18:00:20.000Z" and first["end_ns"] == ORIGIN_NS + 20 * NS_PER_S
    assert (second["stream"], second["value"], second["label"]) == ("right", -1.5, None)
    assert stat.S_IMODE(top.marks.stat().st_mode) == 0o600
    top.marks = tmp_path / "none/marks.jsonl"
    top.press("m", size, signs, 0)
    assert "not written: " in text_of(top.lines(size, signs, 0))[-1]


def test_keys_are_told_apart_from_the_sequences_of_others() -> None:
    assert keys_in(b"q\x1b[Cm\x1b[3~\x1b[1;5Dp\t\x1bOD\x1b") == ["q", "right", "m", "p", "right", "left"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return kept | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(folder), "TERM": "xterm-256color"} | more


def publisher(stream: str = "left") -> Publisher:
    return Publisher(
        PublishOptions(stream=stream, heartbeat_ms=100), lambda: status(stream, state="running", uptime_s=5.0)
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "clcr_stream", "top", *arguments]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("key", "no_color"), [("q", ""), ("\x03", "1")])
def test_top_in_a_terminal_outlives_its_publisher_and_leaves_the_terminal_as_it_was(
    folder: Path, key: str, no_color: str
) -> None:
    marks = folder / "marks.jsonl"
    more = {"NO_COLOR": no_color} if no_color else {}
    with Terminal(command("left", "--marks", str(marks)), environment(folder, **more), 80, 26) as terminal:
        assert terminal.shows("waiting for a session of this name"), terminal.text()
        with publisher() as found:
            found.publish(session("left", labels=LABELS))
            found.publish(prediction(1, EMOTIONS, "left"))
            assert terminal.shows("> happy    0.70"), terminal.text()
            terminal.press("m")
            assert terminal.shows(f"marked seq 1 of left in {folder}"[:60]), terminal.text()
        assert terminal.shows("! the session has ended; waiting for the next one"), terminal.text()
        terminal.resize(40, 20)
        with publisher() as found:
            found.publish(session("left", "b" * 16, labels=LABELS))
            found.publish(prediction(9, {**EMOTIONS, "happy": 0.0, "fear": 0.75}, "left", run="b" * 16))
            assert terminal.shows("> fear     0.75"), terminal.text()
        terminal.press(key)
        assert terminal.ends() == 0
        assert terminal.output.endswith(b"\x1b[?25h\x1b[?1049l"), "cursor and screen as before"
        assert terminal.settings() == terminal.before
        assert bool(re.search(rb"\x1b\[[0-9;]*38;5;", terminal.output)) is not bool(no_color)
        assert b"Traceback" not in terminal.output
    assert json.loads(marks.read_text())["seq"] == 1


def test_ctrl_z_gives_the_terminal_back_until_top_goes_on(folder: Path) -> None:
    with publisher() as found, Terminal(command("left"), environment(folder), 60, 20) as terminal:
        found.publish(prediction(1, EMOTIONS, "left"))
        assert terminal.shows("> happy    0.70"), terminal.text()
        os.kill(terminal.process.pid, signal.SIGTSTP)
        assert terminal.shows(lambda _: terminal.output.endswith(b"\x1b[?1049l"))
        assert terminal.settings() == terminal.before
        os.kill(terminal.process.pid, signal.SIGCONT)
        assert terminal.shows(lambda _: terminal.output.count(b"\x1b[?1049h") == 2)
        terminal.press("q")
        assert terminal.ends() == 0


def test_a_dumb_terminal_and_a_pipe_get_plain_lines(folder: Path) -> None:
    with publisher() as found, Terminal(command("left"), environment(folder, TERM="dumb"), 80, 20) as terminal:
        found.publish(prediction(1, EMOTIONS, "left"))
        assert terminal.shows("happy     0.70"), terminal.text()
        assert b"\x1b" not in terminal.output
    with publisher() as found:
        found.publish(prediction(1, EMOTIONS, "left"))
        with subprocess.Popen(command(), env=environment(folder), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            deadline = time.monotonic() + 60
            lines = ""
            while "happy     0.70" not in lines and time.monotonic() < deadline:
                lines += process.stdout.readline()
            process.send_signal(signal.SIGINT)
            lines += process.stdout.read()
            assert process.wait(30) == 0
    assert "happy     0.70" in lines and "\x1b" not in lines


def test_a_missing_rich_is_one_line_with_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clcr_stream.cli.top.redrawable", lambda _: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["top"]) == 2
    assert 'pip install "clcr-stream[view]"' in capsys.readouterr().err


def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["http://x"], ["a", "a"], ["--curve-secret", "x"], ["--colour"]):
        assert main(["top", "--plain", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_marks_that_could_not_be_written_are_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, why in ((tmp_path / "none/marks.jsonl", "there is no folder"), (tmp_path, "cannot be written")):
        assert main(["top", "--plain", "--marks", str(target), "no stream", "either"]) == 2
        assert f"--marks {str(target)!r}: {why}" in capsys.readouterr().err
    assert main(["top", "--plain", "--marks", str(tmp_path / "marks.jsonl"), "no stream"]) == 2
    assert "'no stream': not understood" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_size_that_changes_in_the_middle_of_a_drawing_has_the_next_one_begin_anew(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown, write = screen.Screen(), os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        signal.raise_signal(signal.SIGWINCH)
        return write(descriptor, data)

    with screen.size_changes(shown.forget):
        shown.draw([[("one", "")]])
        monkeypatch.setattr(os, "write", interrupted)
        shown.draw([[("two", "")]])
        monkeypatch.undo()
        capfd.readouterr()
        shown.draw([[("two", "")]])
    assert "\x1b[2J" in (drawn := capfd.readouterr().out) and "two" in drawn
