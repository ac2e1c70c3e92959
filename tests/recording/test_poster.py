"""The picture of a report: well-formed whatever was said, drawn where there is a renderer and a font."""

from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given

from any_text import texts
from clcr_stream.cli.main import main
from clcr_stream.errors import ConfigError
from clcr_stream.recording import poster as module
from clcr_stream.recording.charts import WIDTH
from clcr_stream.recording.poster import MARGIN, SCALE, check_png, poster, to_png
from clcr_stream.recording.story import Story, make_story
from clcr_stream.wire import messages
from session_messages import prediction, session, status, words

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script> \"'></svg></title><image href='file:///etc/passwd'/> & \x00\x1b[31m \u202e"


def story(*found: messages.Message) -> Story:
    return make_story([session(), *found], "talk", [])


def happy_then_sad() -> list[messages.Message]:
    """4 s happy, 4 s sad without words, then nobody."""
    found: list[messages.Message] = [prediction(tick, "happy", 0.8) for tick in range(1, 21)]
    found += [prediction(tick, "sad", 0.7, missing=("language",)) for tick in range(21, 41)]
    return [*found, *(prediction(tick, None) for tick in range(41, 46))]


def drawn(svg: str) -> xml.Element:
    """A picture as XML, without anything that points elsewhere or that a renderer would not know."""
    tree = xml.fromstring(svg)
    names = {element.tag.removeprefix(SVG) for element in tree.iter()}
    allowed = {"svg", "style", "g", "rect", "text", "tspan", "line", "circle", "polygon", "polyline", "title"}
    assert names <= allowed, names - allowed
    assert not any("href" in name for element in tree.iter() for name in element.attrib)
    assert "var(" not in svg and "url(" not in svg
    return tree


def said(svg: str) -> str:
    return " ".join("".join(element.itertext()) for element in drawn(svg).iter(f"{SVG}text"))


def test_the_picture_says_what_the_page_says() -> None:
    text = said(poster(story(*happy_then_sad(), words("what a day", 0.5, 1.5), status()), "talk.mcap"))
    for part in ("talk.mcap", "45 predictions", "mean probability", "what a day", "language_absent", "no_input"):
        assert part in text
    assert "1 happy 0.80" in " ".join(text.split()) and "not of what a person feels" in text


def test_nobody_gives_a_picture_without_an_answer() -> None:
    text = said(poster(story(*(prediction(tick, None) for tick in range(1, 6))), "empty"))
    assert "No answer: nobody was seen or heard." in text and "Over time" not in text


def test_a_regression_has_a_curve() -> None:
    one = msgspec.structs.replace(session(), task="regression", labels=())
    found = [msgspec.structs.replace(prediction(tick, None), value=tick / 10 - 1) for tick in range(1, 21)]
    svg = poster(make_story([one, *found], "talk", []), "talk")
    assert "by its last answer, from -0.90 to +1.00" in said(svg) and 'class="curve"' in svg


def test_no_name_and_no_word_gets_out_of_its_text() -> None:
    svg = poster(story(*happy_then_sad(), words(HOSTILE, 0.5, 3.5)), HOSTILE)
    assert "<script>alert(1)</script>" in said(svg)


@given(texts())
def test_whatever_was_said_is_a_well_formed_picture(text: str) -> None:
    drawn(poster(story(*happy_then_sad(), words(text, 0.5, 3.5)), text))


def test_a_png_is_drawn_at_twice_the_size_with_the_colours_of_the_labels() -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is not installed: pip install resvg-py")
    svg = poster(story(*happy_then_sad(), words("what a day", 0.5, 1.5), status()), "talk")
    png = to_png(svg)
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20]) == (SCALE * (WIDTH + 2 * MARGIN),)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    colours = {tuple(int(part) for part in row) for row in pixels[:, SCALE * (MARGIN + 5)]}
    assert len(colours) > 3, "bars, text and lines"
    assert (pixels[-5:] == 255).all(), "nothing is cut off at the bottom"


def test_a_missing_package_and_missing_fonts_are_told_in_one_line_before_a_clip_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["report", "--input", "test://?seconds=2000", "--png", str(tmp_path / "a.png")]
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert main(flags) == 2
    assert 'the package resvg-py is not installed; run pip install "clcr-stream[png]"\n' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "resvg_py", sys)
    monkeypatch.setattr(module, "to_png", lambda *_: b"nothing")
    with pytest.raises(ConfigError, match="no font is installed; run apt-get install fonts-dejavu-core"):
        check_png("--png")
    assert not list(tmp_path.iterdir())


def test_the_command_draws_the_picture_beside_the_page_and_never_over_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is not installed: pip install resvg-py")
    lines, png, html = tmp_path / "talk.jsonl", tmp_path / "talk.png", tmp_path / "talk.html"
    encode = msgspec.json.encode
    lines.write_bytes(b"\n".join(encode(one) for one in (session(), *happy_then_sad(), status())) + b"\n")
    assert main(["report", str(lines), "--png", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_mode & 0o777 == 0o600
    assert main(["report", str(lines), "--png", str(png), "--out", str(html)]) == 2
    assert "exists already; give a new file" in capsys.readouterr().err and not html.exists()
    png.unlink()
    assert main(["report", str(lines), "--png", str(png), "--out", str(html)]) == 0
    assert html.exists() and f"{html} and {png}: 45 predictions" in capsys.readouterr().err
