"""Metrics, health and log lines: what a scraper, a supervisor and a log reader get, and what they never get."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clcr_stream.cli.log_lines import MOST_PER_S, JsonLog
from clcr_stream.cli.main import main
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import PublishError
from clcr_stream.metrics.gauges import Gauges
from clcr_stream.metrics.options import MetricsOptions, parse_metrics
from clcr_stream.metrics.server import MetricsServer
from clcr_stream.wire.messages import Source, Ticks
from media import eventually
from tiny_bundle import write_bundle
from wire_messages import prediction, status, words

ROOT = Path(__file__).resolve().parents[2]


class Time:
    now_ns = 1000 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns


def samples(text: bytes) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus' own parser reads them."""
    return {
        f"{one.name}{json.dumps(one.labels, sort_keys=True)}": one.value
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    }


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def gauges(time: Time) -> Gauges:
    made = Gauges(time)
    for seq in (1, 2, 3):
        made.write(prediction(seq, degraded=("no_face",), timing_ms={"cut": 1.0, "total": 12.0, "batch": 1}))
    camera = Source(
        name="rtsp://somebody@host", kind="camera", state="dark", counts={"frames": 90, "late": 2}, code="no_data"
    )
    ticks = Ticks(due=5, published=3, skipped={"late": 2, "overrun": 0})
    made.write(status(state="running", ticks=ticks, sources=(camera,), degraded=(), rss_mb=180.0, subscribers=2))
    made.write(words("a secret", published_ns=3 * NS_PER_S, end_ns=2 * NS_PER_S))
    return made


def test_metrics_count_what_the_messages_say(gauges: Gauges, time: Time) -> None:
    time.now_ns += NS_PER_S
    found = samples(gauges.text())
    stream = '"stream": "default"'
    assert found[f"clcr_predictions_total{{{stream}}}"] == 3
    assert found[f'clcr_ticks_skipped_total{{"reason": "late", {stream}}}'] == 2
    assert found[f'clcr_stage_seconds_sum{{"stage": "total", {stream}}}'] == pytest.approx(0.036)
    assert found[f'clcr_source_state{{"kind": "camera", "state": "dark", {stream}}}'] == 1
    assert found[f'clcr_source_state{{"kind": "camera", "state": "live", {stream}}}'] == 0
    assert [one for one in found if one.startswith("clcr_source_code")] == [
        f'clcr_source_code{{"code": "no_data", "kind": "camera", {stream}}}'
    ]
    assert found[f'clcr_source_events_total{{"event": "late", "kind": "camera", {stream}}}'] == 2
    assert found[f'clcr_degraded_total{{"reason": "no_face", {stream}}}'] == 3
    assert found[f"clcr_word_lag_seconds_sum{{{stream}}}"] == 1.0
    assert found[f"clcr_prediction_age_seconds{{{stream}}}"] == 1.0
    assert not [name for name in found if "batch" in name]


def test_the_newest_prediction_s_light_and_sound_are_told_and_how_near_somebody_is_is_not(
    gauges: Gauges, time: Time
) -> None:
    def measured(**numbers: float | None) -> None:
        made = prediction(4)
        vision = msgspec.structs.replace(made.modalities.vision, numbers=numbers)
        acoustic = msgspec.structs.replace(made.modalities.acoustic, numbers={"speech_share": 0.5})
        time.now_ns += NS_PER_S
        both = msgspec.structs.replace(made.modalities, vision=vision, acoustic=acoustic)
        gauges.write(msgspec.structs.replace(made, modalities=both))

    def told() -> dict[str, float]:
        return {name: value for name, value in samples(gauges.text()).items() if name.startswith("clcr_quality")}

    measured(luma=0.25, sharpness=None, face_size=0.5)
    assert told() == {'clcr_quality{"modality": "vision", "number": "luma", "stream": "default"}': 0.25}
    measured()
    assert told() == {}


def test_two_sources_of_a_kind_are_told_apart_without_their_names(gauges: Gauges, time: Time) -> None:
    time.now_ns += NS_PER_S
    files = tuple(Source(name=f"{name}.wav", kind="file", state="live", counts={"frames": 9}) for name in "ab")
    gauges.write(status(state="running", ticks=Ticks(due=5, published=5, skipped={}), sources=files, degraded=()))
    lines = [line.rpartition(" ")[0] for line in gauges.text().decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines)), "a scraper refuses what is told twice"
    assert any('kind="file_2"' in line for line in lines) and ".wav" not in "".join(lines)


def test_nothing_about_a_person_and_no_credential_is_in_them(gauges: Gauges) -> None:
    text = gauges.text().decode()
    assert "secret" not in text and "somebody" not in text
    assert "neutral" not in text and "sad" not in text


def test_alive_and_ready_are_told_by_ticks_and_predictions_and_required_inputs(gauges: Gauges, time: Time) -> None:
    assert gauges.alive() == {} and gauges.unready() == {}
    gauges.write(status(ticks=Ticks(due=6, published=4, skipped={}), degraded=("vision_required",)))
    assert gauges.unready() == {"default": "vision_required"}
    time.now_ns += 3 * NS_PER_S
    assert gauges.alive() == {} and gauges.unready() == {"default": "no prediction for 3 s"}
    time.now_ns += 8 * NS_PER_S
    assert gauges.alive() == {"default": "no tick for 11 s"}
    gauges.write(status(state="goodbye"))
    assert gauges.alive() == {} and gauges.unready() == {"": "no stream runs"}
    gauges.write(prediction(1, stream="slow start"))
    time.now_ns += 60 * NS_PER_S
    assert gauges.alive() == {}


@contextlib.contextmanager
def asking(server: MetricsServer) -> Iterator[http.client.HTTPConnection]:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        yield connection


def answer(server: MetricsServer, path: str, host: str | None = None) -> tuple[int, str]:
    with asking(server) as connection:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_the_server_answers_its_three_paths_and_no_page_of_another_site(gauges: Gauges, time: Time) -> None:
    with MetricsServer(MetricsOptions(), gauges) as server:
        assert answer(server, "/livez") == (200, "ok\n")
        assert answer(server, "/readyz") == (200, "ok\n")
        assert answer(server, "/metrics")[0] == 200
        assert answer(server, "/metrics", "localhost:9464")[0] == 200
        assert answer(server, "/metrics", "evil.example:80")[0] == 403
        assert answer(server, "/else")[0] == 404
        time.now_ns += 30 * NS_PER_S
        assert answer(server, "/livez") == (503, "default: no tick for 30 s\n")
        with pytest.raises(PublishError, match=r"cannot be bound: .*; give another port"):
            MetricsServer(MetricsOptions(port=int(server.url.split(":")[2].split("/")[0])), gauges)


def test_scrapers_that_say_nothing_do_not_keep_others_from_an_answer_for_long(gauges: Gauges) -> None:
    with MetricsServer(MetricsOptions(), gauges) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(asking(server)).connect()

        def answered() -> bool:
            try:
                return answer(server, "/livez")[0] == 200
            except OSError:
                return False

        assert eventually(answered, 30)


@pytest.mark.parametrize("text", ["here", "127.0.0.1", "1.2.3.4:99999", "999.1.1.1:80", "host:80", ""])
def test_what_is_no_address_is_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--metrics", text, "--input", "test://"]) == 2
    assert "allowed are PORT, 127.0.0.1:PORT and ADDRESS:PORT" in capsys.readouterr().err


def test_a_port_alone_is_on_loopback() -> None:
    assert parse_metrics("9464") == parse_metrics("localhost:9464") == MetricsOptions("127.0.0.1", 9464)
    assert parse_metrics("[::1]:1").loopback and not parse_metrics("0.0.0.0:1").loopback


def test_the_dashboard_asks_for_metrics_that_there_are(gauges: Gauges) -> None:
    text = (ROOT / "examples/grafana.json").read_text(encoding="utf-8")
    asked = {name for panel in json.loads(text)["panels"] for one in panel["targets"] for name in found_in(one["expr"])}
    there = {name.partition("{")[0] for name in samples(gauges.text())}
    assert len(asked) >= 10 and asked <= there


def found_in(expression: str) -> list[str]:
    return re.findall(r"\bclcr_\w+", expression)


def test_log_lines_are_objects_not_too_many_and_errors_always_come(time: Time) -> None:
    out = io.StringIO()
    log = JsonLog(out, time)
    for number in range(50):
        log.write(f"line {number}\n")
    log.write('clcr-stream: error: it has "failed"\nhalf a li')
    time.now_ns += NS_PER_S
    log.write("ne\n")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["message"] for line in lines[:2]] == ["line 0", "line 1"]
    assert len(lines) == MOST_PER_S + 2
    assert (lines[-2]["level"], lines[-2]["message"]) == ("error", 'it has "failed"')
    assert lines[-1]["message"] == "half a line" and lines[-2]["suppressed"] == 30


def test_log_lines_have_the_level_of_what_a_person_reads(time: Time) -> None:
    out = io.StringIO()
    log = JsonLog(out, time)
    log.write("clcr-stream: error: no\nwarning: camera 0: lost: unplugged\ncamera 0: back\n")
    found = [(line["level"], line["message"]) for line in map(json.loads, out.getvalue().splitlines())]
    assert found == [("error", "no"), ("warning", "camera 0: lost: unplugged"), ("info", "camera 0: back")]


def test_a_session_serves_its_metrics_and_logs_lines_of_json(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    command = [sys.executable, "-m", "clcr_stream", "--bundle", str(tmp_path / "bundle"), "--metrics", "127.0.0.1:0"]
    command += ["--camera", "/dev/video97", "--mic", "test://", "--log-format", "json"]
    settings = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with (
        subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        patience = threading.Timer(120, process.kill)
        patience.start()
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        url = re.fullmatch(r"metrics for programs of this machine: http://127\.0\.0\.1:(\d+)/metrics", first["message"])
        assert url is not None and first["level"] == "info"

        def get(path: str) -> tuple[int, str]:
            assert url is not None
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(url[1]), timeout=30)) as connection:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()

        assert eventually(lambda: get("/readyz")[0] == 200, 60)
        assert eventually(lambda: 'clcr_source_state{kind="synthetic",state="live"' in get("/metrics")[1], 30)
        assert get("/livez") == (200, "ok\n")
        process.terminate()
        rest = process.stderr.read()
        patience.cancel()
    lines = [json.loads(line) for line in rest.splitlines()]
    assert all({"at", "monotonic_ns", "level", "message"} <= line.keys() for line in lines)
    (warned,) = (line["message"] for line in lines if line["level"] == "warning")
    assert warned.startswith("camera /dev/video97: absent: no such camera")
    assert "ticks " in rest
