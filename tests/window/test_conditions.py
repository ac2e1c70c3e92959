"""What is called frozen, dark, covered, silent, clipping and noisy, from when on, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcr_stream.clock import NS_PER_S
from clcr_stream.frontends.quality import PictureNumbers, picture_numbers
from clcr_stream.sources.synthetic.person import Person, PersonOptions
from clcr_stream.window.conditions import (
    FROZEN_NS,
    PICTURE_NS,
    SILENT_CODED_NS,
    SILENT_NS,
    Condition,
    Conditions,
    PictureWatch,
    SoundWatch,
    judge_picture,
)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine

RATE_HZ = 16_000
BLOCK = 320  # 20 ms
FRAME_NS = NS_PER_S // 15
PERSON = Person(PersonOptions(), RATE_HZ).picture(1.0)
RANDOM = np.random.default_rng(4)


def noisy(picture: np.ndarray, deviation: float = 2.0) -> np.ndarray:
    """As a sensor gives it: never the same bytes twice."""
    return np.clip(picture + RANDOM.normal(0, deviation, picture.shape), 0, 255).astype(np.uint8)


def smooth_spot() -> np.ndarray:
    """A finger on the lens with light through it: bright in the middle, nothing in focus."""
    y, x = np.mgrid[0:480, 0:640]
    glow = 60 + 90 * np.exp(-(((x - 320) / 400) ** 2 + ((y - 240) / 300) ** 2))
    return np.repeat(glow[..., None], 3, 2)


DARK_ROOM = PERSON * 0.05
PICTURES: dict[str, tuple[np.ndarray, Condition]] = {
    "a person": (PERSON, ""),
    "a person in dim light": (PERSON * 0.2, ""),
    "a dark room": (DARK_ROOM, "dark"),
    "a cap on the lens": (np.full_like(PERSON, 3), "covered"),
    "a white cover": (np.full_like(PERSON, 200), "covered"),
    "a finger on the lens": (smooth_spot(), "covered"),
}


@pytest.mark.parametrize("what", PICTURES)
def test_each_picture_is_called_what_it_is(what: str) -> None:
    picture, condition = PICTURES[what]
    assert judge_picture(picture_numbers(noisy(picture))) == condition


def watch(pictures: list[np.ndarray], live: bool = True) -> list[Condition]:
    watcher = PictureWatch(live)
    return [
        watcher.see(number * FRAME_NS, picture[::4, ::4].tobytes(), picture_numbers(picture))
        for number, picture in enumerate(pictures)
    ]


def test_a_cover_is_told_after_a_second_and_gone_with_the_first_picture_without_it() -> None:
    covered = [noisy(np.full_like(PERSON, 3)) for _ in range(20)]
    told = watch([noisy(PERSON), *covered, noisy(PERSON)])
    first = told.index("covered")
    assert PICTURE_NS <= (first - 1) * FRAME_NS < PICTURE_NS + FRAME_NS
    assert set(told[first:-1]) == {"covered"} and told[-1] == ""


def test_a_hand_that_passes_is_no_fault() -> None:
    hand = [noisy(np.full_like(PERSON, 90)) for _ in range(14)]
    assert set(watch([noisy(PERSON), *hand, noisy(PERSON), *hand])) == {""}


def test_a_picture_that_repeats_itself_is_frozen_within_two_seconds_and_only_if_live() -> None:
    same = [noisy(PERSON)] * 40
    told = watch(same)
    assert FROZEN_NS <= told.index("frozen") * FRAME_NS <= 2 * NS_PER_S - NS_PER_S // 4
    assert watch([*same, noisy(PERSON)])[-1] == ""
    assert set(watch(same, live=False)) == {""}


def test_a_still_scene_with_a_sensor_s_noise_is_not_frozen() -> None:
    assert set(watch([noisy(PERSON, 0.7) for _ in range(60)])) == {""}


def tone(seconds: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(np.arange(int(seconds * RATE_HZ)) / 5)).astype(np.float32)


def noise(seconds: float, deviation: float) -> np.ndarray:
    """As 16 bits give it."""
    return (np.round(RANDOM.normal(0, deviation, int(seconds * RATE_HZ)) * 32768) / 32768).astype(np.float32)


def zeros(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE_HZ), np.float32)


def hear(sound: np.ndarray, watcher: SoundWatch | None = None) -> list[Condition]:
    watcher = watcher or SoundWatch(RATE_HZ)
    return [watcher.hear(sound[start : start + BLOCK]) for start in range(0, len(sound), BLOCK)]


def test_a_microphone_that_is_muted_is_told_in_time_and_is_back_at_once() -> None:
    told = hear(np.concatenate([noise(2, 0.001), zeros(1), noise(1, 0.001)]))
    assert "silent" not in told[:100]
    assert (told.index("silent") - 100 + 1) * BLOCK / RATE_HZ == pytest.approx(SILENT_NS / NS_PER_S, abs=0.02)
    assert set(told[told.index("silent") : 150]) == {"silent"} and set(told[150:]) == {""}


@pytest.mark.parametrize("room", [2 / 32768, 0.0002, 0.003])
def test_a_pause_between_words_in_a_room_is_not_silence(room: float) -> None:
    words = np.concatenate([part for _ in range(5) for part in (tone(0.4, 0.3), zeros(1.5))])
    assert "silent" not in hear(words + noise(len(words) / RATE_HZ, room))


def test_a_headset_that_gates_its_noise_is_found_out_after_a_few_pauses() -> None:
    watcher = SoundWatch(RATE_HZ)
    talk = np.concatenate([part for _ in range(10) for part in (tone(0.5, 0.3), zeros(0.7))])
    told = hear(talk, watcher)
    assert "silent" in told[: len(told) // 2] and "silent" not in told[len(told) // 2 :]
    assert hear(zeros(4), watcher)[-1] == "silent", "that it is switched off is still told"


def test_the_pauses_of_recorded_sound_are_not_called_silent_before_three_seconds() -> None:
    watcher = SoundWatch(RATE_HZ, SILENT_CODED_NS)
    assert "silent" not in hear(np.concatenate([tone(1, 0.3), zeros(2.9), tone(1, 0.3)]), watcher)
    assert hear(zeros(3.1), watcher)[-1] == "silent"


def test_sound_at_its_limit_is_clipping_and_a_loud_peak_is_not() -> None:
    speech = tone(2, 0.5) + noise(2, 0.01)
    assert set(hear(np.clip(3 * speech, -1, 1).astype(np.float32))[60:]) == {"clipping"}
    peak = speech.copy()
    peak[8000:8020] = 1.0
    assert "clipping" not in hear(peak)


def test_words_that_drown_in_noise_are_noisy_and_a_quiet_room_is_not() -> None:
    gusts = np.concatenate([part for _ in range(5) for part in (tone(0.5, 0.05), zeros(0.5))])
    assert hear((gusts + noise(5, 0.05)).astype(np.float32))[-1] == "noisy"
    assert hear((gusts + noise(5, 0.001)).astype(np.float32))[-1] == ""
    assert hear(noise(5, 0.0005))[-1] == ""


@UNHURRIED
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_how_sound_is_cut_into_blocks_does_not_change_when_it_is_silent(cuts: list[int]) -> None:
    sound = np.concatenate([tone(0.3, 0.2), zeros(0.5)])
    watcher, at = SoundWatch(RATE_HZ), 0
    for count in cuts:
        told = watcher.hear(sound[at : at + count])
        at = min(len(sound), at + count)
        silent = at - int(0.3 * RATE_HZ)
        if 0 < silent < SILENT_NS * RATE_HZ // NS_PER_S - 2:
            assert told != "silent"
        if silent > SILENT_NS * RATE_HZ // NS_PER_S + 2:
            assert told == "silent"


@UNHURRIED
@given(st.lists(st.tuples(st.integers(1, 10**9), st.sampled_from(("", "dark", "frozen"))), max_size=30))
def test_the_condition_of_a_time_is_the_last_one_before_it(changes: list[tuple[int, Condition]]) -> None:
    conditions, now_ns, said = Conditions(), 0, [(0, "")]
    for wait_ns, condition in changes:
        now_ns += wait_ns
        conditions.put(now_ns, condition)
        said.append((now_ns, condition))
    for time_ns, _ in said:
        assert conditions.at(time_ns) == [name for at_ns, name in said if at_ns <= time_ns][-1]


def test_numbers_of_nothing_are_a_cover() -> None:
    assert judge_picture(PictureNumbers(0.0, 0.0, 0.0)) == "covered"
