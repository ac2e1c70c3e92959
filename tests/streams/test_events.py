"""Changes of expression: few, lasting, never flickering; and as a session sends them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.cli.main import main
from clcr_stream.clock import NS_PER_S
from clcr_stream.streams.events import Changes, Rules
from clcr_stream.wire.messages import Event, Face, Prediction
from tiny_bundle import write_bundle
from wire_messages import HOP_NS, ORIGIN_NS, prediction

LABELS = ("neutral", "sad", "happy")
HOLD = 3  # hops


def probs(label: str, share: float = 0.9) -> dict[str, float]:
    return {name: share if name == label else (1 - share) / 2 for name in LABELS}


def told(*answers: dict[str, float] | None, rules: Rules = Rules(smoothing_s=1e-6)) -> list[tuple[int, Event]]:  # noqa: B008
    """The events of a session with these probabilities, each with its tick."""
    changes, events = Changes(rules), []
    for seq, answer in enumerate(answers, start=1):
        made = prediction(seq, answer or probs("sad"))
        if answer is None:
            made = msgspec.structs.replace(made, label=None, confidence=None, degraded=("no_input",))
        event = changes.take(made)
        if event is not None:
            events.append((seq, event))
    return events


def test_a_label_begins_after_three_hops_and_its_beginning_is_told() -> None:
    ((tick, event),) = told(*[probs("sad")] * 20)
    assert tick == 1 + HOLD and event.tick == tick
    assert (event.label, event.previous, event.reason, event.previous_s) == ("sad", None, "clear", None)
    assert event.at_ns == ORIGIN_NS + 1 * HOP_NS and event.confidence == pytest.approx(0.9)


def test_a_change_says_what_was_before_and_for_how_long() -> None:
    events = told(*[probs("sad")] * 10, *[probs("happy")] * 10)
    assert [(tick, event.label, event.previous) for tick, event in events] == [(4, "sad", None), (14, "happy", "sad")]
    assert events[1][1].previous_s == 2.0


def test_what_is_shorter_than_the_hold_or_between_the_two_limits_changes_nothing() -> None:
    short = [probs("happy")] * HOLD
    between = [probs("sad", 0.45)] * 30
    assert [event.label for _, event in told(*[probs("sad")] * 9, *short, *[probs("sad")] * 9, *between)] == ["sad"]
    assert told(*[probs("sad"), probs("happy")] * 20) == []


def test_no_clear_label_nobody_and_another_face_end_an_expression() -> None:
    unclear = told(*[probs("sad")] * 9, *[probs("sad", 0.35)] * 9)
    absent = told(*[probs("sad")] * 9, *[None] * 30, *[probs("sad")] * 9)
    assert [(event.label, event.reason) for _, event in unclear] == [("sad", "clear"), (None, "unclear")]
    begun, ended = ("sad", "clear"), (None, "absent")
    assert [(event.label, event.reason) for _, event in absent] == [begun, ended, begun]
    assert absent[1][0] - 9 == 2 * NS_PER_S // HOP_NS
    changes = Changes()
    seen = []
    for seq in range(1, 30):
        face = Face(box=(0.1, 0.1, 0.5, 0.5), track=1 if seq < 15 else 2, size=0.5, seen=1)
        seen.append(changes.take(msgspec.structs.replace(prediction(seq, probs("sad")), face=face)))
    assert [(event.label, event.reason) for event in seen if event] == [
        ("sad", "clear"),
        (None, "person"),
        ("sad", "clear"),
    ]


def test_predictions_of_a_calibration_are_not_looked_at() -> None:
    changes = Changes()
    made = [msgspec.structs.replace(prediction(seq, probs("sad")), degraded=("calibrating",)) for seq in range(1, 30)]
    assert [changes.take(one) for one in made] == [None] * 29


@given(st.lists(st.sampled_from([*LABELS, "unclear", "nobody"]), max_size=80), st.floats(0, 2))
def test_events_follow_each_other_change_something_and_last(names: list[str], smoothing_s: float) -> None:
    answers = [None if name == "nobody" else probs(name, 0.9 if name in LABELS else 0.34) for name in names]
    events = [event for _, event in told(*answers, rules=Rules(smoothing_s=smoothing_s or 1e-6))]
    for before, after in pairwise(events):
        assert after.previous == before.label and after.label != before.label
        assert after.at_ns >= before.at_ns and after.tick - before.tick >= 1
        assert after.previous_s == pytest.approx((after.at_ns - before.at_ns) / NS_PER_S, abs=1e-3)
        if after.reason == "clear":
            assert after.tick - before.tick >= HOLD


def test_a_session_writes_its_events_after_the_prediction_that_completed_them(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    run = ["--input", "test://?seconds=4", "--pace", "max", "--transcript", "none", "--quiet"]
    run += ["--bundle", str(tmp_path / "bundle"), "--bind", f"ipc://{tmp_path}/s"]
    assert main([*run, "--output", str(tmp_path / "with.jsonl"), "--events"]) == 0
    assert main([*run, "--output", str(tmp_path / "without.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "with.jsonl").read_text().splitlines()]
    without = [json.loads(line)["type"] for line in (tmp_path / "without.jsonl").read_text().splitlines()]
    assert "event" not in without
    changes, expected = Changes(), []
    for line in lines:
        if line["type"] == "prediction":
            event = changes.take(msgspec.convert(line, Prediction))
            expected += [event.tick] if event is not None else []
        elif line["type"] == "event":
            assert line["tick"] == expected[-1]
    assert [line["tick"] for line in lines if line["type"] == "event"] == expected


def test_a_bundle_without_names_of_expressions_has_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    run = ["--input", "test://?seconds=1", "--pace", "max", "--transcript", "none", "--bind", "tcp://127.0.0.1:*"]
    assert main([*run, "--bundle", str(root / "engines/sentiment"), "--events"]) == 2
    assert "--events needs a bundle that names expressions" in capsys.readouterr().err
