"""Bars, sparklines and lines that fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from clcr_stream.cli.cells import Signs, bar, binned, fitted, printable, wrapped


@pytest.mark.parametrize(("share", "cells"), [(0.0, 0), (1.0, 8), (0.5, 4), (None, 0), (7.0, 8), (-1.0, 0)])
def test_a_bar_s_length_is_its_share(share: float | None, cells: int) -> None:
    assert bar(share, 8) == "█" * cells
    assert Signs(blocks=False).filled(share, 8) == f"{'#' * cells:<8}"


def test_a_value_s_bar_goes_from_the_middle_to_its_side() -> None:
    assert Signs().signed(-1.5, 3.0, 9) == "  ██│    "
    assert Signs(blocks=False).signed(3.0, 3.0, 9) == "    |####"
    assert Signs().signed(None, 3.0, 9) == "    │    "


def test_a_sparkline_has_one_sign_for_each_part_of_time_and_a_space_for_what_is_not_known() -> None:
    assert Signs().sparkline([0.0, None, 0.5, 1.0, 2.0]) == "▁ ▅██"
    assert Signs(blocks=False).sparkline([0.0, 1.0, None]) == "_# "
    assert Signs().sparkline([-3.0, 0.0, 3.0], -3.0, 3.0) == "▁▅█"


def test_the_parts_of_time_hold_their_means() -> None:
    assert binned([(0.0, 1.0), (0.1, 0.0), (0.99, 0.5), (1.0, 0.7), (0.5, None), (2.0, 9.0)], 4) == [
        0.5,
        None,
        None,
        0.6,
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=6), st.integers(1, 60))
def test_a_line_fills_its_columns_exactly_and_moves_no_cursor(texts: list[str], columns: int) -> None:
    line = fitted([(text, "bold") for text in texts], columns)
    assert sum(cell_len(text) for text, _ in line) == columns
    assert all(text.isprintable() for text, _ in line)


def test_what_others_say_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\tc\u202ed") == "a·[2Jb c·d"
    assert wrapped("one two three four", 9, 2) == ["one two", "three", "four"][-2:]
    assert wrapped("", 9, 2) == []
