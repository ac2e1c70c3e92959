"""The benchmarks as commands: exit codes, what they write, a quick run of each, and the document made of them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench import command
from bench.statistics import measure
from docs import benchmarks as update_benchmarks
from tiny_bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bench_beside", "bench_bus", "bench_latency", "bench_peers", "bench_streams")
ABOUT = {"benchmark", "command", "started_at", "took_s", "machine", "versions", "git", "settings", "conclusive"}
PERCENTILES = {"n", "p50", "p90", "p95", "p99", "max"}


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A tool as its user starts it."""
    path = os.pathsep.join(str(ROOT / folder) for folder in ("model", "export", "runtime"))
    return subprocess.run(
        [sys.executable, str(ROOT / f"tools/{tool}.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def quick(tool: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of a quick run."""
    done = run(tool, "--quick", "--json", folder / "out.json", *arguments)
    return found_in(folder, done.returncode, done.stderr)


def found_in(folder: Path, code: int, errors: str) -> dict[str, Any]:
    """The JSON of a run, which may be inconclusive: two seconds on a busy machine."""
    assert code in (0, command.INCONCLUSIVE), errors
    document = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert set(document) >= ABOUT
    assert document["conclusive"] is (code == 0)
    assert document["machine"]["cpu"] and document["versions"]["onnxruntime"]
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    return dict(document)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_shows_examples_and_exit_codes(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Here in this process; tests/tools/test_tools.py runs every tool's help by its path."""
    with pytest.raises(SystemExit) as ended:
        command.main(import_module(tool).TOOL, ["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"tools/{tool}.py" in shown.split("examples:")[1]
    assert "3 inconclusive" in shown


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("bench_latency", ["--seconds", "0"], "0.4..86400"),
        ("bench_latency", ["--sekonds", "1"], "--help"),
        ("bench_latency", ["--bundle", "/nonexistent"], "clcr-export"),
        ("bench_streams", ["--max-streams", "0"], "1..4096"),
        ("bench_streams", ["--json", "/nonexistent/a.json"], "does not exist"),
        ("bench_beside", ["--cases", "words,radio"], "allowed are alone, words"),
        ("bench_beside", ["--rounds", "0"], "1..100"),
        ("bench_bus", ["--readers", "1,x"], "separated by commas"),
        ("bench_bus", ["--rate-hz", "0"], "1..10000"),
        ("bench_peers", ["--front-end", "vgg"], "resnet18"),
        ("bench_peers", ["--sweep", "--front-end", "resnet18"], "leave --front-end out"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    tool: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(import_module(tool).TOOL, arguments) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith(f"{tool}: error: ") and says in line
    assert not shown.out


def test_a_tool_that_is_started_hands_its_exit_code_on() -> None:
    done = run("bench_bus", "--rate-hz", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("bench_bus: error: ") and not done.stdout


def tool_of(figures: dict[str, Any]) -> command.Tool:
    """A tool that has measured `figures`."""
    return command.Tool(
        name="fake",
        description="",
        examples="",
        seconds=1.0,
        quick_seconds=1.0,
        add_flags=lambda parser: None,
        measure=lambda given: figures,
        table=lambda found: [["ms", "p50"], ["it", "1.00"]],
        draw=lambda found, figure: figure.subplots().plot([1, 2]),
    )


def test_an_inconclusive_run_writes_its_figures_says_so_and_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rising = tool_of({"it_ms": measure([float(value) for value in range(1, 100)])})
    assert command.main(rising, ["--json", str(tmp_path / "a.json")]) == 3
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (document["conclusive"], document["unstable"]) == (False, ["it_ms"])
    assert (tmp_path / "a.png").is_file()
    assert "inconclusive" in capsys.readouterr().out
    steady = tool_of({"it_ms": measure([1.0] * 99)})
    assert command.main(steady, ["--json", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["conclusive"] is True


def test_a_refusal_writes_nothing_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(given: argparse.Namespace) -> dict[str, Any]:
        raise command.BenchError("refused: a\ndiffers from b")

    tool = command.Tool(**{**vars(tool_of({})), "measure": refuse})
    assert command.main(tool, ["--json", str(tmp_path / "a.json")]) == 1
    assert not (tmp_path / "a.json").exists()
    assert capsys.readouterr().err == "bench_fake: error: refused: a differs from b\n"


def test_a_quick_run_writes_only_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    tool = tool_of({"it_ms": measure([1.0] * 99)})
    assert command.main(tool, ["--quick"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert command.main(tool, []) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake.json", "fake.png"]


def test_columns_are_as_wide_as_their_widest_cell_and_text_has_no_column() -> None:
    rows = [["a", "b"], ["longer", "1"], ["a line of text that is long"], [""], ["c", "22"]]
    assert command.aligned(rows) == ["a        b", "longer   1", "a line of text that is long", "", "c       22"]


def test_latency_measures_every_stage_cold_start_idle_memory_and_cpu(tmp_path: Path) -> None:
    """Of a bundle whose tick takes a millisecond; bus runs the shipped one."""
    write_bundle(tmp_path / "bundle")
    found = quick("bench_latency", tmp_path, "--seconds", "1.2", "--bundle", str(tmp_path / "bundle"))
    assert {"cut", "level1", "level2", "level3", "intercad"} <= set(found["paced"]["stages_ms"])
    for values in (found["paced"]["total_ms"], found["as_fast_as_possible"]["total_ms"], *found["engines"].values()):
        assert not isinstance(values, dict) or PERCENTILES <= set(values)
    engines_ms = sum(found["paced"]["stages_ms"][name]["p50"] for name in ("level1", "level2", "level3"))
    assert 0 < engines_ms < 2 * found["paced"]["total_ms"]["p50"]
    assert (
        found["paced"]["capture_to_publish_ms"]["p50"] > found["paced"]["capture_to_publish_ms"]["of_which_settle_ms"]
    )
    assert (
        0.2
        < found["cold_start"]["inside_the_process_s"]["p50"]
        <= (found["cold_start"]["spawn_to_first_prediction_s"]["p50"])
    )
    assert found["engines"]["after_idle_ms"]["n"] >= 1 and found["engines"]["idle_s"] >= 1
    memory = found["paced"]["memory_mb"]
    assert 50 < memory["steady"] <= memory["peak"] < 2000
    assert 0 < found["paced"]["cpu_s_per_stream_s"] < (os.cpu_count() or 1)
    power = found["power_and_clocks"]
    assert all(power[name] is not None or power["reasons"][name] for name in ("rapl", "nvml", "jtop", "clocks"))


def test_bus_times_readers_in_other_processes_beside_one_that_is_stopped(tmp_path: Path) -> None:
    found = quick("bench_bus", tmp_path, "--readers", "2", "--seconds", "1", "--rate-hz", "50")
    for (case,), least in ((found["clcr_stream"], 2 * 2), (found["publisher"], 2 * 40)):
        assert (case["readers"], case["stopped_readers"], case["lost"]) == (2, 1, 0)
        assert case["received"] >= least
        assert 0 < case["publish_to_receive_ms"]["p50"] <= case["publish_to_receive_ms"]["max"]
        assert case["woken_reader"]["fresh_after_reads"] >= 1
        assert case["slow_reader_age_ms"]["n"] >= 2 and case["slow_reader_age_ms"]["p99"] > 0
        assert case["publisher_rss_mb"]["last"] > 10
    assert (
        found["clcr_stream"][0]["capture_to_receive_ms"]["p50"]
        > found["clcr_stream"][0]["publish_to_receive_ms"]["p50"]
    )
    own_ms = found["clcr_stream"][0]["own_ms"]
    assert 0 < own_ms["p50"] < found["clcr_stream"][0]["capture_to_receive_ms"]["p50"]
    assert found["publisher"][0]["dropped_before_the_socket"] == 0


def test_beside_runs_a_session_with_each_thing_beside_it_and_compares(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    given = ("--bundle", str(tmp_path / "bundle"), "--seconds", "2.4")
    found = quick("bench_beside", tmp_path, *given, "--cases", "words,top,view")["cases"]
    for name in ("top", "view"):
        assert found[name]["against"] == "words" and found[name]["tick_p99_ratio"] > 0
        assert found[name]["tick_ms"]["n"] >= 4 and found[name]["cpu_s_per_s"] > 0
    assert found["top"]["beside_cpu_s_per_s"] >= 0 and found["view"]["beside_cpu_s_per_s"] >= 0
    assert "against" not in found["words"] and found["words"]["beside_cpu_s_per_s"] is None


def test_streams_finds_a_number_and_every_probe_says_why(tmp_path: Path) -> None:
    """Of a bundle whose tick takes a millisecond; bus runs the shipped one."""
    write_bundle(tmp_path / "bundle")
    given = ("--bundle", str(tmp_path / "bundle"), "--seconds", "1", "--max-streams", "4")
    found = quick("bench_streams", tmp_path, *given)
    assert found["drawing_cpu_ms_per_picture"] > 0
    result = found["sources"]["sound"]["batched"]
    assert result["probes"][0]["streams"] == 1
    assert result["streams"] in {0, *(probe["streams"] for probe in result["probes"] if probe["passed"])}
    for probe in result["probes"]:
        assert probe["verdict"].startswith("passed" if probe["passed"] else "failed")
        assert probe["due"] > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None or find_spec("onnx") is None, reason="needs the export extra")
def test_peers_agree_and_their_ratios_follow_from_their_figures(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a narrow model, in this process, which has loaded torch already; the other tools run as users start them."""
    from clcr_export.writer import ExportOptions, export_bundle
    from tiny_checkpoint import write_tiny_checkpoint
    from traced import exports_trace_once

    write_tiny_checkpoint(tmp_path / "checkpoint")
    with exports_trace_once(tmp_path_factory, proved=False):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", ExportOptions("tiny"), lambda _: None)
    arguments = ["--quick", "--seconds", "0.4", "--json", tmp_path / "out.json", "--cache", tmp_path / "cache"]
    arguments += ["--bundle", tmp_path / "bundle", "--checkpoint", tmp_path / "checkpoint"]
    code = command.main(import_module("bench_peers").TOOL, list(map(str, arguments)))
    found = found_in(tmp_path, code, capsys.readouterr().err)
    for name in ("ours", "onnxruntime_cached_faces", "onnxruntime_recompute", "torch_eager"):
        assert found[f"{name}_ms_p50"] > 0
    assert found["torch_compile_ms_p50"] is None and found["torch_compile_reason"]
    assert found["exact"] <= 1e-4 and found["weights"].startswith("checkpoint ")
    assert (found["threads"], found["left_context"]) == (1, 28)
    assert found["macs_recompute"] > 5 * found["macs_increment"] > 0
    assert found["macs_increment"] < found["macs_cached_faces"] < found["macs_recompute"]
    assert found["theoretical_ratio"] == pytest.approx(found["macs_recompute"] / found["macs_increment"], abs=1e-3)
    measured = found["onnxruntime_recompute_ms_p50"] / found["ours_ms_p50"]
    assert found["measured_ratio"] == pytest.approx(measured, abs=1e-3)
    assert found["share_of_theoretical"] == pytest.approx(measured / found["theoretical_ratio"], abs=1e-3)
    assert found["front_end"]["convolution_macs_per_hop"] < found["macs_increment"]


def test_every_number_of_the_document_is_that_of_the_committed_json() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert update_benchmarks.updated(text, ROOT / "docs/benchmarks") == text, "run tools/docs/benchmarks.py"
    speech = update_benchmarks.SPEECH.read_text(encoding="utf-8")
    assert update_benchmarks.updated(speech, ROOT / "docs/benchmarks") == speech, "run tools/docs/benchmarks.py"
    assert "| silence |" in speech
    assert [found[1] for found in update_benchmarks.SECTION.findall(text)] == list(update_benchmarks.TOOLS)


def test_a_section_shows_its_table_its_picture_and_an_inconclusive_run(tmp_path: Path) -> None:
    text = "before\n<!-- begin bus -->\nold 1.23\n<!-- end bus -->\nafter\n"
    assert "Not measured yet" in update_benchmarks.updated(text, tmp_path)
    delay = {**measure([1.0, 2.0]), "p50": 77.25}
    case = {
        "readers": 10,
        "publish_to_receive_ms": delay,
        "capture_to_receive_ms": delay,
        "own_ms": delay,
        "lost": 0,
        "received": 20,
        "publisher_rss_mb": {"last": 50.0},
        "woken_reader": {"first_age_ms": 3.0, "fresh_after_ms": 4.0},
    }
    document = {
        "command": "tools/bench_bus.py",
        "started_at": "2026-11-20T00:00:00+00:00",
        "git": {"commit": "f" * 40, "modified": True},
        "machine": {"cores": 2, "cpu": "X", "load_1_min_at_start": 0.5},
        "conclusive": False,
        "unstable": ["clcr_stream[0]"],
        "clcr_stream": [case],
        "publisher": [case],
        "rate_hz": 200.0,
    }
    (tmp_path / "bus.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "bus.png").write_bytes(b"")
    shown = update_benchmarks.updated(text, tmp_path)
    assert shown.startswith("before\n<!-- begin bus -->\n") and shown.endswith("<!-- end bus -->\nafter\n")
    assert "old 1.23" not in shown
    assert "| clcr-stream, 10 readers + 1 stopped | 77.25 |" in shown
    assert "**inconclusive** in clcr_stream[0]" in shown and "ffffffffffff with local changes" in shown
    assert "![bus](benchmarks/bus.png)" in shown
    assert shown.count("|---|") == 3


def test_rows_become_markdown_tables_with_text_between_them() -> None:
    rows = [["a", "b"], ["x", "1"], [""], ["c", "d"], ["y", "2"], ["a remark"]]
    expected = ["| a | b |", "|---|--:|", "| x | 1 |", "", "| c | d |", "|---|--:|", "| y | 2 |", "", "* a remark"]
    assert update_benchmarks.markdown(rows) == expected
