"""A network camera through the command: predictions flow, a camera that freezes is told and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from clcr_stream.sources.synthetic.source import write_clip
from crowd import slowdown
from job_checks import check_numbers, check_pace, validate
from job_live import MjpegCamera
from job_process import NS_PER_S, Message, Watched, free_endpoint

PICTURES = 30
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talking person as JPEG files."""
    folder = tmp_path_factory.mktemp("pictures")
    write_clip(folder / "person.mp4", 2.0)
    container: Any
    with av.open(str(folder / "person.mp4")) as container:
        for number, frame in zip(range(PICTURES), container.decode(video=0), strict=False):
            frame.to_image().save(folder / f"{number:03}.jpg", quality=80)
    return folder


def seen(message: Message) -> bool:
    return message["modalities"]["vision"]["present"] and not {"vision_stale", "vision_absent", "no_input"} & set(
        message["degraded"]
    )


def stale(message: Message) -> bool:
    return bool({"vision_stale", "vision_absent", "no_input"} & set(message["degraded"]))


def test_a_network_camera_gives_predictions_and_one_that_freezes_is_flagged_and_comes_back(
    pictures: Path, tmp_path: Path, record_property: Record
) -> None:
    with MjpegCamera(pictures) as camera:
        given = ["--camera", camera.url, "--mic", "none", "--pace", "real"]
        with Watched(tmp_path, given, free_endpoint()) as session:
            first = session.expect(seen, 30)
            session.expect(lambda message: message["modalities"]["vision"]["coverage"] > 0.4, 20)
            frozen_ns = session.now_ns()
            camera.freeze()
            flagged = session.expect(stale, 10, after_ns=frozen_ns)
            told = session.expect(lambda message: source_state(message) in ("stale", "lost"), 10, "status", frozen_ns)
            session.expect(lambda message: message["seq"] >= flagged.message["seq"] + 5, 10)  # it goes on meanwhile
            thawed_ns = session.now_ns()
            camera.thaw()
            back = session.expect(seen, 20, after_ns=thawed_ns)
            live = session.expect(lambda message: source_state(message) == "live", 10, "status", thawed_ns)
            code, _ = session.terminate()
            received = session.reader.received()
    assert code == 0, session.stderr()
    assert session.files_left() == ["stderr.txt"], "the session left files behind"
    flagged_s, back_s = (flagged.arrived_ns - frozen_ns) / NS_PER_S, (back.arrived_ns - thawed_ns) / NS_PER_S
    assert flagged_s <= 1.0 * slowdown()
    assert back_s <= 3.0 * slowdown()
    told_s = (told.arrived_ns - frozen_ns) / NS_PER_S
    assert told_s <= 1.0 * slowdown(), "a change of a source's state is told at once"
    predictions = [got for got in received if got.message["type"] == "prediction"]
    delivering = [got for got in predictions if first.arrived_ns <= got.arrived_ns <= frozen_ns]
    # A busy machine may stay frozen until the window is empty: then there is nothing to say, and no numbers.
    answers = [got.message for got in predictions if "no_input" not in got.message["degraded"]]
    figures = validate(received) | check_numbers(answers) | check_pace(delivering)
    waits_s = {
        "first_picture_s": (first.arrived_ns - session.started_ns) / NS_PER_S,
        "flagged_s": flagged_s,
        "recovered_s": back_s,
        "told_s": told_s,
        "status_live_s": (live.arrived_ns - thawed_ns) / NS_PER_S,
    }
    record_property("network_camera", figures | {name: round(wait_s, 3) for name, wait_s in waits_s.items()})


def source_state(status: Message) -> str:
    state: str = status["sources"][0]["state"]
    return state
