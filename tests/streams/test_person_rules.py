"""The rules about a stream's person, on levels that compute nothing but keep the state that they are given."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from clcr_stream.bundle.manifest import STREAMS, EngineSpec, Manifest, TensorSpec
from clcr_stream.errors import ConfigError
from clcr_stream.inference.baselines import Baseline, Baselines, baseline_states, check_baselines
from clcr_stream.inference.levels import Levels
from clcr_stream.inference.null import NullBackend
from clcr_stream.streams.person import Person, PersonPlan
from clcr_stream.window.cutter import Chunk, ModalityView
from clcr_stream.window.grid import TimeGrid
from driving import empty_bundle
from tiny_bundle import tiny_manifest

HOP_NS = 200_000_000
WIDTH = 8
NOTHING = ModalityView(0.0, None, None, None, 0)


def with_baselines(*left_out: str) -> Manifest:
    """The tiny manifest whose levels carry a person's baselines, but for these states of level 2."""
    manifest, engines = tiny_manifest(), {}
    sizes = {f"{m}_baseline{part}": size for m in ("vision", "acoustic") for part, size in (("", WIDTH), ("_steps", 1))}
    for name, spec in manifest.engines.items():
        kept = {state: size for state, size in sizes.items() if name != "level2" or state not in left_out}
        engines[name] = extended(spec, kept) if name.startswith("level") else spec
    return msgspec.structs.replace(manifest, engines=engines)


def extended(spec: EngineSpec, states: dict[str, int]) -> EngineSpec:
    """The engine with more state."""

    def tensors(suffix: str) -> list[TensorSpec]:
        return [
            TensorSpec(name=state + suffix, dtype="float32", shape=[STREAMS, size]) for state, size in states.items()
        ]

    return msgspec.structs.replace(
        spec,
        inputs=[*spec.inputs, *tensors("")],
        outputs=[*spec.outputs, *tensors("_next")],
        state=[*spec.state, *states],
    )


MANIFEST = with_baselines()
GRID = TimeGrid.of(MANIFEST, 0)


def baseline(steps: float, value: float = 1.0) -> Baseline:
    return Baseline(np.full((3, WIDTH), value, np.float32), np.full(3, steps, np.float32))


class Scene:
    """A seat whose engines 'learn' a hop whenever the test says so."""

    def __init__(self, plan: PersonPlan | None = None) -> None:
        self.told: list[str] = []
        self.calibrated: list[Baselines] = []
        plan = plan or PersonPlan()
        self.person = Person(
            PersonPlan(plan.calibrate_s, plan.initial, tell=self.told.append, calibrated=self.calibrated.append)
        )
        self.levels = Levels(empty_bundle(MANIFEST), NullBackend(), seats=2)
        self.levels.take()
        self.seat = self.levels.take()
        self.number = 0

    def hop(self, *persons: int, heard: int = 5, at: int | None = None) -> None:
        """One hop in which these faces are seen and so many tokens heard; `at` jumps to that hop."""
        self.number = self.number + 1 if at is None else at
        end_ns = self.number * HOP_NS
        chunk = Chunk(GRID.tick(self.number), NOTHING, NOTHING, [], persons)
        self.person.before(self.levels, self.seat, chunk)
        now = self.levels.baselines(self.seat)
        for modality, new in (("vision", len(persons)), ("acoustic", heard)):
            now[modality] = Baseline(now[modality].mean + new, now[modality].steps + new)
        self.levels.set_baselines(self.seat, now)
        self.person.after(self.levels, self.seat, end_ns)

    def steps(self) -> tuple[float, float]:
        """Of vision and of sound."""
        found = self.levels.baselines(self.seat)
        return found["vision"].age_steps, found["acoustic"].age_steps

    def leave(self) -> Person:
        self.person.leave(self.levels, self.seat)
        return self.person


def test_another_person_s_face_begins_anew_and_only_that() -> None:
    scene = Scene()
    for persons in ((0, 0, 0), (), (0, 0, 0), (1, 1, 1), (1,)):
        scene.hop(*persons)
    assert scene.steps() == (4, 25)
    assert scene.person.changes == 1
    assert scene.levels.baselines(0)["vision"].age_steps == 0
    assert scene.told == ["another face, or the same after a while: its baseline begins anew"]


def test_the_first_face_is_nobody_else_s() -> None:
    scene = Scene(PersonPlan(initial={"vision": baseline(7)}))
    scene.hop()
    scene.hop(3, 3)
    assert scene.steps() == (9, 10)
    assert (scene.person.changes, scene.told) == (0, [])


def test_a_hop_of_two_persons_counts_for_neither() -> None:
    scene = Scene()
    scene.hop(0, 0, 0)
    scene.hop(0, 1, 1)
    assert scene.steps()[0] == 3  # of the mixed hop
    scene.hop()
    scene.hop(1, 1, 1)
    assert scene.steps()[0] == 3
    scene.hop(1, 1, 1)
    assert (scene.steps()[0], scene.person.changes, len(scene.told)) == (6, 1, 1)


def test_what_is_kept_is_what_was_known_before_the_first_change() -> None:
    scene = Scene()
    for persons in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 2, 2)):
        scene.hop(*persons)
    kept = scene.leave().to_keep
    assert (kept["vision"].age_steps, kept["acoustic"].age_steps) == (3, 5)
    assert (scene.person.final["vision"].age_steps, scene.person.final["acoustic"].age_steps) == (6, 20)


def test_of_what_was_never_seen_nothing_is_kept() -> None:
    scene = Scene()
    scene.hop(heard=5)
    assert list(scene.leave().to_keep) == ["acoustic"]


def test_changes_are_told_once_a_minute() -> None:
    scene = Scene()
    scene.hop(0)
    for at, told in ((10, 1), (309, 1), (310, 2), (311, 2), (610, 3)):
        scene.hop(scene.person.changes + 1, at=at)
        assert len(scene.told) == told, at


def test_a_calibration_ends_with_the_hop_in_which_its_time_is_over() -> None:
    scene = Scene(PersonPlan(0.9))
    left = []
    for _ in range(6):
        left.append((scene.person.notes, round(scene.person.calibration_left_s, 3)))
        scene.hop(0, 0, 0)
    marks = [notes for notes, _ in left]
    assert marks == [("calibrating",)] * 5 + [()]
    assert [seconds for _, seconds in left] == [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]
    assert scene.steps() == (903, 1505)
    assert scene.told == [
        "calibrating: look and speak neutrally for 0.9 s",
        "calibrated: face from 1.0 s, voice from 1.0 s",
    ]
    (adopted,) = scene.calibrated
    assert adopted["vision"].mean[2, 0] == 15 and adopted["vision"].steps.tolist() == [900] * 3


@pytest.mark.parametrize(("hops", "calibrated"), [(1, False), (2, True)])
def test_a_third_of_the_time_is_enough(hops: int, calibrated: bool) -> None:
    scene = Scene(PersonPlan(1.2))
    for number in range(6):
        scene.hop(*([0] * 3 if number < hops else []), heard=0)
    assert scene.steps()[0] == (900 if calibrated else 3 * hops)
    assert ("vision" in scene.calibrated[0]) == calibrated and "acoustic" not in scene.calibrated[0]
    shown = "face from 0.4 s" if calibrated else "no face (0.2 s of at least 0.4 s)"
    assert scene.told[-1] == f"calibrated: {shown}, no voice (0.0 s of at least 0.4 s)"


def test_who_was_not_there_for_a_calibration_keeps_what_was_known() -> None:
    scene = Scene(PersonPlan(1.0, initial={"vision": baseline(77, 5.0), "acoustic": baseline(88, 6.0)}))
    for _ in range(5):
        assert scene.steps()[0] == 0
        scene.hop()
    found = scene.levels.baselines(scene.seat)
    assert (found["vision"].age_steps, found["vision"].mean[0, 0]) == (77, 5)
    assert (found["acoustic"].age_steps, found["acoustic"].mean[0, 0]) == (1500, 25)
    assert set(scene.calibrated[0]) == {"vision", "acoustic"}


def test_a_change_during_a_calibration_is_forgotten_with_it() -> None:
    scene = Scene(PersonPlan(2.0))
    for number in range(10):
        scene.hop(*([0] * 3 if number < 4 else [1] * 3))
    scene.hop(1)
    kept = scene.leave().to_keep
    assert (kept["vision"].age_steps, kept["vision"].mean[0, 0]) == (901, 19)  # six hops of the second face, and one


def test_a_calibration_that_is_cut_off_keeps_nothing_and_says_so() -> None:
    scene = Scene(PersonPlan(5.0))
    scene.hop(0)
    assert scene.leave().to_keep == {}
    assert scene.told[-1] == "the stream ended before its calibration: nothing was set"
    silent = Scene(PersonPlan(5.0))
    silent.leave()
    assert silent.told == []  # it never began


def test_the_levels_forget_all_but_the_baselines() -> None:
    scene = Scene()
    scene.hop(0, 0)
    scene.person.clear_window(scene.levels, scene.seat)
    assert scene.steps() == (2, 5)


def test_levels_without_baselines_are_left_alone() -> None:
    levels = Levels(empty_bundle(tiny_manifest()), NullBackend())
    person = Person()
    seat = levels.take()
    for number, persons in ((1, (0,)), (2, (1,))):
        chunk = Chunk(GRID.tick(number), NOTHING, NOTHING, [], persons)
        person.before(levels, seat, chunk)
        person.after(levels, seat, number * HOP_NS)
    person.leave(levels, seat)
    assert (person.changes, person.final, person.to_keep, levels.baseline_states) == (0, {}, {}, {})


# The states of a bundle


def test_every_level_s_mean_and_steps_are_a_modality_s_baseline() -> None:
    states = baseline_states(MANIFEST)
    assert states["vision"].means == tuple(f"level{level}/vision_baseline" for level in (1, 2, 3))
    assert states["acoustic"].steps == tuple(f"level{level}/acoustic_baseline_steps" for level in (1, 2, 3))
    assert {m: (one.width, one.steps_per_s, one.horizon_steps) for m, one in states.items()} == {
        "vision": (WIDTH, 15, 900),
        "acoustic": (WIDTH, 25, 1500),
    }


@pytest.mark.parametrize("left_out", ["vision_baseline", "vision_baseline_steps"])
def test_a_modality_without_a_state_at_some_level_has_no_baseline(left_out: str) -> None:
    assert list(baseline_states(with_baselines(left_out))) == ["acoustic"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"language": baseline(1)}, "has a baseline of language, the bundle keeps baselines of vision, acoustic"),
        ({"vision": Baseline(np.zeros((3, 5), np.float32), np.zeros(3, np.float32))}, r"is \(3, 5\) and \(3,\), the"),
        ({"vision": Baseline(np.zeros((3, WIDTH), np.float32), np.zeros(2, np.float32))}, r"and \(2,\), the"),
        ({"acoustic": baseline(1, np.inf)}, "not finite or below 0"),
        ({"acoustic": baseline(np.nan)}, "not finite or below 0"),
        ({"acoustic": baseline(-1)}, "not finite or below 0"),
    ],
)
def test_baselines_that_are_not_the_bundle_s_are_refused(given: Baselines, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: .*{reason}"):
        check_baselines(given, baseline_states(MANIFEST), "here")


def test_baselines_of_some_modalities_are_taken() -> None:
    check_baselines({"vision": baseline(0)}, baseline_states(MANIFEST), "here")
    check_baselines({}, {}, "here")
