"""Fault 7: the time stamps of a file, a stream or a camera repeat, jump or wrap around."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from clcr_stream.sources.synthetic.source import write_clip
from crowd import slowdown
from fake_camera import DEVICE, WHY_NOT, FakeCamera
from faulty import expect_state, source, watched
from job_process import NS_PER_S, Message, environment, finish, read_lines
from tiny_bundle import write_bundle

SECONDS = 3
WRAP_33_BITS_S, WRAP_32_BITS_S = 2**33 / 90_000, 2**32 / 90_000  # of MPEG-TS; of those that count in 32 bits


def write_stream(path: Path, clip: Path, first_s: float = 0.0, repeat: int = 1) -> Path:
    """The clip's packets, the first one at `first_s`; every picture's stamp given to `repeat` pictures in a row."""
    options = {"output_ts_offset": str(first_s)} if first_s else {}
    source_file: Any
    with av.open(str(clip)) as source_file, av.open(str(path), "w", options=options) as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source_file.streams}
        numbers: dict[Fraction, int] = {}
        for packet in source_file.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and repeat > 1:
                number = numbers.setdefault(packet.dts, len(numbers)) // repeat * repeat
                packet.pts = packet.dts = list(numbers)[number]
            packet.stream = streams[packet.stream_index]
            copy.mux(packet)
    return path


def play(place: Path, file: Path, *more: str) -> tuple[list[Message], Message]:
    """What the command says of a file: its predictions, and what became of the source."""
    write_bundle(place / "bundle")
    environment(place)
    fixed = ("--bundle", str(place / "bundle"), "--backend", "null", "--transcript", "none", "--pace", "max")
    finish(place, *fixed, "--input", file, "--output", place / "out", *more)
    messages = read_lines(place / "out")
    predictions = [one for one in messages if one["type"] == "prediction"]
    ends_ns = [one["window"]["end_ns"] for one in predictions]
    assert {later - former for former, later in itertools.pairwise(ends_ns)} == {NS_PER_S // 5}, "time goes on evenly"
    for one in predictions:
        assert one["window"]["start_ns"] < one["window"]["end_ns"]
        assert all((found["age_ms"] or 0) >= 0 for found in one["modalities"].values())
    told = source([one for one in messages if one["type"] == "status"][-1])
    counts = told["counts"]
    for what, number in (("frames", counts["frames"]), ("samples", counts["samples"])):
        dropped = sum(many for name, many in counts.items() if name.startswith(f"{what}_dropped_"))
        assert number == counts[f"{what}_in"] == counts[f"{what}_used"] + counts[f"{what}_held"] + dropped
    return predictions, told


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "person.mp4"
    write_clip(path, float(SECONDS))
    return path


@pytest.mark.parametrize("wrap_s", [WRAP_33_BITS_S, WRAP_32_BITS_S])
def test_stamps_that_wrap_around_in_the_middle_lose_nothing(wrap_s: float, clip: Path, tmp_path: Path) -> None:
    predictions, told = play(tmp_path, write_stream(tmp_path / "a.ts", clip, wrap_s - 1.5))
    assert len(predictions) == SECONDS * 5 and told["state"] == "ended"
    assert told["counts"]["frames"] == SECONDS * 30 and told["counts"]["frames_dropped_late"] == 0
    assert predictions[-1]["modalities"]["vision"]["coverage"] == pytest.approx(0.5, abs=0.04)


def test_pictures_with_one_stamp_take_one_place_and_the_others_are_counted(clip: Path, tmp_path: Path) -> None:
    predictions, told = play(tmp_path, write_stream(tmp_path / "a.mkv", clip, repeat=6))
    assert len(predictions) == SECONDS * 5
    used = told["counts"]["frames_used"]
    assert used == SECONDS * 5 and told["counts"]["frames_dropped_same_slot"] == SECONDS * 30 - used


def test_a_file_whose_stamps_go_back_to_its_beginning_is_played_without_going_back(clip: Path, tmp_path: Path) -> None:
    once = write_stream(tmp_path / "once.ts", clip).read_bytes()
    (tmp_path / "thrice.ts").write_bytes(once * 3)
    predictions, told = play(tmp_path, tmp_path / "thrice.ts")
    assert len(predictions) >= SECONDS * 5 and told["counts"]["frames"] == 3 * SECONDS * 30


def test_a_file_whose_stamps_jump_by_an_hour_goes_on(clip: Path, tmp_path: Path) -> None:
    parts = [write_stream(tmp_path / f"{first_s}.ts", clip, first_s) for first_s in (0.0, 3600.0)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    predictions, _ = play(tmp_path, tmp_path / "both.ts", "--duration", "12")
    assert predictions[14]["modalities"]["vision"]["coverage"] > 0.4


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_camera_whose_stamps_jump_by_an_hour_goes_on_by_arrival_and_no_age_is_negative(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with (
        FakeCamera(tmp_path / "camera") as camera,
        watched(tmp_path, "--camera", DEVICE, "--mic", "none", extra=camera.environment) as session,
    ):
        expect_state(session, "live", 30)
        for jump_s in (3600, -3600):
            camera.jump(jump_s)
            jumped_ns = session.now_ns()
            session.expect(lambda one: True, 10, after_ns=jumped_ns + 2 * NS_PER_S)
        last = expect_state(session, "live", 10, session.now_ns())
        code, _ = session.terminate()
        predictions = [got for got in session.reader.received("prediction") if got.arrived_ns > jumped_ns]
    assert code == 0, session.stderr()
    record_property("fault_07_camera", source(last.message)["timing"])
    ages_ms = [got.message["modalities"]["vision"]["age_ms"] for got in predictions]
    assert 0 <= min(ages_ms) and max(ages_ms) < 600 * slowdown(), "an hour is no age of a picture"
    assert source(last.message)["timing"]["jumps"] >= 1
    assert source(last.message)["entered"].keys() == {"starting", "live"}
