"""Whose face it is: told from when and where faces were seen, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.persons import LOST_NS, Box, Persons
from clcr_stream.window.ring import NOBODY, VisionRing

LEFT: Box = (0.1, 0.2, 0.3, 0.4)
RIGHT: Box = (0.6, 0.2, 0.3, 0.4)


def test_a_face_that_moves_bit_by_bit_stays_the_same_person() -> None:
    persons = Persons()
    numbers = {persons.seen(step * NS_PER_S // 15, (step / 100, 0.2, 0.2, 0.3)) for step in range(80)}
    assert numbers == {0}


@pytest.mark.parametrize(
    "moved", [(0.41, 0.2, 0.3, 0.4), (0.1, 0.61, 0.3, 0.4), RIGHT], ids=["beside", "below", "away"]
)
def test_a_face_that_does_not_overlap_the_last_one_is_another_person(moved: Box) -> None:
    persons = Persons()
    assert [persons.seen(0, LEFT), persons.seen(NS_PER_S, moved), persons.seen(2 * NS_PER_S, moved)] == [0, 1, 1]


def test_a_face_that_overlaps_the_last_one_by_a_little_is_the_same_person() -> None:
    persons = Persons()
    assert [persons.seen(0, LEFT), persons.seen(NS_PER_S, (0.39, 0.59, 0.3, 0.4))] == [0, 0]


@pytest.mark.parametrize("place", [(0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)], ids=str)
def test_a_face_that_only_touches_the_last_one_is_another_person(place: tuple[float, float]) -> None:
    persons = Persons()
    assert [persons.seen(0, (0.5, 0.5, 0.25, 0.25)), persons.seen(0, (*place, 0.25, 0.25))] == [0, 1]


@pytest.mark.parametrize("box", [LEFT, None], ids=["box", "no box"])
def test_a_face_that_was_away_for_more_than_five_seconds_is_another_person(box: Box | None) -> None:
    persons = Persons()
    times = [7, 7 + LOST_NS, 7 + 2 * LOST_NS + 1, 8 + 2 * LOST_NS + 1]
    assert [persons.seen(time_ns, box) for time_ns in times] == [0, 0, 1, 1]


def test_a_face_without_a_box_is_judged_by_its_time_alone() -> None:
    persons = Persons()
    assert [persons.seen(0, LEFT), persons.seen(NS_PER_S, None), persons.seen(2 * NS_PER_S, RIGHT)] == [0, 0, 0]


def test_a_frame_that_comes_late_changes_nothing() -> None:
    persons = Persons()
    assert [persons.seen(9 * NS_PER_S, LEFT), persons.seen(NS_PER_S, RIGHT), persons.seen(10 * NS_PER_S, LEFT)] == [
        0
    ] * 3


def test_a_ring_says_whose_face_each_slot_holds() -> None:
    grid = TimeGrid(0, NS_PER_S // 5, window_hops=30, frame_rate_hz=15, sample_rate_hz=16_000)
    ring, crop = VisionRing(grid, 8, slots=30), np.zeros((8, 8, 3), np.uint8)
    ring.put(grid.slot_ns(0), crop, 1.0, 1, LEFT)
    ring.put(grid.slot_ns(1), None, 0.0, 0)
    ring.put(grid.slot_ns(2), crop, 1.0, 1, RIGHT)
    ring.put(grid.slot_ns(4), crop, 1.0, 1, LEFT)
    assert ring.read(0, 6).person.tolist() == [0, NOBODY, 1, NOBODY, 2, NOBODY]
