"""The state machine of a source: what follows from what, since when, and that looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.sources.health import OVER, REASONS, STALE_PICTURE_NS, STALE_SOUND_NS, Health, Standing, State

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine

LIMITS = {"vision": STALE_PICTURE_NS, "acoustic": STALE_SOUND_NS}
Event = tuple[str, int, Any]

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("opening", "gone", "vision", "acoustic", "look")),
        st.integers(0, 3 * NS_PER_S),
        st.sampled_from(("", "dark", "frozen")),
    ),
    max_size=40,
)


def play(events: list[Event], look: bool) -> tuple[Health, list[Standing]]:
    health, now_ns, seen = Health(0, LIMITS), 0, []
    for what, wait_ns, condition in events:
        now_ns += wait_ns
        if what == "opening":
            health.opening(now_ns)
        elif what == "gone":
            health.gone(now_ns, "it ended")
        elif what != "look":
            health.came(now_ns, what, condition)
        if look or what == "look":
            seen.append(health.at(now_ns))
    seen.append(health.at(now_ns + NS_PER_S))
    return health, seen


@UNHURRIED
@given(EVENTS)
def test_how_often_somebody_looks_changes_nothing(events: list[Event]) -> None:
    assert play(events, look=True)[1][-1] == play(events, look=False)[1][-1]


@UNHURRIED
@given(EVENTS)
def test_a_source_is_live_only_while_data_come_and_every_state_has_a_beginning(events: list[Event]) -> None:
    now_ns, came_ns = 0, None
    health = Health(0, LIMITS)
    before = health.at(0)
    for what, wait_ns, condition in events:
        now_ns += wait_ns
        if what == "gone":
            health.gone(now_ns, "it ended")
            came_ns = None
        elif what == "opening":
            health.opening(now_ns)
        elif what in LIMITS:
            health.came(now_ns, what, condition)
            came_ns = now_ns
        now = health.at(now_ns)
        assert 0 <= now.since_ns <= now_ns
        assert now.entered[now.state] >= 1
        assert sum(now.entered.values()) >= sum(before.entered.values()), "nothing is forgotten"
        if now.state == "live":
            assert came_ns is not None and now_ns - came_ns <= max(LIMITS.values())
        if now.state not in ("live", "starting"):
            assert now.reason, f"{now.state} has a reason"
        before = now


def test_a_source_goes_through_its_life_in_order() -> None:
    health = Health(0, LIMITS)
    seen = [health.at(0)]
    acts: list[Callable[[], None]] = [
        lambda: health.gone(1, "no such camera"),
        lambda: health.opening(2),
        lambda: health.came(3, "vision"),
        lambda: health.came(4, "vision", "dark"),
        lambda: health.came(5, "vision"),
        lambda: health.gone(6, "unplugged"),
        lambda: health.opening(7),
        lambda: health.gone(8, "no such camera"),
        lambda: health.came(9, "vision"),
        lambda: health.over("ended", 10, "closed"),
        lambda: health.came(11, "vision"),
    ]
    for act in acts:
        act()
        seen.append(health.at(11))
    assert [now.state for now in seen] == [
        *("starting", "absent", "absent", "live", "dark", "live"),
        *("lost", "reconnecting", "reconnecting", "live", "ended", "ended"),
    ]
    assert [now.since_ns for now in seen] == [0, 1, 1, 3, 4, 5, 6, 7, 7, 9, 10, 10]
    assert seen[-1].entered == {
        "starting": 1, "absent": 1, "live": 3, "dark": 1, "lost": 1, "reconnecting": 1, "ended": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("what", "limit_ns"), LIMITS.items())
def test_a_stall_is_told_from_its_limit_on_with_the_time_at_which_it_began(what: str, limit_ns: int) -> None:
    health = Health(0, LIMITS)
    health.came(NS_PER_S, what)
    assert health.at(NS_PER_S + limit_ns).state == "live"
    now = health.at(NS_PER_S + limit_ns + 5 * NS_PER_S)
    assert (now.state, now.since_ns) == ("stale", NS_PER_S + limit_ns)
    health.came(NS_PER_S + limit_ns + 6 * NS_PER_S, what)
    assert health.at(NS_PER_S + limit_ns + 6 * NS_PER_S).state == "live"


def test_one_modality_that_stalls_makes_the_source_stale_whatever_the_other_does() -> None:
    health = Health(0, LIMITS)
    health.came(0, "vision")
    for step in range(20):
        health.came(step * 100 * NS_PER_MS, "acoustic")
    now = health.at(1900 * NS_PER_MS)
    assert (now.state, now.reason) == ("stale", "no new picture for 0.6 s")
    health.came(1950 * NS_PER_MS, "vision")
    assert health.at(1950 * NS_PER_MS).state == "live"


def test_the_worse_of_two_modalities_names_the_state() -> None:
    health = Health(0, LIMITS)
    health.came(0, "acoustic", "noisy")
    assert health.at(0).state == "noisy"
    health.came(0, "vision", "frozen")
    assert (health.at(0).state, health.at(0).reason) == ("frozen", REASONS["frozen"])
    health.came(1, "vision")
    assert health.at(1).state == "noisy"


def test_a_recording_is_never_stale_and_its_note_is_the_reason_while_it_is_live() -> None:
    health = Health(0)
    health.note = "the file holds no audio"
    health.came(0, "vision")
    now = health.at(3600 * NS_PER_S)
    assert (now.state, now.reason) == ("live", "the file holds no audio")


def test_what_is_awaited_stalls_at_its_limit_and_what_is_not_never() -> None:
    health = Health(0, {"data": 2 * NS_PER_S})
    health.came(0, "vision")
    health.awaits(NS_PER_S, "data")
    assert health.at(3 * NS_PER_S).state == "live"
    now = health.at(3 * NS_PER_S + 1)
    assert (now.state, now.reason, now.since_ns) == ("stale", "no new data for 2.0 s", 3 * NS_PER_S)
    health.awaits(9 * NS_PER_S, "data", False)
    health.came(9 * NS_PER_S, "vision")
    assert health.at(3600 * NS_PER_S).state == "live"


def test_the_first_end_counts() -> None:
    health = Health(0)
    health.over("failed", 1, "broken")
    health.over("ended", 2, "closed")
    assert health.at(3) == Standing("failed", "broken", 1, {"starting": 1, "failed": 1})
    assert health.at(3).state in OVER


@pytest.mark.parametrize(("said", "then"), [("live", "lost"), ("starting", "absent")])
def test_a_source_that_says_itself_how_it_is_doing_is_lost_only_if_it_was_live(said: State, then: State) -> None:
    health = Health(0)
    health.put(said, 1, "by itself")
    assert (health.at(1).state, health.at(1).reason) == (said, "by itself")
    health.gone(2, "crashed")
    assert health.at(2).state == then


def test_a_code_stays_until_it_is_live() -> None:
    health = Health(0, LIMITS)
    acts: list[Callable[[], None]] = [
        lambda: health.gone(1, "no answer", "hung"),
        lambda: health.opening(2),
        lambda: health.put("reconnecting", 3, "being loaded again"),
        lambda: health.put("live", 4, "it works"),
        lambda: health.came(5, "vision", "dark"),
        lambda: health.opening(6 + STALE_PICTURE_NS),  # stale by then
        lambda: health.came(7 + STALE_PICTURE_NS, "vision"),
        lambda: health.over("failed", 8 + STALE_PICTURE_NS, "no more", "crashed"),
    ]
    seen = []
    for act in acts:
        act()
        seen.append(health.at(0).code)
    assert seen == ["hung", "hung", "hung", "", "", "no_data", "", "crashed"]


def test_a_modality_as_old_as_its_limit_is_not_overdue() -> None:
    health = Health(0, LIMITS)
    health.came(0, "vision", "dark")
    health.came(STALE_PICTURE_NS, "acoustic")
    assert health.at(STALE_PICTURE_NS).state == "dark"
