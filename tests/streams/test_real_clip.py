"""The main job on real clips: a process is given a video file and a plain pyzmq process reads its predictions.

What is asserted is the contract, never a label: the bundle may be any. `tools/prove.py` runs these tests, on
clips of the caller too, and keeps the figures they record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import job_recompute
from clcr_stream.bundle.loader import default_bundle_folder
from crowd import slowdown
from job_checks import (
    CLOCK_FIELDS,
    check_coverage,
    check_numbers,
    check_order,
    check_pace,
    largest_differences,
    of_kind,
    spread,
    timeless,
    validate,
)
from job_clips import BUNDLE, CLIPS, DATA, Clip, clips
from job_process import ROOT, STREAM, Message, Probe, Received, Watched, finish, free_endpoint, media_files
from job_process import read_lines as read

pytestmark = pytest.mark.data
Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Ran:
    """A session at real pace, from outside: everything the reader got, and the process shortly before its end."""

    received: list[Received]
    lines: list[Message]
    probe: Probe
    cold_start_s: float
    exit_code: int
    stderr: str
    files: list[str]

    @property
    def predictions(self) -> list[Received]:
        return [got for got in self.received if got.message["type"] == "prediction"]

    @property
    def messages(self) -> list[Message]:
        return [got.message for got in self.predictions]


@dataclass(frozen=True)
class Replayed:
    """The same clip as fast as it goes."""

    lines: list[Message]
    summary: dict[str, Any]
    modules: list[str]


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.config.stash.get(BUNDLE, None) or default_bundle_folder()


@pytest.fixture(scope="module", params=[0, 1], ids=["long", "short"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    given = request.config.stash.get(CLIPS, None)
    if given is None and not DATA.exists():
        pytest.skip(f"no {DATA}; tools/prove.py takes other clips")
    found: list[Clip] = given if given is not None else clips(tmp_path_factory.mktemp("clips"))
    if request.param >= len(found):
        pytest.skip("only one clip was given")
    number: int = request.param
    return found[number]


@pytest.fixture(scope="module")
def place(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(clip.name)


@pytest.fixture(scope="module")
def ran(clip: Clip, place: Path, bundle: Path) -> Ran:
    output = place / "real.jsonl"
    given = [*clip.arguments, "--bundle", bundle, "--pace", "real", "--output", output]
    with Watched(place, given, free_endpoint()) as session:
        first = session.expect(lambda message: True, 30)
        session.expect(lambda message: message["seq"] >= 8, 30)
        probe = session.probe()
        session.expect(lambda message: message["state"] == "goodbye", 60, "status")
        code = session.process.wait(10)
        return Ran(
            received=session.reader.received(),
            lines=read(output),
            probe=probe,
            cold_start_s=(first.arrived_ns - session.started_ns) / 1e9,
            exit_code=code,
            stderr=session.stderr(),
            files=session.files_left(),
        )


@pytest.fixture(scope="module")
def replayed(clip: Clip, place: Path, bundle: Path) -> Replayed:
    output = place / "max.jsonl"
    given = ("--bundle", bundle, "--pace", "max", "--output", output, "--stream", STREAM)
    summary, modules = finish(place, *clip.arguments, *given)
    return Replayed(read(output), summary, modules)


def test_every_message_fits_its_schema_and_the_session_is_told_from_start_to_goodbye(
    clip: Clip, ran: Ran, record_property: Record
) -> None:
    figures = validate(ran.received) | check_order(ran.received)
    assert ran.exit_code == 0, ran.stderr
    assert figures["messages"]["transcript"] == (0 if clip.srt is None else clip.srt.read_text().count("-->"))
    skipped = sum(figures["ticks"]["skipped"].values())
    assert figures["first_seq"] <= 3 * slowdown()
    assert skipped <= figures["ticks"]["due"] // 10 * slowdown(), "this machine is too busy for the hop"
    wired = [got.message for got in ran.received]
    assert sorted(map(json.dumps, wired)) == sorted(map(json.dumps, _as_sent(ran.lines))), "--output is not the wire"
    record_property("wire", figures | {"clip": clip.name})


def _as_sent(lines: list[Message]) -> list[Message]:
    """The lines of --output but for what only the publisher knows: its number of subscribers."""
    return [line | ({"subscribers": 1} if line["type"] == "status" else {}) for line in lines]


def test_a_prediction_comes_every_hop_and_soon(ran: Ran, record_property: Record) -> None:
    record_property("pace", check_pace(ran.predictions))


def test_shares_sum_to_one_and_the_window_fills_up_hop_by_hop(
    clip: Clip, ran: Ran, replayed: Replayed, record_property: Record
) -> None:
    figures = check_numbers(ran.messages)
    messages = of_kind(replayed.lines, "prediction")
    figures |= check_numbers(messages) | check_coverage(messages)
    words = [message["modalities"]["language"]["coverage"] for message in messages]
    assert words[0] == 0.0
    assert clip.srt is None or max(words) > 0.0
    record_property("numbers", figures)


def test_both_paces_say_the_same_apart_from_the_clock(ran: Ran, replayed: Replayed, record_property: Record) -> None:
    origins = [of_kind(lines, "session")[0]["origin_ns"] for lines in (ran.lines, replayed.lines)]
    real = timeless(of_kind(ran.lines, "prediction"), origins[0])
    fast = timeless(of_kind(replayed.lines, "prediction"), origins[1])
    assert list(fast) == list(range(1, len(fast) + 1)), "a recording at pace max has every tick"
    assert max(real) == max(fast)
    for seq, message in real.items():
        assert message == fast[seq], seq
    record_property("paces", {"predictions_compared": len(real), "different": 0, "apart_from": CLOCK_FIELDS})


@pytest.fixture(scope="module")
def recomputed(clip: Clip, place: Path, bundle: Path) -> tuple[Path, Path | None]:
    """The clip as a whole through the graphs, and through the model when its checkpoint is here."""
    checkpoint = find_checkpoint(bundle)
    out = place / "recomputed.npz"
    given = (bundle, clip.video, clip.srt or "-", out, *((checkpoint,) if checkpoint is not None else ()))
    job_recompute.main(list(map(str, given)))
    return out, checkpoint


def find_checkpoint(bundle: Path) -> Path | None:
    """The checkpoint here whose weights the bundle says it was made of."""
    wanted = json.loads((bundle / "manifest.json").read_text())["provenance"].get("checkpoint", {}).get("sha256")
    for weights in [*ROOT.glob("checkpoints/*/model.safetensors"), *ROOT.glob("runs/*/*/model.safetensors")]:
        if hashlib.sha256(weights.read_bytes()).hexdigest() == wanted:
            return weights.parent
    return None


def test_the_stream_says_what_its_graphs_say_of_the_whole_clip_from_zero_state(
    replayed: Replayed, recomputed: tuple[Path, Path | None], record_property: Record
) -> None:
    messages = of_kind(replayed.lines, "prediction")
    found = largest_differences(messages, recomputed[0], "graphs")
    assert set(found) == {"output", "omega", "beta", "eta", "mass", "active"}
    assert max(found.values()) <= 1e-6, found
    control = largest_differences(messages, recomputed[0], "graphs", hops_late=1)
    assert control["output"] > 1e-5, "one hop late would not have been noticed"
    record_property("graphs", {"ticks": len(messages), "largest_difference": found, "one_hop_late": control})


def test_the_stream_says_what_the_trained_model_says_of_whole_windows(
    replayed: Replayed, recomputed: tuple[Path, Path | None], record_property: Record
) -> None:
    if recomputed[1] is None:
        pytest.skip("no checkpoint in checkpoints/ or runs/ has the weights that the bundle was made of")
    messages = of_kind(replayed.lines, "prediction")
    found = largest_differences(messages, recomputed[0], "model")
    assert set(found) == {"output", "omega", "beta", "eta", "mass"}
    assert max(found.values()) <= 1e-4, found
    record_property("model", {"ticks": len(messages), "largest_difference": found})


def test_the_runtime_is_small_quick_to_start_private_and_without_torch(
    ran: Ran, replayed: Replayed, record_property: Record
) -> None:
    assert ran.probe.torch_maps == []
    assert "torch" not in replayed.modules and "onnxruntime" in replayed.modules
    peak_mb = max(ran.probe.peak_rss_mb, replayed.summary["peak_rss_mb"])
    assert peak_mb < 400
    assert ran.cold_start_s <= 5.0 * slowdown()
    assert all("127.0.0.1" in line for line in ran.probe.inet_sockets) and ran.probe.inet_sockets
    assert media_files([*ran.probe.files_written, *ran.files]) == []
    kept = {name for name in ran.files if not name.endswith((".jsonl", ".srt", ".npz", "stderr.txt"))}
    assert kept == set(), "the session left files behind"
    cost = spread([message["timing_ms"]["total"] for message in of_kind(replayed.lines, "prediction")])
    figures = {"peak_rss_mb": peak_mb, "cold_start_s": round(ran.cold_start_s, 3), "tick_ms_at_pace_max": cost}
    record_property("resources", figures | {"torch_maps": 0, "media_files": 0})


def test_sigterm_ends_a_session_at_once_with_a_goodbye_and_it_never_had_a_tcp_socket(
    clip: Clip, bundle: Path, tmp_path: Path, record_property: Record
) -> None:
    given = [*clip.arguments, "--bundle", bundle, "--pace", "real"]
    with Watched(tmp_path, given) as session:
        session.expect(lambda message: message["seq"] >= 3, 30)
        probe = session.probe()
        code, seconds = session.terminate()
        goodbye = session.expect(lambda message: message["state"] == "goodbye", 5, "status")
    assert code == 0, session.stderr()
    assert seconds <= 2.0 * slowdown()
    assert goodbye.message["ticks"]["published"] >= 3
    assert probe.inet_sockets == []
    assert session.files_left() == ["stderr.txt"], "the session left files behind"
    record_property("sigterm", {"exit_code": code, "exit_s": round(seconds, 3), "inet_sockets": 0})
