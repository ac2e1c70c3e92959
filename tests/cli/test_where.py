"""Conditions and columns of `clcr-stream sub`: a small language, and rows of chosen fields."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.cli.columns import DEFAULTS, Columns, fields_of
from clcr_stream.cli.main import main
from clcr_stream.cli.where import field_of, parse_where, plain
from clcr_stream.errors import ConfigError
from clcr_stream.wire.messages import KINDS, Kind, kind_of
from wire_messages import prediction, session, status, words

ANGER = {"neutral": 0.2, "anger": 0.8}


def message(**changes: Any) -> dict[str, Any]:
    return plain(msgspec.structs.replace(prediction(7, ANGER), **changes), age_ms=12.0, missed=2, new_session=False)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("label == anger and confidence > 0.6", True),
        ("label == anger and confidence > 0.9", False),
        ("label=='anger'", True),
        ('label != "anger" or seq >= 7', True),
        ("label == sad or label == happy", False),
        ("not (label == sad or label == happy)", True),
        ("not label == sad and not label == happy", True),
        ("label == anger or label == sad and confidence > 2", True),  # `and` binds first
        ("(label == anger or label == sad) and confidence > 2", False),
        ("probs.anger >= 0.8 and probs.neutral<0.3", True),
        ("probs.joy > 0", False),  # a table may have any name; what is not there compares with nothing
        ("value == null", True),
        ("value < 1", False),
        ("not degraded", True),
        ("degraded contains no_face", False),
        ("modalities.vision.present == true", True),
        ("modalities.vision.present == 1", False),
        ("type == prediction", True),
        ("age_ms < 100 and missed == 2", True),
    ],
)
def test_a_condition_holds_as_it_reads(text: str, holds: bool) -> None:
    assert parse_where(text, ["prediction"])(message()) is holds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lable == anger", "there is no 'lable'; allowed are .*label"),
        ("modalities.nose.quality > 1", "there is no 'nose' in modalities; allowed are acoustic, language, vision"),
        ("label.x == 1", "there is no 'x' in label; it holds no fields"),
        ("confidence > high", "> compares numbers, 'high' is none"),
        ("label == ", "a value is missing"),
        ("(label == anger", "a bracket is not closed"),
        ("label == anger happy", "'happy' is not expected there"),
        ("label = anger", "not understood at"),
        ("__import__('os').system('x')", "there is no '__import__'"),
        ("", "a field is missing"),
        ("not " * 500 + "label", "longer than 200 words"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line_with_what_is_allowed(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        parse_where(text, ["prediction"])
    assert "\n" not in str(error.value)


@given(st.text(alphabet="label confidence()<>=!'\"andornot 0.6 null[]\n\\", max_size=80))
def test_any_text_is_a_condition_that_answers_or_is_refused(text: str) -> None:
    try:
        assert parse_where(text, KINDS)(message()) in (True, False)
    except ConfigError:
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_columns_are_fields_that_every_kind_has(kind: Kind) -> None:
    assert fields_of(",".join(DEFAULTS[kind]), kind) == tuple(DEFAULTS[kind])


def test_csv_is_read_back_with_a_column_for_each_label_and_no_formula() -> None:
    columns = Columns(fields_of(None, "prediction"), as_csv=True)
    lines = [line for _ in range(2) for line in columns.lines(message(degraded=("=cmd", "no_words"), value=-0.5))]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert len(rows) == 2 and rows[0] == rows[1]
    assert (rows[0]["label"], rows[0]["probs.anger"], rows[0]["missed"]) == ("anger", "0.8", "2")
    assert rows[0]["degraded"] == "'=cmd no_words" and rows[0]["value"] == "-0.5"


def test_a_table_within_a_table_becomes_columns_and_what_cannot_is_json() -> None:
    columns = Columns(fields_of("modalities,levels.weights", "prediction"), as_csv=True)
    head, cells = (next(csv.reader([line])) for line in columns.lines(message()))
    assert len(head) == len(cells) and {cell for cell in cells if "{" in cell} == {"{}"}, "numbers of words"
    row = dict(zip(head, cells, strict=True))
    assert row["modalities.vision.quality"] == "0.9" and row["modalities.vision.present"] == "true"
    assert row["levels.weights"] == "0.2 0.3 0.5"
    columns = Columns(fields_of("sources,record,degraded", "status"), as_csv=True)
    columns.lines(plain(status(record=None)))
    (line,) = columns.lines(plain(status(degraded=("no_face", "late"))))
    sources, record, degraded = next(csv.reader([line]))
    assert json.loads(sources)[0]["kind"] == "camera" and json.loads(record)["media"] is True
    assert degraded == "no_face late"


def test_a_table_stands_in_columns_and_says_their_names_again() -> None:
    columns = Columns(("seq", "label", "probs"), as_csv=False)
    lines = [line for _ in range(25) for line in columns.lines(message())]
    assert lines[:2] == ["seq  label  probs.neutral  probs.anger", "7    anger  0.2            0.8"]
    assert [number for number, line in enumerate(lines) if line.startswith("seq")] == [0, 21]


def test_a_transcript_cannot_draw_on_the_terminal_by_its_columns() -> None:
    columns = Columns(("text",), as_csv=False)
    lines = columns.lines(plain(words("\x1b[2Jhello\nthere"), age_ms=None, missed=0, new_session=False))
    assert all(line.isprintable() for line in lines)


def test_columns_are_of_one_topic_and_of_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, why in (
        (["--csv", "--topics", "status,prediction"], "columns are those of one topic"),
        (["--fields", "label"], "give --csv or --table too"),
        (["--table", "--fields", "lable"], "there is no 'lable'"),
        (["--csv", "--json"], "not allowed with argument"),
        (["--where", "state == x"], "there is no 'state'"),
    ):
        assert main(["sub", *wrong]) == 2
        assert why in capsys.readouterr().err


def test_every_kind_of_message_is_plain() -> None:
    for one in (session(), prediction(1), status(), words("words")):
        assert field_of("type", plain(one)) == kind_of(one)
