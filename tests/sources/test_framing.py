"""Pictures are turned, mirrored and cut as the options say, in that order."""

from __future__ import annotations

import numpy as np
import pytest

from clcr_stream.errors import ConfigError
from clcr_stream.sources.framing import UPRIGHT, Framing, parse_framing

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_a_picture_turns_clockwise() -> None:
    turned = Framing(rotate=90).apply(PICTURE)
    assert turned.shape == (6, 4, 3)
    assert (turned[0, -1] == PICTURE[0, 0]).all(), "the top left corner is at the top right"
    assert (Framing(rotate=270).apply(turned) == PICTURE).all()
    assert (Framing(rotate=180).apply(PICTURE) == PICTURE[::-1, ::-1]).all()


def test_left_and_right_and_above_and_below_change_sides() -> None:
    assert (Framing(flip="h").apply(PICTURE) == PICTURE[:, ::-1]).all()
    assert (Framing(flip="v").apply(PICTURE) == PICTURE[::-1]).all()
    assert (Framing(flip="hv").apply(PICTURE) == Framing(rotate=180).apply(PICTURE)).all()


def test_a_region_is_cut_from_the_turned_picture_and_never_empty() -> None:
    half = parse_framing(0, "", "0.5,0,0.5,1").apply(PICTURE)
    assert (half == PICTURE[:, 3:]).all() and half.flags["C_CONTIGUOUS"]
    top_of_turned = parse_framing(90, "", "0,0,1,0.5").apply(PICTURE)
    assert (top_of_turned == Framing(rotate=90).apply(PICTURE)[:3]).all()
    assert parse_framing(0, "", "0.9,0.9,0.1,0.1").apply(PICTURE[:2, :2]).shape == (1, 1, 3)


def test_an_upright_picture_is_not_even_copied() -> None:
    assert UPRIGHT.apply(PICTURE) is PICTURE and parse_framing(0, "", None) == UPRIGHT


@pytest.mark.parametrize(
    ("rotate", "flip", "region", "says"),
    [
        (45, "", None, "rotate 45: allowed are 0, 90, 180 and 270"),
        (0, "x", None, "flip x: allowed are h"),
        (0, "", "1,2,3", "region 1,2,3: allowed are four shares"),
        (0, "", "0.5,0,0.6,1", "not inside the picture"),
        (0, "", "0,0,0.01,1", "smaller than 0.05"),
        (0, "", "0,0,nan,1", "not inside the picture"),
        (0, "", "a,b,c,d", "allowed are four shares"),
    ],
)
def test_a_wrong_option_is_one_line(rotate: int, flip: str, region: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_framing(rotate, flip, region)


@pytest.mark.parametrize("flip", ["", "h", "v", "hv"])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("more", [90, 180, 270])
def test_a_framed_picture_that_must_be_turned_further_gets_the_rotation_that_does_it(
    flip: str, rotate: int, more: int
) -> None:
    framing = Framing(rotate, flip)
    further = Framing(framing.turned_further(more), flip)
    np.testing.assert_array_equal(further.apply(PICTURE), Framing(more).apply(framing.apply(PICTURE)))
