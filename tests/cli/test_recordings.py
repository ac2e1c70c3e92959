"""The commands around recordings as a user runs them: replay, export, predict and report."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet
import pytest

from clcr_stream.cli import play
from clcr_stream.cli.main import main
from clcr_stream.cli.replay import FOREIGN_BASELINES
from clcr_stream.inference.baselines import Baseline
from clcr_stream.recording import reader
from clcr_stream.recording.reader import open_recording
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from clcr_stream.streams.profile import encode_baselines
from clcr_stream.wire import messages
from driving import socket_folder
from tiny_bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared/data/mosi400/clips"
SHIPPED = str(ROOT / "engines/default")
TALK = "test://?seconds=8&emotion=happy"  # long enough for words

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    with socket_folder() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with media of the shipped bundle, gamma 0.5."""
    path = tmp_path_factory.mktemp("talk") / "talk.mcap"
    with pytest.MonkeyPatch.context() as patch, socket_folder() as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        given = ["--input", TALK, "--pace", "max", "--quiet", "--record", str(path), "--record-media", "--gamma", "0.5"]
        assert main(["--bundle", SHIPPED, *given]) == 0
    return path


def test_a_replay_gives_the_same_predictions_and_another_gamma_gives_a_diff(
    run: Run, talk: Path, tmp_path: Path
) -> None:
    code, out, err = run("replay", talk, "--bundle", SHIPPED, "--json")
    told = json.loads(out)
    assert (code, told["same"], told["compared"], told["missing"], told["added"]) == (0, True, 40, 0, 0), err
    assert told["largest"] == 0.0  # the same machine, the same data, the same engines
    assert told["recorded_gamma"] == told["replayed_gamma"] == 0.5
    page = tmp_path / "diff.html"
    code, out, err = run("replay", talk, "--bundle", SHIPPED, "--gamma", "0", "--tolerance", "0", "--out", page)
    text = page.read_text()
    assert text.count("<svg") == 2 and "gamma 0.5" in text and "Different" in text and "default-src 'none'" in text
    assert code == 1 and "recorded with gamma 0.5, replayed with 0.0" in err
    assert "different (tolerance 0)" in out and "40 predictions compared" in out and "tick " in out


def test_labels_against_a_value_are_not_comparable_and_no_number_says_otherwise(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "value", task="regression")
    given = ("--pace", "max", "--quiet", "--record", "a.mcap", "--record-media")
    assert run("--input", "test://?seconds=1", "--bundle", tiny, *given)[0] == 0
    code, out, err = run("replay", "a.mcap", "--bundle", "value", "--out", "diff.html")
    told = "not comparable: labels (neutral, sad, happy, surprise, fear, anger) against a value"
    assert code == 1 and out == f"{told}\n" and "recorded with bundle" in err
    page = (tmp_path / "diff.html").read_text()
    assert told in page and page.count("<svg") == 2 and "What differs" not in page
    code, out, _ = run("replay", "a.mcap", "--bundle", "value", "--json")
    found = json.loads(out)
    assert code == 1 and found["incomparable"] == "labels (neutral, sad, happy, surprise, fear, anger) against a value"
    assert (found["labels_changed"], found["largest"], found["mean"], found["changes"]) == (None, None, None, [])
    assert (found["same"], found["compared"], found["missing"], found["added"]) == (False, 0, 0, 0)


def test_a_recording_is_an_input_whose_predictions_are_those_of_the_first_run(
    run: Run, talk: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "again.jsonl"
    code, _, err = run(
        "--input", talk, "--pace", "max", "--bundle", SHIPPED, "--gamma", "0.5", "--quiet", "--output", lines
    )
    assert code == 0, err
    before = {one.seq: one for one in predictions(entry.payload for entry in open_recording(talk).entries())}
    after = {one.seq: one for one in predictions(lines.read_bytes().splitlines())}
    assert before.keys() == after.keys()
    for seq, one in before.items():
        other = after[seq]
        assert (one.label, one.probs, one.degraded) == (other.label, other.probs, other.degraded)
        assert (one.modalities, one.budget, one.levels) == (other.modalities, other.budget, other.levels)
    # Without its words, and with another bundle's rules, the same file is another input.
    assert any(one.modalities.language.present for one in before.values())
    code, out, _ = run("replay", talk, "--against", lines, "--bundle", SHIPPED, "--json")
    assert code == 0 and json.loads(out)["same"]


def test_what_a_recording_was_recorded_with_and_is_played_without_is_said(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--bundle", tiny, "--transcript", "none")
    media = ("--pace", "max", "--quiet", "--record", "a.mcap", "--record-media", "--gamma", "0.5")
    assert run("--input", "test://?seconds=1", *given, *media)[0] == 0
    assert "note:" not in run("--input", "a.mcap", *given, "--pace", "max", "--gamma", "0.5")[2]
    theirs = encode_baselines({"vision": Baseline(np.zeros((3, 4), np.float32), np.ones(3, np.float32))}, "f" * 64)
    about = reader.read_about
    monkeypatch.setattr(reader, "read_about", lambda path: {**about(path), "baselines": theirs.decode()})
    note = "note: a.mcap: recorded with gamma 0.5 (here 1), the baselines of a person (here none); `clcr-stream replay`"
    assert note in run("--input", "a.mcap", *given, "--pace", "max")[2]
    assert run("--input", "a.mcap", *given, "--pace", "max", "--quiet")[2] == ""
    assert note in run("predict", "a.mcap", *given)[2]
    assert note in run("report", "--input", "a.mcap", *given, "--out", "a.html")[2]
    assert "recorded with gamma 0.5 (here 1), the baselines" in (tmp_path / "a.html").read_text()
    code, out, err = run("replay", "a.mcap", "--bundle", tiny)
    assert code == 0 and "same" in out and err == f"note: {FOREIGN_BASELINES}\n"


def predictions(payloads: Any) -> Iterator[messages.Prediction]:
    for payload in payloads:
        if payload.startswith(b'{"type":"prediction"'):
            message = messages.decode(payload)
            assert isinstance(message, messages.Prediction)
            yield message


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["replay", "none.mcap"], "No such file"),
        (["replay", "plain.mcap"], "record with --record-media"),
        (["replay", "noise.mcap"], "not an MCAP file"),
        (["--input", "plain.mcap"], "record with --record-media"),
        (["export", "plain.mcap"], "give --csv FILE"),
        (["export", "noise.mcap", "--csv", "-"], "not an MCAP file"),
        (["export", "plain.mcap", "--csv", "noise.mcap"], "exists already"),
        (["report", "plain.mcap"], "give --out FILE.html"),
        (["report", "plain.mcap", "--out", "no/such.html"], "there is no folder"),
        (
            ["report", "plain.mcap", "--out", "z.png"],
            "'z.png': its name must end in .html; a picture is --png FILE.png",
        ),
        (["report", "plain.mcap", "--png", "z.jpg"], "'z.jpg': its name must end in .png; a page is --out FILE.html"),
        (["replay", "plain.mcap", "--out", "z.png"], "--out 'z.png': its name must end in .html"),
        (["report", "plain.mcap", "--out", "a.html", "--bundle", "x"], "--bundle goes with --input"),
        (["report", "--out", "a.html"], "give a FILE, or --input CLIP"),
        (["predict"], "FILE"),
        (["predict", "a", "b", "--transcript", "talk.srt"], "is of one file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.mcap").write_bytes(b"noise")
    if "plain.mcap" in arguments:
        given = ["--input", "test://?seconds=1", "--pace", "max", "--quiet", "--record", "plain.mcap"]
        assert run("--bundle", tiny, *given)[0] == 0
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*arguments)
    assert code in (2, 3) and out == "" and why in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "noise.mcap").read_bytes() == b"noise"


def test_a_clip_in_place_of_a_session_is_told_with_what_to_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a b.mp4", 1.0, PersonOptions(fps=15))
    (tmp_path / "a.txt").write_text("no session, and no clip")
    code, _, err = run("report", "a b.mp4", "--out", "q.html")
    watch = "run clcr-stream report --input 'a b.mp4' --out q.html\n"
    assert code == 3 and err.endswith(f"a b.mp4: a clip and not a session; {watch}")
    code, _, err = run("export", "a b.mp4", "--csv", "-")
    record = "record first: clcr-stream --input 'a b.mp4' --pace max --record FILE.mcap\n"
    assert code == 3 and err.endswith(f"a b.mp4: a clip and not a session; {record}")
    code, _, err = run("export", "a.txt", "--csv", "-")
    assert code == 3 and "a.txt: not a session (1 lines are no messages" in err


def test_a_table_has_a_row_for_each_prediction(run: Run, talk: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", talk, "--csv", "-")
    table = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["tick"] for row in table] == [str(tick) for tick in range(1, 41)]
    assert table[-1]["label"] in out and any(row["words"] for row in table)
    assert float(table[5]["confidence"]) == pytest.approx(
        max(float(table[5][name]) for name in table[5] if name[:2] == "p_")
    )
    path = tmp_path / "talk.csv"
    assert run("export", talk, "--csv", path)[0] == 0 and path.read_text() == out
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_table_as_parquet_does_not_go_to_a_file_named_as_standard_output_is(
    talk: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", talk, "--parquet", "-")
    assert code == 2 and "--parquet -: this does not go to standard output; give a new file" in err
    assert not (tmp_path / "-").exists()


def test_a_table_as_parquet_holds_numbers_as_numbers_and_nothing_for_what_is_not_known(
    run: Run, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "talk.parquet"
    assert run("export", talk, "--parquet", path)[0] == 0
    held = pyarrow.parquet.read_table(path).to_pydict()
    _, out, _ = run("export", talk, "--csv", "-")
    table = list(csv.DictReader(io.StringIO(out)))
    assert list(held) == list(table[0]) and held["tick"] == list(range(1, 41))
    for name, cells in held.items():
        assert ["" if cell is None else str(cell) for cell in cells] == [row[name] for row in table]
    assert None in held["acoustic_snr_db"], "too little was heard at first"
    assert {"acoustic_quality", "language_quality"}.isdisjoint(held), "columns that would be empty in every row"
    assert all(0 < share < 1 for share in held["vision_luma"]) and min(held["acoustic_level_dbfs"]) < 0
    monkeypatch.setattr("clcr_stream.cli.export.find_spec", lambda name: None)
    code, _, err = run("export", talk, "--parquet", tmp_path / "other.parquet")
    assert code == 2 and 'pip install "clcr-stream[parquet]"' in err


def test_files_are_predicted_with_one_set_of_engines_and_a_bad_one_does_not_stop_the_rest(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", 2.0, PersonOptions(fps=15))
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    write_clip(tmp_path / "b.mp4", 1.0, PersonOptions(fps=15))
    monkeypatch.chdir(tmp_path)
    given = ("a.mp4", "bad.mp4", "none.mp4", "b.mp4", "--bundle", tiny, "--transcript", "none")
    code, out, err = run("predict", *given, "--csv", "-")
    table = list(csv.DictReader(io.StringIO(out)))
    assert code == 3 and [row["file"] for row in table] == ["a.mp4", "bad.mp4", "none.mp4", "b.mp4"]
    assert [float(row["duration_s"] or 0) for row in table] == [2.0, 0.0, 0.0, 1.0]
    assert "not a media file" in table[1]["error"] and "no such file" in table[2]["error"] and table[0]["error"] == ""
    assert err.count("clcr-stream: error:") == 2
    code, out, _ = run("predict", *given, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 3 and [one["error"] is None for one in told] == [True, False, False, True]
    assert sum(told[0]["shares"].values()) == pytest.approx(1.0)
    assert float(table[0]["confidence"]) == pytest.approx(told[0]["confidence"], abs=1e-4)
    code, out, _ = run("predict", "a.mp4", "--bundle", tiny, "--transcript", "none")
    assert code == 0 and out.startswith(f"a.mp4  {told[0]['label']} ") and "2.0 s" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.srt", "b.mp4", "b.srt", "bad.mp4"]


def test_a_part_and_a_region_of_a_clip_are_predicted_and_reported_as_a_run_takes_them(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", 2.0, PersonOptions(fps=15))
    given = ("--bundle", tiny, "--transcript", "none", "--start", "0.4", "--end", "1.4")
    code, out, _ = run("predict", "a.mp4", *given)
    assert code == 0 and "1.0 s from 0:00.4  face 100%" in out and "no face" not in out
    corner = ("--region", "0,0,0.1,0.1")
    code, out, _ = run("predict", "a.mp4", *given, *corner)
    assert code == 0 and "1.0 s from 0:00.4  face 0%" in out and "(no face was found in any picture)" in out
    (row,) = csv.DictReader(io.StringIO(run("predict", "a.mp4", *given, *corner, "--csv", "-")[1]))
    assert row["note"] == "no face was found in any picture" and row["error"] == ""
    code, _, err = run("report", "--input", "a.mp4", *given, *corner, "--gamma", "0.5", "--out", "a.html")
    page = (tmp_path / "a.html").read_text()
    assert code == 0 and "5 predictions" in err and "no face was found in any picture" in page


def test_a_part_is_told_of_in_the_times_of_its_clip_and_a_loop_in_those_of_the_session(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", 2.0, PersonOptions(fps=15))
    given = ("--bundle", tiny, "--transcript", "none", "--start", "0.6")
    code, out, _ = run("predict", "a.mp4", *given, "--json")
    told = json.loads(out)
    assert code == 0 and (told["start_s"], told["end_s"], told["begins_s"]) == (0.6, 2.0, 0.6)
    assert all(one["peak_s"] > 0.6 for one in told["moments"])
    (row,) = csv.DictReader(io.StringIO(run("predict", "a.mp4", *given, "--csv", "-")[1]))
    assert (row["start_s"], row["duration_s"]) == ("0.6", "1.4")
    played = ("--input", "a.mp4", *given, "--pace", "max")
    assert "saw 1.4 s from 0:00.6: " in run(*played, "--record", "a.mcap", "--record-media")[2]
    assert (
        run("report", "a.mcap", "--out", "a.html")[0] == run("report", "--input", "a.mp4", *given, "--out", "b.html")[0]
    )
    for name in ("a.html", "b.html"):
        assert "1.4 s watched from 0:00.6" in (tmp_path / name).read_text()
    assert run("replay", "a.mcap", "--bundle", tiny, "--out", "c.html")[0] == 0
    curves = re.findall(r'points="([^"]*)"', (tmp_path / "c.html").read_text())
    assert curves and curves[: len(curves) // 2] == curves[len(curves) // 2 :], "one over the other"
    assert "saw 1.0 s from 0:00.4: " in run("--input", "a.mcap", *given[:2], "--start", "0.5", "--pace", "max")[2]
    assert "saw 4.0 s: " in run(*played, "--loop", "--duration", "4")[2]


def test_a_file_s_name_moves_no_cursor_and_adds_no_line(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, shown = "e\x1b[31mvil\n.mp4", "e·[31mvil .mp4"
    write_clip(tmp_path / name, 1.0, PersonOptions(fps=15))
    given = ("--bundle", tiny, "--transcript", "none")
    code, out, err = run("predict", name, f"no{name}", *given)
    assert code == 3 and out.startswith(f"{shown}  ") and out.count("\n") == err.count("\n") == 1
    assert f"no{shown}: no such file" in err
    said = run("report", "--input", name, *given, "--out", f"{name}.html")[2]
    said += run("predict", name, *given, "--csv", f"{name}.csv")[2]
    assert said.count(shown) == said.count("\n") == 2
    for arguments in (("replay", name), ("export", name, "--csv", "-"), ("--input", f"no{name}"), (name,)):
        code, out, err = run(*arguments)
        assert code in (2, 3) and out == "" and err.count("\n") == 1 and "\x1b" not in err
    code, _, err = run("--input", name, *given, "--pace", "max")
    assert code == 0 and "\x1b" not in err and "saw 1.0 s" in err and err.count("\n") > 3, "a summary of several lines"


class SeenLine:
    """In place of the status line: what it would show at the end of each file."""

    shown: ClassVar[list[str]] = []

    def __init__(self, show: Callable[[int | None], str], out: object) -> None:
        assert out is sys.stderr
        self._show = show

    def __enter__(self) -> None:
        self.shown.append(self._show(None))

    def __exit__(self, *_: object) -> None:
        self.shown.append(self._show(None))


def test_a_line_says_how_far_a_file_is_whose_answers_come_one_by_one(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "StatusLine", SeenLine)
    SeenLine.shown.clear()
    write_clip(tmp_path / "a.mp4", 2.0, PersonOptions(fps=15))
    rows: list[str] = []

    def put_row(text: str) -> None:
        rows.append(f"{text.count(',')} {len(SeenLine.shown)}")

    monkeypatch.setattr("clcr_stream.cli.tables.put", put_row)
    given = ("--bundle", tiny, "--transcript", "none", "--end", "1")
    code, _, _ = run("predict", "a.mp4", "none.mp4", "a.mp4", *given, "--csv", "-")
    assert code == 3 and [row.split()[1] for row in rows] == ["2", "2", "4"], "a row before the next file begins"
    assert SeenLine.shown[0] == "a.mp4 (1 of 3): being opened" and SeenLine.shown[2].startswith("a.mp4 (3 of 3)")
    assert SeenLine.shown[1].startswith("0:01.0 of 0:01.0  a.mp4 (1 of 3)  ")
    SeenLine.shown.clear()
    assert run("report", "--input", "a.mp4", *given[:4], "--out", "a.html")[0] == 0
    assert SeenLine.shown[1].startswith("0:02.0 of 0:02.0  a.mp4  ")


def test_flags_that_are_wrong_for_every_clip_are_one_line_for_all_of_them(run: Run, tiny: Path, tmp_path: Path) -> None:
    for given, why in (
        (("--region", "2,2,2,2"), "not inside the picture"),
        (("--start", "3", "--end", "2"), "the end after the start"),
        (("--face-model", tmp_path / "none.onnx"), "none.onnx"),
    ):
        code, out, err = run("predict", "a.mp4", "b.mp4", "--bundle", tiny, *given)
        assert code == 2 and out == "" and why in err and err.count("\n") == 1


def test_a_report_of_a_clip_a_recording_and_of_lines_say_the_same(run: Run, tiny: Path, tmp_path: Path) -> None:
    lines, recorded = tmp_path / "a.jsonl", tmp_path / "a.mcap"
    clip = "test://?seconds=8"
    given = ("--input", clip, "--pace", "max", "--bundle", tiny, "--quiet", "--output", lines, "--record", recorded)
    assert run(*given)[0] == 0
    pages = []
    for name, source in {"1": (lines,), "2": (recorded,), "3": ("--input", clip, "--bundle", tiny)}.items():
        code, out, err = run("report", *source, "--out", tmp_path / f"{name}.html")
        assert code == 0 and out == "" and "40 predictions" in err
        pages.append((tmp_path / f"{name}.html").read_text())
    bodies = [text[text.index("<h2>Over time") : text.index("<h2>What was there")] for text in pages]
    assert bodies[0] == bodies[1] == bodies[2]
    assert all("default-src 'none'" in text and "://" not in text.replace(clip, "") for text in pages)


def test_a_run_says_at_its_end_what_it_saw(run: Run, tiny: Path, tmp_path: Path) -> None:
    given = ("--input", "test://?seconds=3", "--pace", "max", "--transcript", "none")
    code, _, err = run("--bundle", tiny, *given)
    assert (
        code == 0 and "saw 3.0 s: " in err and "strongest: " in err and "there: face 100%, sound 100%, words 0%" in err
    )
    write_bundle(tmp_path / "values", task="regression")
    code, out, _ = run("--bundle", tmp_path / "values", *given, "--json")
    seen = json.loads(out)["seen"]
    assert code == 0 and seen["values"]["low"] <= seen["values"]["mean"] <= seen["values"]["high"]


@pytest.mark.data
@pytest.mark.slow
def test_a_real_clip_is_replayed_exactly_with_its_words(run: Run, tmp_path: Path) -> None:
    clips = sorted(CLIPS.glob("v01_*.mp4"))
    if not clips:
        pytest.skip(f"no clips in {CLIPS}")
    words = tmp_path / "words.srt"
    words.write_text(
        "1\n00:00:00,200 --> 00:00:01,000\nanyhow it was\n\n2\n00:00:01,100 --> 00:00:02,000\nreally good\n"
    )
    path = tmp_path / "talk.mcap"
    given = ("--input", clips[0], "--transcript", words, "--pace", "real", "--bundle", SHIPPED, "--quiet")
    assert run(*given, "--record", path, "--record-media")[0] == 0
    code, out, err = run("replay", path, "--bundle", SHIPPED, "--json")
    told = json.loads(out)
    assert code == 0 and told["largest"] == 0.0 and told["compared"] > 5, err
    kinds = [entry.kind for entry in open_recording(path).entries()]
    assert kinds.count("face") > 20 and "words" in kinds
